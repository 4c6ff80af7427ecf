"""The weights of a model: every parameter of two and more dimensions, what it is for, and what to call its inputs.

Names are a checkpoint's, `model.layers.3.mlp.experts.7.down_proj`, whether the expert is a module of its own or a
slice of a 3-D parameter. Where a checkpoint may keep gate and up apart, `gate_up_proj` answers to their names too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

NARROW = 16  # outputs; what makes fewer decides or scores and is not worth quantizing

_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
_SUFFIX = re.compile(r"[._]?weight$")
_ADAPTER = re.compile(r"(^|\.)lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)")
_ROUTER = re.compile(
    r"(^|\.)(router|(shared_experts?|output|attn|moe|router)_gate)(\.|$)"
    r"|(^|\.)(mlp|moe|block_sparse_moe|feed_forward|ffn|mixer)\.(gate|wg)$"
)
_FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "w13": ("w1", "w3"), "qkv_proj": ("q_proj", "k_proj", "v_proj")}

CONVOLUTION = "a convolution: its windows of pixels or steps are no rows of features"


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter of two or more dimensions, or an engine's packed weight, with the module that owns it."""

    name: str  # the owner's path and the parameter's name without "weight"; of a stack without the expert's number
    kind: str  # "linear", "stack" (a slice an expert), "function" (used by hand), "embedding", "convolution", "adapter"
    module: nn.Module  # its owner
    attribute: str  # the parameter's name there
    shape: tuple[int, ...]
    router: bool = False  # decides where tokens go: stays as it is unless asked for
    head: bool = False  # makes the logits
    also: tuple[str, ...] = ()  # further names, where the model holds the module under several

    @property
    def parameter(self) -> Any:
        return getattr(self.module, self.attribute)

    @property
    def is_called(self) -> bool:
        """Whether its module is called to compute with it, so that a hook sees the input."""
        return self.attribute == "weight" and is_linear(self.module)

    @property
    def experts(self) -> int:
        return self.shape[0] if self.kind == "stack" else 1

    def label(self, expert: int | None = None) -> str:
        """What the input of one expert is called; of the whole weight without a number."""
        if expert is None:
            return self.name
        owner, dot, last = self.name.rpartition(".")
        return f"{owner}{dot}{expert}.{last}" if self.attribute != "weight" else f"{self.name}.{expert}"

    def labels(self) -> list[str]:
        return [self.label(e) for e in range(self.experts)] if self.kind == "stack" else [self.name]

    def spellings(self, label: str) -> list[str]:
        """A label and the names that a checkpoint may have for its parts."""
        owner, dot, last = label.rpartition(".")
        return [label, *(f"{owner}{dot}{part}" for part in _FUSED.get(last, ()))]


def plain_name(name: str) -> str:
    """A module's path without what torch.compile, FSDP, checkpointing and adapters wrap around it."""
    return _WRAPPERS.sub("", name + ".").rstrip(".")


