"""The reference's arithmetic fused for CPUs: every bit of it, compiled by numba, some tokens at a time on every core.

`analyze` goes from x to statistics without keeping codes; several recipes share what x alone decides. Threads are
Python's own, each in compiled code that has let go of the interpreter: safe from several callers and in forked
processes, which numba's threading layers are not. Results do not depend on how many threads there were.
"""

from __future__ import annotations

import functools
import importlib.util
import operator
import os
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
    with_decode_scale,
)
from ...stats import Stats

TASKS = 16  # x falls into so many tasks, where that leaves each a size in elements
SMALLEST, LARGEST = 1 << 16, 1 << 18  # that is worth a call, and at most 1 MiB in float32: a second-level cache
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
    from .quantize import quantize
    from .scales import Scales

    m, k = x.shape
    rules, given = rules_of(x, recipe, encode_scale)
    codes = np.empty((m, k // BLOCK, BLOCK // 2), np.uint8)
    scales = np.empty((m, k // BLOCK), np.uint8)
    tokens, part_of = np.empty((4, m), np.float32), by_rows(x)

    def task(rows: slice) -> None:
        n = (rows.stop - rows.start) * (k // BLOCK)
        mine = Scales(*(numbers[rows] for numbers in tokens))
        outputs = codes[rows].reshape(n, BLOCK // 2), scales[rows].reshape(n), mine
        if not quantize(*part_of(rows), rules, *outputs):
            raise NotFiniteError

    for _ in run_tasks(task, x):
        pass
    codes, scales = torch.from_numpy(codes).view(m, k // 2), torch.from_numpy(scales).view(torch.float8_e4m3fn)
    encode, decode = given or (torch.from_numpy(tokens[i]).unsqueeze(1) for i in (0, 2))
    return Quantized(codes, scales, decode, recipe, "cpu", encode)


def analyze(
    x: Tensor, recipes, encode_scales, first_token: int = 0, sequences: tuple[int, int] | None = None
) -> list[Stats]:
    """Statistics of x [M, K] under each recipe, in one pass."""
    counted = Counted(recipes)
    counted.add(x, encode_scales, first_token, sequences)
    return counted.fetch()


class Counted:
    """Statistics of calls, as they are counted; by number of features, a tally and its tokens."""

    left_out = 0

    def __init__(self, recipes: Sequence[Recipe]):
        self._recipes = recipes
        self._tallies: dict[int, tuple] = {}

    def add(self, x: Tensor, encode_scales, first_token: int, sequences: tuple[int, int] | None) -> None:
        """One more call's rows x [M, K]; ValueError where they are not finite, and none of them counts."""
        from . import analyze, tally

        (m, k), plan, (at, length) = x.shape, plan_of(x, self._recipes, encode_scales), sequences or (0, 0)
        part_of = by_rows(x)

        def task(rows: slice):
            part = tally.new_tally(1, len(self._recipes))
            ends, firsts = np.array([rows.stop - rows.start]), np.array([first_token + rows.start])
            if not analyze.analyze(*part_of(rows), ends, firsts, np.array([at + rows.start, length]), plan, part):
                raise NotFiniteError
            return part

        counts = None
        for part in run_tasks(task, x):
            counts = part if counts is None else tally.merge(counts, part)
        self._take(k, counts or tally.new_tally(1, len(self._recipes)), m)

    def _take(self, k: int, counts, m: int) -> None:
        """Add a call's tally, which is given up."""
        from . import tally

        if k in self._tallies:
            total, tokens = self._tallies[k]
            counts, m = tally.merge(total, counts), tokens + m
        self._tallies[k] = counts, m

    def copy(self) -> Counted:
        return Counted(self._recipes) + self

    def __add__(self, other: Counted) -> Counted:
        from . import tally

        both = Counted(self._recipes)
        for one in (self, other):
            for k, (counts, m) in one._tallies.items():
                both._take(k, tally.Tally(*(values.copy() for values in counts)), m)
        return both

    def fetch(self) -> list[Stats]:
        from . import tally

        rows = [
            [tally.stats_of(recipe, m, k, counts, 0, r) for r, recipe in enumerate(self._recipes)]
            for k, (counts, m) in self._tallies.items()
        ]
        return [functools.reduce(operator.add, stats) for stats in zip(*rows, strict=True)]


def analyze_segments(x: Tensor, offsets: Tensor, recipes, encode_scales, first_tokens) -> list[list[Stats]]:
    """Statistics of each segment of x [M, K] under each recipe, as separate calls would give them, in one pass.

    Args:
        offsets:      int32 [E + 1] from 0 to M at most: segment e is x[offsets[e] : offsets[e + 1]].
        first_tokens: each segment's place in a stream of its own.
    """
    from . import analyze, tally

    ends, firsts = offsets[1:].numpy().astype(np.int64), np.asarray(first_tokens, np.int64)
    x, plan = x[: ends[-1]], plan_of(x, recipes, encode_scales)
    part_of = by_rows(x)
    k, total, starts = x.shape[1], tally.new_tally(len(ends), len(recipes)), np.concatenate([[0], ends[:-1]])

    def task(rows: slice):
        first, last = np.searchsorted(ends, rows.start, "right"), np.searchsorted(ends, rows.stop - 1, "right") + 1
        part = tally.new_tally(last - first, len(recipes))
        mine = np.minimum(ends[first:last], rows.stop) - rows.start
        before = np.maximum(rows.start - starts[first:last], 0)
        if not analyze.analyze(*part_of(rows), mine, firsts[first:last] + before, np.zeros(2, int), plan, part):
            raise NotFiniteError
        return slice(first, last), part

    for segments, part in run_tasks(task, x):
        tally.merge(tally.Tally(*(values[segments] for values in total)), part)
    counts = (ends - starts).tolist()
    return [[tally.stats_of(r, m, k, total, e, i) for i, r in enumerate(recipes)] for e, m in enumerate(counts)]


class NotFiniteError(Exception):
    """Some value is NaN or infinite."""


def run_tasks(task: Callable, x: Tensor) -> Iterator:
    """task(rows) of all rows of x, some at a time on every core; results in order. ValueError if x is not finite."""
    m, k = x.shape
    tasks = max(-(-m * k // LARGEST), min(TASKS, m * k // SMALLEST), 1)
    step = max(1, -(-m // tasks))
    rows = [slice(i, min(i + step, m)) for i in range(0, m, step)]
    threads = torch.get_num_threads()
    try:
        yield from map(task, rows) if min(threads, len(rows)) < 2 else _pool(threads, os.getpid()).map(task, rows)
    except NotFiniteError:
        check_finite(x)
        raise


@functools.lru_cache(maxsize=2)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for the next call; a forked process, which has none of its parent's, starts its own."""
    return ThreadPoolExecutor(threads, "nvfp4viz")


def in_memory(x: Tensor) -> tuple:
    """x [M, K] as the kernels read it: as int32 and int16, int32 words a row, its kind, features."""
    from .tile import BF16, FP16, FP32

    m, k = x.shape
    words = k * x.element_size() // 4
    row_bytes = x.stride(0) * x.element_size() if m > 1 else 0
    if x.stride(1) != 1 or x.stride(0) < 0 or (row_bytes | x.data_ptr()) % 4:
        x = x.contiguous()
        x = x.clone() if x.data_ptr() % 4 else x
    stride = x.stride(0) * x.element_size() // 4 if m > 1 else words
    flat = x.view(torch.int32).as_strided(((m - 1) * stride + words if m else 0,), (1,)).numpy()
    kind = {torch.bfloat16: BF16, torch.float16: FP16, torch.float32: FP32}[x.dtype]
    return flat, flat.view(np.int16), stride, kind, k


def by_rows(x: Tensor) -> Callable[[slice], tuple]:
    """`in_memory` of some rows of x, which is looked at once; more rows may follow them there."""
    if not x.is_contiguous():  # of which a part at a time may be copied
        return lambda rows: in_memory(x[rows])
    words, halves, stride, kind, k = in_memory(x)
    return lambda rows: (words[rows.start * stride :], halves[2 * rows.start * stride :], stride, kind, k)


def plan_of(x: Tensor, recipes, encode_scales):
    """The recipes as `analyze.Plan`; kept where no scale is given."""
    if all(s is None for s in encode_scales) and all(r.per_token for r in recipes):
        return _kept_plan(tuple(recipes))
    return _new_plan([(r, rules_of(x, r, s)[0]) for r, s in zip(recipes, encode_scales, strict=True)])


@functools.lru_cache(maxsize=64)
def _kept_plan(recipes: tuple[Recipe, ...]):
    return _new_plan([(r, rules_of(torch.zeros(1, BLOCK), r, None)[0]) for r in recipes])


def _new_plan(recipes: list):
    """Which candidates the recipes have, those of the same scales once."""
    from .analyze import Plan

    found = {}  # what a candidate is -> its number, the recipe that says how
    six, four = [], []
    for i, (recipe, rules) in enumerate(recipes):
        scales = (rules.per_token, rules.fast, rules.caller_scale, rules.encode, rules.decode)
        keys = [(scales, recipe.four_over_six, k) for k in ((0, 1) if recipe.four_over_six else (0,))]
        numbers = [found.setdefault(key, (len(found), i))[0] for key in keys]
        six.append(numbers[0]), four.append(numbers[-1])
    twins = [found.get((scales, not over, k), own)[0] for (scales, over, k), own in found.items()]
    flags, floats = [r[:5] for _, r in recipes], [r[5:11] for _, r in recipes]
    return Plan(
        np.array(flags, bool).reshape(-1, 5),
        np.array(floats, np.float32).reshape(-1, 6),
        max((r.rcp_table for _, r in recipes), key=len, default=NO_TABLE),
        np.array(six, np.int64),
        np.array(four, np.int64),
        np.array([i for _, i in found.values()], np.int64),
        np.array([1.5 if k else 1.0 for _, _, k in found], np.float32),
        np.minimum(twins, range(len(twins))).astype(np.int64),
    )


def rules_of(x: Tensor, recipe: Recipe, encode_scale: Tensor | None):
    """The recipe for the kernels; and per tensor its encode and decode scale, float32 [1, 1]."""
    from .scales import Rules

    given = None
    if not recipe.per_token and encode_scale is not None:
        given = with_decode_scale(encode_scale)
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
    }
    rules = Rules(
        four_over_six=recipe.four_over_six,
        mse=recipe.err_mode == "MSE",
        fp16_error=recipe.err_use_fast_math,
        per_token=recipe.per_token,
        fast=recipe.fast_math,
        **{name: np.float32(value.item()) for name, value in floats.items()},
        rcp_table=rcp_table() if recipe.fast_math else NO_TABLE,
    )
    return rules, given


class Cpu:
    """The engine "cpu"."""

    name, leaves_out = "cpu", False
    why_not, refuses, device = staticmethod(why_not), staticmethod(refuses), staticmethod(device)

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        return quantize(tokens.x, recipe, encode_scale)

    def analyze(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> list[Stats]:
        return analyze(tokens.x, recipes, encode_scales, tokens.first, tokens.sequences)

    def launch(
        self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence, into: Counted | None = None
    ) -> Counted:
        """Statistics of more calls, as tallies; they become Stats when they are asked for."""
        total = Counted(recipes) if into is None else into
        total.add(tokens.x, encode_scales, tokens.first, tokens.sequences)
        return total


ENGINE = Cpu()
