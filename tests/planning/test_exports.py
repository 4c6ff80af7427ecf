"""What a plan tells engines, read back by their own code: installed packages, or files of their published wheels."""

import ast
import fnmatch
import json
import re
import types
import typing
from pathlib import Path

import pytest
import torch
from torch import nn
from wheels import wheel_file

from nvfp4viz.planning import EXPORTS, LayerPlan, Point

ROOT = Path(__file__).parents[2]
LAYERS = 12  # so that layer 1 begins like layers 10 and 11
KEPT = ("model.layers.1.self_attn.qkv_proj", "model.layers.1.mlp.experts", "model.layers.3.self_attn.o_proj",
        "model.layers.3.mlp.shared_expert.gate_up_proj", "model.layers.10.mlp.experts")  # fmt: skip


def _units():
    for i in range(LAYERS):
        block = f"model.layers.{i}"
        yield f"{block}.self_attn.qkv_proj", [f"{block}.self_attn.{n}_proj" for n in "qkv"]
        yield f"{block}.self_attn.o_proj", [f"{block}.self_attn.o_proj"]
        shared = f"{block}.mlp.shared_expert"
        yield f"{shared}.gate_up_proj", [f"{shared}.gate_proj", f"{shared}.up_proj"]
        yield f"{shared}.down_proj", [f"{shared}.down_proj"]
        experts = f"{block}.mlp.experts"
        yield experts, [f"{experts}.{e}.{n}" for n in ("gate_up_proj", "down_proj") for e in range(2)]


def a_plan(keep="bf16", quantize="all-linear"):
    units = [
        {"name": name, "family": name.rpartition(".")[2], "layer": int(name.split(".")[2]), "parameters": 1,
         "multiply_adds": 1, "matrices": matrices, "predicted_kl": 0.0, "spared_kl": 0.0}
        for name, matrices in _units()
    ]  # fmt: skip
    point = Point(KEPT, 0.1, 0, 1, 0.1, 5.0, 0.9)
    rest = {"lm_head": "the output layer", **{f"model.layers.{i}.mlp.gate": "a router" for i in range(LAYERS)}}
    return LayerPlan("standard", keep, "bits", quantize, units, [point], 0, [], {}, rest, {"versions": {}})


