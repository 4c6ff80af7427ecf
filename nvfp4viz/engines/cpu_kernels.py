"""The arithmetic of NVFP4 and 4over6 compiled by numba: blocks lie across vector lanes, columns follow one another.

A tile is float32 [16, LANES]: column by lane, a block of 16 features in each lane. So every loop over lanes is free of
branches and becomes SIMD code, while the sums over a block keep their column order. Floats are float32 with each operation
rounded once (numba contracts nothing to fused multiply-adds unless asked to) but in the statistics, which are float64.
Subnormals are flushed where a bit of the result could depend on it: not before E2M1 rounding, which makes them 0 anyway,
nor in a sum of flushed terms. Errors of a candidate and of a decoded block need magnitudes alone: an element has the sign
of its x, except where the output scale is NaN, and then the block scale is 0.

Source of the steps: `nvfp4viz.arithmetic`, whose names are used here.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..formats import BLOCK
from ..stats import BINS, POISSON_THRESHOLDS, REPLICATES

LANES = 64
FLT_MIN, FLT_MAX = np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max
ZERO, ONE, SIX, E4M3_MAX, E4M3_NORMAL = (np.float32(v) for v in (0, 1, 6, 448, 2**-6))
ONE_AND_HALF, FP16_REBIAS = np.float32(1.5), np.float32(2.0**112)
EXPONENT, MAGNITUDE = 0x7F800000, 0x7FFFFFFF  # bits of a float32
THRESHOLDS = np.array(POISSON_THRESHOLDS, dtype=np.uint32)


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


class Tokens(NamedTuple):
    """Scales of a few tokens under one recipe, float32 [tokens] each."""

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
    weights: np.ndarray  # uint8 [tokens, REPLICATES], or [0, REPLICATES] where no statistics are wanted


class Tally(NamedTuple):
    """Statistics of some tokens under one recipe, as `Stats` has them; sums but for max_error."""

    counts: np.ndarray  # int64: the counts of COUNTS
    scale_histogram: np.ndarray
    pair_histogram: np.ndarray  # by packed byte, two codes each
    token_histogram: np.ndarray
    block_histogram: np.ndarray
    sums: np.ndarray  # float64: the sums of SUMS
    bootstrap_err_sq: np.ndarray
    max_error: np.ndarray  # float64 [1]


COUNTS = ("n_four", "n_four_saturated", "n_scale_saturated", "n_scale_subnormal", "n_scale_zero") + (
    "n_element_clipped",
    "n_element_flushed",
)
SUMS = ("err_sq", "err_abs", "x_hat_sq", "x_dot_x_hat")


def new_tally() -> Tally:
    shapes = ((len(COUNTS),), (127, 2), (256,), (BINS,), (BINS,))
    floats = ((len(SUMS),), (REPLICATES,), (1,))
    return Tally(*(np.zeros(s, np.int64) for s in shapes), *(np.zeros(s) for s in floats))


def _jit(function):
    options = {"nogil": True, "error_model": "numpy"}  # numpy: a division by 0 gives infinity
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to cache in can be written
        return numba.njit(**options)(function)


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
    x = x if x < SIX else SIX
    binade = to_bits(x if x > ONE else ONE) & EXPONENT
    shift = from_bits(binade + (22 << 23))  # its last place is half the binade: E2M1's step
    return (x + shift) - shift


@_jit
def e4m3(x):
    """The E4M3 magnitude nearest to a magnitude, and its byte: ties to even, 448 at most."""
    x = x if x < E4M3_MAX else E4M3_MAX
    binade = to_bits(x if x > E4M3_NORMAL else E4M3_NORMAL) & EXPONENT
    shift = from_bits(binade + (20 << 23))  # its last place is an eighth of the binade
    shifted = x + shift
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
def scale_tokens(amax, rules):
    """Tokens, from their amax [tokens]."""
    tokens = np.empty((4, amax.shape[0]), np.float32)
    encode, inverse, decode, unit = tokens[0], tokens[1], tokens[2], tokens[3]
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
    return Tokens(encode, inverse, decode, unit)


@_jit
def widen(bits, half, x, amax):
    """Values and amax of a row from its bits: int16 of bf16, or of fp16 where `half`, or int32. True if all are finite."""
    top = np.int32(0)
    for i in range(x.shape[0]):
        if bits.itemsize == 4:
            value = np.int32(bits[i])
        elif half:
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
def fill(bits, stride, half, features, blocks, first_token):
    """Fill Blocks with the tokens whose bits start every `stride` values. False if a value is not finite."""
    row = np.empty(features, np.float32)
    x, token = blocks.x, blocks.token
    finite = True
    block = 0
    for t in range(blocks.amax.shape[0]):
        finite &= widen(bits[t * stride : t * stride + features], half, row, blocks.amax[t : t + 1])
        for j in range(features // BLOCK):
            for c in range(BLOCK):
                x[block // LANES, c, block % LANES] = row[j * BLOCK + c]
            token[block // LANES, block % LANES] = t
            block += 1
    for spare in range(block, token.size):
        x[spare // LANES, :, spare % LANES] = ZERO
        token[spare // LANES, spare % LANES] = 0
    for tile in range(x.shape[0]):
        sum_tile(x[tile], token[tile], blocks.bmax[tile], blocks.x_sq[tile], blocks.token_x_sq)
    poisson_weights(first_token, blocks.weights)
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
    for i in range(LANES):
        token_x_sq[token[i]] += x_sq[i]


@_jit
def describe(blocks):
    """x_amax, non-zero elements, non-zero blocks, x_sq, and x_sq of each bootstrap replicate."""
    found = np.zeros(4 + blocks.weights.shape[1])
    found[0] = blocks.amax.max()
    for tile in range(blocks.x.shape[0]):
        nonzero = 0
        for c in range(BLOCK):
            for i in range(LANES):
                nonzero += blocks.x[tile, c, i] != ZERO
        found[1] += nonzero
        for i in range(LANES):
            found[2] += blocks.bmax[tile, i] != ZERO
    found[3] = blocks.token_x_sq.sum()
    bootstrap(blocks.token_x_sq, blocks.weights, found[4:])
    return found


class Candidate(NamedTuple):
    """One way to scale a tile's blocks, [LANES] each."""

    h: np.ndarray  # float32: the block scale before rounding
    scale: np.ndarray  # float32: the E4M3 block scale
    byte: np.ndarray  # int32: its byte
    output_scale: np.ndarray  # float32: what x is multiplied with
    error: np.ndarray  # float32: its score


