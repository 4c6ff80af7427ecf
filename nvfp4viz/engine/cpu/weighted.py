"""Squared errors weighted by element: what an output feels of them where the weights are squares of its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe, Tokens
from . import engine as cpu
from .analyze import choose_for, new_tokens, new_work, scale_candidate, scales_of
from .evaluate import ERR_ABS, ERR_SQ, careful, careful_step, is_ordinary, step
from .numbers import from_bits, inlined, jit, kernel
from .scales import spread
from .tile import LANES, fill_plain, gather, row_amax


@jit
def weigh(memory, halves, stride, kind, features, weights, plan, total):
    """Add to total [recipes, rows] the errors of rows of x, which lie `stride` int32 words apart.

    weights: int32, the bits of float32 [rows, features]. False if a value of x is not finite.
    """
    amax = np.empty(total.shape[1], np.float32)
    if not row_amax(memory, halves, stride, kind, features, amax):
        return False
    n = plan.rule.shape[0]
    theirs, scratch, weighted = np.empty(BLOCK * LANES, np.int32), np.empty(4 * LANES, np.float32), np.empty((n, LANES))
    tokens, work = new_tokens(amax, plan), new_work(n)
    weigh_tiles(memory, stride, kind, features // BLOCK, weights, plan, tokens, work, theirs, scratch, weighted, total)
    return True


@kernel
def weigh_tiles(memory, stride, kind, row_blocks, weights, plan, tokens, work, theirs, scratch, weighted, total):
    """A tile at a time; of each candidate the plain errors, by which 4over6 chooses, and weighted ones."""
    tile, chosen, found, blocks = work.tile, work.chosen, work.found, total.shape[1] * row_blocks
    for first in range(0, blocks, LANES):
        n = min(LANES, blocks - first)
        fill_plain(memory, stride, kind, row_blocks, first, n, tile)
        gather(weights, row_blocks * BLOCK, BLOCK, row_blocks, first, n, theirs)
        for c in range(found.shape[0]):
            spread(scales_of(tokens, plan.rule[c]), tile.token, work.lanes)
            found[c] = scale_candidate(tile, work.lanes, plan, c, work.candidates)
            if found[c] == c:
                weigh_candidate(tile, c, theirs, work.candidates, scratch, weighted[c])
        for r in range(plan.six.shape[0]):
            choose_for(r, tile, plan, tokens, work)
            six, four = weighted[found[plan.six[r]]], weighted[found[plan.four[r]]]
            for i in range(n):
                total[r, tile.token[i]] += four[i] if chosen.is_four[i] else six[i]


@inlined
def weigh_candidate(tile, c, theirs, candidates, scratch, weighted):
    x, scale, output_scale, decode = tile.x, candidates.scale[c], candidates.output_scale[c], candidates.decode[c]
    sums = candidates.sums[c]
    if is_ordinary(tile.bmax, scale, output_scale, decode):
        sum_weighted(x, theirs, output_scale, scale, decode, scratch, sums, weighted)
        return
    careful(x, output_scale, scale, decode, candidates.counts[c], sums)
    weigh_carefully(x, theirs, output_scale, scale, decode, weighted)


@kernel
def sum_weighted(x, theirs, output_scale, scale, decode, scratch, sums, weighted):
    """ERR_SQ, ERR_ABS and the weighted squared error of each block, in column order."""
    for c in range(0, BLOCK, 4):
        row = c * LANES
        for j in range(4):
            for i in range(LANES):
                scratch[j * LANES + i] = step(x[row + j * LANES + i], output_scale[i], scale[i], decode[i])[0]
        for i in range(LANES):
            at = row + i
            e0 = np.float64(scratch[i]) - np.float64(abs(x[at]))
            e1 = np.float64(scratch[LANES + i]) - np.float64(abs(x[at + LANES]))
            e2 = np.float64(scratch[2 * LANES + i]) - np.float64(abs(x[at + 2 * LANES]))
            e3 = np.float64(scratch[3 * LANES + i]) - np.float64(abs(x[at + 3 * LANES]))
            w0, w1 = np.float64(from_bits(theirs[at])), np.float64(from_bits(theirs[at + LANES]))
            w2, w3 = np.float64(from_bits(theirs[at + 2 * LANES])), np.float64(from_bits(theirs[at + 3 * LANES]))
            square = 0.0 if c == 0 else sums[ERR_SQ * LANES + i]
            absolute = 0.0 if c == 0 else sums[ERR_ABS * LANES + i]
            total = 0.0 if c == 0 else weighted[i]
            s0, s1, s2, s3 = e0 * e0, e1 * e1, e2 * e2, e3 * e3
            sums[ERR_SQ * LANES + i] = (((square + s0) + s1) + s2) + s3
            sums[ERR_ABS * LANES + i] = absolute + ((abs(e0) + abs(e1)) + (abs(e2) + abs(e3)))
            weighted[i] = (((total + s0 * w0) + s1 * w1) + s2 * w2) + s3 * w3


@kernel
def weigh_carefully(x, theirs, output_scale, scale, decode, weighted):
    """Weighted squared errors element by element, whatever the values, as `careful` has plain ones."""
    for i in range(LANES):
        weighted[i] = 0.0
    for c in range(BLOCK):
        for i in range(LANES):
            _, _, decoded, signed = careful_step(x[c * LANES + i], output_scale[i], scale[i], decode[i])
            error = np.float64(decoded) - signed
            weighted[i] += error * error * np.float64(from_bits(theirs[c * LANES + i]))


def weighted_errors(tokens: Tokens, weights: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """Sums over features of weights * (x_hat - x)^2.

    Args:    weights: float32 [M, K], 0 or above, finite.
    Returns: float64 [recipes, M], on the CPU; per-tensor recipes take their scale from amax.
    Raises ValueError where x is not finite.
    """
    x, bits = tokens.x.cpu(), weights.cpu().contiguous().view(torch.int32).flatten().numpy()
    plan, part_of, (m, k) = cpu.plan_of(x, recipes, [None] * len(recipes)), cpu.by_rows(x), x.shape
    total = np.zeros((len(recipes), m))

    def task(rows: slice) -> None:
        if not weigh(*part_of(rows), bits[rows.start * k : rows.stop * k], plan, total[:, rows]):
            raise cpu.NotFiniteError

    for _ in cpu.run_tasks(task, x):
        pass
    return torch.from_numpy(total)
