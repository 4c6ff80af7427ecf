"""Tensors x recipes: the statistics of each, as one table that saves, loads and merges."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add

from torch import Tensor

from ..activations import as_activations, token_texts
from ..catalog import COLUMNS
from ..engine import usable_engine
from ..nvfp4 import RECIPES, Recipe, some_recipes, study_only
from ..shown import layer_order, quantity
from ..stats import Stats
from .attribution import Attribution, attribute_all
from .cards import sweep_html
from .coverage import coverage_sentence
from .picks import kept_blocks
from .predicted_kl import with_predicted_kl
from .provenance import versions
from .saved import Saved, known, sweep_dict, sweep_parts
from .sequences import analyze_sequences, with_sequences


@dataclass(frozen=True)
class Record:
    """All that a sweep knows of one tensor, by recipe's name."""

    stats: dict[str, Stats]
    attribution: dict[str, Attribution] = field(default_factory=dict)  # the error split; empty where not asked for
    blocks: dict = field(default_factory=dict)  # blocks for the microscope, from `picks.kept_blocks`

    def __add__(self, other: Record) -> Record:
        """Of both tokens together: a split only where both have one, the blocks of the first."""
        stats = {name: s + other.stats[name] for name, s in self.stats.items()}
        both = self.attribution and other.attribution
        split = {name: a + other.attribution[name] for name, a in self.attribution.items()} if both else {}
        return Record(stats, split, self.blocks or other.blocks)


