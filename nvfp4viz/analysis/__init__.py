"""What the statistics mean: sweeps, verdicts, causes, and single blocks."""

from .attribution import PARTS, Attribution, attribute, attribute_all
from .blocks import block_inspections, keep
from .ceiling import (
    CeilingDial,
    StaticCurve,
    amax_ratios,
    ceiling_dial,
    ceilings,
    ratio_edges,
    static_scale_curve,
    window,
)
from .choice import PLACES, POSITIONS, Agreement, Choice, agreement, choice, gain_edges
from .compare import Pair, db, pairs, sentence
from .interval import WIDENING, half_width, judged_by, margin_interval, t_quantile
from .microscope import RULES, block_at, finite, inspect_block, pick
from .sweep import COLUMNS, Sweep, check_format, is_saved, sweep, token_texts, versions
from .verdict import WORTH_DB, Comparison, Verdict, recommend
from .voices import Voices, voices
