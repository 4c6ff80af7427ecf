"""Where activations come from: files, dumps of serving engines, synthetic ones."""

from .load import SYNTHETIC, load, synthetic
from .readers import INDEX, natural
