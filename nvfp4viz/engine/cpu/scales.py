"""FP32 scales of tokens and E4M3 scales of blocks, and the score by which 4over6 chooses: lanes side by side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...nvfp4 import BLOCK
from .numbers import FLT_MAX, FLT_MIN, ONE, ONE_AND_HALF, SIX, ZERO, e2m1, e4m3, flush, jit, kernel, reciprocal
from .tile import LANES


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
    rcp_table: np.ndarray  # int8 [2^23] in fast


class Scales(NamedTuple):
    """FP32 scales of some tokens, or of a tile's blocks; float32 [tokens] or [LANES] each."""

    encode: np.ndarray
    inverse: np.ndarray  # 1/encode, rounded or approximate
    decode: np.ndarray
    unit: np.ndarray  # what a candidate's score multiplies with: amax, the decode scale, or for fp16 the encode scale


class Candidate(NamedTuple):
    """One way to scale a tile's blocks, [LANES] each."""

    h: np.ndarray  # float32: the block scale before rounding
    scale: np.ndarray  # float32: the E4M3 block scale
    byte: np.ndarray  # int32: its byte
    output_scale: np.ndarray  # float32: what x is multiplied with
    diff: np.ndarray  # float32: its score in one column
    error: np.ndarray  # float32: its score


@jit
def new_candidate():
    floats = np.zeros((5, LANES), np.float32)
    return Candidate(floats[0], floats[1], np.zeros(LANES, np.int32), floats[2], floats[3], floats[4])


@jit
def new_scales(n):
    scales = np.empty((4, n), np.float32)
    return Scales(scales[0], scales[1], scales[2], scales[3])


@kernel
def spread(tokens, token, lanes):
    """Scales of a tile's blocks, from those of their tokens."""
    spread_one(tokens.encode, token, lanes.encode)
    spread_one(tokens.inverse, token, lanes.inverse)
    spread_one(tokens.decode, token, lanes.decode)
    spread_one(tokens.unit, token, lanes.unit)


@kernel
def spread_one(values, token, lanes):
    if token[0] == token[LANES - 1]:  # tokens rise along the lanes
        lanes[:] = values[token[0]]
    else:
        for i in range(LANES):
            lanes[i] = values[token[i]]


@kernel
def scale_tokens(amax, rules, scales):
    """Scales of tokens under a recipe, from their amax [tokens]."""
    encode, inverse, decode, unit = scales
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


@kernel
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


@kernel
def decoded(value, output_scale, scale, decode):
    """What a magnitude decodes to."""
    return (e2m1(flush(value) * output_scale) * scale) * decode


@kernel
def difference(value, output_scale, scale, unit, rules):
    """What a magnitude adds to its block's score, before it is squared or made positive."""
    value = flush(value)
    if rules.fp16_error:
        return e2m1(value * output_scale) * scale - flush(value * unit)
    return flush(flush(e2m1(value * output_scale) * scale * unit) / rules.score_range) - value


@kernel
def score(x, unit, rules, candidate):
    """A candidate's error in each block of a tile x [16 * LANES], summed in column order."""
    scale, output_scale, diff, error = candidate.scale, candidate.output_scale, candidate.diff, candidate.error
    for i in range(LANES):
        error[i] = ZERO
    for c in range(BLOCK):
        for i in range(LANES):
            diff[i] = difference(abs(x[c * LANES + i]), output_scale[i], scale[i], unit[i], rules)
        if rules.mse:
            for i in range(LANES):
                error[i] += flush(diff[i] * diff[i])
        else:
            for i in range(LANES):
                error[i] += flush(abs(diff[i]))


@kernel
def score_one(x, scale, output_scale, unit, rules):
    """`score` of one block's 16 values."""
    error = ZERO
    for c in range(BLOCK):
        diff = difference(abs(x[c]), output_scale, scale, unit, rules)
        error += flush(diff * diff) if rules.mse else flush(abs(diff))
    return error


@kernel
def choose_by_score(x, bmax, lanes, rules, six, four, best, is_four):
    """Leave in `best` the better candidate of each block of a tile, and in is_four, uint8 [LANES], where it is four."""
    scale_blocks(bmax, lanes, rules, ONE, six)
    if rules.four_over_six:
        scale_blocks(bmax, lanes, rules, ONE_AND_HALF, four)
        score(x, lanes.unit, rules, six)
        score(x, lanes.unit, rules, four)
    for i in range(LANES):
        is_four[i] = four.error[i] < six.error[i]  # a tie goes to 6
    for i in range(LANES):
        best.h[i] = four.h[i] if is_four[i] else six.h[i]
        best.scale[i] = four.scale[i] if is_four[i] else six.scale[i]
        best.output_scale[i] = four.output_scale[i] if is_four[i] else six.output_scale[i]
    for i in range(LANES):
        best.byte[i] = four.byte[i] if is_four[i] else six.byte[i]
