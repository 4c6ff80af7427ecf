"""Stored activations, read lazily and as data only; and synthetic ones, made from a seed."""

from __future__ import annotations

import io
import itertools
import math
import mmap
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import said, sha256
from .readers import Steps, expand, natural, sglang

EXPANDED = 1 << 30  # bytes that a file may grow to, however little it holds


class Activations(Mapping):
    """Tensor name -> activations [..., K], each read from its file when it is asked for."""

    def __init__(self, readers: dict[str, Callable[[], Tensor]], sources: list[dict]):
        self._readers = readers
        self.sources = sources  # one dict a file: path, sha256, bytes, metadata

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"Activations({len(self)} tensors from {', '.join(Path(s['path']).name for s in self.sources)})"


def load(*paths: str | os.PathLike) -> Activations:
    """Activations of .safetensors, .npy, .npz and .pt/.pth/.bin files, or of every such file in a folder.

    Returns a mapping of tensor name -> [..., K] in the file's dtype (float64 as float32), each read when it is asked
    for; `.sources` has the files' checksums.

    A .safetensors.index.json stands for its shards, and a folder that SGLang's dumper or tensor dump wrote gives one
    tensor for all steps (see readers.py).
    A file with one unnamed tensor gives it the file's stem as name; a name that several files have gets as much of the
    path before it as tells them apart. Nothing in a file is executed.

    Raises FileNotFoundError, ValueError that says what is wrong with which file, or TypeError for what is no path.
    """
    if not paths:
        raise ValueError("no file given: load(path) takes .safetensors, .npy, .npz or .pt files, or folders of them")
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"load takes paths, not a {type(path).__name__}: load(a, b), load(*paths)")
    files = [f for p in paths for f in expand(Path(p).expanduser(), _FORMATS)]
    readers: dict[str, Callable[[], Tensor]] = {}
    sources = []
    for path in files:
        try:
            found, metadata = _FORMATS[path.suffix.lower()](path)
        except Exception as error:  # every reader fails in its own way; the caller gets one
            raise ValueError(f"cannot read {str(path)!r}: {_reason(error)}") from error
        for name, reader in sorted(found.items(), key=lambda item: natural(item[0])):
            if isinstance(reader, Steps) and isinstance(readers.get(name), Steps):
                readers[name].reads += reader.reads
                continue
            readers[_free(name, path, readers)] = reader
        sources.append({"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size, "metadata": metadata})
    if not readers:
        raise ValueError(f"no floating-point tensor in {', '.join(map(str, paths))}: nothing to analyse")
    return Activations(readers, sources)


def _free(name: str, path: Path, taken: Mapping) -> str:
    """The name, or one that no other tensor has: stem/name, folder/stem/name, ..., at last with a number."""
    parts = path.with_suffix("").parts
    candidates = [name, *("/".join([*parts[-n:], name]) for n in range(1, len(parts) + 1))]
    numbered = (f"{name} ({n})" for n in itertools.count(2))
    return next(c for c in itertools.chain(candidates, numbered) if c not in taken)


def _reason(error: Exception) -> str:
    text = said(error)
    text = text if " " in text else f"{type(error).__name__}: {text}"  # KeyError: 101
    words = ("weights_only", "pickle", "python objects", "object arrays")
    if isinstance(error, pickle.UnpicklingError) or any(w in str(error).lower() for w in words):
        return f"it holds pickled objects, not loaded since they could run code; save tensors only ({text[:120]})"
    return f"truncated or damaged, or not what its name says ({text})"


def _safetensors(path: Path):
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        metadata = dict(f.metadata() or {})
        names = [n for n in f.keys() if f.get_slice(n).get_dtype() in ("BF16", "F16", "F32", "F64")]  # noqa: SIM118

    def reader(name):
        def read():
            with safe_open(path, "pt") as f:
                return _activation(f.get_tensor(name))

        return read

    return {n: reader(n) for n in names}, metadata


def _check_magic(path: Path, *magic: bytes) -> None:
    """NumPy and torch take a foreign file for a pickle."""
    with open(path, "rb") as f:
        start = f.read(8)
    if not start.startswith(magic):
        raise ValueError(f"starts with {start!r}")


def _npy(path: Path):
    _check_magic(path, b"\x93NUMPY")
    with open(path, "rb") as f:
        shape, dtype = _described(f, path.stat().st_size)
    if dtype.kind != "f" or not shape:
        return {}, {}
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _floats({path.stem: array}), {}


def _described(f, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that a .npy file of so many bytes announces; ValueError where it cannot hold them.

    NumPy's own product of the shape overflows; and mapping elements of no size divides by 0, which ends the process.
    """
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(f)
    if version not in read:
        raise ValueError(f"is of format version {version}")
    shape, _, dtype = read[version](f)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - f.tell():
        raise ValueError(f"announces an array of shape {shape} and type {dtype}, and ends before it")
    return shape, dtype


def _npz(path: Path):
    _check_magic(path, b"PK")
    found = {}
    with zipfile.ZipFile(path) as archive:
        _check_growth(sum(i.file_size for i in archive.infolist()), path.stat().st_size)
        for info in archive.infolist():
            with archive.open(info) as f:
                shape, dtype = _described(f, info.file_size)
            if dtype.kind == "f" and shape:
                found[info.filename.removesuffix(".npy")] = _member(path, info.filename)
    return found, {}


def _member(path: Path, name: str):
    """Reads one array of an archive when it is asked for."""

    def read():
        with np.load(path, allow_pickle=False) as arrays:
            return _activation(torch.from_numpy(_native(arrays[name])))

    return read


def _check_growth(size: int, stored: int) -> None:
    """ValueError where a little file would fill the memory."""
    if size > EXPANDED and size > 100 * stored:
        raise ValueError(f"{stored:,} bytes that would grow to {size:,}: hardly activations")


def _pt(path: Path):
    _check_magic(path, b"PK", b"\x80")
    mapped = zipfile.is_zipfile(path)  # the old format cannot be memory-mapped
    _check_pickle(path, mapped)
    value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    steps = sglang(path, value)
    if steps is not None:
        return {name: Steps(_again(path, name)) for name in _floats(steps)}, {}
    named: dict[str, Tensor] = {}
    for name, tensor in _walk(value, "", [path.stat().st_size]):  # {"a": {"b": x}, "a.b": y} has one name twice
        named[_free(name or path.stem, path, named)] = tensor
    return _floats(named), {}


def _check_pickle(path: Path, zipped: bool) -> None:
    """ValueError for what torch.save does not write, and torch.load fills the memory with."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist()):
                raise ValueError("its parts are compressed, unlike those that torch.save writes")
            programs = [archive.read(n) for n in archive.namelist() if n.endswith("data.pkl")]
        calls = any(b"bytearray" in program for program in programs)
        for program in programs:
            _check_names(io.BytesIO(program), 1)
    else:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            calls = data.find(b"bytearray") >= 0
            _check_names(f, 5)
    if calls:
        raise pickle.UnpicklingError("bytearray is no tensor")


def _check_names(f, pickles: int) -> None:
    """ValueError for a long name in the first pickles: torch.load says why it refuses one in time quadratic in that."""
    for _ in range(pickles):
        for op, argument, _ in pickletools.genops(f):
            if op.name == "GLOBAL" and len(argument) > 1000:
                raise ValueError(f"a pickled name of {len(argument):,} characters")


def _again(path: Path, name: str):
    """Reads one tensor of a step when it is asked for: thousands of files cannot all stay mapped."""
    return lambda: _activation(sglang(path, torch.load(path, map_location="cpu", weights_only=True))[name])


def _walk(value, name: str, left: list[int]):
    """Tensors in nested dicts and lists, named by their path; ValueError after `left` items.

    A file has a byte for each item at least, unless lists share lists that share lists.
    """
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("its lists hold each other, more items than the file has bytes")
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, f"{name}.{key}" if name else str(key), left)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _walk(inner, f"{name}.{i}" if name else str(i), left)


def _floats(values: dict) -> dict[str, Callable[[], Tensor]]:
    """Readers of the floating-point arrays and tensors among `values`; a NumPy array is copied when it is read."""

    def reader(value):
        return lambda: _activation(torch.from_numpy(_native(value)) if isinstance(value, np.ndarray) else value)

    def is_float(value) -> bool:
        return value.dtype.kind == "f" if isinstance(value, np.ndarray) else value.is_floating_point()

    return {name: reader(value) for name, value in values.items() if value.ndim and is_float(value)}


def _native(array: np.ndarray) -> np.ndarray:
    """A copy in this machine's byte order, longdouble as float64."""
    return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="))


def _activation(x: Tensor) -> Tensor:
    if x.layout == torch.strided:
        _check_growth(x.numel() * x.element_size(), x.untyped_storage().nbytes())  # strides of 0 repeat one number
    return x.float() if x.dtype == torch.float64 else x


_FORMATS = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".bin": _pt,
}


def synthetic(kind: str, tokens: int = 256, features: int = 1024, *, seed: int = 0, strength: float = 1.0) -> Tensor:
    """Synthetic activations, bf16 [tokens, features], the same for a seed everywhere.

    Args:
        kind:     "normal"; "lognormal" (sigma = strength); "outlier channels" (1 % of channels 20 * strength times
                  larger); "spikes" (1 element in 1,000 is 50 * strength times larger); "spread" (each token has one
                  lone value, 20,000 to 60,000 * strength times the amax of its other blocks: where E4M3 runs out of
                  normal numbers, so favours a ceiling of 448); "crowded" (every block has its token's amax: favours
                  256).
        features: a multiple of 16.
        strength: how far it goes.
    Raises ValueError for another kind, or features that make no whole blocks.
    """
    if features % 16:
        raise ValueError(f"features={features} is not a multiple of 16: NVFP4 scales blocks of 16 features")
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, features, generator=g)
    if kind == "lognormal":
        x = x.sign() * torch.exp(strength * torch.randn(tokens, features, generator=g))
    elif kind == "outlier channels":
        channels = torch.randperm(features, generator=g)[: max(1, features // 100)]
        x[:, channels] *= 20 * strength
    elif kind == "spikes":
        x = torch.where(torch.rand(tokens, features, generator=g) < 1e-3, x * 50 * strength, x)
    elif kind in ("spread", "crowded"):
        grouped = x.unflatten(-1, (-1, 16))
        grouped /= grouped.abs().amax(-1, keepdim=True)  # every block has amax 1
        if kind == "spread":
            grouped *= 3 ** torch.rand(tokens, features // 16, 1, generator=g)  # 1 to 3
            grouped[:, 0] = 0
            grouped[:, 0, 0] = 60_000 * strength
        x = grouped.flatten(-2)
    elif kind != "normal":
        raise ValueError(f"unknown kind {kind!r}: one of {', '.join(map(repr, SYNTHETIC))}")
    return x.bfloat16()


SYNTHETIC = ("normal", "lognormal", "outlier channels", "spikes", "spread", "crowded")
