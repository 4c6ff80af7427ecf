"""Safetensors read by offset: headers first, then single rows; a file is never read whole.

The safetensors package checks a header (sizes, offsets, overlaps) before anything here believes it; reading by `pread`
keeps the memory of a 70B model at that of one chunk, where a mapped file would count every page that was touched.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..activations import placeholder
from ..shown import error_text

HEADER = 64 << 20  # bytes of a header; 187,000 tensors of a 256-expert model in one file take 37 MB
CONFIG = 16 << 20  # bytes of a config or an index
CHUNK = 8 << 20  # bytes read at a time
_TYPES = {
    "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "BF16": torch.bfloat16, "F16": torch.float16,
    "F32": torch.float32, "F64": torch.float64, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
_BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where it stands, read when asked for."""

    path: Path
    dtype: str  # safetensors' word for it, such as "U8" or "F8_E4M3"
    shape: tuple[int, ...]
    start: int  # of its bytes in the file

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row along the last axis."""
        return (self.shape[-1] if self.shape else 1) * _BYTES.get(self.dtype, 0)

    @property
    def rows(self) -> int:
        """Rows of the last axis: the product of all other axes."""
        return self.numel // self.shape[-1] if self.shape and self.shape[-1] else min(self.numel, 1)

    def read(self, first: int = 0, stop: int | None = None) -> Tensor:
        """Rows first..stop of the last axis as a tensor [rows, last axis], in the file's dtype; all of them by default.

        Raises ValueError for a dtype that no checkpoint of NVFP4 has, or where the file ends early.
        """
        if self.dtype not in _TYPES:
            raise ValueError(f"{self.path.name!r} holds {self.dtype}, a type that is not read here")
        stop = self.rows if stop is None else min(stop, self.rows)
        last, size = self.shape[-1] if self.shape else 1, max(0, stop - first) * self.row_bytes
        data = bytearray(size)
        with open(self.path, "rb", buffering=0) as f:
            f.seek(self.start + first * self.row_bytes)
            if f.readinto(data) != size:
                raise ValueError(f"{self.path.name!r} ends before the bytes that its header announces")
        if not size:
            return torch.empty(0, last, dtype=_TYPES[self.dtype])
        return torch.frombuffer(data, dtype=torch.uint8).view(_TYPES[self.dtype]).view(-1, last)

    def chunks(self, first: int = 0, stop: int | None = None, limit: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        """First row and rows, at most `limit` bytes at a time but a row at least."""
        stop, step = self.rows if stop is None else stop, max(1, limit // max(1, self.row_bytes))
        for row in range(first, stop, step):
            yield row, self.read(row, min(row + step, stop))


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors of a .safetensors file by name, and its metadata. ValueError of one line for what is none."""
    from safetensors import safe_open

    try:
        with open(path, "rb") as f:
            start = f.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if size > HEADER:
                raise ValueError(f"announces a header of {size:,} bytes; more than {HEADER:,} is no model's")
            with safe_open(path, "pt"):  # its own checks: sizes, offsets, overlaps, the end of the file
                pass
            header = json.loads(f.read(size))
        metadata = header.pop("__metadata__", None) or {}
        found = {
            name: Entry(path, at["dtype"], tuple(at["shape"]), 8 + size + at["data_offsets"][0])
            for name, at in header.items()
        }
    except Exception as error:  # the parser's own kinds, RecursionError, a folder
        why = placeholder(path) or f"truncated or damaged ({error_text(error)})"
        raise ValueError(f"cannot read {str(path)!r}: {why}") from error
    return found, metadata


def read_json(path: Path) -> dict:
    """A JSON object of bounded size; ValueError of one line for anything else."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
            raise ValueError("it is no regular file")
        with open(path, "rb") as f:
            data = f.read(CONFIG + 1)
        if len(data) > CONFIG:
            raise ValueError(f"has {path.stat().st_size:,} bytes; more than {CONFIG:,} is no model's")
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError(f"holds a {type(values).__name__}, not an object")
    except (ValueError, RecursionError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error_text(error)
        raise ValueError(f"cannot read {str(path)!r}: {why}") from error
    return values


def leaves(path: Path, folder: Path) -> bool:
    """Whether a file is a link out of the folder; the hub's cache, whose snapshots link to ../../blobs, is at home."""
    if not path.is_symlink():
        return False
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    cached = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    return not cached and home not in real.parents