def modules():
    """Every linear module of a checkpoint -> whether the plan leaves it alone."""
    plan = a_plan()
    found = dict.fromkeys(plan.unquantized, True)
    for u in plan.units:
        for matrix in u["matrices"]:
            for name in (
                [matrix]
                if not matrix.endswith(".gate_up_proj")
                else [matrix.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj")]
            ):
                found[name] = u["name"] in KEPT
    return found


def fused():
    """Every module as SGLang and vLLM build it -> whether the plan leaves it alone."""
    return {"lm_head": True, **{u["name"]: u["name"] in KEPT for u in a_plan().units}}


def tree(names):
    """A model of linear layers with these names."""
    model = nn.Module()
    for name in names:
        at = model
        *path, last = name.split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.add_module(last, nn.Linear(32, 32, bias=False))
    return model


def _function(source, name, **names):
    """One function or method of a source that cannot be imported here, as a function."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name]
    nodes[0].decorator_list = []
    exec(compile(ast.Module([nodes[0]], []), name, "exec"), {**vars(typing), **names, "re": re}, names)
    return names[name]


@pytest.fixture
def sglang():
    """SGLang 0.5.23: (skipped(prefix, names), excluded(prefix, names))."""
    utils = wheel_file("sglang", "0.5.23", "sglang/srt/layers/quantization/utils.py")
    match = _function(utils, "_module_path_match")
    fallback = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    skipped = _function(utils, "is_layer_skipped", _module_path_match=match, _FALLBACK_FUSED_SHARDS=fallback,
                        MappingProxyType=types.MappingProxyType)  # fmt: skip
    source = wheel_file("sglang", "0.5.23", "sglang/srt/layers/quantization/modelopt_quant.py")
    compiled = _function(source, "_compile_exclusion_pattern")
    method = _function(source, "is_layer_excluded", _compile_exclusion_pattern=compiled)
    return skipped, lambda prefix, names: method(types.SimpleNamespace(exclude_modules=names), prefix)


def test_sglang_reads_modelopts_list(sglang):
    names = a_plan().export("modelopt")["quantization"]["exclude_modules"]
    skipped, excluded = sglang
    for prefix, kept in fused().items():
        linear = skipped(prefix, names) if not prefix.endswith(".experts") else False
        assert (linear or excluded(prefix, names)) == kept, prefix


def test_sglang_reads_its_variable(sglang):
    value = a_plan(quantize="sglang-nvfp4-online").export("sglang")["SGLANG_FP4_IGNORED_LAYERS"]
    source = wheel_file("sglang", "0.5.23", "sglang/srt/layers/quantization/nvfp4_online.py")
    assert "SGLANG_FP4_IGNORED_LAYERS.get()" in source and 'ignored_layers_str.split(",")' in source
    normalize = _function(source, "_normalize_ignored_layers")
    names = normalize([part.strip() for part in value.split(",")])
    for prefix, kept in fused().items():
        if prefix.endswith(".experts"):
            assert sglang[0](prefix, names) == kept, prefix


def test_vllm_reads_modelopts_list(sglang):
    source = wheel_file("vllm", "0.33.0", "vllm/model_executor/layers/quantization/modelopt.py")
    skipped = lambda prefix, names, mapping: sglang[0](prefix, names)  # noqa: E731  its own is not in the file
    method = _function(source, "is_layer_excluded", fnmatch=fnmatch.fnmatch, is_layer_skipped=skipped)
    names = a_plan().export("modelopt")["quantization"]["exclude_modules"]
    config = types.SimpleNamespace(exclude_modules=names, packed_modules_mapping={})
    for prefix, kept in fused().items():
        assert bool(method(config, prefix)) == kept, prefix


def test_modelopt_converts_its_list():
    convert = pytest.importorskip("modelopt.torch.export.convert_hf_config").convert_hf_quant_config_format
    exported = a_plan().export("modelopt")
    found = convert(exported)
    assert found["quant_algo"] == "NVFP4" and found["ignore"] == exported["quantization"]["exclude_modules"]
    mixed = convert(a_plan("fp8").export("modelopt"))
    targets = {group["weights"]["num_bits"]: set(group["targets"]) for group in mixed["config_groups"].values()}
    kept = {n for n, k in modules().items() if k} - set(a_plan().unquantized)
    assert targets == {8: kept, 4: {n for n, k in modules().items() if not k}}
    assert set(mixed["ignore"]) == set(a_plan().unquantized)


def test_modelopt_quantizes_all_but_the_list():
    mtq = pytest.importorskip("modelopt.torch.quantization")
    names = a_plan().export("modelopt")["quantization"]["exclude_modules"]
    rules = [r for r in mtq.NVFP4_DEFAULT_CFG["quant_cfg"] if r["quantizer_name"] != "*"
             and r.get("enable", True)]  # fmt: skip
    off = [{"quantizer_name": f"{n}*" if n.endswith("*") else f"{n}.*", "enable": False} for n in names]
    model = mtq.quantize(tree(modules()), {"quant_cfg": [*rules, *off], "algorithm": None})
    for name, kept in modules().items():
        assert model.get_submodule(name).weight_quantizer.is_enabled != kept, name


@pytest.mark.parametrize("keep", ["bf16", "fp8"])
def test_compressed_tensors_applies_its_config(keep):
    quantization = pytest.importorskip("compressed_tensors.quantization")
    config = a_plan(keep).export("compressed-tensors")
    parsed = quantization.QuantizationConfig.model_validate(json.loads(json.dumps(config)))
    with torch.device("meta"):
        model = tree(modules())
    parsed.quantization_status = quantization.QuantizationStatus.INITIALIZED
    quantization.apply_quantization_config(model, parsed)
    for name, kept in modules().items():
        scheme = getattr(model.get_submodule(name), "quantization_scheme", None)
        bits = scheme.weights.num_bits if scheme is not None else 16
        assert bits == (4 if not kept else 16 if keep == "bf16" or name in a_plan().unquantized else 8), name


def test_transformers_converts_all_but_the_list():
    quantizers = pytest.importorskip("transformers.quantizers.quantizers_utils")
    names = a_plan().export("transformers")["modules_to_not_convert"]
    for name, kept in modules().items():
        name = re.sub(r"(\.experts)\..*", r"\1", name)  # experts are one module there
        assert quantizers.should_convert_module(name, names) != kept, name
    config = getattr(pytest.importorskip("transformers"), "NVFP4Config", None)
    if config is not None:
        assert config(modules_to_not_convert=names).modules_to_not_convert == names


def test_what_an_engine_cannot_run():
    with pytest.raises(ValueError, match="quantizes experts alone: plan with quantize='sglang-nvfp4-online'"):
        a_plan().export("sglang")
    for engine in ("sglang", "transformers"):
        with pytest.raises(ValueError, match="keeps them in fp8"):
            a_plan("fp8", "sglang-nvfp4-online").export(engine)
    with pytest.raises(ValueError, match="no export for 'vllm'"):
        a_plan().export("vllm")
    assert set(EXPORTS) == {"modelopt", "compressed-tensors", "sglang", "transformers"}
