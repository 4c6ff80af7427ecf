"""Squared errors of a tile's blocks under counterfactual quantizers and under both candidates, compiled by numba.

Counterfactuals are float64; candidates are FP32, as an engine computes them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...nvfp4 import BLOCK
from .numbers import ONE, ONE_AND_HALF, e4m3, jit
from .scales import decoded, new_candidate, new_scales, scale_blocks, scale_tokens, score, spread
from .tile import LANES, Tile, fill, row_amax

EXPONENT = 0x7FF0000000000000  # bits of a float64


class Blocks(NamedTuple):
    """All blocks of some tokens, in tiles. Lanes past the last block are zeros."""

    x: np.ndarray  # float32 [tiles, 16 * LANES]
    token: np.ndarray  # int64 [tiles, LANES]: each block's token
    bmax: np.ndarray  # float32 [tiles, LANES]
    x_sq: np.ndarray  # float64 [tiles, LANES]
    amax: np.ndarray  # float32 [tokens]


def new_blocks(m: int, k: int) -> Blocks:
    tiles = -(-m * k // (BLOCK * LANES))
    by_lane = tiles, LANES
    return Blocks(
        np.empty((tiles, BLOCK * LANES), np.float32), np.empty(by_lane, np.int64), np.empty(by_lane, np.float32),
        np.empty(by_lane), np.empty(m, np.float32),
    )  # fmt: skip


@jit
def fill_blocks(memory, halves, stride, kind, features, blocks):
    """Fill Blocks with all rows. False if a value is not finite."""
    if not row_amax(memory, halves, stride, kind, features, blocks.amax):
        return False
    words, nonzero, n = np.empty(BLOCK * LANES, np.int32), np.empty(LANES, np.int32), features // BLOCK
    total = blocks.amax.shape[0] * n
    for t in range(blocks.x.shape[0]):
        tile = Tile(words, blocks.x[t], blocks.token[t], blocks.bmax[t], nonzero, blocks.x_sq[t])
        fill(memory, stride, kind, n, t * LANES, min(LANES, total - t * LANES), tile)
    return True


@jit
def binade(x):
    """The power of two at or below a positive normal float64."""
    return np.int64(np.float64(x).view(np.int64) & EXPONENT).view(np.float64)


@jit
def squared_errors(x, scale, kept, clipped):
    """Squared error of each block of a tile with its real-valued block scale, 0 where the block is lost.

    Elements are rounded to E2M1 in float64. Those above 6 keep their value in `kept` and become 6 in `clipped`.
    """
    kept[:] = 0.0
    clipped[:] = 0.0
    inverse = np.empty(LANES)
    for i in range(LANES):
        inverse[i] = 1.0 / scale[i] if scale[i] != 0.0 else 0.0
    for c in range(BLOCK):
        for i in range(LANES):
            value = np.float64(abs(x[c * LANES + i]))
            y = value * inverse[i]
            inside = min(y, 6.0)
            shift = binade(max(inside, 1.0)) * 2.0**51  # its last place is half the binade: E2M1's step
            err = ((inside + shift) - shift) * scale[i] - value
            sq = err * err
            clipped[i] += sq
            kept[i] += sq if y <= 6.0 else 0.0


@jit
def ideal_tile(x, bmax, errors):
    """errors [2, LANES] of a tile whose block scales are exactly amax/6, and amax/4."""
    kept, scale = np.empty(LANES), np.empty(LANES)
    for k in range(2):
        for i in range(LANES):
            scale[i] = np.float64(bmax[i]) / (6.0 if k == 0 else 4.0)
        squared_errors(x, scale, kept, errors[k])


@jit
def round_scale(h):
    """A real block scale h >= 0 with 4 significant bits and no limit of range; at most 448; and as E4M3."""
    shift = binade(max(h, 1e-290)) * 2.0**49  # its last place is an eighth of the binade
    free = (h + shift) - shift
    capped = min(free, 448.0)
    if h < 2.0**-6:
        shift = 2.0**43  # its last place is E4M3's smallest step, 2^-9
        return free, capped, (h + shift) - shift
    return free, capped, capped


@jit
def scaled_tile(x, bmax, token, encode, errors):
    """errors [4, 2, LANES] of a tile with block scales rounded in four ways, by candidate; encode float64 [tokens]."""
    scale, kept = np.empty((3, LANES)), np.empty(LANES)
    for k in range(2):
        any_capped = any_subnormal = False
        for i in range(LANES):
            to_x = 1.0 / encode[token[i]] if encode[token[i]] != 0.0 else 0.0
            free, capped, stored = round_scale(np.float64(bmax[i]) * encode[token[i]] / (6.0 if k == 0 else 4.0))
            scale[0, i], scale[1, i], scale[2, i] = free * to_x, capped * to_x, stored * to_x
            any_capped |= free != capped
            any_subnormal |= capped != stored
        squared_errors(x, scale[0], errors[0, k], errors[1, k])
        errors[2, k] = errors[1, k]
        if any_capped:
            squared_errors(x, scale[1], kept, errors[2, k])
        errors[3, k] = errors[2, k]
        if any_subnormal:
            squared_errors(x, scale[2], kept, errors[3, k])


@jit
def candidate_tile(x, bmax, lanes, rules, wanted, candidate, errors, scores):
    """Both candidates in the recipe's own arithmetic, [2, LANES]: errors where wanted, scores of 4over6."""
    for k in range(2 if rules.four_over_six else 1):
        scale_blocks(bmax, lanes, rules, ONE if k == 0 else ONE_AND_HALF, candidate)
        if wanted:
            decoded_errors(x, candidate, lanes.decode, errors[k])
        if rules.four_over_six:
            score(x, lanes.unit, rules, candidate)
            scores[k] = candidate.error


