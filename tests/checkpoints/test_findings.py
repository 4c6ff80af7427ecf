"""Each finding has a spoiled copy that only it reports."""

import math

import pytest
import torch
from checkpoint_data import spoil
from safetensors.torch import load_file, save_file

import nvfp4viz

DENSE, MOE = "llama-modelopt", "qwen3-moe-modelopt"
CT, CT_MOE = "llama-compressed-tensors", "qwen3-moe-compressed-tensors"
DOWN, Q = "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"
GATE = "model.layers.1.mlp.gate"
EXPERT = "model.layers.1.mlp.experts.5"


def put(name, number):
    def change(tensors):
        tensors[name] = torch.full_like(tensors[name], number)

    return change


def scaled(name, by):
    def change(tensors):
        tensors[name] = tensors[name] * by

    return change


def drop(*names):
    def change(tensors):
        for name in names:
            del tensors[name]

    return change


def inverse(name):
    def change(tensors):
        tensors[name] = 1 / tensors[name]

    return change


def blocks(name, byte, count, codes=None):
    def change(tensors):
        tensors[name].view(torch.uint8).view(-1)[:count] = byte
        if codes is not None:
            tensors[name.replace("_scale", codes)].view(-1)[: count * 8] = 0

    return change


def constant(what):
    def change(tensors):
        for layer in range(3):
            tensors[f"model.layers.{layer}.mlp.down_proj.{what}"].fill_(0.01)

    return change


