"""What the bytes of a matrix tell without an original: its block scales, and a sample of its codes.

Scales are counted whole, as a histogram over their 256 bytes. Codes are looked at in some rows only: the largest code
of a block says whether its amax went to 6 or to 4, and codes with scales together say how much error rounding left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..nvfp4 import BLOCK, decode_packed
from .headers import Entry
from .layout import Matrix, Scalar

SAMPLE = 1 << 14  # bytes of codes looked at in a matrix: 2,048 blocks
FOUR = 0.02  # share of blocks whose largest code is 4 from which a matrix counts as made with 4over6
LOST_ROWS = 64  # rows looked into for codes under a scale of zero
E4M3 = torch.arange(128, dtype=torch.uint8).view(torch.float8_e4m3fn).double().nan_to_num().numpy()  # NaN as 0
# mean squared rounding error of a value uniform in the interval that each of E2M1's magnitudes stands for
_EDGES = np.array([-0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3_NOISE = np.mean(np.arange(8.0, 16) ** -2) / 12  # mean squared relative error of a number with 4 significant bits
_NOISE = ((_EDGES[1:] - _VALUES) ** 3 - (_EDGES[:-1] - _VALUES) ** 3) / 3 / np.diff(_EDGES)
_LOW, _HIGH = np.arange(256) & 7, np.arange(256) >> 4 & 7  # magnitudes of the two codes of a byte
_LARGER = np.maximum(_LOW, _HIGH)
_PAIR_SQUARES = _VALUES[_LOW] ** 2 + _VALUES[_HIGH] ** 2
_PAIR_NOISE = _NOISE[_LOW] + _NOISE[_HIGH]


@dataclass(frozen=True)
class Scan:
    """Block scales and codes of one matrix."""

    histogram: np.ndarray  # int64 [256]: blocks by scale byte; 0..126 are scales, 127 and 255 NaN, 128.. negative
    largest_code: np.ndarray  # int64 [8]: sampled blocks that are not zero, by the index of their largest code
    signal: float  # sum over the sample of (element * block scale)^2
    noise: float  # the same of what rounding to E2M1 is expected to have left
    lost: int  # blocks of scale 0 with codes that are not, among the first rows that have any

    @property
    def blocks(self) -> int:
        return int(self.histogram.sum())

    @property
    def largest(self) -> float:
        """The largest block scale, 0 where there is none."""
        there = np.flatnonzero(self.histogram[:127])
        return float(E4M3[there[-1]]) if len(there) else 0.0

    def share(self, first: int, stop: int) -> float:
        """Share of blocks whose scale's byte is in first..stop-1."""
        return int(self.histogram[first:stop].sum()) / max(1, self.blocks)

    @property
    def at_448(self) -> float:
        return self.share(126, 127)

    @property
    def subnormal(self) -> float:
        return self.share(1, 8)

    @property
    def zero(self) -> float:
        return self.share(0, 1)

    @property
    def nan(self) -> int:
        return int(self.histogram[127] + self.histogram[255])

    @property
    def negative(self) -> int:
        return int(self.histogram[128:255].sum())

    @property
    def four_share(self) -> float:
        """Share of sampled blocks whose largest code is 4: what 4over6 leaves, and standard never does."""
        return float(self.largest_code[6] / max(1, self.largest_code.sum()))

    @property
    def six_share(self) -> float:
        return float(self.largest_code[7] / max(1, self.largest_code.sum()))

    @property
    def nmse(self) -> float:
        """Expected squared error over squared signal, from the codes alone."""
        return self.noise / self.signal if self.signal else 0.0


def scan(matrix: Matrix) -> Scan:
    """Count the block scales of a matrix and look into its codes; ValueError where the file cannot be read."""
    histogram = np.zeros(256, np.int64)
    lost = 0
    if matrix.scales is None:
        return Scan(histogram, np.zeros(8, np.int64), 0.0, 0.0, 0)
    whole = None
    for _, chunk in matrix.scales.chunks(*_scale_rows(matrix)):
        histogram += _count(chunk.view(torch.uint8).numpy())
        whole = chunk  # of a small matrix all its scales, which need not be read again
    if histogram[0] and not matrix.transposed:
        lost = _lost(matrix)
    return Scan(histogram, *_look(matrix, whole), lost)


def _scale_rows(matrix: Matrix) -> tuple[int, int]:
    """Rows of the tensor of scales that are this matrix's."""
    if not matrix.transposed:
        return matrix.rows.start, matrix.rows.stop
    each, n = matrix.scales.shape[1], len(matrix.rows)
    return matrix.rows.start // n * each, (matrix.rows.start // n + 1) * each


def _count(values: np.ndarray) -> np.ndarray:
    """Histogram of bytes; two at a time where there are many, which takes half as long."""
    flat = values.reshape(-1)
    if flat.size < 1 << 18 or flat.size % 2:
        return np.bincount(flat, minlength=256)
    pairs = np.bincount(flat.view(np.uint16), minlength=1 << 16).reshape(256, 256)
    return pairs.sum(0) + pairs.sum(1)


