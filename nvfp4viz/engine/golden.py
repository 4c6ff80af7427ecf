"""Golden cases: what FlashInfer's kernels returned, which every engine must equal bit for bit."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from ..nvfp4 import Recipe

PACKAGED = Path(__file__).parents[1] / "data" / "golden.safetensors.xz"


class Golden(NamedTuple):
    """One call of FlashInfer's kernels: what went in and what came out."""

    name: str  # CASE/GRANULARITY/RECIPE/MATH
    x: Tensor  # [M, K] bf16 or fp16
    recipe: Recipe
    encode_scale: Tensor | None  # float32 [1, 1] that the caller passed in; None per token
    codes: Tensor  # uint8 [M, K/2]
    scales: Tensor  # E4M3 bytes, uint8 [M, K/16], linear layout
    decode: Tensor | None  # float32 [M, 1] that the kernel returned; None per tensor


def recipe_of(name: str) -> Recipe:
    """The recipe of a golden name.

    >>> recipe_of("zeros.bf16/per_token/4over6_256_mse_fp16err/fast").name
    '4/6-mse-256-fp16err-fast'
    """
    _, granularity, kind, math = name.split("/")
    _, ceiling, mode, error = kind.split("_") if kind != "standard" else ("", 448, "MAE", "")
    return Recipe(
        float(ceiling),
        four_over_six=kind != "standard",
        err_mode=mode,
        err_use_fast_math=error == "fp16err",
        per_token=granularity == "per_token",
        fast_math=math == "fast",
    )


def golden_cases(path: str | os.PathLike | None = None) -> Iterator[Golden]:
    """Golden cases of a .safetensors or .safetensors.xz file; the 1,134 that ship with nvfp4viz where it is None."""
    data = Path(path or PACKAGED).read_bytes()
    tensors = safetensors.torch.load(lzma.decompress(data) if data.startswith(b"\xfd7zXZ") else data)
    for name in sorted(key.removesuffix("/codes") for key in tensors if key.endswith("/codes")):
        x, recipe = tensors[name.split("/")[0] + "/x"], recipe_of(name)
        scale = tensors[name + ("/token_scale" if recipe.per_token else "/global_scale")].float().reshape(-1, 1)
        scales = tensors[name + "/scales"].view(torch.uint8).reshape(x.shape[0], -1)  # [M, K/16]
        given, returned = (None, scale) if recipe.per_token else (scale, None)
        yield Golden(name, x, recipe, given, tensors[name + "/codes"], scales, returned)
