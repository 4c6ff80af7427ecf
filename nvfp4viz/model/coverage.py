"""What of a model's matrix products was seen: a share of its multiply-adds, and by name what was not, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .choose import Choice
from .operands import PRODUCTS_UNREAD
from .weights import CONVOLUTION, Weight

UNSEEN = "in no matrix product that was seen: a fused kernel, compiled code, or no product at all"


class Coverage:
    """Rows that met each weight, observed or not. Multiply-adds are rows x N x K; nothing waits for a device."""

    def __init__(self, choice: Choice):
        self.choice = choice
        self._rows: dict[Weight, Tensor | int] = {}  # multiply-adds, of a stack int64 [E]
        self._used: dict[Weight, str] = {}  # by functions that are no product known here

    def add(self, weight: Weight, rows: int | Tensor, n: int, k: int, expert: int | None = None) -> None:
        """rows: how many, or int [E] of each expert; n, k: outputs and features of the matrix that took part."""
        if weight.kind == "stack" and not isinstance(rows, Tensor):
            counts = torch.zeros(weight.experts, dtype=torch.int64)
            if expert is not None:
                counts[expert] = rows
            rows = counts
        if isinstance(rows, Tensor) and weight in self._rows:
            rows = rows.to(self._rows[weight].device)
        self._rows[weight] = self._rows.get(weight, 0) + rows * (n * k)

    def took(self, weight: Weight, function: str, out) -> None:
        """A function took the weight that is no product known here: a convolution's multiply-adds can be counted."""
        if function.startswith("conv") and isinstance(out, Tensor):
            n = weight.shape[0]
            self.choice.why[weight] = CONVOLUTION
            self.add(weight, out.numel() // n, n, math.prod(weight.shape[1:]))
        elif self._used.get(weight) not in PRODUCTS_UNREAD:
            self._used[weight] = function

    def _why_unseen(self, weight: Weight) -> str:
        used = self._used.get(weight)
        if used in PRODUCTS_UNREAD:
            return f"taken by {used} in a way that this package does not read"
        return "used element by element, in no matrix product" if used else self.choice.why.get(weight, UNSEEN)

    def multiply_adds(self) -> dict[Weight, list[int]]:
        """Of each weight that took part, one number an expert."""
        return {w: r.tolist() if isinstance(r, Tensor) else [r] for w, r in self._rows.items()}

    def unrouted(self) -> dict[str, str]:
        """Label -> that no token came, of experts that are observed."""
        found, said = self.multiply_adds(), {}
        for w in self.choice.observed:
            for e in range(w.experts if w.kind == "stack" else 0):
                if self.choice.takes(w, e) and not found.get(w, [0] * w.experts)[e]:
                    said[w.label(e)] = "no token was routed to it" if w in found else "was not called"
        return said

    def to_dict(self, problems: Mapping[str, str]) -> dict:
        """For provenance. problems: label -> why it was let go of.

        matrices, observed_matrices: that took part in a product; multiply_adds; share: of them that was observed;
        unobserved: name -> why, and its share (None where it cannot be known).
        """
        found = self.multiply_adds()
        total = sum(map(sum, found.values()))
        seen = matrices = taken = 0
        unobserved: dict[str, dict] = {}
        for w in self.choice.weights:
            adds, lost = found.get(w, []), 0
            for expert, n in enumerate(adds):
                matrices += n > 0
                label = w.label(expert if w.kind == "stack" else None)
                mine = self.choice.takes(w, expert if w.kind == "stack" else None) and label not in problems
                seen, taken, lost = seen + n * mine, taken + (n > 0 and mine), lost + n * (not mine)
            if lost:
                why = self.choice.why.get(w) or next(
                    (t for n, t in problems.items() if n in w.labels()), "not asked for"
                )
                unobserved[w.name] = {"why": why, "share": lost / total}
            elif (
                not adds and w.kind not in ("embedding", "adapter") and not (w.is_called and w in self.choice.observed)
            ):
                unobserved[w.name] = {"why": self._why_unseen(w), "share": None}
        return {
            "matrices": matrices,
            "observed_matrices": taken,
            "multiply_adds": total,
            "share": seen / total if total else 0.0,
            "unobserved": unobserved,
        }
