"""What can be kept: the smallest parts of a model that an engine runs in one precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..model import Plan as Scheme
from ..model import Weight

# What engines run as one product, by the name they give it; its parts are kept together or not at all
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj"), "w13": ("w1", "w3"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"), "qkv": ("q", "k", "v"),
    "query_key_value": ("query", "key", "value"), "wi": ("wi_0", "wi_1"),
}  # fmt: skip
_EXPERT = re.compile(r"(.*?(?:^|\.)experts)(?:\.(\d+))?\.[^.]+$")
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True, eq=False)
class Unit:
    """Matrices that are quantized or kept together."""

    name: str  # as engines call what they fuse: "model.layers.3.self_attn.qkv_proj", "model.layers.3.mlp.experts"
    picked: Mapping[Weight, frozenset[int] | None]  # weight -> experts; None: all of it
    matrices: tuple[str, ...]  # as a checkpoint calls them
    parameters: int

    @property
    def family(self) -> str:
        return "experts" if _expert_block(self.name) else self.name.rpartition(".")[2]

    @property
    def layer(self) -> int:
        """-1 for what stands in no layer."""
        found = _LAYER.search(self.name)
        return int(found[1]) if found else -1


def units_of(scheme: Scheme, experts: bool = False) -> list[Unit]:
    """The units of what a scheme quantizes, in the model's order.

    experts: each expert is a unit, which no engine keeps apart; else those of a layer are one.
    """
    parts: dict[str, dict[Weight, set[int] | None]] = {}
    names: dict[str, list[str]] = {}
    for w, taken in scheme.choice.observed.items():
        some = sorted(range(w.experts) if taken is None else taken) if experts and w.kind == "stack" else [None]
        for e in some:
            label = w.label(e)
            unit = _unit_name(label, experts)
            parts.setdefault(unit, {})[w] = taken if e is None else {e}
            whole = [n for i, n in enumerate(w.labels()) if scheme.choice.takes(w, i)]
            names.setdefault(unit, []).extend(whole if e is None else [label])
    return [_unit(name, picked, tuple(names[name])) for name, picked in parts.items()]


def _unit(name: str, picked: Mapping, matrices: tuple[str, ...]) -> Unit:
    if len(matrices) == 1 and not _expert_block(name):  # a fused name for what stands alone
        name = matrices[0]
    return Unit(name, picked, matrices, sum(_size(w, taken) for w, taken in picked.items()))


def _size(weight: Weight, taken) -> int:
    n = 1
    for side in weight.shape:
        n *= side
    return n if taken is None or weight.kind != "stack" else n // weight.experts * len(taken)


def _unit_name(label: str, each: bool) -> str:
    expert = _EXPERT.match(label)
    if expert:
        return f"{expert[1]}.{expert[2]}" if each and expert[2] else expert[1]
    block, dot, last = label.rpartition(".")
    fused = next((name for name, parts in FUSED.items() if last in parts), last)
    return f"{block}{dot}{fused}"


def _expert_block(name: str) -> bool:
    return bool(re.search(r"(^|\.)experts(\.\d+)?$", name))