@jit
def candidates(blocks, rules, errors, scores):
    """errors and scores [tiles, 2, LANES]"""
    tokens, lanes, candidate = new_scales(blocks.amax.shape[0]), new_scales(LANES), new_candidate()
    scale_tokens(blocks.amax, rules, tokens)
    for tile in range(blocks.x.shape[0]):
        spread(tokens, blocks.token[tile], lanes)
        candidate_tile(blocks.x[tile], blocks.bmax[tile], lanes, rules, True, candidate, errors[tile], scores[tile])


@jit
def decoded_errors(x, candidate, decode, errors):
    """Squared error of each block of a tile as a candidate decodes, summed in column order."""
    errors[:] = 0.0
    scale, output_scale = candidate.scale, candidate.output_scale
    for c in range(BLOCK):
        for i in range(LANES):
            value = abs(x[c * LANES + i])
            err = np.float64(decoded(value, output_scale[i], scale[i], decode[i])) - np.float64(value)
            errors[i] += err * err


@jit
def every_scale_tile(x, bmax, token, encode, scales, errors):
    """errors [LANES]: an error above 0 that some scale reaches becomes the least error of any E4M3 scale.

    Skipped are scales that provably reach no less: small ones by what the block's amax alone loses above 6, large
    ones by the values that round to 0.
    """
    values = np.empty(BLOCK)
    for i in range(LANES):
        best, top = errors[i], np.float64(bmax[i])
        if best <= 0.0:
            continue
        for c in range(BLOCK):
            values[c] = abs(np.float64(x[c * LANES + i]))
        first = e4m3(np.float32(min(top * encode[token[i]] / 6.0, 448.0)))[1]
        for byte in range(first, 127):
            scale = scales[byte] / encode[token[i]]
            lost = 0.0
            for c in range(BLOCK):
                lost += values[c] * values[c] if values[c] <= 0.25 * scale else 0.0
            if lost >= best:
                break
            best = min(best, block_error(values, scale))
        for byte in range(first - 1, -1, -1):
            scale = scales[byte] / encode[token[i]]
            above = top - 6.0 * scale
            if above > 0.0 and above * above >= best:
                break
            best = min(best, block_error(values, scale))
        errors[i] = best


@jit
def every_scale(blocks, encode, scales, errors):
    """errors [tiles, LANES]"""
    for tile in range(blocks.x.shape[0]):
        every_scale_tile(blocks.x[tile], blocks.bmax[tile], blocks.token[tile], encode, scales, errors[tile])


@jit
def block_error(values, scale):
    """Squared error of a block's 16 magnitudes with its real-valued block scale."""
    inverse = 1.0 / scale if scale > 0.0 else 0.0
    err_sq = 0.0
    for c in range(BLOCK):
        inside = min(values[c] * inverse, 6.0)
        shift = binade(max(inside, 1.0)) * 2.0**51
        err = ((inside + shift) - shift) * scale - values[c]
        err_sq += err * err
    return err_sq
