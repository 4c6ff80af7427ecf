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
        found, reasons = self.multiply_adds(), {}
        for w in self.choice.observed:
            for e in range(w.experts if w.kind == "stack" else 0):
                if self.choice.takes(w, e) and not found.get(w, [0] * w.experts)[e]:
                    reasons[w.label(e)] = "no token was routed to it" if w in found else "was not called"
        return reasons

    def counted(self, problems: Mapping[str, str]) -> dict[str, dict]:
        """By weight's name: multiply-adds of its matrices, [all, observed] by label, and why not all; see `summary`.

        problems: label -> why it was let go of.
        """
        found, rows = self.multiply_adds(), {}
        for w in self.choice.weights:
            adds, matrices = found.get(w), {}
            for expert, n in enumerate(adds or ()):
                expert = expert if w.kind == "stack" else None
                label = w.label(expert)
                matrices[label] = [n, n * (self.choice.takes(w, expert) and label not in problems)]
            why = self.choice.why.get(w) or next((t for n, t in problems.items() if n in w.labels()), "not asked for")
            known = w.kind in ("embedding", "adapter") or (w.is_called and w in self.choice.observed)
            unseen = self._why_unseen(w) if adds is None and not known else None
            rows[w.name] = {"matrices": matrices, "why": why, "met": adds is not None, "unseen": unseen}
        return rows

    def to_dict(self, problems: Mapping[str, str]) -> dict:
        """`summary` of this process alone."""
        return summary([self.counted(problems)])


def summary(ranks: list[dict[str, dict]]) -> dict:
    """For provenance, of what one process counted or of several together.

    matrices, observed_matrices: that took part in a product; multiply_adds; share: of them that was observed;
    unobserved: name -> why, and its share (None where it cannot be known).
    """
    matrices: dict[str, dict[str, list[int]]] = {}  # name -> label -> multiply-adds: all, observed
    for rows in ranks:
        for name, row in rows.items():
            mine = matrices.setdefault(name, {})
            for label, (n, seen) in row["matrices"].items():
                before = mine.get(label, (0, 0))
                mine[label] = [before[0] + n, before[1] + seen]
    pairs = [pair for labels in matrices.values() for pair in labels.values()]
    total, seen = (sum(pair[i] for pair in pairs) for i in (0, 1))
    unobserved = {}
    for name, labels in matrices.items():
        rows = [r[name] for r in ranks if name in r]
        lost = sum(n - taken for n, taken in labels.values())
        if lost:
            why = next(r["why"] for r in rows if any(n > taken for n, taken in r["matrices"].values()))
            unobserved[name] = {"why": why, "share": lost / total}
        elif not any(r["met"] for r in rows) and rows[0]["unseen"]:
            unobserved[name] = {"why": rows[0]["unseen"], "share": None}
    return {
        "matrices": sum(n > 0 for n, _ in pairs),
        "observed_matrices": sum(taken > 0 for _, taken in pairs),
        "multiply_adds": total,
        "share": seen / total if total else 0.0,
        "unobserved": unobserved,
    }
