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

from ...nvfp4 import BLOCK, E2M1_MAX, E4M3_VALUES, Recipe
from . import engine as cpu
from . import kernels as cpu_kernels
from .kernels import (
    LANES,
    ONE,
    ONE_AND_HALF,
    Rules,
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
VALUES = np.array(E4M3_VALUES)


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
def ideal_tile(x, bmax, errors):
    """errors [2, LANES] of a tile whose block scales are exactly amax/6, and amax/4."""
    kept, scale = np.empty(LANES), np.empty(LANES)
    for k in range(2):
        for i in range(LANES):
            scale[i] = np.float64(bmax[i]) / (6.0 if k == 0 else 4.0)
        squared_errors(x, scale, kept, errors[k])


@_jit
def ideal(blocks, errors):
    """errors [tiles, 2, LANES]"""
    for tile in range(blocks.x.shape[0]):
        ideal_tile(blocks.x[tile], blocks.bmax[tile], errors[tile])


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


@_jit
def scaled(blocks, encode, errors):
    """errors [tiles, 4, 2, LANES]"""
    for tile in range(blocks.x.shape[0]):
        scaled_tile(blocks.x[tile], blocks.bmax[tile], blocks.token[tile], encode, errors[tile])


@_jit
def candidate_tile(x, bmax, lanes, rules, wanted, candidate, errors, scores):
    """Both candidates in the recipe's own arithmetic, [2, LANES]: errors where wanted, scores of 4over6."""
    for k in range(2 if rules.four_over_six else 1):
        scale_blocks(bmax, lanes, rules, ONE if k == 0 else ONE_AND_HALF, candidate)
        if wanted:
            decoded_errors(x, candidate, lanes.decode, errors[k])
        if rules.four_over_six:
            score(x, lanes, rules, candidate)
            scores[k] = candidate.error


@_jit
def candidates(blocks, rules, errors, scores):
    """errors and scores [tiles, 2, LANES]"""
    tokens, lanes, candidate = scale_tokens(blocks.amax, rules), new_scales(LANES), new_candidate()
    for tile in range(blocks.x.shape[0]):
        spread(tokens, blocks.token[tile], lanes)
        candidate_tile(blocks.x[tile], blocks.bmax[tile], lanes, rules, True, candidate, errors[tile], scores[tile])


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
            values[c] = abs(np.float64(x[c, i]))
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


@_jit
def every_scale(blocks, encode, scales, errors):
    """errors [tiles, LANES]"""
    for tile in range(blocks.x.shape[0]):
        every_scale_tile(blocks.x[tile], blocks.bmax[tile], blocks.token[tile], encode, scales, errors[tile])


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


class Plan(NamedTuple):
    """Recipes as `attribute` wants them."""

    flags: np.ndarray  # bool [recipes, 5]: the flags of Rules
    floats: np.ndarray  # float32 [recipes, 8]: its numbers
    rcp_table: np.ndarray
    known: np.ndarray  # bool [recipes]: the recipe before has the same candidates
    group: np.ndarray  # int64 [recipes]: recipes of one group have the same encode scales
    full_range: np.ndarray  # float64 [groups]: 6 * e4m3_max per token, else 0
    given: np.ndarray  # float64 [groups]: the encode scale per tensor, else 0


@_jit
def attribute(blocks, sampled, plan, scales, found):
    """found [recipes, 17] of `nvfp4viz.attribution`: all that it sums, in one go; sampled bool, by block."""
    tiles = blocks.x.shape[0]
    ideal, per_lane = np.empty((2, LANES)), np.zeros((13, LANES))
    for tile in range(tiles):
        ideal_tile(blocks.x[tile], blocks.bmax[tile], ideal)
        for i in range(LANES):
            per_lane[0, i] += ideal[0, i]
            per_lane[1, i] += min(ideal[0, i], ideal[1, i])
            per_lane[2, i] += blocks.x_sq[tile, i]
    six, least, energy = per_lane[0].sum(), per_lane[1].sum(), per_lane[2].sum()
    found[:, 7], found[:, 14] = six, energy
    for r in range(found.shape[0]):
        found[r, 0] = least if plan.flags[r, 0] else six

    both, start, encode = np.empty((4, 2, LANES)), np.empty(LANES), np.empty(blocks.amax.shape[0])
    for group in range(plan.given.shape[0]):
        for t in range(encode.shape[0]):
            top = np.float64(blocks.amax[t])
            encode[t] = plan.given[group] if plan.full_range[group] == 0.0 else plan.full_range[group] / top
            encode[t] = encode[t] if top > 0.0 else 0.0
        per_lane[:] = 0.0  # 0..3 six, 4..7 the better, 8 and 9 their last in the sample, 10 the best of every scale
        for tile in range(tiles):
            x, bmax, token = blocks.x[tile], blocks.bmax[tile], blocks.token[tile]
            scaled_tile(x, bmax, token, encode, both)
            for q in range(4):
                for i in range(LANES):
                    per_lane[q, i] += both[q, 0, i]
                    per_lane[4 + q, i] += min(both[q, 0, i], both[q, 1, i])
            for i in range(LANES):
                block = tile * LANES + i
                start[i] = both[3, 0, i] if block < sampled.shape[0] and sampled[block] else 0.0
                per_lane[8, i] += start[i]
                per_lane[9, i] += min(start[i], both[3, 1, i])
            every_scale_tile(x, bmax, token, encode, scales, start)
            for i in range(LANES):
                per_lane[10, i] += start[i]
        for r in range(found.shape[0]):
            if plan.group[r] == group:
                four = 1 if plan.flags[r, 0] else 0
                for q in range(4):
                    found[r, 1 + q], found[r, 8 + q] = per_lane[4 * four + q].sum(), per_lane[q].sum()
                found[r, 15], found[r, 16] = per_lane[8 + four].sum(), per_lane[10].sum()

    real, scores = np.zeros((tiles, 2, LANES)), np.zeros((2, LANES))
    lanes, candidate = new_scales(LANES), new_candidate()
    for r in range(found.shape[0]):
        f, n = plan.flags[r], plan.floats[r]
        rules = Rules(
            f[0], f[1], f[2], f[3], f[4], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], 0, 0, plan.rcp_table
        )
        tokens = scale_tokens(blocks.amax, rules)
        per_lane[:] = 0.0
        for tile in range(tiles):
            spread(tokens, blocks.token[tile], lanes)
            errors = real[tile]
            candidate_tile(
                blocks.x[tile], blocks.bmax[tile], lanes, rules, not plan.known[r], candidate, errors, scores
            )
            for i in range(LANES):
                per_lane[0, i] += errors[0, i]
            if rules.four_over_six:
                for i in range(LANES):
                    per_lane[1, i] += min(errors[0, i], errors[1, i])
                    per_lane[2, i] += errors[1, i] if scores[1, i] < scores[0, i] else errors[0, i]
        six = per_lane[0].sum()
        found[r, 12], found[r, 13] = six, six
        found[r, 5] = per_lane[1].sum() if rules.four_over_six else six
        found[r, 6] = per_lane[2].sum() if rules.four_over_six else six


