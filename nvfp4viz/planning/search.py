"""Which units to keep: a greedy search that measures first what a prediction says is worth it, under a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MARGIN = 1.3  # candidates that were never measured count for more than predicted, by what the prediction has missed


def search(
    measure: Callable[[frozenset[int]], float],
    predicted: Sequence[float],
    price: Sequence[float],
    left: Callable[[], int],
    *,
    most: int | None = None,
) -> list[frozenset[int]]:
    """Sets of kept units, each larger by one, then in steps of a half; the first is empty, the last is all.

    At each step the candidates of the largest expected drop of KL for their price are measured, as many as the budget
    allows: half of it goes to the first step, whose drops tell the later ones where to look. With a budget for all
    candidates at all steps this is the full greedy search.

    Args:
        measure:   kept units -> KL; each call may cost a pass.
        predicted: drop of KL by unit, in any unit of measure.
        price:     of keeping each unit.
        left:      passes that the budget leaves.
        most:      steps of one unit; by default as many as the budget can look at three candidates for.
    """
    n, price = len(price), np.asarray(price, float)
    guess = np.maximum(np.asarray(predicted, float), 0)
    kept, sets = frozenset(), [frozenset()]
    kl, drops = measure(kept), np.full(n, np.nan)
    steps = min(n - 1, most if most is not None else max(4, left() // 6))
    tail = len(_sizes(steps, n))  # passes that the larger sets need
    for step in range(steps):
        spare = left() - tail
        quota = spare // 2 if step == 0 and spare < n * steps else -(-spare // (steps - step))
        if spare <= 0:
            break
        fresh: dict[int, float] = {}
        worth = _expected(drops, guess) / price
        for u in np.argsort(-worth, kind="stable").tolist():
            if u not in kept and len(fresh) < max(1, quota):
                fresh[u] = measure(kept | {u})
        for u, value in fresh.items():
            drops[u] = kl - value
        best = max(fresh, key=lambda u: (drops[u] / price[u], -u))
        kept, kl = kept | {best}, fresh[best]
        sets.append(kept)
    order = [u for u in np.argsort(-_expected(drops, guess) / price, kind="stable").tolist() if u not in kept]
    return sets + [kept | set(order[: size - len(kept)]) for size in _sizes(len(kept), n)]


def _expected(drops: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The last measured drop, or what the prediction gives: in the scale of those measured, and for once too much."""
    known = ~np.isnan(drops) & (guess > 0)
    ratios = np.maximum(drops[known], 0) / guess[known]
    scale = float(np.quantile(ratios, 0.8)) * MARGIN if known.any() else 1.0
    return np.where(np.isnan(drops), guess * scale, drops)


def _sizes(first: int, n: int) -> list[int]:
    """Sizes after `first`, half as large again each, to n.

    >>> _sizes(4, 20)
    [6, 9, 14, 20]
    """
    sizes = []
    while first < n:
        first = min(n, max(first + 1, -(-first * 3 // 2)))
        sizes.append(first)
    return sizes
