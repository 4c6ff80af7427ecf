"""E4M3, the block scales of NVFP4: float8_e4m3fn, bytes 0..126, the largest 448; and FP32 as the kernels see it."""

from __future__ import annotations

import torch
from torch import Tensor

E4M3_MAX = 448.0
E4M3_VALUES = tuple(torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().tolist())  # by byte
FOUR_LIMIT = E4M3_MAX / 1.5  # of a block scale for 6 above it, the scale for 4 saturates
MARGIN = 1 + 2.0**-20  # above a limit by less is FP32 noise, not clipping
FLT_MIN = 2.0**-126  # the smallest normal FP32


def flush(x: Tensor) -> Tensor:
    """x with FP32 subnormals replaced by a zero of their sign, as a kernel built with -ftz=true sees them."""
    return torch.where(x.abs() < FLT_MIN, torch.copysign(torch.zeros((), device=x.device), x), x)


def e4m3_encode(x: Tensor) -> Tensor:
    """x >= 0 as E4M3: round to nearest even, saturating at 448. float32 in, torch.float8_e4m3fn out, same shape."""
    return x.clamp(max=E4M3_MAX).to(torch.float8_e4m3fn)


def e4m3_edges() -> list[float]:
    """The 127 edges of the cells of bytes 1 to 126, where rounding changes: halfway between neighbours."""
    middle = torch.tensor(E4M3_VALUES, dtype=torch.float64).unfold(0, 2, 1).mean(1).tolist()
    return [*middle, 2 * E4M3_MAX - middle[-1]]
