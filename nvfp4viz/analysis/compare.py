"""Two sweeps side by side: two models, engines, versions, or strict against fast; and what got worse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..stats import Stats
from .interval import margin_interval
from .sweep import Sweep


@dataclass(frozen=True)
class Pair:
    """One tensor under one recipe in both sweeps."""

    tensor: str
    recipe: str  # its name in the first sweep
    a: Stats
    b: Stats

    @property
    def gain_db(self) -> float:
        """SQNR of a typical token of b over that of a, positive where b is better; 0 where both are without error."""
        if self.a.token_nmse == self.b.token_nmse:
            return 0.0
        return self.b.token_sqnr_db - self.a.token_sqnr_db

    @property
    def same_input(self) -> bool:
        """Whether both saw the same values, as far as sums tell."""
        return self.a.tokens == self.b.tokens and self.a.x_sq == self.b.x_sq and self.a.x_amax == self.b.x_amax

    @property
    def identical(self) -> bool:
        """Whether every statistic is the same but for the engine's name."""
        return replace(self.b, engine=self.a.engine, recipe=self.a.recipe) == self.a

    @property
    def interval_db(self) -> tuple[float, float] | None:
        """95 % of the gain, over runs of tokens or sequences; None where the inputs differ or are too short for one."""
        if not self.same_input or not self.a.token_nmse or not self.b.token_nmse:
            return None
        return margin_interval([self.b], [self.a])[1]


def pairs(a: Sweep, b: Sweep) -> list[Pair]:
    """What both sweeps have: tensors by name, recipes by name or else as twins that differ only in `fast_math`.

    Raises ValueError where they share nothing.
    """
    twins = {}
    for name, recipe in a.recipes.items():
        same = [n for n, r in b.recipes.items() if r == recipe]
        twin = [n for n, r in b.recipes.items() if replace(r, fast_math=recipe.fast_math) == recipe]
        if same or twin:
            twins[name] = (same or twin)[0]
    found = [
        Pair(tensor, name, row[name], b.stats[tensor][other])
        for tensor, row in a.stats.items()
        if tensor in b.stats
        for name, other in twins.items()
    ]
    if not found:
        raise ValueError(
            f"the sweeps share no tensor and recipe: {a.tensors[:3]} under {list(a.recipes)} and {b.tensors[:3]} under"
            f" {list(b.recipes)}; sweep both over tensors of the same names"
        )
    return found


def sentence(found: list[Pair]) -> str:
    """What the comparison says, in plain English: B against A."""
    identical = sum(p.identical for p in found)
    if identical == len(found):
        return f"No difference: all {len(found)} statistics (tensor and recipe) are the same to the last bit."
    gains = np.array([p.gain_db for p in found if np.isfinite(p.gain_db)])
    worse = [p for p in found if p.gain_db < 0]
    surely = [p for p in worse if p.interval_db and p.interval_db[1] < 0]
    side = "better" if len(gains) and gains.mean() > 0 else "worse"
    mean = gains.mean() if len(gains) else 0.0
    text = f"A typical token is {abs(mean):.2g} dB {side} in B than in A on average"
    text += f": over {len(found)} pairs of tensor and recipe"
    text += f", {identical} are identical and {len(worse)} got worse"
    if worse:
        first = min(worse, key=lambda p: p.gain_db)
        text += f" ({len(surely)} of them surely, the 95 % interval below zero)"
        text += f", most {first.tensor} under {first.recipe}: {db(first.gain_db)} dB"
    return text + "."


def db(value: float) -> str:
    """A difference in dB, signed, of two digits."""
    return f"{value:+.2g}".replace("-", "−")
