"""What an observer hands on: the rows of one product that count, sorted by expert where there are experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .products import Product


class Known(NamedTuple):
    """What the last input of a layer was like."""

    kind: tuple[torch.dtype, torch.device, int]  # with the number of features
    device_type: str
    shape: tuple[int, ...]  # of the weight, as in Seen
    checks: bool  # whether rows with NaN or Inf are looked for

    @classmethod
    def of(cls, x: Tensor, shape: tuple[int, ...], checks: bool) -> Known:
        return cls((x.dtype, x.device, x.shape[-1]), x.device.type, shape, checks)


@dataclass
class Seen:
    """The input of one matrix product, rows that do not count left out."""

    name: str  # label; of a stack of experts, the stack's
    x: Tensor  # [M, K]; of experts, the rows of the first come first
    given: Tensor  # the tensor that the model passed, with its gradient's history
    call: int  # how many calls of this name went before
    shape: tuple[int, ...]  # N, K of the weight; () where it is none
    labels: list[str | None] | None = None  # of a stack: one an expert, None for those that were not asked for
    offsets: Tensor | None = None  # of a stack: int64 [E], where each expert's rows end
    read: Callable[[Tensor], Tensor] = lambda t: t  # the same rows [M, K] of a tensor like `given`, say its gradient

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """Label and rows, an expert at a time; waits for a device where the rows are on one."""
        if self.offsets is None:
            yield self.name, self.x
            return
        start = 0
        for label, end in zip(self.labels, self.offsets.tolist(), strict=True):
            if label is not None and end > start:
                yield label, self.x[start:end]
            start = end


@dataclass
class Rows:
    """Rows of a product by their index, and where each expert's end."""

    x: Tensor  # [M, K]
    picked: Tensor | None = None  # int64 [M], their place among all rows; None: all, in order
    offsets: Tensor | None = None  # int64 [E]

    def kept(self, keep: Tensor) -> Rows:
        """Those of bool [M]."""
        index = keep.nonzero().flatten()
        picked = index if self.picked is None else self.picked[index]
        offsets = self.offsets
        if offsets is not None:
            before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.long().cumsum(0)])
            offsets = before[offsets]
        return Rows(self.x[index], picked, offsets)

    def read(self, rows: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return rows if self.picked is None else lambda t: rows(t)[self.picked]


def by_expert(product: Product, routing: Tensor | None) -> Rows:
    """All rows of a product, sorted by expert where it has several; what a dense product computes for nothing is out.

    routing: int [T, k], the experts of each token, where the block was told; else a row of zeros was not routed.
    """
    x = product.rows()
    if product.offsets is not None:
        ends = product.offsets.long()
        return Rows(x, None, ends)
    if product.experts is None:
        return Rows(x)
    ids, picked = product.experts, None
    if product.dense:
        routed = _routed(x, ids, product.weight.experts, routing)
        picked = routed.nonzero().flatten()
        ids = ids[picked]
    order = torch.argsort(ids, stable=True)
    picked = order if picked is None else picked[order]
    counts = torch.bincount(ids, minlength=product.weight.experts)
    return Rows(x[picked], picked, counts.cumsum(0))


def _routed(x: Tensor, ids: Tensor, experts: int, routing: Tensor | None) -> Tensor:
    """bool [M] of a product in which each expert has all tokens, the tokens in the same order."""
    tokens = len(ids) // experts
    if routing is not None and tokens and routing.shape[0] == tokens and len(ids) == tokens * experts:
        chosen = torch.zeros(experts, tokens, dtype=torch.bool, device=x.device)
        chosen[routing.T.long(), torch.arange(tokens, device=x.device)] = True
        return chosen.flatten()
    return (x != 0).any(-1)


def counts(rows: Rows) -> Tensor | int:
    """How many rows, or int64 [E] of each expert."""
    if rows.offsets is None:
        return len(rows.x)
    return torch.diff(rows.offsets, prepend=rows.offsets.new_zeros(1))
