"""The blocks of a tensor that stand out, found in one compiled walk over all of them.

Rules, each with what it ranks by: the squared error, the score that mapping to 4 saves, the scale of a saturated
candidate for 4, the byte of an underflowed scale (the smallest first). Of equals the earlier block comes first.
Most blocks are let go by FP32 sums that run as SIMD code; what may be among the best is computed exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe, Tokens
from . import engine as cpu
from .analyze import new_tokens, rules_of, scales_of
from .numbers import FLT_MAX, FLT_MIN, ONE, ONE_AND_HALF, ZERO, flush, jit
from .scales import Candidate, decoded, difference, new_candidate, new_scales, scale_blocks, spread
from .tally import SCALE_LIMIT
from .tile import LANES, fill, new_tile, row_amax

RANKED = ("worst", "gained", "saturated", "underflowed")
SLACK = np.float32(1 + 1e-5)  # FP32 sums of 16 squares are off by less, but for squares below FLT_MIN
MAE, MSE, SQUARED = range(3)  # of Tried.sums


class Tried(NamedTuple):
    """A candidate of a tile's blocks and what comes of it."""

    scales: Candidate
    before: np.ndarray  # int32 [LANES]: the bytes of the candidate that was tried before
    sums: np.ndarray  # float32 [3, LANES]: its score by either error mode, and about its squared error


@jit
def new_tried():
    return Tried(new_candidate(), np.zeros(LANES, np.int32), np.zeros((3, LANES), np.float32))


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
def try_candidate(tile, lanes, rules, factor, alike, tried):
    """Scale a tile's blocks by one candidate, factor 1 for 6 and 1.5 for 4, and sum what comes of it.

    alike: the candidate tried before differs at most in its block scales; where these are the same, so are the sums.
    """
    scales, different = tried.scales, np.int32(not alike)
    for i in range(LANES):
        tried.before[i] = scales.byte[i]
    scale_blocks(tile.bmax, lanes, rules, factor, scales)
    for i in range(LANES):
        different = np.int32(different + np.int32(scales.byte[i] != tried.before[i]))
    if different:
        add_up(tile.x, lanes, rules, scales, tried.sums[MAE], tried.sums[MSE], tried.sums[SQUARED])


@jit
def add_up(x, lanes, rules, candidate, mae, mse, squared):
    scale, output_scale, unit, decode = candidate.scale, candidate.output_scale, lanes.unit, lanes.decode
    for i in range(LANES):
        mae[i], mse[i], squared[i] = ZERO, ZERO, ZERO
    for c in range(0, BLOCK, 4):  # four columns at a time: fewer loads and stores of sums
        for i in range(LANES):
            o, s, u, d = output_scale[i], scale[i], unit[i], decode[i]
            by_mae, by_mse, by_square = mae[i], mse[i], squared[i]
            for k in range(4):
                value = abs(x[(c + k) * LANES + i])
                diff, error = difference(value, o, s, u, rules), decoded(value, o, s, d) - value
                by_mae += flush(abs(diff))
                by_mse += flush(diff * diff)
                by_square += error * error
            mae[i], mse[i], squared[i] = by_mae, by_mse, by_square


@jit
def squared_error(x, i, output_scale, scale, decode):
    """Of block i of a tile, in float64 and column order."""
    total = 0.0
    for c in range(BLOCK):
        value = abs(x[c * LANES + i])
        error = np.float64(decoded(value, output_scale, scale, decode)) - np.float64(value)
        total += error * error
    return total


@jit
def limits(values):
    """What the values [4, n] so far ask of a block: to exceed three FP32 limits, or a byte below the fourth."""
    worst, gained, saturated, underflowed = values[:, -1]
    return (
        np.float32(min(worst, FLT_MAX)), np.float32(min(max(gained, 0.0), FLT_MAX)),
        max(np.float32(saturated), SCALE_LIMIT), np.int32(min(-underflowed, 8)),
    )  # fmt: skip


@jit
def may_any_place(bmax, six, four, by_six, by_four, score6, score4, limits):
    """Whether some block of a tile may be among the best."""
    worst, most_gained, saturated, underflowed = limits
    found = np.int32(0)
    for i in range(LANES):
        takes_four = score4[i] < score6[i]  # a tie goes to 6
        squared = by_four[SQUARED, i] if takes_four else by_six[SQUARED, i]
        byte = four.byte[i] if takes_four else six.byte[i]
        may = (squared * SLACK + FLT_MIN > worst) | (score6[i] - score4[i] > most_gained)
        may |= (four.h[i] > saturated) | (byte < underflowed)
        found = np.int32(found + np.int32(may & (bmax[i] != ZERO)))
    return found


