"""What is measured on: normal numbers, which are kind to every kernel, and what models really compute.

Blocks in which 4 and 6 are nearly as good take an engine's exact path, so data decides the speed of 4over6.
"""

from pathlib import Path

import torch

import nvfp4viz

BUNDLED = Path(__file__).parents[2] / "data" / "smollm2-135m-activations.safetensors"
KINDS = ("normal", "bundled down_proj", "outlier channels", "lognormal", "scaled rows")


def kind(name: str, m: int, k: int, device="cpu", dtype=torch.bfloat16) -> torch.Tensor:
    """Activations [m, k] of one of KINDS, the same at every call."""
    generator = torch.Generator().manual_seed(KINDS.index(name))
    if name == "bundled down_proj":  # tiled: every row differs from its neighbours, as in the file
        x = next(x for n, x in nvfp4viz.load(BUNDLED).items() if n.endswith("down_proj"))
        x = x.repeat(-(-m // x.shape[0]), -(-k // x.shape[1]))[:m, :k]
        return x.to(device=device, dtype=dtype).contiguous()
    rows = min(m, 512)
    x = torch.randn(rows, k, generator=generator)
    if name == "outlier channels":
        x[:, torch.randperm(k, generator=generator)[: max(1, k // 100)]] *= 50
    elif name == "lognormal":
        x = x.sign() * (2 * torch.randn(rows, k, generator=generator)).exp()
    elif name == "scaled rows":
        x *= (3 * torch.randn(rows, 1, generator=generator)).exp()
    return x.repeat(-(-m // rows), 1)[:m].to(device=device, dtype=dtype).contiguous()
