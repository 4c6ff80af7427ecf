"""Frozen dataclasses that add up: what streams over chunks, merges over ranks and travels as JSON."""

from __future__ import annotations

import math
from dataclasses import field, fields

import numpy as np

from ..nvfp4 import Recipe
from ..shown import Card


def summed(default=0):
    """A field that adds: a count, or a float64 sum where the default is 0.0."""
    return field(default=default, metadata={"merge": "sum"})


def summed_array(*shape: int, dtype=np.int64):
    """An array that adds, zeros of this shape unless given; with no shape, of one that other fields decide.

    Left out of the repr: hundreds of counts say nothing in a notebook's output.
    """
    metadata = {"merge": "sum", "shape": shape, "dtype": dtype}
    return field(default_factory=lambda: np.zeros(shape, dtype), metadata=metadata, repr=False)


def largest():
    """A field of which the larger one stays."""
    return field(default=0.0, metadata={"merge": "max"})


def of_largest(leader: str):
    """A place, such as a token's index, that belongs to the larger `leader`; of equal ones the first. -1 is nowhere."""
    return field(default=-1, metadata={"merge": leader})


class Additive(Card):
    """`a + b` is what was counted over both; fields that are neither `summed` nor `largest` must be equal."""

    _noun = ""  # what messages call it; its class's name where empty

    def __add__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        values = self._shared(other)
        for f in fields(self):
            if f.metadata:
                values[f.name] = _merged(f.metadata["merge"], f.name, self, other)
        return type(self)(**values)

    def _shared(self, other) -> dict:
        """The fields that do not add, in the sum. Raises ValueError where they differ."""
        names = [f.name for f in fields(self) if not f.metadata]
        for name in names:
            a, b = getattr(self, name), getattr(other, name)
            if a != b:
                a, b = (v.name if isinstance(v, Recipe) else v for v in (a, b))
                raise ValueError(f"{type(self).__name__} of {name} {a} and {b} do not add")
        return {name: getattr(self, name) for name in names}

    def __eq__(self, other) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def to_dict(self) -> dict:
        """JSON-ready: lists for arrays, "inf" for an infinite sum; `from_dict` gives the same back."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: dict):
        """The inverse of `to_dict`; ValueError where a field is missing, unknown or of the wrong shape."""
        wanted = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != wanted:
            differ = sorted(set(values) ^ wanted)
            raise ValueError(f"not the {cls._noun or cls.__name__} of this version: fields {differ} differ")
        return cls(**{f.name: _parse(f, values[f.name]) for f in fields(cls)})


def _merged(how: str, name: str, one, other):
    a, b = getattr(one, name), getattr(other, name)
    if how == "sum":
        return a + b
    if how == "max":
        return float(np.maximum(a, b))  # NaN stays
    of_a, of_b = getattr(one, how), getattr(other, how)
    if of_a == of_b:
        return min(a, b) if min(a, b) >= 0 else max(a, b)
    return a if of_a > of_b else b


class Share:
    """A rate as an attribute: the count in one field over the count in another, 0 over nothing."""

    def __init__(self, count: str, definition: str, whole: str = "nonzero_blocks"):
        self.count, self.whole, self.definition = count, whole, definition
        self.__doc__ = f"{count} / {whole}: {definition}"

    def __get__(self, instance, owner=None):
        return self if instance is None else rate(getattr(instance, self.count), getattr(instance, self.whole))


def rate(count, of) -> float:
    """count / of, 0 over nothing."""
    return float(count / of) if of else 0.0


def _same(a, b) -> bool:
    """Equality in which NaN, an infinity's share of nothing, equals itself."""
    floats = np.asarray(a).dtype.kind == np.asarray(b).dtype.kind == "f"
    return np.array_equal(a, b, equal_nan=floats)


def plain(value):
    if isinstance(value, Recipe):
        return value.to_dict()
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(tuple(value)) if value.dtype == np.float64 else value.tolist()
    if isinstance(value, np.floating):
        value = float(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _parse(f, value):
    try:
        if "shape" not in f.metadata:
            return _PARSERS[f.type](value)
        array = np.array(value, dtype=f.metadata["dtype"])
    except OverflowError as error:
        raise ValueError(f"{f.name} holds what is no count: {error}") from error
    if f.metadata["shape"] and array.shape != f.metadata["shape"]:
        raise ValueError(f"{f.name} has shape {array.shape}, expected {f.metadata['shape']}")
    if array.dtype == np.int64 and array.min(initial=0) < 0:
        raise ValueError(f"{f.name} holds what is no count: {array.min()}")
    return array


_PARSERS = {  # by a field's annotation
    "Recipe": Recipe.from_dict,
    "str": str,
    "int": lambda value: int(np.int64(int(str(value)))),  # whole; OverflowError beyond
    "float": float,
    "tuple[float, ...]": lambda value: tuple(map(float, value)),
    "tuple[str, ...]": lambda value: tuple(map(str, value)),
}
