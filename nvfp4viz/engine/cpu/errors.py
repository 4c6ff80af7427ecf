"""Squared errors of blocks under counterfactual quantizers and under both candidates, compiled by numba.

The oracle of everything here is `nvfp4viz.attribution`'s plain torch of the same names.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...nvfp4 import BLOCK, E2M1_MAX, E4M3_VALUES, Recipe
from . import engine as cpu
from .counterfactuals import (
    Blocks,
    candidate_tile,
    candidates,
    every_scale,
    every_scale_tile,
    fill_blocks,
    ideal_tile,
    new_blocks,
    scaled_tile,
)  # fmt: skip
from .numbers import jit
from .scales import Rules, new_candidate, new_scales, scale_tokens, spread
from .tile import LANES

VALUES = np.array(E4M3_VALUES)


class Plan(NamedTuple):
    """Recipes as `attribute` wants them."""

    flags: np.ndarray  # bool [recipes, 5]: the flags of Rules
    floats: np.ndarray  # float32 [recipes, 6]: its numbers
    rcp_table: np.ndarray
    known: np.ndarray  # bool [recipes]: the recipe before has the same candidates
    group: np.ndarray  # int64 [recipes]: recipes of one group have the same encode scales
    full_range: np.ndarray  # float64 [groups]: 6 * e4m3_max per token, else 0
    given: np.ndarray  # float64 [groups]: the encode scale per tensor, else 0


@jit
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
    lanes, tokens, candidate = new_scales(LANES), new_scales(blocks.amax.shape[0]), new_candidate()
    for r in range(found.shape[0]):
        f, n = plan.flags[r], plan.floats[r]
        rules = Rules(f[0], f[1], f[2], f[3], f[4], n[0], n[1], n[2], n[3], n[4], n[5], plan.rcp_table)
        scale_tokens(blocks.amax, rules, tokens)
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
        np.array([r[5:11] for r in rules], np.float32),
        max((r.rcp_table for r in rules), key=len),
        np.array([i > 0 and one == same[i - 1] for i, one in enumerate(same)]),
        np.array([groups.index(s) for s in scales]),
        *np.array(groups).T.copy(),
    )


def sums(x: Tensor, plan: Plan, sampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks, found = load(x), np.empty((len(plan.flags), 17))
    there = blocks.x_sq.reshape(-1)[: sampled.size] > 0
    sampled = sampled.reshape(-1) & there
    attribute(blocks, sampled, plan, VALUES, found)
    return np.array([there.sum(), sampled.sum()]), found


def load(x: Tensor) -> Blocks:
    blocks = new_blocks(*x.shape)
    if not fill_blocks(*cpu.in_memory(x), blocks):
        raise cpu.NotFiniteError
    return blocks


class Prepared(NamedTuple):
    """Some tokens laid out for the kernels, once for all of them."""

    amax: np.ndarray  # float32 [m]
    energy: np.ndarray  # float64 [m, K/16]: squared signal of each block
    blocks: Blocks


def prepare(x: Tensor) -> Prepared:
    blocks, (m, k) = load(x), x.shape
    return Prepared(blocks.amax, blocks.x_sq.reshape(-1)[: m * k // BLOCK].reshape(m, k // BLOCK), blocks)


def arithmetic(recipe: Recipe, encode_scale: Tensor | None):
    return cpu.rules_of(torch.zeros(1, BLOCK), recipe, encode_scale)[0]


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
