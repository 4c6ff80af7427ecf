"""The arithmetic of NVFP4 and 4over6 compiled by numba: blocks lie across vector lanes, columns follow one another.

A tile is float32 [16, LANES]: column by lane, a block of 16 features in each lane. So loops over lanes have neither
branches nor order and become SIMD code, while sums over a block keep their column order. Candidates and codes are
float32 with each operation rounded once (numba fuses no multiply-adds unless asked to), statistics float64.

Subnormals are flushed wherever a bit could depend on it: not before E2M1 rounding, which makes them 0 anyway, nor in
sums of flushed terms. Errors need magnitudes alone: an element has the sign of its x, except where x times its output
scale is NaN (`encode`). Steps have the names of `nvfp4viz.arithmetic`, where their source is given.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from ...nvfp4 import BLOCK
from ...stats import BINS, LEVELS, RUNS, SHORTEST, SPARE_BITS

LANES = 256  # pays for calls, and leaves a tile in a first-level cache
BF16, FP16, FP32 = range(3)
FLT_MIN, FLT_MAX = np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max
ZERO, ONE, SIX, E4M3_MAX = (np.float32(v) for v in (0, 1, 6, 448))
ONE_AND_HALF, FP16_REBIAS = np.float32(1.5), np.float32(2.0**112)
SOURCE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest() if Path(__file__).exists() else ""
EXPONENT, MAGNITUDE = 0x7F800000, 0x7FFFFFFF  # bits of a float32
ONE_BITS, FOUR_BITS, E4M3_NORMAL_BITS, E4M3_TOP_BITS = (int(np.float32(v).view(np.int32)) for v in (1, 4, 2**-6, 256))
HALF_SPARE = 1 << (SPARE_BITS - 1)
NOWHERE = 255  # the slot of a token whose sequence is not known


class Rules(NamedTuple):
    """A recipe as the kernels want it."""

    four_over_six: bool
    mse: bool
    fp16_error: bool
    per_token: bool
    fast: bool
    caller_scale: np.float32  # s
    full_range: np.float32  # rn(1/s)
    sixth: np.float32  # 1/6: rounded, or approximate in fast
    score_range: np.float32  # what candidate scores divide by: 6 * e4m3_max per token, 1 per tensor
    encode: np.float32  # per tensor only
    decode: np.float32
    element_limit: np.float32  # above is clipped, or saturated
    scale_limit: np.float32
    bin_shift: int  # see `stats.nmse_bin`
    first_bin: int
    rcp_table: np.ndarray  # int8 [2^23] in fast


class Scales(NamedTuple):
    """FP32 scales of some tokens, or of a tile's blocks; float32 [tokens] or [LANES] each."""

    encode: np.ndarray
    inverse: np.ndarray  # 1/encode, rounded or approximate
    decode: np.ndarray
    unit: np.ndarray  # what a candidate's score multiplies with: amax, the decode scale, or for fp16 the encode scale


class Blocks(NamedTuple):
    """Some tokens' blocks in lanes, with what is known without a recipe. Lanes past the last block are zeros."""

    x: np.ndarray  # float32 [tiles, 16, LANES]
    token: np.ndarray  # int64 [tiles, LANES]: each block's token
    bmax: np.ndarray  # float32 [tiles, LANES]
    x_sq: np.ndarray  # float64 [tiles, LANES]
    amax: np.ndarray  # float32 [tokens]
    token_x_sq: np.ndarray  # float64 [tokens]
    slots: np.ndarray  # uint8 [tokens, LEVELS + 1], see `stats.run_sums`; [0, LEVELS + 1] where nothing is measured


class Tally(NamedTuple):
    """Statistics of some tokens under one recipe, as `Stats` has them; sums but for max_error."""

    counts: np.ndarray  # int64: the counts of COUNTS
    scale_histogram: np.ndarray
    pair_histogram: np.ndarray  # by packed byte, two codes each
    token_histogram: np.ndarray
    block_histogram: np.ndarray
    sums: np.ndarray  # float64: the sums of SUMS
    run_nmse: np.ndarray
    max_error: np.ndarray  # float64 [1]


