"""Results as files: written whole, read back, and a stranger's checked before anything trusts it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from ..activations import INDEX
from ..files import replacing
from ..nvfp4 import BLOCK, Recipe
from ..shown import error_text
from ..stats import Stats
from .attribution import Attribution

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell starts that a spreadsheet computes
SWEEP = "nvfp4viz-sweep-1"
TABLES = (".csv", ".parquet")


def is_saved(path: str | os.PathLike) -> bool:
    """Whether a path is a saved sweep's by its name: a .json that is not Hugging Face's list of shards."""
    return str(path).endswith(".json") and not str(path).endswith(INDEX)


def check_format(path: str | os.PathLike, tables: tuple[str, ...] = TABLES) -> str:
    """The suffix of a path that `save` can write; ValueError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", *tables):
        *most, last = ".json (everything)", *tables
        raise ValueError(f"cannot save as {str(path)!r}: use {', '.join(most)} or {last} (the table)")
    return suffix


class Saved:
    """A result with `to_dict`, `from_dict` and `table`, as a file."""

    _what, _tables = "sweep", TABLES  # what messages call it, and formats of its table

    def save(self, path: str | os.PathLike) -> None:
        """Write everything as .json, or the table as .csv, a sweep's as .parquet too."""
        suffix = check_format(path, self._tables)
        with replacing(path) as temporary:
            if suffix == ".json":
                temporary.write_text(json.dumps(self.to_dict(), allow_nan=False))
            elif suffix == ".csv":
                self.table().rename(columns=_harmless).map(_harmless).to_csv(temporary, index=False)
            else:
                self.table().to_parquet(temporary, index=False)

    @classmethod
    def load(cls, path: str | os.PathLike):
        """Read a .json that `save` wrote; ValueError where it is something else, truncated or edited out of shape."""
        try:
            return cls.from_dict(json.loads(Path(path).expanduser().read_text(encoding="utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            why = f"it is no JSON as save writes it ({error_text(error)})"
            hint = "; of a report, nvfp4viz.load_report(path) returns the Sweep" if str(path).endswith(".html") else ""
            raise ValueError(f"cannot read the {cls._what} {str(path)!r}: {why}{hint}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"cannot read the {cls._what} {str(path)!r}: {error_text(error)}") from error


def known(stats: Stats, column: str):
    """A column of a table; NaN for what the release that saved these statistics did not measure."""
    new = column in ("token_nmse", "token_sqnr_db", "four_saturated_chosen")
    return math.nan if new and stats.runs_missing else getattr(stats, column)


def _harmless(cell):
    """A cell that no spreadsheet computes: one that starts a formula gets an apostrophe."""
    return "'" + cell if isinstance(cell, str) and cell[:1] in FORMULA else cell


def sweep_dict(sweep) -> dict:
    """A sweep, JSON-ready; what it has not is left out."""
    values = {
        "format": SWEEP,
        "recipes": {name: r.to_dict() for name, r in sweep.recipes.items()},
        "stats": _nested(sweep.stats, Stats.to_dict),
        "provenance": sweep.provenance,
        "skipped": sweep.skipped,
    }
    more = {"attributions": _nested(sweep.attributions, Attribution.to_dict), "blocks": sweep.blocks}
    return values | {name: value for name, value in more.items() if value}


def sweep_parts(values: dict) -> dict:
    """Arguments of `Sweep.of`: the inverse of `sweep_dict`. ValueError, KeyError or TypeError where it is none."""
    check_version(values, SWEEP, "a sweep")
    return fitting(
        stats=_nested(values["stats"], Stats.from_dict),
        recipes={name: Recipe.from_dict(r) for name, r in values["recipes"].items()},
        provenance=values["provenance"],
        skipped=values["skipped"],
        attributions=_nested(values.get("attributions", {}), Attribution.from_dict),
        blocks=values.get("blocks", {}),
    )


def _nested(values: dict, function: Callable) -> dict:
    return {tensor: {name: function(value) for name, value in row.items()} for tensor, row in values.items()}


def check_version(values, expected: str, what: str) -> None:
    """ValueError where what was read is no dict of this format."""
    if not isinstance(values, dict) or values.get("format") != expected:
        seen = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"not {what} of this version: format is {seen!r}, expected {expected!r}")


def check_skipped(skipped, what: str) -> None:
    """ValueError where it is no dict of what was skipped and why."""
    if not isinstance(skipped, dict) or not all(isinstance(why, str) for why in skipped.values()):
        raise ValueError(f"its skipped {what} are no map of names and reasons")


def fitting(*, stats: dict, recipes: dict, provenance: dict, skipped: dict, attributions: dict, blocks: dict) -> dict:
    """Parts of a stranger's sweep, for `Sweep.of`; ValueError, KeyError or TypeError where they do not fit."""
    for tensor, row in (*stats.items(), *attributions.items()):
        if list(row) != list(recipes):
            raise ValueError(f"{tensor!r} has statistics of {list(row)}, expected {list(recipes)}")
    if not set(attributions) | set(blocks) <= set(stats):
        raise ValueError("it splits errors, or keeps blocks, of tensors without statistics")
    check_skipped(skipped, "tensors")
    _check_provenance(provenance)
    for kept in blocks.values():
        _check_blocks(kept)
    parts = {"stats": stats, "recipes": recipes, "provenance": provenance, "skipped": skipped}
    return parts | {"attributions": attributions, "blocks": blocks}


def _check_provenance(provenance: dict) -> None:
    parts = (("sources", list), ("versions", dict), ("command", list))
    if not all(isinstance(provenance.get(name, kind()), kind) for name, kind in parts):
        raise ValueError("its provenance has no list of sources, map of versions or list of words")
    for source in provenance.get("sources", []):
        named = isinstance(source["path"] + source["sha256"], str)
        if not named or not isinstance(source.get("metadata", {}), dict):
            raise ValueError("its provenance names sources that are no files")


def _check_blocks(kept: dict) -> None:
    """Whether blocks for the microscope are what `picks.kept_blocks` gives."""
    dict(kept["picks"])
    for block in kept["blocks"].values():
        if len([float(v) for v in (*block["values"], block["token_amax"], block["tensor_amax"])]) != BLOCK + 2:
            raise ValueError(f"a block of it has {len(block['values'])} values, not {BLOCK}")
        if not all(isinstance(v, (int, float)) for v in block["values"]):
            raise ValueError("a block of it has values that are no numbers")
