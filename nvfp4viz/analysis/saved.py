"""Results as files: written whole, read back, and a stranger's checked before anything trusts it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ..activations import INDEX
from ..files import replacing, said
from ..nvfp4 import BLOCK

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell starts that a spreadsheet computes
TABLES = (".csv", ".parquet")


def is_saved(path: str | os.PathLike) -> bool:
    """Whether a path is a saved sweep's by its name: a .json that is not Hugging Face's list of shards."""
    return str(path).endswith(".json") and not str(path).endswith(INDEX)


def check_format(path: str | os.PathLike, tables: tuple[str, ...] = TABLES) -> str:
    """The suffix of a path that `write` can write; ValueError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", *tables):
        *most, last = ".json (everything)", *tables
        raise ValueError(f"cannot save as {str(path)!r}: use {', '.join(most)} or {last} (the table)")
    return suffix


def write(result, path: str | os.PathLike, tables: tuple[str, ...] = TABLES) -> None:
    """Write `result.to_dict()` as .json, or `result.table()` in one of the formats of tables."""
    suffix = check_format(path, tables)
    with replacing(path) as temporary:
        if suffix == ".json":
            temporary.write_text(json.dumps(result.to_dict(), allow_nan=False))
        elif suffix == ".csv":
            result.table().rename(columns=_harmless).map(_harmless).to_csv(temporary, index=False)
        else:
            result.table().to_parquet(temporary, index=False)


def _harmless(cell):
    """A cell that no spreadsheet computes: one that starts a formula gets an apostrophe."""
    return "'" + cell if isinstance(cell, str) and cell[:1] in FORMULA else cell


def read(path: str | os.PathLike, from_dict: Callable[[dict], object], what: str):
    """What `from_dict` makes of a .json; ValueError where it is something else, truncated or edited out of shape."""
    try:
        return from_dict(json.loads(Path(path).expanduser().read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot read the {what} {str(path)!r}: {said(error)}") from error


def check_version(values, expected: str, what: str) -> None:
    """ValueError where what was read is no dict of this format."""
    if not isinstance(values, dict) or values.get("format") != expected:
        seen = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"not {what} of this version: format is {seen!r}, expected {expected!r}")


def check_skipped(skipped, what: str) -> None:
    """ValueError where it is no dict of what was skipped and why."""
    if not isinstance(skipped, dict) or not all(isinstance(why, str) for why in skipped.values()):
        raise ValueError(f"its skipped {what} are no map of names and reasons")


def check_sweep(stats: dict, recipes: dict, provenance: dict, skipped: dict, attributions: dict, blocks: dict) -> None:
    """ValueError, KeyError or TypeError where the parts of a sweep do not fit."""
    for tensor, row in (*stats.items(), *attributions.items()):
        if list(row) != list(recipes):
            raise ValueError(f"{tensor!r} has statistics of {list(row)}, expected {list(recipes)}")
    if not set(attributions) | set(blocks) <= set(stats):
        raise ValueError("it splits errors, or keeps blocks, of tensors without statistics")
    check_skipped(skipped, "tensors")
    _check_provenance(provenance)
    for kept in blocks.values():
        _check_blocks(kept)


def _check_provenance(provenance: dict) -> None:
    parts = (("sources", list), ("versions", dict), ("command", list))
    if not all(isinstance(provenance.get(name, kind()), kind) for name, kind in parts):
        raise ValueError("its provenance has no list of sources, map of versions or list of words")
    for source in provenance.get("sources", []):
        named = isinstance(source["path"] + source["sha256"], str)
        if not named or not isinstance(source.get("metadata", {}), dict):
            raise ValueError("its provenance names sources that are no files")


def _check_blocks(kept: dict) -> None:
    """Whether blocks for the microscope are what `picks.keep` gives."""
    dict(kept["picks"])
    for block in kept["blocks"].values():
        if len([float(v) for v in (*block["values"], block["token_amax"], block["tensor_amax"])]) != BLOCK + 2:
            raise ValueError(f"a block of it has {len(block['values'])} values, not {BLOCK}")
        if not all(isinstance(v, (int, float)) for v in block["values"]):
            raise ValueError("a block of it has values that are no numbers")
