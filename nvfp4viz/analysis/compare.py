"""Two sweeps side by side: two models, engines, versions, or strict against fast; and what got worse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..nvfp4 import Recipe
from ..shown import quantity, short
from ..stats import Stats
from .interval import margin_interval
from .sweep import Sweep

LEAST_DB = 0.0005  # SQNRs are written in thousandths of a dB: what is less reads as none
CHANGES = {  # of a pair, and how a sentence counts them
    "better": "{} are better",
    "worse": "{} worse",
    "alike": "{} alike to 0.001 dB",
    "unknown": "{} without a number",
    "identical": "{} identical to the bit",
}
SKIPPED = 3  # tensors that were skipped and are named with the reason
ALWAYS = ("better", "worse", "identical")  # are counted where there is none, too


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
        a, b = self.sqnr_db
        return 0.0 if a == b else b - a

    @property
    def whole(self) -> bool:
        """Whether errors are of the whole tensor, since a release that did not measure single tokens saved a or b."""
        return self.a.runs_missing or self.b.runs_missing

    @property
    def sqnr_db(self) -> tuple[float, float]:
        """SQNR of a typical token, or of the whole tensor, of a and b."""
        return tuple(s.sqnr_db if self.whole else s.token_sqnr_db for s in (self.a, self.b))

    @property
    def change(self) -> str:
        """One of CHANGES: which way it went, as far as a reader of the page could see."""
        if self.identical:
            return "identical"
        if np.isnan(self.gain_db):
            return "unknown"
        if abs(self.gain_db) < LEAST_DB:
            return "alike"
        return "better" if self.gain_db > 0 else "worse"

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
        if not self.same_input or self.whole or not self.a.token_nmse or not self.b.token_nmse:
            return None
        return margin_interval([self.b], [self.a])[1]


def pairs(a: Sweep, b: Sweep) -> list[Pair]:
    """What both sweeps have: tensors by name, recipes by settings or else as twins that differ in `fast_math` alone.

    Raises ValueError where they share nothing.
    """
    twins = _twins(a.recipes, b.recipes)
    found = [
        Pair(tensor, name, row[name], b.stats[tensor][other])
        for tensor, row in a.stats.items()
        if tensor in b.stats
        for name, other in twins.items()
    ]
    if not found:
        way = "measure both under the same recipes" if a.stats.keys() & b.stats else "sweep tensors of the same names"
        raise ValueError(
            f"the sweeps share no tensor and recipe: {a.tensors[:3]} under {list(a.recipes)} and {b.tensors[:3]} under"
            f" {list(b.recipes)}; {way}"
        )
    return found


def _twins(a: dict[str, Recipe], b: dict[str, Recipe]) -> dict[str, str]:
    """Names of a's recipes, and of what each is compared with in b; none of b's stands beside two of equal settings."""
    twins = {}
    for name, recipe in a.items():
        same = [n for n, r in b.items() if r == recipe]
        free = [n for n, r in b.items() if r not in a.values() and replace(r, fast_math=recipe.fast_math) == recipe]
        if same or free:
            twins[name] = (same or free)[0]
    return twins


def obstacles(a: Sweep, b: Sweep, found: list[Pair]) -> list[str]:
    """What a reader must know before any difference: what one side lacks, or what is not the same in both."""
    text, twins = [], _twins(a.recipes, b.recipes)
    for side, mine, other, paired in (("A", a, b, twins), ("B", b, a, twins.values())):
        only = [t for t in mine.stats if t not in other.stats]
        if only:
            those = f"{len(only):,} of its {quantity(len(mine.stats), 'tensor')}"
            text.append(f"Only in {side}: {those}, such as {only[0]}.")
        alone = [n for n in mine.recipes if n not in paired]
        text += [f"Measured in {side} alone: {', '.join(alone)}."] if alone else []
        text += [f"Skipped in {side}: {name}: {why}" for name, why in list(mine.skipped.items())[:SKIPPED]]
        more = len(mine.skipped) - SKIPPED
        text += [f"Skipped in {side}, too: {quantity(more, 'more tensor')}."] if more > 0 else []
    if any(p.whole for p in found):
        text.append("Errors are of whole tensors, without intervals: an earlier release saved no single tokens.")
    return text + other_arithmetic(a, b) + _other_data(found)


def other_arithmetic(a: Sweep, b: Sweep, names: tuple[str, str] = ("A", "B")) -> list[str]:
    """Which recipes are compared with twins, strict with fast; `names`: what to call the two."""
    twins = _twins(a.recipes, b.recipes)
    beside = [f"{n} in {names[0]} beside {twin} in {names[1]}"
              for n, twin in twins.items() if a.recipes[n] != b.recipes[twin]]  # fmt: skip
    return [f"Other arithmetic: {', '.join(beside)}."] if beside else []


def _other_data(found: list[Pair]) -> list[str]:
    lengths = {p.tensor: p for p in found if p.a.tokens != p.b.tokens}
    values = {p.tensor for p in found if not p.same_input} - set(lengths)
    text = []
    if lengths:
        first = next(iter(lengths.values()))
        counted = f"{first.tensor}: {first.a.tokens:,} in A, {first.b.tokens:,} in B"
        text.append(f"Other numbers of tokens in {quantity(len(lengths), 'tensor')}, such as {counted}.")
    if values:
        text.append(f"Other values in {quantity(len(values), 'tensor')} of as many tokens, such as {min(values)}.")
    return text


def sentence(found: list[Pair]) -> str:
    """What the comparison says, in plain English: B against A, by the median, which no outlier decides."""
    by = {change: [p for p in found if p.change == change] for change in CHANGES}
    if len(by["identical"]) == len(found):
        what = f"all {len(found):,} pairs of tensor and recipe that both have"
        return f"No difference: {what} are the same to the last bit."
    counts = [text.format(f"{len(by[c]):,}") for c, text in CHANGES.items() if by[c] or c in ALWAYS]
    counted = f"of {quantity(len(found), 'pair')} of tensor and recipe {', '.join(counts[:-1])} and {counts[-1]}"
    other = {p.tensor for p in found if not p.same_input}
    if other:
        many = f"{len(other):,} of {quantity(len({p.tensor for p in found}), 'tensor')}"
        return f"A and B saw different activations: in {many}, so that a difference may be the data's; {counted}."
    median = middle([p.gain_db for p in found])
    what = "A tensor" if any(p.whole for p in found) else "A typical token"
    start = f"{what} is {short(abs(median), 2)} dB {'better' if median > 0 else 'worse'} in B, in the median"
    start = start if abs(median) >= LEAST_DB else "No difference in the median"
    ends = [f"{what} {p.tensor} under {p.recipe}, {db(p.gain_db)} dB{_sure(p)}"
            for what, those, pick in (("most gained", by["better"], max), ("most lost", by["worse"], min)) if those
            for p in [pick(those, key=lambda p: p.gain_db)]]  # fmt: skip
    return f"{start}: {'; '.join([counted, *ends])}."


def middle(gains: list[float]) -> float:
    """The median, in dB, of what is a number; infinite ones have their place, and 0 is between opposite ones."""
    numbers = [v for v in gains if not np.isnan(v)]
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.median(numbers), posinf=np.inf, neginf=-np.inf)) if numbers else 0.0


def _sure(pair: Pair) -> str:
    if not pair.a.token_nmse or not pair.b.token_nmse:
        return " (without error on one side)"
    if pair.whole:
        return " (no interval was saved)"
    if pair.interval_db is None:
        return " (too few tokens for an interval)"
    there = pair.interval_db[0] > 0 or pair.interval_db[1] < 0
    return " (the 95 % interval excludes 0)" if there else " (the 95 % interval includes 0)"


def db(value: float) -> str:
    """A difference in dB, signed, of two digits, so that none reads as 0."""
    return f"{'+' * (value > 0)}{short(value, 2)}"
