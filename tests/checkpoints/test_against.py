"""Weights against the original, and activations under the checkpoint's input scales."""

import json
import math

import pytest
import torch
from checkpoint_data import DATA, spoil
from safetensors.torch import load_file, save_file

import nvfp4viz
from nvfp4viz.checkpoints import BEST, STORED, against, fit
from nvfp4viz.cli import main

DOWN, Q = "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def dense():
    return nvfp4viz.checkpoint(DATA / "llama-modelopt")


@pytest.fixture(scope="module")
def compared(dense):
    return against(dense, DATA / "llama-bf16")


def test_the_error_of_the_weights_is_that_of_decoding(dense, compared):
    original = load_file(DATA / "llama-bf16" / "model.safetensors")
    assert set(compared.stats) == set(dense.matrices) and not compared.unmatched and not compared.findings
    for name in (DOWN, Q):
        w, got = original[f"{name}.weight"].double(), dense.weights[name].double()
        nmse = float((got - w).square().sum() / w.square().sum())
        assert compared.sqnr_db(name)[STORED] == pytest.approx(-10 * math.log10(nmse), abs=1e-6)


def test_recipes_quantize_with_the_scale_of_the_fused_group(compared):
    original = load_file(DATA / "llama-bf16" / "model.safetensors")
    attention = [f"{Q[:-6]}{p}_proj" for p in "qkv"]
    amax = max(float(original[f"{n}.weight"].abs().max()) for n in attention)
    for recipe in ("standard", "4/6-mse-448", "4/6-mse-256"):
        r = nvfp4viz.Recipe.parse(f"{recipe}-tensor")
        s = nvfp4viz.analyze(original[f"{Q}.weight"], r, encode_scale=r.e4m3_max * 6 / amax)
        assert compared.stats[Q][recipe].err_sq == pytest.approx(s.err_sq, rel=1e-12)
    # modelopt's standard is ours, but for the reciprocal's last place
    assert compared.stats[Q]["standard"].err_sq == pytest.approx(compared.stats[Q][STORED].err_sq, rel=1e-3)


def test_the_best_scales_are_the_best_of_all_127(dense, compared):
    w = load_file(DATA / "llama-bf16" / "model.safetensors")[f"{DOWN}.weight"].double().unflatten(-1, (-1, 16))
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    best = torch.full(w.shape[:-1], torch.inf, dtype=torch.float64)
    for scale in torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double():
        values = grid * scale * dense.scales[DOWN]["weight"]
        err = (w.abs().unsqueeze(-1) - values).abs().amin(-1).square().sum(-1)
        best = torch.minimum(best, err)
    nmse = float(best.sum() / w.square().sum())
    assert compared.best[DOWN] == pytest.approx(nmse, rel=1e-9)
    assert all(
        max(v for k, v in compared.sqnr_db(n).items() if k != BEST) <= compared.sqnr_db(n)[BEST] for n in compared.stats
    )