@jit
def place_tile(first, tile, decode, six, four, by_six, by_four, mode, values, indices):
    """Put the blocks of a tile among the best where they belong; `first` is its first block's index."""
    for i in range(LANES):
        if tile.bmax[i] == ZERO:
            continue
        score6, score4, h4 = by_six[mode, i], by_four[mode, i], four.h[i]
        squared, byte, scale, output_scale = by_six[SQUARED, i], six.byte[i], six.scale[i], six.output_scale[i]
        if score4 < score6:
            squared, byte, scale, output_scale = by_four[SQUARED, i], four.byte[i], four.scale[i], four.output_scale[i]
            insert(np.float64(score6 - score4), first + i, values[1], indices[1])
        if squared * SLACK + FLT_MIN > values[0, -1]:
            insert(squared_error(tile.x, i, output_scale, scale, decode[i]), first + i, values[0], indices[0])
        if h4 > SCALE_LIMIT:
            insert(np.float64(h4), first + i, values[2], indices[2])
        if byte < 8:
            insert(np.float64(-byte), first + i, values[3], indices[3])


@jit
def like_before(plan):
    """bool [2, recipes]: whether a recipe is scored like the one before, error modes apart; and has its candidates."""
    alike = np.zeros((2, plan.flags.shape[0]), np.bool_)
    for r in range(1, alike.shape[1]):
        flags = plan.flags[r] == plan.flags[r - 1]
        alike[0, r] = flags[2:].all() and (plan.floats[r] == plan.floats[r - 1]).all()
        alike[1, r] = alike[0, r] and flags[0]
    return alike


@jit
def rank(memory, halves, stride, kind, features, rows, plan, values, indices):
    """Leave the best blocks of each recipe and rule in values and indices [recipes, 4, n], -inf and -1 before.

    Takes rows of x as `analyze` does. False if a value is not finite.
    """
    row_blocks, amax = features // BLOCK, np.empty(rows, np.float32)
    if not row_amax(memory, halves, stride, kind, features, amax):
        return False
    tokens, tile, lanes = new_tokens(amax, plan), new_tile(), new_scales(LANES)
    six, four, alike = new_tried(), new_tried(), like_before(plan)
    for first in range(0, rows * row_blocks, LANES):
        fill(memory, stride, kind, row_blocks, first, min(LANES, rows * row_blocks - first), tile)
        for r in range(values.shape[0]):
            rules, mode = rules_of(plan, r), MSE if plan.flags[r, 1] else MAE
            if not alike[1, r]:
                spread(scales_of(tokens, r), tile.token, lanes)
                try_candidate(tile, lanes, rules, ONE, alike[0, r], six)
                if rules.four_over_six:
                    try_candidate(tile, lanes, rules, ONE_AND_HALF, False, four)
                else:
                    four.sums[:], four.scales.h[:] = np.inf, ZERO  # never the better, and not saturated
            tried = six.scales, four.scales, six.sums, four.sums
            if may_any_place(tile.bmax, *tried, six.sums[mode], four.sums[mode], limits(values[r])):
                place_tile(first, tile, lanes.decode, *tried, mode, values[r], indices[r])
    return True


def ranked(tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence[Tensor | None], n: int) -> list[dict]:
    """The n first blocks of each rule under each recipe, over all blocks of x.

    Args:    encode_scales: float32 [1, 1] for per-tensor recipes, None per token.
    Returns: one dict a recipe: rule of RANKED -> [(token, block, value), ...], fewer where the rule admits fewer.
    Raises ValueError where x is not finite.
    """
    x, per_token, shape = tokens.x.cpu(), tokens.shape[1] // BLOCK, (len(recipes), len(RANKED), n)
    plan, part_of = cpu.plan_of(x, recipes, encode_scales), cpu.by_rows(x)

    def task(rows: slice):
        values, indices = np.full(shape, -np.inf), np.full(shape, -1)
        if not rank(*part_of(rows), rows.stop - rows.start, plan, values, indices):
            raise cpu.NotFiniteError
        return values, np.where(indices < 0, -1, indices + rows.start * per_token)

    parts = list(cpu.run_tasks(task, x)) or [(np.full(shape, -np.inf), np.full(shape, -1))]
    values, indices = (np.concatenate(p, -1) for p in zip(*parts, strict=True))  # parts in order, so equals stay so
    order = np.argsort(-values, axis=-1, kind="stable")[..., :n]
    values, indices = np.take_along_axis(values, order, -1), np.take_along_axis(indices, order, -1)
    return [
        {rule: [(int(i) // per_token, int(i) % per_token, float(v)) for v, i in zip(*pair, strict=True) if i >= 0]
         for rule, pair in zip(RANKED, zip(v, i, strict=True), strict=True)}
        for v, i in zip(values, indices, strict=True)
    ]  # fmt: skip
