"""Statistics of many processes added up over torch.distributed, in a fixed amount of memory."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
import torch.distributed as dist

from ..nvfp4 import Recipe
from ..stats import Stats

ROWS = 512  # statistics sent at a time: 4 MB

_KINDS = {  # how fields travel: what they are, the operation, the type
    "counts": (lambda f: f.metadata["merge"] == "sum" and _dtype(f) == np.int64, "SUM", torch.int64),
    "sums": (lambda f: f.metadata["merge"] == "sum" and _dtype(f) == np.float64, "SUM", torch.float64),
    "maxima": (lambda f: f.metadata["merge"] == "max", "MAX", torch.float64),
}


def _dtype(f):
    return np.dtype(f.metadata.get("dtype", np.int64 if isinstance(f.default, int) else np.float64))


_FIELDS = {kind: [f for f in fields(Stats) if f.metadata and fits(f)] for kind, (fits, _, _) in _KINDS.items()}


def all_reduce(stats: dict[str, dict[str, Stats]], recipes: dict[str, Recipe], remarks: dict[str, str], group=None):
    """Statistics by name and recipe, and remarks by name, of all ranks together; the same on each of them.

    A name that a rank does not have adds nothing there. Raises ValueError on all ranks where their recipes differ,
    RuntimeError where torch.distributed is not initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialised: call init_process_group, or use sweep()")
    mine = {
        "recipes": recipes,
        "stats": {label: next((s.features, s.engine) for s in row.values()) for label, row in stats.items()},
        "remarks": remarks,
    }
    ranks: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, mine, group=group)
    if any(list(r["recipes"].items()) != list(ranks[0]["recipes"].items()) for r in ranks):
        raise ValueError(f"ranks record different recipes: {[list(r['recipes']) for r in ranks]}")
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else "cpu"
    labels = list(dict.fromkeys(label for r in ranks for label in r["stats"]))
    keys = [(label, name) for label in labels for name in recipes]
    merged: dict[str, dict[str, Stats]] = {label: {} for label in labels}
    for start in range(0, len(keys), ROWS):
        some = keys[start : start + ROWS]
        summed = {}
        for kind, (_, operation, dtype) in _KINDS.items():
            rows = np.stack([_pack(stats.get(label, {}).get(name, _NOTHING), kind) for label, name in some])
            tensor = torch.from_numpy(rows).to(device, dtype)
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation), group=group)
            summed[kind] = tensor.cpu().numpy()
        for i, (label, name) in enumerate(some):
            features, engines = zip(*(r["stats"][label] for r in ranks if label in r["stats"]), strict=True)
            merged[label][name] = Stats(
                recipes[name],
                " + ".join(sorted({e for engine in engines for e in engine.split(" + ")})),
                features[0] if len(set(features)) == 1 else 0,
                **{key: value for kind in _KINDS for key, value in _unpack(summed[kind][i], kind)},
            )
    joined: dict[str, str] = {}
    for rank, r in enumerate(ranks):
        for name, text in r["remarks"].items():
            joined[name] = (joined[name] + "; " if name in joined else "") + f"rank {rank}: {text}"
    return merged, joined


_NOTHING = Stats(Recipe(), "", 0)


def _pack(stats: Stats, kind: str) -> np.ndarray:
    """The fields of one kind, one after another."""
    return np.concatenate([np.ravel(getattr(stats, f.name)) for f in _FIELDS[kind]])


def _unpack(row: np.ndarray, kind: str):
    """The inverse of `_pack`: names and values."""
    at = 0
    for f in _FIELDS[kind]:
        shape = f.metadata.get("shape")
        size = int(np.prod(shape)) if shape else 1
        part, at = row[at : at + size], at + size
        yield f.name, part.reshape(shape).copy() if shape else type(f.default)(part[0])
