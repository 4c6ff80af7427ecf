"""Matrix products of activations with weights, seen where they happen, whatever class or loop makes them.

`Watch` is a torch function mode: it sees calls of torch as Python makes them, with the parameters themselves
and before autocast, and none of the backward pass. A weight is known by its storage, a slice of a stack by its offset
there; casts and gathered copies of weights are followed. The products it can read are `READERS`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from .operands import READERS
from .weights import Weight


@dataclass(frozen=True)
class Source:
    """What a tensor's storage holds of a weight."""

    weight: Weight
    shape: tuple[int, ...]  # of the tensor that fills the storage
    stride: int = 0  # elements from one expert to the next
    offset: int = 0  # where expert 0 begins
    experts: Tensor | int | None = None  # of a copy: the expert it is of, or of each entry along its first axis
    changed: bool = False  # computed from the weight, not only cast or gathered


@dataclass
class Product:
    """One product as it is about to be computed; x can be read by rows and put back."""

    weight: Weight
    given: Tensor  # the activations as they were passed
    axis: int  # of `given`: features, K
    matrix: Tensor  # the weight as it was passed, perhaps a slice, a view or a copy
    outputs: int  # N
    features: int  # K
    k_axis: int  # of `matrix`
    expert: int | None = None  # the one that all rows are for
    experts: Tensor | None = None  # int64 [M], the expert of each row
    offsets: Tensor | None = None  # int [E], ends of the experts' rows; what lies behind the last is not computed
    changed: bool = False  # the matrix was computed from the weight: scaled, perhaps
    first: int = 0  # of the weight's outputs, the first that takes part
    part: str = ""  # " [rows 0:64]" where only some of the weight's outputs take part
    spread: tuple[int, ...] | None = None  # the shape that broadcasting gives x
    casts: bool = True  # whether autocast changes its dtype
    dense: bool = False  # every expert computes all rows, routed to it or not

    def rows(self) -> Tensor:
        """[M, K]; of a batched product by expert."""
        x = self.given if self.spread is None else self.given.expand(self.spread)
        return x.movedim(self.axis, -1).reshape(-1, self.features)

    @property
    def k_last(self) -> bool:
        """Whether features vary fastest in the matrix's memory: [N, K], not [K, N]."""
        others = [s for axis, s in enumerate(self.matrix.stride()) if axis != self.k_axis]
        return self.matrix.stride(self.k_axis) < min(others[-2:] if len(others) > 1 else others)

    @property
    def count(self) -> int:
        """Rows, of all experts."""
        return math.prod(self.spread or self.given.shape) // max(1, self.features)

    def like(self, t: Tensor) -> Tensor:
        """The rows [M, K] of a tensor like `given`."""
        return replace(self, given=t).rows()

    def restored(self, rows: Tensor) -> Tensor:
        """Rows in the place of the activations as they were passed."""
        shape = list(self.given.shape if self.spread is None else self.spread)
        shape.append(shape.pop(self.axis))
        return rows.reshape(shape).movedim(-1, self.axis)


