"""FlashInfer's own kernels, through its public `nvfp4_quantize`: backends cuda and cute-dsl, strict and fast.

They exist for compute capability 10.0 and newer only; below it they return zeros or garbage in silence, so `why_not`
looks at the device before flashinfer is even imported (1.7 s). Read off the source: built by an nvcc older than 12.9,
backend cuda adds candidate errors in two halves of 8 columns, per tensor below 1024 tokens or where 512 does not divide
K; near-ties between 4 and 6 may then fall the other way than in the reference.

Source: flashinfer-python 0.7.2.post1, flashinfer/quantization/fp4_quantization.py.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...nvfp4 import BLOCK, E4M3_MAX, Quantized, Recipe, Tokens, caller_scale, check_finite, with_decode_scale
from ..base import Unfused

OLDEST = (0, 7, 1)  # the first with an explicit nvfp4_4over6=
CEILINGS = (448.0, 256.0)  # what a 4over6 kernel is compiled for
SCALE_RTOL = 1e-3  # how far FlashInfer lets a per-token scale be from 1 / (6 * ceiling) of the recipe
LIMIT = 1 << 30  # elements a call: kernels index with 32 bits in places
STRICT = ("FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "TRTLLM_DISABLE_FP4_QUANT_FAST_MATH")  # either forces strict in C++
_environment = threading.RLock()


@functools.cache  # each call asks, and reading a package's metadata takes ten times as long as a small one
def version() -> str | None:
    """Version of the installed flashinfer-python, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def why_not_installed() -> str | None:
    """Why there is no FlashInfer with NVFP4 4over6 here, None where there is."""
    found = version()
    if found is None or not installed("flashinfer"):
        return "flashinfer-python is not installed: pip install 'flashinfer-python>=0.7.1' (Linux)"
    release = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", found)
    if release and tuple(int(part or 0) for part in release.groups()) < OLDEST:
        return f"flashinfer-python {found} is too old: nvfp4_4over6= came with 0.7.1; pip install -U flashinfer-python"
    return None


def find_nvcc() -> str | None:
    """The nvcc that FlashInfer builds with: $FLASHINFER_NVCC, or CUDA_HOME's, or the one on PATH; None without one."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    names = [os.environ.get("FLASHINFER_NVCC"), home and f"{home}/bin/nvcc", "nvcc", "/usr/local/cuda/bin/nvcc"]
    return _first_on_path(tuple(str(Path(name)) for name in names if name), os.environ.get("PATH"))


@functools.lru_cache(maxsize=16)
def _first_on_path(names: tuple[str, ...], path: str | None) -> str | None:
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


@contextlib.contextmanager
def environment(fast_math: bool):
    """FlashInfer's strict or fast arithmetic, which it reads from the environment at each call; restored after.

    The environment is the whole process's, so only one thread is inside at a time.
    """
    with _environment:
        before = {name: os.environ.get(name) for name in STRICT}
        try:
            for name in STRICT:
                os.environ.pop(name, None)
            if not fast_math:
                os.environ[STRICT[0]] = "1"
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def refuses_recipe(x: Tensor, recipe: Recipe) -> str | None:
    """What no FlashInfer kernel takes, whatever runs it."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return f'x is {x.dtype}; FlashInfer takes bfloat16 and float16: convert it, or use "cpu", "cuda" or "reference"'
    if recipe.four_over_six and recipe.score_e4m3_max not in CEILINGS:
        return (
            f"FlashInfer's 4over6 has the ceilings 448 and 256, not {recipe.score_e4m3_max:g}: "
            'use "cpu", "cuda" or "reference" for others'
        )
    return None


def cuda_device(x: Tensor) -> torch.device:
    """Where x is, or the current CUDA device."""
    return x.device if x.is_cuda else torch.device("cuda", torch.cuda.current_device())


def _too_old_gpu(device: torch.device | None = None) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 10:
        return None
    return (
        f"the GPU has compute capability {major}.{minor}: FlashInfer's NVFP4 kernels need 10.0 or newer, and return "
        'zeros or garbage here without an error; use "cuda" for the same results, or "flashinfer:portable" to run '
        "FlashInfer's own arithmetic on this GPU"
    )


