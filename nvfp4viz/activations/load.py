"""Stored activations, read lazily and as data only: which files, which tensors, and what to call them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from ..files import sha256
from .dumps import Steps
from .felt import Felt, take_squares
from .folders import files_of, natural
from .guards import QuantizedCheckpointError, reason
from .readers import FORMATS, Contents, free


class Activations(Mapping):
    """Tensor name -> activations [..., K], each read from its file when it is asked for."""

    def __init__(
        self,
        readers: dict[str, Callable[[], Tensor]],
        sources: list[dict],
        left_out: dict[str, str],
        lengths: tuple[int, ...] | None = None,
        felt: dict[str, Felt] | None = None,
    ):
        self._readers = readers
        self.felt = felt or {}  # tensor -> squares of its gradients, of those that have some
        self.lengths = lengths  # tokens of each sequence, one after another; None: not known
        self.sources = sources  # one dict a file: path, sha256, bytes, metadata
        self.left_out = left_out  # tensor, or file, that is not taken -> its dtype and why

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        files = ", ".join(Path(s["path"]).name for s in self.sources)
        left_out = f"; {len(self.left_out)} left out: see .left_out" if self.left_out else ""
        return f"Activations({len(self)} tensors from {files}{left_out})"


def load(*paths: str | os.PathLike, lengths: Iterable[int] | None = None) -> Activations:
    """Activations of .safetensors, .npy, .npz and .pt/.pth/.bin files, or of every such file in a folder.

    Returns a mapping of tensor name -> [..., K] in the file's dtype (float64 as float32), each read when it is asked
    for; `.sources` has the files' checksums, `.left_out` what is not taken (integers, FP8, files of a folder that
    cannot be read), with the reason.

    A .safetensors.index.json stands for its shards, and a folder that SGLang's dumper or tensor dump wrote gives one
    tensor for all steps (see dumps.py).
    `lengths` are the tokens of each sequence, one after another: intervals are over sequences where there are eight.
    None: what the metadata of a .safetensors says, a JSON list under "sequence_lengths". Tensors of another number of
    tokens have none, [B, T, K] has B sequences anyway. Squares of gradients that `capture` kept are in `.felt`.
    A file with one unnamed tensor gives it the file's stem as name; a name that several files have gets as much of the
    path before it as tells them apart. Nothing in a file is executed.

    Raises FileNotFoundError, ValueError that says what is wrong with which file, or TypeError for what is no path.
    """
    if not paths:
        raise ValueError("no file given: load(path) takes .safetensors, .npy, .npz or .pt files, or folders of them")
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"load takes paths, not a {type(path).__name__}: load(a, b), load(*paths)")
    readers: dict[str, Callable[[], Tensor]] = {}
    left_out: dict[str, str] = {}
    felt: dict[str, Felt] = {}
    sources, unread = [], []
    for path, named in (found for p in paths for found in files_of(Path(p).expanduser())):
        try:
            contents = _read(path)
        except ValueError as error:
            if named:
                raise
            unread.append(error)  # a foreign file of a folder costs nothing but itself
            left_out[str(path)] = str(error)
            continue
        take_squares(readers, _merge(contents, path, readers, left_out), contents.metadata, felt, left_out)
        about = {"sha256": sha256(path), "bytes": path.stat().st_size, "metadata": contents.metadata}
        sources.append({"path": str(path), **about})
    if not readers and unread:
        raise unread[0]
    if not readers:
        why = "".join(f"; {name}: {why}" for name, why in list(left_out.items())[:3])
        raise ValueError(f"no floating-point tensor in {', '.join(map(str, paths))}: nothing to analyse{why}")
    return Activations(readers, sources, left_out, _lengths(lengths, sources), felt)


def _lengths(told: Iterable[int] | None, sources: list[dict]) -> tuple[int, ...] | None:
    """Tokens of each sequence; ValueError where what was told are no lengths. A stranger's metadata is not trusted."""
    if told is not None:
        lengths = tuple(told)
        if not lengths or not all(isinstance(n, (int, np.integer)) and n > 0 for n in lengths):
            raise ValueError(f"lengths={lengths[:5]}: expected the tokens of each sequence, whole numbers above 0")
        return tuple(map(int, lengths))
    found = {str(source["metadata"].get("sequence_lengths")) for source in sources}
    try:
        (text,) = found  # files of one capture say the same
        lengths = json.loads(text)
    except ValueError:
        return None
    known = isinstance(lengths, list) and lengths and all(type(n) is int and n > 0 for n in lengths)
    return tuple(lengths) if known else None


def _read(path: Path) -> Contents:
    try:
        return FORMATS[path.suffix.lower()](path)
    except QuantizedCheckpointError:
        raise
    except Exception as error:  # every reader fails in its own way; the caller gets one
        raise ValueError(f"cannot read {str(path)!r}: {reason(error)}") from error


def _merge(contents: Contents, path: Path, readers: dict, left_out: dict) -> list[str]:
    """Add a file's tensors, and give the names that they got; the steps of one tensor are joined."""
    before = set(readers)
    for name, reader in sorted(contents.readers.items(), key=lambda item: natural(item[0])):
        if isinstance(reader, Steps) and isinstance(readers.get(name), Steps):
            readers[name].reads += reader.reads
        else:
            readers[free(name, path, readers)] = reader
    for name, why in sorted(contents.left_out.items(), key=lambda item: natural(item[0])):
        if left_out.get(name) != why:  # steps of one tensor
            left_out[free(name, path, {**readers, **left_out})] = why
    return [name for name in readers if name not in before]
