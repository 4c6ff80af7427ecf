"""A plan in the words of engines: which modules they are to leave alone, or to run in FP8.

What engines fuse (q, k and v; gate and up; the experts of a layer) stands in a list with all its parts, and so does
what no plan quantizes, such as the output layer and routers. Names are the model's in transformers; engines that
rename modules map them as they map a checkpoint's.
"""

from __future__ import annotations

import re

from .units import FUSED

NVFP4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
FP8_BY_ROW = {"num_bits": 8, "type": "float", "symmetric": True}


def export(plan, engine: str, point) -> dict:
    """What an engine reads.

    Args:
        plan:   LayerPlan. engine: a name among EXPORTS. point: of the plan's frontier.
    Returns: "modelopt": the content of hf_quant_config.json; "compressed-tensors": `quantization_config` of
        config.json; "sglang": environment variables; "transformers": arguments of NVFP4Config or FourOverSixConfig.
    Raises ValueError for another name, and where an engine cannot run the plan.
    """
    if engine not in EXPORTS:
        raise ValueError(f"no export for {engine!r}: there are {', '.join(map(repr, EXPORTS))}")
    return EXPORTS[engine](plan, [u for u in plan.units if u["name"] in set(point.kept)])


def _modelopt(plan, kept: list[dict]) -> dict:
    quantization: dict = {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16}
    if plan.keep == "fp8" and kept:
        fp8 = {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}
        fp4 = {"quant_algo": "NVFP4", "group_size": 16}
        names = [u["name"] for u in kept]
        layers = {m: fp8 if u["name"] in names else fp4 for u in plan.units for m in stored(u)}
        quantization = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None, "quantized_layers": layers}
        kept = []
    quantization["exclude_modules"] = [*_rest(plan), *(n for u in kept for n in _wild(u))]
    return {"producer": {"name": "nvfp4viz", "version": _version(plan)}, "quantization": quantization}


def _compressed_tensors(plan, kept: list[dict]) -> dict:
    groups = {"group_0": {
        "targets": ["Linear"], "weights": {**NVFP4, "dynamic": False},
        "input_activations": {**NVFP4, "dynamic": "local"}, "format": "nvfp4-pack-quantized",
    }}  # fmt: skip
    if plan.keep == "fp8" and kept:
        groups["group_1"] = {
            "targets": [n for u in kept for n in _regex(u)], "format": "float-quantized",
            "weights": {**FP8_BY_ROW, "strategy": "channel", "dynamic": False},
            "input_activations": {**FP8_BY_ROW, "strategy": "token", "dynamic": True},
        }  # fmt: skip
        kept = []
    return {
        "quant_method": "compressed-tensors", "quantization_status": "compressed", "config_groups": groups,
        "format": "nvfp4-pack-quantized" if len(groups) == 1 else "mixed-precision",
        "ignore": [*_rest(plan), *(n for u in kept for n in _regex(u))],
    }  # fmt: skip


def _sglang(plan, kept: list[dict]) -> dict:
    if plan.quantize != "sglang-nvfp4-online":
        raise ValueError(
            f"this plan is of quantize={plan.quantize!r}; SGLANG_FP4_IGNORED_LAYERS is read by --quantization "
            "nvfp4_online, which quantizes experts alone: plan with quantize='sglang-nvfp4-online'"
        )
    _only_as_it_is(plan, "SGLANG_FP4_IGNORED_LAYERS")
    return {"SGLANG_FP4_IGNORED_LAYERS": ",".join(u["name"] for u in kept)}


def _transformers(plan, kept: list[dict]) -> dict:
    _only_as_it_is(plan, "modules_to_not_convert")
    names = [n for u in kept for n in ([u["name"]] if u["family"] == "experts" else u["matrices"])]
    return {"modules_to_not_convert": [*_rest(plan), *names]}


EXPORTS = {
    "modelopt": _modelopt, "compressed-tensors": _compressed_tensors, "sglang": _sglang, "transformers": _transformers,
}  # fmt: skip


def _only_as_it_is(plan, what: str) -> None:
    if plan.keep != "bf16":
        raise ValueError(f"{what} leaves layers as they are; this plan keeps them in {plan.keep}: use keep='bf16'")


def stored(unit: dict) -> list[str]:
    """A unit's matrices as checkpoints name them: gate and up apart."""
    names = []
    for matrix in unit["matrices"]:
        owner, dot, last = matrix.rpartition(".")
        parts = FUSED.get(last, (last,)) if unit["family"] == "experts" else (last,)
        names += [f"{owner}{dot}{part}" for part in parts]
    return names


def _wild(unit: dict) -> list[str]:
    """Exact names; of experts a pattern with a star, as ModelOpt writes."""
    return [unit["name"] + "*"] if unit["family"] == "experts" else list(unit["matrices"])


def _regex(unit: dict) -> list[str]:
    """Exact names; of experts an expression, as compressed-tensors marks it: the block or what is in it."""
    return [rf"re:^{re.escape(unit['name'])}(\..*)?$"] if unit["family"] == "experts" else list(unit["matrices"])


def _rest(plan) -> list[str]:
    """What is in no unit, a stack's experts under their block's name."""
    blocks = {u["name"] for u in plan.units}
    names = [re.sub(r"((?:^|\.)experts)\.\d+\..*", r"\1", n) for n in plan.unquantized]
    return [n for n in dict.fromkeys(names) if n not in blocks]


def _version(plan) -> str:
    return str(plan.provenance.get("versions", {}).get("nvfp4viz"))
