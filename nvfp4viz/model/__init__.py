"""A running model: its activations recorded, captured or swapped for quantized ones."""

from .capture import capture
from .coverage import coverage_sentence
from .impact import MODES, impact
from .inputs import rank
from .record import Recorder, record
from .sensitivity import Sensitivity, sensitivity
