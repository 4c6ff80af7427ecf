"""NVFP4's scales and candidate scores, step by step in torch: the arithmetic that every engine reproduces.

Everything is FP32, each operation rounded once (no fused multiply-add) and subnormals flushed to zero, as in
FlashInfer's kernels. Strict and fast differ in their reciprocals: strict rounds correctly, fast takes the GPU's
approximate one. Divisions take two tensors: torch turns `number / tensor` into a reciprocal and a multiplication.

Source: flashinfer-python 0.7.2.post1, nv_internal/tensorrt_llm/kernels/quantization_utils.cuh and quantization.cuh.
"""

from __future__ import annotations

import functools
import lzma
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from .e2m1 import E2M1_MAX, e2m1_decode, e2m1_encode
from .e4m3 import e4m3_encode, flush
from .recipe import Recipe

FLT_MAX = float(torch.finfo(torch.float32).max)


@functools.cache
def rcp_table() -> np.ndarray:
    """int8 [2^23]: by mantissa, what rcp.approx.ftz.f32 adds to the correctly rounded reciprocal's last place."""
    packed = resources.files("nvfp4viz").joinpath("data/rcp_delta_sm90.i8.xz").read_bytes()
    return np.frombuffer(lzma.decompress(packed), dtype=np.int8)


@functools.lru_cache(maxsize=4)
def _rcp_table_on(device: torch.device) -> Tensor:
    return torch.from_numpy(rcp_table().copy()).to(device)


def rcp_approx(x: Tensor) -> Tensor:
    """The hardware's approximate reciprocal, rcp.approx.ftz.f32 of compute capability 9.0, bit for bit.

    Args:    x: float32, any shape and device. A subnormal or zero gives infinity of its sign, infinity gives 0.
    Returns: float32, same shape; results below the smallest normal are zero.
    """
    x = flush(x)
    rounded = torch.div(torch.ones_like(x), x)
    mantissa = x.view(torch.int32) & 0x7FFFFF
    delta = _rcp_table_on(x.device)[mantissa.long()].to(torch.int32)
    approx = flush((rounded.view(torch.int32) + delta).view(torch.float32))
    return torch.where(rounded.isfinite() & (flush(rounded) != 0), approx, flush(rounded))


def reciprocal(x: Tensor, recipe: Recipe) -> Tensor:
    """1/x as the recipe's arithmetic takes it: approximate in fast, correctly rounded in strict."""
    return rcp_approx(x) if recipe.fast_math else flush(torch.div(torch.ones_like(x), x))


def caller_scale(recipe: Recipe, device=None) -> Tensor:
    """s = float32(1 / (6 * e4m3_max)), what a caller such as SGLang passes for per-token scaling. A 0-d float32."""
    return torch.tensor(1.0 / (E2M1_MAX * recipe.e4m3_max), dtype=torch.float32, device=device)


