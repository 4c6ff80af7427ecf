"""Tensors x recipes: the statistics of each, as one table that saves, loads and merges."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

from torch import Tensor

from ..activations import INDEX
from ..engine import analyze_all, engine_module
from ..files import replacing, said
from ..nvfp4 import BLOCK, RECIPES, Recipe, as_recipes
from ..stats import Stats
from .attribution import Attribution, attribute_all
from .blocks import keep

FORMAT = "nvfp4viz-sweep-1"
COLUMNS = (
    "sqnr_db", "nmse", "mse", "mae", "max_error", "cosine", "four_rate", "four_saturated", "scale_saturated",
    "element_clipped", "scale_subnormal", "scale_zero", "element_flushed",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """Statistics by tensor and recipe, with what is needed to repeat them."""

    stats: dict[str, dict[str, Stats]]  # tensor -> recipe's name -> Stats
    recipes: dict[str, Recipe]  # name -> Recipe, in order
    provenance: dict = field(default_factory=dict)  # versions, sources with checksums, command line
    skipped: dict[str, str] = field(default_factory=dict)  # tensor -> why it has no statistics
    attributions: dict[str, dict[str, Attribution]] = field(default_factory=dict)  # errors split, where asked for
    blocks: dict[str, dict] = field(default_factory=dict)  # tensor -> blocks for the microscope, from `blocks.keep`

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Sweep({len(self.stats)} tensors{skipped}; recipes {', '.join(self.recipes)}; .table() has the numbers)"

    @property
    def tensors(self) -> list[str]:
        return list(self.stats)

    @property
    def engines(self) -> list[str]:
        """The engines that ran."""
        return sorted({s.engine for row in self.stats.values() for s in row.values()})

    def total(self, recipe: str) -> Stats:
        """Statistics of all tensors together under one recipe; ValueError for one that the sweep has not."""
        if recipe not in self.recipes:
            raise ValueError(f"no recipe {recipe!r} in the sweep: there is {', '.join(self.recipes)}")
        return reduce(add, (row[recipe] for row in self.stats.values()))

    def total_attribution(self, recipe: str) -> Attribution:
        """The error of all tensors together under one recipe, split; KeyError where `sweep` was not asked for it."""
        return reduce(add, (self.attributions[tensor][recipe] for tensor in self.stats))

    def table(self):
        """A pandas DataFrame with one row a tensor and recipe."""
        import pandas as pd

        return pd.DataFrame([
            {"tensor": tensor, "recipe": name, "engine": s.engine, "tokens": s.tokens, "features": s.features}
            | {column: getattr(s, column) for column in COLUMNS}
            for tensor, row in self.stats.items()
            for name, s in row.items()
        ])  # fmt: skip

    def __add__(self, other: Sweep) -> Sweep:
        """Both sweeps in one; statistics of a tensor that both have are added."""
        if not isinstance(other, Sweep):
            return NotImplemented
        if self.recipes != other.recipes:
            raise ValueError(f"sweeps of different recipes do not add: {list(self.recipes)} and {list(other.recipes)}")
        merged = dict(self.stats)
        for tensor, row in other.stats.items():
            merged[tensor] = {n: merged[tensor][n] + s for n, s in row.items()} if tensor in merged else row
        sources = [*self.provenance.get("sources", []), *other.provenance.get("sources", [])]
        split = {}
        for tensor in merged:  # a split only where every part of the tensor has one
            parts = [s.attributions.get(tensor) for s in (self, other) if tensor in s.stats]
            if all(parts):
                split[tensor] = {name: reduce(add, (p[name] for p in parts)) for name in self.recipes}
        skipped = {**self.skipped, **other.skipped}
        blocks = {**other.blocks, **self.blocks}
        return Sweep(merged, self.recipes, {**self.provenance, "sources": sources}, skipped, split, blocks)

    def to_dict(self) -> dict:
        values = {
            "format": FORMAT,
            "recipes": {name: r.to_dict() for name, r in self.recipes.items()},
            "stats": {t: {n: s.to_dict() for n, s in row.items()} for t, row in self.stats.items()},
            "provenance": self.provenance,
            "skipped": self.skipped,
        }
        more = {"attributions": _nested(self.attributions, Attribution.to_dict), "blocks": self.blocks}
        return values | {name: value for name, value in more.items() if value}

    @classmethod
    def from_dict(cls, values: dict) -> Sweep:
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            seen = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"not a sweep of this version: format is {seen!r}, expected {FORMAT!r}")
        return cls(
            {t: {n: Stats.from_dict(s) for n, s in row.items()} for t, row in values["stats"].items()},
            {name: Recipe.from_dict(r) for name, r in values["recipes"].items()},
            values["provenance"],
            values["skipped"],
            _nested(values.get("attributions", {}), Attribution.from_dict),
            values.get("blocks", {}),
        ).checked()

    def checked(self) -> Sweep:
        """Itself, read from a file of a stranger; ValueError, KeyError or TypeError where its parts do not fit."""
        wanted = list(self.recipes)
        for tensor, row in (*self.stats.items(), *self.attributions.items()):
            if list(row) != wanted:
                raise ValueError(f"{tensor!r} has statistics of {list(row)}, expected {wanted}")
        if not set(self.attributions) | set(self.blocks) <= set(self.stats):
            raise ValueError("it splits errors, or keeps blocks, of tensors without statistics")
        if not isinstance(self.skipped, dict) or not all(isinstance(why, str) for why in self.skipped.values()):
            raise ValueError("its skipped tensors are no map of names and reasons")
        sources, versions = self.provenance.get("sources", []), self.provenance.get("versions", {})
        command = self.provenance.get("command", [])
        if not isinstance(sources, list) or not isinstance(versions, dict) or not isinstance(command, list):
            raise ValueError("its provenance has no list of sources, map of versions or list of words")
        for source in sources:
            if not isinstance(source["path"] + source["sha256"], str) or not isinstance(
                source.get("metadata", {}), dict
            ):
                raise ValueError("its provenance names sources that are no files")
        for kept in self.blocks.values():
            dict(kept["picks"])
            for block in kept["blocks"].values():
                if len([float(v) for v in (*block["values"], block["token_amax"], block["tensor_amax"])]) != BLOCK + 2:
                    raise ValueError(f"a block of it has {len(block['values'])} values, not {BLOCK}")
                if not all(isinstance(v, (int, float)) for v in block["values"]):
                    raise ValueError("a block of it has values that are no numbers")
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Write everything as .json, or the table as .csv or .parquet."""
        suffix = check_format(path)
        with replacing(path) as temporary:
            if suffix == ".json":
                temporary.write_text(json.dumps(self.to_dict(), allow_nan=False))
            elif suffix == ".csv":
                self.table().to_csv(temporary, index=False)
            else:
                self.table().to_parquet(temporary, index=False)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Sweep:
        """Read a .json that `save` wrote; ValueError where it is something else, truncated or edited out of shape."""
        try:
            return cls.from_dict(json.loads(Path(path).expanduser().read_text()))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"cannot read the sweep {str(path)!r}: {said(error)}") from error


