"""The reference's arithmetic fused for CPUs: every bit of it, compiled by numba, some tokens at a time on every core.

`analyze` goes from x to statistics without keeping codes; several recipes share what x alone decides. Threads are
Python's own, each in compiled code that has let go of the interpreter: safe from several callers and in forked
processes, which numba's threading layers are not. Results do not depend on how many threads there were.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import numpy as np
import torch
from torch import Tensor

from ...nvfp4 import (
    BLOCK,
    E2M1_MAX,
    E4M3_MAX,
    MARGIN,
    Quantized,
    Recipe,
    Tokens,
    caller_scale,
    check_finite,
    flush,
    rcp_approx,
    rcp_table,
    tensor_amax,
    tensor_scales,
    unpack,
)
from ...stats import LEVELS, MANTISSA_SHIFT, RUNS, Stats, nmse_bins
from ..base import Ready

TASKS = 16  # x falls into so many tasks, where that leaves each a size in elements
SMALLEST, LARGEST = 1 << 15, 1 << 18  # that is worth a call, and at most 1 MiB in float32: a second-level cache
OLDEST_NUMBA = 0, 60
NO_TABLE = np.zeros(1, np.int8)
NO_TABLE.setflags(write=False)  # like rcp_table(): another type would compile everything again


@functools.cache
def why_not() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    version = metadata.version("numba")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_NUMBA:
        return f"numba {version} is older than {'.'.join(map(str, OLDEST_NUMBA))}: pip install -U numba"
    return None


def refuses(x: Tensor, recipe: Recipe) -> str | None:
    return None


def device(x: Tensor) -> torch.device:
    return torch.device("cpu")


def quantize(x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
    """Quantize tokens to NVFP4: the reference's bits.

    Args:
        x:            [M, K] bf16, fp16 or fp32, finite, K a multiple of 16; rows may be strided.
        encode_scale: float32 [1, 1], per tensor only; from the tensor's amax where it is None.
    """
    kernels = _kernels()
    m, k = x.shape
    rules, given = _rules(x, recipe, encode_scale)
    codes = np.empty((m, k // BLOCK, BLOCK // 2), np.uint8)
    scales = np.empty((m, k // BLOCK), np.uint8)
    encode, decode = np.empty((2, m, 1), np.float32)

    def task(rows: slice) -> None:
        blocks = _load(kernels, x[rows])
        n = (rows.stop - rows.start) * (k // BLOCK)
        encode[rows, 0], decode[rows, 0] = kernels.quantize(
            blocks, rules, codes[rows].reshape(n, BLOCK // 2), scales[rows].reshape(n)
        )

    for _ in run_tasks(task, x):
        pass
    codes, scales = torch.from_numpy(codes).view(m, k // 2), torch.from_numpy(scales).view(torch.float8_e4m3fn)
    encode, decode = given or (torch.from_numpy(encode), torch.from_numpy(decode))
    return Quantized(codes, scales, decode, recipe, "cpu", encode)


def analyze(
    x: Tensor, recipes, encode_scales, first_token: int = 0, sequences: tuple[int, int] | None = None
) -> list[Stats]:
    """Statistics of x [M, K] under each recipe, in one pass."""
    kernels = _kernels()
    m, k = x.shape
    rules = [_rules(x, r, s)[0] for r, s in zip(recipes, encode_scales, strict=True)]
    at, length = sequences or (0, 0)

    def task(rows: slice):
        place = np.array([first_token + rows.start, at + rows.start, length])
        blocks = _load(kernels, x[rows], place)
        n = (rows.stop - rows.start) * (k // BLOCK)
        tallies = [kernels.new_tally() for _ in rules]
        for rule, tally in zip(rules, tallies, strict=True):
            kernels.analyze(blocks, n, rule, tally)
        return kernels.describe(blocks, place[0]), tallies

    shared, totals = np.zeros(6 + (LEVELS + 1) * RUNS), [kernels.new_tally() for _ in rules]
    shared[5] = -1
    for described, tallies in run_tasks(task, x):
        shared[0] = max(shared[0], described[0])
        if described[4] > shared[4]:  # tasks come in the order of tokens: of equal ones the first stays
            shared[4:6] = described[4:6]
        shared[1:4] += described[1:4]
        shared[6:] += described[6:]
        for total, tally in zip(totals, tallies, strict=True):
            total.max_error[0] = np.maximum(total.max_error[0], tally.max_error[0])  # NaN stays
            for into, part in zip(total[:-1], tally[:-1], strict=True):
                into += part
    return [_stats(r, m, k, shared, t, kernels) for r, t in zip(recipes, totals, strict=True)]


def _stats(recipe: Recipe, m: int, k: int, shared: np.ndarray, tally, kernels) -> Stats:
    pairs = torch.from_numpy(np.arange(256, dtype=np.uint8)).unsqueeze(1)
    codes = np.zeros(16, np.int64)
    np.add.at(codes, unpack(pairs).numpy(), tally.pair_histogram[:, None])
    return Stats(
        recipe=recipe,
        engine="cpu",
        features=k,
        tokens=m,
        elements=m * k,
        blocks=m * k // BLOCK,
        x_amax=float(shared[0]),
        nonzero_elements=int(shared[1]),
        nonzero_blocks=int(shared[2]),
        x_sq=float(shared[3]),
        top_token_x_sq=float(shared[4]),
        top_token=int(shared[5]),
        run_tokens=shared[6:].astype(np.int64).reshape(LEVELS + 1, RUNS),
        **{name: int(v) for name, v in zip(kernels.COUNTS, tally.counts, strict=True)},
        **{name: float(v) for name, v in zip(kernels.SUMS, tally.sums, strict=True)},
        max_error=float(tally.max_error[0]),
        scale_histogram=tally.scale_histogram,
        code_histogram=codes,
        token_histogram=tally.token_histogram,
        block_histogram=tally.block_histogram,
        run_nmse=tally.run_nmse,
    )


@functools.cache
def _kernels():
    from . import kernels  # imports numba

    return kernels


class _NotFiniteError(Exception):
    """Some value is NaN or infinite."""


def run_tasks(task: Callable, x: Tensor) -> Iterator:
    """task(rows) of all rows of x, some at a time on every core; results in order. ValueError if x is not finite."""
    m, k = x.shape
    step = max(1, min(max(m * k // TASKS, SMALLEST), LARGEST) // k)
    rows = [slice(i, min(i + step, m)) for i in range(0, m, step)]
    threads = min(torch.get_num_threads(), len(rows))
    try:
        if threads < 2:
            yield from map(task, rows)
            return
        pool = ThreadPoolExecutor(threads)
        try:
            yield from pool.map(task, rows)
        finally:
            pool.shutdown(cancel_futures=True)
    except _NotFiniteError:
        check_finite(x)
        raise


def _load(kernels, x: Tensor, place: np.ndarray | None = None):
    """Blocks of x [m, K]; with the slots of their runs where their place in a stream is given, see `kernels.fill`."""
    m, k = x.shape
    if x.stride(1) != 1 or x.stride(0) < 0:
        x = x.contiguous()
    kind = {torch.bfloat16: kernels.BF16, torch.float16: kernels.FP16, torch.float32: kernels.FP32}[x.dtype]
    bits = x.view(torch.int16)  # one type for all, so that the kernel compiles once
    flat = bits.as_strided(((m - 1) * bits.stride(0) + bits.shape[1],), (1,)).numpy()
    tiles = -(-m * k // (BLOCK * kernels.LANES))
    blocks = kernels.Blocks(
        x=np.empty((tiles, BLOCK, kernels.LANES), np.float32),
        token=np.empty((tiles, kernels.LANES), np.int64),
        bmax=np.empty((tiles, kernels.LANES), np.float32),
        x_sq=np.empty((tiles, kernels.LANES)),
        amax=np.empty(m, np.float32),
        token_x_sq=np.zeros(m),
        slots=np.empty((0 if place is None else m, LEVELS + 1), np.uint8),
    )
    if not kernels.fill(flat, bits.stride(0), kind, k, blocks, np.zeros(3, np.int64) if place is None else place):
        raise _NotFiniteError
    return blocks


def _rules(x: Tensor, recipe: Recipe, encode_scale: Tensor | None):
    """The recipe for the kernels; and per tensor its encode and decode scale, float32 [1, 1]."""
    given = None
    if not recipe.per_token and encode_scale is not None:
        given = encode_scale, torch.div(torch.ones_like(encode_scale), encode_scale)
    elif not recipe.per_token:
        given = tensor_scales(tensor_amax(x), recipe)
    one, six = torch.ones(()), torch.full((), E2M1_MAX)
    s = caller_scale(recipe)
    floats = {
        "caller_scale": s,
        "full_range": torch.div(one, s),
        "sixth": rcp_approx(six) if recipe.fast_math else torch.div(one, six),
        "score_range": torch.tensor(E2M1_MAX * recipe.score_e4m3_max if recipe.per_token else 1.0),
        "encode": flush(given[0]) if given else one,
        "decode": given[1] if given else one,
        "element_limit": torch.tensor(E2M1_MAX * MARGIN),
        "scale_limit": torch.tensor(E4M3_MAX * MARGIN),
    }
    rules = _kernels().Rules(
        four_over_six=recipe.four_over_six,
        mse=recipe.err_mode == "MSE",
        fp16_error=recipe.err_use_fast_math,
        per_token=recipe.per_token,
        fast=recipe.fast_math,
        **{name: np.float32(value.item()) for name, value in floats.items()},
        bin_shift=MANTISSA_SHIFT,
        first_bin=int(nmse_bins()[:1].view(np.int64)[0] >> MANTISSA_SHIFT),
        rcp_table=rcp_table() if recipe.fast_math else NO_TABLE,
    )
    return rules, given


class Cpu:
    """The engine "cpu"."""

    name = "cpu"
    why_not, refuses, device = staticmethod(why_not), staticmethod(refuses), staticmethod(device)

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        return quantize(tokens.x, recipe, encode_scale)

    def analyze(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> list[Stats]:
        return analyze(tokens.x, recipes, encode_scales, tokens.first, tokens.sequences)

    def launch(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> Ready:
        return Ready(self.analyze(tokens, recipes, encode_scales))


ENGINE = Cpu()
