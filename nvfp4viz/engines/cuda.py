"""NVFP4 and 4over6 on NVIDIA GPUs of compute capability 8.0 or more: the reference's arithmetic in fused kernels.

The kernels (cuda_kernels.cu) are compiled when a kind of recipe and input first runs, in about a second, and kept.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from ..arithmetic import caller_scale, tensor_scales, token_amax
from ..formats import BLOCK, check_finite
from ..quantized import Quantized
from ..recipe import E2M1_MAX, Recipe
from ..stats import BINS, MANTISSA_SHIFT, POISSON_THRESHOLDS, REPLICATES, Stats
from . import nvrtc

MIN_CAPABILITY = (8, 0)
THREADS = 256  # of a CTA, as in the kernels
COLUMNS = 16  # sums that one bootstrap launch carries: two a recipe
_INPUTS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
_HISTOGRAMS = (256, 256, BINS, BINS)  # scale byte and choice, pairs of codes, block NMSE, token NMSE
_COUNTERS = ("nonzero_elements", "nonzero_blocks", "n_four_saturated", "n_scale_saturated", "n_element_clipped",
             "n_element_flushed")  # fmt: skip
_COUNTS = sum(_HISTOGRAMS) + len(_COUNTERS)
_SUMS = ("err_abs", "x_hat_sq", "x_dot_x_hat")
_MAXIMA = ("max_error", "x_amax")


class _Job(ctypes.Structure):
    """The kernels' `Job`; its comments say what each field is."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("stride", "tokens")),
        *((name, ctypes.c_int) for name in ("blocks", "log_lanes")),
        *((name, ctypes.c_float) for name in ("caller_scale", "full_range", "score_range", "score_factor")),
        *((name, ctypes.c_void_p) for name in ("encode", "decode", "not_finite", "codes", "scales")),
        *((name, ctypes.c_void_p) for name in ("counts", "sums", "err_sq", "x_sq")),
    ]


