"""FlashInfer's own device functions on GPUs of capability 8.0 to 9.x, for which it compiles empty kernels.

Of the installed package's quantizer header, a copy is adapted (the guard around the quantizer lowered, three E2M1
conversions and one decode left to cuda_fp4.h) and compiled with portable_binding.cu by nvcc, once per FlashInfer
version, GPU architecture, input type and arithmetic. Nothing of FlashInfer's text is in this package. Checks our
engines against FlashInfer; it is no fast path, and "auto" never chooses it.

Source: flashinfer-python 0.7.2.post1, nv_internal/tensorrt_llm/kernels/quantization_utils.cuh.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import re
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from ...files import replacing
from ...nvfp4 import BLOCK, Quantized, Recipe, Tokens, caller_scale, check_finite, token_amax, with_decode_scale
from ..base import Unfused
from ..cuda import nvrtc
from .engine import cuda_device, find_nvcc, refuses_recipe, version, why_not_installed

NAME = "flashinfer:portable"
HEADER = "tensorrt_llm/kernels/quantization_utils.cuh"
INCLUDES = ("csrc/nv_internal", "csrc/nv_internal/include", "include", "cccl/libcudacxx/include")  # in its data folder
FLAGS = ("-cubin", "-std=c++17", "-use_fast_math", "-DENABLE_BF16", "-DENABLE_FP8", "-DENABLE_FP4")
ELEMENTS = {torch.bfloat16: "__nv_bfloat16", torch.float16: "half"}
GUARD = r"#if defined\(__CUDA_ARCH__\) && \(__CUDA_ARCH__ >= "
ADAPTATIONS = (  # what it is, pattern, replacement, how often it is there
    (
        "the conversions to E2M1",
        r"(fp32_vec_to_e2m1\(float2? \(&array\)\[\d+\]\) \{\n)" + GUARD + r"1000\)\n.*?\n\}\n",
        r"\1  return nvfp4viz::encode_e2m1(array);\n}\n",
        3,
    ),
    (
        "the decode of E2M1 times E4M3",
        r"(e2m1x2_byte_scaled_e4m3_to_float2\([^{]*\) \{\n)[^{}]*?" + GUARD + r"1000\)\n.*?\n\}\n",
        r"\1  return nvfp4viz::decode_scaled(byteVal, scaleVal);\n}\n",
        1,
    ),
    ("the guard of the quantizer", r"(cvt_warp_fp16_to_fp4\([^{]*\) \{\n" + GUARD + r")1000", r"\g<1>800", 1),
)
log = logging.getLogger(__name__)


def adapt(header: str) -> str:
    """FlashInfer's header, for GPUs before Blackwell; RuntimeError where it is not the header that we know."""
    for what, pattern, replacement, count in ADAPTATIONS:
        header, found = re.subn(pattern, replacement, header, flags=re.DOTALL)
        if found != count:
            raise RuntimeError(
                f"flashinfer-python {version()} cannot be adapted: {what} in {HEADER} is there {found} times, not "
                f'{count}. It has changed since 0.7.2: use engine "cuda", or pip install flashinfer-python==0.7.2.post1'
            )
    return header


def data_folder() -> Path:
    """Where the installed package keeps its sources, found without importing it."""
    return Path(importlib.util.find_spec("flashinfer").submodule_search_locations[0]) / "data"


