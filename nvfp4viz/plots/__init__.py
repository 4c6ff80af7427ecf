"""Figures: numbers in, matplotlib Axes out."""

from .causes import (
    LOOKS,
    REGIMES,
    SMALL,
    amax_ratios,
    attribution_bars,
    ceiling_curve,
    ceiling_rates,
    gain_by_position,
    gain_histogram,
    static_scale,
)
from .comparison import GAINS_CAPTION, ROWS, gains
from .style import (
    BY_RECIPE,
    E4M3_VALUES,
    FAINT,
    INK,
    RATES,
    RULE,
    STATS,
    ZERO_BAR,
    Picture,
    block_close_up,
    block_scale_histogram,
    clipping_rates,
    dress,
    error_by_tensor,
    expect,
    legend,
    legend_above,
    new_axes,
    nmse_distribution,
    shorten,
    signature,
    tint,
)
