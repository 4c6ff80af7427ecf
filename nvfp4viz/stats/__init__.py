"""What quantizing did to a tensor, in exact counts and float64 sums that add."""

from .additive import Additive, largest, of_largest, plain, rate, summed, summed_array
from .measure import BINS, MANTISSA_SHIFT, Stats, measure, nmse_bin, nmse_bins
from .runs import LEVELS, RUNS, SHORTEST, SPARE_BITS, run_sums, top_of
