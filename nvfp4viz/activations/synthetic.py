"""Synthetic activations, made from a seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def synthetic(kind: str, tokens: int = 256, features: int = 1024, *, seed: int = 0, strength: float = 1.0) -> Tensor:
    """Synthetic activations, bf16 [tokens, features], the same for a seed everywhere.

    Args:
        kind:     "normal"; "lognormal" (sigma = strength); "outlier channels" (1 % of channels 20 * strength times
                  larger); "spikes" (1 element in 1,000 is 50 * strength times larger); "spread" (each token has one
                  lone value, 20,000 to 60,000 * strength times the amax of its other blocks: where E4M3 runs out of
                  normal numbers, so favours a ceiling of 448); "crowded" (every block has its token's amax: favours
                  256).
        features: a multiple of 16.
        strength: how far it goes.
    Raises ValueError for another kind, or features that make no whole blocks, TypeError for what is no whole number.
    """
    for name, number in (("tokens", tokens), ("features", features), ("seed", seed)):
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
            raise TypeError(f"{name}={number!r} is no whole number")
        if number < 0:
            raise ValueError(f"{name}={number} is negative")
    if features % 16:
        raise ValueError(f"features={features} is not a multiple of 16: NVFP4 scales blocks of 16 features")
    g = torch.Generator().manual_seed(int(seed))
    x = torch.randn(tokens, features, generator=g)
    if kind == "lognormal":
        x = x.sign() * torch.exp(strength * torch.randn(tokens, features, generator=g))
    elif kind == "outlier channels":
        channels = torch.randperm(features, generator=g)[: max(1, features // 100)]
        x[:, channels] *= 20 * strength
    elif kind == "spikes":
        x = torch.where(torch.rand(tokens, features, generator=g) < 1e-3, x * 50 * strength, x)
    elif kind in ("spread", "crowded"):
        grouped = x.unflatten(-1, (-1, 16))
        grouped /= grouped.abs().amax(-1, keepdim=True)  # every block has amax 1
        if kind == "spread":
            grouped *= 3 ** torch.rand(tokens, features // 16, 1, generator=g)  # 1 to 3
            grouped[:, 0] = 0
            grouped[:, 0, 0] = 60_000 * strength
        x = grouped.flatten(-2)
    elif kind != "normal":
        raise ValueError(f"unknown kind {kind!r}: one of {', '.join(map(repr, SYNTHETIC))}")
    return x.bfloat16()


SYNTHETIC = ("normal", "lognormal", "outlier channels", "spikes", "spread", "crowded")
