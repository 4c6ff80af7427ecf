"""Squared errors weighted by element: what an output feels of them where the weights are squares of its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe, Tokens
from . import engine as cpu
from .errors import load
from .numbers import jit
from .scales import choose_by_score, decoded, new_candidate, new_scales, scale_tokens, spread
from .tile import LANES


@jit
def weighted_tile(x, weights, candidate, decode, sums):
    """Leave in sums [LANES] the weighted squared error of each block of a tile as a candidate decodes."""
    sums[:] = 0.0
    scale, output_scale = candidate.scale, candidate.output_scale
    for c in range(BLOCK):
        for i in range(LANES):
            value = abs(x[c * LANES + i])
            err = np.float64(decoded(value, output_scale[i], scale[i], decode[i])) - np.float64(value)
            sums[i] += err * err * np.float64(weights[c * LANES + i])


@jit
def weighted(blocks, weights, rules, total):
    """Add to total [tokens] each token's squared errors times the weights [tiles, 16 * LANES]."""
    tokens, lanes = new_scales(blocks.amax.shape[0]), new_scales(LANES)
    scale_tokens(blocks.amax, rules, tokens)
    six, four, best, is_four = new_candidate(), new_candidate(), new_candidate(), np.zeros(LANES, np.uint8)
    sums = np.empty(LANES)
    for t in range(blocks.x.shape[0]):
        spread(tokens, blocks.token[t], lanes)
        choose_by_score(blocks.x[t], blocks.bmax[t], lanes, rules, six, four, best, is_four)
        weighted_tile(blocks.x[t], weights[t], best, lanes.decode, sums)
        for i in range(LANES):
            total[blocks.token[t, i]] += sums[i]


def weighted_errors(tokens: Tokens, weights: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """Sums over features of weights * (x_hat - x)^2.

    Args:    weights: float32 [M, K], 0 or above, finite.
    Returns: float64 [recipes, M], on the CPU; per-tensor recipes take their scale from amax.
    Raises ValueError where x is not finite.
    """
    x, weights = tokens.x.cpu(), weights.cpu().contiguous()
    rules = [cpu.rules_of(x, r, None)[0] for r in recipes]
    total = np.zeros((len(rules), x.shape[0]))

    def task(rows: slice) -> None:
        blocks, theirs = load(x[rows]), load(weights[rows])
        for one, into in zip(rules, total, strict=True):
            weighted(blocks, theirs.x, one, into[rows])

    for _ in cpu.run_tasks(task, x):
        pass
    return torch.from_numpy(total)
