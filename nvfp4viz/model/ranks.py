"""Statistics of many processes added up over torch.distributed, some tensors at a time."""

from __future__ import annotations

from functools import reduce
from operator import add

import torch.distributed as dist

from ..nvfp4 import Recipe
from ..stats import Stats
from .coverage import summary

TENSORS = 128  # gathered at a time: about 10 MB a rank under five recipes


def all_reduce(
    stats: dict[str, dict[str, Stats]], recipes: dict[str, Recipe], remarks: dict[str, str], counted=None, group=None
):
    """Statistics by name and recipe, remarks by name and `coverage.summary` of all ranks; the same on each of them.

    counted: what `Coverage.counted` says of this rank; None where nothing was watched.

    A name that a rank does not have adds nothing there. Raises ValueError on all ranks where their recipes differ,
    RuntimeError where torch.distributed is not initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialised: call init_process_group, or use sweep()")
    ranks = _gathered((recipes, list(stats), remarks, counted), group)
    if any(list(theirs.items()) != list(ranks[0][0].items()) for theirs, *_ in ranks):
        raise ValueError(f"ranks record different recipes: {[list(theirs) for theirs, *_ in ranks]}")
    labels = list(dict.fromkeys(label for _, theirs, *_ in ranks for label in theirs))
    merged: dict[str, dict[str, Stats]] = {}
    for start in range(0, len(labels), TENSORS):
        some = labels[start : start + TENSORS]
        parts = _gathered({label: stats[label] for label in some if label in stats}, group)
        for label in some:
            rows = [part[label] for part in parts if label in part]
            merged[label] = {name: reduce(add, (row[name] for row in rows)) for name in recipes}
    joined: dict[str, str] = {}
    for rank, (_, _, theirs, _) in enumerate(ranks):
        for name, text in theirs.items():
            joined[name] = (joined[name] + "; " if name in joined else "") + f"rank {rank}: {text}"
    watched = [rows for *_, rows in ranks if rows is not None]
    return merged, joined, summary(watched) if watched else None


def _gathered(mine, group) -> list:
    ranks: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, mine, group=group)
    return ranks
