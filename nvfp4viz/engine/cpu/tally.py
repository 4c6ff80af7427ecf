"""Counting what the chosen candidate of each block did: a tile at a time, into the statistics of one recipe."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...nvfp4 import BLOCK, E4M3_MAX, MARGIN, Recipe
from ...stats import BINS, LEVELS, MANTISSA_SHIFT, RUNS, Stats
from .evaluate import CLIPPED, DOT, ERR_ABS, ERR_SQ, EVEN, FLUSHED, HALVES, LARGEST, NEGATIVE_EVEN, X_HAT_SQ
from .numbers import FLT_MIN, jit, kernel
from .tile import LANES

COUNTS = ("n_four_saturated", "n_four_saturated_chosen", "n_scale_saturated", "n_element_clipped", "n_element_flushed")
SUMS = ("err_sq", "err_abs", "x_hat_sq", "x_dot_x_hat", "max_error")
SCALE_LIMIT = np.float32(E4M3_MAX * MARGIN)
FIRST_BIN = (1023 - 24) << (52 - MANTISSA_SHIFT)  # of 2^-24, see `stats.nmse_bin`


SHARED = ("x_amax", "nonzero_elements", "nonzero_blocks", "x_sq", "top_token_x_sq", "top_token")


class Tally(NamedTuple):
    """Statistics of segments under recipes, as `Stats` has them: [segments, recipes, ...]."""

    counts: np.ndarray  # int64: those of COUNTS
    codes: np.ndarray  # int64: elements by code
    scales: np.ndarray  # int64 [..., 2, 254]: blocks by twice their scale's byte, and 1 for 4; of even and of odd lanes
    block_bins: np.ndarray  # int64 [..., 2, BINS]: of even and of odd lanes
    token_bins: np.ndarray  # int64
    run_nmse: np.ndarray  # float64 [..., LEVELS + 1, RUNS]
    sums: np.ndarray  # float64: those of SUMS; the last is a maximum
    shared: np.ndarray  # float64 [segments, 6]: SHARED
    run_tokens: np.ndarray  # int64 [segments, LEVELS + 1, RUNS]


def new_tally(segments: int, recipes: int) -> Tally:
    shapes = ((len(COUNTS),), (16,), (2, 254), (2, BINS), (BINS,))
    counts = (np.zeros((segments, recipes, *shape), np.int64) for shape in shapes)
    floats = (np.zeros((segments, recipes, *shape)) for shape in ((LEVELS + 1, RUNS), (len(SUMS),)))
    shared = np.zeros((segments, len(SHARED)))
    shared[:, 5] = -1  # no token yet
    return Tally(*counts, *floats, shared, np.zeros((segments, LEVELS + 1, RUNS), np.int64))


def merge(into: Tally, part: Tally) -> Tally:
    """Add a part of later tokens to `into`, which comes back."""
    for name, a, b in zip(Tally._fields, into, part, strict=True):
        if name == "sums":
            a[..., :-1] += b[..., :-1]
            a[..., -1] = np.maximum(a[..., -1], b[..., -1])  # NaN stays
        elif name == "shared":
            a[:, 0] = np.maximum(a[:, 0], b[:, 0])
            a[:, 1:4] += b[:, 1:4]
            later = b[:, 4] > a[:, 4]  # of equal tokens the first stays
            a[later, 4:] = b[later, 4:]
        else:
            a += b
    return into


def stats_of(recipe: Recipe, m: int, k: int, tally, segment: int, r: int) -> Stats:
    shared = dict(zip(SHARED, tally.shared[segment].tolist(), strict=True))
    shared |= {name: int(shared[name]) for name in ("nonzero_elements", "nonzero_blocks", "top_token")}
    scales = tally.scales[segment, r].sum(0).reshape(127, 2)
    return Stats(
        recipe=recipe,
        engine="cpu",
        features=k,
        tokens=m,
        elements=m * k,
        blocks=m * k // BLOCK,
        **shared,
        **dict(zip(COUNTS, tally.counts[segment, r].tolist(), strict=True)),
        **dict(zip(SUMS, tally.sums[segment, r].tolist(), strict=True)),
        n_four=int(scales[:, 1].sum()),
        n_scale_subnormal=int(scales[1:8].sum()),
        n_scale_zero=int(scales[0].sum()) - (m * k // BLOCK - shared["nonzero_blocks"]),
        scale_histogram=scales,
        code_histogram=tally.codes[segment, r].copy(),
        token_histogram=tally.token_bins[segment, r].copy(),
        block_histogram=tally.block_bins[segment, r].sum(0),
        run_tokens=tally.run_tokens[segment].copy(),
        run_nmse=tally.run_nmse[segment, r].copy(),
    )


class Chosen(NamedTuple):
    """What each block of a tile took, [LANES]."""

    is_four: np.ndarray  # int32
    err_sq: np.ndarray  # float64
    place: np.ndarray  # int32: a bin


@jit
def new_chosen():
    return Chosen(np.zeros(LANES, np.int32), np.empty(LANES), np.empty(LANES, np.int32))


def _sum_chosen(is_four, six, four, err_sq, sums):
    err_abs = x_hat_sq = dot = 0.0
    for i in range(LANES):
        takes_four = is_four[i] != 0
        err_sq[i] = four[ERR_SQ * LANES + i] if takes_four else six[ERR_SQ * LANES + i]
        err_abs += four[ERR_ABS * LANES + i] if takes_four else six[ERR_ABS * LANES + i]
        x_hat_sq += four[X_HAT_SQ * LANES + i] if takes_four else six[X_HAT_SQ * LANES + i]
        dot += four[DOT * LANES + i] if takes_four else six[DOT * LANES + i]
    sums[1] += err_abs
    sums[2] += x_hat_sq
    sums[3] += dot


sum_chosen = kernel(_sum_chosen, fastmath={"reassoc"})


@kernel
def count_elements(is_four, six, four, counts):
    """CLIPPED and FLUSHED into `counts`."""
    clipped = flushed = np.int32(0)
    for i in range(LANES):
        takes_four = is_four[i] != 0
        clipped = np.int32(clipped + (four[CLIPPED * LANES + i] if takes_four else six[CLIPPED * LANES + i]))
        flushed = np.int32(flushed + (four[FLUSHED * LANES + i] if takes_four else six[FLUSHED * LANES + i]))
    counts[3] += clipped
    counts[4] += flushed


@kernel
def count_codes(is_four, six, four, bmax, unsigned_zeros, n, codes):
    for odd in range(2):
        at, negative_at = (EVEN + odd) * LANES, (NEGATIVE_EVEN + odd) * LANES
        low = high = negative_low = negative_high = np.int32(0)  # two counts each, in halves
        for i in range(LANES):
            takes_four = is_four[i] != 0
            all_codes = four[at + i] if takes_four else six[at + i]
            negative = four[negative_at + i] if takes_four else six[negative_at + i]
            negative = np.int32(0) if unsigned_zeros and bmax[i] < FLT_MIN else negative
            low = np.int32(low + np.int32(all_codes & HALVES))
            high = np.int32(high + np.int32(np.int32(all_codes >> 8) & HALVES))
            negative_low = np.int32(negative_low + np.int32(negative & HALVES))
            negative_high = np.int32(negative_high + np.int32(np.int32(negative >> 8) & HALVES))
        for half, everything, below in ((0, low, negative_low), (1, high, negative_high)):
            for upper in range(2):
                code, shift = odd + 2 * half + 4 * upper, 16 * upper
                n_below = (below >> shift) & 0xFFFF
                codes[code] += ((everything >> shift) & 0xFFFF) - n_below
                codes[8 + code] += n_below
    codes[0] -= BLOCK * (LANES - n)  # the spare lanes' zeros


@kernel
def count_blocks(n, is_four, four_over_six, h6, h4, byte6, byte4, place, counts, scales):
    saturated_fours = chosen = saturated_sixes = np.int32(0)
    for i in range(LANES):
        over = np.int32(h4[i] > SCALE_LIMIT)
        saturated_fours = np.int32(saturated_fours + over)
        chosen = np.int32(chosen + np.int32(over & is_four[i]))
        saturated_sixes = np.int32(saturated_sixes + np.int32(np.int32(h6[i] > SCALE_LIMIT) & np.int32(1 - is_four[i])))
    counts[0] += saturated_fours if four_over_six else 0
    counts[1] += chosen
    counts[2] += chosen + saturated_sixes
    for i in range(LANES):
        place[i] = np.int32(2 * (byte4[i] if is_four[i] != 0 else byte6[i]) + is_four[i])
    count_places(n, place, scales)


@kernel
def count_places(n, place, histograms):
    """Count n places, of even and odd lanes apart: a count that waits for the one before costs its latency."""
    even, odd = histograms[0], histograms[1]
    for i in range(0, n - 1, 2):
        even[place[i]] += 1
        odd[place[i + 1]] += 1
    if n % 2:
        even[place[n - 1]] += 1


@kernel
def find_bins(err_sq, x_sq, place):
    """Bins of NMSEs as `stats.nmse_bin` has them; anything where there is none."""
    for i in range(place.shape[0]):
        ratio = np.float64(err_sq[i] / x_sq[i])
        place[i] = np.int32(min(max((ratio.view(np.int64) >> MANTISSA_SHIFT) - FIRST_BIN, 0), BINS - 1))


@kernel
def count_block_ratios(n, err_sq, x_sq, place, histograms):
    """Count the NMSEs of a tile's n blocks, those of zeros apart."""
    find_bins(err_sq, x_sq, place)
    there = np.int32(0)
    for i in range(n):
        there = np.int32(there + np.int32(x_sq[i] > 0))
    if there == n:
        count_places(n, place, histograms)
        return
    for i in range(n):
        if x_sq[i] > 0:
            histograms[0, place[i]] += 1


@kernel
def count_token_ratios(err_sq, x_sq, place, histogram):
    for start in range(0, err_sq.shape[0], LANES):
        n = min(LANES, err_sq.shape[0] - start)
        find_bins(err_sq[start : start + n], x_sq[start : start + n], place[:n])
        for i in range(n):
            if x_sq[start + i] > 0:
                histogram[place[i]] += 1


@kernel
def add_to_tokens(values, token, total):
    """Add a tile's values, one a block, to those of their tokens."""
    if token[0] == token[LANES - 1]:  # tokens rise along the lanes
        a = b = c = d = 0.0
        for i in range(0, LANES, 4):
            a += values[i]
            b += values[i + 1]
            c += values[i + 2]
            d += values[i + 3]
        total[token[0]] += (a + b) + (c + d)
    else:
        for i in range(LANES):
            total[token[i]] += values[i]


@kernel
def find_largest(is_four, six, four, largest):
    """The larger of `largest` and any error of a tile, as bits, which sort as magnitudes do and put NaN last."""
    for i in range(LARGEST * LANES, (LARGEST + 1) * LANES):
        largest = max(largest, four[i] if is_four[i - LARGEST * LANES] != 0 else six[i])
    return largest
