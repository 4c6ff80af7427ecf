"""How two outputs of a causal language model differ, token by token."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..analysis import half_width

CHUNK = 128  # positions whose probabilities are compared at a time
RUN = 64  # neighbouring tokens that an interval takes as one, since they are alike
ENOUGH = 8  # sequences, or runs, that give an interval
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

    Over sequences where there are eight, else over runs of neighbours, widened as measured for both. NaN for the ends
    where there are fewer than eight.
    """
    table = np.asarray(rows, float)
    tokens, kl = table[:, 1], table[:, 2]
    if other is not None:
        kl = np.asarray(other, float)[:, 2] - kl
    total, value = tokens.sum(), kl.sum() / tokens.sum()
    sequences = np.unique(table[:, 0], return_inverse=True)[1]
    group = sequences if sequences.max() + 1 >= ENOUGH else np.arange(len(table))
    if group.max() + 1 < ENOUGH:
        return float(value), math.nan, math.nan
    half = half_width(np.bincount(group, kl - value * tokens) / total)
    return float(value), float(value - half), float(value + half)
