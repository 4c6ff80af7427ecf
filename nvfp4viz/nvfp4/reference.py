"""The readable specification: NVFP4 and 4over6 in plain torch, on any device, for any ceiling.

Slow on purpose: every intermediate has a name. Strict and fast equal FlashInfer's kernels bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import block_candidates, candidate_error, output_scale, tensor_scales, token_scales
from .e2m1 import e2m1_encode, pack
from .e4m3 import e4m3_encode, flush
from .quantized import Quantized
from .recipe import Recipe
from .tokens import blocks, check_finite, tiles, token_amax


def reference_quantize(x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
    """Quantize tokens to NVFP4.

    Args:
        x:            [M, K] bf16, fp16 or fp32, finite, K a multiple of 16.
        encode_scale: float32 [1, 1], per tensor only; from the tensor's amax where it is None.
    """
    check_finite(x)
    m, k = x.shape
    amax = token_amax(x) if m else x.new_zeros((0, 1), dtype=torch.float32)  # [M, 1]
    if recipe.per_token:
        encode, decode = token_scales(amax, recipe)  # [M, 1]
    elif encode_scale is not None:
        encode, decode = encode_scale, torch.div(torch.ones_like(encode_scale), encode_scale)
    else:
        encode, decode = tensor_scales(amax.amax() if m else x.new_zeros((), dtype=torch.float32), recipe)  # [1, 1]

    codes = torch.empty(m, k // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(m, k // 16, dtype=torch.float8_e4m3fn, device=x.device)
    for rows, columns in tiles(m, k):
        tile = flush(blocks(x[rows, columns]).float())  # [m, n, 16]
        token = (encode[rows] if recipe.per_token else encode).unsqueeze(-1)  # [m or 1, 1, 1]
        q, b = quantize_blocks(tile, token, flush(amax[rows]).unsqueeze(-1), recipe)
        codes[rows, columns.start // 2 : columns.stop // 2] = pack(q.flatten(-2))
        scales[rows, columns.start // 16 : columns.stop // 16] = b.squeeze(-1)
    return Quantized(codes, scales, decode, recipe, "reference", encode)


def quantize_blocks(x: Tensor, encode: Tensor, amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Codes and block scale of each block: uint8 [..., 16] and float8_e4m3fn [..., 1].

    Args: x: float32 [..., 16]; encode: its encode scale, amax: its token's amax, both float32, as [..., 1].
    """
    bmax = x.abs().amax(-1, keepdim=True)  # [..., 1]
    h6, h4 = block_candidates(bmax, encode, recipe)
    codes6, scale6 = _encode(x, h6, bmax, encode, recipe)
    if not recipe.four_over_six:
        return codes6, scale6
    codes4, scale4 = _encode(x, h4, bmax, encode, recipe)
    error6 = candidate_error(x, codes6, scale6.float(), encode, amax, recipe)
    error4 = candidate_error(x, codes4, scale4.float(), encode, amax, recipe)
    four = error4 < error6  # a tie goes to 6
    codes = torch.where(four, codes4, codes6)
    scale = torch.where(four, scale4.view(torch.uint8), scale6.view(torch.uint8))
    zero = bmax == 0
    return torch.where(zero, 0, codes), torch.where(zero, 0, scale).view(torch.float8_e4m3fn)


def _encode(x: Tensor, h: Tensor, bmax: Tensor, encode: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    scale = e4m3_encode(h)
    return e2m1_encode(flush(x * output_scale(scale.float(), bmax, encode, recipe))), scale
