"""A tile's blocks under one candidate: counts of their codes and sums of their errors, block by block.

Everything a hot loop touches is a flat array, indexed by constants times LANES: so the compiler sees that nothing
overlaps, and makes SIMD code of it. Float32 and float64 steps have loops of their own, since a loop with both runs as
wide as float64 alone. Subnormals are flushed wherever a bit could depend on it: all steps but `careful` leave that
out, and run where `is_ordinary` says that none could.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...nvfp4 import BLOCK, E2M1_MAX, MARGIN
from .numbers import (
    EXPONENT,
    MAGNITUDE,
    ONE_AND_HALF,
    ONE_BITS,
    SIX,
    ZERO,
    e2m1,
    flush,
    from_bits,
    jit,
    kernel,
    to_bits,
)
from .tile import LANES

CODE_TO_EXPONENT = int(np.array((127 << 23) - (127 << 26), np.int64).astype(np.int32))  # see `step`
NIBBLES, HALVES = 0x0F0F0F0F, 0x00FF00FF
LIMIT = np.float32(E2M1_MAX * MARGIN)
EVEN, ODD, NEGATIVE_EVEN, NEGATIVE_ODD, CLIPPED, FLUSHED, COUNTERS = range(7)  # of Evaluated.counts, LANES each
ERR_SQ, ERR_ABS, X_HAT_SQ, DOT, LARGEST, MEASURES = range(6)  # of Evaluated.sums; the last is an error


class Candidates(NamedTuple):
    """Ways to scale a tile's blocks, and what comes of each: [candidates, LANES] unless a shape is given."""

    h: np.ndarray  # float32: the block scale before rounding
    scale: np.ndarray  # float32: the E4M3 block scale
    byte: np.ndarray  # int32: its byte
    output_scale: np.ndarray  # float32: what x is multiplied with
    decode: np.ndarray  # float32: the token's decode scale
    counts: np.ndarray  # int32 [candidates, COUNTERS * LANES]; of codes four a number, 0 2 4 6 and 1 3 5 7
    sums: np.ndarray  # float64 [candidates, MEASURES * LANES]
    scratch: np.ndarray  # float32 [16 * LANES]: errors or decoded magnitudes


@jit
def new_candidates(n):
    floats = np.empty((4, n, LANES), np.float32)
    return Candidates(
        floats[0], floats[1], np.empty((n, LANES), np.int32), floats[2], floats[3],
        np.empty((n, COUNTERS * LANES), np.int32), np.empty((n, MEASURES * LANES)),
        np.empty(BLOCK * LANES, np.float32),
    )  # fmt: skip


@kernel
def step(x, output_scale, scale, decode):
    """An element's decoded magnitude; 1 in the nibble of its code, and again if it is negative; 1 if it is clipped."""
    scaled = from_bits(to_bits(x) & MAGNITUDE) * output_scale
    inside = scaled if scaled < SIX else SIX
    binade = max(np.int32(to_bits(inside) & EXPONENT), np.int32(ONE_BITS))
    shift = from_bits(np.int32(binade + (22 << 23)))  # its last place is half the binade: E2M1's step
    shifted = inside + shift  # so that its last bits count steps
    # the code is the steps and twice the binade's exponent: put 4 times the code into the exponent of a power of two
    power = from_bits(np.int32(np.int32(np.int32(to_bits(shifted) << 25) + np.int32(binade << 3)) + CODE_TO_EXPONENT))
    one = np.int32(power)
    negative = np.int32(one & np.int32(to_bits(x) >> 31))
    return ((shifted - shift) * scale) * decode, one, negative, np.int32(scaled > LIMIT)