@dataclass(eq=False)
class Kernels(Unfused):
    """An engine: one backend of FlashInfer's public call."""

    name: str  # the engine's name, as it appears in results
    backend: str  # FlashInfer's name of it: "cuda" or "cute-dsl"

    def why_not(self) -> str | None:
        why = why_not_installed()
        if why is None and not torch.cuda.is_available():
            why = 'torch finds no CUDA device: use "cpu"'
        if why := why or _too_old_gpu():
            return why
        if self.backend == "cute-dsl":
            if not installed("cutlass"):
                return "CuTe-DSL is not installed: pip install nvidia-cutlass-dsl"
        elif find_nvcc() is None and not installed("flashinfer_jit_cache"):
            return (
                "FlashInfer compiles its kernels at first use and finds no nvcc: install a CUDA toolkit and put nvcc "
                "on PATH (or set CUDA_HOME), or fetch built kernels with `flashinfer install-jit-cache-wheel`"
            )
        return None

    def refuses(self, x: Tensor, recipe: Recipe) -> str | None:
        why = refuses_recipe(x, recipe) or (x.is_cuda and _too_old_gpu(x.device)) or None
        assumed = recipe.score_e4m3_max if recipe.four_over_six else E4M3_MAX
        if why or not recipe.per_token or self.backend != "cuda" or abs(assumed / recipe.e4m3_max - 1) <= SCALE_RTOL:
            return why
        return (
            f"its backend cuda compares the caller's scale 1/(6*{recipe.e4m3_max:g}) with 1/(6*{assumed:g}), which the "
            'recipe implies, and raises: "flashinfer:cute-dsl" takes it unchecked, "reference", "cpu" and "cuda" too'
        )

    device = staticmethod(cuda_device)

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        """x [M, K] bf16 or fp16 on a GPU; encode_scale float32 [1, 1], per tensor only."""
        x = tokens.x
        check_finite(x)
        parts = [self._call(rows, recipe, encode_scale) for rows in x.split(max(1, LIMIT // x.shape[1]))]
        codes, scales, decode = (torch.cat(p) if len(p) > 1 else p[0] for p in zip(*parts, strict=True))
        if not recipe.per_token:
            _, decode = with_decode_scale(encode_scale)
        q = Quantized.from_flashinfer(codes, scales, decode, recipe, engine=self.name)
        return replace(q, encode_scale=encode_scale)

    def _call(self, x: Tensor, recipe: Recipe, encode_scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Codes uint8 [M, K/2], scale bytes of M * K/16 blocks, token scales float32 [M] (empty per tensor)."""
        m, k = x.shape
        none = x.new_empty(0, dtype=torch.float32)
        if m == 0:  # a launch of no blocks is an error
            return x.new_empty((0, k // 2), dtype=torch.uint8), x.new_empty(0, dtype=torch.uint8), none
        x = x.contiguous().flatten().view(m, k)  # strides (K, 1) for one row too: (1, 1) reads as column-major
        if x.data_ptr() % (2 * BLOCK):
            x = x.clone()  # kernels load 32 bytes at once
        import flashinfer

        with environment(recipe.fast_math), torch.cuda.device(x.get_device()):
            codes, scales, *token = flashinfer.nvfp4_quantize(x, **arguments(x, recipe, encode_scale, self.backend))
        return codes, scales.view(torch.uint8).flatten(), token[0].flatten() if token else none


def arguments(x: Tensor, recipe: Recipe, encode_scale: Tensor | None, backend: str) -> dict:
    """What `nvfp4_quantize` gets beside x; nvfp4_4over6 always, since leaving it out reads the environment."""
    from flashinfer import NVFP44Over6Config, SfLayout

    config = None
    if recipe.four_over_six:
        config = NVFP44Over6Config(int(recipe.score_e4m3_max), recipe.err_mode, recipe.err_use_fast_math)
    return {
        "a_global_sf": (caller_scale(recipe, x.device) if recipe.per_token else encode_scale).reshape(1),
        "sfLayout": SfLayout.layout_linear,
        "backend": backend,
        "per_token_activation": recipe.per_token,
        "nvfp4_4over6": config,
    }


CUDA = Kernels("flashinfer", "cuda")
CUTE_DSL = Kernels("flashinfer:cute-dsl", "cute-dsl")