@_jit
def new_candidate():
    floats = np.zeros((4, LANES), np.float32)
    return Candidate(floats[0], floats[1], np.zeros(LANES, np.int32), floats[2], floats[3])


@_jit
def scale_blocks(bmax, token, tokens, rules, factor, candidate):
    """Scales of a tile's blocks by one candidate: `factor` is 1 for 6 and 1.5 for 4."""
    for i in range(LANES):
        encode, inverse, top = tokens.encode[token[i]], tokens.inverse[token[i]], flush(bmax[i])
        if rules.fast:
            h = flush(encode * flush(top * rules.sixth))
        elif rules.four_over_six:
            h = flush(flush(top / SIX) * encode)
        else:
            h = flush(top * flush(encode * rules.sixth))
        h = flush(h * factor)
        scale, byte = e4m3(h)
        output_scale = reciprocal(flush(scale * inverse), rules)
        output_scale = FLT_MAX if output_scale > FLT_MAX and not rules.fast else output_scale
        candidate.h[i], candidate.scale[i], candidate.byte[i] = h, scale, byte
        candidate.output_scale[i] = output_scale if top != ZERO else ZERO


@_jit
def score(x, token, tokens, rules, candidate):
    """A candidate's error in each block of a tile x [16, LANES], summed in column order."""
    scale, output_scale, error = candidate.scale, candidate.output_scale, candidate.error
    unit = tokens.unit[token]
    error[:] = ZERO
    for c in range(BLOCK):
        if rules.fp16_error:
            for i in range(LANES):
                value = flush(abs(x[c, i]))
                diff = e2m1(value * output_scale[i]) * scale[i] - flush(value * unit[i])
                error[i] += flush(diff * diff if rules.mse else abs(diff))
        else:
            for i in range(LANES):
                value = flush(abs(x[c, i]))
                decoded = flush(e2m1(value * output_scale[i]) * scale[i] * unit[i])
                diff = flush(decoded / rules.score_range) - value
                error[i] += flush(diff * diff if rules.mse else abs(diff))


