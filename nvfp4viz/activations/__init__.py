"""Where activations come from: files, dumps of serving engines, synthetic ones."""

from .guards import QuantizedCheckpointError
from .load import INDEX, as_activations, load, natural
from .synthetic import SYNTHETIC, synthetic