def token_scales(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Encode and decode scale of each token.

    Args:    amax: float32 [M, 1], the largest magnitude of each row.
    Returns: two float32 [M, 1]. An all-zero row decodes with 0.
    """
    amax = flush(amax)
    s = caller_scale(recipe, amax.device)
    if recipe.fast_math:
        decode = flush(amax * s)
        return torch.where(decode == 0, torch.zeros_like(decode), rcp_approx(decode)), decode
    full_range = torch.div(torch.ones_like(s), s)  # rn(1/s): 6 * e4m3_max, but for some ceilings
    encode = flush(torch.div(full_range.expand_as(amax), amax).clamp(max=FLT_MAX))
    encode = torch.where(encode == 0, torch.ones_like(encode), encode)
    decode = flush(torch.div(torch.ones_like(encode), encode))
    return encode, torch.where(amax == 0, torch.zeros_like(decode), decode)


def tensor_scales(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Encode and decode scale of a whole tensor from its amax, 0-d float32; two float32 [1, 1]."""
    amax = amax.reshape(1, 1)
    full_range = torch.full_like(amax, E2M1_MAX * recipe.e4m3_max)
    return with_decode_scale(torch.div(full_range, amax).clamp(max=FLT_MAX))  # amax 0 gives infinity, so FLT_MAX


def with_decode_scale(encode: Tensor) -> tuple[Tensor, Tensor]:
    """An encode scale of a whole tensor, such as a caller gives, and the decode scale that belongs to it."""
    return encode, torch.div(torch.ones_like(encode), encode)


def block_candidates(bmax: Tensor, encode: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The real-valued block scales that E4M3 will round: amax to 6, and amax to 4.

    Args:    bmax: float32 [..., 1], each block's amax; encode: float32, broadcasts with it.
    Returns: h6, h4, both float32 [..., 1]; `standard` uses only h6.
    """
    bmax, encode, six = flush(bmax), flush(encode), torch.full_like(bmax, 6.0)
    if recipe.fast_math:
        h6 = flush(encode * flush(bmax * rcp_approx(six)))
    elif recipe.four_over_six:
        h6 = flush(flush(torch.div(bmax, six)) * encode)
    else:
        h6 = flush(bmax * flush(encode * torch.div(torch.ones_like(six), six)))
    return h6, flush(h6 * 1.5)


def output_scale(block_scale: Tensor, bmax: Tensor, encode: Tensor, recipe: Recipe) -> Tensor:
    """What x is multiplied with before E2M1 rounding: about 1 / (block_scale * decode_scale).

    Args:    block_scale: E4M3 values as float32 [..., 1]; bmax, encode as in `block_candidates`.
    Returns: float32 [..., 1]; 0 in all-zero blocks. A block scale of 0 gives FLT_MAX (strict) or infinity (fast).
    """
    scale = reciprocal(flush(block_scale * reciprocal(flush(encode), recipe)), recipe)
    if not recipe.fast_math:
        scale = torch.fmin(scale, torch.full_like(scale, FLT_MAX))  # of NaN too, which an encode scale of 0 gives
    return torch.where(flush(bmax) == 0, torch.zeros_like(scale), scale)


def candidate_error(
    x: Tensor, codes: Tensor, block_scale: Tensor, encode: Tensor, amax: Tensor, recipe: Recipe
) -> Tensor:
    """The error by which 4over6 chooses: summed over a block in column order, in FP32.

    Args:    x: float32 [..., 16]; codes: uint8 [..., 16]; block_scale, encode: float32 [..., 1];
             amax: float32 [..., 1], of the token (per token only).
    Returns: float32 [..., 1], the sum of |diff| or of diff*diff.
    """
    encode = flush(encode)
    value = e2m1_decode(codes) * block_scale  # exact: 2 + 4 significant bits
    if recipe.err_use_fast_math:
        diff = flush(value - flush(x * encode))
    elif recipe.per_token:
        full_range = torch.full_like(block_scale, E2M1_MAX * recipe.score_e4m3_max)
        diff = flush(flush(torch.div(flush(value * amax), full_range)) - x)
    else:
        diff = flush(flush(value * reciprocal(encode, recipe)) - x)
    terms = diff.abs() if recipe.err_mode == "MAE" else flush(diff * diff)
    total = torch.zeros_like(terms[..., :1])
    for column in range(terms.shape[-1]):
        total = flush(total + terms[..., column : column + 1])
    return total


@dataclass(frozen=True)
class Candidate:
    """What one candidate scale makes of blocks: their amax goes to `to`."""

    to: int  # 6 or 4
    h: Tensor  # float32 [..., 1], the scale before E4M3 rounds it
    block_scale: Tensor  # float8_e4m3fn [..., 1]
    scaled: Tensor  # float32 [..., 16], what E2M1 rounds
    codes: Tensor  # uint8 [..., 16]


def candidates(x: Tensor, encode: Tensor, recipe: Recipe) -> list[Candidate]:
    """The scales that a recipe tries for blocks: 6, and 4 under 4over6.

    Args: x: float32 [..., 16], subnormals flushed; encode: float32 [..., 1], the encode scale of each block's token.
    """
    bmax = x.abs().amax(-1, keepdim=True)  # [..., 1]
    tried = []
    for to, h in zip((6, 4) if recipe.four_over_six else (6,), block_candidates(bmax, encode, recipe), strict=False):
        scale = e4m3_encode(h)
        scaled = flush(x * output_scale(scale.float(), bmax, encode, recipe))  # [..., 16]
        tried.append(Candidate(to, h, scale, scaled, e2m1_encode(scaled)))
    return tried


def scores(tried: list[Candidate], x: Tensor, encode: Tensor, amax: Tensor, recipe: Recipe) -> list[Tensor]:
    """The error of each candidate as `candidate_error` sums it, float32 [..., 1] each."""
    return [candidate_error(x, c.codes, c.block_scale.float(), encode, amax, recipe) for c in tried]


def takes_four(score6: Tensor, score4: Tensor) -> Tensor:
    """Where a block maps its amax to 4: a tie goes to 6."""
    return score4 < score6


def scales_of(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Encode and decode scale, float32 [M, 1] or [1, 1], from amax [M, 1] of tokens, or [1, 1] of the tensor."""
    return token_scales(amax, recipe) if recipe.per_token else tensor_scales(amax, recipe)
