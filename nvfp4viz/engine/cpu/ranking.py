"""The blocks of a tensor that stand out, found in one compiled walk over all of them.

Rules, each with what it ranks by: the squared error, the score that mapping to 4 saves, the scale of a saturated
candidate for 4, the byte of an underflowed scale (the smallest first). Of equals the earlier block comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe, Tokens
from . import engine as cpu
from .counterfactuals import decoded_errors
from .errors import load
from .numbers import jit
from .scales import choose_by_score, new_candidate, new_scales, scale_tokens, spread
from .tally import SCALE_LIMIT
from .tile import LANES

RANKED = ("worst", "gained", "saturated", "underflowed")
SLACK = 1 + 1e-5  # an element's error is at most its value, but for FP32 noise


@jit
def insert(value, index, values, indices):
    """Put a block among the best if it belongs there: values fall, and of equals the earlier index stays first."""
    n = values.shape[0]
    if not value > values[n - 1]:
        return
    place = n - 1
    while place > 0 and value > values[place - 1]:
        values[place], indices[place] = values[place - 1], indices[place - 1]
        place -= 1
    values[place], indices[place] = value, index


@jit
def rank_tile(first, n, tile, lanes, rules, work, values, indices):
    """Rank the n first blocks of a tile (x, bmax, x_sq); `first` is its first block's index."""
    (x, bmax, x_sq), (six, four, best, is_four, errors) = tile, work
    choose_by_score(x, bmax, lanes, rules, six, four, best, is_four)
    if x_sq.max() * SLACK > values[0, values.shape[1] - 1]:
        decoded_errors(x, best, lanes.decode, errors)
        for i in range(n):
            if bmax[i] != 0:
                insert(errors[i], first + i, values[0], indices[0])
    for i in range(n):
        if is_four[i]:
            insert(np.float64(six.error[i] - four.error[i]), first + i, values[1], indices[1])
        if rules.four_over_six and bmax[i] != 0 and four.h[i] > SCALE_LIMIT:
            insert(np.float64(four.h[i]), first + i, values[2], indices[2])
        if best.byte[i] < 8 and bmax[i] != 0:
            insert(np.float64(-best.byte[i]), first + i, values[3], indices[3])


@jit
def rank(blocks, count, rules, values, indices):
    """Leave the best blocks of each rule in values and indices [4, n], filled with -inf and -1 before."""
    tokens, lanes = new_scales(blocks.amax.shape[0]), new_scales(LANES)
    scale_tokens(blocks.amax, rules, tokens)
    work = new_candidate(), new_candidate(), new_candidate(), np.zeros(LANES, np.uint8), np.empty(LANES)
    for t in range(blocks.x.shape[0]):
        spread(tokens, blocks.token[t], lanes)
        first = t * LANES
        tile = blocks.x[t], blocks.bmax[t], blocks.x_sq[t]
        rank_tile(first, min(LANES, count - first), tile, lanes, rules, work, values, indices)


def ranked(tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence[Tensor | None], n: int) -> list[dict]:
    """The n first blocks of each rule under each recipe, over all blocks of x.

    Args:    encode_scales: float32 [1, 1] for per-tensor recipes, None per token.
    Returns: one dict a recipe: rule of RANKED -> [(token, block, value), ...], fewer where the rule admits fewer.
    Raises ValueError where x is not finite.
    """
    x, per_token = tokens.x.cpu(), tokens.shape[1] // BLOCK
    rules = [cpu.rules_of(x, r, s)[0] for r, s in zip(recipes, encode_scales, strict=True)]

    def task(rows: slice):
        blocks = load(x[rows])
        values, indices = np.full((len(rules), 4, n), -np.inf), np.full((len(rules), 4, n), -1)
        for one, v, i in zip(rules, values, indices, strict=True):
            rank(blocks, (rows.stop - rows.start) * per_token, one, v, i)
        return values, np.where(indices < 0, -1, indices + rows.start * per_token)

    parts = list(cpu.run_tasks(task, x)) or [(np.full((len(rules), 4, n), -np.inf), np.full((len(rules), 4, n), -1))]
    values, indices = (np.concatenate(p, -1) for p in zip(*parts, strict=True))  # parts in order, so equals stay so
    order = np.argsort(-values, axis=-1, kind="stable")[..., :n]
    values, indices = np.take_along_axis(values, order, -1), np.take_along_axis(indices, order, -1)
    return [
        {rule: [(int(i) // per_token, int(i) % per_token, float(v)) for v, i in zip(*pair, strict=True) if i >= 0]
         for rule, pair in zip(RANKED, zip(v, i, strict=True), strict=True)}
        for v, i in zip(values, indices, strict=True)
    ]  # fmt: skip