def cache_folder() -> Path:
    """Per-user folder for built kernels: nvfp4viz in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nvfp4viz"


def build(architecture: str, dtype: torch.dtype, fast_math: bool) -> bytes:
    """The cubin of all recipes for one input type and arithmetic; from the cache folder where it is there.

    Args: architecture: such as "sm_90".
    Raises RuntimeError where the header is not the one we know, nvcc is missing or fails.
    """
    header = (data_folder() / INCLUDES[0] / HEADER).read_text()
    binding = resources.files(__package__).joinpath("binding.cu").read_text()
    defines = (f"-arch={architecture}", f"-DELEMENT={ELEMENTS[dtype]}", f"-DSTRICT={'false' if fast_math else 'true'}")
    key = hashlib.sha256("\0".join([header, binding, repr(ADAPTATIONS), *FLAGS, *defines]).encode()).hexdigest()[:16]
    words = ["flashinfer", str(version()), architecture, str(dtype)[6:], "fast" if fast_math else "strict", key]
    cubin = cache_folder() / ("-".join(words) + ".cubin")
    if cubin.exists():
        return cubin.read_bytes()
    log.warning("building the quantizer of FlashInfer %s for %s, once, into %s", version(), architecture, cubin)
    image = _compile(adapt(header), binding, defines)
    try:
        cubin.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cubin) as beside:
            beside.write_bytes(image)
    except OSError as error:
        log.warning("not kept, each process will build it: %s", error)
    return image


def _compile(header: str, binding: str, defines: tuple[str, ...]) -> bytes:
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError(_NO_NVCC)
    with tempfile.TemporaryDirectory(prefix="nvfp4viz-") as folder:
        adapted, source, output = Path(folder, HEADER), Path(folder, "binding.cu"), Path(folder, "binding.cubin")
        adapted.parent.mkdir(parents=True)
        adapted.write_text(header)
        source.write_text(binding)
        include = [f"-I{path}" for path in (folder, *(data_folder() / name for name in INCLUDES))]
        command = [nvcc, *FLAGS, *defines, *include, "-o", str(output), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{nvcc} could not build FlashInfer {version()}'s quantizer with {defines[0]} (it needs CUDA 12.8 or "
                f"newer, and a C++17 compiler beside it):\n{(done.stderr or done.stdout)[-2000:]}"
            )
        return output.read_bytes()


_NO_NVCC = (
    "FlashInfer's device functions are compiled at first use and no nvcc is found: install a CUDA toolkit of 12.8 or "
    "newer and put its nvcc on PATH (or set CUDA_HOME)"
)


def why_not() -> str | None:
    if why := why_not_installed():
        return why
    if not torch.cuda.is_available():
        return 'torch finds no CUDA device: use "cpu"'
    return _wrong_gpu(None) or (_NO_NVCC if find_nvcc() is None else None)


def refuses(x: Tensor, recipe: Recipe) -> str | None:
    return refuses_recipe(x, recipe) or (_wrong_gpu(x.device) if x.is_cuda else None)


def _wrong_gpu(device: torch.device | None) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    if (8, 0) <= (major, minor) < (10, 0):
        return None
    use = "flashinfer" if major >= 10 else "cpu"
    return f'it is for GPUs of compute capability 8.0 to 9.x and this one has {major}.{minor}: use "{use}"'


device = cuda_device


@functools.lru_cache(maxsize=64)
def _kernel(index: int, dtype: torch.dtype, fast_math: bool, name: str) -> ctypes.c_void_p:
    """A kernel's handle in the primary context of a device, which must be current."""
    module, function = _module(index, dtype, fast_math), ctypes.c_void_p()
    _driver("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
    return function


@functools.lru_cache(maxsize=16)
def _module(index: int, dtype: torch.dtype, fast_math: bool) -> ctypes.c_void_p:
    major, minor = torch.cuda.get_device_capability(index)
    module, image = ctypes.c_void_p(), build(f"sm_{major}{minor}", dtype, fast_math)
    _driver("cuModuleLoadData", ctypes.byref(module), image)
    return module


def _driver(function: str, *arguments) -> None:
    if error := getattr(nvrtc.driver(), function)(*arguments):
        raise RuntimeError(f"{function} answers CUDA error {error}: is the driver older than the nvcc that built this?")


def _launch(x: Tensor, recipe: Recipe, name: str, threads: int, *arguments) -> None:
    """Run a kernel over `threads` threads on torch's current stream; tensors are passed by address."""
    function = _kernel(x.device.index, x.dtype, recipe.fast_math, name)
    values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
    index = x.device.index
    nvrtc.launch(function, -(-threads // 256), 256, values, nvrtc.stream(index), index)


def quantize(x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
    """x [M, K] bf16 or fp16 on a GPU; encode_scale float32 [1, 1], per tensor only."""
    m, k = x.shape
    codes = x.new_empty((m, k // 2), dtype=torch.uint8)
    scales = x.new_empty((m, k // BLOCK), dtype=torch.uint8)
    amax = token_amax(x) if m else x.new_empty((0, 1), dtype=torch.float32)  # [M, 1]
    if not amax.isfinite().all():
        check_finite(x)
    if recipe.per_token:
        encode, decode = torch.empty_like(amax), torch.empty_like(amax)
    else:
        encode, decode = with_decode_scale(encode_scale)
    if m:
        x = x.contiguous()
        x = x.clone() if x.data_ptr() % (2 * BLOCK) else x
        with torch.cuda.device(x.device):
            if recipe.per_token:
                s, four = ctypes.c_float(caller_scale(recipe).item()), ctypes.c_bool(recipe.four_over_six)
                _launch(x, recipe, "token_scales", m, amax, s, four, ctypes.c_int(m), encode, decode)
            rows, blocks = ctypes.c_int(k // BLOCK), ctypes.c_int64(m * k // BLOCK)
            amaxes = amax if recipe.per_token else ctypes.c_void_p()
            _launch(x, recipe, recipe_kernel(recipe), m * k // BLOCK, x, encode, amaxes, blocks, rows, codes, scales)
    return Quantized(codes, scales.view(torch.float8_e4m3fn), decode, recipe, NAME, encode)


def recipe_kernel(recipe: Recipe) -> str:
    if not recipe.four_over_six:
        return "standard"
    error = "fp16" if recipe.err_use_fast_math else "exact"
    return f"{recipe.err_mode}_{recipe.score_e4m3_max:.0f}_{error}"


class Portable(Unfused):
    """The engine "flashinfer:portable"."""

    name = NAME
    why_not, refuses, device = staticmethod(why_not), staticmethod(refuses), staticmethod(cuda_device)

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        return quantize(tokens.x, recipe, encode_scale)


ENGINE = Portable()