def _look(matrix: Matrix, read: Tensor | None) -> tuple[np.ndarray, float, float]:
    """Largest codes, signal and expected noise of some rows, evenly spread in a few runs; `read`, scales at hand."""
    counts, signal, noise = np.zeros(8, np.int64), 0.0, 0.0
    for first, stop in sampled_rows(matrix):
        if read is not None and not matrix.transposed and len(read) == len(matrix.rows):
            codes, scales = read_codes(matrix, first, stop), read[first:stop]
        else:
            codes, scales = read_rows(matrix, first, stop)
        packed = codes.numpy().reshape(-1, BLOCK // 2)  # [blocks, 8]
        real = E4M3[scales.reshape(-1).view(torch.uint8).numpy() & 127]
        top = _LARGER[packed].max(-1)  # the scale was made from this one: what is left of it is E4M3's own rounding
        counts += np.bincount(top[(real > 0) & (top > 0)], minlength=8)
        signal += float(_PAIR_SQUARES[packed].sum(-1) @ real**2)
        left = _PAIR_NOISE[packed].sum(-1) - _NOISE[top] + E4M3_NOISE * _VALUES[top] ** 2
        noise += float(left @ real**2)
    return counts, signal, noise


def sampled_rows(matrix: Matrix, limit: int = SAMPLE) -> list[tuple[int, int]]:
    """Runs of rows, first..stop, that hold `limit` bytes of codes together; all rows where they are fewer."""
    n, each = len(matrix.rows), max(1, matrix.features // 2)
    wanted = max(1, limit // each)
    if wanted >= n:
        return [(0, n)] if n else []
    runs = min(4, wanted)
    return [(n * i // runs, n * i // runs + wanted // runs) for i in range(runs)]


def _lost(matrix: Matrix) -> int:
    """Blocks whose scale is 0 although their codes are not, in the first rows that have a scale of 0."""
    lost = left = 0
    for row, chunk in matrix.scales.chunks(*_scale_rows(matrix)):
        for i in (chunk.view(torch.uint8) == 0).any(-1).nonzero().flatten().tolist():
            left += 1
            if left > LOST_ROWS:
                return lost
            first = row + i - matrix.rows.start
            codes, scales = read_rows(matrix, first, first + 1)
            some = (codes & 0x77).bool().reshape(-1, BLOCK // 2).any(-1)  # the sign of a zero is nothing lost
            lost += int((some & (scales.reshape(-1).view(torch.uint8) == 0)).sum())
    return lost


def read_rows(matrix: Matrix, first: int, stop: int) -> tuple[Tensor, Tensor]:
    """Packed codes uint8 [rows, K/2] and block scales float8 [rows, K/16] of rows of a matrix."""
    if matrix.transposed:
        codes, scales = _slab(matrix.codes, matrix), _slab(matrix.scales, matrix)
        return codes[first:stop], scales[first:stop]
    scales = matrix.scales.read(matrix.rows.start + first, matrix.rows.start + stop)
    return read_codes(matrix, first, stop), scales.view(torch.uint8).view(torch.float8_e4m3fn)


def read_codes(matrix: Matrix, first: int, stop: int) -> Tensor:
    """Packed codes uint8 [rows, K/2] of rows of a matrix that is not transposed."""
    return matrix.codes.read(matrix.rows.start + first, matrix.rows.start + stop).view(torch.uint8)


def _slab(entry: Entry, matrix: Matrix) -> Tensor:
    """One expert of a transposed stack, [.., N] turned to [N, ..]."""
    expert, each = matrix.rows.start // len(matrix.rows), entry.shape[1]
    flat = entry.read(expert * each, (expert + 1) * each).view(torch.uint8)
    return flat.T.contiguous().view(torch.uint8 if entry is matrix.codes else torch.float8_e4m3fn)


def value(scalar: Scalar | None) -> float | None:
    """A scale as it is stored; None where there is none."""
    if scalar is None:
        return None
    return float(scalar.entry.read().flatten()[scalar.index].float())


def multiplier(scalar: Scalar | None, stored: float | None) -> float | None:
    """What decoding multiplies with, float32: the scale itself, or the inverse of a divisor; inf for a divisor of 0."""
    if stored is None or not scalar.divides:
        return stored
    return float(torch.div(torch.ones(()), torch.tensor(stored)))


def decode(matrix: Matrix, first: int, stop: int) -> Tensor:
    """Rows of the weight, float32 [rows, K], in the order of the tool that wrote it.

    ModelOpt: element * rn(block scale * weight_scale_2); compressed-tensors: element * rn(block scale /
    weight_global_scale). Without a scale of the matrix: element * block scale.
    """
    codes, scales = read_rows(matrix, first, stop)
    scale, whole = scales.float(), value(matrix.weight)
    if whole is not None:
        whole = torch.tensor(whole)
        scale = torch.div(scale, whole) if matrix.weight.divides else scale * whole
    return (decode_packed(codes).unflatten(-1, (-1, BLOCK)) * scale.unsqueeze(-1)).flatten(-2)


def row_chunks(matrix: Matrix, elements: int) -> Iterator[tuple[int, int]]:
    """Rows first..stop of a matrix, at most so many elements at a time."""
    step = max(1, elements // max(1, matrix.features))
    for first in range(0, len(matrix.rows), step):
        yield first, min(first + step, len(matrix.rows))
