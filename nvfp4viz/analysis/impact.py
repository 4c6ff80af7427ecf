"""The impact of recipes on a model's output: tables, paired differences in words, and a file that reads back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..nvfp4 import Recipe, study_only
from ..shown import quantity
from ..shown import table as html_table
from .coverage import coverage_sentence
from .defaults import STUDY, default_among, marked, roles
from .effects import Effect, cell, ends, output_error
from .paired import Difference, Judge, difference, judged
from .saved import Saved, check_skipped, check_version

FORMAT = "nvfp4viz-impact-1"


@dataclass(frozen=True, eq=False)
class Impact(Saved):
    """Effects by recipe and layer, against the model as it is, in the same tokens.

    Intervals hold with 95 % over sequences, or over long runs where one sequence is all there is: `.judged_by` says it.
    """

    _what, _tables = "impact", (".csv",)

    effects: list[Effect]  # one a recipe and set of layers
    sequences: np.ndarray  # int64 [n]: the sequence of each run
    recipes: dict[str, Recipe | None]  # name -> Recipe, of the activations; None changes nothing
    quantize: str  # a mode or a preset
    controls: tuple[str, ...] = ()  # recipes that differ in the ceiling alone and have the same SQNR, to compare with
    skipped: dict[str, str] = field(default_factory=dict)  # layer -> why it was not quantized
    provenance: dict = field(default_factory=dict)  # model, text, versions, coverage
    copies: int = 0  # sequences that were there before and are left out

    @property
    def coverage(self) -> str:
        """Of the model's products, the share that ran quantized: "192 of 288 matrices, 97 % of multiply-adds"."""
        return coverage_sentence(self.provenance.get("coverage"))

    @property
    def tokens(self) -> int:
        """Tokens predicted."""
        return int(self.effects[0].runs[:, 0].sum())

    @cached_property
    def judge(self) -> Judge | None:
        return judged(self.effects[0].runs[:, 0], self.sequences, [e.runs[:, 3] for e in self.effects])

    @property
    def judged_by(self) -> str:
        """What intervals are over: "40 sequences", "8 runs of about 128 tokens: ...", or "too few tokens"."""
        text = self.judge.words if self.judge else "too few tokens"
        return text + f"; {quantity(self.copies, 'copied sequence')} left out" * (self.copies > 0)

    @property
    def whole(self) -> dict[str, Effect]:
        """Effects of all chosen layers together, by the name of a recipe that changes something; controls apart."""
        real = [e for e in self.effects if e.module is None and self.recipes.get(e.recipe) is not None]
        return {e.recipe: e for e in real if e.recipe not in self.controls}

    @property
    def kl(self) -> dict[str, float]:
        """Recipe -> KL of all chosen layers together, nats a token, the smallest first."""
        return dict(sorted(((n, e.kl) for n, e in self.whole.items()), key=lambda item: item[1]))

    @property
    def spread(self) -> float | None:
        """The largest difference in KL among ceilings of about equal SQNR, nats a token; None without controls."""
        known = {e.recipe: e.kl for e in self.effects if e.module is None}
        one = [self.recipes[n] for n in self.controls]
        alike = [n for n, r in self.recipes.items() if r and r.e4m3_max == 256 and any(_twins(r, c) for c in one)]
        kl = [known[n] for n in (*self.controls, *alike) if n in known]
        return max(kl) - min(kl) if len(kl) > 1 else None

    @property
    def default(self) -> str | None:
        """The recipe that stands for what SGLang runs in an empty environment; None where it was not measured."""
        order = self._order
        return default_among({n: self.recipes[n] for n in order}, order[0]) if order else None

    def difference(self, recipe: str, over: str, role: str = "") -> Difference:
        """KL under one recipe minus that under another, over the same tokens; KeyError for a recipe without effect."""
        every = {e.recipe: e for e in self.effects if e.module is None}
        a, b = every[recipe].runs, every[over].runs
        sums = (a[:, 3], b[:, 3])
        kl, interval, needed = difference(self.judge, sums, a[:, 0], max(1, len(self.whole) - 1))
        unit = self.judge.unit if self.judge else math.nan
        spread = self.spread
        return Difference(
            recipe, over, role, kl, interval, every[over].kl, self.tokens, needed, unit, self.judged_by, spread
        )

    def called_as(self, recipes: dict[str, Recipe]) -> Impact:
        """The same under the names that a sweep has for its recipes, where they are the same by another name."""
        names = {}
        for mine, recipe in self.recipes.items():
            same = [n for n, r in recipes.items() if r == recipe]
            names[mine] = mine if mine in same else next(iter(same), mine)
        if len(set(names.values())) < len(names):  # another recipe has that name here
            return self
        effects = [replace(e, recipe=names.get(e.recipe, e.recipe)) for e in self.effects]
        controls = tuple(names[n] for n in self.controls)
        return replace(self, effects=effects, recipes={names[n]: r for n, r in self.recipes.items()}, controls=controls)

    @property
    def best(self) -> str | None:
        """The recipe of the least KL among those that an engine runs, or of all where none does."""
        return next(iter(self._order), None)

    @property
    def _order(self) -> list[str]:
        """The least KL first, recipes that no engine runs last."""
        return sorted(self.kl, key=lambda n: bool(study_only(self.recipes[n])))

    def differences(self) -> list[Difference]:
        """The recipe of the least KL against the defaults and the others from the best on."""
        best = self.best
        return [self.difference(best, over, role) for role, over in self._roles()] if best else []

    def _roles(self) -> list[tuple[str, str]]:
        order = self._order
        return roles({n: self.recipes[n] for n in order}, order)

    def sentence(self) -> str:
        """The result in plain English: the least KL, paired differences, and whether the run was enough."""
        kl = self.kl
        if not kl:
            return "No recipe that changes anything was measured."
        best = self.best
        over = f"{quantity(self.tokens, 'token')} ({self.judged_by})"
        text = f"Least KL under {marked(best, self.recipes[best])}: {kl[best]:.3g} nats a token over {over}."
        compared = self.differences()
        shown = [d for d in compared if d.role not in ("another recipe", STUDY)] or compared[:1]
        less = [f"{n} ({kl[n]:.3g})" for n in kl if kl[n] < kl[best]]
        text += f" Less KL, but no engine runs it: {', '.join(less)}." if less else ""
        text += "".join(f" {d.sentence()[:1].upper()}{d.sentence()[1:]}." for d in shown)
        if self.spread is not None:
            text += (
                f" Control ceilings of equal SQNR ({', '.join(self.controls)}) differ by {self.spread:.2g} nats a"
                " token: no more than that is no finding."
            )
        return text

    def __repr__(self) -> str:
        skipped = f"; {len(self.skipped)} not quantized, see .skipped" if self.skipped else ""
        what = f"{self.provenance.get('quantized', self.quantize)}: {self.coverage}"
        effects = quantity(len(self.effects), "effect")
        return f"Impact({effects} of {what}{skipped}. {self.sentence()} .table() has the numbers)"

    def _repr_html_(self) -> str:
        shown = self.summary()
        return html_table("Impact · KL in nats a token", shown.to_numpy(object).tolist(), list(shown), repr(self))

    def table(self):
        """A pandas DataFrame, a row an effect: perplexity and its change, KL (nats a token), top-1 agreement.

        Of recipes on all layers also `kl_vs_default`, `kl_vs_best`: paired differences in nats a token, and in
        `vs_default`, `vs_best` whether these tokens resolve them, or how many would.
        """
        rows = []
        for e in [self._unquantized(), *self.effects]:
            row = {"recipe": e.recipe, "weights": e.weights, "module": e.module or "all",
                   "tokens": int(e.runs[:, 0].sum()), "sequences": len(np.unique(self.sequences))}  # fmt: skip
            rows.append(row | ends(e.measures(self.judge)) | self._against(e))
        return _frame(rows)

    def _against(self, effect: Effect) -> dict:
        """The columns of paired differences."""
        best, found = self.best, {}
        compared = effect.module is None and self.recipes.get(effect.recipe) is not None
        for name, over in (("default", self.default), ("best", best)):
            d = self.difference(effect.recipe, over) if compared and over not in (None, effect.recipe) else None
            sure = (math.nan, math.nan) if d is None or d.interval is None else d.interval
            found |= ends({f"kl_vs_{name}": (math.nan if d is None else d.kl, *sure)})
            found[f"vs_{name}"] = d.enough() if d else "" if effect.recipe != over or not compared else f"the {name}"
        return found

    def summary(self):
        """The table for a terminal: a value and its interval in a cell, differences in percent of the other's KL."""
        best, rows = self.best, []
        for e in [self._unquantized(), *self.effects]:
            m = e.measures(self.judge)
            row = {"recipe": marked(e.recipe, self.recipes.get(e.recipe)),
                   "weights": e.weights, "module": e.module or "all",
                   "perplexity": f"{m['perplexity'][0]:.4g}", "change": cell(m["perplexity_change"]),
                   "KL": cell(m["kl"]), "top-1": cell(m["top1_agreement"])}  # fmt: skip
            compared = e.module is None and self.recipes.get(e.recipe) is not None
            for name, over in (("default", self.default), ("best", best)):
                shown = compared and over not in (None, e.recipe)
                row[f"KL vs {name}"] = self.difference(e.recipe, over).percent() if shown else ""
            rows.append(row)
        return _frame(rows)

    def layers(self):
        """A pandas DataFrame, a row an effect and layer: the relative error of the layer's output, |y - y0| / |y0|."""
        return _frame([
            {"recipe": e.recipe, "quantized": e.module or "all", "module": name}
            | ends({"output_error": output_error(runs)})
            for e in self.effects
            for name, runs in e.layers.items()
        ])  # fmt: skip

    def _unquantized(self) -> Effect:
        tokens, before, *_ = self.effects[0].runs.T
        already = self.provenance.get("already")
        name = f"as loaded ({already})" if already else "unquantized"
        return Effect(name, None, np.stack([tokens, before, before, 0 * tokens, tokens], 1), {})

    def to_dict(self) -> dict:
        """JSON-ready; runs of one sequence are summed where intervals are over sequences."""
        grain = self.sequences if self.judge and self.judge.whole else np.arange(len(self.sequences))
        kept = np.unique(grain, return_index=True)[1]
        effects = [e.to_dict(grain) for e in self.effects]
        return {"format": FORMAT, "effects": effects, "sequences": self.sequences[kept].tolist(),
                "recipes": {n: r and r.to_dict() for n, r in self.recipes.items()}, "quantize": self.quantize,
                "controls": list(self.controls), "skipped": self.skipped, "provenance": self.provenance,
                "copies": self.copies}  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict) -> Impact:
        """Raises ValueError, KeyError or TypeError where its parts do not fit."""
        check_version(values, FORMAT, "an impact")
        recipes = {n: r if r is None else Recipe.from_dict(r) for n, r in values["recipes"].items()}
        sequences = np.array(values["sequences"], np.int64)
        effects = [Effect.from_dict(e, len(sequences)) for e in values["effects"]]
        controls, skipped, provenance = tuple(values["controls"]), values["skipped"], values["provenance"]
        copies = int(values.get("copies", 0))  # earlier releases knew none
        if not effects or not set(controls) <= set(recipes) or not isinstance(provenance, dict) or copies < 0:
            raise ValueError("it has no effects, controls that are no recipes of it, no provenance or copies below 0")
        check_skipped(skipped, "layers")
        return cls(effects, sequences, recipes, str(values["quantize"]), controls, skipped, provenance, copies)


def _twins(a: Recipe, b: Recipe) -> bool:
    """Whether two recipes differ in the ceiling alone."""
    return replace(a, e4m3_max=b.e4m3_max) == b


def _frame(rows: list[dict]):
    import pandas as pd

    return pd.DataFrame(rows)
