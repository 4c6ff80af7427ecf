"""Choices and agreement: sums against attribution and analyze, histograms by hand, flips that are known."""

import importlib
import json

import numpy as np
import pytest
import torch

from nvfp4viz import RECIPES, Recipe, agreement, analyze, attribute, choice, load, synthetic
from nvfp4viz.analysis import Agreement, Choice, gain_edges

choices = importlib.import_module("nvfp4viz.analysis.choice")  # the face has the function of this name

FOURS = [n for n in RECIPES if n != "standard"]
VARIANTS = [*FOURS, "4/6-mae-448-fp16err-fast", "4/6-mse-256-tensor"]


@pytest.mark.parametrize("name", VARIANTS)
def test_choice_agrees_with_analyze_and_attribute(name):
    x = synthetic("lognormal", 64, 256)
    x[3], x[4, :32] = 0, 0
    found, stats, split = choice(x, name), analyze(x, name), attribute(x, name)
    assert found.blocks == stats.nonzero_blocks
    assert found.n_four == stats.n_four and found.four_rate == stats.four_rate
    assert found.err_chosen == pytest.approx(stats.err_sq, rel=1e-12)
    assert found.x_sq == pytest.approx(stats.x_sq, rel=1e-12)
    assert found.err_six == pytest.approx(split.six_only[-1], rel=1e-12)
    cost = found.cost_wrong_four + found.cost_wrong_six
    assert cost == pytest.approx(split.parts["choice"], rel=1e-6, abs=1e-12 * stats.err_sq)
    for histogram in (found.gain_histogram, found.by_mantissa[:, 0], found.by_near[:, 0]):
        assert histogram.sum() == found.blocks
    for table in (found.by_mantissa, found.by_near):
        assert table[:, 1].sum() == found.n_four
        np.testing.assert_allclose(table[:, 2:].sum(0), [found.err_six, found.err_chosen])


def test_mse_is_nearly_always_right_and_mae_is_not(bundled):
    x = load(bundled)["model.layers.15.mlp.down_proj"]
    assert choice(x, "4/6-mse-448").wrong_rate < 1e-3  # only FP32 rounding misleads it
    mae = choice(x, "4/6-mae-448")
    assert mae.wrong_rate > 0.05 and mae.saving < choice(x, "4/6-mse-448").saving


def test_four_wins_where_a_value_sits_near_five_sixths_of_amax():
    x = synthetic("normal", 64, 1024)
    by_near = choice(x, "4/6-mse-256").positions("near").set_index("low")
    assert by_near.four_rate.idxmax() == pytest.approx(5 / 6, abs=0.05)
    assert by_near.four_rate.max() > 3 * by_near.four_rate.iloc[0]


def test_gains_by_hand():
    block = torch.tensor([4.0] + [3.0] * 15)  # exact under 4; under 6 (a scale of 2/3, with 4 bits 11/16) not
    alone = torch.zeros(16)
    alone[0] = 1536.0  # the token's amax: encode scale 1
    x = torch.cat([alone, block * 16])[None]
    found = choice(x, "4/6-mse-256")
    assert (found.blocks, found.n_four, found.n_wrong_four, found.n_wrong_six) == (2, 1, 0, 0)
    # 64 and 48 over a scale of 11 are 5.8 and 4.4, so 6 and 4: errors of 2 and 4
    gain = (2**2 + 15 * 4**2) / (64**2 + 15 * 48**2)
    edges = gain_edges()
    place = found.gain_histogram[1].argmax()
    assert edges[place] <= gain < edges[place + 1] and found.gain_histogram[1].sum() == 1
    assert found.gain_histogram[0, choices.SIDE] == 1  # 1536 is exact under both
    near = found.by_near[:, 0]
    assert near[4] == 1 and near[-1] == 1  # 3/4 of amax, and amax itself
    mantissa = found.by_mantissa[:, 0]
    assert mantissa[0] == 1 and mantissa[5] == 1  # 256, and 64 / 6 = 8 * 1.333


