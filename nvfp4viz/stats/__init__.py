"""What quantizing did to a tensor, in exact counts and float64 sums that add."""

from .additive import Additive, largest, of_largest, plain, rate, summed, summed_array
from .measure import (
    BINS,
    MANTISSA_SHIFT,
    POISSON_THRESHOLDS,
    REPLICATES,
    Stats,
    hash32,
    measure,
    nmse_bin,
    nmse_bins,
    poisson_weights,
)
from .runs import LEVELS, RUNS, SHORTEST, SPARE_BITS, run_sums, top_of
