"""The rows of one input as a model runs: calls of few tokens are collected and analysed together, in order.

Inputs that had the same tensor at every call, as q_proj, k_proj and v_proj do, are one stream. A stream can give back
its last call, so that an input which then gets another tensor goes on alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from ..engine import Pending

BYTES = 1 << 20  # of a stream's buffer, at most
BUDGET = 1 << 28  # of all buffers of a recorder
ROWS = 512  # of a buffer, at most: a launch's cost is small beside that of as many rows
FEWEST = 16  # rows that a buffer must hold to be worth one


class Stream:
    """Statistics of rows in order: `total` of those analysed, and a buffer of those that are not yet.

    analyze(x, first, sequences, total) -> Pending: the statistics of `total`, which may be None and is given up, and of
    rows x; first and sequences as in `Tokens`. Rows of one sequence alone are collected.
    """

    def __init__(self, analyze: Callable[..., Pending], first: int):
        self._analyze = analyze
        self.first = first  # index of the next row in the stream of its inputs
        self.calls = 0
        self.members: list[_Member] = []  # inputs that have this stream
        self.total: Pending | None = None
        self._before: tuple | None = None  # total and first without the last call, if that was not buffered
        self._rows: Tensor | None = None
        self._kind: tuple | None = None  # of the buffer's rows
        self._most = self._fits = 0  # rows of the buffer, and of a call that goes into it, at most
        self._used = self._last_rows = 0
        self._sequence: int | None = None  # whose rows are in the buffer
        self._given: tuple = ()

    @property
    def bytes(self) -> int:
        return 0 if self._rows is None else self._rows.nbytes

    def append(self, x: Tensor, given: Tensor, sequences: tuple[int, int] | None, spare: int) -> None:
        """One more call's rows x [M, K]; `spare` bytes may be taken for a buffer."""
        m, shared = x.shape[0], self.calls == 0 or len(self.members) > 1  # then `fork` may follow
        kind = x.dtype, x.device, x.shape[1]
        if kind != self._kind:
            self._prepare(kind)
        sequence = last = None
        if sequences is not None:
            at, length = sequences
            sequence, last = at // length, (at + m - 1) // length
        if m > self._fits or sequence != last or not self._has_buffer(spare):
            if self._used:
                self.flush()
            self._before = (None if self.total is None else self.total.copy(), self.first) if shared else None
            self.total = self._analyze(x, self.first, sequences, self.total)
            self._last_rows = 0
        else:
            if self._used + m > self._rows.shape[0] or sequence != self._sequence:
                self.flush()
            self._sequence = sequence
            self._rows[self._used : self._used + m].copy_(x)
            self._used, self._last_rows, self._before = self._used + m, m, None
        self.first += m
        self.calls += 1
        self._given = (weakref.ref(given), _state(given), x.shape) if shared else ()

    def repeats(self, x: Tensor, given: Tensor) -> bool:
        """Whether a call has the last call's very tensor, unchanged."""
        if not self._given or self._given[0]() is not given or self._given[2] != x.shape:
            return False
        state, now = self._given[1], _state(given, copy=False)
        return torch.equal(state, now) if isinstance(state, Tensor) else state is not None and state == now

    def fork(self) -> Stream:
        """A stream of all calls but the last."""
        other = Stream(self._analyze, self.first)
        other.calls = self.calls - 1
        if self._last_rows:
            other.total = None if self.total is None else self.total.copy()
            other.first = self.first - self._last_rows
            with torch.inference_mode(False):  # what is made in it cannot be written to outside
                other._rows = self._rows.clone()
            other._kind, other._most, other._fits = self._kind, self._most, self._fits
            other._used, other._sequence = self._used - self._last_rows, self._sequence
        else:
            other.total, other.first = self._before
        return other

    def seek(self, first: int) -> None:
        """The next row is row `first` of its stream."""
        self.flush()
        self.first = first

    def flush(self) -> None:
        """Analyse what is in the buffer."""
        if self._used:
            n, self._used, self._last_rows = self._used, 0, 0
            sequences = None if self._sequence is None else (self._sequence * n, n)  # all rows are of that one
            self.total = self._analyze(self._rows[:n], self.first - n, sequences, self.total)

    def _prepare(self, kind: tuple) -> None:
        """Let go of the buffer: other rows come, of this dtype, device and number of features."""
        self.flush()
        dtype, _, k = self._kind = kind
        self._rows, self._most = None, min(ROWS, BYTES // (k * dtype.itemsize))
        self._fits = self._most // 2 if self._most >= FEWEST else 0

    def _has_buffer(self, spare: int) -> bool:
        """Whether there is a buffer, which is made where there is none and it may be."""
        if self._rows is None:
            dtype, device, k = self._kind
            if self._most * k * dtype.itemsize > spare:
                self._fits = 0
                return False
            with torch.inference_mode(False):  # what is made in it cannot be written to outside
                self._rows = torch.empty(self._most, k, dtype=dtype, device=device)
        return True


class Streams:
    """The streams of a recorder's inputs, by label; without `collect`, each call is analysed at once."""

    def __init__(self, analyze: Callable[..., Pending], collect: bool = True):
        self._analyze, self._spare = analyze, BUDGET if collect else 0  # bytes for buffers
        self._members: dict[str, _Member] = {}  # by label
        self._last: Stream | None = None

    def __len__(self) -> int:
        return len(self._members)

    def add(self, label: str, x: Tensor, given: Tensor, first: int, sequences: tuple[int, int] | None) -> None:
        """One more call of an input; first and sequences as in `Tokens`."""
        member, last = self._members.get(label), self._last
        if member is None:
            joins = last is not None and last.calls == 1 and last.first == first + x.shape[0] and last.repeats(x, given)
            member = self._members[label] = _Member()
            member.join(last if joins else Stream(self._analyze, first), 1 if joins else 0)
            if joins:
                return
        elif member.calls < member.stream.calls:
            if member.stream.repeats(x, given):
                member.calls += 1
                return
            member.part()
        stream = member.stream
        if len(stream.members) > 1:
            for behind in [other for other in stream.members if other.calls < stream.calls]:  # had no call meanwhile
                behind.part()
        if stream.first != first:  # someone said where the next token belongs
            stream.seek(first)
        taken = stream.bytes
        stream.append(x, given, sequences, self._spare)
        self._spare -= stream.bytes - taken
        member.calls += 1
        self._last = stream

    def rest(self) -> None:
        """No tensor is remembered after this."""
        self._last = None

    def totals(self) -> dict[str, Pending]:
        """What was added so far, by label."""
        for member in self._members.values():
            if member.calls < member.stream.calls:
                member.part()
        for stream in {id(m.stream): m.stream for m in self._members.values()}.values():
            stream.flush()
        return {label: m.stream.total for label, m in self._members.items() if m.stream.total is not None}


class _Member:
    """An input with the stream that it has, alone or with others, and how many of its calls it had itself."""

    __slots__ = ("calls", "stream")

    def join(self, stream: Stream, calls: int) -> None:
        self.stream, self.calls = stream, calls
        stream.members.append(self)

    def part(self) -> None:
        """Get a stream of its own, where the last call was not this input's."""
        self.stream.members.remove(self)
        self.join(self.stream.fork(), self.calls)


def _state(x: Tensor, copy: bool = True):
    """What changes if x is written to: its version; in inference mode, which counts none, its values (CPU) or None."""
    if not x.is_inference():
        return x._version
    return (x.clone() if copy else x) if x.device.type == "cpu" else None
