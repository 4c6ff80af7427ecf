"""How each format is read, as data only: which tensors of it are activations, and why the others are not."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..shown import error_text
from .dumps import Steps, dumped, hidden_layers
from .guards import (
    calibrated,
    check_growth,
    check_magic,
    check_pickle,
    check_tensor,
    described,
    refuse_checkpoint,
    walk,
    why_not,
)


@dataclass(frozen=True)
class Contents:
    """What one file holds."""

    readers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)  # name -> reads its activations
    left_out: dict[str, str] = field(default_factory=dict)  # name -> dtype and why it is not taken
    metadata: dict = field(default_factory=dict)


def _sorted(found: Mapping[str, tuple[str, int, Callable[[], Tensor]]], metadata=None) -> Contents:
    """Contents from name -> (dtype, number of axes, reader)."""
    reasons = {name: calibrated(name) or why_not(dtype, ndim) for name, (dtype, ndim, _) in found.items()}
    taken = {name: read for name, (_, _, read) in found.items() if reasons[name] is None}
    return Contents(taken, {name: why for name, why in reasons.items() if why is not None}, metadata or {})


def safetensors(path: Path) -> Contents:
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        metadata = dict(sorted((f.metadata() or {}).items()))  # safetensors has them in another order each time
        slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118
        types = {name: (str(s.get_dtype()), len(s.get_shape())) for name, s in slices.items()}
        layers = hidden_layers({name: tuple(s.get_shape()) for name, s in slices.items()})
    refuse_checkpoint(path, {name: dtype for name, (dtype, _) in types.items()})

    def reader(name):
        def read():
            with safe_open(path, "pt") as f:
                return activation(f.get_tensor(name))

        return read

    def layer(i):
        def read():
            with safe_open(path, "pt") as f:
                return activation(f.get_slice("hidden_states")[:, i])  # [T, K]

        return read

    found = {name: (*kind, reader(name)) for name, kind in types.items()}
    if layers:
        dtype, ndim, _ = found.pop("hidden_states")
        found |= {f"hidden_states.{i}": (dtype, ndim - 1, Steps(layer(i))) for i in range(layers)}
    return _sorted(found, metadata)


def npy(path: Path) -> Contents:
    check_magic(path, b"\x93NUMPY")
    with open(path, "rb") as f:
        shape, dtype = described(f, path.stat().st_size)
    if why_not(dtype.str, len(shape)):
        return _sorted({path.stem: (dtype.str, len(shape), None)})
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _sorted({path.stem: (dtype.str, len(shape), lambda: activation(torch.from_numpy(native(array))))})


def npz(path: Path) -> Contents:
    check_magic(path, b"PK")
    found, refused = {}, {}
    with zipfile.ZipFile(path) as archive:
        check_growth(sum(i.file_size for i in archive.infolist()), path.stat().st_size)
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            try:
                with archive.open(info) as f:
                    shape, dtype = described(f, info.file_size)
            except ValueError as error:  # one array does not lose the others
                refused[name] = error_text(error)
                continue
            found[name] = (dtype.str, len(shape), _member(path, info.filename))
    if refused and not found:
        raise ValueError(next(iter(refused.values())))
    refuse_checkpoint(path, {name: dtype for name, (dtype, _, _) in found.items()})
    contents = _sorted(found)
    return replace(contents, left_out=contents.left_out | refused)


def _member(path: Path, name: str):
    """Reads one array of an archive when it is asked for."""

    def read():
        with np.load(path, allow_pickle=False) as arrays:
            return activation(torch.from_numpy(native(arrays[name])))

    return read


def pt(path: Path) -> Contents:
    check_magic(path, b"PK", b"\x80")
    mapped = zipfile.is_zipfile(path)  # the old format cannot be memory-mapped
    check_pickle(path, mapped)
    value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    steps = dumped(path, value)
    if steps is not None:
        return _sorted({name: (kind(x), x.ndim, Steps(_again(path, name))) for name, x in steps.items()})
    named: dict[str, Tensor] = {}
    for name, tensor in walk(value, "", [path.stat().st_size]):  # {"a": {"b": x}, "a.b": y} has one name twice
        named[free(name or path.stem, path, named)] = tensor
    refuse_checkpoint(path, {name: kind(x) for name, x in named.items()})
    return _sorted({name: (kind(x), x.ndim, lambda x=x: activation(x)) for name, x in named.items()})


def kind(x: Tensor) -> str:
    """A tensor's dtype, or its layout where that is what matters."""
    if x.is_nested:
        return "nested"
    return str(x.dtype) if x.layout == torch.strided else str(x.layout).removeprefix("torch.")


def _again(path: Path, name: str):
    """Reads one tensor of a step when it is asked for: thousands of files cannot all stay mapped."""
    return lambda: activation(dumped(path, torch.load(path, map_location="cpu", weights_only=True))[name])


def native(array: np.ndarray) -> np.ndarray:
    """A copy in this machine's byte order, longdouble as float64."""
    return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="))


def activation(x: Tensor) -> Tensor:
    """A tensor of a file as `load` gives it: float64 as float32."""
    check_tensor(x)
    return x.float() if x.dtype == torch.float64 else x


def free(name: str, path: Path, taken: Mapping) -> str:
    """The name, or one that no other tensor has: stem/name, folder/stem/name, ..., at last with a number."""
    if name not in taken:
        return name
    parts = path.with_suffix("").parts
    for n in range(1, len(parts) + 1):
        longer = "/".join([*parts[-n:], name])
        if longer not in taken:
            return longer
    n = 2
    while f"{name} ({n})" in taken:
        n += 1
    return f"{name} ({n})"


FORMATS = {".safetensors": safetensors, ".npy": npy, ".npz": npz, ".pt": pt, ".pth": pt, ".bin": pt}
