"""What each unit does to the output: quantized alone, and spared alone; measured where it pays, predicted elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import nn

from ..analysis import marked
from ..nvfp4 import as_recipes
from .meter import AS_IS, Meter
from .outputs import kl_interval
from .predict import PASSES, at_most, predicted, rank_correlation


@dataclass(frozen=True)
class LayerEffects:
    """Effects by unit under one recipe: KL in nats a token, with 95 % intervals over the text."""

    recipe: str  # short name
    rows: list[dict]  # in the model's order; NaN where nothing was measured
    everything: tuple[float, float, float]  # KL where all are quantized, and the ends of its interval
    provenance: dict = field(default_factory=dict)  # model, text, versions, passes

    def table(self):
        """A pandas DataFrame, a row a unit, the largest effect first.

        alone_kl: where only this unit is quantized; spared_kl: what keeping only this unit takes off the KL of all;
        predicted_kl: from gradients, of its inputs.
        """
        import pandas as pd

        table = pd.DataFrame(self.rows)
        worth = table["spared_kl"].fillna(table["alone_kl"]).fillna(-math.inf)
        return table.iloc[(-worth).argsort(kind="stable")].reset_index(drop=True)

    def measured(self, column: str) -> list[dict]:
        return [row for row in self.rows if not math.isnan(row[column])]

    def rank_correlation(self, column: str = "alone_kl") -> float:
        """Spearman's, of the prediction with what was measured."""
        rows = self.measured(column)
        return rank_correlation([r["predicted_kl"] for r in rows], [r[column] for r in rows])

    def __repr__(self) -> str:
        alone, spared = (len(self.measured(c)) for c in ("alone_kl", "spared_kl"))
        return (
            f"LayerEffects({marked(self.recipe)}: {len(self.rows)} units, {alone} measured alone and {spared} spared "
            f"in {self.provenance['passes']} passes; Spearman of the prediction {self.rank_correlation():.2f}; "
            ".table() has the numbers)"
        )


def layer_effects(
    model: nn.Module, batches: Iterable, recipe="4/6-mse-448", *, quantize: str = "all-linear", modules=None,
    experts: bool = False, budget: int | None = 200, resume=None, engine: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> LayerEffects:  # fmt: skip
    """Measure what each unit of a model does to its output, alone and spared, the largest and least certain first.

    Args:
        model, batches: as for `impact`.
        recipe:   one, by name or as a Recipe.
        quantize: as for `impact`; by default as servers do, inputs and weights of all linear layers.
        modules:  as for `record`.
        experts:  each expert apart; by default those of a layer together, as engines run them.
        budget:   forward passes over the text, with the prediction's three and the model as it is; None: all.
        resume:   a file of measurements, written after each pass; where it is there, what it has is not measured again.
        progress: called with passes done, passes at most, and what runs, with the time left.
    Returns: LayerEffects; `.table()` has the units.
    Raises ValueError for a model in training mode or no causal one, and for a file about something else.
    """
    named = as_recipes([recipe])
    name = next(iter(named))
    meter = Meter(model, batches, named, quantize=quantize, modules=modules, experts=experts, engine=engine,
                  resume=resume, progress=progress)  # fmt: skip
    all_of_it = 2 + PASSES + 2 * len(meter.units)  # as it is, all quantized, the prediction, and two each
    meter.budget = all_of_it if budget is None else min(budget, all_of_it)
    guess = predicted(meter, [name])[name]
    rows = [
        {"unit": u.name, "family": u.family, "layer": u.layer, "parameters": u.parameters, "predicted_kl": p,
         **_measured("alone", None), **_measured("spared", None)}
        for u, p in zip(meter.units, guess, strict=True)
    ]  # fmt: skip
    everything, ends = meter.measure(meter.variant(name)), at_most(meter, [name])[name]
    for i in sorted(range(len(rows)), key=lambda i: -ends[i]):  # what is surely small stays predicted
        for what, variant, than in (("alone", meter.alone(name, i), None),
                                    ("spared", meter.variant(name, [i], AS_IS), everything)):  # fmt: skip
            if meter.left:
                rows[i] |= _measured(what, kl_interval(meter.measure(variant), than))
    return LayerEffects(name, rows, kl_interval(everything), meter.provenance)


def _measured(what: str, interval) -> dict[str, float]:
    value, low, high = interval or (math.nan,) * 3
    return {f"{what}_kl": value, f"{what}_kl_low": low, f"{what}_kl_high": high}
