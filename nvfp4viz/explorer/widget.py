"""The explorer: a widget that draws the statistics of tensors under two recipes, A and B.

The page draws, Python computes: the widget has the traits that both share, a Session answers the page's messages.
Jupyter runs callbacks beside cells, on other threads, so every change of state goes through one lock.
"""

from __future__ import annotations

import difflib
import os
import threading
import time
from base64 import b64encode

import anywidget
import traitlets
from torch import Tensor
from traitlets import Bool, Dict, Enum, Int, List, TraitError, Unicode

from ..activations import as_activations
from ..analysis import RULES, Sweep, is_saved
from ..checkpoints import Checkpoint
from ..engine import usable_engine
from ..nvfp4 import as_recipe
from ..stats import Stats
from ..web import asset, explorer_module, inflating
from .cells import Replaced, running_cell
from .messages import packed, unpacked
from .output import outputs
from .session import Session
from .store import Store
from .weights import weights_sweep

VIEWS = ("overview", "scales", "clipping", "error", "tensors", "microscope", "output")
SHOWN = ("tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block")

PICTURE_S = 10.0  # seconds that a display waits for statistics to picture; without them it has no picture

_LOCK = threading.RLock()  # round every change of any widget's state
_REPLACED = Replaced()


def explore(source, recipes=None, engine: str = "auto", *, impact=None, plan=None, drift=None, **shown) -> Explorer:
    """A widget that shows what recipes do to activations.

    Args:
        source:  activations as `load` gives them, a mapping of any names to tensors or NumPy arrays, or one of those; a
                 Sweep; the path of either; or a Checkpoint, whose weights are shown as they are stored.
        recipes: recipes or their short names; where it is None those of the Sweep, or RECIPES.
        engine:  "auto", or one that `engines()` lists.
        impact, plan, drift: of the same model, as `report` takes them, for the view "output".
        shown:   what to show first: tensor, recipe_a, recipe_b, view, scale, span, sort, rule, under, block.
    Returns: Explorer, which Jupyter shows. Statistics are computed in the background; nothing waits for them. Without
    Jupyter, `report(sweep(activations), "report.html")` writes a page that holds the same explorer.
    Raises TypeError or ValueError for what cannot be explored, traitlets' TraitError for a wrong value of `shown`.
    """
    if isinstance(source, (str, os.PathLike)) and is_saved(source):
        source = Sweep.load(source)
    if isinstance(source, Checkpoint):
        source = weights_sweep(source)
    if not isinstance(source, Sweep):
        source = as_activations(source)
    if not (source.stats if isinstance(source, Sweep) else source):
        raise ValueError("nothing to explore: there is no tensor")
    if engine != "auto":
        usable_engine(engine)  # one error now, not one in every tensor
    unknown = set(shown) - set(SHOWN)
    if unknown:
        raise TypeError(f"explore has no argument {', '.join(sorted(unknown))}; shown first may be {', '.join(SHOWN)}")
    store = Store(source, recipes, engine)
    return Explorer(store, outputs(store.stats, impact, plan, drift), **shown)


class RecipeName(Unicode):
    """A recipe's short name; a Recipe may be assigned too."""

    def validate(self, obj, value):
        try:
            return as_recipe(value).name
        except (TypeError, ValueError) as error:
            raise TraitError(str(error)) from None


