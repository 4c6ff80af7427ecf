"""Sums over runs of neighbouring tokens: what the intervals of means over tokens are made of, additive like all else.

Neighbours are alike, so 512 tokens of a text say less than 512 texts would. Runs of 4, 8, 16, ... tokens are summed in
16 slots each, which the stream fills round and round: however a stream was cut, its parts add up to the same sums.
"""

from __future__ import annotations

import numpy as np

LEVELS, RUNS = 14, 16  # runs of 4 * 2^level tokens, in so many slots; past 16 runs of 32,768, slots hold several
SHORTEST = 2  # log2 of the shortest run's tokens
SPARE_BITS = 20  # of a float64's mantissa, which the order of a sum decides


def run_sums(values: np.ndarray, there: np.ndarray, first_token: int, sequences: tuple[int, int] | None):
    """Tokens that are there, and their values, by run: int64 and float64 [LEVELS + 1, RUNS].

    Args:
        values, there: float64 and bool [M], one a token.
        first_token:   index of the first one in a longer stream.
        sequences:     (at, length): token t belongs to sequence (at + t) // length, counted in the last row; or None.
    """
    index = first_token + np.flatnonzero(there)
    slots = [index >> SHORTEST + level & RUNS - 1 for level in range(LEVELS)]
    if sequences is not None:
        slots.append((sequences[0] + np.flatnonzero(there)) // sequences[1] & RUNS - 1)
    tokens, sums = np.zeros((LEVELS + 1, RUNS), np.int64), np.zeros((LEVELS + 1, RUNS))
    for row, slot in enumerate(slots):
        tokens[row] = np.bincount(slot, minlength=RUNS)
        sums[row] = np.bincount(slot, values[there], minlength=RUNS)
    return tokens, sums


def top_of(x_sq: np.ndarray) -> tuple[float, int]:
    """The largest of float64 [M] and its place, of equal ones the first; 0 and -1 where none is above 0.

    Rounded to 32 bits of mantissa, so that tokens of the same values are equal whatever the order of their sums.
    """
    rounded = np.ascontiguousarray(x_sq).view(np.int64) + (1 << SPARE_BITS - 1) >> SPARE_BITS
    top = int(rounded.argmax()) if x_sq.any() else -1
    return float((rounded[top] << SPARE_BITS).view(np.float64)) if top >= 0 else 0.0, top
