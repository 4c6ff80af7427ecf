"""Which units to keep: a greedy search that measures first what a prediction says is worth it, under a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MARGIN = 1.3  # candidates that were never measured count for more than predicted, by what the prediction has missed
LOOKS = 2  # candidates a step that are worth more than to know what units take off as the last


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
    allows: half of it goes to the first step, whose drops tell the later ones where to look. What a unit takes off
    changes as others are kept, so what some take off as the last is measured too, the largest predicted first. With a
    budget for all candidates at all steps this is the full greedy search.

    Args:
        measure:   kept units -> KL; each call may cost a pass.
        predicted: drop of KL by unit, in any unit of measure.
        price:     of keeping each unit.
        left:      passes that the budget leaves.
        most:      steps of one unit; by default as many as the budget can look at three candidates for.
    """
    n, price, kept, sets = len(price), np.asarray(price, float), frozenset(), [frozenset()]
    kl = measure(kept)
    drops = _Drops(predicted, kl)
    steps = min(n - 1, most if most is not None else max(4, left() // 6))
    tail = len(_sizes(steps, n))  # passes that the larger sets need
    for step in range(steps):
        spare = left() - tail
        if spare <= 0:
            break
        ample = spare >= n * (steps - step)
        quota = max(1, spare // 2 if step == 0 and not ample else -(-spare // (steps - step)))
        candidates = [u for u in drops.order(kl, price) if u not in kept][:quota]
        fresh = {u: measure(kept | {u}) for u in candidates}
        drops.know(fresh, kl)
        if step == 0 and not ample:
            _measure_last(measure, drops, lambda: left() - tail > LOOKS * steps)
        best = max(fresh, key=lambda u: (drops.known[u] / price[u], -u))
        kept, kl = kept | {best}, fresh[best]
        sets.append(kept)
    order = [u for u in drops.order(kl, price) if u not in kept]
    return sets + [kept | set(order[: size - len(kept)]) for size in _sizes(len(kept), n)]


def _measure_last(measure, drops: _Drops, spare: Callable[[], bool]) -> None:
    """What units take off as the last that is kept, the largest predicted first, as many as there are passes for."""
    every = frozenset(range(len(drops.guess)))
    for u in np.argsort(-drops.guess, kind="stable").tolist():
        if not spare():
            return
        drops.last[u] = measure(every - {u}) - measure(every)


class _Drops:
    """What keeping each unit takes off the KL: predicted, measured on the way from none to all, and as the last."""

    def __init__(self, predicted: Sequence[float], whole: float):
        self.guess, self.whole = np.maximum(np.asarray(predicted, float), 0), whole  # whole: KL where none is kept
        self.known, self.last = np.full((2, len(self.guess)), np.nan)  # where it was measured
        self.at = np.zeros(len(self.guess))  # the share of KL that was gone when `known` was measured

    def know(self, measured: dict[int, float], kl: float) -> None:
        """measured: unit -> KL with it kept, too; kl: without it."""
        for u, value in measured.items():
            self.known[u], self.at[u] = kl - value, self._gone(kl)

    def order(self, kl: float, price: np.ndarray) -> list[int]:
        """Units by what they are expected to take off that KL for their price."""
        return np.argsort(-self._expected(self._gone(kl)) / price, kind="stable").tolist()

    def _gone(self, kl: float) -> float:
        return 1 - kl / self.whole if self.whole > 0 else 0.0

    def _expected(self, gone: float) -> np.ndarray:
        """Between the last drop measured and that of the last kept, by the share of the KL that is gone."""
        first = _filled(self.known, self.guess)
        if not gone or np.isnan(self.known).all():
            return first
        final = self.last if not np.isnan(self.last).all() else self.known
        scale = np.nansum(final) / (self.guess[~np.isnan(final)].sum() or 1.0)
        final = np.where(np.isnan(self.last), self.guess * max(scale, 0.0), self.last)
        between = np.clip((gone - self.at) / np.maximum(1 - self.at, 1e-9), 0, 1)
        return np.where(np.isnan(self.known), first, first + between * (final - first))


def _filled(drops: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Measured drops, or what the prediction gives: in the scale of those measured, and for once too much."""
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
