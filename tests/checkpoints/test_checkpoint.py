"""Checkpoints that real tools made: read as their tools read them."""

import hashlib
import json

import numpy as np
import pytest
import torch
from checkpoint_data import DATA, TOOLS, spoil
from safetensors.torch import load_file, save_file

import nvfp4viz
from nvfp4viz.checkpoints import against, ignored, scales

PROVENANCE = json.loads((DATA / "provenance.json").read_text())


def test_the_committed_checkpoints_say_what_made_them_and_are_small():
    assert set(PROVENANCE) == {p.name for p in DATA.iterdir() if p.is_dir() and not p.name.endswith("bf16")}
    assert sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file()) < 2e6


@pytest.mark.parametrize("name", TOOLS)
def test_decoding_equals_the_tools_own_bit_for_bit(name):
    expected = PROVENANCE[name]["sha256_of_the_tools_decoded_weights"]
    found = nvfp4viz.checkpoint(DATA / name).weights
    dtype = torch.bfloat16 if name.endswith("compressed-tensors") else torch.float32  # what the tool decodes to
    # ModelOpt's table has 0 where E2M1 has -0
    found = {n: w + 0.0 if name.endswith("modelopt") else w for n, w in found.items()}
    digests = {n: hashlib.sha256(w.to(dtype).view(torch.uint8).numpy().tobytes()).hexdigest() for n, w in found.items()}
    assert digests == expected and len(expected) > 20


@pytest.mark.parametrize("name", [*TOOLS, "llama-4over6-by-hand"])
def test_unspoiled_checkpoints_have_no_finding(name):
    found = nvfp4viz.checkpoint(DATA / name)
    assert found.findings == [] and found.ok and "no finding" in repr(found)


def test_multipliers_and_divisors_come_out_as_one_thing():
    a, b = (scales(DATA / f"llama-{tool}") for tool in ("modelopt", "compressed-tensors"))
    assert a.keys() == b.keys()
    for module in a:  # compressed-tensors rounds its divisors to bf16
        assert a[module] == pytest.approx(b[module], rel=2**-6)
    assert nvfp4viz.checkpoint(DATA / "llama-modelopt").convention == "multipliers"
    assert nvfp4viz.checkpoint(DATA / "llama-compressed-tensors").convention == "divisors"
    assert set(ignored(DATA / "llama-modelopt")) == {"lm_head", "model.embed_tokens"}


@pytest.mark.parametrize("name, made", [
    ("llama-modelopt", "standard, 448"), ("llama-compressed-tensors", "standard, 448"),
    ("llama-4over6-by-hand", "4over6, 256"),
])  # fmt: skip
def test_codes_and_block_scales_tell_the_recipe(name, made):
    found = nvfp4viz.checkpoint(DATA / name)
    assert set(found.made_with.values()) == {made}
    assert made in repr(found)


@pytest.mark.parametrize(
    "recipe", ["standard-tensor", "standard-256-tensor", "4/6-mse-448-tensor", "4/6-mae-256-tensor"]
)
def test_the_recipe_of_what_we_quantize_ourselves_is_told(tmp_path, recipe):
    recipe = nvfp4viz.Recipe.parse(recipe)
    w = torch.randn(128, 256, generator=torch.Generator().manual_seed(1))
    save_file(packed(w, recipe), tmp_path / "w.safetensors")
    kind = "4over6" if recipe.four_over_six else "standard"
    assert nvfp4viz.checkpoint(tmp_path / "w.safetensors").made_with == {"w": f"{kind}, {recipe.e4m3_max:g}"}


def packed(w, recipe, stem="w."):
    q = nvfp4viz.quantize(w, recipe, engine="reference")
    parts = {"weight": q.codes, "weight_scale": q.block_scales, "weight_scale_2": q.decode_scale[0, 0].clone()}
    return {stem + k: v for k, v in parts.items()}


def test_the_table_has_a_row_a_matrix_and_experts_by_number():
    found = nvfp4viz.checkpoint(DATA / "qwen3-moe-modelopt")
    table = found.table()
    assert len(table) == 56 and set(table.expert.dropna()) == set(range(8)) and set(table.layer) == {0, 1}
    assert (table.blocks * 16 == table.rows * table.features).all()
    row = table.set_index("module").loc["model.layers.1.mlp.experts.3.down_proj"]
    stored = load_file(DATA / "qwen3-moe-modelopt" / "model.safetensors")
    bytes_ = stored["model.layers.1.mlp.experts.3.down_proj.weight_scale"].view(torch.uint8)
    assert row.at_448 == (bytes_ == 126).double().mean() and row.largest_block_scale == 448
    assert row.input_amax == pytest.approx(2688 * row.input_scale)
    json.dumps(found.to_dict(), allow_nan=False)


