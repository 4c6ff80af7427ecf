"""The change of a language model's output: KL by percentile, position and sequence, and top tokens that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .outputs import by_token, counted

PERCENTILES = (50, 90, 99, 99.9, 100)
CONTEXT = 12  # tokens before a flip that are shown
MOST = 1000  # flips that are kept, those of the largest KL


@dataclass(frozen=True)
class Flip:
    """A token whose most likely successor is another one after quantization."""

    sequence: int
    position: int  # of the last token of the context, from 0
    context: str  # the tokens before, as text, or their ids
    before: str  # most likely as it is
    after: str  # most likely as quantized
    came: str  # what the text has
    probability: float  # of `before`, in the model as it is
    kl: float  # nats


@dataclass(frozen=True, eq=False)
class OutputChange:
    """By predicted token: KL in nats, where it stands, and whether the top token is the same."""

    kl: np.ndarray  # float64 [n]
    same: np.ndarray  # bool [n]
    sequence: np.ndarray  # int [n]
    position: np.ndarray  # int [n], of the token predicted from
    flips: list[Flip] = field(default_factory=list)  # the largest KL first
    starts: list[str] = field(default_factory=list)  # the first tokens of each sequence
    tokens_given: int = 0

    def percentiles(self) -> dict[float, float]:
        """KL at the 50th, 90th, 99th and 99.9th percentile, and the largest (100)."""
        return {p: float(np.percentile(self.kl, p)) for p in PERCENTILES} if self.kl.size else {}

    def by_position(self) -> list[tuple[int, int, float]]:
        """(first, last, mean KL) of positions 0, 1, 2 to 3, 4 to 7, ...: whether errors gather along the text."""
        rows, first, last = [], 0, 0
        while first <= self.position.max(initial=-1):
            some = (self.position >= first) & (self.position <= last)
            if some.any():
                rows.append((first, min(last, int(self.position.max())), float(self.kl[some].mean())))
            first, last = last + 1, 2 * last + 1
        return rows

    def by_sequence(self) -> list[tuple[int, float, str]]:
        """(sequence, mean KL, how it begins), the largest change first."""
        found = np.unique(self.sequence).tolist()
        return sorted(
            ((s, float(self.kl[self.sequence == s].mean()), self.starts[s]) for s in found), key=lambda row: -row[1]
        )

    def table(self):
        """A pandas DataFrame of the flips, the largest KL first."""
        import pandas as pd

        return pd.DataFrame([vars(f) for f in self.flips], columns=list(Flip.__dataclass_fields__))

    def __repr__(self) -> str:
        spots = ", ".join(f"{'max' if p == 100 else f'{p} %'} {v:.3g}" for p, v in self.percentiles().items())
        flips = int((~self.same).sum())
        return f"OutputChange({self.kl.size:,} tokens, {flips:,} top tokens differ; KL in nats: {spots})"

    @staticmethod
    def joined(parts: Sequence[OutputChange]) -> OutputChange:
        """Of several batches, their sequences numbered on."""
        first, flips, shifted = 0, [], []
        for part in parts:
            shifted.append(part.sequence + first)
            flips += [Flip(**vars(f) | {"sequence": f.sequence + first}) for f in part.flips]
            first += len(part.starts)
        flips.sort(key=lambda f: -f.kl)
        columns = (np.concatenate([getattr(p, name) for p in parts]) for name in ("kl", "same", "position"))
        kl, same, position = columns
        starts = [s for p in parts for s in p.starts]
        return OutputChange(kl, same, np.concatenate(shifted), position, flips[:MOST], starts,
                            sum(p.tokens_given for p in parts))  # fmt: skip


def change_of(before: Tensor, after: Tensor, batch: dict, decode: Callable | None = None) -> OutputChange:
    """Of one batch. before, after: logits [B, T, V]."""
    ids, counts = batch["input_ids"], counted(batch).cpu()
    text = _text(decode)
    kl, same, sequence, position, flips = [], [], [], [], []
    for b in range(len(ids)):
        change = by_token(torch.log_softmax(before[b, :-1].float(), -1), after[b, :-1], ids[b, 1:]).cpu().numpy()
        at = np.flatnonzero(counts[b].numpy())
        kl.append(change[at, 0])
        same.append(change[at, 1] > 0)
        sequence.append(np.full(len(at), b))
        position.append(at)
        for t in at[change[at, 1] == 0].tolist():
            tops = [int(x[b, t].argmax()) for x in (before, after)]
            context = text(ids[b, max(0, t + 1 - CONTEXT) : t + 1].tolist())
            words = [text([token]) for token in (*tops, int(ids[b, t + 1]))]
            probability = float(torch.softmax(before[b, t].float(), -1)[tops[0]])
            flips.append(Flip(b, t, context, *words, probability, float(change[t, 0])))
    flips = sorted(flips, key=lambda f: -f.kl)[:MOST]
    joined = (np.concatenate(part) for part in (kl, same, sequence, position))
    return OutputChange(*joined, flips, [text(row[: 2 * CONTEXT].tolist()) for row in ids], int(ids.numel()))


def _text(decode: Callable | None) -> Callable[[list[int]], str]:
    return (lambda ids: " ".join(map(str, ids))) if decode is None else (lambda ids: str(decode(ids)))
