"""The cheap prediction by unit: Fisher information of the inputs, and how well it ranks what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..model import Sensitivity, sensitivity
from .meter import Meter

PASSES = 3  # what a forward and a backward pass cost together, in forward passes


def predicted(meter: Meter, recipes: Sequence[str], seed: int = 0) -> dict[str, list[float]]:
    """Recipe -> KL in nats a token that each unit's inputs are predicted to cost.

    All recipes are predicted at once, or taken from the file of measurements. Weights are not predicted: their part is
    taken to rank alike.
    """
    meter.spend(PASSES)
    tokens, by_batch = _by_batch(meter, recipes, seed)
    return {name: np.average(by_batch[name], 0, tokens).tolist() for name in recipes}


def at_most(meter: Meter, recipes: Sequence[str], seed: int = 0) -> dict[str, list[float]]:
    """What was predicted and two standard errors of it over batches, of which a single one has none; costs no pass."""
    tokens, by_batch = _by_batch(meter, recipes, seed)
    share = np.asarray(tokens, float)[:, None] / sum(tokens)  # [batches, 1]
    found = {}
    for name in recipes:
        mean = np.average(by_batch[name], 0, tokens)
        squares = np.square(share * (np.asarray(by_batch[name]) - mean)).sum(0)  # of the weighted mean
        found[name] = (mean + 2 * np.sqrt(squares)).tolist()
    return found


def _by_batch(meter: Meter, recipes: Sequence[str], seed: int) -> tuple[list[int], dict[str, list[list[float]]]]:
    """Tokens of each batch, and by recipe its predictions, [batches, units]."""
    named = {name: meter.recipes[name] for name in recipes}
    key = f"predictions by batch {seed}: " + ", ".join(r.name for r in named.values())
    if key not in meter.store:
        modules = [label for unit in meter.units for label in unit.matrices]
        options = {"modules": modules, "engine": meter.engine, "level": False}  # the meter measures it
        found = [sensitivity(meter.model, [b], named, seed=seed + i, **options) for i, b in enumerate(meter.batches)]
        rows = {name: [[_of(f, unit, name) for unit in meter.units] for f in found] for name in named}
        meter.store.put(key, [[f.tokens for f in found], rows])
    return meter.store[key]


def _of(found: Sensitivity, unit, recipe: str) -> float:
    """An input that several matrices read counts once."""
    mine = set(unit.matrices)
    return sum(found.kl(label, recipe) for label, readers in found.names.items() if mine & set(readers))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; NaN for fewer than three pairs, or where one side is all the same.

    >>> round(rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]), 6)
    0.8
    """
    x, y = (_ranks(np.asarray(v, float)) for v in (a, b))
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ties share the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[where]


def share_found(guess: Sequence[float], truth: Sequence[float], n: int = 10) -> float:
    """Of the n largest, the share that is among the n largest of a guess."""
    n = min(n, len(truth))
    top = [set(np.argsort(np.asarray(v, float))[::-1][:n].tolist()) for v in (guess, truth)]
    return len(top[0] & top[1]) / n if n else float("nan")
