"""Which layers to keep in higher precision, what that costs, and where the output leaves the model's own."""

import importlib

from .change import Flip, OutputChange
from .cost import Cost, recipe_cost
from .drift import Drift, drift, drift_between
from .effects import LayerEffects, layer_effects
from .exports import EXPORTS, export
from .plan import LayerPlan, Point, plan
from .units import Unit, units_of

_FIGURES = ("drift_by_layer", "drift_map", "frontier", "layer_map")  # these need matplotlib, at first use


def __getattr__(name):
    if name in _FIGURES:
        return getattr(importlib.import_module(".figures", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