def _nested(values: dict, function) -> dict:
    return {tensor: {name: function(value) for name, value in row.items()} for tensor, row in values.items()}


def check_format(path: str | os.PathLike) -> str:
    """The suffix of a path that `Sweep.save` can write; ValueError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".csv", ".parquet"):
        raise ValueError(f"cannot save as {str(path)!r}: use .json (everything), .csv or .parquet (the table)")
    return suffix


def is_saved(path: str | os.PathLike) -> bool:
    """Whether a path is a saved sweep's by its name: a .json that is not Hugging Face's list of shards."""
    return str(path).endswith(".json") and not str(path).endswith(INDEX)


def sweep(
    activations: Mapping[str, Tensor] | Tensor,
    recipes=RECIPES,
    *,
    engine: str = "auto",
    attribution: bool = False,
    blocks: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sweep:
    """Statistics of every tensor under every recipe.

    Args:
        activations: tensor name -> [..., K], as `load` gives them; each is read once and let go.
        recipes:     recipes, or their short names, as a mapping or a sequence.
        attribution: also split each error into parts, into `.attributions`; takes twice the time again.
        blocks:      keep some blocks of each tensor, found by rule, for the microscope of a report; 3 kB a tensor.
        progress:    called with tensors done, tensors in all and the name of the next.
    Returns: Sweep. A tensor that cannot be quantized is in `.skipped` with the reason; an interrupt keeps what is done.
    Raises ValueError where no tensor could be analysed.
    """
    if isinstance(activations, Tensor):
        activations = {"activations": activations}
    if not isinstance(activations, Mapping):
        raise TypeError(
            f"activations is a {type(activations).__name__}: give one tensor, or a mapping of name -> tensor, "
            "as load(path) returns"
        )
    recipes = as_recipes(recipes)
    if not recipes:
        raise ValueError(f"no recipe given: the named ones are {', '.join(RECIPES)}")
    if engine != "auto":
        engine_module(engine)  # a misspelt engine is the caller's mistake, not a tensor's
    stats, split, skipped, kept, interrupted = {}, {}, {}, {}, False
    sources = getattr(activations, "sources", [])
    texts = token_texts(sources)
    try:
        for done, key in enumerate(activations):
            name = str(key).encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text elsewhere
            if progress:
                progress(done, len(activations), name)
            try:
                x = activations[key]
            except Exception as error:  # a file that went away, in whatever way its reader says so
                skipped[name] = f"cannot be read: {error}"
                continue
            try:
                row = analyze_all(x, list(recipes.values()), engine=engine)
            except (TypeError, ValueError) as error:
                skipped[name] = str(error)
                continue
            if attribution:
                split[name] = dict(zip(recipes, attribute_all(x, list(recipes.values())), strict=True))
            if blocks:
                kept[name] = keep(x, recipes, texts)
            stats[name] = dict(zip(recipes, row, strict=True))
    except KeyboardInterrupt:
        interrupted = True
        warnings.warn(f"interrupted: {len(stats)} of {len(activations)} tensors were analysed", stacklevel=2)
    if not stats and not interrupted:
        why = "; ".join(f"{n}: {why}" for n, why in skipped.items()) or "there is none"
        raise ValueError(f"no tensor could be analysed: {why}")
    if progress:
        progress(len(activations), len(activations), "")
    return Sweep(stats, recipes, {**versions(), "sources": sources, "interrupted": interrupted}, skipped, split, kept)


def token_texts(sources: list[dict]) -> list[str]:
    """The tokens' strings, where the only file of activations tells them."""
    try:
        texts = json.loads(sources[0]["metadata"].get("token_strings", "[]")) if len(sources) == 1 else []
    except ValueError:  # metadata of strangers
        return []
    return [str(t) for t in texts] if isinstance(texts, list) else []


def versions() -> dict:
    """Versions of what decides the numbers, for provenance."""
    from .. import __version__

    found = {"nvfp4viz": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "numpy", "numba", "flashinfer-python"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return {"versions": found, "command": sys.argv[:]}
