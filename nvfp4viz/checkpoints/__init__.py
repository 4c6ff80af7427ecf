"""Quantized checkpoints: whether their scales are right, what made them, and whether they fit one's traffic."""

from .against import BEST, STORED, Comparison, against, stored_rows
from .audit import Checkpoint, checkpoint, ignored, scales
from .findings import SEVERITIES, Finding
from .scan import decode, row_chunks
from .traffic import Fit, Traffic, fit
