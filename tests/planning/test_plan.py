"""`plan`: every set of the frontier is measured, its price is counted, and it comes back from a file."""

import math

import pytest
import torch
from small_model import ids, small_model

import nvfp4viz
from nvfp4viz.model import NothingQuantizedError, impact
from nvfp4viz.planning import LayerPlan, recipe_cost

BATCHES = [ids(8, 16)]


@pytest.fixture(scope="module")
def planned():
    return nvfp4viz.plan(small_model(), BATCHES, ["standard", "4/6-mse-256"], budget=45, other=[ids(8, 16, seed=9)])


def test_every_kl_of_the_frontier_is_what_impact_measures(planned):
    model = small_model()
    matrices = {m for u in planned.units for m in u["matrices"]}
    for point in (planned.frontier[0], planned.frontier[2], planned.frontier[-2]):
        kept = {m for u in planned.units if u["name"] in point.kept for m in u["matrices"]}
        rest = sorted(matrices - kept)
        for batches, kl in ((BATCHES, point.kl), ([ids(8, 16, seed=9)], point.other_kl)):
            found = impact(model, batches, [planned.recipe], quantize="all-linear", modules=rest).table()
            assert kl == pytest.approx(found["kl"].iloc[-1], rel=1e-5)
            if batches is BATCHES:
                ends = found[["kl_low", "kl_high"]].iloc[-1].tolist()
                assert [point.kl_low, point.kl_high] == pytest.approx(ends, rel=1e-4)
    assert planned.frontier[-1].kl == 0 and len(planned.frontier[-1].kept) == len(planned.units) == 8


def test_copied_sequences_are_left_out_and_said(planned):
    assert planned.text == "128 tokens"
    found = nvfp4viz.plan(small_model(), [*BATCHES, BATCHES[0][:2]], ["4/6-mse-256"], budget=12)
    assert found.text == "160 tokens (2 copied sequences left out)" and found.recipes[0]["kl"] == pytest.approx(
        next(r["kl"] for r in planned.recipes if r["recipe"] == "4/6-mse-256"), rel=1e-5
    )


def test_the_price_is_counted(planned):
    none, every = planned.frontier[0], planned.frontier[-1]
    assert (none.bits, every.bits, every.fp4_share) == (4.5, 16, 0)
    macs = sum(u["multiply_adds"] for u in planned.units)
    assert none.fp4_share == pytest.approx(macs / (macs + 8 * 16 * 32 * 40))  # all but the output layer
    one = planned.frontier[1]
    size = {u["name"]: u["parameters"] for u in planned.units}
    assert one.bits == pytest.approx(4.5 + 11.5 * size[one.kept[0]] / sum(size.values()))
    assert planned.provenance["passes"] <= 45


def test_sets_are_nested_and_additivity_is_shown(planned):
    for a, b in zip(planned.frontier, planned.frontier[1:], strict=False):
        assert set(a.kept) < set(b.kept)
    table = planned.table()
    assert table["additive_error"].iloc[0] == 0 and table["additive_error"].iloc[1] == pytest.approx(0, abs=1e-12)
    assert table["additive_error"].abs().max() > 0
    assert (table["kl_low"] <= table["kl"]).all() and (table["kl"] <= table["kl_high"]).all()


def test_the_best_recipe_is_planned_with_and_families_are_measured(planned):
    kls = {r["recipe"]: r["kl"] for r in planned.recipes}
    assert planned.recipe == min(kls, key=kls.get) and kls[planned.recipe] == planned.frontier[0].kl
    assert set(planned.families["recipes"]) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert planned.families["gain"] == pytest.approx(planned.frontier[0].kl - planned.families["kl"])
    assert "one recipe in a process" in planned.families["who"]


def test_choosing_a_point(planned):
    some = planned.choose(layers=2)
    assert len(some.kept) <= 2 and some.kl == min(p.kl for p in planned.frontier if len(p.kept) <= 2)
    half = planned.frontier[0].kl / 2
    assert planned.choose(kl=half).bits == min(p.bits for p in planned.frontier if p.kl <= half)
    with pytest.raises(ValueError, match=r"no set of the plan fits .*bits=4.0.*the nearest"):
        planned.choose(bits=4.0)
    with pytest.raises(ValueError, match="give one of the three"):
        planned.choose()


