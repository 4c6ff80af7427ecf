"""`record` streams the activations of a running model into statistics and keeps none."""

from __future__ import annotations

import weakref
from collections import Counter

import torch
from torch import Tensor, nn

from ..analysis import Sweep, versions
from ..engine import Pending, Ready, analyze_all, choose, find_engine
from ..nvfp4 import RECIPES, Tokens, as_recipes
from .hooks import Observer, rank


class Recorder(Observer):
    """Statistics of module inputs, added up as the model runs; made by `record`."""

    def __init__(self, model=None, modules=None, recipes=RECIPES, *, engine="auto", first_token: int | None = None):
        super().__init__(model, modules)
        self.recipes = as_recipes(recipes)
        if not self.recipes:
            raise ValueError(f"no recipe given: the named ones are {', '.join(RECIPES)}")
        if engine != "auto":
            find_engine(engine)  # a misspelt engine is the caller's mistake, not a module's
        self.engine = engine
        self._totals: dict[str, Pending] = {}
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

    def _analyze(self, x: Tensor, first: int) -> Pending:
        """Statistics of one call; on a GPU they stay there, so that the model does not wait for them."""
        recipes = list(self.recipes.values())
        engine = choose(self.engine, x, recipes)
        if engine.device(x) == x.device:
            return engine.launch(Tokens.of(x, first), recipes, [None] * len(recipes))
        return Ready(analyze_all(x, recipes, engine=self.engine, first_token=first))

    def _again(self, given: Tensor, first: int) -> Pending | None:
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
        return Sweep.of(stats, self.recipes, {**versions(), **self.about, "sources": [], "remarks": partly}, skipped)

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
