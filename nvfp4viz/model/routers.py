"""How many of a model's routers lie behind an input: where tokens may be sent to other experts by its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from torch import nn

from .weights import Weight, blocks_of, plain_name


class Routers:
    """Counts blocks of experts as a model enters them, one call like the other."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}  # input -> routers that went before it
        self._entered = self._most = 0  # in this call; in any

    @contextlib.contextmanager
    def watching(self, model: nn.Module, weights: list[Weight]):
        """model: unwrapped; weights: all of them."""
        paths = blocks_of(weights)
        blocks = [m for name, m in model.named_modules() if plain_name(name) in paths]
        with contextlib.ExitStack() as undo:
            undo.callback(model.register_forward_pre_hook(self._start).remove)
            for block in blocks:
                undo.callback(block.register_forward_pre_hook(self._enter).remove)
            yield self

    def _start(self, *_) -> None:
        self._entered = 0

    def _enter(self, *_) -> None:
        self._entered += 1
        self._most = max(self._most, self._entered)

    def saw(self, labels: Iterable[str | None]) -> None:
        """An input, or those of all experts of a layer, while the model runs."""
        for label in labels:
            if label is not None:
                self._before.setdefault(label, self._entered)

    def behind(self) -> dict[str, float]:
        """Input -> the share of the routers that lie behind it; nothing of a model without routers."""
        return {n: (self._most - k) / self._most for n, k in self._before.items()} if self._most else {}
