"""Squared errors weighed by what the output feels of each element, by any engine."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nvfp4 import Recipe, Tokens, tensor_scales
from .dispatch import choose


def feel(tokens: Tokens, weight: Tensor, recipes: list[Recipe], engine: str) -> Tensor:
    """Sums over features of weight * (x_hat - x)^2 under each recipe: float64 [recipes, M]."""
    chosen = choose(engine, tokens.x, recipes)
    if chosen.name == "cpu":
        from .cpu.weighted import weighted_errors  # comes with numba

        return weighted_errors(tokens, weight, recipes)
    moved, weight = tokens.to(chosen.device(tokens.x)), weight.to(chosen.device(tokens.x))
    rows = []
    for recipe in recipes:
        scale = None if recipe.per_token else tensor_scales(moved.tensor_amax, recipe)[0]
        error = chosen.quantize(moved, recipe, scale).dequantize().sub_(moved.x)
        rows.append(error.square_().mul_(weight).sum(-1, dtype=torch.float64))
    return torch.stack(rows)