def why_not() -> str | None:
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "torch finds no CUDA device"
    try:
        found = nvrtc.capability(torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
        nvrtc.nvrtc()
    except (OSError, RuntimeError) as error:
        return str(error)
    return None if found >= MIN_CAPABILITY else _too_old(found)


def refuses(x: Tensor, recipe: Recipe) -> str | None:
    if x.is_cuda and nvrtc.capability(x.device.index) < MIN_CAPABILITY:
        return _too_old(nvrtc.capability(x.device.index))
    return None


def _too_old(found: tuple[int, int]) -> str:
    return f"the GPU has compute capability {found[0]}.{found[1]}, these kernels need 8.0"


def device(x: Tensor) -> torch.device:
    return x.device if x.is_cuda else torch.device("cuda", torch.cuda.current_device())


def quantize(x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
    """Quantize tokens x [M, K] on a GPU; ValueError where x is not finite, which costs one synchronization."""
    not_finite = torch.zeros(1, dtype=torch.int32, device=x.device)
    quantized = launch_quantize(x, recipe, encode_scale, not_finite)
    if not_finite.item():
        check_finite(x)
    return quantized


def launch_quantize(
    x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None, not_finite: Tensor | None = None
) -> Quantized:
    """`quantize` without a synchronization, for hooks: NaN and Inf only set the int32 `not_finite`, where given."""
    (m, k), empty = x.shape, functools.partial(torch.empty, device=x.device)
    codes, scales = empty(m, k // 2, dtype=torch.uint8), empty(m, k // BLOCK, dtype=torch.uint8)
    encode, decode = _scales(x, recipe, encode_scale)
    x = _aligned(x)
    job = _job(x, recipe, encode, decode)
    job.codes, job.scales, job.not_finite = codes.data_ptr(), scales.data_ptr(), _pointer(not_finite)
    if m:
        _launch("quantize", _ctas(x), [job], _source(recipe, x.dtype), x.device)
    return Quantized(codes, scales.view(torch.float8_e4m3fn), decode, recipe, "cuda", encode)


def analyze(x: Tensor, recipes: Sequence[Recipe], encode_scales, first_token: int = 0) -> list[Stats]:
    """Statistics of x [M, K] under each recipe, in one pass a recipe, without storing codes."""
    m, k = x.shape
    if not m or not recipes:
        return [Stats(recipe, "cuda", k) for recipe in recipes]
    values = launch_analyze(x, recipes, encode_scales, first_token).cpu().numpy()
    if values[0]:
        check_finite(x)
    parts = np.split(values[1:], np.cumsum([len(recipes) * n for n in (_COUNTS, len(_SUMS), len(_MAXIMA))]))
    counts, sums, maxima = (part.reshape(len(recipes), -1) for part in parts[:3])
    replicates = parts[3].reshape(REPLICATES + 1, len(recipes), 2)
    return [_stats(r, m, k, counts[i], sums[i], maxima[i], replicates[:, i]) for i, r in enumerate(recipes)]


def launch_analyze(x: Tensor, recipes: Sequence[Recipe], encode_scales, first_token: int = 0) -> Tensor:
    """All that `analyze` needs, without a synchronization: float64, in which counts are exact.

    Holds whether x is not finite, then for all recipes the counts, sums and maxima, then the bootstrap
    [REPLICATES + 1, recipes, 2], whose last row is the plain sum over tokens.
    """
    (m, _), x, empty = x.shape, _aligned(x), functools.partial(torch.empty, device=x.device)
    grid = min(_ctas(x), 3 * nvrtc.multiprocessors(x.device.index))
    counts = empty(len(recipes), grid, _COUNTS, dtype=torch.int32)
    sums = empty(len(recipes), grid, len(_SUMS) + len(_MAXIMA), dtype=torch.float64)
    tokens = empty(len(recipes), 2, m, dtype=torch.float64)  # err_sq and x_sq of each token
    not_finite = torch.zeros(1, dtype=torch.int32, device=x.device)
    for i, (recipe, given) in enumerate(zip(recipes, encode_scales, strict=True)):
        encode, decode = (None, None) if recipe.per_token else _scales(x, recipe, given)
        job = _job(x, recipe, encode, decode)
        job.counts, job.sums, job.not_finite = counts[i].data_ptr(), sums[i].data_ptr(), not_finite.data_ptr()
        job.err_sq, job.x_sq = tokens[i, 0].data_ptr(), tokens[i, 1].data_ptr()
        _launch("analyze", grid, [job], _source(recipe, x.dtype), x.device)
    replicates = _bootstrap(tokens.flatten(0, 1), first_token)
    summed, largest = sums[..., : len(_SUMS)].sum(1), sums[..., len(_SUMS) :].amax(1)
    parts = (not_finite, counts.sum(1), summed, largest, replicates)
    return torch.cat([part.flatten().double() for part in parts])


def _bootstrap(values: Tensor, first_token: int) -> Tensor:
    """Weighted sums of [n, M] per-token values in each replicate, and plain sums last: float64 [REPLICATES + 1, n]."""
    (n, m), grid = values.shape, min(-(-values.shape[1] // 32), 512)
    total = []
    for i in range(0, n, COLUMNS):
        some = values[i : i + COLUMNS]
        partial = torch.empty(grid, REPLICATES + 1, len(some), dtype=torch.float64, device=values.device)
        arguments = [ctypes.c_void_p(some.data_ptr()), ctypes.c_void_p(partial.data_ptr()), ctypes.c_longlong(m),
                     ctypes.c_uint(first_token & 0xFFFFFFFF), ctypes.c_int(len(some))]  # fmt: skip
        _launch("bootstrap", grid, arguments, _bootstrap_source(), values.device)
        total.append(partial.sum(0))
    return torch.cat(total, 1)


def _stats(recipe: Recipe, m: int, k: int, counts, sums, maxima, replicates) -> Stats:
    counts = counts.astype(np.int64)
    scales, pairs, block_nmse, token_nmse, counters = np.split(counts, np.cumsum(_HISTOGRAMS))
    fields = dict(zip(_COUNTERS, counters.tolist(), strict=True))
    fields |= dict(zip(_SUMS + _MAXIMA, [*sums.tolist(), *maxima.tolist()], strict=True))
    scales, pairs = scales.reshape(128, 2)[:127], pairs.reshape(16, 16)  # [byte, choice], [odd column, even column]
    blocks = m * k // BLOCK
    zero_blocks = blocks - fields["nonzero_blocks"]  # all of byte 0
    return Stats(
        recipe, "cuda", k, tokens=m, elements=m * k, blocks=blocks,
        n_four=int(scales[:, 1].sum()),
        n_scale_subnormal=int(scales[1:8].sum()),
        n_scale_zero=int(scales[0].sum()) - zero_blocks,
        err_sq=float(replicates[-1, 0]), x_sq=float(replicates[-1, 1]),
        scale_histogram=scales.copy(), code_histogram=pairs.sum(0) + pairs.sum(1),
        token_histogram=token_nmse, block_histogram=block_nmse,
        bootstrap_err_sq=replicates[:-1, 0].copy(), bootstrap_x_sq=replicates[:-1, 1].copy(),
        **fields,
    )  # fmt: skip


def _scales(x: Tensor, recipe: Recipe, encode_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Encode and decode scale: float32 [M, 1] for the kernel to fill per token, [1, 1] with their values per tensor."""
    if recipe.per_token:
        return tuple(torch.empty(2, x.shape[0], 1, dtype=torch.float32, device=x.device))
    if encode_scale is None:
        amax = token_amax(x).amax() if x.shape[0] else torch.zeros((), device=x.device)
        return tensor_scales(amax, recipe)
    return encode_scale, torch.div(torch.ones_like(encode_scale), encode_scale)


def _aligned(x: Tensor) -> Tensor:
    """x, or a copy where its features are not neighbours or a row does not start at a multiple of 16 bytes."""
    row_bytes = x.stride(0) * x.element_size() if x.shape[0] > 1 else 0
    aligned = x.stride(1) == 1 and (row_bytes | x.data_ptr()) % 16 == 0
    return x if aligned else x.clone(memory_format=torch.contiguous_format)


def _log_lanes(x: Tensor) -> int:
    """2^this threads share a row: the most of which 7 in 8 have a block in each turn."""
    n = x.shape[1] // BLOCK
    return next(i for i in range(8, -1, -1) if n >= 0.875 * (-(-n // 2**i) << i))


def _ctas(x: Tensor) -> int:
    """CTAs that hold every row at once."""
    return -(-x.shape[0] // (THREADS >> _log_lanes(x)))


def _job(x: Tensor, recipe: Recipe, encode: Tensor | None, decode: Tensor | None) -> _Job:
    s, score_range = caller_scale(recipe), E2M1_MAX * recipe.score_e4m3_max
    return _Job(
        x=x.data_ptr(), stride=x.stride(0), tokens=x.shape[0], blocks=x.shape[1] // BLOCK, log_lanes=_log_lanes(x),
        caller_scale=s.item(), full_range=torch.div(torch.ones_like(s), s).item(),
        score_range=score_range, score_factor=1 / score_range, encode=_pointer(encode), decode=_pointer(decode),
    )  # fmt: skip


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def _source(recipe: Recipe, dtype: torch.dtype) -> str:
    """The kernels for one kind of recipe and input; recipes that differ in their ceilings alone share it."""
    kind = {"FOUR_OVER_SIX": recipe.four_over_six, "PER_TOKEN": recipe.per_token, "FAST": recipe.fast_math}
    kind["MSE"] = recipe.four_over_six and recipe.err_mode == "MSE"
    kind["SCALED_SCORES"] = recipe.four_over_six and recipe.err_use_fast_math
    first_bin = (1023 - 24) << (52 - MANTISSA_SHIFT)  # of 2^-24, see stats.nmse_bin
    bins = {"BINS": BINS, "MANTISSA_SHIFT": MANTISSA_SHIFT, "FIRST_BIN": first_bin}
    return _defines(INPUT=_INPUTS[dtype], **kind, **bins) + _read("cuda_kernels.cu")


@functools.cache
def _bootstrap_source() -> str:
    thresholds = ", ".join(f"{t}u" for t in POISSON_THRESHOLDS)
    return _defines(REPLICATES=REPLICATES, COLUMNS=COLUMNS, POISSON_THRESHOLDS=thresholds) + _read("cuda_bootstrap.cu")


def _defines(**values) -> str:
    return "".join(f"#define {name} {int(v) if isinstance(v, bool) else v}\n" for name, v in values.items())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _launch(name: str, grid: int, arguments: list, source: str, device: torch.device) -> None:
    with torch.cuda.device(device):
        nvrtc.launch(nvrtc.kernel(source, name, device.index), grid, THREADS, arguments, device)
