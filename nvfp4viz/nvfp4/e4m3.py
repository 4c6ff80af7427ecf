"""E4M3, the block scales of NVFP4: float8_e4m3fn, bytes 0..126, the largest 448; and FP32 as the kernels see it."""

from __future__ import annotations

import torch
from torch import Tensor

FLT_MIN = 2.0**-126  # the smallest normal FP32


def flush(x: Tensor) -> Tensor:
    """x with FP32 subnormals replaced by a zero of their sign, as a kernel built with -ftz=true sees them."""
    return torch.where(x.abs() < FLT_MIN, torch.copysign(torch.zeros((), device=x.device), x), x)


def e4m3_encode(x: Tensor) -> Tensor:
    """x >= 0 as E4M3: round to nearest even, saturating at 448. float32 in, torch.float8_e4m3fn out, same shape."""
    return x.clamp(max=448.0).to(torch.float8_e4m3fn)
