"""What is known of a segment's tokens once their blocks are through: `stats.run_sums` and `stats.top_of`, compiled."""

from __future__ import annotations

import numpy as np

from ...stats import LEVELS, RUNS, SHORTEST, SPARE_BITS
from .numbers import jit

HALF_SPARE = 1 << (SPARE_BITS - 1)


@jit
def slot_of(row, t, first_token, at, length):
    """Token t's slot in a row of runs; in the last, that of sequences."""
    return ((first_token + t) >> (SHORTEST + row) if row < LEVELS else (at + t) // length) & (RUNS - 1)


@jit
def add_to_runs(err_sq, x_sq, first_token, at, length, sums):
    """Add each token's NMSE to sums [LEVELS + 1, RUNS] where it belongs; length is 0 where no sequence is known."""
    for t in range(x_sq.shape[0]):
        if x_sq[t] > 0:
            nmse = err_sq[t] / x_sq[t]
            for row in range(LEVELS + 1 if length else LEVELS):
                sums[row, slot_of(row, t, first_token, at, length)] += nmse


@jit
def describe_tokens(amax, x_sq, first_token, at, length, shared, run_tokens):
    """`tally.SHARED` but for what blocks gave, and the tokens of each run."""
    for t in range(x_sq.shape[0]):
        shared[0] = max(shared[0], np.float64(amax[t]))
        shared[3] += x_sq[t]
        rounded = (np.float64(x_sq[t]).view(np.int64) + HALF_SPARE) >> SPARE_BITS << SPARE_BITS
        energy = np.int64(rounded).view(np.float64)  # so that equal tokens are equal, whatever the order of their sums
        if energy > shared[4]:
            shared[4], shared[5] = energy, first_token + t
        if x_sq[t] > 0:
            for row in range(LEVELS + 1 if length else LEVELS):
                run_tokens[row, slot_of(row, t, first_token, at, length)] += 1
