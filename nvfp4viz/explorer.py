"""The explorer: a widget that draws the statistics of tensors under two recipes, A and B.

The page draws, Python computes: `explorer.js` keeps every statistic it was sent and asks for what it lacks by a custom
message; Python answers from its store, or computes on a thread of its own. Jupyter runs callbacks beside cells, on other
threads, so every change of state goes through one lock.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import anywidget
import torch
import traitlets
from torch import Tensor
from traitlets import Bool, Dict, Enum, Int, List, TraitError, Unicode

from . import microscope, page
from .activations import load
from .engines import analyze_all, engine_module
from .recipe import RECIPES, Recipe, as_recipe, as_recipes
from .stats import Stats
from .sweep import Sweep, versions

VIEWS = ("overview", "scales", "clipping", "error", "tensors", "microscope")
PAGE_BYTES = 1_200_000  # of statistics in the widget's state; the rest is sent when it is looked at
QUICK = 1 << 26  # elements of all tensors, up to which the strip follows a recipe that the dials make

_LOCK = threading.RLock()  # round every change of any widget's state
_COMPUTING = threading.Lock()  # one explorer computes at a time


def explore(source, recipes=None, engine: str = "auto", **shown) -> Explorer:
    """A widget that shows what recipes do to activations.

    Args:
        source:  activations (names to [..., K], as `load` gives them, or one tensor), a Sweep, or the path of either.
        recipes: recipes or their short names; where it is None those of the Sweep, or RECIPES.
        engine:  "auto", or one that `engines()` lists.
        shown:   what to show first: tensor, recipe_a, recipe_b, view, scale, span, sort, rule, block.
    Returns: Explorer. Statistics are computed in the background; nothing waits for them.
    """
    if isinstance(source, (str, os.PathLike)):
        source = Sweep.load(source) if str(source).endswith(".json") else load(source)
    if isinstance(source, Tensor):
        source = {"activations": source}
    if not isinstance(source, (Sweep, Mapping)):
        raise TypeError(f"cannot explore a {type(source).__name__}: give activations, a Sweep, or the path of either")
    if not (source.stats if isinstance(source, Sweep) else source):
        raise ValueError("nothing to explore: there is no tensor")
    if engine != "auto":
        engine_module(engine)
    return Explorer(source, recipes, engine, **shown)


class RecipeName(Unicode):
    """A recipe's short name; a Recipe may be assigned too."""

    def validate(self, obj, value):
        try:
            return as_recipe(value).name
        except (TypeError, ValueError) as error:
            raise TraitError(str(error)) from None