@kernel
def encode(x, output_scale, scale, decode, wide, counts, scratch):
    """Counts of a tile's codes; in `scratch` errors, or decoded magnitudes if `wide`."""
    for i in range(COUNTERS * LANES):
        counts[i] = 0
    for c in range(0, BLOCK, 4):
        row = c * LANES
        for i in range(LANES):
            o, s, d = output_scale[i], scale[i], decode[i]
            x0, x1, x2, x3 = x[row + i], x[row + LANES + i], x[row + 2 * LANES + i], x[row + 3 * LANES + i]
            y0, one0, n0, c0 = step(x0, o, s, d)
            y1, one1, n1, c1 = step(x1, o, s, d)
            y2, one2, n2, c2 = step(x2, o, s, d)
            y3, one3, n3, c3 = step(x3, o, s, d)
            scratch[row + i] = y0 if wide else y0 - abs(x0)
            scratch[row + LANES + i] = y1 if wide else y1 - abs(x1)
            scratch[row + 2 * LANES + i] = y2 if wide else y2 - abs(x2)
            scratch[row + 3 * LANES + i] = y3 if wide else y3 - abs(x3)
            one = np.int32(np.int32(one0 + one1) + np.int32(one2 + one3))
            negative = np.int32(np.int32(n0 + n1) + np.int32(n2 + n3))
            add_nibbles(counts, EVEN * LANES + i, one)
            add_nibbles(counts, NEGATIVE_EVEN * LANES + i, negative)
            at = CLIPPED * LANES + i
            counts[at] = np.int32(counts[at] + np.int32(np.int32(c0 + c1) + np.int32(c2 + c3)))


@kernel
def add_nibbles(counts, at, nibbles):
    counts[at] = np.int32(counts[at] + np.int32(nibbles & NIBBLES))
    counts[at + LANES] = np.int32(counts[at + LANES] + np.int32(np.int32(nibbles >> 4) & NIBBLES))


def _sum_errors(errors, sums):
    """ERR_SQ, in column order, ERR_ABS and LARGEST of each block; `errors` is given up."""
    for c in range(0, BLOCK, 8):
        row = c * LANES
        for i in range(LANES):
            e0, e1 = np.float64(errors[row + i]), np.float64(errors[row + LANES + i])
            e2, e3 = np.float64(errors[row + 2 * LANES + i]), np.float64(errors[row + 3 * LANES + i])
            e4, e5 = np.float64(errors[row + 4 * LANES + i]), np.float64(errors[row + 5 * LANES + i])
            e6, e7 = np.float64(errors[row + 6 * LANES + i]), np.float64(errors[row + 7 * LANES + i])
            before = 0.0 if c == 0 else sums[ERR_SQ * LANES + i]
            quarter = (((before + e0 * e0) + e1 * e1) + e2 * e2) + e3 * e3
            sums[ERR_SQ * LANES + i] = (((quarter + e4 * e4) + e5 * e5) + e6 * e6) + e7 * e7
            total = ((abs(e0) + abs(e1)) + (abs(e2) + abs(e3))) + ((abs(e4) + abs(e5)) + (abs(e6) + abs(e7)))
            sums[ERR_ABS * LANES + i] = total if c == 0 else sums[ERR_ABS * LANES + i] + total
    for i in range(LANES):
        top = abs(errors[i])
        for c in range(1, BLOCK):
            top = max(top, abs(errors[c * LANES + i]))
        errors[i] = top
    for i in range(LANES):
        sums[LARGEST * LANES + i] = np.float64(errors[i])


sum_errors = kernel(_sum_errors, fastmath={"contract"})  # errors are FP32: their squares are exact


@kernel
def sum_wide_errors(x, decoded, sums):
    """`sum_errors` where an error may not be an FP32 number, nor its square exact."""
    for c in range(0, BLOCK, 4):
        row = c * LANES
        for i in range(LANES):
            e0 = np.float64(decoded[row + i]) - np.float64(abs(x[row + i]))
            e1 = np.float64(decoded[row + LANES + i]) - np.float64(abs(x[row + LANES + i]))
            e2 = np.float64(decoded[row + 2 * LANES + i]) - np.float64(abs(x[row + 2 * LANES + i]))
            e3 = np.float64(decoded[row + 3 * LANES + i]) - np.float64(abs(x[row + 3 * LANES + i]))
            square = 0.0 if c == 0 else sums[ERR_SQ * LANES + i]
            total = 0.0 if c == 0 else sums[ERR_ABS * LANES + i]
            top = 0.0 if c == 0 else sums[LARGEST * LANES + i]
            sums[ERR_SQ * LANES + i] = (((square + e0 * e0) + e1 * e1) + e2 * e2) + e3 * e3
            sums[ERR_ABS * LANES + i] = total + ((abs(e0) + abs(e1)) + (abs(e2) + abs(e3)))
            sums[LARGEST * LANES + i] = max(top, max(max(abs(e0), abs(e1)), max(abs(e2), abs(e3))))