COUNTS = ("n_four", "n_four_saturated", "n_scale_saturated", "n_scale_subnormal", "n_scale_zero")
COUNTS = (*COUNTS, "n_element_clipped", "n_element_flushed")
SUMS = ("err_sq", "err_abs", "x_hat_sq", "x_dot_x_hat")


def new_tally() -> Tally:
    shapes = ((len(COUNTS),), (127, 2), (256,), (BINS,), (BINS,))
    floats = ((len(SUMS),), (LEVELS + 1, RUNS), (1,))
    return Tally(*(np.zeros(s, np.int64) for s in shapes), *(np.zeros(s) for s in floats))


def _jit(function):
    """`function` compiled at its first call and kept on disk, where some folder for that can be written."""
    options = {"nogil": True, "error_model": "numpy"}  # numpy: a division by 0 gives infinity
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
    file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):  # numba looks for changes in the function's own file, not in what it calls
        file._source_stamp = (file._source_stamp, SOURCE)
    return compiled


@_jit
def to_bits(x):
    return np.float32(x).view(np.int32)


@_jit
def from_bits(bits):
    return np.int32(bits).view(np.float32)


@_jit
def flush(x):
    """A magnitude with subnormals as 0; NaN stays."""
    return ZERO if x < FLT_MIN else x


@_jit
def e2m1(x):
    """The E2M1 magnitude nearest to a magnitude: ties to even, 6 at most, NaN to 6."""
    binade = min(max(to_bits(x) & EXPONENT, ONE_BITS), FOUR_BITS)
    shift = from_bits(binade + (22 << 23))  # its last place is half the binade: E2M1's step
    return ((x if x < SIX else SIX) + shift) - shift


@_jit
def e4m3(x):
    """The E4M3 magnitude nearest to a magnitude, and its byte: ties to even, 448 at most."""
    binade = min(max(to_bits(x) & EXPONENT, E4M3_NORMAL_BITS), E4M3_TOP_BITS)
    shift = from_bits(binade + (20 << 23))  # its last place is an eighth of the binade
    shifted = (x if x < E4M3_MAX else E4M3_MAX) + shift
    return shifted - shift, (to_bits(shifted) - to_bits(shift)) + 8 * ((binade >> 23) - (127 - 6))


@_jit
def reciprocal(x, rules):
    """1/x of a magnitude, as the recipe's arithmetic takes it."""
    if not rules.fast:
        return flush(ONE / x)
    x = flush(x)
    rounded = ONE / x
    if rounded <= FLT_MAX and rounded >= FLT_MIN:
        delta = rules.rcp_table[to_bits(x) & 0x7FFFFF]
        return flush(from_bits(to_bits(rounded) + delta))
    return flush(rounded)


@_jit
def new_scales(n):
    scales = np.empty((4, n), np.float32)
    return Scales(scales[0], scales[1], scales[2], scales[3])


@_jit
def spread(tokens, token, lanes):
    """Scales of a tile's blocks, from those of their tokens."""
    spread_one(tokens.encode, token, lanes.encode)
    spread_one(tokens.inverse, token, lanes.inverse)
    spread_one(tokens.decode, token, lanes.decode)
    spread_one(tokens.unit, token, lanes.unit)


@_jit
def spread_one(values, token, lanes):
    if token[0] == token[LANES - 1]:  # tokens rise along the lanes
        lanes[:] = values[token[0]]
    else:
        for i in range(LANES):
            lanes[i] = values[token[i]]


@_jit
def scale_tokens(amax, rules):
    """Scales of tokens under a recipe, from their amax [tokens]."""
    encode, inverse, decode, unit = scales = new_scales(amax.shape[0])
    for t in range(amax.shape[0]):
        top = flush(amax[t])
        if not rules.per_token:
            encode[t], decode[t] = rules.encode, rules.decode
        elif rules.fast:
            decode[t] = flush(top * rules.caller_scale)
            encode[t] = reciprocal(decode[t], rules) if decode[t] != ZERO else ZERO
        else:
            encode[t] = min(flush(rules.full_range / top), FLT_MAX)
            encode[t] = encode[t] if encode[t] != ZERO else ONE
            decode[t] = flush(ONE / encode[t]) if top != ZERO else ZERO
        inverse[t] = reciprocal(encode[t], rules)
        unit[t] = encode[t] if rules.fp16_error else (top if rules.per_token else inverse[t])
    return scales


