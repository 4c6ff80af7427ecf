"""Which rows count: padding and rows that are no numbers are left out and counted, recomputed layers run once.

A model's modules see rows, not tokens: [B, T, K], [B * T, K], or some of them picked for an expert. `Mask` knows the
tokens that count in the pass under way and follows the picks, so that an expert's padding is left out as well.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef


def recomputed() -> bool:
    """Whether this runs inside a backward pass, as a checkpointed layer does the second time."""
    return torch._C._current_graph_task_id() != -1


def finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite, nor their sum; waits for a device."""
    return math.isfinite(x.sum(dtype=torch.float32).item())


class Mask:
    """The tokens that count in the pass under way, in each thread; found in `attention_mask`, or given.

    given: bool [B, T], or a function (args, kwargs) -> bool [B, T] of the model's call; None: as attention_mask says.
    """

    def __init__(self, given: Tensor | Callable | None = None):
        self._given, self._local = given, threading.local()
        # what sees rows being picked, entered while a token does not count
        self.follow: Callable[[], contextlib.AbstractContextManager] | None = None

    def attach(self, model: nn.Module) -> list:
        """Hooks on the model and on parts of it that take token ids or embeddings with an attention mask."""
        handles = []
        for module in model.modules():
            if module is model or (self._given is None and _takes_mask(module)):
                enter = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                handles += [enter, module.register_forward_hook(self._leave, always_call=True)]
        return handles

    @property
    def _stack(self) -> list:
        if not hasattr(self._local, "stack"):
            self._local.stack, self._local.picked, self._local.last = [], {}, {}
        return self._local.stack

    @property
    def active(self) -> bool:
        """Whether a token of the pass under way does not count."""
        return bool(self._stack) and any(mask is not None for mask in self._stack)

    def _enter(self, module, args, kwargs) -> None:
        mask = None
        try:
            if self._given is None:
                mask = attention_mask(module, args, kwargs)
            elif not self._stack:
                mask = self._given(args, kwargs) if callable(self._given) else self._given
            mask = None if mask is None or bool(mask.all()) else mask.bool()
        finally:
            if not self._stack:
                self._local.picked, self._local.last, self._local.following = {}, {}, []
            follows = mask is not None and self.follow is not None and not self.active
            self._stack.append(mask)
            self._local.following.append(self.follow() if follows else contextlib.nullcontext())
            self._local.following[-1].__enter__()

    def _leave(self, *_) -> None:
        if self._stack:
            self._stack.pop()
            self._local.following.pop().__exit__(None, None, None)

    def gathered(self, out: Tensor, name: str, args, kwargs) -> None:
        """Remember which tokens the rows of `out` are, where they were picked from rows whose tokens are known."""
        if not self.active or not isinstance(out, Tensor) or not out.is_floating_point() or args[0].ndim != 2:
            return
        found, index = self._tokens(args[0]), _index(name, args, kwargs)
        if found is None or index is None:
            return
        mask, tokens = found
        storage = out.untyped_storage()
        tokens = tokens[index.to(tokens.device)]
        self._local.picked[storage._cdata] = StorageWeakRef(storage), mask, tokens, out.storage_offset(), out.shape[-1]

    def _tokens(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The mask that holds for x, and int64 [M], the token of each row; None where they are not known."""
        rows = x.numel() // max(1, x.shape[-1])
        picked = self._local.picked.get(x.untyped_storage()._cdata)
        if picked and not picked[0].expired():
            _, mask, tokens, offset, k = picked
            first = (x.storage_offset() - offset) // k
            return (mask, tokens[first : first + rows]) if first + rows <= len(tokens) else None
        for mask in reversed(self._stack):
            if mask is None:
                continue
            if rows == mask.numel():
                return mask, torch.arange(rows)
            if x.ndim == 3 and x.shape[0] == mask.shape[0] and x.shape[1] < mask.shape[1]:
                return mask, torch.arange(mask.numel()).reshape(mask.shape)[:, -x.shape[1] :].flatten()
        return None

    def counted(self, x: Tensor, rows: int, family: str) -> Tensor | None:
        """bool [rows], which count; None: all of them, or it is not known. family: products that see the same rows."""
        if not self.active:
            return None
        found = self._tokens(x) if x.numel() // max(1, x.shape[-1]) == rows else None
        if found is None:  # what follows the activation function has the rows of what went before it
            found = self._local.last.get((family, rows))
            if found is None:
                return None
        self._local.last[family, rows] = found
        mask, tokens = found
        return mask.flatten()[tokens.to(mask.device)].to(x.device)


def _index(name: str, args, kwargs) -> Tensor | None:
    """The rows that are picked, int64 [n]."""
    if name == "repeat_interleave":
        times = args[1] if len(args) > 1 else kwargs.get("repeats")
        axis = args[2] if len(args) > 2 else kwargs.get("dim")
        return torch.arange(args[0].shape[0]).repeat_interleave(times) if isinstance(times, int) and axis == 0 else None
    if name == "index_select":
        axis, index = (kwargs.get("dim", args[1] if len(args) > 1 else None), kwargs.get("index", args[-1]))
        return index if axis == 0 else None
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    tensors = [i for i in index if isinstance(i, Tensor)]
    whole = all(i is None or i is Ellipsis or i == slice(None) for i in index if not isinstance(i, Tensor))
    if len(tensors) != 1 or not whole or tensors[0].ndim != 1:
        return None
    return tensors[0].nonzero().flatten() if tensors[0].dtype == torch.bool else tensors[0]


def _takes_mask(module: nn.Module) -> bool:
    try:
        names = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return False
    return "attention_mask" in names and bool({"input_ids", "inputs_embeds"} & set(names))


def attention_mask(module: nn.Module, args, kwargs) -> Tensor | None:
    """bool [B, T] of the tokens of this call: the last T columns, where a cache holds those before."""
    mask = kwargs.get("attention_mask")
    ids = next((kwargs[n] for n in ("input_ids", "inputs_embeds") if kwargs.get(n) is not None), None)
    if args and (mask is None or ids is None):
        try:
            bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        except TypeError:
            bound = {}
        mask = mask if mask is not None else bound.get("attention_mask")
        ids = next((bound[n] for n in ("input_ids", "inputs_embeds") if bound.get(n) is not None), args[0])
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not isinstance(ids, Tensor) or ids.ndim < 2:
        return None
    if mask.is_floating_point() or mask.shape[0] != ids.shape[0] or mask.shape[1] < ids.shape[1]:
        return None
    return mask[:, mask.shape[1] - ids.shape[1] :] != 0
