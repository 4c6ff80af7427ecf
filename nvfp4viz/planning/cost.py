"""What a recipe costs to run: quantizing a token's activations, measured on a GPU or from a table of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from ..engine import find_engine
from ..nvfp4 import Recipe, Tokens

SHAPE = 8192, 8192  # tokens, features
# docs/speed-cuda.md: milliseconds to quantize 8192 x 8192 in bf16, and to copy it; per token scales, strict
MACHINE = "NVIDIA H100 80GB HBM3, 2026-11-26, PyTorch 2.11.0+cu130, engine cuda"
COPY_MS = 0.093
TABLE_MS = {
    "standard": 0.063, "4/6-mae-448": 0.120, "4/6-mse-448": 0.121, "4/6-mae-256": 0.121, "4/6-mse-256": 0.121,
    "4/6-mae-448-fast": 0.116, "standard-tensor": 0.143,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Time to quantize activations under a recipe."""

    recipe: str
    nanoseconds: float | None  # a token of 8192 features; None where no table has the recipe
    copies: float | None  # in times of copying the same activations
    machine: str

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        if self.copies is None:
            return f"not in the table of {self.machine}"
        return f"{self.copies:.2f} copies"


def recipe_cost(recipe: Recipe, *, measure: bool | None = None) -> Cost:
    """The cost of quantizing by a recipe.

    Args: measure: on this machine's GPU; by default where there is one that the engine `cuda` runs on, else the table.
    """
    engine = find_engine("cuda")
    if measure is None:
        measure = torch.cuda.is_available() and engine.why_not() is None
    if measure:
        return _measured(recipe, engine)
    ms = TABLE_MS.get(recipe.name)
    if ms is None:
        return Cost(recipe.name, None, None, MACHINE)
    return Cost(recipe.name, 1e6 * ms / SHAPE[0], ms / COPY_MS, MACHINE)


def _measured(recipe: Recipe, engine) -> Cost:
    if not torch.cuda.is_available() or engine.why_not() is not None:
        raise RuntimeError(f"no speed can be measured here: {engine.why_not() or 'torch finds no CUDA device'}")
    x = torch.randn(SHAPE, dtype=torch.bfloat16, device="cuda")
    out, tokens = torch.empty_like(x), Tokens.of(x)
    scale = None if recipe.per_token else torch.ones(1, 1, device="cuda")
    copy = _milliseconds(lambda: out.copy_(x))
    ms = _milliseconds(lambda: engine.quantize(tokens, recipe, scale))
    machine = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, engine cuda"
    return Cost(recipe.name, 1e6 * ms / SHAPE[0], ms / copy, machine)


def _milliseconds(call, times: int = 21) -> float:
    """The median, by CUDA events."""
    taken = []
    for _ in range(times + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end))
    return sorted(taken[3:])[times // 2]
