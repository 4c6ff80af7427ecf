"""Activations from whatever people have at hand, under names that are text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ..nvfp4 import as_tensor
from .load import Activations, load


def as_activations(source) -> Mapping[str, Tensor]:
    """A mapping of tensor name -> activations, from whatever people have at hand.

    Args: source: such a mapping, whose names may be of any kind (numbers of layers) and whose values may be NumPy
        arrays; one tensor or array, which is called "activations"; a path, or several, for `load`.
    Raises TypeError for anything else, ValueError where two names are the same as text, and what `load` raises.
    """
    if isinstance(source, (str, os.PathLike)):
        return load(source)
    if isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, os.PathLike)) for s in source):
        return load(*source)
    if isinstance(source, (Tensor, np.ndarray)):
        source = {"activations": source}
    if not isinstance(source, Mapping):
        raise TypeError(
            f"activations is a {type(source).__name__}: give one tensor or array, a mapping of name -> tensor, as "
            "load(path) returns, or a path"
        )
    plain = all(isinstance(key, str) and key.isprintable() for key in source)
    if isinstance(source, Activations) or (plain and _all_tensors(source)):
        return source
    return _Named(source)


def _all_tensors(source: Mapping) -> bool:
    """Whether the values of a dict are tensors; other mappings may read a file for each."""
    return not isinstance(source, dict) or all(isinstance(x, Tensor) for x in source.values())


@as_tensor.register
def of_array(x: np.ndarray) -> Tensor:
    """A NumPy array as a tensor, ml_dtypes' bfloat16 too; TypeError where torch has no such numbers."""
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(x).view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(x if x.dtype.isnative and x.flags.writeable else x.astype(x.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"an array of {x.dtype} is no tensor that torch has: give float32, float16 or ml_dtypes.bfloat16"
        ) from error


@as_tensor.register(str)
@as_tensor.register(os.PathLike)
def only_tensor(path) -> Tensor:
    """The tensor of a file that holds one, so that whatever takes activations takes a path; ValueError for several."""
    found = load(path)
    if len(found) > 1:
        raise ValueError(f"{str(path)!r} holds {len(found)} tensors: give one, load(path)[{next(iter(found))!r}]")
    return found[next(iter(found))]


class _Named(Mapping):
    """A mapping under names that are text, its arrays as tensors when they are asked for."""

    def __init__(self, source: Mapping):
        self._source, self._keys = source, {}
        for key in source:
            name = str(key).encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text elsewhere
            if name in self._keys:
                raise ValueError(f"two tensors are called {name!r}: give them names that differ as text")
            self._keys[name] = key
        self.sources, self.left_out = getattr(source, "sources", []), getattr(source, "left_out", {})
        self.lengths = getattr(source, "lengths", None)

    def __getitem__(self, name: str):
        return as_tensor(self._source[self._keys[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
