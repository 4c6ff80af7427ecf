"""E2M1 and E4M3, the two small formats of NVFP4: tables, encode, decode, pack, views by block.

Both are the OCP formats: float4_e2m1fn (largest 6) and float8_e4m3fn (largest 448), as FlashInfer's kernels use them.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 16  # neighbours along K that share one E4M3 scale
E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FLT_MIN = 2.0**-126  # the smallest normal FP32

# A magnitude above the i-th boundary has an index above i. Ties go to the even index, so every other midpoint
# belongs to the index above it and its boundary is the float just below.
_MIDPOINTS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
_BOUNDARIES = torch.where(torch.arange(7) % 2 == 1, torch.nextafter(_MIDPOINTS, torch.tensor(0.0)), _MIDPOINTS)


def flush(x: Tensor) -> Tensor:
    """x with FP32 subnormals replaced by a zero of their sign, as a kernel built with -ftz=true sees them."""
    return torch.where(x.abs() < FLT_MIN, torch.copysign(torch.zeros((), device=x.device), x), x)


def e2m1_encode(x: Tensor) -> Tensor:
    """Codes of the nearest E2M1 values: round to nearest, ties to even, saturating at 6.

    Args:    x: float32, any shape.
    Returns: uint8, same shape: sign << 3 | index; -0 and what rounds to it give 8, NaN gives 7 (+6).
    Source:  PTX cvt.rn.satfinite.e2m1x2.f32.

    >>> e2m1_encode(torch.tensor([0.25, 0.75, -5.0, 9.0])).tolist()
    [0, 2, 14, 7]
    """
    index = torch.bucketize(x.abs().contiguous(), _BOUNDARIES.to(x.device), out_int32=True).to(torch.uint8)
    codes = index | (torch.signbit(x).to(torch.uint8) << 3)
    return torch.where(x.isnan(), 7, codes)


def e2m1_decode(codes: Tensor) -> Tensor:
    """float32 values of E2M1 codes 0..15, same shape."""
    magnitudes = torch.tensor(E2M1_MAGNITUDES, device=codes.device)
    return torch.cat([magnitudes, -magnitudes])[codes.long()]


def e4m3_encode(x: Tensor) -> Tensor:
    """x >= 0 as E4M3: round to nearest even, saturating at 448. float32 in, torch.float8_e4m3fn out, same shape."""
    return x.clamp(max=448.0).to(torch.float8_e4m3fn)


def pack(codes: Tensor) -> Tensor:
    """Two codes a byte, the even column in the low nibble: uint8 [..., K] to [..., K/2]."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 [..., K/2] to [..., K]."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def decode_packed(packed: Tensor) -> Tensor:
    """float32 values of packed codes, uint8 [..., K/2] to [..., K]: one look-up for the two codes of a byte.

    >>> decode_packed(torch.tensor([0x72], dtype=torch.uint8)).tolist()
    [1.0, 6.0]
    """
    byte = torch.arange(256, dtype=torch.uint8, device=packed.device)
    pairs = e2m1_decode(unpack(byte.unsqueeze(-1))).view(torch.float64).flatten()  # [256], two float32 in each
    return pairs.take(packed.long()).view(torch.float32)


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
