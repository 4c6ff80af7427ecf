"""How two outputs of a causal language model differ, token by token."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..analysis import judged

CHUNK = 128  # positions whose probabilities are compared at a time
RUN = 64  # neighbouring tokens whose sums are kept
COLUMNS = ("sequence", "tokens", "kl", "same", "loss_before", "loss_after")  # of a run


def counted(batch: dict) -> Tensor:
    """bool [B, T-1]: predictions that count, of a token from a token; padding predicts nothing."""
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    every = torch.ones_like(ids[:, 1:], dtype=torch.bool)
    return every if mask is None else mask[:, 1:].bool() & mask[:, :-1].bool()


def by_token(before: Tensor, after: Tensor, targets: Tensor) -> Tensor:
    """float64 [T, 4]: KL in nats, same top token, loss before, loss after.

    Args: before: log-probabilities [T, V]; after: logits [T, V]; targets: int [T].
    """
    parts = []
    for i in range(0, len(before), CHUNK):
        p, q = before[i : i + CHUNK], torch.log_softmax(after[i : i + CHUNK].float(), -1)
        kl = (p.exp() * (p - q)).sum(-1, dtype=torch.float64)
        same = (p.argmax(-1) == q.argmax(-1)).double()
        at = targets[i : i + CHUNK, None].to(p.device)
        losses = [-x.gather(-1, at).squeeze(-1).double() for x in (p, q)]
        parts.append(torch.stack([kl, same, *losses], 1))
    return torch.cat(parts)


def runs(before: Tensor, after: Tensor, batch: dict, first: int) -> list[list[float]]:
    """Sums over each run of 64 positions, in the order of COLUMNS; sequences are numbered from `first`.

    Args: before: log-probabilities [B, T-1, V]; after: logits [B, T, V].
    """
    counts, rows = counted(batch), []
    for b in range(len(before)):
        changes = by_token(before[b], after[b, :-1], batch["input_ids"][b, 1:]).cpu()
        valid = counts[b].cpu()
        for part, some in zip(changes.split(RUN), valid.split(RUN), strict=True):
            if some.any():
                rows.append([first + b, int(some.sum()), *part[some].sum(0).tolist()])
    return rows


def kl_interval(rows, other=None) -> tuple[float, float, float]:
    """KL in nats a token and the ends of its 95 % interval; with `other`, by how much its KL is larger, paired.

    As `impact` has them: over sequences, else over joined runs of the only one; NaN for the ends where it is too short.
    """
    table = np.asarray(rows, float)
    sequences, tokens, kl = table[:, :3].T
    if other is not None:
        kl = np.asarray(other, float)[:, 2] - kl
    total = tokens.sum()
    value, judge = float(kl.sum() / total), judged(tokens, sequences, [table[:, 2]])
    if judge is None:
        return value, math.nan, math.nan
    half = judge.half((kl - value * tokens) / total)
    if other is None and value > 0:  # symmetric in the logarithm: single sequences scatter upwards
        return value, value / math.exp(half / value), value * math.exp(half / value)
    return value, value - half, value + half
