"""Draws that depend on an index alone: the same in every recipe, tensor, chunk and process."""

from __future__ import annotations

from torch import Tensor


def hash32(x: Tensor) -> Tensor:
    """Chris Wellons' lowbias32, a bijection of 32-bit integers, in int64 arithmetic."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
