"""Squared errors of blocks under counterfactual quantizers and under both candidates, compiled by numba.

The oracle of everything here is `nvfp4viz.attribution`'s plain torch of the same names. Tiles are those of
`cpu_kernels`: float32 [16, LANES], a block in each lane. Counterfactuals are float64; candidates are FP32, as an engine
computes them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..formats import BLOCK
from ..recipe import Recipe
from . import cpu, cpu_kernels
from .cpu_kernels import (
    LANES,
    ONE,
    ONE_AND_HALF,
    _jit,
    e2m1,
    e4m3,
    flush,
    new_candidate,
    new_scales,
    scale_blocks,
    scale_tokens,
    score,
    spread,
)

EXPONENT = 0x7FF0000000000000  # bits of a float64
E4M3_VALUES = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()


@_jit
def binade(x):
    """The power of two at or below a positive normal float64."""
    return np.int64(np.float64(x).view(np.int64) & EXPONENT).view(np.float64)


@_jit
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
            value = np.float64(abs(x[c, i]))
            y = value * inverse[i]
            inside = min(y, 6.0)
            shift = binade(max(inside, 1.0)) * 2.0**51  # its last place is half the binade: E2M1's step
            err = ((inside + shift) - shift) * scale[i] - value
            sq = err * err
            clipped[i] += sq
            kept[i] += sq if y <= 6.0 else 0.0


@_jit
def ideal(blocks, errors):
    """errors [2, tiles, LANES]: the block scale is exactly amax/6, or amax/4."""
    kept, scale = np.empty(LANES), np.empty(LANES)
    for tile in range(blocks.x.shape[0]):
        for k in range(2):
            for i in range(LANES):
                scale[i] = np.float64(blocks.bmax[tile, i]) / (6.0 if k == 0 else 4.0)
            squared_errors(blocks.x[tile], scale, kept, errors[k, tile])


@_jit
def round_scale(h):
    """A real block scale h >= 0 with 4 significant bits and no limit of range; at most 448; and as E4M3."""
    shift = binade(max(h, 1e-290)) * 2.0**49  # its last place is an eighth of the binade
    free = (h + shift) - shift
    capped = min(free, 448.0)
    if h < 2.0**-6:
        shift = 2.0**43  # its last place is E4M3's smallest step, 2^-9
        return free, capped, (h + shift) - shift
    return free, capped, capped


@_jit
def scaled(blocks, encode, errors):
    """errors [4, 2, tiles, LANES] with block scales rounded in four ways, by candidate; encode float64 [tokens]."""
    free, capped, stored = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    kept = np.empty(LANES)
    for tile in range(blocks.x.shape[0]):
        x = blocks.x[tile]
        for k in range(2):
            any_capped = any_subnormal = False
            for i in range(LANES):
                token = encode[blocks.token[tile, i]]
                inverse = 1.0 / token if token != 0.0 else 0.0
                h = np.float64(blocks.bmax[tile, i]) * token / (6.0 if k == 0 else 4.0)
                a, b, c = round_scale(h)
                free[i], capped[i], stored[i] = a * inverse, b * inverse, c * inverse
                any_capped |= a != b
                any_subnormal |= b != c
            squared_errors(x, free, errors[0, k, tile], errors[1, k, tile])
            errors[2, k, tile] = errors[1, k, tile]
            if any_capped:
                squared_errors(x, capped, kept, errors[2, k, tile])
            errors[3, k, tile] = errors[2, k, tile]
            if any_subnormal:
                squared_errors(x, stored, kept, errors[3, k, tile])


@_jit
def candidates(blocks, rules, wanted, errors, scores):
    """Both candidates in the recipe's own arithmetic, [2, tiles, LANES]: errors where wanted, scores of 4over6."""
    tokens, lanes, candidate = scale_tokens(blocks.amax, rules), new_scales(LANES), new_candidate()
    for tile in range(blocks.x.shape[0]):
        x, bmax = blocks.x[tile], blocks.bmax[tile]
        spread(tokens, blocks.token[tile], lanes)
        for k in range(2 if rules.four_over_six else 1):
            scale_blocks(bmax, lanes, rules, ONE if k == 0 else ONE_AND_HALF, candidate)
            if wanted:
                decoded_errors(x, candidate, lanes.decode, errors[k, tile])
            if rules.four_over_six:
                score(x, lanes, rules, candidate)
                scores[k, tile] = candidate.error


