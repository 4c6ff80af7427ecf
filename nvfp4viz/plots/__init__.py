"""Figures: numbers in, matplotlib Axes out."""

from ..shown import FAINT, INK, RULE, Picture
from .causes import LOOKS, SMALL, attribution_bars, gain_by_position, gain_histogram
from .ceilings import REGIMES, amax_ratios, ceiling_curve, ceiling_rates, static_scale
from .rates import ROWS, clipping_rates, error_by_tensor, gains, nmse_distribution
from .scales import ZERO_BAR, block_close_up, block_scale_histogram
from .style import dress, legend, legend_above, new_axes, tint