def plan(recipes, encode_scales) -> Plan:
    rules = [arithmetic(r, s) for r, s in zip(recipes, encode_scales, strict=True)]
    scales = [
        (E2M1_MAX * r.e4m3_max, 0.0) if s is None else (0.0, float(s))
        for r, s in zip(recipes, encode_scales, strict=True)
    ]
    groups = list(dict.fromkeys(scales))
    same = [(s, r.four_over_six, r.fast_math) for s, r in zip(scales, recipes, strict=True)]
    return Plan(
        np.array([r[:5] for r in rules], bool),
        np.array([r[5:13] for r in rules], np.float32),
        max((r.rcp_table for r in rules), key=len),
        np.array([i > 0 and one == same[i - 1] for i, one in enumerate(same)]),
        np.array([groups.index(s) for s in scales]),
        *np.array(groups).T.copy(),
    )


def sums(x: Tensor, plan: Plan, sampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks, found = cpu._load(cpu_kernels, x), np.empty((len(plan.flags), 17))
    there = blocks.x_sq.reshape(-1)[: sampled.size] > 0
    sampled = sampled.reshape(-1) & there
    attribute(blocks, sampled, plan, VALUES, found)
    return np.array([there.sum(), sampled.sum()]), found


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


def candidate_errors(x: Prepared, rules) -> tuple[np.ndarray, np.ndarray]:
    errors, scores = _new(x, 2), _new(x, 2)
    candidates(x.blocks, rules, errors, scores)
    scores = _by_token(x, scores)
    return _by_token(x, errors), scores[1] < scores[0]  # a tie goes to 6


def every_scale_errors(x: Prepared, encode: np.ndarray, errors: np.ndarray) -> np.ndarray:
    found = _new(x)
    found.reshape(-1)[: errors.size] = errors.reshape(-1)
    every_scale(x.blocks, encode, VALUES, found)
    return _by_token(x, found)


def _new(x: Prepared, *shape: int) -> np.ndarray:
    tiles, lanes = x.blocks.bmax.shape
    return np.zeros((tiles, *shape, lanes))


def _by_token(x: Prepared, found: np.ndarray) -> np.ndarray:
    """[tiles, ..., LANES] as [..., m, K/16]."""
    shape = found.shape[1:-1]
    return np.moveaxis(found, 0, -2).reshape(*shape, -1)[..., : x.energy.size].reshape(*shape, *x.energy.shape)
