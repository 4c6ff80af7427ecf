"""Hooks on a running model's modules: which modules, what of their input, and what to do where that fails.

A hook never breaks the model: a module whose input cannot be taken is let go of and reported by name.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import re
import threading
import warnings
from collections import Counter

import torch
from torch import Tensor, nn

from ..nvfp4 import as_tokens

_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer: torch's own, or an engine's class that says so and has a weight."""
    return isinstance(module, nn.Linear) or ("Linear" in type(module).__name__ and hasattr(module, "weight"))


def choose_modules(model: nn.Module, modules=None) -> dict[str, nn.Module]:
    """Modules by name: of patterns ("*.down_proj"), of a predicate (name, module) -> bool, or all linear ones (None).

    A module that the model holds under several names is listed once, under the first one that fits.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
        model = model.module
    if modules is None:
        fits = lambda name, module: is_linear(module)  # noqa: E731
    elif callable(modules):
        fits = modules
    else:
        patterns = [modules] if isinstance(modules, str) else list(modules)
        fits = lambda name, module: any(fnmatch.fnmatchcase(name, p) for p in patterns)  # noqa: E731
    chosen, seen, names = {}, set(), []
    for full_name, module in model.named_modules(remove_duplicate=False):
        name = _WRAPPERS.sub("", full_name)
        names.append(name)
        if id(module) not in seen and fits(name, module):
            seen.add(id(module))
            chosen[name or type(module).__name__] = module
    if not chosen:
        near = [n for p in ([] if modules is None or callable(modules) else patterns)
                for n in difflib.get_close_matches(p.replace("*", ""), names, n=2, cutoff=0.3)]  # fmt: skip
        near = near or [n for n, m in model.named_modules() if n and is_linear(m)][:2]
        raise ValueError(
            f"no module of {type(model).__name__} fits modules={describe(modules)}"
            + (f"; it has, for example, {', '.join(map(repr, near))}" if near else f": it has {len(names)} modules")
        )
    return chosen


def describe(modules) -> str:
    """The choice of modules in words, for messages and provenance."""
    if modules is None:
        return "all linear layers"
    return getattr(modules, "__qualname__", repr(modules)) if callable(modules) else repr(modules)


def module_input(module: nn.Module, args, kwargs=None) -> Tensor:
    """The first floating-point tensor among a call's arguments, as the module computes with it: in autocast's dtype."""
    tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
    if not tensors:
        raise TypeError("it was called without a tensor")
    x = next((t for t in tensors if t.is_floating_point()), tensors[0])
    kind = x.device.type
    if x.dtype == torch.float32 and is_linear(module) and torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return x.float() if x.dtype == torch.float64 else x


def local_part(name: str, x: Tensor, module: nn.Module) -> tuple[str, Tensor | None]:
    """What this process holds of a module's input, and what to call it.

    A shard along K is quantized with its own amax, so it has a name of its own. Tokens that several ranks hold
    (a replicated DTensor) are counted by the first of them; the others get None.
    """
    where = []
    if hasattr(x, "placements"):  # a DTensor
        mesh, at = x.device_mesh, x.device_mesh.get_coordinate()
        for axis, placement in enumerate(x.placements):
            if placement.is_partial():
                raise ValueError("its input is a DTensor of partial sums, which no layer quantizes: reduce it first")
            if placement.is_shard() and placement.dim % x.ndim == x.ndim - 1:
                where.append((at[axis], mesh.size(axis)))
            elif placement.is_replicate() and at[axis]:
                return name, None
        x = x.to_local()
    elif getattr(module, "input_is_parallel", False):  # row-parallel layers of Megatron, vLLM and SGLang
        whole, part = getattr(module, "input_size", 0), getattr(module, "input_size_per_partition", 0)
        if 0 < part < whole:
            group = getattr(module, "tp_group", None)
            where.append((getattr(module, "tp_rank", getattr(group, "rank_in_group", rank())), whole // part))
    return name + "".join(f" [K shard {i} of {n}]" for i, n in where if n > 1), x


def rank() -> int:
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if many else 0


class Observer:
    """Sees the input of modules as they run and hands its tokens to `take`; a module where that fails is let go of."""

    def __init__(self, model: nn.Module | None = None, modules=None):
        self._model, self._modules = model, modules
        self.problems: dict[str, str] = {}  # module -> why it was let go of
        self.empty = Counter()  # module -> calls that had no token
        self.calls = Counter()  # module -> calls
        self.about: dict = {}  # model's class and modules, for provenance
        self._handles: dict = {}
        self._lock = threading.Lock()  # nn.DataParallel runs replicas in threads

    def __enter__(self):
        chosen = choose_modules(self._model, self._modules)
        self.about = {"model": type(self._model).__name__, "modules": describe(self._modules), "chosen": len(chosen)}
        for name, module in chosen.items():
            self.calls[name] += 0
            hook = functools.partial(self._hook, name)
            self._handles[name] = module.register_forward_pre_hook(hook, with_kwargs=True)
        return self

    def detach(self) -> None:
        while self._handles:
            self._handles.popitem()[1].remove()

    def _hook(self, name, module, args, kwargs) -> None:
        self.observe(name, module, args, kwargs)

    def observe(self, name: str, module: nn.Module, args, kwargs=None) -> None:
        """Take one call's input; never raises but for an interrupt."""
        if name in self.problems:
            return
        try:
            with self._lock, torch.no_grad():
                self.calls[name] += 1
                given = module_input(module, args, kwargs)
                label, x = local_part(name, given, module)
                if x is None:
                    return
                x = as_tokens(x)
                if not x.shape[0]:
                    self.empty[name] += 1
                    return
                with torch.autocast(x.device.type, enabled=False):
                    self.take(label, x, given)
        except Exception as error:
            self._let_go(name, str(error) or type(error).__name__)

    def _let_go(self, name: str, why: str) -> None:
        known = why in self.problems.values()
        self.problems[name] = why
        if name in self._handles:
            self._handles.pop(name).remove()
        if not known:  # one warning a reason, not one a layer
            with contextlib.suppress(Warning):  # where warnings are errors, `problems` still tells
                text = f"module {name!r} is no longer observed: {why}; more modules with this reason go unannounced"
                warnings.warn(text, stacklevel=3)

    def take(self, label: str, x: Tensor, given: Tensor) -> None:
        """x: [M, K], at least one token; `given`: the tensor that the module was called with."""
        raise NotImplementedError

    def remarks(self) -> dict[str, str]:
        """Module -> what kept it, or some of its calls, from being taken."""
        found = {name: f"called {self.calls[name]} times, {n} of them with 0 tokens" for name, n in self.empty.items()}
        found |= {name: "was not called" for name, n in self.calls.items() if not n}
        return found | self.problems