class Explorer(anywidget.AnyWidget):
    """Made by `explore`. Its traits say what is shown and may be set: `w.tensor`, `w.recipe_a = "4/6-mse-256"`, ..."""

    _esm = Path(__file__).with_name("explorer.js")
    tensor = Unicode(help="the tensor shown").tag(sync=True)
    recipe_a = RecipeName(help="short name of recipe A").tag(sync=True)
    recipe_b = RecipeName(help="short name of recipe B").tag(sync=True)
    view = Enum(VIEWS, "overview").tag(sync=True)
    scale = Enum(("linear", "log"), "linear", help="axis of counts").tag(sync=True)
    span = Enum(("full", "data"), "data", help="block scales shown: all of E4M3, or those that occur").tag(sync=True)
    sort = Enum(("layer", "error", "gain"), "layer", help="order of tensors").tag(sync=True)
    rule = Enum(tuple(microscope.RULES), "gained", help="which blocks the microscope picks").tag(sync=True)
    under = Enum(("a", "b"), "b", help="whose recipe the rule ranks blocks by").tag(sync=True)
    block = List(Int(), help="[token, block] seen in the microscope; empty: the rule's first").tag(sync=True)

    catalog = Dict(help="tensors in layer order, recipes, tables: `page.catalog`").tag(sync=True)
    summary = Dict(help="tensor -> recipe -> `page.summary`").tag(sync=True)
    statistics = Dict(help="tensor -> recipe -> `page.compact`").tag(sync=True)
    recorded = Dict(help="tensor -> blocks for a page without Python: `page.record`").tag(sync=True)
    progress = Dict(help="done, total, now").tag(sync=True)
    live = Bool(help="there are activations to compute with").tag(sync=True)

    def __init__(self, source: Sweep | Mapping, recipes, engine: str, **shown):
        ready = source if isinstance(source, Sweep) else None
        chosen = recipes if recipes is not None else ready.recipes if ready else RECIPES
        self._recipes = {r.name: r for r in as_recipes(chosen).values()}
        self._activations, self._engine = None if ready else source, engine
        self._stats: dict[str, dict[str, Stats]] = {t: {} for t in page.layer_order(ready.stats if ready else source)}
        for tensor, row in ready.stats.items() if ready else ():
            self._stats[tensor] = {s.recipe.name: s for s in row.values()}
        self._skipped = dict(ready.skipped) if ready else {}
        self._versions = ready.provenance.get("versions", {}) if ready else versions()["versions"]
        self._cached: tuple[str, Tensor] | None = None  # the tensor read last, for the working thread only
        self._jobs, self._ticket = queue.PriorityQueue(), itertools.count()
        self._all_done = threading.Event()

        names = list(self._recipes)
        pair = ("4/6-mae-448", "4/6-mae-256")
        a, b = pair if set(pair) <= set(names) else (names[0], names[-1])
        start = {"tensor": next(iter(self._stats)), "recipe_a": a, "recipe_b": b, **shown}
        super().__init__(catalog=self._catalog(), live=ready is None, **start)
        self.on_msg(self._answer)
        if ready:
            self._publish()
        else:
            threading.Thread(target=self._work, name="nvfp4viz-explorer", daemon=True).start()
            self._analyze_everything()

    @property
    def stats_a(self) -> Stats:
        """Statistics of the tensor shown under A; computed now if need be."""
        return self._stats_of(self.tensor, self.recipe_a)

    @property
    def stats_b(self) -> Stats:
        """Statistics of the tensor shown under B; computed now if need be."""
        return self._stats_of(self.tensor, self.recipe_b)

    def wait(self, timeout: float = 600) -> Explorer:
        """Return when every tensor is analysed; TimeoutError after `timeout` seconds."""
        if not self._all_done.wait(timeout):
            raise TimeoutError(f"still analysing after {timeout} s: {self.progress}")
        return self

    def close(self):
        self._jobs.put((-1, next(self._ticket), None))
        super().close()

    # state: what is wrong with a value is said in one error, and nothing changes beside another change
    def __setattr__(self, name, value):
        with _LOCK:
            super().__setattr__(name, value)

    def set_state(self, sync_data):
        with _LOCK:
            super().set_state(sync_data)

    @traitlets.validate("tensor")
    def _known_tensor(self, proposal):
        if proposal.value not in self._stats:
            near = difflib.get_close_matches(proposal.value, self._stats, n=3, cutoff=0.3) or list(self._stats)[:3]
            raise TraitError(f"no tensor {proposal.value!r}; there is {', '.join(map(repr, near))}, ...")
        return proposal.value

    @traitlets.validate("block")
    def _two_indices(self, proposal):
        if len(proposal.value) not in (0, 2) or min(proposal.value, default=0) < 0:
            raise TraitError(f"block={proposal.value!r}: expected [token, block], or [] for the rule's first")
        return proposal.value

    # messages of the page: {"want": ..., "id": ...}, answered by {"kind": ..., "id": ...}
    def _answer(self, _, content, buffers=None):
        wants = {"hello": self._hello, "stats": self._want_stats, "recipe": self._want_recipe, "sweep": self._want_sweep,
                 "picks": self._want_picks, "block": self._want_block}  # fmt: skip
        with _LOCK:
            try:
                wants[content["want"]](content)
            except Exception as error:
                self._refuse(content, error)

    def _hello(self, content):
        self._send_stats(content, [t for t, row in self._stats.items() if row and t not in self.statistics])

    def _want_stats(self, content):
        tensor, names = content["tensor"], content["recipes"]
        recipes = [as_recipe(n) for n in names]

        def send():
            found = {n: page.compact(self._stats[tensor][n]) for n in names}
            self._reply(content, "stats", stats={tensor: found}, recipes=[page.recipe_entry(r) for r in recipes])

        if set(names) <= set(self._stats[tensor]):
            send()
        else:
            self._compute(content, lambda: (self._analyze(tensor, recipes), send()))

    def _want_recipe(self, content):
        setattr(self, f"recipe_{content['side']}", Recipe.from_dict(content["settings"]))
        self._want_stats({**content, "tensor": self.tensor, "recipes": [self.recipe_a, self.recipe_b]})

    def _want_sweep(self, content):
        """Every tensor under one more recipe, where that is quick."""
        recipe, rows = as_recipe(content["recipe"]), [row for row in self._stats.values() if row]
        if self.live and self._all_done.is_set() and sum(next(iter(row.values())).elements for row in rows) <= QUICK:
            todo = [t for t in self._stats if t not in self._skipped]
            for tensor in todo:
                self._compute(content, lambda tensor=tensor: self._analyze(tensor, [recipe]), priority=2)
            self._compute(content, lambda: self._reply(content, "stats", summary=self._summary(todo)), priority=2)

    def _want_picks(self, content):
        tensor, recipe, rule = content["tensor"], as_recipe(content["recipe"]), content["rule"]
        self._compute(
            content, lambda: self._reply(content, "picks", **microscope.pick(self._read(tensor), recipe, rule))
        )

    def _want_block(self, content):
        tensor, (token, block) = content["tensor"], content["block"]

        def look():
            answer = page.inspections(self._read(tensor), token, block, content["recipes"], content.get("values"))
            self._reply(content, "block", **answer, token_text=self._token_text(token))

        self._compute(content, look)

    def _reply(self, content, kind, **answer):
        with _LOCK:
            self.send({"kind": kind, "id": content.get("id"), **answer})

    def _refuse(self, content, error):
        self._reply(
            content, "refused", text=f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        )

    def _send_stats(self, content, tensors):
        """Summaries of tensors, and their statistics as far as they fit."""
        self._reply(content, "stats", stats=self._fitting(tensors), summary=self._summary(tensors))

    def _fitting(self, tensors) -> dict:
        found, size = {}, 0
        for tensor in tensors:
            row = {n: page.compact(s) for n, s in self._stats[tensor].items()}
            size += len(json.dumps(row))
            if size > PAGE_BYTES:
                break
            found[tensor] = row
        return found

    def _summary(self, tensors) -> dict:
        return {t: {n: page.summary(s) for n, s in self._stats[t].items()} for t in tensors if self._stats[t]}

    def _catalog(self) -> dict:
        return page.catalog(self._stats, self._recipes.values(), skipped=self._skipped, versions=self._versions)

    # computing, on a thread of the explorer's own: what the page waits for first
    def _compute(self, content, job, priority: int = 0):
        if not self.live:
            raise ValueError("this needs a new computation, and here are statistics without activations: "
                             "nvfp4viz.explore(activations) can do it")  # fmt: skip

        def guarded():
            try:
                job()
            except Exception as error:  # whatever a file or an engine raises is shown; the next job runs
                self._refuse(content, error)

        self._jobs.put((priority, next(self._ticket), guarded))

    def _work(self):
        with torch.inference_mode():  # holds for this thread only
            while (job := self._jobs.get()[2]) is not None:
                job()

    def _read(self, tensor: str) -> Tensor:
        if self._cached is None or self._cached[0] != tensor:
            self._cached = None  # let the last one go first
            self._cached = (tensor, self._activations[tensor])
        return self._cached[1]

    def _analyze(self, tensor: str, recipes, x: Tensor | None = None):
        missing = [r for r in recipes if r.name not in self._stats[tensor]]
        if missing:
            with _COMPUTING:
                found = analyze_all(self._read(tensor) if x is None else x, missing, engine=self._engine)
            with _LOCK:
                self._stats[tensor] = {**self._stats[tensor], **{s.recipe.name: s for s in found}}

    def _stats_of(self, tensor: str, name: str) -> Stats:
        if name not in self._stats[tensor]:
            if not self.live:
                raise ValueError(f"no statistics of {tensor} under {name}, and no activations to compute them from")
            self._analyze(tensor, [as_recipe(name)], self._activations[tensor])
        return self._stats[tensor][name]

    def _analyze_everything(self):
        """Queue every tensor, the one shown first, behind whatever the page asks for."""
        tensors = [self.tensor, *(t for t in self._stats if t != self.tensor)]
        fresh, sent = [], time.monotonic()

        def one(done: int, tensor: str):
            nonlocal sent
            try:
                self._analyze(tensor, self._recipes.values())
                fresh.append(tensor)
            except Exception as error:
                self._skipped[tensor] = str(error)
            if time.monotonic() - sent > 0.1:
                self._send_stats({}, fresh)
                self.progress = {"done": done, "total": len(tensors), "now": tensor}
                fresh.clear()
                sent = time.monotonic()

        for done, tensor in enumerate(tensors, 1):
            self._jobs.put((1, next(self._ticket), lambda done=done, tensor=tensor: one(done, tensor)))
        self._jobs.put((1, next(self._ticket), self._publish))

    def _publish(self):
        """Put all that fits into the widget's state, so that a saved notebook has it too."""
        with _LOCK, self.hold_sync():
            self.catalog, self.summary, self.statistics = (
                self._catalog(),
                self._summary(self._stats),
                self._fitting(self._stats),
            )
            self.progress = {"done": len(self._stats), "total": len(self._stats), "now": ""}
        self._all_done.set()

    def _token_text(self, token: int) -> str:
        for source in getattr(self._activations, "sources", []):
            texts = json.loads(source["metadata"].get("token_strings", "[]"))
            return texts[token] if token < len(texts) else ""
        return ""
