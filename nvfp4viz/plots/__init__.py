"""Figures: numbers in, matplotlib Axes out."""

from .causes import LOOKS, SMALL, attribution_bars, gain_by_position, gain_histogram
from .ceilings import REGIMES, amax_ratios, ceiling_curve, ceiling_rates, static_scale
from .maps import layer_map
from .rates import GAINS_CAPTION, ROWS, clipping_rates, error_by_tensor, gains, nmse_distribution
from .scales import ZERO_BAR, block_close_up, block_scale_histogram
from .style import FAINT, INK, RULE, Picture, dress, expect, formula, legend, legend_above, new_axes, shorten, svg, tint
