"""Magnitudes in FP32 as numba compiles them: rounding to E2M1 and E4M3, reciprocals, flushing.

Written without branches, so that loops over them become SIMD code.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numba
import numpy as np
from numba.core.cpu import CPUTargetOptions

FLT_MIN, FLT_MAX = np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max
ZERO, ONE, ONE_AND_HALF, SIX, E4M3_TOP = (np.float32(v) for v in (0, 1, 1.5, 6, 448))
EXPONENT, MAGNITUDE = 0x7F800000, 0x7FFFFFFF  # bits of a float32
ONE_BITS, FOUR_BITS, E4M3_NORMAL_BITS, E4M3_TOP_BITS = (int(np.float32(v).view(np.int32)) for v in (1, 4, 2**-6, 256))
SOURCE = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def jit(function, **options):
    """`function` compiled at its first call and kept on disk, where some folder for that can be written."""
    options = {"nogil": True, "error_model": "numpy", **options}  # numpy: a division by 0 gives infinity
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
    file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):  # numba looks for changes in the function's own file, not in what it calls
        file._source_stamp = (file._source_stamp, SOURCE)
    return compiled


# A function that neither makes nor returns an array: numba then counts no references to those that it is given, nor to
# rows of them, which takes a fifth of the time.
kernel = functools.partial(jit, **({"_nrt": False} if hasattr(CPUTargetOptions, "_nrt") else {}))
inlined = functools.partial(kernel, forceinline=True)  # what has many arguments, which a call would copy
spliced = functools.partial(jit, inline="always")  # what returns arrays: a part of whoever calls it, kernel or not


@jit
def to_bits(x):
    return np.float32(x).view(np.int32)


@jit
def from_bits(bits):
    return np.int32(bits).view(np.float32)


@jit
def flush(x):
    """A magnitude with subnormals as 0; NaN stays."""
    return ZERO if x < FLT_MIN else x


@jit
def e2m1(x):
    """The E2M1 magnitude nearest to a magnitude: ties to even, 6 at most, NaN to 6."""
    binade = min(max(to_bits(x) & EXPONENT, ONE_BITS), FOUR_BITS)
    shift = from_bits(binade + (22 << 23))  # its last place is half the binade: E2M1's step
    return ((x if x < SIX else SIX) + shift) - shift


@jit
def e4m3(x):
    """The E4M3 magnitude nearest to a magnitude, and its byte: ties to even, 448 at most."""
    binade = min(max(to_bits(x) & EXPONENT, E4M3_NORMAL_BITS), E4M3_TOP_BITS)
    shift = from_bits(binade + (20 << 23))  # its last place is an eighth of the binade
    shifted = (x if x < E4M3_TOP else E4M3_TOP) + shift
    return shifted - shift, (to_bits(shifted) - to_bits(shift)) + 8 * ((binade >> 23) - (127 - 6))


@jit
def reciprocal(x, rules):
    """1/x of a magnitude, as the recipe's arithmetic takes it."""
    if not rules.fast:
        return flush(ONE / x)
    x = flush(x)
    rounded = ONE / x
    if rounded <= FLT_MAX and rounded >= FLT_MIN:
        delta = rules.rcp_table[to_bits(x) & 0x7FFFFF]
        return flush(from_bits(to_bits(rounded) + delta))
    return flush(rounded)
