"""Which layers to keep in higher precision, what that costs, and where the output leaves the model's own."""

from .change import Flip, OutputChange
from .cost import Cost, recipe_cost
from .drift import Drift, drift, drift_between
from .effects import LayerEffects, layer_effects
from .exports import EXPORTS, export
from .plan import LayerPlan, Point, plan
from .units import Unit, units_of
