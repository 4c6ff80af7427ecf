"""Launching the CUDA engine's kernels: which source a recipe needs, how threads share rows, what a kernel is told."""

from __future__ import annotations

import ctypes
import functools
from importlib import resources

import torch
from torch import Tensor

from ...nvfp4 import BLOCK, E2M1_MAX, Recipe, caller_scale
from ...stats import BINS, LEVELS, MANTISSA_SHIFT, RUNS, SHORTEST, SPARE_BITS
from . import nvrtc

LOG_THREADS = 7  # of a CTA that works on blocks; small, since a row's threads wait for each other
FOLD = 8  # columns that a CTA folds
SUM_THREADS = 256  # of a CTA that sums
RUN_COLUMNS = (LEVELS + 1) * RUNS + 2  # by token: sums of each slot, and two numbers of all
QUANTIZE_CTAS, ANALYZE_CTAS = 8, 6  # that a multiprocessor shall hold at once
_INPUTS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


class Job(ctypes.Structure):
    """The kernels' `Job`; its comments in block.cu say what each field is."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("stride", "tokens")),
        *((name, ctypes.c_int) for name in ("blocks", "log_lanes")),
        *((name, ctypes.c_float) for name in ("caller_scale", "full_range", "score_range", "score_factor")),
        *((name, ctypes.c_void_p) for name in ("encode", "decode", "amax")),
        ("amax_known", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("not_finite", "codes", "scales", "totals", "err_sq", "x_sq")),
    ]


def job(x: Tensor, recipe: Recipe, **pointers: int | None) -> Job:
    """What a kernel needs to know of x [M, K], as `aligned` returns it, and of the recipe."""
    (m, k), constants = x.shape, _constants(recipe)
    return Job(x.data_ptr(), x.stride(0), m, k // BLOCK, _log_lanes(k), *constants, **pointers)


@functools.cache
def _constants(recipe: Recipe) -> tuple[float, float, float, float]:
    """caller_scale, full_range, score_range and score_factor of `Job`."""
    s, score_range = caller_scale(recipe), E2M1_MAX * recipe.score_e4m3_max
    return s.item(), torch.div(torch.ones_like(s), s).item(), score_range, 1 / score_range


@functools.cache
def _log_lanes(k: int) -> int:
    """2^this threads share a row of k features: the most of which 7 in 8 have a block in each turn."""
    n = k // BLOCK
    return next(i for i in range(LOG_THREADS, -1, -1) if n >= 0.875 * (-(-n // 2**i) << i))


def ctas(x: Tensor) -> int:
    """CTAs that hold every row of x at once."""
    return -(-x.shape[0] >> (LOG_THREADS - _log_lanes(x.shape[1])))


def aligned(x: Tensor) -> Tensor:
    """x, or a copy where its features are not neighbours or a row does not start at a multiple of 16 bytes."""
    row_bytes = x.stride(0) * x.element_size() if x.shape[0] > 1 else 0
    ready = x.stride(1) == 1 and (row_bytes | x.data_ptr()) % 16 == 0
    return x if ready else x.clone(memory_format=torch.contiguous_format)


@functools.cache
def source(recipe: Recipe, dtype: torch.dtype) -> str:
    """The kernels for one kind of recipe and input; recipes that differ in their ceilings alone share it."""
    kind = {"FOUR_OVER_SIX": recipe.four_over_six, "PER_TOKEN": recipe.per_token, "FAST": recipe.fast_math}
    kind["MSE"] = recipe.four_over_six and recipe.err_mode == "MSE"
    kind["SCALED_SCORES"] = recipe.four_over_six and recipe.err_use_fast_math
    shape = {"LOG_THREADS": LOG_THREADS, "QUANTIZE_CTAS": QUANTIZE_CTAS, "ANALYZE_CTAS": ANALYZE_CTAS}
    first_bin = (1023 - 24) << (52 - MANTISSA_SHIFT)  # of 2^-24, see stats.nmse_bin
    bins = {"BINS": BINS, "MANTISSA_SHIFT": MANTISSA_SHIFT, "FIRST_BIN": first_bin}
    defines = _defines(INPUT=_INPUTS[dtype], **kind, **shape, **bins)
    return defines + _read("block.cu") + _read("kernels.cu")


@functools.cache
def sums_source() -> str:
    shape = {"SUM_THREADS": SUM_THREADS, "FOLD": FOLD, "ROWS": LEVELS + 1, "RUNS": RUNS, "SHORTEST": SHORTEST}
    return _defines(**shape, SPARE_BITS=SPARE_BITS) + _read("sums.cu")


def _defines(**values) -> str:
    return "".join(f"#define {name} {int(v) if isinstance(v, bool) else v}\n" for name, v in values.items())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def launch(name: str, grid: int, job: Job, recipe: Recipe, x: Tensor) -> None:
    """Queue `quantize` or `analyze` for x on its device's current stream."""
    kernel = nvrtc.kernel(source(recipe, x.dtype), name, x.device.index)
    nvrtc.launch(kernel, grid, 1 << LOG_THREADS, [job], x.device)


class Fold(ctypes.Structure):
    """The kernels' `Fold`: totals [batches, rows, columns] in a tensor, to be summed over the rows."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("totals", "out")),
        *((name, ctypes.c_int) for name in ("rows", "columns", "maxima")),
    ]

    def __init__(self, totals: Tensor, out: int, maxima: int = 0):
        self.tensor = totals  # lives as long as its address
        super().__init__(totals.data_ptr(), out, totals.shape[1], totals.shape[2], maxima)

    @property
    def ctas(self) -> int:
        return self.tensor.shape[0] * -(-self.columns // FOLD)


def runs(tokens: Tensor, first_token: int, sequences: tuple[int, int] | None, out: int) -> None:
    """Sums by run of err_sq and x_sq of each token under n recipes, float64 [2n, M]: [n + 1, RUN_COLUMNS] at `out`."""
    n, m = tokens.shape[0] // 2, tokens.shape[1]
    place = map(ctypes.c_longlong, (m, first_token, *(sequences or (0, 0))))
    arguments = [ctypes.c_void_p(tokens.data_ptr()), ctypes.c_void_p(out), *place, ctypes.c_int(n)]
    _launch_sums("runs", (n + 1) * (LEVELS + 2), arguments, tokens.device)


def fold(job: Fold) -> None:
    """Sum a job's totals in one launch."""
    _launch_sums("fold", job.ctas, [job], job.tensor.device)


def _launch_sums(name: str, grid: int, arguments: list, device: torch.device) -> None:
    nvrtc.launch(nvrtc.kernel(sums_source(), name, device.index), grid, SUM_THREADS, arguments, device)


def at(tensor: Tensor, element: int) -> int:
    """Address of an element of a contiguous tensor."""
    return tensor.data_ptr() + element * tensor.element_size()


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