def test_experts_of_the_original_by_name_and_in_stacks(tmp_path):
    found = nvfp4viz.checkpoint(DATA / "qwen3-moe-modelopt")
    original = load_file(DATA / "qwen3-moe-bf16" / "model.safetensors")
    by_name = against(found, DATA / "qwen3-moe-bf16")
    assert len(by_name.stats) == 56
    stacked = {k: v for k, v in original.items() if ".experts." not in k}
    for layer in range(2):
        p = f"model.layers.{layer}.mlp.experts."
        gate, up, down = ([original[f"{p}{e}.{k}_proj.weight"] for e in range(8)] for k in ("gate", "up", "down"))
        stacked[f"{p}gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(gate, up, strict=True)])
        stacked[f"{p}down_proj"] = torch.stack(down)
    save_file(stacked, tmp_path / "x.safetensors")
    again = against(found, tmp_path / "x.safetensors")
    assert again.table().equals(by_name.table())


def test_another_model_is_told(tmp_path, dense):
    tensors = load_file(DATA / "llama-bf16" / "model.safetensors")
    tensors[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"].flip(0).contiguous()
    del tensors[f"{Q}.weight"]
    save_file(tensors, tmp_path / "x.safetensors")
    found = against(dense, tmp_path / "x.safetensors")
    assert [(f.code, f.severity, f.tensor) for f in found.findings] == [("far-from-original", "error", DOWN)]
    assert found.unmatched == {Q: f"the original has no {Q}.weight"}
    with pytest.raises(ValueError, match=r"no weight of .* can be compared"):
        against(nvfp4viz.checkpoint(DATA / "qwen3-moe-modelopt"), _none(tmp_path))


def _none(folder):
    save_file({"a.weight": torch.zeros(4, 16)}, folder / "none.safetensors")
    return folder / "none.safetensors"


# --- activations


def activations(scale=1.0, seed=0, k=128):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(48, k, generator=g)
    return x / x.abs().max() * scale


def test_headroom_clipping_and_sqnr_under_the_checkpoints_scale(dense):
    s = dense.scales[DOWN]["input"]
    [row] = fit(dense, {DOWN: activations(2688 * s)}).rows
    assert row.headroom == pytest.approx(1, rel=1e-6) and row.static.scale_saturated == 0 and row.modules == (DOWN,)
    again = nvfp4viz.analyze(activations(2688 * s), nvfp4viz.Recipe(per_token=False), encode_scale=1 / s)
    assert row.static.err_sq == again.err_sq
    [row] = fit(dense, {DOWN: activations(8 * 2688 * s)}).rows
    assert row.headroom == pytest.approx(1 / 8, rel=1e-6) and row.static.scale_saturated > 0.5
    assert row.loss_db > 3 and row.best_scale == pytest.approx(8 * s, rel=0.5)
    assert row.best.token_nmse < row.static.token_nmse


def test_findings_of_traffic(dense):
    s = dense.scales[DOWN]["input"]

    def codes(x):
        return [(f.code, f.severity) for f in fit(dense, {DOWN: x}).findings]

    assert codes(activations(2688 * s)) == []
    assert codes(activations(2688 * s * 1.05)) == [("input-clips", "warning")]
    assert codes(activations(2688 * s * 10)) == [("input-clips", "error")]
    assert codes(activations(2688 * s / 60_000)) == [("input-scale-loose", "warning")]


def test_names_of_inputs(dense):
    x = activations(1.0)
    for name in (DOWN, f"{DOWN}.inputs.0", f"{DOWN}_input", f"{DOWN} [rank 1]", DOWN.removeprefix("model."),
                 "model.language_" + DOWN):  # fmt: skip
        assert fit(dense, {name: x}).rows[0].modules == (DOWN,)
    moe = nvfp4viz.checkpoint(DATA / "qwen3-moe-modelopt")
    p = "model.layers.0.mlp.experts"
    x = activations(1.0, k=64)
    [row] = fit(moe, {f"{p}.3.gate_up_proj": x}).rows
    assert row.modules == (f"{p}.3.gate_proj", f"{p}.3.up_proj")
    rows = fit(moe, {f"{p}.gate_up_proj": x}).rows
    assert [r.modules for r in rows] == [(f"{p}.{e}.gate_proj", f"{p}.{e}.up_proj") for e in range(8)]
    [row] = fit(moe, {"model.layers.0.self_attn.qkv_proj": x}).rows
    assert [m[-6:] for m in row.modules] == ["q_proj", "k_proj", "v_proj"]
    found = fit(moe, {f"{p}.3.down_proj": activations(1.0, k=32), "elsewhere": x})
    assert found.unmatched == {"elsewhere": "the checkpoint has no quantized matrix of that name"}
    with pytest.raises(ValueError, match="no activation goes with"):
        fit(moe, {"elsewhere": x})


def test_a_sweep_tells_headroom(dense):
    s = dense.scales[DOWN]["input"]
    [row] = fit(dense, nvfp4viz.sweep({DOWN: activations(2688 * s * 2)}, ["standard", "4/6-mse-256"])).rows
    assert row.headroom == pytest.approx(0.5, rel=1e-6) and row.static is None
    assert row.per_token.recipe == nvfp4viz.Recipe()


def test_a_zero_input_loses_nothing(dense):
    [row] = fit(dense, {DOWN: torch.zeros(4, 128)}).rows
    assert row.headroom == math.inf and row.loss_db == 0
    json.dumps(fit(dense, {DOWN: torch.zeros(4, 128)}).to_dict(), allow_nan=False)


def test_an_unusable_scale_is_no_comparison(tmp_path):
    found = nvfp4viz.checkpoint(spoil("llama-modelopt", tmp_path, lambda t: t[f"{DOWN}.input_scale"].zero_()))
    with pytest.raises(ValueError, match="no usable scale"):
        fit(found, {DOWN: activations(1.0)})


def test_the_command_line(tmp_path, capsys, dense):
    s = dense.scales[DOWN]["input"]
    save_file({DOWN: activations(2688 * s * 9).bfloat16()}, tmp_path / "a.safetensors")
    model = [str(DATA / "llama-modelopt"), "--against", str(DATA / "llama-bf16")]
    assert main(["checkpoint", *model, "--activations", str(tmp_path / "a.safetensors")]) == 1
    out = capsys.readouterr().out
    assert "as stored  standard  4/6-mse-448" in out and "error    input clips" in out and "headroom 0.11" in out
    nvfp4viz.sweep(nvfp4viz.load(tmp_path / "a.safetensors")).save(tmp_path / "s.json")
    assert main(["checkpoint", "--json", *model, "--activations", str(tmp_path / "s.json")]) == 0  # a warning
    values = json.loads(capsys.readouterr().out)
    assert len(values["against"]["sqnr_db"]) == 21 and values["activations"]["rows"][0]["static_sqnr_db"] is None
    assert main(["checkpoint", model[0], "--activations", str(tmp_path / "none.safetensors")]) == 2


def test_what_is_neither_nvfp4_nor_in_high_precision_is_named(tmp_path, capsys):
    def to_fp8(t):
        t[f"{DOWN.replace('down', 'other')}.weight"] = torch.ones(64, 64).to(torch.float8_e4m3fn)

    main(["checkpoint", str(spoil("llama-modelopt", tmp_path, to_fp8))])
    out = capsys.readouterr().out
    assert "1 as F8_E4M3, not NVFP4 and not looked at" in out and "other_proj" in out
