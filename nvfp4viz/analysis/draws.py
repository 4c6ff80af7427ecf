"""Draws that depend on an index alone: the same in every recipe, tensor, chunk and process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

REPLICATES = 200  # of the Poisson bootstrap


def poisson_weights(first_token: int, tokens: int, device=None) -> Tensor:
    """How often each bootstrap replicate draws each token: Poisson(1), hashed from the token's index.

    Returns: uint8 [tokens, 200]. The same token weighs the same in every recipe, tensor, chunk and process.
    """
    token = torch.arange(first_token, first_token + tokens, device=device).unsqueeze(1)
    replicate = torch.arange(REPLICATES, device=device)
    draw = hash32(hash32(token & 0xFFFFFFFF) ^ hash32(replicate + 0x9E3779B9))
    return torch.bucketize(draw, torch.tensor(POISSON_THRESHOLDS, device=device), right=True).to(torch.uint8)


# P(Poisson(1) <= k) * 2^32 for k = 0, 1, ...: a 32-bit draw at or above the k-th threshold weighs more than k
POISSON_THRESHOLDS = tuple(
    round(2**32 * sum(math.exp(-1) / math.factorial(j) for j in range(k + 1))) for k in range(12)
)


def hash32(x: Tensor) -> Tensor:
    """Chris Wellons' lowbias32, a bijection of 32-bit integers, in int64 arithmetic."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
