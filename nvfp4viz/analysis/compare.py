"""Two sweeps side by side: two models, engines, versions, or strict against fast; and what got worse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..shown import short
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


def obstacles(a: Sweep, b: Sweep, found: list[Pair]) -> list[str]:
    """What a reader must know before any difference: data that one side lacks, or that is not the same in both."""
    text = []
    for side, mine, other in (("A", a, b), ("B", b, a)):
        only = [t for t in mine.stats if t not in other.stats]
        if only:
            text.append(f"Only in {side}: {len(only):,} of its {len(mine.stats):,} tensors, such as {only[0]}.")
        text += [f"Skipped in {side}: {name}: {why}" for name, why in list(mine.skipped.items())[:3]]
    lengths = {p.tensor: p for p in found if p.a.tokens != p.b.tokens}
    values = {p.tensor for p in found if not p.same_input} - set(lengths)
    if lengths:
        first = next(iter(lengths.values()))
        counted = f"{first.a.tokens:,} in A, {first.b.tokens:,} in B"
        text.append(f"Other numbers of tokens in {len(lengths):,} tensors, such as {first.tensor}: {counted}.")
    if values:
        text.append(f"Other values in {len(values):,} tensors of as many tokens, such as {min(values)}.")
    return text


def sentence(found: list[Pair]) -> str:
    """What the comparison says, in plain English: B against A, by the median, which no outlier decides."""
    identical = sum(p.identical for p in found)
    if identical == len(found):
        return f"No difference: all {len(found)} statistics (tensor and recipe) are the same to the last bit."
    gains = [p.gain_db for p in found if np.isfinite(p.gain_db)]
    median = float(np.median(gains)) if gains else 0.0
    better, worse = [p for p in found if p.gain_db > 0], [p for p in found if p.gain_db < 0]
    counted = f"of {len(found)} pairs of tensor and recipe {len(better)} are better, {len(worse)} worse"
    counted += f" and {identical} identical"
    other = {p.tensor for p in found if not p.same_input}
    if other:
        many = f"{len(other)} of {len({p.tensor for p in found})} tensors"
        return f"A and B saw different activations: in {many}, so that a difference may be the data's; {counted}."
    side = "better" if median > 0 else "worse"
    start = f"A typical token is {short(abs(median), 2)} dB {side} in B, in the median"
    start = start if median else "No difference in the median"
    ends = [f"{what} {p.tensor} under {p.recipe}, {db(p.gain_db)} dB{_sure(p)}"
            for what, those, pick in (("most gained", better, max), ("most lost", worse, min)) if those
            for p in [pick(those, key=lambda p: p.gain_db)]]  # fmt: skip
    return f"{start}: {'; '.join([counted, *ends])}."


def _sure(pair: Pair) -> str:
    if pair.interval_db is None:
        return " (too few tokens for an interval)"
    there = pair.interval_db[0] > 0 or pair.interval_db[1] < 0
    return " (the 95 % interval excludes 0)" if there else " (the 95 % interval includes 0)"


def db(value: float) -> str:
    """A difference in dB, signed, of two digits, so that none reads as 0."""
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "+∞" if value > 0 else "−∞"
    return f"{'+' * (value > 0)}{short(value, 2)}"
