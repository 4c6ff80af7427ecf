"""Launching the kernels: what never changes is worked out once a kind of call, and memory between kernels is kept."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe
from . import nvrtc
from .plan import ANALYZE_CTAS, COLUMN, LOG_CHUNK, LOG_THREADS, Finish, Plan, plans, scale_constants, score_constants

FINISH_THREADS, WARP = 256, 5  # log2 of a warp's threads
MOST_PARTS = 32  # CTAs of `finish` for one column by token
KEPT = 1 << 26  # bytes of a stream's memory, at most


@functools.cache
def log_lanes(k: int, most: int = LOG_THREADS) -> int:
    """2^this threads share a row of k features: the most, up to 2^most, of which 7 in 8 have a block in each turn."""
    n = k // BLOCK
    return next(i for i in range(most, -1, -1) if n >= 0.875 * (-(-n // 2**i) << i))


def ctas(m: int, lanes: int) -> int:
    """CTAs that hold m rows at once, of 2^lanes threads each."""
    return -(-m >> (LOG_THREADS - lanes))


def aligned(x: Tensor) -> Tensor:
    """x, or a copy where its features are not neighbours or a row does not start at a multiple of 16 bytes."""
    row_bytes = x.stride(0) * x.itemsize if x.shape[0] > 1 else 0
    ready = x.stride(1) == 1 and (row_bytes | x.data_ptr()) % 16 == 0
    return x if ready else x.clone(memory_format=torch.contiguous_format)


@functools.lru_cache(maxsize=1024)
def of_recipe(
    kernel: str, job_type: type, recipe: Recipe, dtype: torch.dtype, m: int, k: int, device: torch.device, stream: int
) -> tuple[nvrtc.Launch, threading.Lock]:
    """The kernel of one recipe with all that it is told but addresses, and a lock for who fills those in."""
    ((plan, _),) = plans((recipe,))
    job = job_type(tokens=m, blocks=k // BLOCK, log_lanes=log_lanes(k), scoring=score_constants(recipe))
    job.scaling.caller_scale, job.scaling.full_range = scale_constants(recipe)
    function = nvrtc.kernel(plan.source(dtype, kernel), kernel, device.index)
    grid, threads = ctas(m, job.log_lanes), 1 << LOG_THREADS
    return nvrtc.Launch(function, grid, threads, job, stream, device.index), threading.Lock()


class Scratch:
    """Memory that `analyze` leaves its numbers in and `finish` takes them from, on one stream."""

    def __init__(self, device: torch.device, stream: int):
        self.device, self.stream, self.lock = device, stream, threading.Lock()  # held over both launches
        self.floats = torch.empty(0, dtype=torch.float64, device=device)
        self.zeros = torch.zeros(0, dtype=torch.int32, device=device)  # which `finish` leaves as it was
        self._prepared: dict[tuple, Prepared] = {}

    def prepared(self, analysis: Analysis, m: int, segments: int, shape: Shape) -> Prepared:
        """The two launches of an analysis of m rows in this memory."""
        key = analysis, m, segments
        found = self._prepared.get(key)
        if found is None:
            grows = self.floats.numel() < shape.floats or self.zeros.numel() < shape.zeros
            if grows or len(self._prepared) > 256:
                self._prepared.clear()  # they know where the memory was
            if grows:
                floats, zeros = max(self.floats.numel(), shape.floats), max(self.zeros.numel(), shape.zeros)
                self.floats = torch.empty(floats, dtype=torch.float64, device=self.device)
                self.zeros = torch.zeros(zeros, dtype=torch.int32, device=self.device)
            found = self._prepared[key] = Prepared(analysis, m, segments, shape, self)
        return found


_SCRATCH: dict[tuple[int, int], Scratch] = {}


def scratch(device: torch.device, stream: int, floats: int) -> Scratch:
    """The scratch of a stream; one of its own where a call needs much, or a graph is captured and keeps it."""
    if 8 * floats > KEPT or torch.cuda.is_current_stream_capturing():
        return Scratch(device, stream)
    key = device.index, stream
    if key not in _SCRATCH:
        if len(_SCRATCH) > 16:
            _SCRATCH.clear()
        _SCRATCH[key] = Scratch(device, stream)
    return _SCRATCH[key]


class Prepared:
    """`analyze` and `finish` with all that they are told but what changes from call to call of one shape."""

    def __init__(self, analysis: Analysis, m: int, segments: int, shape: Shape, memory: Scratch):
        self._plan, stream, index = analysis.plan, memory.stream, analysis.device.index
        sums, counts = memory.floats.data_ptr(), memory.zeros.data_ptr()
        err_sq, x_sq, self._indices, partial = (sums + 8 * start for start in shape.starts)
        self._job = job = self._plan.analyze_type(
            tokens=m, blocks=analysis.k // BLOCK, log_lanes=shape.lanes, parts=shape.sum_parts,
            counts=counts, sums=sums, err_sq=err_sq, x_sq=x_sq, next_stride=self._plan.state,
        )  # fmt: skip
        self._plan.constants(job)
        self._rest = rest = Finish(
            counts=counts, sums=sums, err_sq=err_sq, x_sq=x_sq, partial=partial, indices=self._indices,
            tickets=counts + 4 * shape.counts, tokens=m, segments=segments, sum_parts=shape.sum_parts,
            parts=shape.parts,
        )  # fmt: skip
        grid, shared = shape.ctas, self._plan.shared_bytes
        self._analyze = nvrtc.Launch(analysis.analyze, grid, 1 << LOG_THREADS, job, stream, index, shared)
        self._finish = nvrtc.Launch(analysis.finish, shape.finish_ctas, FINISH_THREADS, rest, stream, index)

    def __call__(self, x: Tensor, state: Tensor, place: tuple, offsets: Tensor | None, scales: Sequence) -> None:
        job, rest, address = self._job, self._rest, state.data_ptr()
        follows = place[0] < 0
        job.x, job.stride = x.data_ptr(), x.stride(0)
        job.offsets = rest.offsets = None if offsets is None else offsets.data_ptr()
        job.indices = self._indices if follows else None
        job.next = address + 8 * (self._plan.state - 1) if follows else None
        for i, (encode, decode) in scales:
            scaling = job.scaling[self._plan.group_of[i]]
            scaling.encode, scaling.decode = encode.data_ptr(), decode.data_ptr()
        rest.state, (rest.first, rest.at, rest.length) = address, place
        self._analyze()
        self._finish()


class Analysis:
    """`analyze` and `finish` for one plan, dtype, number of features and device."""

    def __init__(self, plan: Plan, dtype: torch.dtype, k: int, device: torch.device):
        self.plan, self.k, self.device = plan, k, device
        source = plan.source(dtype, "analyze")
        self.analyze, self.finish = (nvrtc.kernel(source, name, device.index) for name in ("analyze", "finish"))
        nvrtc.allow_shared(self.analyze, plan.shared_bytes, device.index)
        self.most = ANALYZE_CTAS * nvrtc.multiprocessors(device.index)

    def run(self, x: Tensor, state: Tensor, place: tuple, offsets: Tensor | None = None, scales=()) -> None:
        """Add the statistics of x [M, K], as `aligned` returns it, to `state` [segments, plan.state].

        Args:
            place:   first token's index, and (at, length) of its sequences or (0, 0); index -1: as the state says.
            offsets: int32 [segments + 1] on x's device, None for one segment of all rows.
            scales:  of each per-tensor recipe by its place in the plan, encode and decode scale float32 [1, 1].
        """
        m, segments, stream = x.shape[0], state.shape[0], nvrtc.stream(self.device.index)
        shape = _shape(self, m, segments)
        memory = scratch(self.device, stream, shape.floats)
        with memory.lock:
            memory.prepared(self, m, segments, shape)(x, state, place, offsets, scales)


class Shape(NamedTuple):
    """How `analyze` and `finish` are launched for so many rows and segments, and what memory lies between them."""

    lanes: int  # log2 of the threads that share a row
    ctas: int
    sum_parts: int  # CTAs a segment in `analyze`
    parts: int  # CTAs a column of a segment in `finish`
    finish_ctas: int
    starts: tuple[int, ...]  # of err_sq, x_sq, indices and partial among the float64 numbers; sums come first
    floats: int
    counts: int  # int32 numbers before the tickets
    zeros: int  # with them


@functools.lru_cache(maxsize=4096)
def _shape(analysis: Analysis, m: int, segments: int) -> Shape:
    plan, n = analysis.plan, len(analysis.plan.recipes)
    most = next((i for i in (WARP, WARP + 1) if ctas(m, i) > 0.9 * analysis.most), LOG_THREADS)
    lanes = log_lanes(analysis.k, most)  # a warp a row, unless the rows are too few for all CTAs
    grid = min(ctas(m, lanes), analysis.most)
    sum_parts = (
        grid if segments == 1 else max(1, 4 * grid // segments)
    )  # whole waves of CTAs: none runs alone at the end
    parts = min((m // segments >> LOG_CHUNK) + 1, MOST_PARTS)
    columns, counts = segments * (n + 1), segments * plan.columns
    partial = columns * parts * COLUMN if parts > 1 else 0
    sizes = segments * sum_parts * plan.values, n * m, m, segments, partial
    warps = -(-segments * plan.values * 32 // FINISH_THREADS)
    finish_ctas = columns * parts - (-counts // FINISH_THREADS) + warps
    starts = tuple(itertools.accumulate(sizes[:-1]))
    return Shape(
        lanes, segments * sum_parts, sum_parts, parts, finish_ctas, starts, sum(sizes), counts, counts + columns
    )


@functools.lru_cache(maxsize=256)
def analysis(plan: Plan, dtype: torch.dtype, k: int, device: torch.device) -> Analysis:
    return Analysis(plan, dtype, k, device)
