"""A running model: its activations recorded, captured or swapped for quantized ones."""

from .capture import capture
from .impact import NothingQuantizedError, impact
from .inputs import rank
from .presets import MODES, PRESETS
from .record import Recorder, record
from .sensitivity import Sensitivity, sensitivity
