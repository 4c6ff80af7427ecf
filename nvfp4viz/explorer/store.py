"""What the explorer knows: statistics by tensor and recipe, with the activations to compute those that are missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..analysis import Sweep, versions
from ..engine import analyze_all
from ..nvfp4 import RECIPES, as_recipe, as_recipes
from ..shown import layer_order
from ..stats import Stats
from . import messages

PAGE_BYTES = 1_200_000  # of statistics that a page holds from the start; the rest is sent when it is looked at

_COMPUTING = threading.Lock()  # one computation at a time, whoever asks


class Store:
    """Statistics of a Sweep, or of activations, where they are computed at first use. Any thread may ask."""

    def __init__(self, source: Sweep | Mapping[str, Tensor], recipes=None, engine: str = "auto"):
        ready = source if isinstance(source, Sweep) else None
        self.activations, self.engine = None if ready else source, engine
        chosen = recipes if recipes is not None else ready.recipes if ready else RECIPES
        self.recipes = {r.name: r for r in as_recipes(chosen).values()}
        self.skipped = dict(ready.skipped if ready else getattr(source, "left_out", {}))  # tensor -> why no statistics
        self.blocks = ready.blocks if ready else {}  # kept by the sweep, for a page without Python
        self.provenance = ready.provenance if ready else {"sources": getattr(source, "sources", [])}
        self.versions = ready.provenance.get("versions", {}) if ready else versions()["versions"]
        tensors = layer_order(ready.stats if ready else source)
        self.stats: dict[str, dict[str, Stats]] = {t: {} for t in tensors}
        for tensor, row in ready.stats.items() if ready else ():
            self.stats[tensor] = {s.recipe.name: s for s in row.values()}
        self._last: tuple[str, Tensor] | None = None  # the tensor read last

    @property
    def live(self) -> bool:
        """Whether there are activations to compute with."""
        return self.activations is not None

    def add(self, tensor: str, x: Tensor) -> None:
        """Take one more tensor; the source must be a dict."""
        self.require()
        if tensor in self.stats:
            raise ValueError(f"there is a tensor {tensor!r} already: give the new one another name")
        self.activations[tensor] = x
        self.stats = {t: self.stats.get(t, {}) for t in layer_order([*self.stats, tensor])}

    def require(self) -> None:
        """ValueError where nothing new can be computed."""
        if not self.live:
            raise ValueError(
                "this needs a new computation, and here are statistics without activations: "
                "nvfp4viz.explore(activations) can do it"
            )

    def read(self, tensor: str) -> Tensor:
        """Activations of a tensor; the last one read is kept."""
        self.require()
        last = self._last
        if last is None or last[0] != tensor:
            self._last = None  # let it go before the next is read
            self._last = last = (tensor, self.activations[tensor])
        return last[1]

    def release(self) -> None:
        """Let the tensor go that was read last; the next use reads it again."""
        self._last = None

    def forget(self) -> None:
        """Let computed statistics go, which can be computed again; those of a Sweep stay."""
        if self.live:
            self.stats = {tensor: {} for tensor in self.stats}

    def has(self, tensor: str, names: Iterable[str]) -> bool:
        """Whether statistics of a tensor under all these recipes are known; KeyError for an unknown tensor."""
        return set(names) <= set(self.stats[tensor])

    def analyze(self, tensor: str, names: Iterable[str]) -> dict[str, Stats]:
        """Statistics of one tensor under the named recipes, computed where they are missing."""
        if tensor in self.skipped:
            raise ValueError(f"{tensor} was skipped: {self.skipped[tensor]}")
        if not self.has(tensor, names):  # what is known waits for no computation
            with _COMPUTING:
                missing = [as_recipe(n) for n in names if n not in self.stats[tensor]]
                computed = analyze_all(self.read(tensor), missing, engine=self.engine) if missing else []
                row = self.stats[tensor]
                self.stats[tensor] = {**row, **{s.recipe.name: s for s in computed}}  # readers see all or none
        return {n: self.stats[tensor][n] for n in names}

    def elements(self) -> int:
        """Of all tensors analysed so far."""
        return sum(next(iter(row.values())).elements for row in self.stats.values() if row)

    # for the page
    def catalog(self) -> dict:
        """What a page has from the start."""
        predicted = any(s.kl_tokens for row in self.stats.values() for s in row.values())
        about = {"skipped": self.skipped, "versions": self.versions, "predicted": predicted}
        about["origin"] = messages.origin(self.provenance)
        return messages.page_catalog(self.stats, self.recipes.values(), **about)

    def summary(self, tensors: Iterable[str]) -> dict:
        """Tensor -> recipe -> the numbers of the strip."""
        return {t: {n: messages.summary(s) for n, s in self.stats[t].items()} for t in tensors if self.stats[t]}

    def fitting(self, tensors: Iterable[str]) -> dict:
        """Statistics of the first tensors, as many as a page holds."""
        kept, size = {}, 0
        for tensor in tensors:
            row = {n: messages.compact(s) for n, s in self.stats[tensor].items()}
            size += len(json.dumps(row))
            if size > PAGE_BYTES:
                break
            kept[tensor] = row
        return kept

    def token_text(self, token: int) -> str:
        """The text of a token, where the file of activations tells it."""
        for source in getattr(self.activations, "sources", []):
            texts = json.loads(source["metadata"].get("token_strings", "[]"))
            return texts[token] if token < len(texts) else ""
        return ""
