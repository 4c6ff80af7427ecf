"""Copies of a sequence among batches: however often it is given, it is one draw of a text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from numbers import Number

import numpy as np
import torch
from torch import Tensor


class Sequences:
    """Numbers sequences as batches come, and knows which of them were there before."""

    def __init__(self):
        self._seen: dict[bytes, int] = {}  # checksum -> the first sequence that has it
        self._first: list[int] = []  # of each sequence, the first that is the same

    def __len__(self) -> int:
        return len(self._first)

    def add(self, batch, rows: int) -> None:
        """The sequences of one more batch, its rows."""
        for row in range(rows):
            n, key = len(self._first), _checksum(batch, row, rows)
            self._first.append(n if key is None else self._seen.setdefault(key, n))

    @property
    def copies(self) -> int:
        return sum(first != n for n, first in enumerate(self._first))

    def once(self, sums: np.ndarray) -> tuple[np.ndarray, int]:
        """Sums by run, float64 [n, columns], without those of copies; and how many copies there were.

        The first column is the run's sequence, below 0 where it is not known.
        """
        sequences = sums[:, 0].astype(np.int64)
        copy = (sequences >= 0) & (np.array([*self._first, -1])[sequences] != sequences)
        return sums[~copy], len(np.unique(sequences[copy]))


def _checksum(batch, row: int, rows: int) -> bytes | None:
    """Of what a batch says of one of its rows, padding apart; None where it holds what is no tensor and no number."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == rows else None
    digest = hashlib.blake2b(digest_size=16)
    for name, value in _leaves(batch):
        if value is mask and mask is not None:
            continue
        if isinstance(value, (Tensor, np.ndarray)):
            try:
                value = _bytes(torch.as_tensor(value).detach(), row, rows, mask)
            except (RuntimeError, TypeError):  # a layout or numbers that have no rows, such as a sparse tensor's
                return None
        elif not (value is None or isinstance(value, (str, Number))):
            return None
        digest.update(repr((name, value)).encode())
    return digest.digest()


def _bytes(x: Tensor, row: int, rows: int, mask: Tensor | None) -> bytes:
    """A row of a tensor, without what the mask leaves out; all of it where it has no such rows."""
    mine = x[row] if x.ndim and len(x) == rows else x
    if mask is not None and x.shape[:2] == mask.shape:
        mine = mine[mask[row].to(mine.device).bool()]
    mine = torch.view_as_real(mine) if mine.is_complex() else mine
    return (mine.double() if mine.is_floating_point() else mine.long()).cpu().numpy().tobytes()


def _leaves(batch, name: str = "") -> Iterator[tuple[str, object]]:
    """What is in a batch, by its place in it."""
    if isinstance(batch, (Mapping, list, tuple)):
        for key, value in batch.items() if isinstance(batch, Mapping) else enumerate(batch):
            yield from _leaves(value, f"{name}/{key}")
    else:
        yield name, batch