@dataclass(frozen=True)
class Sweep(Saved):
    """Statistics by tensor and recipe, with what is needed to repeat them; `a + b` joins two, as of ranks."""

    records: dict[str, Record]  # tensor -> what is known of it, by layer
    recipes: dict[str, Recipe]  # name -> Recipe, in order
    provenance: dict = field(default_factory=dict)  # versions, sources with checksums, command line
    skipped: dict[str, str] = field(default_factory=dict)  # tensor -> why it has no statistics

    def __post_init__(self):
        object.__setattr__(self, "records", {t: self.records[t] for t in layer_order(self.records)})

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        many, recipes = quantity(len(self.records), "tensor"), ", ".join(self.recipes)
        seen = coverage_sentence(self.provenance.get("coverage"))
        seen = f"; of the model {seen}" if seen else ""
        return f"Sweep({many}{skipped}{seen}; recipes {recipes}; .table() has the numbers)"

    def _repr_html_(self) -> str:
        return sweep_html(self)

    @classmethod
    def of(cls, stats, recipes, provenance=None, skipped=None, *, attributions=None, blocks=None) -> Sweep:
        """A sweep of statistics, tensor -> recipe's name -> Stats; attributions and blocks by tensor."""
        split, kept = attributions or {}, blocks or {}
        records = {t: Record(row, split.get(t, {}), kept.get(t, {})) for t, row in stats.items()}
        return cls(records, recipes, provenance or {}, skipped or {})

    @cached_property
    def stats(self) -> dict[str, dict[str, Stats]]:
        """tensor -> recipe's name -> Stats"""
        return {tensor: record.stats for tensor, record in self.records.items()}

    @property
    def attributions(self) -> dict[str, dict[str, Attribution]]:
        """tensor -> recipe's name -> Attribution, of the tensors whose errors were split"""
        return {tensor: record.attribution for tensor, record in self.records.items() if record.attribution}

    @property
    def blocks(self) -> dict[str, dict]:
        """tensor -> its blocks for the microscope, of the tensors that have some"""
        return {tensor: record.blocks for tensor, record in self.records.items() if record.blocks}

    @property
    def predicted(self) -> bool:
        """Whether the KL of the output was predicted for some tensor, see `sensitivity`."""
        return any(s.kl_tokens for row in self.stats.values() for s in row.values())

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

    def table(self):
        """A pandas DataFrame with a row a tensor and recipe, and why no engine runs it where there are such recipes."""
        import pandas as pd

        study = {name: study_only(recipe) for name, recipe in self.recipes.items()}
        return pd.DataFrame([
            {"tensor": tensor, "recipe": name, "engine": s.engine, "tokens": s.tokens, "features": s.features}
            | {column: known(s, column) for column in (*COLUMNS, "token_nmse", "token_sqnr_db")}
            | ({"predicted_kl": s.predicted_kl} if self.predicted else {})
            | ({"study_only": study[name]} if any(study.values()) else {})
            for tensor, row in self.stats.items()
            for name, s in row.items()
        ])  # fmt: skip

    def __add__(self, other: Sweep) -> Sweep:
        """Both sweeps in one; statistics of a tensor that both have are added."""
        if not isinstance(other, Sweep):
            return NotImplemented
        if self.recipes != other.recipes:
            raise ValueError(f"sweeps of different recipes do not add: {list(self.recipes)} and {list(other.recipes)}")
        merged = dict(self.records)
        for tensor, record in other.records.items():
            merged[tensor] = merged[tensor] + record if tensor in merged else record
        sources = [*self.provenance.get("sources", []), *other.provenance.get("sources", [])]
        skipped = {**self.skipped, **other.skipped}
        return Sweep(merged, self.recipes, {**self.provenance, "sources": sources}, skipped)

    def to_dict(self) -> dict:
        """JSON-ready; `from_dict` gives the same back."""
        return sweep_dict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Sweep:
        """The inverse of `to_dict`; ValueError, KeyError or TypeError where its parts do not fit."""
        return cls.of(**sweep_parts(values))


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
        activations: tensor name -> [..., K], as `load` gives them, each read once and let go; names may be of any kind,
                     values NumPy arrays; or one tensor, or a path.
        recipes:     recipes, or their short names, as a mapping or a sequence.
        attribution: also split each error into parts, into `.attributions`; takes twice the time again.
        blocks:      keep some blocks of each tensor, found by rule, for the microscope of a report; 3 kB a tensor.
        progress:    called with tensors done, tensors in all and the name of the next.
    Returns: Sweep. A tensor that cannot be quantized is in `.skipped` with the reason; an interrupt keeps what is done.
    Raises ValueError where no tensor could be analysed.
    """
    activations, recipes = as_activations(activations), some_recipes(recipes)
    if engine != "auto":
        usable_engine(engine)  # the caller's mistake, not a tensor's
    records, skipped, interrupted = {}, dict(getattr(activations, "left_out", {})), False
    sources = getattr(activations, "sources", [])
    texts = token_texts(sources) if blocks else None
    try:
        for done, name in enumerate(activations):
            if progress:
                progress(done, len(activations), name)
            try:
                records[name] = _record(activations, name, recipes, engine, attribution, texts)
            except Exception as error:  # of whatever kind: it costs this tensor alone
                skipped[name] = str(error) or type(error).__name__
    except KeyboardInterrupt:
        interrupted = True
        warnings.warn(f"interrupted: {len(records)} of {len(activations)} tensors were analysed", stacklevel=2)
    if not records and not interrupted:
        why = "; ".join(f"{n}: {why}" for n, why in skipped.items()) or "there is none"
        raise ValueError(f"no tensor could be analysed: {why}")
    if progress:
        progress(len(activations), len(activations), "")
    return Sweep(records, recipes, {**versions(), "sources": sources, "interrupted": interrupted}, skipped)


def _record(activations: Mapping, name: str, recipes: dict, engine: str, attribution: bool, texts: list | None):
    """The Record of one tensor; with blocks where `texts`, the tokens' strings, are no None."""
    try:
        x = activations[name]
    except Exception as error:  # a file that went away, in whatever way its reader says so
        raise ValueError(f"cannot be read: {error}") from error
    tokens, named = with_sequences(x), list(recipes.values())
    lengths = getattr(activations, "lengths", None)
    stats = dict(zip(recipes, analyze_sequences(tokens, named, engine, lengths), strict=True))
    gradients = getattr(activations, "squares", {}).get(name)
    if gradients is not None:
        stats = with_predicted_kl(stats, tokens, gradients, engine)
    split = dict(zip(recipes, attribute_all(tokens, named), strict=True)) if attribution else {}
    return Record(stats, split, kept_blocks(tokens, recipes, texts) if texts is not None else {})
