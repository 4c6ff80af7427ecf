"""NVFP4 and 4over6 on NVIDIA GPUs of compute capability 8.0 or more: the reference's arithmetic in fused kernels.

The kernels are compiled when a kind of recipe and input first runs, in a few seconds, and kept for later processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Quantized, Recipe, Tokens, check_finite, tensor_amax, tensor_scales, with_decode_scale
from ...stats import Stats
from . import nvrtc
from .launching import aligned, of_recipe
from .plan import Quantize
from .state import Launched

MIN_CAPABILITY = (8, 0)


def why_not() -> str | None:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        found = nvrtc.capability(torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
        nvrtc.nvrtc()
    except (OSError, RuntimeError) as error:
        return str(error)
    return None if found >= MIN_CAPABILITY else _too_old(found)


def _too_old(found: tuple[int, int]) -> str:
    return f"the GPU has compute capability {found[0]}.{found[1]}, these kernels need 8.0"


def launch_quantize(
    x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None, not_finite: Tensor | None = None
) -> Quantized:
    """Quantize tokens x [M, K] on a GPU without a synchronization: NaN and Inf only set the int32 `not_finite`."""
    (m, k), device = x.shape, x.device
    codes = torch.empty(m, k // 2, dtype=torch.uint8, device=device)
    scales = torch.empty(m, k // BLOCK, dtype=torch.float8_e4m3fn, device=device)
    if recipe.per_token:
        encode, decode = torch.empty(2, m, 1, dtype=torch.float32, device=device).unbind()
    else:
        encode, decode = _given(x, recipe, encode_scale)
    if m:
        x = aligned(x)
        launch, lock = of_recipe("quantize", Quantize, recipe, x.dtype, m, k, device, nvrtc.stream(device.index))
        with lock:
            job = launch.argument
            job.x, job.stride, job.codes, job.scales = x.data_ptr(), x.stride(0), codes.data_ptr(), scales.data_ptr()
            job.not_finite = None if not_finite is None else not_finite.data_ptr()
            job.scaling.encode, job.scaling.decode = encode.data_ptr(), decode.data_ptr()
            launch()
    return Quantized(codes, scales, decode, recipe, "cuda", encode)


def _given(x: Tensor, recipe: Recipe, encode_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Encode and decode scale of a per-tensor recipe, float32 [1, 1]; from the tensor's amax where none is given."""
    if encode_scale is None:
        return tensor_scales(tensor_amax(x), recipe)
    return with_decode_scale(encode_scale)


class Cuda:
    """The engine "cuda"."""

    name, leaves_out = "cuda", True
    why_not = staticmethod(why_not)

    def refuses(self, x: Tensor, recipe: Recipe) -> str | None:
        if x.is_cuda and nvrtc.capability(x.device.index) < MIN_CAPABILITY:
            return _too_old(nvrtc.capability(x.device.index))
        return None

    def device(self, x: Tensor) -> torch.device:
        return x.device if x.is_cuda else torch.device("cuda", torch.cuda.current_device())

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        """ValueError where x is not finite, which costs one synchronization."""
        not_finite = torch.zeros(1, dtype=torch.int32, device=tokens.x.device)
        quantized = launch_quantize(tokens.x, recipe, encode_scale, not_finite)
        if not_finite.item():
            check_finite(tokens.x)
        return quantized

    def analyze(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> list[Stats]:
        """Statistics under each recipe, in one pass, without storing codes."""
        if not tokens.shape[0]:
            return [Stats(recipe, "cuda", tokens.shape[1]) for recipe in recipes]
        stats, not_finite = self.launch(tokens, recipes, encode_scales).fetch_all()[0]
        if not_finite:
            check_finite(tokens.x)
        return stats

    def launch(
        self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence, into: Launched | None = None
    ) -> Launched:
        """Statistics of one token at least, without waiting; rows with NaN or Inf are left out and counted."""
        total = Launched(recipes) if into is None else into
        scales = [None if r.per_token else _given(tokens.x, r, s) for r, s in zip(recipes, encode_scales, strict=True)]
        total.add(tokens.x, scales, tokens.first, tokens.sequences)
        return total

    def launch_segments(
        self, x: Tensor, offsets: Tensor, recipes: Sequence[Recipe], into: Launched | None = None, first: int = 0
    ) -> Launched:
        """Statistics of each segment of x [M, K] under per-token recipes, in one launch without a synchronization.

        Args:
            offsets: int32 [E + 1] on x's device, from 0 to M at most: segment e is x[offsets[e] : offsets[e + 1]].
            into:    what an earlier call returned; each segment's tokens follow those that it has.
            first:   index of each segment's first token, where nothing is given.
        """
        total = Launched(recipes, offsets.shape[0] - 1, first) if into is None else into
        if x.shape[0]:
            total.add(x, [None] * len(recipes), -1, offsets=offsets)
        return total


ENGINE = Cuda()