class Watch(TorchFunctionMode):
    """Tells `visit` of each product with one of the weights; what it returns is computed instead.

    visit(product) returns None, or activations and a matrix to compute with; either may be None: as passed.
    took(weight, function, result) is told of calls that take a weight and are no product known here.
    """

    def __init__(self, weights: list[Weight], visit: Callable[[Product], tuple | None], gathered=None, took=None):
        super().__init__()
        self.weights = [w for w in weights if w.kind not in ("adapter",)]
        self._visit, self._took = visit, took
        self._gathered = gathered  # gathered(out, function, args, kwargs): rows that were picked from activations
        self._sources: dict[int, tuple[StorageWeakRef | None, Source]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Find the storages anew: engines that offload or shard move parameters between passes."""
        self._sources = {key: value for key, value in self._sources.items() if value[0] and not value[0].expired()}
        self._loose = False
        for w in self.weights:
            p = w.parameter
            if not isinstance(p, Tensor) or p.is_meta or hasattr(p, "placements") or not p.numel():
                self._loose = True
                continue
            stride = p.stride(0) if w.kind == "stack" else 0
            key = p.untyped_storage()._cdata
            if key not in self._sources or w.kind != "embedding":  # a tied output layer goes before its embedding
                self._sources[key] = None, Source(w, tuple(p.shape), stride, p.storage_offset())

    def source(self, x) -> Source | None:
        if not isinstance(x, Tensor) or x.ndim < 2 or x.is_meta or hasattr(x, "placements"):
            return None
        try:
            found = self._sources.get(x.untyped_storage()._cdata)
        except (RuntimeError, NotImplementedError):  # a subclass without storage
            return None
        if found is None and self._loose and isinstance(x, nn.Parameter):
            self.refresh()
            found = self._sources.get(x.untyped_storage()._cdata)
        return None if found is None or (found[0] and found[0].expired()) else found[1]

    def __torch_function__(self, func, types_, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        reader = READERS.get(name)
        if reader is None:
            return func(*args, **kwargs) if name in _LOOKS else self._other(func, name, args, kwargs)
        args, kwargs = _positional(args, kwargs)
        call = reader(self, args, kwargs)
        if call is None:
            self._unread(func, args)
            return func(*args, **kwargs)
        product, x_at, w_at = call
        new = self._visit(product)
        if new is not None:
            args = _put(args, x_at, new[0])
            args = _put(args, w_at, new[1])
        return func(*args, **kwargs)

    def _unread(self, func, args) -> None:
        """A product that takes one of the weights in a way that is not known here."""
        known = [self.source(a) for a in _tensors(args) if a.ndim > 1]
        if any(known) and not all(known) and self._took is not None:
            self._took(next(filter(None, known)).weight, func.__name__, None)

    def _other(self, func, name: str, args, kwargs):
        if name in _PICKS and self._gathered and isinstance(args[0], Tensor) and self.source(args[0]) is None:
            out = func(*args, **kwargs)
            self._gathered(out, name, args, kwargs)
            return out
        source = next(filter(None, map(self.source, _tensors((*args, *kwargs.values())))), None)
        if source is None:
            return func(*args, **kwargs)
        if isinstance(func, types.FunctionType) and name == "multi_head_attention_forward":
            with self:  # its products are inside, in Python
                return _unguarded(func)(*args, **kwargs)
        out = func(*args, **kwargs)
        if self._took is not None:
            self._took(source.weight, name, out)
        self._follow(out, name, args, source)
        return out

    def _follow(self, out, name: str, args, source: Source) -> None:
        """Remember a tensor that was computed from a weight: a cast, a scaled one, some experts gathered."""
        if not isinstance(out, Tensor) or not out.is_floating_point() or out.ndim < 2 or self.source(out):
            return
        given = next((a for a in _tensors(args) if self.source(a) is source), None)
        if given is None:
            return
        if source.weight.kind == "stack" and name in ("__getitem__", "index_select"):
            index = args[1] if name == "__getitem__" else args[2]
            if not isinstance(index, Tensor) or index.ndim != 1 or given.ndim != 3:
                return
            copy = Source(source.weight, tuple(out.shape), experts=index.long())
        elif sorted(out.shape) != sorted(given.shape):
            return
        elif given.ndim == 3:
            experts = source.experts if source.experts is not None else None
            copy = Source(source.weight, tuple(out.shape), out.stride(0), out.storage_offset(), experts)
        else:
            copy = Source(source.weight, tuple(out.shape), experts=self._expert(given, source))
        storage, changed = out.untyped_storage(), source.changed or name not in _COPIES
        self._sources[storage._cdata] = StorageWeakRef(storage), replace(copy, changed=changed)

    @staticmethod
    def _expert(matrix: Tensor, source: Source):
        """The expert of a slice, the experts of a gathered copy, None for a weight that is no stack."""
        if source.weight.kind != "stack" or source.experts is not None:
            return source.experts
        return (matrix.storage_offset() - source.offset) // source.stride if source.stride else None

    def product(self, x: Tensor, matrix: Tensor, axis: int, k: int, n: int, k_axis: int, batched=False, spread=None):
        """The product of x with a matrix whose source is known; None where it is none."""
        source = self.source(matrix)
        if source is None or (self.source(x) is not None and source.weight.kind != "embedding"):
            return None
        found = Product(source.weight, x, axis % x.ndim, matrix, n, k, k_axis % matrix.ndim, spread=spread)
        found.changed = source.changed
        if source.weight.kind == "stack":
            self._experts(found, source, batched)
        elif n * k < math.prod(source.shape) and source.weight.kind == "function":
            first = matrix.storage_offset() - source.offset
            found.first = first // k if found.k_last else first
            found.part = f" [{found.first}:{found.first + n}]"
        return found

    def _experts(self, found: Product, source: Source, batched: bool) -> None:
        at = self._expert(found.matrix, source)
        if not batched:
            found.expert = int(at) if isinstance(at, int) else None
            return
        n = found.matrix.shape[0]
        shape = found.spread or found.given.shape
        each = math.prod(shape) // n // found.features
        device = found.given.device
        if isinstance(at, Tensor):
            experts = at
        else:
            experts = torch.arange(at or 0, (at or 0) + n, device=device)
            found.dense = each > 1 or n > 1
        found.experts = experts.repeat_interleave(each)


def _positional(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Operands that were passed by name, in their places."""
    rest = dict(kwargs)
    for name in ("input", "self", "mat1", "weight", "mat2", "other", "vec"):
        if name in rest and isinstance(rest[name], Tensor):
            args = (*args, rest.pop(name))
    return args, rest


def _put(args: tuple, at: int, value):
    return args if value is None else (*args[:at], value, *args[at + 1 :])


def _tensors(args):
    for a in args:
        if isinstance(a, Tensor):
            yield a
        elif isinstance(a, (tuple, list)):
            yield from (t for t in a if isinstance(t, Tensor))


def _unguarded(function):
    """A Python function of torch that runs its body instead of asking the mode again."""
    mine = {**function.__globals__, "has_torch_function": lambda *_: False}
    copy = types.FunctionType(function.__code__, mine, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_PICKS = frozenset(("__getitem__", "index_select", "repeat_interleave", "view", "reshape", "contiguous", "to"))
_COPIES = frozenset((
    "__getitem__", "index_select", "to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous",
    "clone", "transpose", "t", "permute", "reshape", "detach",
))  # fmt: skip
_LOOKS = frozenset(("__get__", "size", "dim", "stride", "numel", "storage_offset", "embedding", "is_floating_point"))
