"""The verdict: constructions whose answer is known, its arithmetic by hand, and what it says when it cannot tell."""

import json
import math

import numpy as np
import pytest
import torch

from nvfp4viz import RECIPES, Recipe, sweep, synthetic
from nvfp4viz.analysis import recommend


def _sweep(activations, recipes=RECIPES):
    return sweep(activations, recipes, engine="reference")


@pytest.mark.parametrize("kind, ceiling", [("spread", 448), ("crowded", 256)])
@pytest.mark.parametrize("seed", [0, 1])
def test_names_the_ceiling_that_the_data_were_built_for(kind, ceiling, seed):
    verdict = recommend(_sweep(synthetic(kind, 64, 512, seed=seed)))
    assert verdict.recipe == f"4/6-mse-{ceiling}"
    assert verdict.best_share == 1
    assert all(c.decided and c.margin_db > 0 for c in verdict.comparisons)
    assert verdict.over("SGLang").over == "standard"
    assert verdict.sentence().startswith(f"Use 4/6-mse-{ceiling}: on 1 tensor of 64 tokens, ")


@pytest.mark.parametrize("kind, better, worse", [("spread", 448, 256), ("crowded", 256, 448)])
def test_the_constructions_favour_their_ceiling_in_both_error_modes(kind, better, worse):
    row = _sweep(synthetic(kind, 64, 512)).stats["activations"]
    for mode in ("mae", "mse"):
        assert row[f"4/6-{mode}-{better}"].nmse < 0.97 * row[f"4/6-{mode}-{worse}"].nmse


def test_margins_are_means_over_tensors_in_db_so_no_large_tensor_decides():
    tensors = {"small": synthetic("crowded", 32, 256), "large": 1000 * synthetic("normal", 32, 256)}
    measured = _sweep(tensors)
    verdict = recommend(measured)
    over = verdict.over("SGLang")
    by_hand = {t: 10 * math.log10(row["standard"].nmse / row[verdict.recipe].nmse) for t, row in measured.stats.items()}
    assert over.by_tensor_db == pytest.approx(by_hand)
    assert over.margin_db == pytest.approx(np.mean(list(by_hand.values())))
    low, high = over.interval_db
    assert low < over.margin_db < high
    assert verdict.sqnr_db == pytest.approx(np.mean([row[verdict.recipe].sqnr_db for row in measured.stats.values()]))
    assert recommend(_sweep({t: x / 4 for t, x in tensors.items()})).recipe == verdict.recipe


def test_the_interval_is_that_of_redrawn_tokens():
    measured = _sweep({"a": synthetic("lognormal", 48, 128), "b": synthetic("spikes", 48, 128)})
    verdict = recommend(measured)
    over = verdict.over("FlashInfer")
    draws = np.mean([
        10 * np.log10(row["4/6-mae-448"].bootstrap_nmse / row[verdict.recipe].bootstrap_nmse)
        for row in measured.stats.values()
    ], axis=0)  # fmt: skip
    assert over.interval_db == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert over.decided == (over.interval_db[0] > 0)


def test_no_difference_worth_having_where_the_interval_covers_zero():
    verdict = recommend(_sweep(synthetic("lognormal"), ["4/6-mae-448", "4/6-mae-256"]))
    assert not any(c.decided for c in verdict.comparisons)
    assert verdict.best_share < 0.975
    assert verdict.sentence().startswith("Keep what you have")
    assert "no difference worth having from" in verdict.sentence() and "covers zero" in verdict.sentence()


def test_a_runner_up_that_cannot_be_told_apart_is_named():
    verdict = recommend(_sweep(synthetic("lognormal")))
    runner_up = verdict.over("the runner-up")
    assert verdict.over("SGLang").decided and not runner_up.decided
    assert f"{runner_up.over} does as well" in verdict.sentence()


def test_a_tie_goes_to_the_first_recipe():
    x = torch.full((64, 64), 6.0)
    assert recommend(_sweep(x)).recipe == "standard"


def test_tensors_that_disagree_are_named_with_their_margin():
    data = {
        "sink": synthetic("spread", 32, 512),
        "a": synthetic("crowded", 32, 512),
        "b": synthetic("crowded", 32, 512, seed=1),
    }
    verdict = recommend(_sweep(data, ["4/6-mae-448", "4/6-mae-256"]))
    assert verdict.recipe == "4/6-mae-256"
    assert verdict.best_by_tensor == {"sink": "4/6-mae-448", "a": "4/6-mae-256", "b": "4/6-mae-256"}
    over = verdict.over("FlashInfer")
    assert over.disagree == ["sink"] and over.wins == 2
    assert f"4/6-mae-448 is better on sink ({-over.by_tensor_db['sink']:.2f} dB)." in verdict.sentence()


def test_one_recipe_has_nothing_to_be_compared_with():
    verdict = recommend(_sweep(synthetic("normal", 32, 64), "standard"))
    assert verdict.comparisons == () and verdict.best_share == 1
    assert "nothing to compare it with" in verdict.sentence()


def test_defaults_are_those_of_the_same_granularity_and_arithmetic():
    recipes = [Recipe(per_token=p, four_over_six=f, e4m3_max=448) for p in (True, False) for f in (True, False)]
    verdict = recommend(_sweep(synthetic("normal", 32, 128), recipes))
    suffix = "" if "tensor" not in verdict.recipe else "-tensor"
    assert verdict.recipe == f"4/6-mae-448{suffix}"
    assert verdict.over("SGLang").over == f"standard{suffix}"
    assert verdict.over("FlashInfer") is None  # it is the named one


def test_few_tokens_give_no_interval_and_decide_nothing():
    verdict = recommend(_sweep(synthetic("crowded", 4, 512)))
    assert all(c.interval_db is None and not c.decided for c in verdict.comparisons)
    assert verdict.sentence().startswith(f"Too few tokens to decide; {verdict.recipe} is ahead on these")
    assert "too few for an interval" in verdict.sentence() and "no difference" not in verdict.sentence()
    with pytest.raises(TypeError, match="sweep is a dict: give what"):
        recommend({"x": synthetic("crowded", 4, 512)})


def test_zero_tensors_are_left_out_and_alone_refused():
    with_zero = {"zero": torch.zeros(32, 64), "there": synthetic("crowded", 32, 64)}
    verdict = recommend(_sweep(with_zero))
    assert verdict.tensors == 1 and set(verdict.best_by_tensor) == {"there"}
    with pytest.raises(ValueError, match="non-zero"):
        recommend(_sweep({"zero": torch.zeros(32, 64)}))


def test_a_tensor_stored_exactly_by_one_recipe_does_not_make_infinity():
    exact = torch.tensor([[6.0] + [4.0] * 15]).repeat(32, 1) * 448  # standard holds it
    verdict = recommend(_sweep({"exact": exact, "normal": synthetic("normal", 32, 64)}))
    assert all(math.isfinite(c.margin_db) for c in verdict.comparisons)


def test_to_dict_is_json():
    verdict = recommend(_sweep(synthetic("crowded", 32, 64)))
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert stored["sentence"] == verdict.sentence()
    assert stored["comparisons"][0]["over"] == verdict.comparisons[0].over
