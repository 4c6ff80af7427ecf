"""A running model: its activations recorded, captured or swapped for quantized ones."""

from .capture import capture
from .impact import MODES, impact
from .inputs import rank
from .record import Recorder, record
