"""The explorer: a widget that draws the statistics of tensors under two recipes, A and B.

The page draws, Python computes: its script (web/) keeps every statistic it was sent and asks for what it lacks with a
message; Python answers from its store, or computes on a thread of its own. Jupyter runs callbacks beside cells, on
other threads, so every change of state goes through one lock.
"""

from __future__ import annotations

import difflib
import os
import threading
import time
from collections.abc import Mapping

import anywidget
import traitlets
from torch import Tensor
from traitlets import Bool, Dict, Enum, Int, List, TraitError, Unicode

from ..activations import load
from ..analysis import RULES, Sweep, attribute_all, finite, is_saved, pick
from ..engine import engine_module
from ..nvfp4 import Recipe, as_recipe
from ..stats import Stats
from ..web import asset, explorer_module
from . import messages as page
from .store import Store, Worker

VIEWS = ("overview", "scales", "clipping", "error", "tensors", "microscope")
SHOWN = ("tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block")
QUICK = 1 << 26  # elements of all tensors, up to which the strip follows a recipe that the dials make
NOW, SOON, LATER = range(3)  # priorities: what the page waits for, the recipes given, recipes that the dials made

_LOCK = threading.RLock()  # round every change of any widget's state


def explore(source, recipes=None, engine: str = "auto", **shown) -> Explorer:
    """A widget that shows what recipes do to activations.

    Args:
        source:  activations (names to [..., K], as `load` gives them, or one tensor), a Sweep, or the path of either.
        recipes: recipes or their short names; where it is None those of the Sweep, or RECIPES.
        engine:  "auto", or one that `engines()` lists.
        shown:   what to show first: tensor, recipe_a, recipe_b, view, scale, span, sort, rule, under, block.
    Returns: Explorer, which Jupyter shows. Statistics are computed in the background; nothing waits for them. Without
    Jupyter, `report(sweep(activations), "report.html")` writes a page that holds the same explorer.
    Raises TypeError or ValueError for what cannot be explored, traitlets' TraitError for a wrong value of `shown`.
    """
    if isinstance(source, (str, os.PathLike)):
        source = Sweep.load(source) if is_saved(source) else load(source)
    if isinstance(source, Tensor):
        source = {"activations": source}
    if not isinstance(source, (Sweep, Mapping)):
        raise TypeError(
            f"cannot explore a {type(source).__name__}: give a tensor, a mapping of name -> tensor, a Sweep or a path"
        )
    if not (source.stats if isinstance(source, Sweep) else source):
        raise ValueError("nothing to explore: there is no tensor")
    if engine != "auto":
        engine_module(engine)  # a misspelt engine is an error now, not in every tensor
    unknown = set(shown) - set(SHOWN)
    if unknown:
        raise TypeError(f"explore has no argument {', '.join(sorted(unknown))}; shown first may be {', '.join(SHOWN)}")
    return Explorer(Store(source, recipes, engine), **shown)


class RecipeName(Unicode):
    """A recipe's short name; a Recipe may be assigned too."""

    def validate(self, obj, value):
        try:
            return as_recipe(value).name
        except (TypeError, ValueError) as error:
            raise TraitError(str(error)) from None


