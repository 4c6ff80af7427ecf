"""The engine "reference": the specification itself, in plain torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nvfp4 import Recipe
from ..nvfp4 import reference_quantize as quantize
from ..stats import Stats, measure


def analyze(x: Tensor, recipes, encode_scales, first_token: int = 0, sequences=None) -> list[Stats]:
    """Statistics of x [M, K] under each recipe, from the quantized tensor."""
    place = {"first_token": first_token, "sequences": sequences}
    return [measure(x, quantize(x, r, s), **place) for r, s in zip(recipes, encode_scales, strict=True)]


def why_not() -> str | None:
    return None  # torch alone


def refuses(x: Tensor, recipe: Recipe) -> str | None:
    return None


def device(x: Tensor) -> torch.device:
    return x.device
