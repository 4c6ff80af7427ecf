"""Attribution: parts add up to the measured error, each on data in which only it occurs; kernels against oracle."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import torch_attribution

from nvfp4viz import RECIPES, Recipe, Sweep, analyze, load, sweep, synthetic
from nvfp4viz.analysis import PARTS, Attribution, attribute, attribute_all, attribution
from nvfp4viz.engine import analyze_all, find_engine

VARIANTS = [
    "standard",
    "4/6-mae-448",
    "4/6-mse-256",
    "4/6-mae-256-fp16err-fast",
    "standard-fast",
    "4/6-mse-160-scored448",
]
GRID = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])


def _hard() -> torch.Tensor:
    """[96, 128]: wide spread, zero rows and blocks, ties, subnormal scales, tiny tokens."""
    x = synthetic("lognormal", 96, 128, strength=3.0).float()
    x[3], x[4, :32], x[5] = 0, 0, torch.arange(128) / 4
    x[6] *= 1e-37
    x[7, 16:] *= 1e-6
    x[8] = GRID.repeat(16)
    return x


def test_parts_add_up_to_the_measured_error_on_real_activations(bundled):
    activations = load(bundled)
    recipes = list(RECIPES.values())
    for name in activations:
        for stats, split in zip(
            analyze_all(activations[name], recipes), attribute_all(activations[name], recipes), strict=True
        ):
            assert sum(split.parts.values()) == pytest.approx(stats.err_sq, rel=1e-9), name
            assert sum(split.shares().values()) == pytest.approx(1, rel=1e-9)
            assert sum(split.nmse().values()) == pytest.approx(stats.nmse, rel=1e-9)
            assert split.blocks == stats.nonzero_blocks and split.parts["choice"] >= 0
            assert split.parts["choice"] == 0 or split.recipe.four_over_six


@pytest.mark.parametrize("name", [*VARIANTS, "4/6-mae-448-tensor", "standard-tensor-fast", "4/6-mse-256-tensor-fast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_parts_add_up_under_any_recipe(name, dtype):
    x = _hard().to(dtype)
    split = attribute(x, name)
    assert sum(split.parts.values()) == pytest.approx(analyze(x, name, engine="reference").err_sq, rel=1e-9)


@pytest.mark.parametrize("factor", [1 / 16, 1, 16])
def test_parts_add_up_under_a_static_scale(factor):
    x, recipe = synthetic("lognormal", 64, 128), Recipe(four_over_six=True, per_token=False)
    encode = 2688 / (x.abs().max().item() * factor)
    split = attribute(x, recipe, encode_scale=encode)
    assert split.total == pytest.approx(analyze(x, recipe, encode_scale=encode).err_sq, rel=1e-9)
    assert (split.parts["saturation"] > split.total / 2) == (factor < 1)


# Data in which one step alone changes anything. The token's amax is 2688 = 448 * 6, so its encode scale is 1.


def _token(*blocks_: torch.Tensor) -> torch.Tensor:
    """One token whose amax is 2688, alone in its block; then the blocks."""
    first = torch.zeros(16)
    first[0] = 2688
    return torch.cat([first, *blocks_])[None]


def _lone(value: float) -> torch.Tensor:
    return torch.tensor([value] + [0.0] * 15)


def _only(x, part: str, recipe="standard", **scale):
    split = attribute(x, recipe, **scale)
    assert split.total == pytest.approx(analyze(x, recipe, **scale).err_sq, rel=1e-12)
    others = {p: v for p, v in split.parts.items() if p != part}
    assert others == pytest.approx(dict.fromkeys(others, 0.0), abs=1e-12 * split.total), split.parts
    return split.parts[part]


def test_only_element_rounding():
    off_grid = torch.tensor([6.0, 0.2, 0.3, 2.2, 4.5, -5.5] + [1.0] * 10) * 8  # a scale of 8 is E4M3
    by_hand = 64 * (0.2**2 + 0.2**2 + 0.2**2 + 0.5**2 + 0.5**2)
    assert _only(_token(off_grid), "element rounding") == pytest.approx(by_hand, rel=1e-6)


def test_only_scale_rounding():
    block = GRID.repeat(2).double() * 8.75  # E4M3 has 8 and 9 there, so 9: nothing comes above 6
    nearest = 9 * GRID.double()[(block[:, None] / 9 - GRID.double()).abs().argmin(1)]
    by_hand = float((nearest - block).square().sum())
    assert _only(_token(block.float()), "scale rounding") == pytest.approx(by_hand, rel=1e-12)


def test_only_clipping():
    assert _only(_token(_lone(6 * 8.25)), "clipping") == pytest.approx((6 * 0.25) ** 2, rel=1e-12)


def test_only_saturation():
    x = torch.cat([_lone(6 * 896.0), _lone(6 * 448.0)])[None]
    recipe = Recipe(per_token=False)
    assert _only(x, "saturation", recipe, encode_scale=1.0) == pytest.approx((6 * 448) ** 2, rel=1e-12)


def test_what_a_saturated_four_lost_by_its_scales_rounding_is_booked_there():
    shares = attribute(torch.tensor([[6.0, 5.0] + [3.0] * 14]), "4/6-mse-448").shares()
    assert shares["scale rounding"] == pytest.approx(0.628, abs=1e-3)
    assert shares["saturation"] == pytest.approx(0.122, abs=1e-3)


def test_a_four_candidate_that_could_not_be_had_is_saturation_and_a_lower_ceiling_has_it():
    on_grid_of_four = torch.tensor([4.0] + [3.0] * 15)
    assert _only(_token(on_grid_of_four * 512), "saturation", "4/6-mse-448") > 0  # 512 is above 448
    assert attribute(torch.cat([_lone(1536), on_grid_of_four * 384])[None], "4/6-mse-256").total == 0


@pytest.mark.parametrize("h, stored", [(4.5 / 512, 4 / 512), (5.5 / 512, 6 / 512), (0.375 / 512, 0.0)])
def test_only_subnormal_scales(h, stored):
    decoded = GRID[(6 * h / stored - GRID).abs().argmin()].item() * stored if stored else 0.0
    assert _only(_token(_lone(6 * h)), "subnormal scales") == pytest.approx((6 * h - decoded) ** 2, rel=1e-6)


def test_only_arithmetic():
    x = _lone(3.0)[None]  # encode scale 896, whose reciprocal is no FP32 number
    part = _only(x, "arithmetic")
    assert 0 < part < (3 * 2.0**-23) ** 2


def test_only_choice():
    x = torch.cat([torch.tensor([4.0] + [3.0] * 15) * 64, _lone(1536.0)])[None]  # on the grid only of 4
    recipe = Recipe(256, four_over_six=True, scored_as=192.0)  # scores of another ceiling mislead
    assert _only(x, "choice", recipe) > 0
    assert attribute(x, dataclasses.replace(recipe, scored_as=None)).total == 0


def test_clipping_is_never_negative_and_choice_neither():
    for recipe in RECIPES.values():
        parts = attribute(_hard().bfloat16(), recipe).parts
        assert parts["clipping"] >= 0 and parts["choice"] >= 0


# oracle


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_compiled_sums_of_every_token_equal_the_plain_ones(name, dtype):
    x, recipe = (_hard() if dtype != torch.float16 else _hard().clamp(-6e4, 6e4)).to(dtype), Recipe.parse(name)
    compiled = attribution.compiled()
    plain_plan, plan = torch_attribution.plan([recipe], [None]), compiled.plan([recipe], [None])
    for token in (*range(9), 40, 77):  # the odd ones, and two of the rest
        row, sampled = x[token : token + 1], np.ones((1, 8), bool)
        counts, sums = torch_attribution.sums(row, plain_plan, sampled)
        found_counts, found = compiled.sums(row, plan, sampled)
        np.testing.assert_array_equal(found_counts, counts)
        np.testing.assert_allclose(found, sums, rtol=1e-11, atol=1e-13 * sums[0, 14])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_compiled_candidates_equal_the_plain_ones_block_by_block(name):
    x, recipe, compiled = _hard().bfloat16(), Recipe.parse(name), attribution.compiled()
    plain = torch_attribution.prepare(x)
    errors, four = torch_attribution.candidate_errors(plain, torch_attribution.arithmetic(recipe, None))
    found, chosen = compiled.candidate_errors(compiled.prepare(x), compiled.arithmetic(recipe, None))
    np.testing.assert_allclose(found, errors, rtol=1e-12)
    np.testing.assert_array_equal(chosen, four)


def test_compiled_sums_equal_the_plain_ones():
    x, recipes = (
        _hard().bfloat16(),
        [Recipe.parse(n) for n in [*RECIPES, *VARIANTS, "4/6-mse-256-tensor", "standard-tensor"]],
    )
    scales = [None if r.per_token else torch.tensor([[3.0]]) for r in recipes]
    sampled, compiled = attribution._sampled(0, 96, 8, 3), attribution.compiled()
    plain = torch_attribution.sums(x, torch_attribution.plan(recipes, scales), sampled)
    fused = compiled.sums(x, compiled.plan(recipes, scales), sampled)
    np.testing.assert_array_equal(fused[0], plain[0])
    np.testing.assert_allclose(fused[1], plain[1], rtol=1e-11)


def test_without_numba_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(type(find_engine("cpu")), "why_not", lambda self: "numba is not installed: pip install numba")
    with pytest.raises(RuntimeError, match="splitting errors needs the cpu engine's compiled code: numba is not"):
        attribute(_hard(), "4/6-mae-448")


# every scale


def test_every_scale_never_does_worse_than_two_and_all_blocks_are_exact():
    x = synthetic("normal", 32, 256)
    whole, sampled = attribute(x, "4/6-mse-256", sample=1), attribute(x, "4/6-mse-256", sample=4)
    assert whole.sampled_blocks == whole.blocks and whole.every_scale_label == "every block"
    assert whole.sampled_two == pytest.approx(whole.quantizers[4])
    assert 0 < whole.every_scale_saving < 0.5
    assert sampled.sampled_blocks == sampled.blocks // 4 and "sample" in sampled.every_scale_label
    assert sampled.every_scale_saving == pytest.approx(whole.every_scale_saving, rel=0.2)


def test_gain_over_always_six_is_that_of_two_recipes():
    x = synthetic("crowded", 32, 256)
    split = attribute(x, "4/6-mse-256")
    assert split.six_only[-1] > split.total
    assert split.six_only[-1] == pytest.approx(analyze(x, "standard-256").err_sq, rel=1e-3)
    standard = attribute(x, "standard")
    assert (standard.six_only == standard.quantizers).all()


# adding


@settings(max_examples=15)
@given(cut=st.integers(0, 96), name=st.sampled_from(VARIANTS))
def test_parts_of_a_tensor_add_up_to_the_whole(cut, name):
    x, recipe = _hard().bfloat16(), Recipe.parse(name)
    whole = attribute(x, recipe)
    first, second = attribute_all(x[:cut], [recipe])[0], attribute_all(x[cut:], [recipe], first_token=cut)[0]
    added = first + second
    assert (added.blocks, added.sampled_blocks) == (whole.blocks, whole.sampled_blocks)
    np.testing.assert_allclose(added.quantizers, whole.quantizers, rtol=1e-12)
    np.testing.assert_allclose(
        [added.sampled_two, added.sampled_every], [whole.sampled_two, whole.sampled_every], rtol=1e-12
    )


def test_chunks_do_not_matter(monkeypatch):
    x = _hard().bfloat16()
    whole = attribute(x, "4/6-mae-448-tensor")
    monkeypatch.setattr(attribution, "CHUNK", 128 * 7)
    split = attribute(x, "4/6-mae-448-tensor")
    np.testing.assert_allclose(split.quantizers, whole.quantizers, rtol=1e-12)
    assert split.sampled_blocks == whole.sampled_blocks


def test_recipes_together_are_as_alone():
    x, recipes = _hard().bfloat16(), [Recipe.parse(n) for n in VARIANTS]
    for together, recipe in zip(attribute_all(x, recipes), recipes, strict=True):
        assert together == attribute(x, recipe)


def test_attributions_of_different_recipes_or_samples_do_not_add():
    x = synthetic("normal", 4, 64)
    with pytest.raises(ValueError, match="recipe 4/6-mae-448 and standard"):
        attribute(x, "4/6-mae-448") + attribute(x, "standard")
    with pytest.raises(ValueError, match="sample"):
        attribute(x, "standard") + attribute(x, "standard", sample=1)


def test_it_goes_through_json():
    split = attribute(_hard().bfloat16(), "4/6-mae-448")
    assert Attribution.from_dict(json.loads(json.dumps(split.to_dict(), allow_nan=False))) == split


@pytest.mark.parametrize("x", [torch.zeros(3, 32), torch.zeros(0, 32)])
def test_nothing_has_no_parts(x):
    split = attribute(x, "4/6-mae-448")
    assert split.parts == dict.fromkeys(PARTS, 0.0) == split.shares()
    assert split.every_scale_saving == 0 and split.blocks == 0


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        attribute(torch.full((2, 32), torch.nan), "standard")
    with pytest.raises(ValueError, match="scales per token"):
        attribute(torch.ones(2, 32), "standard", encode_scale=1.0)


def test_a_sweep_splits_merges_and_saves(tmp_path):
    x, recipes = synthetic("lognormal", 32, 128), ["standard", "4/6-mae-448"]
    plain, whole = sweep({"x": x}, recipes), sweep({"x": x}, recipes, attribution=True)
    assert plain.attributions == {} and "attributions" not in plain.to_dict()
    split = whole.attributions["x"]["4/6-mae-448"]
    assert split == attribute(x, "4/6-mae-448")
    whole.save(tmp_path / "sweep.json")
    assert Sweep.load(tmp_path / "sweep.json").attributions == whole.attributions
    both = whole + sweep({"x": x, "y": x}, recipes, attribution=True)
    assert both.attributions["x"]["standard"].total == pytest.approx(2 * whole.attributions["x"]["standard"].total)
    assert list((plain + sweep({"x": x, "y": x}, recipes, attribution=True)).attributions) == ["y"]
