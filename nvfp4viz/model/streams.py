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
        self.total: Pending | None = None
        self._before: tuple | None = None  # total and first without the last call, if that was not buffered
        self._rows: Tensor | None = None
        self._used = self._last_rows = 0
        self._sequence: int | None = None  # whose rows are in the buffer
        self._given: tuple = ()

    @property
    def bytes(self) -> int:
        return 0 if self._rows is None else self._rows.numel() * self._rows.element_size()

    def append(self, x: Tensor, given: Tensor, sequences: tuple[int, int] | None, spare: int, shared: bool) -> None:
        """One more call's rows x [M, K]; `spare` bytes may be taken for a buffer; `shared`: `fork` may follow."""
        m = x.shape[0]
        sequence, last = (None, None) if sequences is None else _span(m, *sequences)
        if sequence != last or not self._room(x, spare):
            self.flush()
            self._before = (None if self.total is None else self.total.copy(), self.first) if shared else None
            self.total = self._analyze(x, self.first, sequences, self.total)
            self._last_rows = 0
        else:
            if self._used + m > self._rows.shape[0] or sequence != self._sequence:
                self.flush()
            self._sequence = sequence
            with torch.inference_mode(False), torch.no_grad():
                self._rows[self._used : self._used + m].copy_(x)
            self._used, self._last_rows, self._before = self._used + m, m, None
        self.first += m
        self.calls += 1
        self._given = weakref.ref(given), _state(given), x.shape

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

    def _room(self, x: Tensor, spare: int) -> bool:
        """Whether x goes into the buffer, which is made where it would be of use."""
        if self._rows is not None and (self._rows.dtype, self._rows.device, self._rows.shape[1]) != (
            x.dtype, x.device, x.shape[1],
        ):  # fmt: skip
            self.flush()
            self._rows = None
        row_bytes = x.shape[1] * x.element_size()
        rows = min(ROWS, BYTES // row_bytes) if self._rows is None else self._rows.shape[0]
        if 2 * x.shape[0] > rows or rows < FEWEST:
            return False
        if self._rows is None:
            if rows * row_bytes > spare:
                return False
            with torch.inference_mode(False):
                self._rows = torch.empty(rows, x.shape[1], dtype=x.dtype, device=x.device)
        return True


class Streams:
    """The streams of a recorder's inputs, by label; without `collect`, each call is analysed at once."""

    def __init__(self, analyze: Callable[..., Pending], collect: bool = True):
        self._analyze, self._spare = analyze, BUDGET if collect else 0  # bytes for buffers
        self._streams: dict[str, Stream] = {}
        self._calls: dict[str, int] = {}
        self._members: dict[int, set[str]] = {}  # by id of a stream
        self._last: Stream | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, label: str, x: Tensor, given: Tensor, first: int, sequences: tuple[int, int] | None) -> None:
        """One more call of an input; first and sequences as in `Tokens`."""
        stream, last = self._streams.get(label), self._last
        if stream is None:
            joins = last is not None and last.calls == 1 and last.first == first + x.shape[0] and last.repeats(x, given)
            stream = last if joins else Stream(self._analyze, first)
            self._join(label, stream, 1 if joins else 0)
            if joins:
                return
        elif self._calls[label] < stream.calls:
            if stream.repeats(x, given):
                self._calls[label] += 1
                return
            stream = self._part(label)
        members = self._members[id(stream)]
        for behind in [name for name in members if self._calls[name] < stream.calls]:  # they had no call meanwhile
            self._part(behind)
        if stream.first != first:  # someone said where the next token belongs
            stream.seek(first)
        taken = stream.bytes
        stream.append(x, given, sequences, self._spare, stream.calls == 0 or len(members) > 1)
        self._spare -= stream.bytes - taken
        self._calls[label] += 1
        self._last = stream

    def _join(self, label: str, stream: Stream, calls: int) -> None:
        self._streams[label], self._calls[label] = stream, calls
        self._members.setdefault(id(stream), set()).add(label)

    def _part(self, label: str) -> Stream:
        """A stream of its own for a label whose last call was not its stream's."""
        old = self._streams[label]
        self._members[id(old)].discard(label)
        self._join(label, old.fork(), self._calls[label])
        return self._streams[label]

    def rest(self) -> None:
        """No tensor is remembered after this."""
        self._last = None

    def totals(self) -> dict[str, Pending]:
        """What was added so far, by label."""
        for label in list(self._streams):
            if self._calls[label] < self._streams[label].calls:
                self._part(label)
        for stream in {id(s): s for s in self._streams.values()}.values():
            stream.flush()
        return {label: s.total for label, s in self._streams.items() if s.total is not None}


def _span(m: int, at: int, length: int) -> tuple[int, int]:
    """The sequences of the first and of the last of m rows."""
    return at // length, (at + m - 1) // length


def _state(x: Tensor, copy: bool = True):
    """What changes if x is written to: its version; in inference mode, which counts none, its values (CPU) or None."""
    if not x.is_inference():
        return x._version
    return (x.clone() if copy else x) if x.device.type == "cpu" else None
