"""`record` streams the activations of a running model into statistics and keeps none."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from ..analysis import Sweep, versions
from ..engine import analyze_all, choose, engine_module
from ..nvfp4 import RECIPES, as_recipes
from ..stats import Stats
from .hooks import Observer, rank


class Recorder(Observer):
    """Statistics of module inputs, added up as the model runs; made by `record`."""

    def __init__(self, model=None, modules=None, recipes=RECIPES, *, engine="auto", first_token: int | None = None):
        super().__init__(model, modules)
        self.recipes = as_recipes(recipes)
        if not self.recipes:
            raise ValueError(f"no recipe given: the named ones are {', '.join(RECIPES)}")
        if engine != "auto":
            engine_module(engine)  # a misspelt engine is the caller's mistake, not a module's
        self.engine = engine
        self._totals: dict[str, Part] = {}
        self._last = None
        self.seek(_rank_offset() if first_token is None else first_token)

    def __exit__(self, *_) -> None:
        self.detach()
        self._last = None

    def seek(self, token: int) -> None:
        """Say which place in the whole stream the next token has, for all modules; it seeds the bootstrap."""
        self._first, self._seen = token, Counter()

    def take(self, label, x, given):
        first = self._first + self._seen[label]
        part = self._again(given, first)
        if part is None:
            part = self._analyze(x, first)
            self._last = (weakref.ref(given), _state(given), first, part)
        total = self._totals.get(label)
        self._totals[label] = part if total is None else total + part
        self._seen[label] += x.shape[0]

    def _analyze(self, x: Tensor, first: int) -> Part:
        """Statistics of one call; on a GPU they stay there, so that the model does not wait for them."""
        recipes = list(self.recipes.values())
        engine = choose(self.engine, x, recipes)
        if defers(engine, x):
            values = engine.launch_analyze(x, recipes, [None] * len(recipes), first)
            return Part(recipes, launched={x.shape[1]: (engine, values, x.shape[0])})
        return Part(recipes, analyze_all(x, recipes, engine=self.engine, first_token=first))

    def _again(self, given: Tensor, first: int) -> Part | None:
        """The statistics of the call before, if it had this very tensor, as q_proj, k_proj and v_proj do."""
        if self._last is None or self._last[0]() is not given or self._last[2] != first:
            return None
        state, now = self._last[1], _state(given, copy=False)
        same = torch.equal(state, now) if isinstance(state, Tensor) else state is not None and state == now
        return self._last[3] if same else None

    def _stats(self) -> dict:
        found = {}
        for label, part in self._totals.items():
            try:
                found[label] = dict(zip(self.recipes, part.fetch(), strict=True))
            except ValueError as error:  # NaN or Inf, which a GPU's launch notices without saying so
                self._let_go(label, str(error))
        return found

    def sweep(self) -> Sweep:
        """What was recorded so far. Modules that gave nothing are in `.skipped`; provenance has what else went wrong.

        Raises ValueError where nothing was recorded.
        """
        stats, remarks = self._stats(), self.remarks()
        if not stats:
            why = "; ".join(f"{name}: {text}" for name, text in list(remarks.items())[:5]) or "no module was called"
            raise ValueError(
                f"nothing was recorded: {why}. Hooks do not run in a replayed CUDA graph or a compiled model"
            )
        return self._sweep(stats, remarks)

    def _sweep(self, stats: dict, remarks: dict) -> Sweep:
        skipped = {name: text for name, text in remarks.items() if name not in stats}
        partly = {name: text for name, text in remarks.items() if name in stats}
        return Sweep(stats, self.recipes, {**versions(), **self.about, "sources": [], "remarks": partly}, skipped)

    def all_reduce(self, group=None) -> Sweep:
        """The statistics of all ranks of a torch.distributed group (gloo or nccl) together; every rank must call it.

        Where each rank runs tokens of its own (data parallel, FSDP) it equals one process over all tokens: counts
        exactly, sums but for rounding, bootstrap draws too if each rank said with `seek` where its tokens belong.
        The recorder itself stays as it is.
        """
        from .ranks import all_reduce

        stats = self._stats()
        stats, remarks = all_reduce(stats, self.recipes, self.remarks(), group)
        return self._sweep(stats, remarks)


@dataclass(frozen=True)
class Part:
    """Statistics of some calls under each recipe, here or still on a GPU. `a + b` is those of both, without waiting."""

    recipes: list
    stats: list[Stats] | None = None
    launched: dict = field(default_factory=dict)  # features -> engine, its float64 values, tokens

    def __add__(self, other: Part) -> Part:
        both = [s for s in (self.stats, other.stats) if s is not None]
        stats = [reduce(add, row) for row in zip(*both, strict=True)] if both else None
        launched = dict(self.launched)
        for k, (engine, values, tokens) in other.launched.items():
            if k in launched:
                values = engine.merge(launched[k][1], values, len(self.recipes))
                tokens += launched[k][2]
            launched[k] = engine, values, tokens
        return Part(self.recipes, stats, launched)

    def fetch(self) -> list[Stats]:
        """All of it as Stats; ValueError where a GPU met NaN or Inf."""
        rows = [engine.fetch(values, self.recipes, tokens, k) for k, (engine, values, tokens) in self.launched.items()]
        return [reduce(add, row) for row in zip(*rows, *([] if self.stats is None else [self.stats]), strict=True)]


def defers(engine, x: Tensor) -> bool:
    """Whether the engine can leave statistics on x's device (`launch_analyze`, `merge`, `fetch`)."""
    return x.is_cuda and hasattr(engine, "merge")


def _state(x: Tensor, copy: bool = True):
    """What changes if x is written to: its version; in inference mode, which counts none, its values (CPU) or None."""
    if not x.is_inference():
        return x._version
    return (x.clone() if copy else x) if x.device.type == "cpu" else None


def _rank_offset() -> int:
    """Token indices for each rank that no other has, so that ranks draw independently."""
    return rank() * (2**32 // torch.distributed.get_world_size()) if rank() else 0


def record(model: nn.Module, modules=None, recipes=RECIPES, *, engine: str = "auto", first_token: int | None = None):
    """Stream the inputs of modules into statistics while the model runs; no activation is kept.

        with nvfp4viz.record(model, "*.down_proj") as recorder:
            model(input_ids)
        recorder.sweep().table()

    Args:
        modules:     a name pattern or several, a predicate (name, module) -> bool, or None for all linear layers.
        recipes:     as for `sweep`; a per-tensor recipe takes its scale from each call's own amax.
        first_token: place of the first token in a stream that several processes share (`Recorder.seek` sets it for a
                     batch); by default ranks of torch.distributed get ranges that do not meet.
    Returns: Recorder, a context manager; a module whose input cannot be taken is let go of, with a warning.
    Raises ValueError where no module fits or a recipe or engine is unknown, TypeError for what is no model.
    """
    return Recorder(model, modules, recipes, engine=engine, first_token=first_token)
