"""Activations as tokens: checked, viewed as rows, blocks and tiles, with their largest magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 16  # neighbours along K that share one E4M3 scale


def blocks(x: Tensor) -> Tensor:
    """A view of [..., K] as [..., K/16, 16]."""
    return x.unflatten(-1, (-1, BLOCK))


def tiles(m: int, k: int, limit: int = 1 << 21):
    """Row and column ranges that cover [m, k], each at most `limit` elements: the reference's 0.4 GiB."""
    columns = min(k, limit)
    rows = max(1, limit // columns)
    for i in range(0, m, rows):
        for j in range(0, k, columns):
            yield slice(i, min(i + rows, m)), slice(j, min(j + columns, k))


def as_tokens(x: Tensor) -> Tensor:
    """x checked and viewed as tokens: [..., K] to [M, K]; a copy only where strides forbid a view.

    Raises TypeError or ValueError where x is no floating-point tensor of features in whole blocks.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}, not a torch.Tensor: wrap it in torch.as_tensor(x)")
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(f"x has dtype {x.dtype}: activations are bfloat16, float16 or float32; convert with x.to(...)")
    if x.is_meta:
        raise TypeError("x is on the meta device: it has a shape, and no values to quantize")
    if x.layout != torch.strided:
        raise TypeError(f"x is stored as {x.layout}: convert it with x.to_dense()")
    if x.ndim == 0:
        raise ValueError("x is a single number (0-d): quantization needs features along its last axis, [..., K]")
    k = x.shape[-1]
    if k == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no features (K=0) to quantize")
    if k % BLOCK:
        way_out = f"pad, or slice x[..., :{k - k % BLOCK}]" if k > BLOCK else f"pad x to {BLOCK} features"
        raise ValueError(f"K={k} is not a multiple of {BLOCK}: NVFP4 scales blocks of {BLOCK} features; {way_out}")
    return x.detach().reshape(-1, k)


def check_finite(x: Tensor) -> None:
    """Raise ValueError with the number and first place of NaN and Inf in x [M, K], K a multiple of 16."""
    low, high = torch.aminmax(x) if x.numel() else (x.new_zeros(()), x.new_zeros(()))
    if torch.isfinite(low) & torch.isfinite(high):  # a NaN anywhere makes both NaN
        return
    nan = inf = 0
    first = None
    for i in range(0, x.shape[0], 1024):
        bad = ~x[i : i + 1024].isfinite()
        nan += int(x[i : i + 1024].isnan().sum())
        inf += int(x[i : i + 1024].isinf().sum())
        if first is None and bad.any():
            row, column = bad.nonzero()[0].tolist()
            first = f"x[{row + i}, {column}]"
    raise ValueError(
        f"x holds {nan} NaN and {inf} Inf, the first at {first}: FlashInfer's result for them is undefined; "
        "find their source, or drop those tokens with x[x.isfinite().all(-1)]"
    )


def block_amax(x: Tensor) -> Tensor:
    """Largest magnitude in each block of 16 features.

    Args:    x: [..., K], K a multiple of 16, finite.
    Returns: [..., K/16] float32, in the unit of x; 0 for an all-zero block.

    >>> block_amax(torch.arange(-16., 16.)[None]).tolist()
    [[16.0, 15.0]]
    """
    return blocks(x).float().abs().amax(-1)  # [..., K/16]


def token_amax(x: Tensor) -> Tensor:
    """Largest magnitude of each row of x [M, K]: float32 [M, 1], without a copy of x."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return torch.maximum(-low, high).abs().float()  # [M, 1]; abs, since the maximum of zeros may be -0


def tensor_amax(x: Tensor) -> Tensor:
    """Largest magnitude in x [M, K]: float32, 0-d; 0 where x is empty. On CPUs ten times as fast as by rows."""
    if not x.numel():
        return torch.zeros((), device=x.device)
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high).abs().float()
