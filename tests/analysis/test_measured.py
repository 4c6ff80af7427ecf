"""Measured KL: intervals over sequences that hold, paired differences, what would resolve them, and the file."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from nvfp4viz import RECIPES
from nvfp4viz.analysis import Effect, Impact, judged, t_quantile


def _impact(kl: dict[str, np.ndarray], tokens=64, sequences=None, recipes=RECIPES, **more) -> Impact:
    """Effects of these KL by run, each of so many tokens."""
    n = len(next(iter(kl.values())))
    tokens = np.full(n, float(tokens)) if np.isscalar(tokens) else tokens
    effects = [Effect(name, None, np.stack([tokens, 2 * tokens, 2 * tokens + v, v, 0.9 * tokens], 1),
                      {"a": np.stack([np.arange(n), tokens, v, tokens], 1)}) for name, v in kl.items()]  # fmt: skip
    found = {name: recipes[name] for name in kl}
    return Impact(effects, np.arange(n) if sequences is None else sequences, found, "activations", **more)


def _draws(rng, n, run=1, **means):
    """KL by run of recipes that share what a text does to them, which goes together in so many neighbours."""
    shared = np.repeat(rng.lognormal(0, 0.4, -(-n // run)), run)[:n]
    return {name: 64 * mean * shared * rng.lognormal(0, 0.1, n) for name, mean in means.items()}


def test_the_interval_of_a_paired_difference_by_hand():
    a, b = np.array([1.0, 2.0, 4.0, 3.0]), np.array([2.0, 2.5, 6.0, 3.0])
    d = _impact({"standard": b, "4/6-mse-256": a}, tokens=10).difference("4/6-mse-256", "standard")
    assert d.kl == pytest.approx((a - b).sum() / 40)
    half = 1.1 * t_quantile(0.975, 3) * math.sqrt(4 / 3 * np.square((a - b - (a - b).mean()) / 40).sum())
    assert d.interval == pytest.approx((d.kl - half, d.kl + half))
    assert d.by == "4 sequences" and d.unit == 10
    assert d.sentence().startswith("KL -26 % (95 % interval") and "against standard: not resolved" in d.sentence()


def test_sequences_of_unequal_length_count_by_what_they_weigh():
    assert judged(np.full(9, 64.0), np.arange(9)).degrees == 8
    uneven = judged(np.array([512.0, 512.0, 512.0, 10.0]), np.arange(4))
    assert uneven.degrees == 2 and uneven.words == "4 sequences"
    nearly_one = judged(np.array([*[64.0] * 16, 5.0]), np.array([0] * 16 + [1]))
    assert "one of 2 sequences has most of them" in nearly_one.words and nearly_one.degrees == 7
    assert judged(np.full(7, 64.0), np.zeros(7)) is None and judged(np.zeros(0), np.zeros(0)) is None


@pytest.mark.parametrize("n, one, run", [(3, False, 1), (8, False, 1), (40, False, 1), (64, True, 4)])
def test_a_stated_95_percent_holds(n, one, run):
    """2,000 draws of a skewed KL: the interval holds the truth, and no difference of equal recipes is resolved."""
    rng, held, wrong = np.random.default_rng(n), 0, 0
    truth = math.exp(0.4**2 / 2 + 0.1**2 / 2)
    for _ in range(2000):
        made = _impact(
            _draws(rng, n, run, **{"standard": 1.0, "4/6-mse-256": 1.0}), sequences=np.zeros(n) if one else None
        )
        _, low, high = made.effects[0].measures(made.judge)["kl"]
        held += low <= truth <= high
        wrong += made.difference("4/6-mse-256", "standard").resolved
    assert held >= 0.94 * 2000 and wrong <= 0.05 * 2000


def test_a_run_says_what_would_resolve_it_and_so_many_tokens_do():
    scatter = np.array([1.0, -1.0, 0.5, -0.5, 0.0, 0.8, -0.8, 0.0])  # of the difference, whose mean is 0.1

    def difference(times):
        b = np.full(8 * times, 10.0)
        made = {"standard": b, "4/6-mse-256": b - 0.1 + np.tile(scatter, times)}
        return _impact(made).difference("4/6-mse-256", "standard")

    few = difference(1)
    times = few.needed / few.tokens
    assert not few.resolved and few.enough() == "not resolved; about 15,000 tokens (230 sequences) would"
    assert difference(math.ceil(1.02 * times)).enough() == "resolved" and not difference(int(0.98 * times)).resolved


@pytest.mark.parametrize("n", [2, 3, 8, 40])
@pytest.mark.parametrize("short", [1.001, 1.5, 4.0])
def test_what_would_resolve_it_is_more_than_did_not(n, short):
    """Half widths of so many times the difference: twice as many tokens as are named would do, more than are there."""
    scatter = np.linspace(-1.0, 1.0, n)
    half = 1.1 * t_quantile(0.975, n - 1) * math.sqrt(np.square(scatter).sum() * n / (n - 1)) / n

    def difference(k):  # sequences, k as many, of the same spread
        made = np.resize(scatter, k) * math.sqrt((n - 1) / n)
        b = np.full(k, 10.0)
        return _impact({"standard": b, "4/6-mse-256": b - half / short + made - made.mean()}).difference(
            "4/6-mse-256", "standard"
        )

    few = difference(n)
    assert few.needed is None or few.needed >= few.tokens * (n + 1) / n
    assert difference(2 * n * math.ceil((few.needed or few.tokens) / few.tokens)).resolved


def test_the_sentence_and_the_table_have_the_defaults_and_the_runner_up():
    rng = np.random.default_rng(1)
    kl = {"standard": 1.5, "4/6-mae-448": 1.02, "4/6-mse-448": 1.01, "4/6-mse-256": 1.0}
    found = _impact(_draws(rng, 40, **kl))
    best, second, *_ = found.kl
    text = found.sentence()
    assert text.startswith(f"Least KL under {best}: ") and "(40 sequences)" in text and text in repr(found)
    assert (
        "against SGLang's default, standard-tensor-fast, measured here per token and strict as standard: resolved"
        in text
    )
    assert f"against the runner-up, {second}" in text or f"measured here strict as {second}" in text
    table = found.table().set_index("recipe")
    assert found.default == "standard" and table.loc["standard", "vs_default"] == "the default"
    assert table.loc[best, "vs_best"] == "the best" and math.isnan(table.loc[best, "kl_vs_best"])
    assert table.loc[best, "kl_vs_default"] == pytest.approx(found.kl[best] - found.kl["standard"])
    assert table.loc[best, "kl_vs_default_low"] < table.loc[best, "kl_vs_default"] < 0
    assert table.loc[second, "kl_vs_best"] == pytest.approx(found.kl[second] - found.kl[best])
    assert table.loc["unquantized", "vs_default"] == ""
    shown = found.summary().set_index("recipe")
    assert "%" in shown.loc[best, "KL vs default"] and shown.loc["standard", "KL vs default"] == ""


def test_a_difference_within_that_of_control_ceilings_is_no_finding():
    rng = np.random.default_rng(2)
    kl = {"standard": 1.04, "4/6-mse-256": 1.0, "4/6-mse-240": 1.06, "4/6-mse-288": 0.98}
    recipes = {n: type(RECIPES["standard"]).parse(n) for n in kl}
    made = _draws(rng, 2000, **kl)
    found = _impact(made, recipes=recipes, controls=("4/6-mse-240", "4/6-mse-288"))
    d = found.difference("4/6-mse-256", "standard")
    assert list(found.kl) == ["4/6-mse-256", "standard"] and found.spread == pytest.approx(0.08 * 1.087, rel=0.2)
    assert (
        d.resolved and not d.finding and "no finding" in d.enough() and "no more than that is no finding" in repr(found)
    )


def test_it_saves_and_reads_back(tmp_path):
    rng = np.random.default_rng(3)
    n = 12
    found = _impact(_draws(rng, n, **{"standard": 1.5, "4/6-mse-256": 1.0}), sequences=np.arange(n) // 3,
                    skipped={"odd": "K=24"}, provenance={"quantized": "inputs", "model": "M"})  # fmt: skip
    for e in found.effects:
        e.layers["a"][:, 0] //= 3
        e.layers["b"] = np.array([[-1.0, 64, 1, 2], [-1.0, 64, 2, 3]])
    found.save(tmp_path / "i.json")
    again = Impact.load(tmp_path / "i.json")
    pd.testing.assert_frame_equal(again.table(), found.table())
    pd.testing.assert_frame_equal(again.layers(), found.layers())
    assert again.sentence() == found.sentence() and again.skipped == found.skipped and len(again.sequences) == 4
    found.save(tmp_path / "i.csv")
    assert (tmp_path / "i.csv").read_text().startswith("recipe,weights")
    with pytest.raises(ValueError, match=r"use \.json"):
        found.save(tmp_path / "i.html")


def test_a_file_is_judged_as_what_was_saved(tmp_path):
    """Also where one sequence has most of the tokens, or there is one alone, so that runs are judged."""
    for sequences in (np.array([0] * 16 + [1]), np.zeros(17, int)):
        found = _impact(_draws(np.random.default_rng(5), 17, **{"standard": 1.5}), sequences=sequences)
        found.effects[0].layers["a"][:, 0] = sequences
        found.save(tmp_path / "i.json")
        again = Impact.load(tmp_path / "i.json")
        assert "8 runs of about" in found.judged_by and again.judged_by == found.judged_by
        pd.testing.assert_frame_equal(again.table(), found.table())
        pd.testing.assert_frame_equal(again.layers(), found.layers())
        assert not again.layers().isna().any(axis=None)


def test_sequences_that_are_all_alike_are_no_draws():
    """Copies of which nobody told: a difference of no scatter is no certain one."""
    found = _impact({"standard": np.full(8, 3.0), "4/6-mse-256": np.full(8, 2.0)})
    d = found.difference("4/6-mse-256", "standard")
    assert found.judge is None and d.interval is None and d.enough() == "too few tokens for an interval"
    assert found.judged_by == "too few tokens" and found.table()["kl_low"][1:].isna().all()


@pytest.mark.parametrize("edit", [
    {"format": "nvfp4viz-sweep-1"}, {"effects": []}, {"effects": [{}]}, {"sequences": [0]},
    {"recipes": {"a": {"b": 1}}}, {"controls": ["x"]}, {"skipped": {"a": 1}}, {"provenance": 3}, {"effects": 7},
    {"copies": -1}, {"copies": "many"},
])  # fmt: skip
def test_a_file_that_was_edited_is_refused(tmp_path, edit):
    found = _impact(_draws(np.random.default_rng(4), 8, **{"standard": 1.5}))
    (tmp_path / "i.json").write_text(json.dumps(found.to_dict() | edit))
    with pytest.raises(ValueError, match="cannot read the impact"):
        Impact.load(tmp_path / "i.json")
