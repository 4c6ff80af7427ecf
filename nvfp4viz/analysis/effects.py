"""What quantizing did to a model's output under one recipe: sums by run of tokens, and what they come to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .paired import Judge, judged

AS_THEY_ARE = "as they are"  # weights that no recipe touches


@dataclass(frozen=True, eq=False)
class Effect:
    """What quantizing some layers by one recipe did to the model's output."""

    recipe: str
    module: str | None  # the only layer quantized; None: all that were chosen
    runs: np.ndarray  # float64 [n, 5], by run: tokens; summed loss before, loss after, KL (in nats), top-1 agreement
    layers: dict[str, np.ndarray]  # layer -> float64 [m, 4], by run: sequence (-1: not known), rows of the output, its
    # squared change, its square
    weights: str = AS_THEY_ARE  # the recipe of the weights, or who gave them

    @property
    def kl(self) -> float:
        """Nats a token."""
        return float(self.runs[:, 3].sum() / self.runs[:, 0].sum())

    def measures(self, judge: Judge | None) -> dict[str, tuple[float, float, float]]:
        """By name: the value, and both ends of its 95 % interval, NaN for too few tokens."""
        tokens, before, after, kl, same = self.runs.T
        total = tokens.sum()
        mean = {name: v.sum() / total for name, v in (("before", before), ("after", after), ("kl", kl), ("same", same))}
        perplexity, was = np.exp(mean["after"]), np.exp(mean["before"])
        half = (lambda moves: judge.half(moves / total)) if judge else lambda moves: math.nan
        loss = half(after - mean["after"] * tokens)
        change = half(perplexity * (after - mean["after"] * tokens) - was * (before - mean["before"] * tokens))
        agreement = half(same - mean["same"] * tokens)
        found = {
            "perplexity": (perplexity, perplexity * np.exp(-loss), perplexity * np.exp(loss)),
            "perplexity_change": (perplexity - was, perplexity - was - change, perplexity - was + change),
            "kl": _by_factor(mean["kl"], half(kl - mean["kl"] * tokens)),
            "top1_agreement": (mean["same"], *np.clip(mean["same"] + np.array([-1, 1]) * agreement, 0, 1)),
        }
        return {name: tuple(map(float, values)) for name, values in found.items()}

    def to_dict(self, grain: np.ndarray) -> dict:
        """JSON-ready; runs of one grain, int64 [n], are summed, and a layer's of a judged sequence."""
        runs = [[None if math.isnan(v) else v for v in run] for run in _summed(self.runs, grain).tolist()]
        layers = {}
        for name, v in self.layers.items():
            one, judge = v[:, 0].astype(np.int64), judged(v[:, 1], v[:, 0])
            apart = one.max(initial=0) + 1 + np.arange(len(v))
            place = np.where(one >= 0, one, apart) if judge and judge.whole else apart
            layers[name] = np.column_stack(
                [v[np.unique(place, return_index=True)[1], 0], _summed(v[:, 1:], place)]
            ).tolist()
        return {"recipe": self.recipe, "module": self.module, "weights": self.weights, "runs": runs, "layers": layers}

    @classmethod
    def from_dict(cls, values: dict, runs: int) -> Effect:
        """Of a file of a stranger, with so many runs; ValueError, KeyError or TypeError where its parts do not fit."""
        table = np.array([[math.nan if v is None else v for v in run] for run in values["runs"]], np.float64)
        layers = {str(n): np.array(v, np.float64).reshape(-1, 4) for n, v in values["layers"].items()}
        if table.shape != (runs, 5) or not runs:
            raise ValueError(f"an effect has runs {list(table.shape)}, expected [{runs}, 5]")
        counted = table[:, [0, 3, 4]]
        if not np.isfinite(counted).all() or not (table[:, 0] > 0).all():
            raise ValueError("an effect has runs without tokens, or KL that is no number")
        if not all(np.isfinite(v).all() and (v[:, 1:] >= 0).all() for v in layers.values()):
            raise ValueError("an effect has sums of squares that are no numbers, or negative")
        module = values["module"] if values["module"] is None else str(values["module"])
        return cls(str(values["recipe"]), module, table, layers, str(values["weights"]))


def output_error(runs: np.ndarray) -> tuple[float, float, float]:
    """|y - y0| / |y0| of a layer's output from its runs, float64 [m, 4], and both ends of its 95 % interval."""
    sequences, rows, change, square = runs.T
    if not square.sum():
        return 0.0, math.nan, math.nan
    judge, ratio = judged(rows, sequences), change.sum() / square.sum()
    half = judge.half((change - ratio * square) / square.sum()) if judge else math.nan
    return tuple(float(np.sqrt(max(v, 0.0))) if v == v else math.nan for v in (ratio, ratio - half, ratio + half))


def ends(measures: dict[str, tuple[float, float, float]]) -> dict[str, float]:
    """Columns of a table: a value, `_low` and `_high`."""
    return {
        f"{name}{end}": v
        for name, values in measures.items()
        for end, v in zip(("", "_low", "_high"), values, strict=True)
    }


def cell(measure: tuple[float, float, float]) -> str:
    """Such as: 0.154 (0.149 to 0.159)."""
    value, low, high = measure
    return f"{value:.3g}" if math.isnan(low) else f"{value:.3g} ({low:.3g} to {high:.3g})"


def _by_factor(value: float, half: float) -> tuple[float, float, float]:
    """A value above 0 and the ends of its interval, symmetric in its logarithm: single sequences scatter upwards."""
    factor = math.exp(half / value) if value > 0 else 1.0
    return value, value / factor, value * factor


def _summed(runs: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums of rows [n, columns] by group, in the order of the groups' numbers."""
    place = np.unique(group, return_inverse=True)[1]
    sums = np.zeros((place.max(initial=-1) + 1, runs.shape[1]))
    np.add.at(sums, place, runs)
    return sums
