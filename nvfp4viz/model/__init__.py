"""A running model: its activations recorded, captured or swapped for quantized ones."""

from .capture import capture
from .hooks import rank
from .impact import MODES, impact
from .record import Recorder, record