@_jit
def widen(bits, kind, x, amax):
    """Values and amax of a row from its bits as int16: of BF16, FP16, or FP32 in pairs. True if all are finite."""
    top = np.int32(0)
    for i in range(x.shape[0]):
        if kind == FP32:
            value = np.int32((bits[2 * i] & 0xFFFF) | bits[2 * i + 1] << 16)
        elif kind == FP16:
            magnitude = to_bits(from_bits((bits[i] & 0x7FFF) << 13) * FP16_REBIAS)
            infinite = EXPONENT if (bits[i] & 0x7C00) == 0x7C00 else 0
            value = np.int32(magnitude | infinite | (bits[i] & -0x8000) << 16)
        else:
            value = np.int32(bits[i] << 16)
        x[i] = from_bits(value)
        top = max(top, np.int32(value & MAGNITUDE))
    amax[0] = from_bits(top)
    return top < EXPONENT


@_jit
def fill(bits, stride, kind, features, blocks, place):
    """Fill Blocks with the tokens whose bits start every `stride` int16. False if a value is not finite.

    place: int64 [3]: the first token's index in its stream, `at` and `length` of its sequences, or a length of 0.
    """
    row, width = np.empty(features, np.float32), features * (2 if kind == FP32 else 1)
    x, token = blocks.x, blocks.token
    finite = True
    block = 0
    for t in range(blocks.amax.shape[0]):
        finite &= widen(bits[t * stride : t * stride + width], kind, row, blocks.amax[t : t + 1])
        for j in range(features // BLOCK):
            for c in range(BLOCK):
                x[block // LANES, c, block % LANES] = row[j * BLOCK + c]
            token[block // LANES, block % LANES] = t
            block += 1
    for spare in range(block, token.size):
        x[spare // LANES, :, spare % LANES] = ZERO
        token[spare // LANES, spare % LANES] = blocks.amax.shape[0] - 1
    for tile in range(x.shape[0]):
        sum_tile(x[tile], token[tile], blocks.bmax[tile], blocks.x_sq[tile], blocks.token_x_sq)
    find_slots(place, blocks.slots)
    return finite


@_jit
def sum_tile(x, token, bmax, x_sq, token_x_sq):
    bmax[:] = ZERO
    x_sq[:] = 0.0
    for c in range(BLOCK):
        for i in range(LANES):
            bmax[i] = max(bmax[i], abs(x[c, i]))
        for i in range(LANES):
            value = np.float64(x[c, i])
            x_sq[i] += value * value
    add_to_tokens(x_sq, token, token_x_sq)


@_jit
def add_to_tokens(values, token, total):
    """Add a tile's values, one a block, to those of their tokens."""
    if token[0] == token[LANES - 1]:  # tokens rise along the lanes
        even = odd = 0.0
        for i in range(0, LANES, 2):
            even += values[i]
            odd += values[i + 1]
        total[token[0]] += even + odd
    else:
        for i in range(LANES):
            total[token[i]] += values[i]


@_jit
def describe(blocks, first_token):
    """x_amax, non-zero elements and blocks, x_sq, the largest token's x_sq and index, and run_tokens, one by one."""
    found = np.zeros(6 + (LEVELS + 1) * RUNS)
    found[0] = blocks.amax.max()
    for tile in range(blocks.x.shape[0]):
        nonzero = np.int32(0)
        for c in range(BLOCK):
            for i in range(LANES):
                nonzero = np.int32(nonzero + (blocks.x[tile, c, i] != ZERO))
        found[1] += nonzero
        for i in range(LANES):
            found[2] += blocks.bmax[tile, i] != ZERO
    found[3] = blocks.token_x_sq.sum()
    found[5] = -1
    for t in range(blocks.token_x_sq.shape[0]):
        rounded = (np.float64(blocks.token_x_sq[t]).view(np.int64) + HALF_SPARE) >> SPARE_BITS << SPARE_BITS
        x_sq = np.int64(rounded).view(np.float64)  # see `stats.top_of`
        if x_sq > found[4]:
            found[4], found[5] = x_sq, first_token + t
        for row in range(blocks.slots.shape[1]):
            if blocks.token_x_sq[t] > 0 and blocks.slots[t, row] != NOWHERE:
                found[6 + row * RUNS + blocks.slots[t, row]] += 1
    return found


class Candidate(NamedTuple):
    """One way to scale a tile's blocks, [LANES] each."""

    h: np.ndarray  # float32: the block scale before rounding
    scale: np.ndarray  # float32: the E4M3 block scale
    byte: np.ndarray  # int32: its byte
    output_scale: np.ndarray  # float32: what x is multiplied with
    diff: np.ndarray  # float32: its score in one column
    error: np.ndarray  # float32: its score


@_jit
def new_candidate():
    floats = np.zeros((5, LANES), np.float32)
    return Candidate(floats[0], floats[1], np.zeros(LANES, np.int32), floats[2], floats[3], floats[4])


@_jit
def scale_blocks(bmax, lanes, rules, factor, candidate):
    """Scales of a tile's blocks by one candidate: `factor` is 1 for 6 and 1.5 for 4."""
    h, output_scale = candidate.h, candidate.output_scale
    encode, inverse = lanes.encode, lanes.inverse
    if rules.fast:
        for i in range(LANES):
            h[i] = flush(encode[i] * flush(flush(bmax[i]) * rules.sixth))
    elif rules.four_over_six:
        for i in range(LANES):
            h[i] = flush(flush(flush(bmax[i]) / SIX) * encode[i])
    else:
        for i in range(LANES):
            h[i] = flush(flush(bmax[i]) * flush(encode[i] * rules.sixth))
    for i in range(LANES):
        h[i] = flush(h[i] * factor)
        candidate.scale[i], candidate.byte[i] = e4m3(h[i])
        output_scale[i] = flush(candidate.scale[i] * inverse[i])
    if rules.fast:
        for i in range(LANES):
            output_scale[i] = reciprocal(output_scale[i], rules)
    else:
        for i in range(LANES):
            output_scale[i] = flush(ONE / output_scale[i])
        for i in range(LANES):
            output_scale[i] = output_scale[i] if output_scale[i] <= FLT_MAX else FLT_MAX  # of NaN too
    for i in range(LANES):
        output_scale[i] = ZERO if bmax[i] < FLT_MIN else output_scale[i]


@_jit
def score(x, lanes, rules, candidate):
    """A candidate's error in each block of a tile x [16, LANES], summed in column order."""
    scale, output_scale, diff, error = candidate.scale, candidate.output_scale, candidate.diff, candidate.error
    unit = lanes.unit
    error[:] = ZERO
    for c in range(BLOCK):
        if rules.fp16_error:
            for i in range(LANES):
                value = flush(abs(x[c, i]))
                diff[i] = e2m1(value * output_scale[i]) * scale[i] - flush(value * unit[i])
        else:
            for i in range(LANES):
                value = flush(abs(x[c, i]))
                decoded = flush(e2m1(value * output_scale[i]) * scale[i] * unit[i])
                diff[i] = flush(decoded / rules.score_range) - value
        if rules.mse:
            for i in range(LANES):
                error[i] += flush(diff[i] * diff[i])
        else:
            for i in range(LANES):
                error[i] += flush(abs(diff[i]))


@_jit
def choose(x, bmax, lanes, rules, six, four, best, is_four):
    """Leave in `best` the better candidate of each block, and in is_four, uint8 [LANES], where it is four."""
    scale_blocks(bmax, lanes, rules, ONE, six)
    if rules.four_over_six:
        scale_blocks(bmax, lanes, rules, ONE_AND_HALF, four)
        score(x, lanes, rules, six)
        score(x, lanes, rules, four)
    for i in range(LANES):
        is_four[i] = four.error[i] < six.error[i]  # a tie goes to 6
    for i in range(LANES):
        best.h[i] = four.h[i] if is_four[i] else six.h[i]
        best.scale[i] = four.scale[i] if is_four[i] else six.scale[i]
        best.output_scale[i] = four.output_scale[i] if is_four[i] else six.output_scale[i]
    for i in range(LANES):
        best.byte[i] = four.byte[i] if is_four[i] else six.byte[i]


@_jit
def encode(x, bmax, rules, candidate, elements, pairs):
    """E2M1 elements of magnitudes [16, LANES], and packed codes uint8 [8, LANES], of a tile.

    An element is negative only where its sign is not that of its x.
    """
    for c in range(BLOCK):
        for i in range(LANES):
            scaled = flush(abs(x[c, i])) * candidate.output_scale[i]
            element = e2m1(scaled)
            odd = scaled != scaled and x[c, i] < ZERO  # NaN becomes +6, whatever the sign of x
            elements[c, i] = -element if odd else element
            bits = to_bits(element)
            index = max((bits >> 22) - 252, min(bits, 1))  # a half has no exponent of its own in E2M1
            signed = scaled == scaled and (bmax[i] >= FLT_MIN or not rules.four_over_six)
            sign = (to_bits(x[c, i]) >> 28) & 8 if signed else 0
            code = np.uint8(index | sign)
            pairs[c // 2, i] = code if c % 2 == 0 else pairs[c // 2, i] | np.uint8(code << 4)


@_jit
def quantize(blocks, rules, codes, scales):
    """Codes uint8 [blocks, 8] and scale bytes uint8 [blocks]; returns the tokens' encode and decode scales."""
    tokens = scale_tokens(blocks.amax, rules)
    lanes, is_four = new_scales(LANES), np.zeros(LANES, np.uint8)
    six, four, best = new_candidate(), new_candidate(), new_candidate()
    elements, pairs = np.empty((BLOCK, LANES), np.float32), np.empty((BLOCK // 2, LANES), np.uint8)
    for tile in range(blocks.x.shape[0]):
        x, bmax = blocks.x[tile], blocks.bmax[tile]
        spread(tokens, blocks.token[tile], lanes)
        choose(x, bmax, lanes, rules, six, four, best, is_four)
        encode(x, bmax, rules, best, elements, pairs)
        first = tile * LANES
        for i in range(min(LANES, scales.shape[0] - first)):
            scales[first + i] = best.byte[i]
            for c in range(BLOCK // 2):
                codes[first + i, c] = pairs[c, i]
    return tokens.encode, tokens.decode


@_jit
def analyze(blocks, n_blocks, rules, tally):
    """Add to `tally` what quantizing the blocks by one recipe does."""
    tokens = scale_tokens(blocks.amax, rules)
    token_err_sq = np.zeros(blocks.amax.shape[0])
    lanes, is_four = new_scales(LANES), np.zeros(LANES, np.uint8)
    six, four, best = new_candidate(), new_candidate(), new_candidate()
    elements, pairs = np.empty((BLOCK, LANES), np.float32), np.empty((BLOCK // 2, LANES), np.uint8)
    per_lane = np.zeros((3, LANES))  # err_abs, x_hat_sq, x_dot_x_hat
    err_sq, max_error = np.empty(LANES), np.zeros(LANES)
    lane_counts = np.zeros((2, LANES), np.int32)
    for tile in range(blocks.x.shape[0]):
        x, bmax, token = blocks.x[tile], blocks.bmax[tile], blocks.token[tile]
        spread(tokens, token, lanes)
        choose(x, bmax, lanes, rules, six, four, best, is_four)
        encode(x, bmax, rules, best, elements, pairs)
        measure(x, lanes.decode, rules, best, elements, err_sq, per_lane, max_error, lane_counts)
        n = min(LANES, n_blocks - tile * LANES)
        count_blocks(n, bmax, best, four.h, is_four, pairs, rules, tally)
        count_ratios(n, err_sq, blocks.x_sq[tile], rules, tally.block_histogram)
        add_to_tokens(err_sq, token, token_err_sq)
    tally.counts[5] += lane_counts[0].sum()
    tally.counts[6] += lane_counts[1].sum()
    tally.sums[0] += token_err_sq.sum()
    for s in range(3):
        tally.sums[s + 1] += per_lane[s].sum()
    tally.max_error[0] = max(tally.max_error[0], max_error.max())
    if tally.sums[1] != tally.sums[1]:
        tally.max_error[0] = np.nan  # which a maximum drops
    count_ratios(token_err_sq.shape[0], token_err_sq, blocks.token_x_sq, rules, tally.token_histogram)
    add_to_runs(token_err_sq, blocks.token_x_sq, blocks.slots, tally.run_nmse)


@_jit
def decode_element(x, element, scale, decode):
    """Magnitude and decoded magnitude of an element, and its error; float64, but decoded in float32."""
    value, decoded = np.float64(abs(x)), np.float64((element * scale) * decode)
    return value, decoded, decoded - value


@_jit
def measure(x, decode, rules, candidate, elements, err_sq, per_lane, max_error, lane_counts):
    """Squared error of each block of a tile, and in each lane's running totals the rest."""
    err_sq[:] = 0.0
    scale = candidate.scale
    for c in range(0, BLOCK, 2):  # by two, since what they load and store costs as much as the arithmetic
        for i in range(LANES):
            value, decoded, err = decode_element(x[c, i], elements[c, i], scale[i], decode[i])
            value2, decoded2, err2 = decode_element(x[c + 1, i], elements[c + 1, i], scale[i], decode[i])
            err_sq[i] = (err_sq[i] + err * err) + err2 * err2
            per_lane[0, i] += abs(err) + abs(err2)
            per_lane[1, i] += decoded * decoded + decoded2 * decoded2
            per_lane[2, i] += value * decoded + value2 * decoded2
            max_error[i] = max(max_error[i], max(abs(err), abs(err2)))
    for c in range(BLOCK):
        for i in range(LANES):
            value = abs(x[c, i])
            decoded = (elements[c, i] * scale[i]) * decode[i]
            scaled = flush(value) * candidate.output_scale[i]
            lane_counts[0, i] += (scaled > rules.element_limit) & (candidate.byte[i] != 0)
            lane_counts[1, i] += (decoded == ZERO) & (value != ZERO)


@_jit
def count_ratios(n, err_sq, x_sq, rules, histogram):
    """Count n NMSEs of blocks or tokens where they have one, as `nvfp4viz.stats.nmse_bin` does."""
    for i in range(n):
        if x_sq[i] > 0:
            place = (np.float64(err_sq[i] / x_sq[i]).view(np.int64) >> rules.bin_shift) - rules.first_bin
            histogram[min(max(place, 0), histogram.shape[0] - 1)] += 1


@_jit
def count_blocks(n, bmax, candidate, four_h, is_four, pairs, rules, tally):
    """Count the n blocks of a tile by scale and code; the zeros in its other lanes count nowhere."""
    fours = saturated_fours = saturated = subnormal = zero = np.int32(0)
    for i in range(LANES):
        byte, there = candidate.byte[i], bmax[i] != ZERO
        fours = np.int32(fours + is_four[i])
        saturated_fours = np.int32(saturated_fours + (four_h[i] > rules.scale_limit))
        saturated = np.int32(saturated + (candidate.h[i] > rules.scale_limit))
        subnormal = np.int32(subnormal + ((byte >= 1) & (byte <= 7)))
        zero = np.int32(zero + ((byte == 0) & there))
    tally.counts[0] += fours
    tally.counts[1] += saturated_fours
    tally.counts[2] += saturated
    tally.counts[3] += subnormal
    tally.counts[4] += zero
    for i in range(n):
        tally.scale_histogram[candidate.byte[i], is_four[i]] += 1
    for c in range(BLOCK // 2):
        for i in range(n):
            tally.pair_histogram[pairs[c, i]] += 1


@_jit
def find_slots(place, slots):
    """The slots of tokens in rows of runs, and in that of sequences, as `nvfp4viz.stats.run_sums` has them."""
    for t in range(slots.shape[0]):
        for level in range(LEVELS):
            slots[t, level] = (place[0] + t) >> (SHORTEST + level) & (RUNS - 1)
        slots[t, LEVELS] = (place[1] + t) // place[2] & (RUNS - 1) if place[2] else NOWHERE


@_jit
def add_to_runs(err_sq, x_sq, slots, sums):
    """Add each token's NMSE to sums [LEVELS + 1, RUNS] where it belongs."""
    for t in range(slots.shape[0]):
        if x_sq[t] > 0:
            nmse = err_sq[t] / x_sq[t]
            for row in range(slots.shape[1]):
                if slots[t, row] != NOWHERE:
                    sums[row, slots[t, row]] += nmse
