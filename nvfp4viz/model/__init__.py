"""A running model: its activations recorded, captured or swapped for quantized ones."""

from .capture import capture
from .choose import describe, unwrapped
from .copies import Sequences
from .impact import NothingQuantizedError, impact, outputs_of
from .inputs import eager, rank
from .presets import MODES, PRESETS, Plan, check_weights, plan_of, quantized_already
from .record import Recorder, record
from .sensitivity import Sensitivity, sensitivity
from .swap import Decoded, Fp8, Swap
from .task import Survey, Task
from .weights import Weight