@_jit
def choose(x, bmax, token, tokens, rules, six, four):
    """Leave in `six` the better candidate of each block, and return where it is four: uint8 [LANES]."""
    is_four = np.zeros(LANES, np.uint8)
    scale_blocks(bmax, token, tokens, rules, ONE, six)
    if not rules.four_over_six:
        return is_four
    scale_blocks(bmax, token, tokens, rules, ONE_AND_HALF, four)
    score(x, token, tokens, rules, six)
    score(x, token, tokens, rules, four)
    for i in range(LANES):
        better = four.error[i] < six.error[i]  # a tie goes to 6
        is_four[i] = better
        six.h[i] = four.h[i] if better else six.h[i]
        six.scale[i] = four.scale[i] if better else six.scale[i]
        six.byte[i] = four.byte[i] if better else six.byte[i]
        six.output_scale[i] = four.output_scale[i] if better else six.output_scale[i]
    return is_four


@_jit
def encode(x, bmax, rules, candidate, elements, pairs):
    """E2M1 magnitudes [16, LANES] and packed codes uint8 [8, LANES] of a tile."""
    for c in range(BLOCK):
        for i in range(LANES):
            scaled = flush(abs(x[c, i])) * candidate.output_scale[i]
            element = e2m1(scaled)
            elements[c, i] = element
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
    six, four = new_candidate(), new_candidate()
    elements, pairs = np.empty((BLOCK, LANES), np.float32), np.empty((BLOCK // 2, LANES), np.uint8)
    for tile in range(blocks.x.shape[0]):
        x, bmax = blocks.x[tile], blocks.bmax[tile]
        choose(x, bmax, blocks.token[tile], tokens, rules, six, four)
        encode(x, bmax, rules, six, elements, pairs)
        first = tile * LANES
        for i in range(min(LANES, scales.shape[0] - first)):
            scales[first + i] = six.byte[i]
            for c in range(BLOCK // 2):
                codes[first + i, c] = pairs[c, i]
    return tokens.encode, tokens.decode


@_jit
def analyze(blocks, n_blocks, rules, tally):
    """Add to `tally` what quantizing the blocks by one recipe does."""
    tokens = scale_tokens(blocks.amax, rules)
    token_err_sq = np.zeros(blocks.amax.shape[0])
    six, four = new_candidate(), new_candidate()
    elements, pairs = np.empty((BLOCK, LANES), np.float32), np.empty((BLOCK // 2, LANES), np.uint8)
    per_lane = np.zeros((3, LANES))  # err_abs, x_hat_sq, x_dot_x_hat
    max_error = np.zeros(LANES)
    lane_counts = np.zeros((2, LANES), np.int64)
    for tile in range(blocks.x.shape[0]):
        x, bmax, token = blocks.x[tile], blocks.bmax[tile], blocks.token[tile]
        is_four = choose(x, bmax, token, tokens, rules, six, four)
        encode(x, bmax, rules, six, elements, pairs)
        err_sq = measure(x, token, tokens, rules, six, elements, per_lane, max_error, lane_counts)
        count_blocks(
            min(LANES, n_blocks - tile * LANES),
            bmax,
            blocks.x_sq[tile],
            err_sq,
            six,
            four.h,
            is_four,
            pairs,
            rules,
            tally,
        )
        for i in range(LANES):
            token_err_sq[token[i]] += err_sq[i]
    tally.counts[5] += lane_counts[0].sum()
    tally.counts[6] += lane_counts[1].sum()
    tally.sums[0] += token_err_sq.sum()
    for s in range(3):
        tally.sums[s + 1] += per_lane[s].sum()
    tally.max_error[0] = max(tally.max_error[0], max_error.max())
    for t in range(token_err_sq.shape[0]):
        count_ratio(token_err_sq[t], blocks.token_x_sq[t], rules, tally.token_histogram)
    bootstrap(token_err_sq, blocks.weights, tally.bootstrap_err_sq)


@_jit
def measure(x, token, tokens, rules, candidate, elements, per_lane, max_error, lane_counts):
    """Squared error of each block of a tile, and in each lane's running totals the rest."""
    err_sq = np.zeros(LANES)
    decode = tokens.decode[token]
    for c in range(BLOCK):
        for i in range(LANES):
            value = abs(x[c, i])
            decoded = (elements[c, i] * candidate.scale[i]) * decode[i]
            err = np.float64(decoded) - np.float64(value)
            err_sq[i] += err * err
            per_lane[0, i] += abs(err)
            per_lane[1, i] += np.float64(decoded) * np.float64(decoded)
            per_lane[2, i] += np.float64(value) * np.float64(decoded)
            max_error[i] = max(max_error[i], abs(err))
        for i in range(LANES):
            value = abs(x[c, i])
            decoded = (elements[c, i] * candidate.scale[i]) * decode[i]
            scaled = flush(value) * candidate.output_scale[i]
            lane_counts[0, i] += (scaled > rules.element_limit) & (candidate.byte[i] != 0)
            lane_counts[1, i] += (decoded == ZERO) & (value != ZERO)
    return err_sq


@_jit
def count_ratio(err_sq, x_sq, rules, histogram):
    """Count a block's or token's NMSE where it has one, as `nvfp4viz.stats.nmse_bin` does."""
    if x_sq > 0:
        place = (np.float64(err_sq / x_sq).view(np.int64) >> rules.bin_shift) - rules.first_bin
        histogram[min(max(place, 0), histogram.shape[0] - 1)] += 1


@_jit
def count_blocks(n, bmax, x_sq, err_sq, candidate, four_h, is_four, pairs, rules, tally):
    """Count the n blocks of a tile by scale, code and error."""
    counts = tally.counts
    for i in range(n):
        byte, there = candidate.byte[i], bmax[i] != ZERO
        h = candidate.h[i]
        counts[0] += is_four[i]
        counts[1] += four_h[i] > rules.scale_limit
        counts[2] += (h > rules.scale_limit) & there
        counts[3] += (byte >= 1) & (byte <= 7) & there
        counts[4] += (byte == 0) & there
        tally.scale_histogram[byte, is_four[i]] += 1
        count_ratio(err_sq[i], x_sq[i], rules, tally.block_histogram)
    for c in range(BLOCK // 2):
        for i in range(n):
            tally.pair_histogram[pairs[c, i]] += 1


@_jit
def hash32(x):
    """Chris Wellons' lowbias32, as `nvfp4viz.stats` has it."""
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@_jit
def poisson_weights(first_token, weights):
    """`nvfp4viz.stats.poisson_weights`, into uint8 [tokens, REPLICATES]."""
    replicate = np.empty(weights.shape[1], np.uint32)
    for r in range(weights.shape[1]):
        replicate[r] = hash32(np.uint32(r + 0x9E3779B9))
    for t in range(weights.shape[0]):
        token = hash32(np.uint32((first_token + t) & 0xFFFFFFFF))
        for r in range(weights.shape[1]):
            draw = hash32(np.uint32(token ^ replicate[r]))
            weight = np.uint8(0)
            for k in range(THRESHOLDS.shape[0]):
                weight += draw >= THRESHOLDS[k]
            weights[t, r] = weight


@_jit
def bootstrap(values, weights, total):
    """Add to total [REPLICATES] the weighted sum of per-token values in each replicate."""
    for t in range(values.shape[0]):
        for r in range(total.shape[0]):
            total[r] += np.float64(weights[t, r]) * values[t]