@kernel
def energies(decode, scale, counts, nonzero, x_sq, sums, small):
    """X_HAT_SQ and DOT of each block and its FLUSHED elements, from the counts of its codes.

    Decoded magnitudes are powers of two times those of codes 2 (1.0) and 3 (1.5); 2 x x_hat = x^2 + x_hat^2 - err^2.
    """
    for i in range(LANES):
        even, odd = counts[EVEN * LANES + i], counts[ODD * LANES + i]
        powers = (odd & 255) + ((even >> 6) & 0x3FC) + ((even >> 12) & 0xFF0) + (np.int32(even >> 24) << 6)
        others = ((odd >> 8) & 255) + ((odd >> 14) & 0x3FC) + (np.int32(odd >> 24) << 4)
        small[i] = np.int32(powers | np.int32(others << 16))
        unit = scale[i] * decode[i]
        counts[FLUSHED * LANES + i] = nonzero[i] if unit == ZERO else np.int32((even & 255) - (BLOCK - nonzero[i]))
    for i in range(LANES):
        unit = np.float64(scale[i] * decode[i])
        third = np.float64((ONE_AND_HALF * scale[i]) * decode[i])
        powers, others = np.float64(np.int32(small[i] & 0xFFFF)), np.float64(np.int32(small[i] >> 16))
        x_hat_sq = (unit * unit) * (0.25 * powers) + (third * third) * others
        sums[X_HAT_SQ * LANES + i] = x_hat_sq
        sums[DOT * LANES + i] = 0.5 * ((x_hat_sq - sums[ERR_SQ * LANES + i]) + x_sq[i])


@kernel
def is_ordinary(bmax, scale, output_scale, decode):
    """Whether all blocks are such that `quick` is right: no corner of FP32 near, nothing scaled to twice 6 or more."""
    odd = np.int32(0)
    for i in range(LANES):
        unit, top = scale[i] * decode[i], bmax[i] * output_scale[i]
        ordinary = (unit >= np.float32(2.0**-100)) & (unit <= np.float32(2.0**100)) & (top <= np.float32(11.9))
        ordinary &= output_scale[i] <= np.float32(2.0**100)
        odd = np.int32(odd + np.int32(not (ordinary | (output_scale[i] == ZERO))))
    return odd == 0


@jit
def careful_step(x, output_scale, scale, decode):
    """An element scaled, rounded to E2M1 and decoded, and x as it is measured against it: magnitudes, whatever x."""
    value = abs(x)
    scaled = flush(value) * output_scale
    element = e2m1(scaled)
    against = (x < ZERO) & (scaled != scaled)  # NaN becomes +6, whatever the sign of x
    return scaled, element, (element * scale) * decode, np.float64(-value if against else value)


@kernel
def careful(x, output_scale, scale, decode, counts, sums):
    """What `encode` and the sums give, element by element as quantizing and decoding do it, whatever the values."""
    for i in range(COUNTERS * LANES):
        counts[i] = 0
    for i in range(MEASURES * LANES):
        sums[i] = 0.0
    for c in range(BLOCK):
        for i in range(LANES):
            scaled, element, decoded, signed = careful_step(x[c * LANES + i], output_scale[i], scale[i], decode[i])
            bits = to_bits(element)
            code = max((bits >> 22) - 252, min(bits, 1))  # a half has no exponent of its own in E2M1
            one, at = np.int32(1 << 8 * (code >> 1)), (code & 1) * LANES + i
            counts[at] += one
            if to_bits(x[c * LANES + i]) < 0 and scaled == scaled:
                counts[NEGATIVE_EVEN * LANES + at] += one
            error = np.float64(decoded) - signed
            sums[ERR_SQ * LANES + i] += error * error
            sums[ERR_ABS * LANES + i] += abs(error)
            top = sums[LARGEST * LANES + i]
            sums[LARGEST * LANES + i] = abs(error) if (abs(error) > top) | (error != error) else top  # NaN stays
            sums[X_HAT_SQ * LANES + i] += np.float64(decoded) * np.float64(decoded)
            sums[DOT * LANES + i] += signed * np.float64(decoded)
            counts[CLIPPED * LANES + i] += (scaled > LIMIT) & (scale[i] != ZERO)
            counts[FLUSHED * LANES + i] += (decoded == ZERO) & (signed != 0.0)
