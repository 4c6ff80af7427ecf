"""Which inputs of a model are meant: of patterns, of a predicate, or by default; and why the others are not."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field, replace

from torch import nn

from .weights import (
    CONVOLUTION,
    Weight,
    is_convolution,
    is_linear,
    plain_name,
    too_narrow,
    weights_of,
    why_not_by_default,
)


@dataclass
class Choice:
    """What of a model is observed."""

    weights: list[Weight]  # all of the model
    by_default: bool = False  # nothing was asked for by name
    observed: dict[Weight, set[int] | None] = field(default_factory=dict)  # weight -> experts; None: all of it
    modules: dict[str, nn.Module] = field(default_factory=dict)  # others, whose own input is taken
    why: dict[Weight, str] = field(default_factory=dict)  # of those that are not observed
    refused: dict[str, str] = field(default_factory=dict)  # asked for by name, and why it cannot be
    _labels: dict[Weight, list] = field(default_factory=dict, repr=False)

    def takes(self, weight: Weight, expert: int | None = None) -> bool:
        picked = self.observed.get(weight, set())
        return picked is None or (expert in picked if expert is not None else bool(picked))

    def labels(self, stack: Weight) -> list[str | None]:
        """Of its experts, None for those that are not observed; worked out once, as products ask at each call."""
        if stack not in self._labels:
            self._labels[stack] = [n if self.takes(stack, e) else None for e, n in enumerate(stack.labels())]
        return self._labels[stack]

    def settle(self, weight: Weight, outputs: int) -> None:
        """What shows only in its first product: by default, a narrow matrix is left alone."""
        if weight.kind == "embedding":
            self.why[weight] = "an embedding that is used as a matrix, as output layers do: not taken by default"
        if self.by_default and weight.kind == "function" and weight in self.observed and too_narrow(outputs):
            self.why[weight] = too_narrow(outputs)
            del self.observed[weight]

    def stacks(self) -> set[nn.Module]:
        return {w.module for w in self.weights if w.kind == "stack"}

    def linear(self) -> dict[str, nn.Module]:
        """Linear layers that are observed, by name."""
        return {w.name: w.module for w in self.observed if w.kind == "linear"}


def unwrapped(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module: give the loaded model itself")
    return model.module if type(model).__name__ in ("DistributedDataParallel", "DataParallel") else model


def patterns_of(modules):
    """modules as given, but that patterns which can be walked once only are a list.

    TypeError for what is neither None, a predicate nor name patterns: batches belong into the model's call.
    """
    if modules is None or callable(modules) or isinstance(modules, str):
        return modules
    patterns = modules if isinstance(modules, Sized) or not isinstance(modules, Iterable) else list(modules)
    wrong = next((p for p in patterns if not isinstance(p, str)), None) if isinstance(patterns, Iterable) else patterns
    if wrong is not None:
        raise TypeError(
            f"modules holds a {type(wrong).__name__}: give name patterns such as '*.down_proj', and call the "
            "model with its inputs inside the with block"
        )
    return patterns


def choose(model: nn.Module, modules=None) -> Choice:
    """modules: a name pattern or several, a predicate (name, module) -> bool, or None for all that is worth quantizing.

    A pattern means the weights whose name fits; where none does, modules of any class, by their own input. By default
    routers, gates and matrices of fewer than 16 outputs are left alone. Raises ValueError where nothing fits.
    """
    model, modules = unwrapped(model), patterns_of(modules)
    choice = Choice(weights_of(model), modules is None)
    if modules is None:
        _by_default(choice)
    elif callable(modules):
        _fitting(model, choice, modules)
    else:
        for pattern in [modules] if isinstance(modules, str) else modules:
            _fitting(model, choice, lambda name, module, p=pattern: fnmatch.fnmatchcase(name, p))
    if not choice.observed and not choice.modules:
        raise ValueError(_nothing(model, modules, choice))
    for w in choice.weights:
        if w not in choice.observed:
            choice.why.setdefault(w, why_not_by_default(w) or f"not among modules={describe(modules)}")
    return choice


def _by_default(choice: Choice) -> None:
    for w in choice.weights:
        why = why_not_by_default(w)
        if why is None:
            choice.observed[w] = None
        else:
            choice.why[w] = why
    if not choice.observed:  # a model of a single narrow layer is asked for by being given
        for w in choice.weights:
            if w.kind == "linear" and choice.why[w] == too_narrow(w.shape[0]):
                choice.observed[w] = None
                del choice.why[w]
    for w in choice.observed:
        if w.kind == "stack" and w.attribute != "weight":
            choice.modules[w.name.rpartition(".")[0]] = w.module


def _fitting(model: nn.Module, choice: Choice, fits) -> None:
    before = len(choice.observed)
    for w in choice.weights:
        if w.kind in ("embedding", "convolution", "adapter"):
            continue
        name = next((n for n in (w.name, *w.also) if any(fits(s, w.module) for s in w.spellings(n))), None)
        if name is not None:
            named = w if name == w.name else replace(w, name=name)
            choice.weights[choice.weights.index(w)] = named
            choice.observed[named] = None
        elif w.kind == "stack":
            experts = {e for e, label in enumerate(w.labels()) if any(fits(s, w.module) for s in w.spellings(label))}
            if experts:
                known = choice.observed.get(w, set())
                choice.observed[w] = None if known is None else known | experts
    owners = {id(w.module) for w in choice.weights if w.kind == "stack"}
    for path, module in model.named_modules(remove_duplicate=False):
        name = plain_name(path) or type(module).__name__
        meant = len(choice.observed) == before or id(module) in owners
        if is_linear(module) or module in choice.modules.values() or not fits(plain_name(path), module):
            continue
        if is_convolution(module):
            choice.refused[name] = CONVOLUTION
        elif meant:
            choice.modules[name] = module


def _nothing(model: nn.Module, modules, choice: Choice) -> str:
    if choice.refused:
        name, why = next(iter(choice.refused.items()))
        return f"modules={describe(modules)} means {name!r}, {why}"
    names = [plain_name(n) for n, _ in model.named_modules()] + [
        label for w in choice.weights for label in w.labels()[:1]
    ]
    patterns = [] if modules is None or callable(modules) else [modules] if isinstance(modules, str) else list(modules)
    near = [n for p in patterns for n in difflib.get_close_matches(p.replace("*", ""), names, n=2, cutoff=0.3)]
    near = near or [w.name for w in choice.weights if w.kind == "linear"][:2]
    text = f"no module of {type(model).__name__} fits modules={describe(modules)}"
    if near:
        return text + f"; it has, for example, {', '.join(map(repr, near))}"
    if choice.why:  # by default
        name, why = next((w.name, why) for w, why in choice.why.items())
        return f"no module of {type(model).__name__} is taken by default: {name!r} is {why}"
    return text + f": it has {len(names)} modules"


def describe(modules) -> str:
    """The choice of modules in words, for messages and provenance."""
    if modules is None:
        return "all linear layers and experts"
    return getattr(modules, "__qualname__", repr(modules)) if callable(modules) else repr(modules)


def choose_modules(model: nn.Module, modules=None) -> dict[str, nn.Module]:
    """Modules whose call is observed, by name: linear layers that are meant, and others that a pattern means."""
    choice = choose(model, modules)
    return {**choice.linear(), **choice.modules}
