"""What an engine is, and statistics that it has not waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..nvfp4 import Quantized, Recipe, Tokens
from ..stats import Stats, measure


class Pending(Protocol):
    """Statistics of some calls by recipe, perhaps still on a GPU. `a + b` is those of both, without waiting."""

    left_out: int  # rows that NaN or Inf kept out of them; known once they were fetched

    def __add__(self, other: Pending) -> Pending: ...

    def copy(self) -> Pending:
        """The same, to keep where this is given up."""

    def fetch(self) -> list[Stats]:
        """One Stats a recipe; waits. ValueError where a call held NaN or Inf and its rows were not left out."""


class Engine(Protocol):
    """Who quantizes. It is handed Tokens that lie on `device(x)`, and raises ValueError where they are not finite."""

    name: str  # as it stands in results
    leaves_out: bool  # whether `launch` leaves rows with NaN or Inf out and counts them, under per-token recipes

    def why_not(self) -> str | None:
        """None, or why it cannot run on this machine."""

    def refuses(self, x: Tensor, recipe: Recipe) -> str | None:
        """None, or why it cannot run this input; x on any device."""

    def device(self, x: Tensor) -> torch.device:
        """Where it wants x."""

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None) -> Quantized:
        """encode_scale: float32 [1, 1] for per-tensor recipes, None per token."""

    def analyze(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> list[Stats]:
        """One Stats a recipe, encode scales one a recipe."""

    def launch(
        self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence, into: Pending | None = None
    ) -> Pending:
        """`analyze` without waiting where the engine can; added to `into`, of an earlier launch, which is given up."""


@dataclass(frozen=True)
class Ready:
    """Pending statistics that are there."""

    stats: list[Stats]
    left_out = 0

    def __add__(self, other: Ready) -> Ready:
        if not isinstance(other, Ready):
            return NotImplemented
        return Ready([a + b for a, b in zip(self.stats, other.stats, strict=True)])

    def copy(self) -> Ready:
        return self

    def fetch(self) -> list[Stats]:
        return self.stats


class Unfused:
    """What an engine does that only quantizes: its statistics are measured afterwards, and there at once."""

    leaves_out = False

    def analyze(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> list[Stats]:
        """Statistics under each recipe, from the quantized tensor."""
        pairs = zip(recipes, encode_scales, strict=True)
        return [measure(tokens, self.quantize(tokens, r, s)) for r, s in pairs]

    def launch(
        self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence, into: Ready | None = None
    ) -> Ready:
        found = Ready(self.analyze(tokens, recipes, encode_scales))
        return found if into is None else into + found
