"""See what NVFP4 and 4over6 quantization do to a model's activations."""

import importlib

from .activations import load, synthetic
from .attribution import attribute
from .capture import capture
from .ceiling import ceiling_dial, static_scale_curve
from .choices import agreement, choice
from .engines import analyze, engines, quantize
from .impact import impact
from .quantized import Quantized
from .recipe import RECIPES, Recipe
from .recorder import record
from .stats import Stats, measure
from .sweep import Sweep, sweep
from .verdict import recommend

__version__ = "0.1.0"

# imported at first use, since they need matplotlib or Jupyter
_LAZY = {"explore": "explorer", "lab": "laboratory", "load_report": "html", "report": "html"}

__all__ = [
    "RECIPES", "Quantized", "Recipe", "Stats", "Sweep", "agreement", "analyze", "attribute", "capture", "ceiling_dial",
    "choice", "engines", "impact", "load", "measure", "quantize", "recommend", "record", "static_scale_curve", "sweep",
    "synthetic", *_LAZY,
]  # fmt: skip


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module("." + _LAZY[name], __name__), name)
    raise AttributeError(f"module 'nvfp4viz' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])
