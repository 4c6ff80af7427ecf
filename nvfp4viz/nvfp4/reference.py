"""The readable specification: NVFP4 and 4over6 in plain torch, on any device, for any ceiling.

Slow on purpose: every intermediate has a name. Strict and fast equal FlashInfer's kernels bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import candidates, scales_of, scores, takes_four, with_decode_scale
from .e2m1 import pack
from .e4m3 import flush
from .quantized import Quantized
from .recipe import Recipe
from .tokens import Tokens, blocks, tiles


def reference_quantize(tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
    """Quantize tokens to NVFP4.

    Args:
        tokens:       x [M, K]; ValueError where it is not finite.
        encode_scale: float32 [1, 1], per tensor only; from the tensor's amax where it is None.
    """
    x, (m, k), amax = tokens.x, tokens.shape, tokens.amax  # [M, 1]
    if encode_scale is not None:
        encode, decode = with_decode_scale(encode_scale)
    else:
        encode, decode = scales_of(amax if recipe.per_token else tokens.tensor_amax, recipe)  # [M, 1] or [1, 1]

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
    tried = candidates(x, encode, recipe)
    if not recipe.four_over_six:
        return tried[0].codes, tried[0].block_scale
    six, four = tried
    chosen = takes_four(*scores(tried, x, encode, amax, recipe))
    codes = torch.where(chosen, four.codes, six.codes)
    scale = torch.where(chosen, four.block_scale.view(torch.uint8), six.block_scale.view(torch.uint8))
    zero = (x == 0).all(-1, keepdim=True)  # [..., 1]
    return torch.where(zero, 0, codes), torch.where(zero, 0, scale).view(torch.float8_e4m3fn)
