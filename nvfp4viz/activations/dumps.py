"""The files that other programs write, one a step or request, whose tensors are joined along their tokens.

SGLang's dumper writes {dir}/{experiment}/{tags}.pt, each {"value": tensor, "meta": {...}}, which its comparator reads
too; its `--debug-tensor-dump-output-folder` writes {dir}/TP0_PP0_Rank0_pid1/Pass00000.pt, each a dict of outputs.
vLLM's ExampleHiddenStatesConnector writes a .safetensors a request, {"hidden_states": [T, layers, K],
"token_ids": [T]}. Model-Optimizer's collections for draft models are a .pt a conversation, {"hidden_states": [T, K],
"aux_hidden_states": [T, ...], "input_ids"}. Transformer Engine's DumpTensors writes
rank_0/iter_000100/{layer}_{tensor}.pt. Read off sglang 0.5.23, vllm 0.33.0 and transformer-engine 2.20.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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


def dumped(path: Path, value) -> dict[str, Tensor] | None:
    """Tensors by name of a .pt file that one of these programs wrote; None where it is another file."""
    return next((found for reads in (sglang, collected, iteration) if (found := reads(path, value)) is not None), None)


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


def collected(path: Path, value) -> dict[str, Tensor] | None:
    """Hidden states of one conversation, as they are collected to train draft models."""
    if not isinstance(value, dict) or not {"input_ids", "hidden_states"} <= set(value):
        return None
    names = ("hidden_states", "aux_hidden_states")
    return {name: value[name] for name in names if isinstance(value.get(name), Tensor)} or None


def iteration(path: Path, value) -> dict[str, Tensor] | None:
    """What Transformer Engine dumps in one iteration: a tensor, or the same in several precisions."""
    if not re.fullmatch(r"iter_\d{6}", path.parent.name):
        return None
    rank = re.fullmatch(r"rank_(\d+)", path.parents[1].name)
    several = value if isinstance(value, dict) else {"": value}
    found = {f"{path.stem}.{k}".rstrip("."): t for k, t in several.items() if isinstance(t, Tensor)}
    return {f"{n} [rank {rank[1]}]" if rank and int(rank[1]) else n: t for n, t in found.items()} or None


def hidden_layers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many layers a file of vLLM's hidden states holds, from its tensors' shapes; 0 where it is another file."""
    states, tokens = shapes.get("hidden_states", ()), shapes.get("token_ids", ())
    fits = set(shapes) == {"hidden_states", "token_ids"} and len(states) == 3 and tokens == states[:1]
    return states[1] if fits else 0
