"""E2M1, the elements of NVFP4: float4_e2m1fn of the OCP, the largest 6; encode, decode, pack."""

from __future__ import annotations

import torch
from torch import Tensor

E2M1_MAX = 6.0
E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

# A magnitude above the i-th boundary has an index above i. Ties go to the even index, so every other midpoint
# belongs to the index above it and its boundary is the float just below.
_MIDPOINTS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
_BOUNDARIES = torch.where(torch.arange(7) % 2 == 1, torch.nextafter(_MIDPOINTS, torch.tensor(0.0)), _MIDPOINTS)


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
    return _PAIRS.to(packed.device).index_select(0, packed.flatten().int()).view(packed.shape).view(torch.float32)


_PAIRS = e2m1_decode(unpack(torch.arange(256, dtype=torch.uint8)[:, None])).view(torch.float64).flatten()  # by byte