def test_stacks_of_experts_are_matrices_each(tmp_path):
    """SGLang's and FlashInfer's fused experts: w13 with a scale for w1 and one for w3, and w2."""
    tensors = load_file(DATA / "qwen3-moe-modelopt" / "model.safetensors")
    p = "model.layers.0.mlp.experts"
    keys = ("weight", "weight_scale", "weight_scale_2", "input_scale")
    one = {
        leaf: [{k: tensors[f"{p}.{e}.{leaf}.{k}"] for k in keys} for e in range(8)]
        for leaf in ("gate_proj", "up_proj", "down_proj")
    }

    def stack(parts, k):
        return torch.stack([torch.cat([x[k].view(torch.uint8) for x in group]) for group in parts])

    pairs, downs = list(zip(one["gate_proj"], one["up_proj"], strict=True)), [(d,) for d in one["down_proj"]]
    fused = {}
    for leaf, parts in (("w13", pairs), ("w2", downs)):
        fused[f"{p}.{leaf}_weight"] = stack(parts, "weight")
        fused[f"{p}.{leaf}_weight_scale"] = stack(parts, "weight_scale").view(torch.float8_e4m3fn)
        for k in ("weight_scale_2", "input_scale"):
            fused[f"{p}.{leaf}_{k}"] = torch.stack([torch.stack([x[k] for x in g]).squeeze() for g in parts])
    save_file(fused, tmp_path / "x.safetensors")
    a, b = nvfp4viz.checkpoint(tmp_path / "x.safetensors"), nvfp4viz.checkpoint(DATA / "qwen3-moe-modelopt")
    assert len(a.matrices) == 24 and a.findings == []
    names = {"w1": "gate_proj", "w3": "up_proj"}
    for e in range(8):
        for ours, theirs in [(f"{p}.{e}.w1", "gate_proj"), (f"{p}.{e}.w3", "up_proj"), (f"{p}.w2[{e}]", "down_proj")]:
            assert torch.equal(a.weights[ours], b.weights[f"{p}.{e}.{theirs}"]), names
            assert a.scales[ours] == b.scales[f"{p}.{e}.{theirs}"]
            assert np.array_equal(a.scans[ours].histogram, b.scans[f"{p}.{e}.{theirs}"].histogram)


def test_a_transposed_stack_decodes_to_the_same(tmp_path):
    g = torch.Generator().manual_seed(3)
    recipe = nvfp4viz.Recipe(per_token=False)
    parts = [packed(torch.randn(48, 64, generator=g), recipe, "") for _ in range(3)]
    p = "model.layers.0.mlp.experts.gate_up_proj"
    stacked = {k: torch.stack([x[k].view(torch.uint8) if x[k].ndim else x[k] for x in parts]) for k in parts[0]}
    save_file({
        p: stacked["weight"].mT.contiguous(),
        f"{p}_weight_scale": stacked["weight_scale"].mT.contiguous().view(torch.float8_e4m3fn),
        f"{p}_weight_scale_2": stacked["weight_scale_2"],
    }, tmp_path / "x.safetensors")  # fmt: skip
    found = nvfp4viz.checkpoint(tmp_path / "x.safetensors")
    for e, x in enumerate(parts):
        scale = x["weight_scale"].float() * x["weight_scale_2"]
        codes = torch.stack([x["weight"] & 15, x["weight"] >> 4], -1).flatten(-2).long()
        values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])[codes]
        assert torch.equal(found.weights[f"{p}[{e}]"], values * scale.repeat_interleave(16, -1))
        assert found.scans[f"{p}[{e}]"].blocks == 48 * 4


def test_the_expected_error_is_near_the_real_one():
    found = nvfp4viz.checkpoint(DATA / "llama-modelopt")
    real = against(found, DATA / "llama-bf16")
    for name, scan in found.scans.items():
        assert scan.nmse == pytest.approx(real.stats[name]["checkpoint"].nmse, rel=0.15)


def test_a_checkpoint_in_shards(tmp_path):
    tensors = load_file(DATA / "llama-modelopt" / "model.safetensors")
    copy = spoil("llama-modelopt", tmp_path)
    (copy / "model.safetensors").unlink()
    where = {n: f"part-{i % 2}.safetensors" for i, n in enumerate(tensors)}
    for part in set(where.values()):
        save_file({n: t for n, t in tensors.items() if where[n] == part}, copy / part)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = nvfp4viz.checkpoint(copy)
    assert found.findings == [] and found.scales == scales(DATA / "llama-modelopt")
    where["model.norm.weight"] = "part-0.safetensors" if where["model.norm.weight"][5] == "1" else "part-1.safetensors"
    where["more"] = "part-0.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert [(f.code, f.tensor) for f in nvfp4viz.checkpoint(copy).findings] == [
        ("index-disagrees", "model.norm.weight"), ("index-disagrees", "more"),
    ]  # fmt: skip


def test_load_says_that_a_checkpoint_is_none_of_activations():
    for name in TOOLS:
        with pytest.raises(ValueError, match=r"a quantized checkpoint, not activations: .*`nvfp4viz checkpoint"):
            nvfp4viz.load(DATA / name)


def test_an_empty_weight_tells_no_recipe(tmp_path):
    q = packed(torch.zeros(32, 64), nvfp4viz.Recipe(per_token=False))
    save_file(q | {"w.weight_scale_2": torch.tensor(1e-4)}, tmp_path / "w.safetensors")
    found = nvfp4viz.checkpoint(tmp_path / "w.safetensors")
    assert found.made_with == {"w": "unknown"} and found.recipe == nvfp4viz.Recipe(per_token=False)
