"""Stored activations, read lazily and as data only: which files, which tensors, and what to call them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..files import sha256
from ..shown import layer_order, quantity
from .dumps import Steps
from .folders import files_of, natural
from .guards import QuantizedCheckpointError, reason
from .metadata import sequence_lengths
from .readers import FORMATS, Contents, free
from .squares import GradientSquares, take_squares


@dataclass(repr=False, eq=False)
class Activations(Mapping):
    """Tensor name -> activations [..., K], each read from its file when it is asked for."""

    _readers: dict[str, Callable[[], Tensor]]
    sources: list[dict]  # one dict a file: path, sha256, bytes, metadata
    left_out: dict[str, str]  # tensor, or file, that is not taken -> its dtype and why
    lengths: tuple[int, ...] | None  # tokens of each sequence, one after another; None: not known
    squares: dict[str, GradientSquares]  # tensor -> squares of its gradients, of those that have some

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(layer_order(self._readers))

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        files = ", ".join(Path(s["path"]).name for s in self.sources)
        left_out = f"; {len(self.left_out)} left out: see .left_out" if self.left_out else ""
        return f"Activations({quantity(len(self), 'tensor')} from {files}{left_out})"


def load(*paths: str | os.PathLike, lengths: Iterable[int] | None = None) -> Activations:
    """Activations of .safetensors, .npy, .npz and .pt/.pth/.bin files, or of every such file in a folder.

    Returns a mapping of tensor name -> [..., K] in the file's dtype (float64 as float32), each read when it is asked
    for; `.sources` has the files' checksums, `.left_out` what is not taken (integers, FP8, files of a folder that
    cannot be read), with the reason.

    A .safetensors.index.json stands for its shards, and a folder that SGLang's dumper or tensor dump wrote gives one
    tensor for all steps. A file with one unnamed tensor gives it the file's stem as name; a name that several files
    have gets as much of the path before it as tells them apart. Nothing in a file is executed.

    `lengths` are the tokens of each sequence, one after another, for intervals over sequences (of which they take at
    least eight, of 16 tokens in the mean). Where it is None they are read from the metadata of a .safetensors, a JSON
    list under "sequence_lengths". A tensor of other tokens has no sequences known, one of [B, T, K] has B of them.
    Squares of gradients that `capture` kept are in `.squares`.

    Raises FileNotFoundError, ValueError that says what is wrong with which file, or TypeError for what is no path.
    """
    if not paths:
        raise ValueError("no file given: load(path) takes .safetensors, .npy, .npz or .pt files, or folders of them")
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"load takes paths, not a {type(path).__name__}: load(a, b), load(*paths)")
    readers: dict[str, Callable[[], Tensor]] = {}
    left_out: dict[str, str] = {}
    squares: dict[str, GradientSquares] = {}
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
        take_squares(readers, _merge(contents, path, readers, left_out), contents.metadata, squares, left_out)
        about = {"sha256": sha256(path), "bytes": path.stat().st_size, "metadata": contents.metadata}
        sources.append({"path": str(path), **about})
    if not readers and unread:
        raise unread[0]
    if not readers:
        why = "".join(f"; {name}: {why}" for name, why in list(left_out.items())[:3])
        raise ValueError(f"no floating-point tensor in {', '.join(map(str, paths))}: nothing to analyse{why}")
    return Activations(readers, sources, left_out, sequence_lengths(lengths, sources), squares)


def _read(path: Path) -> Contents:
    try:
        return FORMATS[path.suffix.lower()](path)
    except QuantizedCheckpointError:
        raise
    except Exception as error:  # every reader fails in its own way; the caller gets one
        raise ValueError(f"cannot read {str(path)!r}: {reason(error, path)}") from error


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
