"""What is quantized as a server would: which matrices, their weights by which recipe, which of them share a scale."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ..checkpoints import Checkpoint, checkpoint
from ..nvfp4 import Recipe, as_recipe
from .choose import Choice, choose, describe
from .weights import Weight

MODES = ("activations", "activations+weights")
PRESETS = ("all-linear", "sglang-nvfp4-online", "checkpoint")
ONLINE = "4/6-mse-448-tensor-fast"  # SGLang 0.5.23, --quantization nvfp4_online: experts' weights whatever is set
SHARED = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"w1", "w3"}, {"q", "k", "v"}, {"wi_0", "wi_1"},
          {"query", "key", "value"})  # fmt: skip

_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")


@dataclass(eq=False)
class Plan:
    """What `impact` quantizes."""

    quantize: str  # a mode or a preset
    choice: Choice  # observed: what is quantized
    weights: Recipe | None = None  # of weights, always per tensor; None: none, or as the activations'
    same: bool = False  # weights by the recipe of the activations
    shared: bool = False  # q, k, v and gate, up have one scale
    checkpoint: Checkpoint | None = None  # whose weights and input scales are taken

    def recipe_of_weights(self, recipe: Recipe) -> Recipe | None:
        return replace(recipe, per_token=False) if self.same else self.weights

    def of(self, picked: dict[Weight, set[int] | None]) -> Plan:
        """The same of some weights only, perhaps of some experts of them."""
        return replace(self, choice=replace(self.choice, observed=dict(picked)))

    def input_scale(self, label: str) -> float | None:
        """The encode scale that a checkpoint has for an input, None where there is none."""
        if self.checkpoint is None:
            return None
        decode = [self.checkpoint.scales[n]["input"] for n in stored_names(label) if n in self.checkpoint.scales]
        known = [d for d in decode if d]
        return 1 / max(known) if known else None

    def group(self, weight: Weight) -> list[Weight]:
        """Matrices that share a weight's scale, itself among them."""
        block, _, last = weight.name.rpartition(".")
        names = next((s for s in SHARED if last in s), {last}) if self.shared else {last}
        return [w for w in self.choice.observed if w.name in {f"{block}.{n}" if block else n for n in names}]

    def sentence(self) -> str:
        """What is quantized, in words."""
        matrices = sum(len(w.labels()) for w in self.choice.observed)
        if self.quantize == MODES[0]:
            return f"inputs of {matrices} matrices; weights as they are"
        how = "as the checkpoint has them" if self.checkpoint else "by the same recipe, one scale a tensor"
        how = f"by {self.weights.name}" if self.weights else how
        how += "; q, k, v share a scale, and so do gate and up" if self.shared else ""
        return f"inputs and weights of {matrices} matrices; weights {how}"


def stored_names(label: str) -> list[str]:
    """What a checkpoint calls the matrices of one input."""
    owner, dot, last = label.rpartition(".")
    return [label] if last != "gate_up_proj" else [f"{owner}{dot}{n}" for n in ("gate_proj", "up_proj", last)]


def plan_of(model: nn.Module, quantize: str, modules, weights, path: str | Path | None) -> Plan:
    """quantize: a mode or a preset; weights: their own recipe; path: of the checkpoint. ValueError where none fits."""
    if quantize not in (*MODES, *PRESETS):
        known = ", ".join(map(repr, MODES + PRESETS[:-1]))
        raise ValueError(f"quantize={quantize!r} is neither {known} nor {PRESETS[-1]!r}")
    if (quantize == "checkpoint") != (path is not None):
        raise ValueError("quantize='checkpoint' and checkpoint=PATH go together: the path of a quantized checkpoint")
    if weights is not None and quantize in (MODES[0], "checkpoint"):
        raise ValueError(f"weights={weights!r} is given, but quantize={quantize!r} leaves no weight to quantize")
    recipe = None if weights is None else replace(as_recipe(weights), per_token=False)
    choice = _chosen(model, modules)
    if quantize == "sglang-nvfp4-online":
        keep = {w for w in choice.observed if w.kind == "stack" or _EXPERT.search(w.name)}
        _narrow(choice, keep, "no expert: nvfp4_online quantizes experts only")
        return Plan(quantize, choice, recipe or as_recipe(ONLINE), shared=True)
    if quantize == "checkpoint":
        stored = checkpoint(path)
        names = set(stored.matrices)
        keep = {w for w in choice.observed if any(n in names for label in w.labels() for n in stored_names(label))}
        _narrow(choice, keep, f"not quantized in the checkpoint {str(path)!r}")
        return Plan(quantize, choice, checkpoint=stored)
    with_weights = quantize != MODES[0]
    return Plan(quantize, choice, recipe, with_weights and recipe is None, shared=quantize == "all-linear")


def _narrow(choice: Choice, keep: set[Weight], why: str) -> None:
    for w in [w for w in choice.observed if w not in keep]:
        del choice.observed[w]
        choice.why[w] = why
    if not choice.observed:
        raise ValueError(f"nothing is left to quantize: every matrix is {why}")


def _chosen(model: nn.Module, modules) -> Choice:
    """By default all that is worth quantizing but the output layer; only what is a matrix."""
    choice = choose(model, modules)
    for w in [w for w in choice.observed if modules is None and w.head]:
        del choice.observed[w]
        choice.why[w] = "the output layer: kept as it is, as usual"
    if not choice.observed:
        why = f"{', '.join(choice.modules)}, which are not linear" if choice.modules else "only the output layer"
        raise ValueError(f"modules={describe(modules)} gives {why}: choose linear layers")
    return choice


def quantized_already(model: nn.Module) -> str | None:
    """What quantized the model's weights before it came here; None where they are plain."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    if method is not None:
        return str(getattr(method, "value", method))
    for module in model.modules():
        kind, home = type(module).__name__, type(module).__module__
        if home.startswith("bitsandbytes") or kind in ("Linear4bit", "Linear8bitLt"):
            return "bitsandbytes"
        if home.startswith("modelopt") or hasattr(module, "weight_quantizer"):
            return "modelopt"
        if home.startswith("compressed_tensors") or hasattr(module, "quantization_scheme"):
            return "compressed-tensors"
    return None


def check_weights(plan: Plan, model: nn.Module) -> None:
    """ValueError where weights are to be quantized that are not whole and plain in this process."""
    already = quantized_already(model)
    if already:
        raise ValueError(
            f"the model's weights are quantized already, by {already}: quantize='activations' measures its activations"
        )
    for w in plan.choice.observed:
        why = _not_whole(w)
        if why:
            raise ValueError(
                f"{w.name}: its weight {why}, so it cannot be quantized here: gather it in one process (or load the "
                "model without sharding and offload), or measure quantize='activations'"
            )


def _not_whole(weight: Weight) -> str | None:
    p = weight.parameter
    if not isinstance(p, Tensor) or not p.is_floating_point():
        return f"is a {getattr(p, 'dtype', type(p).__name__)}"
    if hasattr(p, "placements"):
        return "is a DTensor, sharded over processes"
    if p.is_meta:
        return "is on the meta device: it is offloaded"
    if p.numel() != weight.shape[0] * weight.shape[1] * (weight.shape[2] if len(weight.shape) > 2 else 1):
        return f"has {p.numel()} elements here instead of {' x '.join(map(str, weight.shape))}: it is sharded"
    return None
