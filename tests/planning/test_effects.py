"""Effects of units alone and spared: as by hand, under a budget, resumable, and without a trace in the model."""

import math

import pytest
import torch
from small_model import ids, small_model

from nvfp4viz.model import Decoded, impact
from nvfp4viz.nvfp4 import as_recipes
from nvfp4viz.planning import layer_effects, predict
from nvfp4viz.planning.meter import Meter

UNITS = [f"model.layers.{i}.{name}" for i in (0, 1)
         for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")]  # fmt: skip


def test_units_are_what_engines_fuse():
    found = layer_effects(small_model(), [ids(2, 12)], "standard", budget=5)
    assert [row["unit"] for row in found.rows] == UNITS
    assert {row["family"] for row in found.rows} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert sum(row["parameters"] for row in found.rows) == 2 * (4 * 32 * 32 + 3 * 32 * 64)


@pytest.mark.parametrize("quantize", ["activations", "all-linear"])
def test_alone_spared_and_all_are_what_impact_measures(quantize):
    model, batches = small_model(), [ids(3, 40), ids(1, 17, seed=2)]
    found = layer_effects(model, batches, "standard", quantize=quantize, budget=None)

    def kl(modules):
        return impact(model, batches, ["standard"], quantize=quantize, modules=modules).table()["kl"].iloc[-1]

    assert found.everything[0] == pytest.approx(kl(None), rel=1e-9)
    row = found.rows[0]
    assert row["alone_kl"] == pytest.approx(kl(["model.layers.0.self_attn.[qkv]_proj"]), rel=1e-9)
    rest = kl(lambda n, m: n.startswith("model.layers") and "0.self_attn.q" not in n and n[-8:] not in (
        "0.k_proj",) and not n.startswith(("model.layers.0.self_attn.k", "model.layers.0.self_attn.v")))  # fmt: skip
    assert row["spared_kl"] == pytest.approx(found.everything[0] - rest, rel=1e-6)


def test_a_budget_measures_the_largest_predicted_first():
    model = small_model()
    found = layer_effects(model, [ids(8, 24)], "standard", budget=9)
    assert found.provenance["passes"] == 9
    alone = {r["unit"] for r in found.measured("alone_kl")}
    predicted = sorted(found.rows, key=lambda r: -r["predicted_kl"])
    assert alone == {r["unit"] for r in predicted[:2]} == {r["unit"] for r in found.measured("spared_kl")}
    assert not math.isnan(predicted[0]["alone_kl_low"]) and math.isnan(predicted[-1]["alone_kl"])


def test_what_may_be_large_is_measured_before_what_is_surely_smaller(monkeypatch):
    by_batch = [[0.1] * 8, [0.1] * 8]
    by_batch[0][2], by_batch[1][2] = 2.5, 2.5
    by_batch[0][5], by_batch[1][5] = 4.0, 0.0  # 2 on the average, but it may be more
    monkeypatch.setattr(predict, "_by_batch", lambda *_: ([12, 12], {"standard": by_batch}))
    assert predict.predicted(Meter(small_model(), [ids(1, 12)], as_recipes(["standard"]), quantize="activations"),
                             ["standard"])["standard"][5] == 2  # fmt: skip
    found = layer_effects(small_model(), [ids(1, 12), ids(1, 12, seed=3)], "standard", budget=7)
    assert [r["unit"] for r in found.measured("alone_kl")] == [UNITS[5]]


def test_interrupted_at_any_pass_it_resumes_with_the_same_result(tmp_path):
    batches = [ids(1, 12), ids(1, 12, seed=3)]
    whole_model = small_model()
    whole = layer_effects(whole_model, batches, "standard", budget=8)
    for at in range(1, whole_model.calls + 1):
        model, path = small_model(), tmp_path / f"{at}.json"
        model.interrupt_at = at
        before = {n: p.clone() for n, p in model.state_dict().items()}
        with pytest.raises(KeyboardInterrupt):
            layer_effects(model, batches, "standard", budget=8, resume=path)
        assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
        model.interrupt_at, model.calls = None, 0
        resumed = layer_effects(model, batches, "standard", budget=8, resume=path)
        assert repr(resumed.rows) == repr(whole.rows) and resumed.everything == whole.everything
        assert model.calls <= whole_model.calls - max(0, at - 2 * len(batches) - 1)  # what was measured is not again
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_file_about_something_else_is_refused(tmp_path):
    path = tmp_path / "measured.json"
    layer_effects(small_model(), [ids(2, 12)], "standard", budget=5, resume=path)
    with pytest.raises(ValueError, match=r"was measured with text .*: give another path"):
        layer_effects(small_model(), [ids(2, 12, seed=5)], "standard", budget=5, resume=path)
    with pytest.raises(ValueError, match="was measured with model"):
        layer_effects(small_model(layers=3), [ids(2, 12)], "standard", budget=5, resume=path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds no measurements"):
        layer_effects(small_model(), [ids(2, 12)], "standard", budget=5, resume=path)


def test_one_layer_at_a_time_is_quantized_in_memory():
    model = small_model()
    meter = Meter(model, [ids(1, 8)], as_recipes(["standard"]), quantize="all-linear")
    own = {n: m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    changed = []

    def look(module, *_):
        changed.append(sum(m.weight is not own[n] for n, m in model.named_modules() if n in own))

    hooks = [m.register_forward_hook(look) for n, m in model.named_modules() if n in own and n != "lm_head"]
    with torch.no_grad(), meter.swapped(meter.variant("standard")):
        model(ids(1, 8))
    for hook in hooks:
        hook.remove()
    assert set(changed) == {1} and all(m.weight is own[n] for n, m in model.named_modules() if n in own)


def test_kept_in_fp8_stands_between(tmp_path):
    meter = Meter(small_model(), [ids(4, 30)], as_recipes(["standard"]), quantize="all-linear")
    fp8 = meter.kl(meter.variant("standard", range(len(meter.units)), "fp8"))
    assert 0 < fp8 < meter.kl(meter.variant("standard")) / 10
    mixed = [meter.kl(meter.variant("standard", [0, 3], keep)) for keep in ("bf16", "fp8")]
    assert mixed[0] == pytest.approx(mixed[1], rel=0.2)
    assert meter.kl(meter.variant("standard", range(len(meter.units)))) == 0


def test_weights_kept_from_pass_to_pass_change_no_number(monkeypatch):
    def found():
        every = layer_effects(small_model(), [ids(2, 24)], "standard", budget=None)
        return [(r["alone_kl"], r["spared_kl"]) for r in every.rows]

    made = []
    with monkeypatch.context() as patch:
        patch.setattr(Decoded, "_make", lambda self, *a, make=Decoded._make: made.append(1) or make(self, *a))
        kept = found()
    assert len(made) == 2 * 7  # each matrix once
    monkeypatch.setattr("nvfp4viz.planning.meter.ROOM", 0)
    assert found() == kept


def test_a_weight_that_stays_as_it_is_is_named(monkeypatch, tmp_path):
    name, make = "model.layers.0.mlp.down_proj", Decoded._make

    def refuse(self, weight, *more):
        if weight.name == name:
            raise ValueError("no NVFP4 for this one")
        return make(self, weight, *more)

    monkeypatch.setattr(Decoded, "_make", refuse)
    for _ in range(2):  # measured, and taken from the file
        found = layer_effects(small_model(), [ids(2, 12)], "standard", budget=6, resume=tmp_path / "measured.json")
        assert found.provenance["skipped"] == {name: "weight: no NVFP4 for this one"}
