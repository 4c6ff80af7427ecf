"""Squared errors weighted by element: what an output feels of them where the weights are squares of its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...nvfp4 import Recipe, Tokens, tensor_scales
from . import nvrtc
from .launching import aligned, of_recipe
from .plan import Weigh


def weighted_errors(tokens: Tokens, weights: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """Sums over features of weights * (x_hat - x)^2, without a synchronization.

    Args:    weights: float32 [M, K], on the device of the tokens, which are finite.
    Returns: float64 [recipes, M]; per-tensor recipes take their scale from amax.
    """
    x, (m, k) = aligned(tokens.x), tokens.shape
    weights = weights.float().contiguous()
    sums = torch.zeros(len(recipes), m, dtype=torch.float64, device=x.device)
    for recipe, into in zip(recipes if m else (), sums, strict=False):
        launch, lock = of_recipe("weigh", Weigh, recipe, x.dtype, m, k, x.device, nvrtc.stream(x.device.index))
        scales = () if recipe.per_token else tensor_scales(tokens.tensor_amax, recipe)
        with lock:
            job = launch.argument
            job.x, job.stride, job.weights, job.sums = x.data_ptr(), x.stride(0), weights.data_ptr(), into.data_ptr()
            for name, scale in zip(("encode", "decode"), scales, strict=False):
                setattr(job.scaling, name, scale.data_ptr())
            launch()
    return sums
