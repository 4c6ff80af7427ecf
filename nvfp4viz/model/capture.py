"""`capture` keeps a bounded sample of a running model's activations in a file."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..activations import SQUARES
from ..analysis import versions
from ..files import locked, replacing
from .gradients import Squares
from .hooks import Observer

TOKENS = 4096  # kept of each input


class Capture(Observer):
    """A sample of module inputs, written when the block ends well; made by `capture`."""

    def __init__(self, model, modules, path, tokens, seed: int, max_bytes: int, sensitivity: bool):
        mask, tokens = (None, tokens) if isinstance(tokens, int) else (tokens, TOKENS)
        super().__init__(model, modules, mask)
        if tokens < 1 or max_bytes < 1:
            raise ValueError(f"tokens={tokens}, max_bytes={max_bytes}: both are at least 1")
        self.path, self.tokens, self.seed, self.max_bytes = Path(path), tokens, seed, max_bytes
        if self.path.suffix != ".safetensors":
            raise ValueError(f"cannot capture into {str(path)!r}: the file is a .safetensors")
        self._samples: dict[str, Reservoir] = {}
        self.gradients = Squares(seed, self._add) if sensitivity else None

    def _attach(self, model, choice) -> None:
        super()._attach(model, choice)
        if self.gradients is not None:
            self._undo.enter_context(self.gradients.attached(model, choice))

    def __enter__(self) -> Capture:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.path))
            super().__enter__()
            labels = [len(w.labels()) for w in self._choice.observed if w.kind == "stack"]
            self._inputs = max(1, len(self.calls) + sum(labels))  # they share the bytes
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind, *rest) -> None:
        super().__exit__(kind, *rest)
        with self._held:
            if kind is None:
                self._write()
            self._samples.clear()

    def take(self, seen):
        if self.gradients is not None and self.gradients.watch(seen):
            return  # its rows come with their gradients
        for label, x in seen.parts():
            self._add(label, x)

    def _add(self, label: str, x: Tensor, squares: Tensor | None = None) -> None:
        sample = self._samples.get(label)
        if sample is None:
            width = x.element_size() + (2 if self.gradients is not None else 0)
            share = self.max_bytes // self._inputs // (x.shape[1] * width)
            if not share:
                raise ValueError(
                    f"not one token of {x.shape[1]} {x.dtype} fits its share of max_bytes={self.max_bytes}"
                )
            sample = self._samples[label] = Reservoir(min(self.tokens, share), self.seed)
        sample.add(x, squares)

    def _write(self) -> None:
        from safetensors.torch import save_file

        remarks = self.remarks()
        if not self._samples:
            raise ValueError(
                "nothing was captured: " + "; ".join(f"{n}: {why}" for n, why in list(remarks.items())[:5])
            )
        about = {**self.result(), **versions(), "seed": self.seed, "remarks": remarks,
                 "tokens_seen": {label: s.seen for label, s in self._samples.items()}}  # fmt: skip
        squares = {}
        if self.gradients is not None:
            found = {label: sample.squares() for label, sample in self._samples.items()}
            squares = {label + SQUARES: s for label, s in found.items() if s is not None}
            about |= {"predicted_tokens": self.gradients.tokens, "sensitivity": self.gradients.problem or "of one draw"}
        with replacing(self.path) as temporary:
            save_file(
                {label: sample.rows() for label, sample in self._samples.items()} | squares,
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
        self._squares: Tensor | None = None  # bfloat16 [n, K], of gradients; NaN where none came
        self._token = np.zeros(n, np.int64)  # the place of each row's token in the stream

    def add(self, x: Tensor, squares: Tensor | None = None) -> None:
        """x: [M, K], of one K; a later dtype is converted to the first call's. squares: of gradients, [M, K]."""
        if self._rows is None:
            self._rows = torch.empty(self.n, x.shape[1], dtype=x.dtype)
        elif self._rows.shape[1] != x.shape[1]:
            raise ValueError(f"its input has {x.shape[1]} features after {self._rows.shape[1]} before")
        token = np.arange(self.seen, self.seen + x.shape[0])
        slot = np.where(token < self.n, token, self._draw.integers(0, token + 1))
        place = {s: t for s, t in zip(slot.tolist(), token.tolist(), strict=True) if s < self.n}  # the last one stays
        if place:
            slots, tokens = np.array(list(place)), np.array(list(place.values()))
            chosen_at = torch.from_numpy(tokens - self.seen).to(x.device)
            chosen = x[chosen_at]
            self._rows[torch.from_numpy(slots)] = chosen.to("cpu", self._rows.dtype)
            if squares is not None and self._squares is None:
                self._squares = torch.full_like(self._rows, math.nan, dtype=torch.bfloat16)
            if self._squares is not None:
                of = math.nan if squares is None else squares[chosen_at].to("cpu", torch.bfloat16)
                self._squares[torch.from_numpy(slots)] = of
            self._token[slots] = tokens
        self.seen += x.shape[0]

    def rows(self) -> Tensor:
        return self._rows[self._order()]

    def squares(self) -> Tensor | None:
        """Of the rows' gradients; None where some rows have none."""
        found = None if self._squares is None else self._squares[self._order()]
        return found if found is not None and bool(found.isfinite().all()) else None

    def _order(self) -> Tensor:
        """The slots in the stream's order."""
        return torch.from_numpy(np.argsort(self._token[: min(self.n, self.seen)]))


def capture(
    model: nn.Module, modules=None, *, path, tokens=TOKENS, seed=0, max_bytes=1 << 30, sensitivity: bool = False
) -> Capture:
    """Keep a sample of the inputs of modules while the model runs, and write it to a .safetensors file at the end.

        with nvfp4viz.capture(model, "*.down_proj", path="activations.safetensors"):
            model(input_ids)

    Args:
        modules:   as for `record`.
        tokens:    at most so many of each module (4096), drawn uniformly from all it sees, the same for a seed; or
                   which tokens count, as for `record`.
        max_bytes: of all activations together; each module has an equal share.
        sensitivity: also keep the squares of gradients of what is kept, in bfloat16, so that a sweep of the file has
                   `predicted_kl` under any recipe: each call goes forward with gradients and back once, as in `record`.
    The file appears, or is replaced, when the block ends; an error or a kill leaves what was there. RuntimeError where
    another process captures into the same path.
    """
    return Capture(model, modules, path, tokens, seed, max_bytes, sensitivity)
