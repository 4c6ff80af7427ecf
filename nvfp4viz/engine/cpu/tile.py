"""A tile of blocks side by side, filled from rows of x.

Blocks lie across vector lanes and columns follow one another, so loops over lanes have neither branches nor order, and
sums over a block keep their column order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...nvfp4 import BLOCK
from .numbers import MAGNITUDE, ZERO, from_bits, jit, kernel, to_bits

LANES = 128  # leaves a tile and what is computed of it in a first-level cache
BF16, FP16, FP32 = range(3)
FP16_REBIAS = np.float32(2.0**112)


class Tile(NamedTuple):
    """Up to LANES blocks of neighbouring tokens, [LANES] unless a shape is given. Lanes past the last are zeros."""

    words: np.ndarray  # int32 [16 * LANES]: x as it lies in memory, word by lane
    x: np.ndarray  # float32 [16 * LANES]: column by lane
    token: np.ndarray  # int64: row of each block
    bmax: np.ndarray  # float32
    nonzero: np.ndarray  # int32: elements that are not 0
    x_sq: np.ndarray  # float64, summed in column order


@jit
def new_tile():
    return Tile(
        np.empty(BLOCK * LANES, np.int32), np.empty(BLOCK * LANES, np.float32), np.empty(LANES, np.int64),
        np.empty(LANES, np.float32), np.empty(LANES, np.int32), np.empty(LANES),
    )  # fmt: skip


@kernel
def fill(memory, stride, kind, row_blocks, first, n, tile):
    """Lay out n blocks from block `first` of rows that start every `stride` int32 words of `memory`."""
    fill_plain(memory, stride, kind, row_blocks, first, n, tile)
    square(tile.x, tile.x_sq)


@kernel
def fill_plain(memory, stride, kind, row_blocks, first, n, tile):
    """`fill` but for the squares."""
    gather(memory, stride, BLOCK if kind == FP32 else BLOCK // 2, row_blocks, first, n, tile.words)
    row, column = first // row_blocks, first % row_blocks
    for i in range(n):
        tile.token[i] = row
        column += 1
        if column == row_blocks:
            row, column = row + 1, 0
    for i in range(n, LANES):
        tile.token[i] = tile.token[n - 1]
    widen(kind, tile.words, tile.x)
    describe(tile.x, tile.bmax, tile.nonzero)


@kernel
def gather(memory, stride, per_block, row_blocks, first, n, words):
    """Words of n blocks from block `first` on, word by lane; zeros in the lanes past the last."""
    row, column = first // row_blocks, first % row_blocks
    for i in range(n):
        start = row * stride + column * per_block
        if per_block == BLOCK:
            for w in range(BLOCK):
                words[w * LANES + i] = memory[start + w]
        else:
            for w in range(BLOCK // 2):
                words[w * LANES + i] = memory[start + w]
        column += 1
        if column == row_blocks:
            row, column = row + 1, 0
    for i in range(n, LANES):
        for w in range(per_block):
            words[w * LANES + i] = 0


@kernel
def widen(kind, words, x):
    if kind == FP32:
        for i in range(BLOCK * LANES):
            x[i] = from_bits(words[i])
    elif kind == BF16:
        for w in range(BLOCK // 2):
            for i in range(LANES):
                x[2 * w * LANES + i] = from_bits(np.int32(words[w * LANES + i] << 16))
                x[(2 * w + 1) * LANES + i] = from_bits(np.int32(words[w * LANES + i] & -65536))
    else:
        for w in range(BLOCK // 2):
            for i in range(LANES):
                word = words[w * LANES + i]
                low, high = np.int32(word << 16), np.int32(word & -65536)
                x[2 * w * LANES + i] = half(low)
                x[(2 * w + 1) * LANES + i] = half(high)


@kernel
def half(high):
    """The FP16 number in the upper half of an int32, finite."""
    magnitude = from_bits(np.int32(np.int32(high & 0x7FFF0000) >> 3)) * FP16_REBIAS
    return from_bits(np.int32(to_bits(magnitude) | np.int32(high & -0x80000000)))


@kernel
def describe(x, bmax, nonzero):
    for i in range(LANES):
        top, count = ZERO, np.int32(0)
        for c in range(BLOCK):
            value = abs(x[c * LANES + i])
            top = max(top, value)
            count = np.int32(count + np.int32(value != ZERO))
        bmax[i], nonzero[i] = top, count


def _square(x, x_sq):
    for i in range(LANES):
        x_sq[i] = 0.0
    for c in range(0, BLOCK, 4):
        for i in range(LANES):
            a, b = np.float64(x[c * LANES + i]), np.float64(x[(c + 1) * LANES + i])
            d, e = np.float64(x[(c + 2) * LANES + i]), np.float64(x[(c + 3) * LANES + i])
            x_sq[i] = (((x_sq[i] + a * a) + b * b) + d * d) + e * e


square = kernel(_square, fastmath={"contract"})  # a product of two FP32 numbers is exact, so fusing it changes no bit


@jit
def largest_bits(row, magnitude):
    top = np.int32(0)
    for i in range(row.shape[0]):
        top = max(top, np.int32(row[i] & magnitude))
    return top


@jit
def row_amax(memory, halves, stride, kind, features, amax):
    """Largest magnitude of each row; False if a value is not finite."""
    finite = True
    for t in range(amax.shape[0]):
        if kind == FP32:
            top = largest_bits(memory[t * stride : t * stride + features], MAGNITUDE)
            finite &= top < 0x7F800000
            amax[t] = np.int32(top).view(np.float32)
        else:
            top = largest_bits(halves[2 * t * stride : 2 * t * stride + features], 0x7FFF)
            if kind == BF16:
                finite &= top < 0x7F80
                amax[t] = np.int32(top << 16).view(np.float32)
            else:
                finite &= top < 0x7C00
                amax[t] = np.int32(top << 13).view(np.float32) * np.float32(2.0**112)
    return finite
