"""Where activations come from: files, dumps of serving engines, synthetic ones."""

from .guards import QuantizedCheckpointError
from .load import INDEX, as_activations, as_tensor, load, natural
from .synthetic import SYNTHETIC, synthetic