class Explorer(anywidget.AnyWidget):
    """Made by `explore`. Its traits say what is shown and may be set: `w.tensor`, `w.recipe_a = "4/6-mse-256"`, ..."""

    _esm, _css = explorer_module(), asset("explorer.css")
    tensor = Unicode(help="the tensor shown").tag(sync=True)
    recipe_a = RecipeName(help="short name of recipe A").tag(sync=True)
    recipe_b = RecipeName(help="short name of recipe B").tag(sync=True)
    view = Enum(VIEWS, "overview").tag(sync=True)
    scale = Enum(("linear", "log"), "linear", help="axis of counts").tag(sync=True)
    span = Enum(("data", "full"), "data", help="block scales shown: those that occur, or all of E4M3").tag(sync=True)
    sort = Enum(("layer", "error", "gain"), "layer", help="order of tensors").tag(sync=True)
    rule = Enum(tuple(RULES), "gained", help="which blocks the microscope picks").tag(sync=True)
    under = Enum(("a", "b"), "b", help="whose recipe the rule ranks blocks by").tag(sync=True)
    block = List(Int(), help="[token, block] in the microscope; empty: the rule's first").tag(sync=True)

    catalog = Dict(help="tensors in layer order, recipes, tables: `page.catalog`").tag(sync=True)
    summary = Dict(help="tensor -> recipe -> `page.summary`").tag(sync=True)
    statistics = Dict(help="tensor -> recipe -> `page.compact`").tag(sync=True)
    progress = Dict(help="tensors done, total").tag(sync=True)
    live = Bool(help="there are activations to compute with").tag(sync=True)

    def __init__(self, store: Store, **shown):
        self._store, self._worker, self._complete = store, None, threading.Event()
        names, pair = list(store.recipes), ["4/6-mae-448", "4/6-mae-256"]
        a, b = pair if set(pair) <= set(names) else (names[0], names[-1])
        start = {"tensor": next(iter(store.stats)), "recipe_a": a, "recipe_b": b, **shown}
        super().__init__(catalog=store.catalog(), live=store.live, **start)
        self.on_msg(self._answer)
        if store.live:
            self._worker = Worker()
            self._analyze([self.tensor, *(t for t in store.stats if t != self.tensor)])
        else:
            self._publish()

    @property
    def stats_a(self) -> Stats:
        """Statistics of the tensor shown under A; computed now if need be."""
        return self._store.analyze(self.tensor, [self.recipe_a])[self.recipe_a]

    @property
    def stats_b(self) -> Stats:
        """Statistics of the tensor shown under B; computed now if need be."""
        return self._store.analyze(self.tensor, [self.recipe_b])[self.recipe_b]

    def wait(self, timeout: float = 600) -> Explorer:
        """Return when every tensor is analysed; TimeoutError after `timeout` seconds."""
        if not self._complete.wait(timeout):
            raise TimeoutError(f"still analysing after {timeout} s: {self.progress}")
        return self

    def __repr__(self) -> str:
        return f"Explorer({self.tensor}: A {self.recipe_a}, B {self.recipe_b}, view {self.view})"

    def add(self, tensor: str, x: Tensor) -> None:
        """Take one more tensor and analyse it in the background; only where the source is a dict."""
        with _LOCK:
            self._store.add(tensor, x)
            self.catalog = self._store.catalog()
        self._complete.clear()
        self._analyze([tensor])

    def close(self):
        if self._worker:
            self._worker.stop()
        super().close()

    # State: a wrong value is one clear error, and nothing changes beside another change.
    def __setattr__(self, name, value):
        with _LOCK:
            super().__setattr__(name, value)

    def set_state(self, sync_data):
        with _LOCK:
            super().set_state(sync_data)

    @traitlets.validate("tensor")
    def _known_tensor(self, proposal):
        tensors = self._store.stats
        if proposal.value not in tensors:
            near = difflib.get_close_matches(proposal.value, tensors, n=3, cutoff=0.3) or list(tensors)[:3]
            raise TraitError(f"no tensor {proposal.value!r}; there is {', '.join(map(repr, near))}, ...")
        return proposal.value

    @traitlets.validate("block")
    def _two_indices(self, proposal):
        if len(proposal.value) not in (0, 2) or min(proposal.value, default=0) < 0:
            raise TraitError(f"block={proposal.value!r}: expected [token, block], or [] for the rule's first")
        return proposal.value

    # Messages of the page, {"want": ..., "id": ...}, are answered by {"kind": ..., "id": ...}.
    def _answer(self, _, content, buffers=None):
        with _LOCK:
            try:
                getattr(self, f"_want_{content['want']}")(content)
            except Exception as error:  # shown in the page, where the request came from
                self._refuse(content, error)

    def _reply(self, content, kind, **answer):
        with _LOCK:
            self.send({"kind": kind, "id": content.get("id"), **answer})

    def _refuse(self, content, error):
        self._reply(content, "refused", text=str(error))

    def _run(self, content, job, priority=NOW):
        """Run a job on the worker's thread; whatever it raises is told to the page."""
        self._store.require()

        def guarded():
            try:
                job()
            except Exception as error:  # a file or an engine may raise anything; the next job runs
                self._refuse(content, error)

        self._worker.put(guarded, priority)
        if priority == NOW:
            self._reply(content, "working")

    def _want_nothing(self, content):
        """Sent by the page to hurry the server (`NUDGES_MS` in knowledge.js)."""

    def _want_hello(self, content):
        fresh = [t for t, row in self._store.stats.items() if row and t not in self.statistics]
        self._reply(content, "stats", stats=self._store.fitting(fresh), summary=self._store.summary(fresh))

    def _want_stats(self, content):
        tensor, recipes = content["tensor"], [as_recipe(r) for r in content["recipes"]]
        names = [r.name for r in recipes]

        def send():
            found = {n: page.compact(s) for n, s in self._store.analyze(tensor, names).items()}
            self._reply(content, "stats", stats={tensor: found}, recipes=[page.recipe_entry(r) for r in recipes])

        if self._store.has(tensor, names):
            send()
        else:
            self._run(content, send)

    def _want_recipe(self, content):
        """The name and statistics of a recipe that the dials made; the page then sets the trait, as its own change."""
        recipe = Recipe.from_dict(content["settings"])
        self._want_stats({**content, "recipes": [recipe]})

    def _want_sweep(self, content):
        """Every tensor under one more recipe, where that is quick."""
        store, name = self._store, as_recipe(content["recipe"]).name
        if store.live and self._complete.is_set() and store.elements() <= QUICK:
            tensors = [t for t in store.stats if t not in store.skipped]
            for tensor in tensors:
                self._run(content, lambda tensor=tensor: store.analyze(tensor, [name]), LATER)
            self._run(content, lambda: self._reply(content, "stats", summary=store.summary(tensors)), LATER)

    def _want_picks(self, content):
        tensor, recipe, rule = content["tensor"], content["recipe"], content["rule"]
        self._run(content, lambda: self._reply(content, "picks", **pick(self._store.read(tensor), recipe, rule)))

    def _want_attribution(self, content):
        tensor, recipes = content["tensor"], [as_recipe(r) for r in content["recipes"]]

        def split():
            found = attribute_all(self._store.read(tensor), recipes, sample=0)
            self._reply(content, "attribution", shares={a.recipe.name: finite(a.shares()) for a in found})

        self._run(content, split)

    def _want_block(self, content):
        tensor, (token, block) = content["tensor"], content["block"]

        def look():
            seen = page.inspections(self._store.read(tensor), token, block, content["recipes"], content.get("values"))
            self._reply(content, "block", **seen, token_text=self._store.token_text(token))

        self._run(content, look)

    # All tensors, in the background
    def _analyze(self, tensors):
        """Queue tensors behind whatever the page asks for, and publish when they are done."""
        store, fresh, sent = self._store, [], time.monotonic()

        def one(done: int, tensor: str):
            nonlocal sent
            try:
                store.analyze(tensor, store.recipes)
                fresh.append(tensor)
            except Exception as error:  # this tensor's own trouble, shown with it
                store.skipped[tensor] = str(error)
            if time.monotonic() - sent > 0.1:
                self._reply({}, "stats", stats=store.fitting(fresh), summary=store.summary(fresh))
                self.progress = {"done": done, "total": len(tensors)}
                fresh.clear()
                sent = time.monotonic()

        for done, tensor in enumerate(tensors, 1):
            self._worker.put(lambda done=done, tensor=tensor: one(done, tensor), SOON)
        self._worker.put(self._publish, SOON)

    def _publish(self):
        """Put all that fits into the widget's state, so that a saved notebook has it too."""
        store = self._store
        with _LOCK, self.hold_sync():
            self.catalog, self.summary, self.statistics = (
                store.catalog(),
                store.summary(store.stats),
                store.fitting(store.stats),
            )
            self.progress = {"done": len(store.stats), "total": len(store.stats)}
        self._complete.set()
