"""Launching the kernels: what never changes is worked out once a kind of call, and memory between kernels is kept."""

from __future__ import annotations

import functools
import itertools
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from ...nvfp4 import BLOCK
from . import nvrtc
from .plan import ANALYZE_CTAS, COLUMN, LOG_CHUNK, LOG_THREADS, Finish, Plan

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
    row_bytes = x.stride(0) * x.element_size() if x.shape[0] > 1 else 0
    ready = x.stride(1) == 1 and (row_bytes | x.data_ptr()) % 16 == 0
    return x if ready else x.clone(memory_format=torch.contiguous_format)


class Scratch:
    """Memory that `analyze` leaves its numbers in and `finish` takes them from, on one stream."""

    def __init__(self, device: torch.device):
        self.device, self.lock = device, threading.Lock()  # held over both launches
        self.floats = torch.empty(0, dtype=torch.float64, device=device)
        self.zeros = torch.zeros(0, dtype=torch.int32, device=device)  # which `finish` leaves as it was

    def grown(self, floats: int, zeros: int) -> tuple[int, int]:
        """Addresses of so many float64 and zero int32 numbers, which stay as long as this does."""
        if self.floats.numel() < floats:
            self.floats = torch.empty(floats, dtype=torch.float64, device=self.device)
        if self.zeros.numel() < zeros:
            self.zeros = torch.zeros(zeros, dtype=torch.int32, device=self.device)
        return self.floats.data_ptr(), self.zeros.data_ptr()


_SCRATCH: dict[tuple[int, int], Scratch] = {}


def scratch(device: torch.device, stream: int, floats: int) -> Scratch:
    """The scratch of a stream; one of its own where a call needs much, or a graph is captured and keeps it."""
    if 8 * floats > KEPT or torch.cuda.is_current_stream_capturing():
        return Scratch(device)
    key = device.index, stream
    if key not in _SCRATCH:
        if len(_SCRATCH) > 16:
            _SCRATCH.clear()
        _SCRATCH[key] = Scratch(device)
    return _SCRATCH[key]


class Analysis:
    """`analyze` and `finish` for one plan, dtype, number of features and device."""

    def __init__(self, plan: Plan, dtype: torch.dtype, k: int, device: torch.device):
        self.plan, self.k, self.device = plan, k, device
        source = plan.source(dtype, "analyze")
        self.analyze, self.finish = (nvrtc.kernel(source, name, device.index) for name in ("analyze", "finish"))
        nvrtc.allow_shared(self.analyze, plan.shared_bytes, device.index)
        self.most = ANALYZE_CTAS * nvrtc.multiprocessors(device.index)
        job = plan.analyze_type(blocks=k // BLOCK)
        plan.constants(job)
        self.template = bytes(job)

    def run(self, x: Tensor, state: Tensor, place: tuple, offsets: Tensor | None = None, scales=()) -> None:
        """Add the statistics of x [M, K], as `aligned` returns it, to `state` [segments, plan.state].

        Args:
            place:   first token's index, and (at, length) of its sequences or (0, 0); index -1: as the state says.
            offsets: int32 [segments + 1] on x's device, None for one segment of all rows.
            scales:  of each per-tensor recipe by its place in the plan, encode and decode scale float32 [1, 1].
        """
        plan, index, shape = self.plan, self.device.index, _shape(self, x.shape[0], state.shape[0])
        stream = nvrtc.stream(index)
        memory = scratch(self.device, stream, shape.floats)
        with memory.lock:
            sums, counts = memory.grown(shape.floats, shape.zeros)
            err_sq, x_sq, indices, partial = (sums + 8 * start for start in shape.starts)
            ends, address = None if offsets is None else offsets.data_ptr(), state.data_ptr()
            job = plan.analyze_type.from_buffer_copy(self.template)
            job.x, job.stride, job.tokens, job.log_lanes = x.data_ptr(), x.stride(0), x.shape[0], shape.lanes
            job.parts, job.offsets, job.counts = shape.sum_parts, ends, counts
            job.sums, job.err_sq, job.x_sq = sums, err_sq, x_sq
            if place[0] < 0:
                job.indices, job.next, job.next_stride = indices, address + 8 * (plan.state - 1), plan.state
            for i, (encode, decode) in scales:
                scaling = job.scaling[plan.group_of[i]]
                scaling.encode, scaling.decode = encode.data_ptr(), decode.data_ptr()
            nvrtc.launch(self.analyze, shape.ctas, 1 << LOG_THREADS, [job], stream, index, plan.shared_bytes)
            pointers = counts, sums, err_sq, x_sq, ends, address, partial, indices, counts + 4 * shape.counts
            rest = Finish(*pointers, x.shape[0], *place, state.shape[0], shape.sum_parts, shape.parts)
            nvrtc.launch(self.finish, shape.finish_ctas, FINISH_THREADS, [rest], stream, index)


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
    sum_parts = grid if segments == 1 else -(-2 * grid // segments)
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
