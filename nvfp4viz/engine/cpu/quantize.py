"""Codes and scales of rows of x, a tile at a time."""

from __future__ import annotations

import numpy as np

from ...nvfp4 import BLOCK
from .numbers import FLT_MIN, e2m1, flush, jit, to_bits
from .scales import choose_by_score, new_candidate, new_scales, scale_tokens, spread
from .tile import LANES, fill, new_tile, row_amax


@jit
def encode(x, bmax, four_over_six, output_scale, pairs):
    """Packed codes uint8 [8, LANES] of a tile x [16 * LANES]."""
    for c in range(BLOCK):
        for i in range(LANES):
            value = x[c * LANES + i]
            scaled = flush(abs(value)) * output_scale[i]
            bits = to_bits(e2m1(scaled))
            index = max((bits >> 22) - 252, min(bits, 1))  # a half has no exponent of its own in E2M1
            signed = scaled == scaled and (bmax[i] >= FLT_MIN or not four_over_six)  # NaN becomes +6
            sign = (to_bits(value) >> 28) & 8 if signed else 0
            code = np.uint8(index | sign)
            pairs[c // 2, i] = code if c % 2 == 0 else pairs[c // 2, i] | np.uint8(code << 4)


@jit
def quantize(memory, halves, stride, kind, features, rules, codes, scales, tokens):
    """Codes uint8 [blocks, 8] and scale bytes uint8 [blocks] of rows of x, and their tokens' `Scales`.

    False if a value is not finite.
    """
    row_blocks = features // BLOCK
    amax = np.empty(tokens.encode.shape[0], np.float32)
    if not row_amax(memory, halves, stride, kind, features, amax):
        return False
    scale_tokens(amax, rules, tokens)
    tile, lanes, six, four, best = new_tile(), new_scales(LANES), new_candidate(), new_candidate(), new_candidate()
    pairs, is_four = np.empty((BLOCK // 2, LANES), np.uint8), np.zeros(LANES, np.uint8)
    for first in range(0, scales.shape[0], LANES):
        n = min(LANES, scales.shape[0] - first)
        fill(memory, stride, kind, row_blocks, first, n, tile)
        spread(tokens, tile.token, lanes)
        choose_by_score(tile.x, tile.bmax, lanes, rules, six, four, best, is_four)
        encode(tile.x, tile.bmax, rules.four_over_six, best.output_scale, pairs)
        for i in range(n):
            scales[first + i] = best.byte[i]
            for c in range(BLOCK // 2):
                codes[first + i, c] = pairs[c, i]
    return True
