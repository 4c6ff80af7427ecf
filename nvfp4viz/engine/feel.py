"""Squared errors weighed by what the output feels of each element, by any engine."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from ..nvfp4 import Recipe, Tokens, tensor_scales
from .dispatch import choose

_FUSED = {"cpu": ".cpu.weighted", "cuda": ".cuda.weighted"}  # imported when asked for: numba comes with one


def feel(tokens: Tokens, weight: Tensor, recipes: list[Recipe], engine: str) -> Tensor:
    """Sums over features of weight * (x_hat - x)^2 under each recipe: float64 [recipes, M]; x is finite."""
    chosen = choose(engine, tokens.x, recipes)
    moved, weight = tokens.to(chosen.device(tokens.x)), weight.to(chosen.device(tokens.x))
    if chosen.name in _FUSED:
        return importlib.import_module(_FUSED[chosen.name], __package__).weighted_errors(moved, weight, recipes)
    rows = []
    for recipe in recipes:
        scale = None if recipe.per_token else tensor_scales(moved.tensor_amax, recipe)[0]
        error = chosen.quantize(moved, recipe, scale).dequantize().sub_(moved.x)
        rows.append(error.square_().mul_(weight).sum(-1, dtype=torch.float64))
    return torch.stack(rows)
