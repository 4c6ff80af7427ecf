"""How the outputs of layers change when their inputs are quantized."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

RUN = 64  # consecutive tokens whose sums are kept together


class Outputs:
    """Keeps what layers return; or, given `before`, sums by run their squared change since and its squared output.

    first: number of the batch's first sequence; counts: bool [B, T] of the batch's tokens, False for padding.
    """

    def __init__(self, before: Outputs | None = None, first: int = 0, counts: Tensor | None = None):
        self.before, self.first, self.counts = before, first, counts
        self.kept: dict[str, list[tuple[Tensor, Tensor]]] = {}  # layer -> a call's output and its norm by row
        self.calls: dict[str, int] = {}
        self.sums: dict[str, list[list[float]]] = {}  # layer -> by run: sequence (-1: unknown), rows, change, output

    @contextlib.contextmanager
    def watching(self, layers: dict[str, nn.Module]):
        with contextlib.ExitStack() as undo:
            for name, module in layers.items():
                undo.callback(module.register_forward_hook(partial(self._see, name)).remove)
            yield self

    def _see(self, name, module, args, output) -> None:
        y = output[0] if isinstance(output, tuple) else output
        y = y.detach().reshape(-1, y.shape[-1])
        if self.before is None:
            self.kept.setdefault(name, []).append((y.clone(), y.norm(dim=-1, dtype=torch.float32)))
            return
        call = self.calls[name] = self.calls.get(name, -1) + 1
        kept = self.before.kept.get(name, [])
        if call >= len(kept) or kept[call][0].shape != y.shape:  # an expert that was routed other tokens
            return
        y0, norm = kept[call]
        change = torch.sub(y, y0) if y.dtype == torch.float32 else y.float().sub_(y0)
        rows = torch.stack([change.norm(dim=-1), norm], 1).double().square()  # [M, 2]
        sums = self.sums.setdefault(name, [])
        for of, sequence in self._sequences(rows):
            sums.extend([of, len(run), *run.sum(0).tolist()] for run in sequence.split(RUN) if len(run))

    def _sequences(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Rows of each sequence without its padding; all as one, -1, that are sorted by expert or left out in part."""
        if len(rows) != self.counts.numel():
            yield -1, rows
            return
        for i, counts in enumerate(self.counts.to(rows.device)):
            yield self.first + i, rows[len(counts) * i : len(counts) * (i + 1)][counts]
