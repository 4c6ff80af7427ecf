"""Activations of a running model: `record` streams them into statistics, `capture` keeps a bounded sample."""

from __future__ import annotations

import contextlib
import json
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .engines import analyze_all, engine_module
from .files import locked, replacing
from .observe import Observer, rank
from .recipe import RECIPES, as_recipes
from .sweep import Sweep, versions


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
        self._totals: dict[str, list] = {}
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
        row = self._again(given, first)
        if row is None:
            row = analyze_all(x, list(self.recipes.values()), engine=self.engine, first_token=first)
            self._last = (weakref.ref(given), _state(given), first, row)
        total = self._totals.get(label)
        self._totals[label] = row if total is None else [a + b for a, b in zip(total, row, strict=True)]
        self._seen[label] += x.shape[0]

    def _again(self, given: Tensor, first: int):
        """The statistics of the call before, if it had this very tensor, as q_proj, k_proj and v_proj do; else None."""
        if self._last is None or self._last[0]() is not given or self._last[2] != first:
            return None
        state, now = self._last[1], _state(given, copy=False)
        same = torch.equal(state, now) if isinstance(state, Tensor) else state is not None and state == now
        return self._last[3] if same else None

    def _stats(self) -> dict:
        return {label: dict(zip(self.recipes, row, strict=True)) for label, row in self._totals.items()}

    def sweep(self) -> Sweep:
        """What was recorded so far. Modules that gave nothing are in `.skipped`; provenance has what else went wrong.

        Raises ValueError where nothing was recorded.
        """
        remarks = self.remarks()
        if not self._totals:
            why = "; ".join(f"{name}: {text}" for name, text in list(remarks.items())[:5]) or "no module was called"
            raise ValueError(
                f"nothing was recorded: {why}. Hooks do not run in a replayed CUDA graph or a compiled model"
            )
        return self._sweep(self._stats(), remarks)

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
        from .distributed import all_reduce

        stats, remarks = all_reduce(self._stats(), self.recipes, self.remarks(), group)
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
    """
    return Recorder(model, modules, recipes, engine=engine, first_token=first_token)


class Capture(Observer):
    """A sample of module inputs, written when the block ends well; made by `capture`."""

    def __init__(self, model, modules, path, tokens: int, seed: int, max_bytes: int):
        super().__init__(model, modules)
        if tokens < 1 or max_bytes < 1:
            raise ValueError(f"tokens={tokens}, max_bytes={max_bytes}: both are at least 1")
        self.path, self.tokens, self.seed, self.max_bytes = Path(path), tokens, seed, max_bytes
        if self.path.suffix != ".safetensors":
            raise ValueError(f"cannot capture into {str(path)!r}: the file is a .safetensors")
        self._samples: dict[str, Reservoir] = {}

    def __enter__(self) -> Capture:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.path))
            super().__enter__()
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind, *_) -> None:
        self.detach()
        with self._held:
            if kind is None:
                self._write()
            self._samples.clear()

    def take(self, label, x, given):
        sample = self._samples.get(label)
        if sample is None:
            share = self.max_bytes // len(self.calls) // (x.shape[1] * x.element_size())
            if not share:
                raise ValueError(
                    f"not one token of {x.shape[1]} {x.dtype} fits its share of max_bytes={self.max_bytes}"
                )
            sample = self._samples[label] = Reservoir(min(self.tokens, share), self.seed)
        sample.add(x)

    def _write(self) -> None:
        from safetensors.torch import save_file

        remarks = self.remarks()
        if not self._samples:
            raise ValueError(
                "nothing was captured: " + "; ".join(f"{n}: {why}" for n, why in list(remarks.items())[:5])
            )
        about = {**self.about, **versions(), "seed": self.seed, "remarks": remarks,
                 "tokens_seen": {label: s.seen for label, s in self._samples.items()}}  # fmt: skip
        with replacing(self.path) as temporary:
            save_file(
                {label: sample.rows() for label, sample in self._samples.items()},
                temporary,
                {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()},
            )


class Reservoir:
    """A uniform sample of n tokens from a stream of any length (algorithm R), in the stream's order.

    The draws depend on the seed alone: modules that see the same tokens and keep as many keep the same ones.
    """

    def __init__(self, n: int, seed: int):
        self.n, self.seen = n, 0
        self._draw = np.random.default_rng(seed)
        self._rows: Tensor | None = None  # [n, K] on the CPU
        self._token = np.zeros(n, np.int64)  # the place of each row's token in the stream

    def add(self, x: Tensor) -> None:
        """x: [M, K], of one K; a later dtype is converted to the first call's."""
        if self._rows is None:
            self._rows = torch.empty(self.n, x.shape[1], dtype=x.dtype)
        elif self._rows.shape[1] != x.shape[1]:
            raise ValueError(f"its input has {x.shape[1]} features after {self._rows.shape[1]} before")
        token = np.arange(self.seen, self.seen + x.shape[0])
        slot = np.where(token < self.n, token, self._draw.integers(0, token + 1))
        place = {s: t for s, t in zip(slot.tolist(), token.tolist(), strict=True) if s < self.n}  # the last one stays
        if place:
            slots, tokens = np.array(list(place)), np.array(list(place.values()))
            chosen = x[torch.from_numpy(tokens - self.seen).to(x.device)]
            self._rows[torch.from_numpy(slots)] = chosen.to("cpu", self._rows.dtype)
            self._token[slots] = tokens
        self.seen += x.shape[0]

    def rows(self) -> Tensor:
        kept = min(self.n, self.seen)
        return self._rows[torch.from_numpy(np.argsort(self._token[:kept]))]


def capture(model: nn.Module, modules=None, *, path, tokens=4096, seed=0, max_bytes=1 << 30) -> Capture:
    """Keep a sample of the inputs of modules while the model runs, and write it to a .safetensors file at the end.

        with nvfp4viz.capture(model, "*.down_proj", path="activations.safetensors"):
            model(input_ids)

    Args:
        modules:   as for `record`.
        tokens:    at most so many of each module, drawn uniformly from all it sees, the same for a seed.
        max_bytes: of all activations together; each module has an equal share.
    The file appears, or is replaced, when the block ends; an error or a kill leaves what was there. RuntimeError where
    another process captures into the same path.
    """
    return Capture(model, modules, path, tokens, seed, max_bytes)