@pytest.mark.parametrize("value", [2.0**-20, -(2.0**-20), 0.3, -0.3, 1.0, 2.0**-21, -1e-30, 0.0, 9.0, -9.0])
def test_signed_bins(value):
    counts = choices._by_change(np.array([value]), np.array([True]))
    place, edges = int(counts[1].argmax()), gain_edges()
    assert counts.sum() == 1
    low, high = edges[place], edges[place + 1]
    assert abs(value) > 2 or (low <= value < high if value >= 0 else low < value <= high)
    assert len(edges) == counts.shape[1] + 1 and (np.diff(edges) > 0).all()


@pytest.mark.parametrize(
    "a, b",
    [
        ("4/6-mae-448", "4/6-mse-448"),
        ("4/6-mae-448", "4/6-mae-448-fp16err"),
        ("4/6-mae-448", "4/6-mae-448-fast"),
        ("4/6-mae-448", "4/6-mae-256"),
        ("4/6-mae-448-tensor", "4/6-mse-448"),
    ],
)
def test_agreement_accounts_for_the_whole_difference(a, b):
    x = synthetic("lognormal", 64, 512)
    found = agreement(x, a, b)
    assert found.err_a == pytest.approx(analyze(x, a).err_sq) and found.err_b == pytest.approx(analyze(x, b).err_sq)
    change = found.cost_to_four + found.cost_to_six + found.cost_elsewhere
    assert change == pytest.approx(found.err_b - found.err_a, rel=1e-6, abs=1e-12 * found.err_a)
    assert found.n_to_four - found.n_to_six == choice(x, b).n_four - choice(x, a).n_four
    assert found.flip_histogram.sum(1).tolist() == [found.n_to_four, found.n_to_six]
    back = agreement(x, b, a)
    assert (back.n_to_four, back.n_to_six, back.agree_rate) == (found.n_to_six, found.n_to_four, found.agree_rate)


def test_mae_against_mse_costs_what_mae_chooses_wrongly():
    x = synthetic("normal", 64, 512)
    found, mae = agreement(x, "4/6-mse-256", "4/6-mae-256"), choice(x, "4/6-mae-256")
    assert 0.8 < found.agree_rate < 1 and found.cost_elsewhere == 0
    assert found.cost_to_four + found.cost_to_six == pytest.approx(mae.cost_wrong_four + mae.cost_wrong_six, rel=1e-3)
    assert found.cost_per_flip > 0


def test_one_recipe_agrees_with_itself():
    found = agreement(synthetic("normal", 8, 64), "4/6-mae-448", "4/6-mae-448")
    assert found.agree_rate == 1 and found.cost_per_flip == 0 and found.err_a == found.err_b


def test_they_add_over_chunks_and_go_through_json(monkeypatch):
    x = synthetic("lognormal", 48, 128)
    whole, both = choice(x, "4/6-mae-448"), agreement(x, "4/6-mae-448", "4/6-mse-448")
    added = choice(x[:7], "4/6-mae-448") + choice(x[7:], "4/6-mae-448")
    monkeypatch.setattr(choices, "CHUNK", 128 * 5)
    for other in (added, choice(x, "4/6-mae-448")):
        np.testing.assert_array_equal(other.gain_histogram, whole.gain_histogram)
        np.testing.assert_allclose(other.by_near, whole.by_near, rtol=1e-12)
        np.testing.assert_allclose(other.by_mantissa, whole.by_mantissa, rtol=1e-12)
    assert Choice.from_dict(json.loads(json.dumps(whole.to_dict(), allow_nan=False))) == whole
    assert Agreement.from_dict(json.loads(json.dumps(both.to_dict(), allow_nan=False))) == both


def test_zeros_choose_nothing():
    found = choice(torch.zeros(4, 32), "4/6-mae-448")
    assert found.blocks == found.four_rate == found.saving == found.wrong_rate == 0
    assert agreement(torch.zeros(4, 32), "4/6-mae-448", "4/6-mse-448").agree_rate == 1


def test_standard_does_not_choose():
    with pytest.raises(ValueError, match="does not choose"):
        choice(torch.ones(1, 16), Recipe())
    with pytest.raises(ValueError, match="does not choose"):
        agreement(torch.ones(1, 16), "4/6-mae-448", "standard")
