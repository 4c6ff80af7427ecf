"""What the statistics mean: sweeps, verdicts, causes, and single blocks."""

from .attribution import PARTS, Attribution, attribute, attribute_all
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
from .compare import Pair, db, middle, obstacles, other_arithmetic, pairs, sentence
from .coverage import coverage_sentence
from .defaults import DEFAULTS, FLASHINFER, SGLANG, changes, marked
from .draws import hash32
from .effects import AS_THEY_ARE, Effect
from .impact import Impact
from .interval import WIDENING, half_width, judged_by, margin_interval, t_quantile
from .microscope import block_at, block_inspections, finite, inspect_block
from .paired import Difference, Judge, judged
from .picks import RULES, kept_blocks, pick
from .provenance import versions
from .saved import check_format, fitting, is_saved, known
from .sequences import SHORTEST_SEQUENCE
from .sweep import Record, Sweep, sweep
from .verdict import WORTH_DB, Comparison, Verdict, recommend
from .voices import EXPERT, HEADS, Voices, voices
from .wording import is_decided
