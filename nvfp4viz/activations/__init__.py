"""Where activations come from: files, dumps of serving engines, synthetic ones."""

from .folders import INDEX, natural
from .given import as_activations
from .guards import QuantizedCheckpointError, placeholder
from .load import load
from .metadata import token_texts
from .squares import SQUARES
from .synthetic import SYNTHETIC, synthetic
