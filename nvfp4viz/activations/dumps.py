"""The files that inference engines write, one a step, whose tensors are joined along their tokens.

SGLang's dumper writes {dir}/{experiment}/{tags}.pt, each {"value": tensor, "meta": {...}}; its
`--debug-tensor-dump-output-folder` writes {dir}/TP0_PP0_Rank0_pid1/Pass00000.pt, each a dict of module outputs.
Checked against sglang 0.5.23.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor


class Steps:
    """Reads one tensor that was written in several files, its tokens one after another: [tokens, K]."""

    def __init__(self, *reads):
        self.reads = list(reads)

    def __call__(self) -> Tensor:
        parts = [read() for read in self.reads]
        if len({p.shape[-1] for p in parts}) > 1:
            raise ValueError(f"its features differ between steps: {sorted({p.shape[-1] for p in parts})}")
        return torch.cat([p.flatten(0, -2) if p.ndim > 1 else p[None] for p in parts])


def sglang(path: Path, value) -> dict[str, Tensor] | None:
    """Tensors by name of a file that SGLang's dumper or tensor dump wrote; None where it is another file."""
    if isinstance(value, dict) and set(value) == {"value", "meta"} and isinstance(value["meta"], dict):
        meta = value["meta"]
        name = str(meta.get("name", path.stem)).removeprefix("non_intrusive__")
        found, rank = {name: value["value"]}, meta.get("rank", 0)
    elif isinstance(value, dict) and re.fullmatch(r"Pass\d+\.pt", path.name):
        found, rank = {}, int((re.search(r"_Rank(\d+)_", path.parent.name) or [0, 0])[1])
        for name, tensors in value.items():
            several = isinstance(tensors, (list, tuple))
            found |= {f"{name}.{i}": t for i, t in enumerate(tensors)} if several else {str(name): tensors}
    else:
        return None
    return {f"{name} [rank {rank}]" if rank else name: t for name, t in found.items() if isinstance(t, Tensor)}