SPOILED = [
    # checkpoint, change, code, severity, in which tensor, a word of what an engine does
    (DENSE, drop(f"{DOWN}.input_scale"), "input-scale-missing", "error", DOWN, "SGLang and vLLM"),
    (CT, drop(f"{DOWN}.input_global_scale"), "input-scale-missing", "error", DOWN, "SGLang and vLLM"),
    (DENSE, drop(f"{DOWN}.weight_scale_2"), "weight-scale-missing", "error", DOWN, "memory"),
    (CT, drop(f"{Q}.weight_global_scale"), "weight-scale-missing", "error", Q, "memory"),
    (DENSE, drop(f"{DOWN}.weight_scale"), "block-scales-missing", "error", DOWN, "never written"),
    (DENSE, put(f"{Q}.input_scale", 0.0), "scale-zero", "error", f"{Q}.input_scale", "NaN"),
    (CT, put(f"{Q}.input_global_scale", 0.0), "scale-zero", "error", f"{Q}.input_global_scale", "NaN"),
    (DENSE, put(f"{DOWN}.weight_scale_2", math.nan), "scale-not-finite", "error", f"{DOWN}.weight_scale_2", "NaN"),
    (CT, put(f"{DOWN}.weight_global_scale", math.inf), "scale-not-finite", "error", DOWN, "NaN or 0"),
    (DENSE, put(f"{DOWN}.input_scale", -0.01), "scale-negative", "error", f"{DOWN}.input_scale", "sign"),
    (DENSE, put(f"{DOWN}.input_scale", 1.0), "scale-one", "error", f"{DOWN}.input_scale", "2,688"),
    (CT, put(f"{Q}.input_global_scale", 1.0), "scale-one", "error", Q, "2,688"),
    (DENSE, put(f"{DOWN}.weight_scale_2", 1e-43), "scale-implausible", "error", DOWN, "never written"),
    (DENSE, constant("input_scale"), "scale-constant", "warning", "mlp.down_proj", "clip"),
    (MOE, drop(f"{EXPERT}.down_proj.input_scale"), "expert-not-calibrated", "error", EXPERT, "memory"),
    (MOE, put(f"{EXPERT}.down_proj.input_scale", 1.0), "expert-not-calibrated", "error", EXPERT, "2,688"),
    (CT_MOE, put(f"{EXPERT}.gate_proj.input_global_scale", math.inf), "expert-not-calibrated", "error", EXPERT, "NaN"),
    (MOE, put(f"{EXPERT}.up_proj.input_scale", 0.0), "expert-not-calibrated", "error", EXPERT, "NaN"),
    (MOE, scaled(f"{EXPERT}.gate_proj.weight_scale_2", 2.0), "fused-scales-differ", "error", EXPERT, "the first"),
    (DENSE, scaled(f"{Q}.weight_scale_2", 0.5), "fused-scales-differ", "error", Q.rpartition(".")[0], "the largest"),
    (CT, scaled(f"{Q}.weight_global_scale", 1.01), "fused-scales-differ", "warning", "model.layers.1.self_attn", "dB"),
    (DENSE, scaled(f"{Q}.input_scale", 4.0), "fused-inputs-differ", "warning", "model.layers.1.self_attn", "2 octaves"),
    (DENSE, inverse(f"{Q}.input_scale"), "scale-inverted", "error", f"{Q}.input_scale", "times too large"),
    (CT, inverse(f"{DOWN}.weight_global_scale"), "scale-inverted", "error", f"{DOWN}.weight_global_scale", "too large"),
    (MOE, inverse(f"{EXPERT}.up_proj.input_scale"), "scale-inverted", "error", EXPERT, "times too large"),
    (DENSE, blocks(f"{DOWN}.weight_scale", 127, 3), "block-scale-nan", "error", DOWN, "NaN"),
    (DENSE, blocks(f"{DOWN}.weight_scale", 200, 3), "block-scale-negative", "error", DOWN, "unsigned"),
    (DENSE, blocks(f"{DOWN}.weight_scale", 126, 40), "block-scale-448", "warning", DOWN, "too small"),
    (DENSE, blocks(f"{DOWN}.weight_scale", 3, 3), "block-scale-subnormal", "warning", DOWN, "coarse"),
    (DENSE, blocks(f"{DOWN}.weight_scale", 0, 3), "block-scale-zero", "error", DOWN, "decode to 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, change, code, severity, where, engine", SPOILED, ids=[f"{s[2]}-{i}" for i, s in enumerate(SPOILED)]
)
def test_a_spoiled_copy_reports_it_alone(tmp_path, name, change, code, severity, where, engine):
    checkpoint = nvfp4viz.checkpoint(spoil(name, tmp_path, change))
    [finding] = checkpoint.findings
    assert (finding.code, finding.severity) == (code, severity)
    assert finding.tensor.startswith(where) and engine in finding.engine
    assert finding.message and finding.fix
    assert checkpoint.ok == (severity != "error")
    about = [n for n in checkpoint.matrices if checkpoint.findings_of(n)]
    assert about and all(where in n or where.startswith(n) for n in about)


def test_two_files_that_hold_one_tensor(tmp_path):
    copy = spoil(DENSE, tmp_path)
    name = f"{DOWN}.input_scale"
    save_file({name: load_file(copy / "model.safetensors")[name]}, copy / "more.safetensors")
    [finding] = nvfp4viz.checkpoint(copy).findings
    assert (finding.code, finding.severity, finding.tensor) == ("twice", "warning", name)
    assert finding.value == "model.safetensors, more.safetensors" and "last wins" in finding.engine


def test_pruned_blocks_may_have_a_scale_of_zero(tmp_path):
    change = blocks(f"{DOWN}.weight_scale", 0, 3, codes="")
    assert nvfp4viz.checkpoint(spoil(DENSE, tmp_path, change)).findings == []


def test_a_whole_checkpoint_inverted(tmp_path):
    def change(tensors):
        for name in tensors:
            if name.endswith(("weight_scale_2", "input_scale")):
                tensors[name] = 1 / tensors[name]

    found = nvfp4viz.checkpoint(spoil(DENSE, tmp_path, change))
    assert {f.code for f in found.findings} == {"scale-inverted"} and len(found.findings) == 2 * len(found.matrices)


def test_the_cost_of_one_scale_for_two_is_what_decoding_says(tmp_path):
    name = f"{EXPERT}.gate_proj.weight_scale_2"
    copy = spoil(MOE, tmp_path, scaled(name, 1.3))
    [finding] = nvfp4viz.checkpoint(copy).findings
    stored = nvfp4viz.checkpoint(copy).weights
    original = nvfp4viz.checkpoint(spoil(MOE, tmp_path / "b")).weights
    up = stored[f"{EXPERT}.up_proj"]
    r = 1.3  # w3 decodes with w1's scale
    signal = sum(float(x.double().square().sum()) for x in (stored[f"{EXPERT}.gate_proj"], up))
    after = float((up.double() * (r - 1)).square().sum()) / signal  # beside what rounding left
    base = 0.0086 * (1 + (r**2 - 1) * float(up.double().square().sum()) / signal)
    assert original[f"{EXPERT}.up_proj"].shape == up.shape
    said = float(finding.message.split("with one scale ")[1].split(" dB")[0])
    assert said == pytest.approx(-10 * math.log10(after + base), abs=0.15)


def listed(*names, out=()):
    def config(values):
        for outer, key in (("quantization_config", "ignore"), ("quantization", "exclude_modules")):
            inner = values.get(outer)
            if inner:
                inner[key] = [n for n in inner[key] if n not in out] + list(names)

    return config


def group_size(values):
    for inner in (values.get("quantization_config"), values.get("quantization")):
        if inner and "group_size" in inner:
            inner["group_size"] = 32
        for group in (inner or {}).get("config_groups", {}).values():
            group["weights"]["group_size"] = 32


def method(values):
    if "quantization_config" in values:
        values["quantization_config"]["quant_method"] = "compressed-tensors"


@pytest.mark.parametrize("name, change, config, code, severity, where", [
    (DENSE, None, listed(DOWN), "ignored-but-quantized", "error", DOWN),
    (DENSE, None, listed("model.layers.1.mlp.down*"), "ignored-but-quantized", "error", DOWN),
    (CT, None, listed(r"re:.*layers\.1\.mlp\.down_proj$"), "ignored-but-quantized", "error", DOWN),
    (DENSE, None, listed(out=["lm_head"]), "neither-ignored-nor-quantized", "warning", "lm_head"),
    (MOE, None, listed(out=[GATE]), "neither-ignored-nor-quantized", "note", GATE),
    (DENSE, lambda t: unpacked(t, DOWN), None, "neither-ignored-nor-quantized", "error", DOWN),
    (DENSE, lambda t: padded(t, f"{DOWN}.weight_scale"), None, "shape", "error", DOWN),
    (DENSE, lambda t: t.update({f"{DOWN}.weight": t[f"{DOWN}.weight"][:, :-4]}), None, "shape", "error", DOWN),
    (DENSE, drop(*(f"{DOWN}.{s}" for s in ("weight", "weight_scale", "input_scale"))), None, "orphan-scale", "warning",
     DOWN),
    (DENSE, None, group_size, "config-disagrees", "error", "group_size"),
    (DENSE, None, method, "config-disagrees", "error", "quant_method"),
    (DENSE, None, listed("re:(a+)+$"), "pattern-unread", "note", "ignore"),
])  # fmt: skip
def test_config_and_tensors_that_disagree(tmp_path, name, change, config, code, severity, where):
    [finding] = nvfp4viz.checkpoint(spoil(name, tmp_path, change, config)).findings
    assert (finding.code, finding.severity) == (code, severity) and finding.tensor.startswith(where)
    assert finding.message and finding.engine and finding.fix


def unpacked(tensors, module):
    for name in [n for n in tensors if n.startswith(module + ".")]:
        del tensors[name]
    tensors[f"{module}.weight"] = torch.ones(64, 128, dtype=torch.bfloat16)


def padded(tensors, name):
    scale = tensors[name].view(torch.uint8)
    tensors[name] = torch.nn.functional.pad(scale, (0, 0, 0, 128 - scale.shape[0])).view(torch.float8_e4m3fn)


def test_a_folder_without_a_word_of_quantization(tmp_path):
    copy = spoil(CT, tmp_path)
    (copy / "config.json").unlink()
    assert [f.code for f in nvfp4viz.checkpoint(copy).findings] == ["config-missing"]
    assert nvfp4viz.checkpoint(copy / "model.safetensors").findings == []  # one file has none to bring


def test_weights_alone_need_no_scale_of_inputs(tmp_path):
    def change(tensors):
        for name in [n for n in tensors if n.endswith("input_global_scale")]:
            del tensors[name]

    def config(values):
        for group in values["quantization_config"]["config_groups"].values():
            group["input_activations"] = None

    assert nvfp4viz.checkpoint(spoil(CT, tmp_path, change, config)).findings == []
    kept = nvfp4viz.checkpoint(spoil(CT, tmp_path / "b", change))  # the config still says that there are
    assert {f.code for f in kept.findings} == {"input-scale-missing"} and len(kept.findings) == len(kept.matrices)
