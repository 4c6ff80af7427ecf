"""Intervals of what a model's output does over sequences, and paired differences between recipes in the same tokens.

Sequences are draws of a text; runs of neighbouring tokens are not quite, and their spread says too little: those of a
single sequence are joined to at least eight long ones, and the interval is widened as measured (docs/verdict.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .defaults import called
from .interval import ENOUGH, half_width, t_quantile

RUNS_WIDENING = 1 / (1 - 0.39)  # the standard error of runs was up to 39 % below that of whole sequences
SEQUENCES_WIDENING = 1.1  # single sequences scatter upwards: without it skewed draws are held in 93 % of cases
SAME = 1e-9  # sequences that differ by less than this share are one
FAR = 10**9  # tokens: nobody measures more


@dataclass(frozen=True, eq=False)
class Judge:
    """What intervals are over: the sequences, or runs of neighbouring tokens of the only one."""

    group: np.ndarray  # int64 [n]: the group of each run
    degrees: int  # of freedom of Student's t
    widening: float
    words: str  # "40 sequences"
    unit: float  # tokens of a group, in the mean
    whole: bool  # whether groups are whole sequences

    def half(self, moves: np.ndarray, comparisons: int = 1) -> float:
        """Half of a 95 % interval of a sum of moves, float64 [n], one a run, that are about 0."""
        return half_width(np.bincount(self.group, moves), comparisons, self.widening, self.degrees)


def judged(tokens: np.ndarray, sequences: np.ndarray, values: Iterable[np.ndarray] = ()) -> Judge | None:
    """How runs of so many tokens [n] of these sequences [n] are judged; None for fewer than two sequences and 8 runs.

    Sequences of unequal length count as the number of equal ones whose mean scatters as much. None, too, where all of
    them have the same of each of `values`, sums [n]: they are copies, of which nobody told.
    """
    judge = _judge(tokens, sequences) if len(tokens) else None
    return None if judge and _alike(judge.group, tokens, values) else judge


def _alike(group: np.ndarray, tokens: np.ndarray, values: Iterable[np.ndarray]) -> bool:
    rates = [np.bincount(group, v) / np.bincount(group, tokens) for v in values]
    return any(r.any() for r in rates) and all(np.ptp(r) <= SAME * np.abs(r).max() for r in rates)


def _judge(tokens: np.ndarray, sequences: np.ndarray) -> Judge | None:
    group = np.unique(sequences, return_inverse=True)[1]
    sizes = np.bincount(group, tokens)
    worth = _worth(sizes)
    if worth >= 2:
        return Judge(group, worth - 1, SEQUENCES_WIDENING, f"{len(sizes)} sequences", tokens.sum() / len(sizes), True)
    if _worth(tokens) < ENOUGH:
        return None
    each = len(tokens) // ENOUGH  # runs that are joined
    group = np.minimum(np.arange(len(tokens)) // each, len(tokens) // each - 1)  # the rest goes with the last
    n = int(group[-1]) + 1
    why = "one sequence is all there is" if len(sizes) == 1 else f"one of {len(sizes)} sequences has most of them"
    words = f"{n} runs of about {tokens.sum() / n:.0f} tokens: {why}; widened by {RUNS_WIDENING:.2f}"
    return Judge(group, n - 1, RUNS_WIDENING, words, tokens.sum() / n, False)


def _worth(sizes: np.ndarray) -> int:
    """The number of equal parts whose mean scatters as that of these does."""
    return int(sizes.sum() ** 2 / np.square(sizes).sum() + 1e-9) if sizes.any() else 0


@dataclass(frozen=True)
class Difference:
    """KL under one recipe minus KL under another, in the same tokens; nats a token."""

    recipe: str
    over: str
    role: str  # what the other is: "SGLang's default", "the runner-up"
    kl: float  # below 0 where `recipe` changes the output less
    interval: tuple[float, float] | None  # 95 %, of all comparisons of an Impact together; None for too few tokens
    over_kl: float  # KL under the other
    tokens: int
    needed: int | None  # tokens that would resolve a difference of this size; None where that many are there
    unit: float  # tokens of a sequence (or run)
    by: str  # what the interval is over
    spread: float | None = None  # by which ceilings of equal SQNR differ; None where no controls ran

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def finding(self) -> bool:
        """Whether it is resolved, and more than what control ceilings differ by where they ran."""
        return self.resolved and (self.spread is None or abs(self.kl) > self.spread)

    def enough(self) -> str:
        """Whether the run was enough: "resolved", or what it would take."""
        if self.interval is None:
            return "too few tokens for an interval"
        if self.finding:
            return "resolved"
        if self.resolved:
            return f"resolved, but controls of equal SQNR differ by as much ({self.spread:.2g}): no finding"
        if self.needed is None:
            return "no difference at all"
        if self.needed >= FAR:
            return "not resolved; no run of a practical length would"
        groups = math.ceil(self.needed / self.unit)
        what = "runs" if "runs of" in self.by else "sequences"
        return f"not resolved; about {_round(self.needed):,} tokens ({_round(groups):,} {what}) would"

    def percent(self) -> str:
        """Such as: -5.2 % (95 % interval -6.1 to -4.3)."""
        one = 100 / self.over_kl if self.over_kl else math.nan
        sure = "no interval"
        if self.interval is not None:
            sure = "95 % interval {} to {}".format(*(_signed(one * end) for end in self.interval))
        return f"{_signed(one * self.kl)} % ({sure})"

    def sentence(self) -> str:
        """Such as: KL -5.2 % (95 % interval -6.1 to -4.3) against SGLang's default, standard: resolved."""
        return f"KL {self.percent()} against {called(self.role, self.over)}: {self.enough()}"


def difference(judge: Judge | None, sums: tuple[np.ndarray, np.ndarray], tokens: np.ndarray, comparisons: int) -> tuple:
    """Mean over tokens of a's sums minus b's, float64 [n] each; its 95 % interval; the tokens that would resolve it."""
    total, moves = tokens.sum(), sums[0] - sums[1]
    mean = float(moves.sum() / total)
    if judge is None:
        return mean, None, None
    half = judge.half((moves - mean * tokens) / total, comparisons)
    return mean, (mean - half, mean + half), _needed(mean, half, judge, total, comparisons)


def _needed(mean: float, half: float, judge: Judge, tokens: float, comparisons: int) -> int | None:
    """Tokens at which the half width would be the difference seen; None where it is, or where there is none."""
    if abs(mean) > half or mean == 0:
        return None
    n, p = int(judge.group.max()) + 1, 1 - 0.025 / comparisons
    now = t_quantile(p, judge.degrees) * math.sqrt(n / (n - 1))

    def enough(times: float) -> bool:
        degrees = int(min(1000, (judge.degrees + 1) * times - 1))
        then = t_quantile(p, max(degrees, 1)) * math.sqrt(n * times / (n * times - 1))
        return half * then / now <= abs(mean) * math.sqrt(times)

    few, many = 1.0, FAR / tokens
    if not enough(many):
        return FAR
    while many > few * 1.001:
        middle = math.sqrt(few * many)
        few, many = (few, middle) if enough(middle) else (middle, many)
    return math.ceil(tokens * max(many, 1 + 1 / n))  # another group at least


def _signed(percent: float) -> str:
    """Two digits: -5.2, +21, +120."""
    return f"{percent:+.2g}" if abs(percent) < 99.5 else f"{percent:+.0f}"


def _round(n: int) -> int:
    """Two digits, rounded up."""
    step = 10 ** max(0, len(str(n)) - 2)
    return -(-n // step) * step
