"""Squared errors weighted by element: what an output feels of them where the weights are squares of its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe, Tokens, tensor_scales
from . import nvrtc
from .launching import aligned, ctas, log_lanes
from .plan import LOG_THREADS, Weigh, plans, scale_constants, score_constants


def weighted_errors(tokens: Tokens, weights: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """Sums over features of weights * (x_hat - x)^2, without a synchronization.

    Args:    weights: float32 [M, K], on the device of the tokens, which are finite.
    Returns: float64 [recipes, M]; per-tensor recipes take their scale from amax.
    """
    x, (m, k) = aligned(tokens.x), tokens.shape
    weights = weights.float().contiguous()
    sums = torch.zeros(len(recipes), m, dtype=torch.float64, device=x.device)
    index, lanes = x.device.index, log_lanes(k)
    for recipe, into in zip(recipes if m else (), sums, strict=False):
        encode, decode = (None, None) if recipe.per_token else tensor_scales(tokens.tensor_amax, recipe)
        job = Weigh(x=x.data_ptr(), weights=weights.data_ptr(), sums=into.data_ptr(), stride=x.stride(0), tokens=m,
                    blocks=k // BLOCK, log_lanes=lanes, scoring=score_constants(recipe))  # fmt: skip
        job.scaling.caller_scale, job.scaling.full_range = scale_constants(recipe)
        if encode is not None:
            job.scaling.encode, job.scaling.decode = encode.data_ptr(), decode.data_ptr()
        ((plan, _),) = plans((recipe,))
        kernel = nvrtc.kernel(plan.source(x.dtype, "weigh"), "weigh", index)
        nvrtc.Launch(kernel, ctas(m, lanes), 1 << LOG_THREADS, job, nvrtc.stream(index), index)()
    return sums