@_jit
def decoded_errors(x, candidate, decode, errors):
    """Squared error of each block of a tile as a candidate decodes, summed in column order."""
    errors[:] = 0.0
    scale, output_scale = candidate.scale, candidate.output_scale
    for c in range(BLOCK):
        for i in range(LANES):
            value = abs(x[c, i])
            err = np.float64((e2m1(flush(value) * output_scale[i]) * scale[i]) * decode[i]) - np.float64(value)
            errors[i] += err * err


@_jit
def every_scale(blocks, encode, scales, errors):
    """errors [tiles, LANES]: an error above 0 that some scale reaches becomes the least error of any E4M3 scale.

    Skipped are scales that provably reach no less: small ones by what the block's amax alone loses above 6, large
    ones by the values that round to 0.
    """
    values = np.empty(BLOCK)
    for tile in range(blocks.x.shape[0]):
        for i in range(LANES):
            best, top = errors[tile, i], np.float64(blocks.bmax[tile, i])
            if best <= 0.0:
                continue
            for c in range(BLOCK):
                values[c] = abs(np.float64(blocks.x[tile, c, i]))
            token = encode[blocks.token[tile, i]]
            first = e4m3(np.float32(min(top * token / 6.0, 448.0)))[1]
            for byte in range(first, 127):
                scale = scales[byte] / token
                lost = 0.0
                for c in range(BLOCK):
                    lost += values[c] * values[c] if values[c] <= 0.25 * scale else 0.0
                if lost >= best:
                    break
                best = min(best, block_error(values, scale))
            for byte in range(first - 1, -1, -1):
                scale = scales[byte] / token
                above = top - 6.0 * scale
                if above > 0.0 and above * above >= best:
                    break
                best = min(best, block_error(values, scale))
            errors[tile, i] = best


@_jit
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


class Prepared(NamedTuple):
    """Some tokens laid out for the kernels, once for all of them."""

    amax: np.ndarray  # float32 [m]
    energy: np.ndarray  # float64 [m, K/16]: squared signal of each block
    blocks: cpu_kernels.Blocks


def prepare(x: Tensor) -> Prepared:
    blocks, (m, k) = cpu._load(cpu_kernels, x), x.shape
    return Prepared(blocks.amax, blocks.x_sq.reshape(-1)[: m * k // BLOCK].reshape(m, k // BLOCK), blocks)


def arithmetic(recipe: Recipe, encode_scale: Tensor | None):
    return cpu._rules(torch.zeros(1, BLOCK), recipe, encode_scale)[0]


def ideal_errors(x: Prepared) -> np.ndarray:
    found = _new(x, 2)
    ideal(x.blocks, found)
    return _by_token(x, found)


def scaled_errors(x: Prepared, encode: np.ndarray) -> np.ndarray:
    found = _new(x, 4, 2)
    scaled(x.blocks, encode, found)
    return _by_token(x, found)


def candidate_errors(x: Prepared, rules, known: np.ndarray | None = None):
    errors, scores = _new(x, 2, 2)
    candidates(x.blocks, rules, known is None, errors, scores)
    return _by_token(x, errors) if known is None else known, _by_token(x, scores[1] < scores[0])  # a tie goes to 6


def every_scale_errors(x: Prepared, encode: np.ndarray, errors: np.ndarray) -> np.ndarray:
    found = _new(x)
    found.reshape(-1)[: errors.size] = errors.reshape(-1)
    every_scale(x.blocks, encode, E4M3_VALUES, found)
    return _by_token(x, found)


def _new(x: Prepared, *shape: int) -> np.ndarray:
    return np.zeros((*shape, *x.blocks.bmax.shape))


def _by_token(x: Prepared, found: np.ndarray) -> np.ndarray:
    """[..., tiles, LANES] as [..., m, K/16]."""
    return found.reshape(*found.shape[:-2], -1)[..., : x.energy.size].reshape(*found.shape[:-2], *x.energy.shape)