def is_linear(module: nn.Module) -> bool:
    """Whether it is called as a linear layer: torch's own, Hugging Face's Conv1D, or an engine's class that says so."""
    kind = type(module).__name__
    if kind == "NonDynamicallyQuantizableLinear":  # nn.MultiheadAttention reads its weight and never calls it
        return False
    if isinstance(module, nn.Linear):
        return True
    return (kind == "Conv1D" and hasattr(module, "nf")) or ("Linear" in kind and hasattr(module, "weight"))


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def weights_of(model: nn.Module) -> list[Weight]:
    """Every weight of the model, a module once, in the model's order; two modules that tie a parameter are two."""
    head, paths = _head(model), {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(plain_name(path))
    found = [
        _weight(also, module, attribute, tensor, module is head or also[0].rpartition(".")[2] == "lm_head")
        for module, also in paths.items()
        if not _is_wrapper(module)
        for attribute, tensor in _tensors(module)
    ]
    return _with_routers(found)


def _head(model: nn.Module):
    try:
        return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    except (AttributeError, NotImplementedError):
        return None


def _is_wrapper(module: nn.Module) -> bool:
    """An adapter's or a wrapper's class that shows the weight of a layer inside it as its own."""
    return hasattr(module, "base_layer") and isinstance(module.base_layer, nn.Module)


def _tensors(module: nn.Module):
    """Parameters of two and more dimensions; the weight of a linear layer also where it is packed or a buffer."""
    for name, tensor in module._parameters.items():
        if tensor is not None and tensor.ndim >= 2 and "bias" not in name:  # experts have a bias each: [E, N]
            yield name, tensor
    if is_linear(module) and "weight" not in {
        n for n, p in module._parameters.items() if p is not None and p.ndim >= 2
    }:
        tensor = getattr(module, "weight", None)
        if tensor is not None:
            yield "weight", tensor


def _weight(paths: list[str], module: nn.Module, attribute: str, tensor, head: bool) -> Weight:
    last = _SUFFIX.sub("", attribute)
    name, *also = (".".join(part for part in (path, last) if part) or type(module).__name__ for path in paths)
    if _ADAPTER.search(name):
        kind = "adapter"
    elif is_linear(module) and attribute == "weight":
        kind = "linear"
    elif is_convolution(module):
        kind = "convolution"
    elif isinstance(module, nn.Embedding) or "Embedding" in type(module).__name__:
        kind = "embedding"
    else:
        kind = "stack" if tensor.ndim == 3 else "function"
    router = kind in ("linear", "function") and bool(_ROUTER.search(name))
    return Weight(name, kind, module, attribute, _shape(module, tensor), router, head, tuple(also))


def _shape(module: nn.Module, tensor) -> tuple[int, ...]:
    """[N, K] as it computes, where storage says something else."""
    if type(module).__name__ == "Conv1D":
        return tuple(reversed(tensor.shape))
    packed = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return packed if all(isinstance(n, int) for n in packed) else tuple(tensor.shape)


def blocks_of(weights: list[Weight]) -> dict[str, int]:
    """Modules that hold experts, by path, and how many they hold: what routes to them is beside them, or in there."""
    found: dict[str, int] = {}
    for w in weights:
        match = re.match(r"(.*?)\.?experts\.(\d+)\.", w.name)
        if match:
            found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
        elif w.kind == "stack":
            owner = w.name if w.attribute == "weight" else w.name.rpartition(".")[0]
            found[owner.rpartition(".")[0]] = w.experts
    return found


def _with_routers(weights: list[Weight]) -> list[Weight]:
    """With gates marked that sit beside the experts they choose among: as many outputs as there are experts."""
    experts = blocks_of(weights)
    children: dict[str, set[str]] = {}
    for w in weights:
        block, _, last = w.name.rpartition(".")
        children.setdefault(block, set()).add(last)

    def is_router(w: Weight) -> bool:
        block, _, last = w.name.rpartition(".")
        if w.router and last in ("gate", "wg"):  # of a dense layer, it is one of the layer's three matrices
            return not children[block] & {"up", "down", "up_proj", "down_proj"}
        return w.router or (w.kind in ("linear", "function") and w.shape[0] == experts.get(block))

    return [replace(w, router=is_router(w)) for w in weights]


def why_not_by_default(weight: Weight) -> str | None:
    """The reason for which a weight's input is not taken unless its name is asked for."""
    if weight.kind == "convolution":
        return CONVOLUTION
    if weight.kind == "adapter":
        return "an adapter's own matrix: servers keep it as it is"
    if weight.kind == "embedding":
        return "an embedding: looked up, not multiplied"
    if weight.router:
        return "a router or gate: kept as it is, since it decides where tokens go"
    return too_narrow(weight.shape[0]) if weight.kind == "linear" else None


def too_narrow(outputs: int) -> str | None:
    return f"it has {outputs} outputs, fewer than {NARROW}: kept as it is" if outputs < NARROW else None