class Explorer(anywidget.AnyWidget):
    """Made by `explore`. Its traits say what is shown and may be set: `w.tensor`, `w.recipe_a = "4/6-mse-256"`, ..."""

    _esm, _css = inflating(explorer_module()), asset("explorer/explorer.css")
    tensor = Unicode(help="the tensor shown").tag(sync=True)
    recipe_a = RecipeName(help="short name of recipe A").tag(sync=True)
    recipe_b = RecipeName(help="short name of recipe B").tag(sync=True)
    view = Enum(VIEWS, "overview").tag(sync=True)
    scale = Enum(("linear", "log"), "linear", help="axis of counts").tag(sync=True)
    span = Enum(("data", "full"), "data", help="block scales shown: those that occur, or all of E4M3").tag(sync=True)
    sort = Enum(("layer", "error", "gain", "effect"), "layer", help="order of tensors").tag(sync=True)
    rule = Enum(tuple(RULES), "gained", help="which blocks the microscope picks").tag(sync=True)
    under = Enum(("a", "b"), "b", help="whose recipe the rule ranks blocks by").tag(sync=True)
    block = List(Int(), help="[token, block] in the microscope; empty: the rule's first").tag(sync=True)

    catalog = Dict(help="tensors in layer order, recipes, tables: `messages.page_catalog`").tag(sync=True)
    summary = Dict(help="tensor -> recipe -> `messages.summary`").tag(sync=True)
    statistics = Dict(help="tensor -> recipe -> `messages.compact`; packed on its way, and in a saved notebook").tag(
        sync=True, to_json=lambda value, _: packed(value), from_json=lambda text, _: unpacked(text)
    )
    progress = Dict(help="tensors done, total").tag(sync=True)
    output = Dict(help="what the model's output feels: `output.outputs`").tag(sync=True)
    live = Bool(help="there are activations to compute with").tag(sync=True)

    def __init__(self, store: Store, output: dict | None = None, **shown):
        self.session = Session(store, self._send_locked, self._publish)
        names, pair = list(store.recipes), ["4/6-mae-448", "4/6-mae-256"]
        a, b = pair if set(pair) <= set(names) else (names[0], names[-1])
        start = {"tensor": next(iter(store.stats)), "recipe_a": a, "recipe_b": b, **shown}
        output = outputs(store.stats) if output is None else output
        super().__init__(catalog=store.catalog(), live=store.live, output=output, **start)
        self.on_msg(lambda _, message, buffers: self.session.handle(message))
        cell = running_cell()
        self._shown_in = {cell.name} if cell else set()  # cells that display it, and the one that made it
        for old in _REPLACED.take_place(self, cell):
            old.let_go()
        self.session.start(self.tensor)

    @property
    def stats_a(self) -> Stats:
        """Statistics of the tensor shown under A; computed now if need be."""
        return self.session.store.analyze(self.tensor, [self.recipe_a])[self.recipe_a]

    @property
    def stats_b(self) -> Stats:
        """Statistics of the tensor shown under B; computed now if need be."""
        return self.session.store.analyze(self.tensor, [self.recipe_b])[self.recipe_b]

    def wait(self, timeout: float = 600) -> Explorer:
        """Return when every tensor is analysed; TimeoutError after `timeout` seconds."""
        if not self.session.wait(timeout):
            raise TimeoutError(f"still analysing after {timeout} s: {self.progress}")
        return self

    def __repr__(self) -> str:
        return f"Explorer({self.tensor}: A {self.recipe_a}, B {self.recipe_b}, view {self.view})"

    def add(self, tensor: str, x: Tensor) -> None:
        """Take one more tensor and analyse it in the background; only where the source is a dict."""
        self.session.add(tensor, x)

    def close(self):
        """Stop computing, and take the widget from every page."""
        self.session.close()
        super().close()

    def let_go(self) -> None:
        """A new run of its cell replaced it: close, and keep nothing, unless another cell displays it."""
        if len(self._shown_in) > 1:
            self.session.store.release()
            return
        self.close()
        self.statistics = self.summary = {}  # IPython's Out keeps the widget itself
        self.session.store.forget()

    def _repr_mimebundle_(self, **kwargs):
        """The widget, and beside it a picture of what it shows, for where no kernel is."""
        return self.pictured(super()._repr_mimebundle_(**kwargs))

    def pictured(self, bundle):
        """A display's bundle, of this widget or of one that holds it, with a picture of what it shows."""
        if cell := running_cell():
            self._shown_in.add(cell.name)
        picture = self._picture() if bundle else None
        if picture is None:
            return bundle
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        png, about = picture
        return {**data, "image/png": b64encode(png).decode()}, {**metadata, "image/png": about}

    def _picture(self):
        """The block scales of A and B, as `still` draws them; None where they are not known in time."""
        store, names, deadline = self.session.store, [self.recipe_a, self.recipe_b], time.monotonic() + PICTURE_S
        self.session.prepare(self.tensor, names)
        while store.live and not store.has(self.tensor, names) and time.monotonic() < deadline:
            if self.tensor in store.skipped:
                return None
            time.sleep(0.02)
        if not store.has(self.tensor, names):
            return None
        from .still import still

        a, b = (store.stats[self.tensor][n] for n in names)
        return still(self.tensor, a, b, store.versions)

    # State: a wrong value is one clear error, and nothing changes beside another change.
    def __setattr__(self, name, value):
        with _LOCK:
            super().__setattr__(name, value)

    def set_state(self, sync_data):
        with _LOCK:
            super().set_state(sync_data)

    def _send_locked(self, message: dict) -> None:
        with _LOCK:
            self.send(message)

    def _publish(self, values: dict) -> None:
        with _LOCK, self.hold_sync():
            for name, value in values.items():
                setattr(self, name, value)

    @traitlets.validate("tensor")
    def _known_tensor(self, proposal):
        tensors = self.session.store.stats
        if proposal.value not in tensors:
            near = difflib.get_close_matches(proposal.value, tensors, n=3, cutoff=0.3) or list(tensors)[:3]
            raise TraitError(f"no tensor {proposal.value!r}; there is {', '.join(map(repr, near))}, ...")
        return proposal.value

    @traitlets.validate("block")
    def _two_indices(self, proposal):
        if len(proposal.value) not in (0, 2) or min(proposal.value, default=0) < 0:
            raise TraitError(f"block={proposal.value!r}: expected [token, block], or [] for the rule's first")
        return proposal.value