def test_it_comes_back_from_a_file(planned, tmp_path):
    path = planned.save(tmp_path / "plan.json")
    again = LayerPlan.load(path)
    assert repr(again.frontier) == repr(planned.frontier) and repr(again.units) == repr(planned.units)
    assert (again.recipes, again.families, again.provenance) == (planned.recipes, planned.families, planned.provenance)
    assert again.sentence() in repr(again) and planned.recipe in repr(again)
    path.write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="holds no plan"):
        LayerPlan.load(path)


def test_resumed_it_gives_the_same_plan_without_a_pass(tmp_path):
    path = tmp_path / "measured.json"
    options = {"budget": 20, "keep": "fp8", "price": "layers"}
    first = nvfp4viz.plan(small_model(), BATCHES, ["standard"], resume=path, **options)
    model = small_model()
    again = nvfp4viz.plan(model, BATCHES, ["standard"], resume=path, **options)
    assert repr(vars(again)) == repr(vars(first)) and model.calls == 1  # the model as it is
    assert first.frontier[-1].kl > 0 and first.frontier[-1].bits == 8  # all in FP8


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="keep='int8' is one of"):
        nvfp4viz.plan(small_model(), BATCHES, keep="int8")
    with pytest.raises(ValueError, match="budget=5 forward passes"):
        nvfp4viz.plan(small_model(), BATCHES, ["standard"], budget=5)
    with pytest.raises(ValueError, match="training mode"):
        nvfp4viz.plan(small_model().train(), BATCHES)
    with pytest.raises((NothingQuantizedError, RuntimeError), match=r"not a multiple of 16|no gradient"):
        nvfp4viz.plan(small_model(width=24), BATCHES, ["standard"], modules="*.q_proj", budget=20)


def test_a_short_text_has_no_interval():
    found = nvfp4viz.plan(small_model(), [ids(1, 12)], ["standard"], budget=12)
    assert math.isnan(found.frontier[0].kl_low) and "(" not in found.sentence().split(":")[1].split("instead")[0]


def test_costs_are_those_of_the_table_in_the_docs(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "speed-cuda.md").read_text()
    table = text[text.index("| a copy") :].split("\n\n")[0]  # the first one
    rows = dict(line.strip("| ").split(" | ")[:2] for line in table.splitlines())
    for name, recipe in nvfp4viz.RECIPES.items():
        cost = recipe_cost(recipe, measure=False)
        assert cost.nanoseconds == pytest.approx(1e6 * float(rows[f"`cuda` quantize, {name}"]) / 8192)
        assert cost.copies == pytest.approx(float(rows[f"`cuda` quantize, {name}"]) / float(rows["a copy"]))
        assert cost.machine.split(",")[0] in text
    unknown = recipe_cost(nvfp4viz.Recipe(four_over_six=True, e4m3_max=300.0), measure=False)
    assert unknown.copies is None and "not in the table" in str(unknown)


@pytest.mark.gpu
def test_costs_are_measured_where_a_gpu_is():
    cost = recipe_cost(nvfp4viz.RECIPES["standard"])
    assert cost.copies > 0 and torch.cuda.get_device_name() in cost.machine


def test_a_plan_is_of_a_recipe_that_an_engine_runs():
    found = nvfp4viz.plan(small_model(), BATCHES, ["standard", "4/6-mse-240"], budget=14)
    kls = {r["recipe"]: r["kl"] for r in found.recipes}
    assert kls["4/6-mse-240"] < kls["standard"] and found.recipe == "standard"
    assert set(found.families["recipes"].values()) == {"standard"}
    alone = nvfp4viz.plan(small_model(), BATCHES, ["4/6-mse-240"], budget=12)
    assert "4/6-mse-240 (study only)" in alone.sentence()
