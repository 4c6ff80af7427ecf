"""95 % intervals of what is a mean over tokens, from sums over runs of neighbours: Student's t, widened as measured.

They take the recorded sequences where there are eight, else the longest runs of which there are eight, and are twice
as wide as those alone would say: passages of a text differ by more than their runs show. Where runs say that passages
are about as long as they are, or there are few tokens, intervals are wider still; docs/verdict.md measures both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from ..stats import LEVELS, RUNS, SHORTEST, Stats

ENOUGH = 8  # runs or sequences that give an interval
WIDENING = 2.0  # honest over claimed width on five texts, from 32 to 4,096 tokens
STEADY = 3.0  # runs that scatter by this times what shorter ones say may well be parts of one passage
PLENTY, SCARCE = 512, 3.0  # tokens below which passages of 128 are too few to be told apart, and the widening then
CAP_DB = 120.0  # what is stored exactly has this SQNR, not infinity: FP32 itself ends near 140
DB = 10 / math.log(10)
LONG = 512  # tokens of a sequence, or of a group of them; shorter ones may be neighbours in one passage
FINER = 3  # levels of shorter runs that a level is compared with


def chosen_row(tokens: np.ndarray, sequences: bool = True) -> int | None:
    """The row of `run_tokens` [LEVELS + 1, RUNS] to judge by; None where there are fewer than eight runs.

    That is the recorded sequences, where there are eight and they are known of every token; else the longest runs.
    """
    known = sequences and tokens[LEVELS].sum() == tokens[0].sum()
    if known and np.count_nonzero(tokens[LEVELS]) >= ENOUGH and _worth(tokens[LEVELS]) > ENOUGH // 2:
        return LEVELS  # where one sequence holds a quarter of the tokens, runs say more
    return next((row for row in range(LEVELS - 1, -1, -1) if _worth(tokens[row]) >= ENOUGH), None)


def _worth(tokens: np.ndarray) -> int:
    """Runs that are there, the unfinished first and last ones not counted as whole."""
    return math.ceil(tokens.sum() / tokens.max()) if tokens.any() else 0


def judged_by(tokens: np.ndarray) -> str:
    """In words: "8 runs of 64 tokens", "16 groups of sequences", or "too few tokens"."""
    row = chosen_row(tokens)
    if row is None:
        return "too few tokens"
    n = np.count_nonzero(tokens[row])
    if row < LEVELS:
        return f"{n} runs of {1 << SHORTEST + row:,} tokens"
    return f"{n} sequences" if n < RUNS else f"{RUNS} groups of sequences"


def margin_interval(
    named: Sequence[Stats], other: Sequence[Stats], weights: Sequence[float] | None = None, comparisons: int = 1
) -> tuple[float, tuple[float, float] | None]:
    """By how many dB the error of a typical token is smaller under one recipe than under another, and 95 % of it.

    Args:
        named, other: Stats of the same tensors under both, as many as you like.
        weights:      of the tensors, alike where they are None.
        comparisons:  how many such intervals shall hold together with 95 % (Bonferroni).
    Returns: the weighted mean over tensors of 10 log10(other / named), and the ends of its interval, None where a
        tensor has fewer than eight runs, or they were not measured. Draws of tensors are one: a run is the same tokens
        in all of them.
    """
    share = np.full(len(named), 1 / len(named)) if weights is None else np.asarray(weights) / np.sum(weights)
    margins = [decibels(b.token_nmse) - decibels(a.token_nmse) for a, b in zip(named, other, strict=True)]
    margin = float(share @ margins)
    if any(a.runs_missing for a in named):
        return margin, None
    tokens = [a.run_tokens for a in named]
    ways = [_groups(tokens)]
    if any(row == LEVELS and _mean(t) < LONG for t, (row, _) in zip(tokens, ways[0] or (), strict=False)):
        ways.append(_groups(tokens, sequences=False))
    if None in ways:
        return margin, None
    half = max(_half(named, other, share, groups, comparisons) for groups in ways)
    return margin, (margin - half, margin + half)


def _half(named, other, share, groups, comparisons: int) -> float:
    """Half of the interval over groups of tokens, in dB."""
    moves = np.zeros(max(g.max() for _, g in groups) + 1)  # what each group of tokens adds to the margin's error
    shorter = np.zeros((FINER, RUNS))  # and what each run of a half, a quarter, an eighth adds
    for w, a, b, (row, group) in zip(share, named, other, groups, strict=True):
        there = group >= 0
        moves += w * np.bincount(group[there], (_part(b, row) - _part(a, row))[there], minlength=len(moves))
        if row < LEVELS:  # sequences are draws of their own
            finer = slice(max(0, row - FINER), row)
            shorter[: finer.stop - finer.start] += w * (_part(b, finer) - _part(a, finer))
    return half_width(moves, comparisons, WIDENING * _passages(moves, shorter) * _scarcity(named, groups))


def _mean(tokens: np.ndarray) -> float:
    """Tokens of a recorded sequence, or of a group of them."""
    return tokens[LEVELS].sum() / max(1, np.count_nonzero(tokens[LEVELS]))


def decibels(nmse: float) -> float:
    """10 log10 of an error, within +-120."""
    return min(max(10 * math.log10(nmse), -CAP_DB), CAP_DB) if nmse > 0 else -CAP_DB


def half_width(
    moves: np.ndarray, comparisons: int = 1, widening: float = WIDENING, degrees: int | None = None
) -> float:
    """Half of a 95 % interval of a sum of n moves, one a run, that are about 0: Student's t, widened.

    degrees: of freedom; n - 1 where they are not told.
    """
    n = len(moves)
    spread = math.sqrt(n / (n - 1) * float(np.square(moves - moves.mean()).sum()))
    return widening * t_quantile(1 - 0.025 / comparisons, degrees or n - 1) * spread


def _passages(moves: np.ndarray, shorter: np.ndarray) -> float:
    """How much wider an interval is where neighbouring runs go together: passages may be longer than runs, and few.

    Neighbours that are draws of their own scatter by as much over short runs as over long ones; halves of a passage
    scatter by less. moves: float64 [n], one a run; shorter: [FINER, RUNS], of shorter runs, zeros where there are none.
    """
    scatter = np.square(shorter[:, 0::2] - shorter[:, 1::2]).sum(1)  # each estimates the variance of all moves' sum
    known = scatter[shorter.any(1)]
    if not known.any():
        return 1.0
    n = len(moves)
    return max(1.0, n / (n - 1) * float(np.square(moves - moves.mean()).sum() / known.mean()) / STEADY)


def _scarcity(named: Sequence[Stats], groups: list[tuple[int, np.ndarray]]) -> float:
    """How much wider an interval of few tokens is: two or three passages may look alike by chance."""
    tokens = min(int(s.run_tokens[row].sum()) for s, (row, _) in zip(named, groups, strict=True))
    return 1.0 if groups[0][0] == LEVELS else min(SCARCE, max(1.0, (PLENTY / tokens) ** 1.5))


def _part(stats: Stats, row: int | slice) -> np.ndarray:
    """Each slot's share of a mean's logarithm, in dB; [RUNS], or [rows, RUNS] of several rows."""
    total = stats.run_nmse[0].sum()
    return DB * stats.run_nmse[row] / total if total else np.zeros_like(stats.run_nmse[row])


def _groups(tokens: list[np.ndarray], sequences: bool = True) -> list[tuple[int, np.ndarray]] | None:
    """For each tensor its row and the group of each slot, -1 where it is empty; None where one has too few runs.

    Tensors of the same tokens have the same groups; those of fewer or more, such as experts, are divided into as many,
    in the order of the stream.
    """
    kinds = {t.tobytes(): t for t in tokens}  # inputs of a model have the same tokens, but for experts'
    rows = {key: chosen_row(t, sequences) for key, t in kinds.items()}
    if len(set(rows.values())) > 1:  # sequences are known of some only
        rows = {key: chosen_row(t, sequences=False) for key, t in kinds.items()}
    if None in rows.values():
        return None
    n = min(np.count_nonzero(t[rows[key]]) for key, t in kinds.items())
    groups = {key: (rows[key], _in_order(t[rows[key]], n)) for key, t in kinds.items()}
    return [groups[t.tobytes()] for t in tokens]


def _in_order(tokens: np.ndarray, n: int) -> np.ndarray:
    """The group, 0 to n - 1, of each slot; slots follow one another round the ring, the first after an empty one."""
    empty = np.flatnonzero(tokens == 0)
    start = next((i + 1 for i in empty if tokens[(i + 1) % RUNS]), 0)
    ring = (np.arange(RUNS) + start) % RUNS
    filled = ring[tokens[ring] > 0]
    group = np.full(RUNS, -1)
    group[filled] = np.arange(len(filled)) * n // len(filled)
    return group


@functools.cache
def t_quantile(p: float, degrees: int) -> float:
    """The p-quantile, p > 1/2, of Student's t of so many whole degrees of freedom, by bisection."""
    low, high = 0.0, 1e4
    while high - low > 1e-9 * (1 + low):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < p else (low, middle)
    return high


def _t_below(t: float, degrees: int) -> float:
    """P(T < t) for t >= 0, Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    cos_sq, term, total = math.cos(angle) ** 2, 1.0, 0.0
    first = degrees % 2
    for k in range(first, degrees - 1, 2):
        term *= 1.0 if k == first else cos_sq * (k - 1) / k
        total += term
    if first:
        return 0.5 + (angle + math.sin(angle) * math.cos(angle) * total) / math.pi
    return 0.5 + math.sin(angle) * total / 2
