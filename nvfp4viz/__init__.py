"""See what NVFP4 and 4over6 quantization do to a model's activations."""

import importlib

from .activations import load, synthetic
from .analysis import Impact, Sweep, agreement, attribute, ceiling_dial, choice, recommend, static_scale_curve, sweep
from .checkpoints import Checkpoint, checkpoint
from .engine import analyze, engines, quantize
from .model import capture, impact, record, sensitivity
from .nvfp4 import RECIPES, Quantized, Recipe
from .planning import LayerPlan, drift, drift_between, layer_effects, plan
from .stats import Stats, measure

__version__ = "0.2.0"

# imported at first use, since they need matplotlib or Jupyter
_LAZY = {"explore": "explorer", "lab": "explorer", "load_report": "pages", "report": "pages"}

__all__ = [
    "RECIPES", "Checkpoint", "Impact", "LayerPlan", "Quantized", "Recipe", "Stats", "Sweep", "agreement", "analyze",
    "attribute", "capture", "ceiling_dial", "checkpoint", "choice", "drift", "drift_between", "engines", "impact",
    "layer_effects", "load", "measure", "plan", "quantize", "recommend", "record", "sensitivity", "static_scale_curve",
    "sweep", "synthetic", *_LAZY,
]  # fmt: skip


_WINGS = ("cli", "environment", "explorer", "integrations", "pages", "plots", "web")  # the rest is in


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module("." + _LAZY[name], __name__), name)
    if name in _WINGS:
        return importlib.import_module("." + name, __name__)
    raise AttributeError(f"module 'nvfp4viz' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])
