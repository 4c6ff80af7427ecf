"""The verdict: constructions whose answer is known, its arithmetic by hand, and what it says when it cannot tell."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from simulated import Text

from nvfp4viz import RECIPES, Recipe, Sweep, sweep, synthetic
from nvfp4viz.analysis import Effect, Impact, margin_interval, recommend, t_quantile
from nvfp4viz.environment import PROGRAMS
from nvfp4viz.stats import Stats, run_sums

PAIR = ["4/6-mae-448", "4/6-mae-256"]


def _sweep(activations, recipes=RECIPES):
    return sweep(activations, recipes, engine="reference", blocks=False)


def _made(nmse: dict[str, np.ndarray], x_sq=None, sequences=None, **more) -> dict[str, Stats]:
    """Statistics by recipe of one tensor whose tokens have these errors."""
    row = {}
    for name, values in nmse.items():
        x = np.ones(len(values)) if x_sq is None else x_sq
        tokens, sums = run_sums(values, x > 0, 0, sequences)
        row[name] = Stats(RECIPES[name], "made", 64, tokens=len(values), elements=64 * len(values), x_amax=1.0,
                          nonzero_elements=int(x.sum()), err_sq=float(values @ x), x_sq=float(x.sum()),
                          run_tokens=tokens, run_nmse=sums, top_token=int(x.argmax()), top_token_x_sq=float(x.max()),
                          **more)  # fmt: skip
    return row


def _of(rows: dict[str, dict[str, Stats]]) -> Sweep:
    return Sweep.of(rows, {name: RECIPES[name] for name in next(iter(rows.values()))})


@pytest.mark.parametrize("kind, ceiling", [("spread", 448), ("crowded", 256)])
@pytest.mark.parametrize("seed", [0, 1])
def test_names_the_ceiling_that_the_data_were_built_for(kind, ceiling, seed):
    verdict = recommend(_sweep(synthetic(kind, 512, 512, seed=seed)))
    assert verdict.recipe == f"4/6-mse-{ceiling}"
    assert all(c.decided and c.margin_db > 0 for c in verdict.defaults)
    assert verdict.over("SGLang").over == "standard"
    assert verdict.sentence().startswith(f"Use 4/6-mse-{ceiling}: on 1 input of 512 tokens, ")


@pytest.mark.parametrize("kind, better, worse", [("spread", 448, 256), ("crowded", 256, 448)])
def test_the_constructions_favour_their_ceiling_in_both_error_modes(kind, better, worse):
    row = _sweep(synthetic(kind, 64, 512)).stats["activations"]
    for mode in ("mae", "mse"):
        for error in ("nmse", "token_nmse"):
            assert getattr(row[f"4/6-{mode}-{better}"], error) < 0.97 * getattr(row[f"4/6-{mode}-{worse}"], error)


# whose voice


def test_margins_are_means_over_inputs_in_db_so_no_large_tensor_decides():
    tensors = {"small": synthetic("crowded", 32, 256), "large": 1000 * synthetic("normal", 32, 256)}
    measured = _sweep(tensors)
    verdict = recommend(measured)
    over = verdict.over("SGLang")
    by_hand = {t: 10 * math.log10(row["standard"].token_nmse / row[verdict.recipe].token_nmse)
               for t, row in measured.stats.items()}  # fmt: skip
    assert over.by_tensor_db == pytest.approx(by_hand)
    assert over.margin_db == pytest.approx(np.mean(list(by_hand.values())))
    low, high = over.interval_db
    assert low < over.margin_db < high
    levels = [row[verdict.recipe].token_sqnr_db for row in measured.stats.values()]
    assert verdict.sqnr_db == pytest.approx(np.mean(levels))
    assert recommend(_sweep({t: x / 4 for t, x in tensors.items()})).recipe == verdict.recipe


def _mixed():
    return {"a.q_proj": synthetic("crowded", 64, 256), "b.q_proj": synthetic("spread", 64, 256)}


def test_an_input_has_one_voice_under_however_many_names():
    tensors = _mixed()
    once = recommend(_sweep(tensors))
    twice = recommend(_sweep(tensors | {f"b.{n}": tensors["b.q_proj"].clone() for n in ("k_proj", "v", "w")}))
    assert twice.inputs == 2 and "on 2 inputs of 64 tokens" in twice.sentence()
    assert [(c.over, c.margin_db, c.interval_db) for c in twice.comparisons] == [
        (c.over, c.margin_db, c.interval_db) for c in once.comparisons
    ]


@pytest.mark.parametrize("kind", ["lognormal", "outlier channels", "spikes", "crowded", "spread"])
def test_repeating_the_text_a_padding_token_or_a_towering_one_does_not_change_the_winner(kind):
    x = synthetic(kind, 128, 256)
    winner = recommend(_sweep(x)).recipe
    padding = torch.full((1, 256), 1e-3).bfloat16()
    tower = synthetic(kind if kind == "spread" else "spikes", 1, 256, seed=5) * 3e4  # 1e8 times the signal of another
    for changed in (torch.cat([x, x]), torch.cat([padding, x]), torch.cat([tower, x]), torch.cat([x, tower])):
        assert recommend(_sweep(changed)).recipe == winner


def test_a_towering_token_is_named():
    x = synthetic("normal", 64, 256)
    x[37] *= 1000
    verdict = recommend(_sweep({"layer.down_proj": x, "layer.up_proj": synthetic("normal", 64, 256, seed=1)}))
    assert list(verdict.towers) == ["layer.down_proj"] and verdict.towers["layer.down_proj"][0] == 37
    assert "One token holds over a fifth of the signal of layer.down_proj (token 37, 100 %)." in verdict.sentence()
    assert "a fifth" not in recommend(_sweep(synthetic("normal", 64, 256))).sentence()


def test_the_output_head_votes_only_if_it_is_quantized():
    tensors = {"layers.0.q_proj": synthetic("crowded", 64, 256), "lm_head": synthetic("spread", 64, 256)}
    measured = _sweep(tensors)
    verdict = recommend(measured)
    assert verdict.inputs == 1 and verdict.left_out == {"lm_head": "the output head is rarely quantized"}
    assert recommend(measured, head=True).inputs == 2
    assert recommend(_sweep({"lm_head": tensors["lm_head"]})).inputs == 1  # it is all there is


def test_experts_are_one_voice_by_their_tokens():
    sizes = {"3": 40, "7": 120, "9": 33}
    tensors = {f"layers.0.mlp.experts.{e}.down_proj": synthetic("normal", m, 64, seed=m) for e, m in sizes.items()}
    tensors["layers.0.q_proj"] = synthetic("crowded", 193, 64)
    measured = _sweep(tensors)
    verdict = recommend(measured)
    over = verdict.over("SGLang")
    weights = [1 / 2] + [m / 193 / 2 for m in sizes.values()]
    assert verdict.inputs == 2 and over.margin_db == pytest.approx(np.dot(weights, list(over.by_tensor_db.values())))
    assert over.interval_db[0] < over.margin_db < over.interval_db[1]
    assert "on 2 inputs of 193 tokens" in verdict.sentence() and "of 4 inputs and experts)" in over.sentence()
    alone = recommend(_sweep({n: x for n, x in tensors.items() if "experts" in n}))
    assert "on 1 input of 193 tokens" in alone.sentence() and "of 3 experts)" in alone.over("SGLang").sentence()
    whole = torch.cat([x for n, x in tensors.items() if "experts" in n])
    together = recommend(_sweep(tensors | {"layers.0.mlp.experts.down_proj": whole}))
    assert together.inputs == 2 and list(together.over("SGLang").by_tensor_db) == [
        "layers.0.q_proj", "layers.0.mlp.experts.down_proj"
    ]  # fmt: skip


def test_a_tensor_of_too_few_tokens_leaves_the_vote_and_is_named():
    tensors = {"a": synthetic("crowded", 64, 256), "rare expert": synthetic("spread", 9, 256)}
    verdict = recommend(_sweep(tensors))
    assert verdict.inputs == 1 and verdict.over("SGLang").decided
    assert "Without a vote for too few tokens: rare expert." in verdict.sentence()


def test_zero_tensors_are_left_out_and_alone_refused():
    with_zero = {"zero": torch.zeros(32, 64), "there": synthetic("crowded", 32, 64)}
    verdict = recommend(_sweep(with_zero))
    assert verdict.inputs == 1 and "signal" in verdict.left_out["zero"]
    with pytest.raises(ValueError, match="non-zero"):
        recommend(_sweep({"zero": torch.zeros(32, 64)}))


# how sure


def test_the_interval_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 1.5, 512), rng.uniform(0.6, 1.6, 512)
    row = _made({"standard": b, "4/6-mse-256": a})
    margin, (low, high) = margin_interval([row["4/6-mse-256"]], [row["standard"]])
    assert margin == pytest.approx(10 * math.log10(b.mean() / a.mean()))
    moves = 10 / math.log(10) * (b / b.sum() - a / a.sum()).reshape(8, 64).sum(1)
    half = 2 * 2.364624251592784 * math.sqrt(8 / 7 * (moves**2).sum())  # t of 7 degrees, widened by 2
    assert (low, high) == pytest.approx((margin - half, margin + half), rel=1e-6)
    wider = margin_interval([row["4/6-mse-256"]], [row["standard"]], comparisons=4)[1]
    assert (wider[1] - margin) / half == pytest.approx(t_quantile(1 - 0.025 / 4, 7) / 2.364624251592784, rel=1e-6)


@pytest.mark.parametrize(
    "p, degrees, t", [(0.975, 7, 2.3646), (0.975, 15, 2.1314), (0.99, 3, 4.5407), (0.975, 1, 12.706)]
)
def test_quantiles_of_students_t(p, degrees, t):
    assert t_quantile(p, degrees) == pytest.approx(t, abs=3e-4)


@pytest.mark.parametrize("tokens, by", [(512, "8 runs of 64 tokens"), (500, "8 runs of 64 tokens"),
                                        (1023, "8 runs of 128 tokens"), (29, "8 runs of 4 tokens"),
                                        (28, "too few tokens"), (700, "11 runs of 64 tokens")])  # fmt: skip
def test_intervals_are_over_the_longest_runs_of_which_there_are_eight(tokens, by):
    rng = np.random.default_rng(tokens)
    verdict = recommend(_of({"a": _made({n: rng.uniform(1, 2, tokens) for n in PAIR})}))
    assert verdict.judged_by == by


def test_recorded_sequences_come_before_runs():
    rng = np.random.default_rng(0)
    errors = {n: rng.uniform(1, 2, 900) for n in PAIR}
    assert recommend(_of({"a": _made(errors, sequences=(0, 100))})).judged_by == "9 sequences"
    assert recommend(_of({"a": _made(errors, sequences=(0, 20))})).judged_by == "16 groups of sequences"
    assert recommend(_of({"a": _made(errors, sequences=(0, 300))})).judged_by == "8 runs of 128 tokens"
    some = _of({"a": _made(errors, sequences=(0, 100)), "b": _made(errors, x_sq=np.arange(900.0) + 1)})
    low, high = recommend(some).comparisons[0].interval_db  # of b no sequences are known
    assert low < high


def test_the_spread_of_sequences_shows_where_they_differ_and_runs_do_not_hide_it():
    """Every second sequence of 64 tokens favours the other recipe: runs of 128 tokens would see no difference."""
    token = np.arange(1024)
    better, worse = np.full(1024, 1.0), np.where(token // 64 % 2 == 0, 0.9, 1.25)
    row = _made(dict(zip(PAIR, (better, worse), strict=True)), sequences=(0, 64))
    assert not recommend(_of({"a": row})).comparisons[0].decided


@pytest.mark.parametrize(
    "text",
    [Text(64, 1, recipes=2), Text(256, 64), Text(256, 128), Text(512, 1), Text(512, 128), Text(512, 128, 4),
     Text(1024, 128, recipes=2), Text(4096, 128)],
    ids=lambda t: f"{t.tokens} tokens in runs of {t.run}, {t.inputs} inputs, {t.recipes} recipes",
)  # fmt: skip
def test_use_is_rarely_said_where_recipes_are_equal(text):
    """Draws of tokens whose errors go together in runs: at most 5 % say Use; interval_null.py draws 1,000 of each."""
    assert sum(recommend(_all(text, rows)).sentence().startswith("Use") for rows in text.draws(300)) <= 15


def test_a_recipe_that_is_better_is_found_among_tokens_that_go_together():
    text = Text(4096, 16, own=0.05, token=0.05, gain_db=0.2)
    found = [recommend(_all(text, rows)) for rows in text.draws(100)]
    assert sum(v.sentence().startswith(f"Use {text.names[-1]}") for v in found) >= 80


def _all(text: Text, rows) -> Sweep:
    return _of({f"input {i}": row for i, row in enumerate(rows)})


@pytest.mark.parametrize("run, tokens", [(1, 256), (1, 1024), (128, 1024), (64, 256)])
def test_intervals_are_wider_where_runs_are_parts_of_passages_and_where_tokens_are_few(run, tokens):
    rng = np.random.default_rng(1)
    b = np.exp(np.repeat(rng.normal(size=tokens // run), run) + 0.1 * rng.normal(size=tokens))
    row = _made({"standard": b, "4/6-mse-256": np.ones(tokens)})
    margin, (_, high) = margin_interval([row["4/6-mse-256"]], [row["standard"]])
    each = 10 / math.log(10) * (b / b.sum() - 1 / tokens)
    spread_sq = 8 / 7 * np.square(each.reshape(8, -1).sum(1)).sum()
    shorter = []
    for runs in (16, 32, 64):  # 16 slots that the runs fill round and round, and their neighbours' differences
        slots = each.reshape(runs // 16, 16, -1).sum((0, 2))
        shorter.append(np.square(slots[::2] - slots[1::2]).sum())
    passages = max(1.0, spread_sq / np.mean(shorter) / 3)
    few = 2**1.5 if tokens == 256 else 1.0
    assert (passages > 1) == (run > 1)
    assert high - margin == pytest.approx(2 * 2.364624251592784 * math.sqrt(spread_sq) * passages * few, rel=1e-6)


# what it says


def test_equal_for_practical_purposes_undecided_and_used_are_three_things():
    rng = np.random.default_rng(0)

    def verdict(ratio, scatter, **options):
        other = ratio * (1 + scatter * rng.normal(size=512))
        return recommend(_of({"a": _made(dict(zip(PAIR, (other, np.ones(512)), strict=True)))}), **options)

    equal, unknown, better = verdict(1.004, 1e-3), verdict(1.1, 0.9), verdict(1.1, 1e-2)
    assert equal.comparisons[0].equal and not equal.comparisons[0].decided
    assert "are equal for practical purposes (within 0.05 dB)" in equal.sentence()
    assert not unknown.comparisons[0].equal and not unknown.comparisons[0].decided
    assert "these tokens cannot tell" in unknown.sentence() and "Use" not in unknown.sentence()
    assert better.comparisons[0].decided and better.sentence().startswith("Use 4/6-mae-256")
    small = verdict(1.02, 1e-3, worth_db=0.2)
    assert "within 0.2 dB" in small.sentence() and not small.comparisons[0].decided


def test_the_family_that_does_as_well_is_named():
    verdict = recommend(_sweep(synthetic("lognormal", 512, 256)))
    assert verdict.over("SGLang").decided
    family = [c.over for c in verdict.comparisons if c.equal or (not c.decided and c.interval_db)]
    assert family
    for name in family:
        assert name in verdict.sentence()


def test_a_tie_goes_to_the_first_recipe():
    x = torch.full((64, 64), 6.0)
    assert recommend(_sweep(x)).recipe == "standard"


def test_inputs_that_surely_disagree_are_named_with_their_margin():
    data = {
        "sink": synthetic("spread", 512, 512),
        "a": synthetic("crowded", 512, 512),
        "b": synthetic("crowded", 512, 512, seed=1),
    }
    verdict = recommend(_sweep(data, PAIR))
    assert verdict.recipe == "4/6-mae-256"
    over = verdict.over("FlashInfer")
    assert over.disagree == ["sink"] and over.wins == 2
    assert f"4/6-mae-448 is surely better on sink ({-over.by_tensor_db['sink']:.2f} dB)." in verdict.sentence()


def test_one_recipe_has_nothing_to_be_compared_with():
    verdict = recommend(_sweep(synthetic("normal", 32, 64), "standard"))
    assert verdict.comparisons == ()
    assert "nothing to compare it with" in verdict.sentence()


def test_the_defaults_are_what_an_empty_environment_runs():
    verdict = recommend(_sweep(synthetic("crowded", 64, 128)))
    assert verdict.over("SGLang").over == "standard"
    role = "SGLang's default, standard-tensor-fast, measured here per token and strict as"
    assert verdict.over("SGLang").role == role
    recipes = [*RECIPES, "standard-tensor-fast", "4/6-mae-448-fast"]
    verdict = recommend(_sweep(synthetic("crowded", 64, 128), recipes))
    assert [(c.role, c.over) for c in verdict.defaults] == [
        ("FlashInfer's 4over6 default", "4/6-mae-448-fast"), ("SGLang's default", "standard-tensor-fast")
    ]  # fmt: skip


def test_few_tokens_give_no_interval_and_decide_nothing():
    verdict = recommend(_sweep(synthetic("crowded", 4, 512)))
    assert all(c.interval_db is None and not c.decided and not c.equal for c in verdict.comparisons)
    assert verdict.sentence().startswith(f"Too few tokens to decide; {verdict.recipe} is ahead on these")
    assert "too few tokens for an interval" in verdict.sentence()
    with pytest.raises(TypeError, match="sweep is a dict: give what"):
        recommend({"x": synthetic("crowded", 4, 512)})


def _as_saved_by_the_first_release(measured: Sweep) -> Sweep:
    stats = {t: {n: replace(s, run_tokens=np.zeros_like(s.run_tokens), run_nmse=np.zeros_like(s.run_nmse),
                            n_four_saturated_chosen=0, top_token=-1, top_token_x_sq=0.0)
                 for n, s in row.items()} for t, row in measured.stats.items()}  # fmt: skip
    return Sweep.of(stats, measured.recipes)


def test_a_sweep_of_the_first_release_has_no_interval_and_says_so():
    measured = _sweep({"a": synthetic("crowded", 1024, 256), "b": synthetic("crowded", 1024, 256, seed=1)})
    old = _as_saved_by_the_first_release(measured)
    verdict = recommend(old)
    assert all(c.interval_db is None for c in verdict.comparisons)
    assert verdict.sentence().startswith("Undecided, since no interval was saved; ")
    assert "less error of whole tensors than" in verdict.sentence() and "too few" not in verdict.sentence()
    assert "saved by a release that did not measure it: sweep again" in verdict.sentence()
    assert "too few" not in verdict._repr_html_() and "no interval was saved" in verdict._repr_html_()
    table = old.table()
    assert table[["token_nmse", "token_sqnr_db", "four_saturated_chosen"]].isna().all(axis=None)
    assert not table["sqnr_db"].isna().any() and not measured.table()["token_nmse"].isna().any()


def test_what_the_first_release_saved_of_some_tokens_gives_no_interval_of_all():
    """Added to a sweep of today, or beside one: what was not measured is not taken for the rest."""
    one, more = (_sweep({"a": synthetic("crowded", 1024, 256, seed=s)}) for s in (0, 1))
    old = _as_saved_by_the_first_release(one)
    verdict = recommend(old + more)
    assert verdict.comparisons[0].interval_db is None and verdict.sentence().startswith("Undecided")
    beside = recommend(Sweep.of({"old": old.stats["a"], "new": more.stats["a"]}, one.recipes))
    assert beside.inputs == 1 and beside.comparisons == recommend(Sweep.of({"new": more.stats["a"]}, one.recipes)
                                                                  ).comparisons  # fmt: skip
    assert beside.left_out == {"old": "it was saved by a release that measured no single tokens"}
    assert "Without a vote, since a release that measured no single tokens saved them: old." in beside.sentence()


def test_a_difference_that_is_there_but_perhaps_not_worth_having_is_said_so():
    rng = np.random.default_rng(0)
    other = 1.01 * (1 + 0.03 * rng.normal(size=512))
    verdict = recommend(_of({"a": _made(dict(zip(PAIR, (other, np.ones(512)), strict=True)))}))
    (c,) = verdict.comparisons
    assert c.differs and not c.decided and not c.equal
    assert verdict.sentence().startswith(
        "Keep what you have; whether 4/6-mae-256 is better than 4/6-mae-448 by more than 0.05 dB, these tokens cannot"
    )
    assert "perhaps not worth having (within 0.05 dB)" in verdict.sentence()
    assert "no difference that" not in verdict.sentence()


def test_an_input_is_one_whether_its_sequences_are_known_or_not():
    """The same tokens, as rows and in sequences: who told where they end is no other input."""
    x = synthetic("crowded", 1024, 256)
    verdict = recommend(_sweep({"rows": x, "sequences": x.reshape(8, 128, 256), "other": x.flip(0)}))
    assert verdict.inputs == 2 and verdict.comparisons[0].interval_db


def test_a_head_of_few_tokens_does_not_void_the_verdict():
    """An output head has often the last token alone; other tensors of few tokens leave the vote all the same."""
    data = {"a": synthetic("crowded", 512, 256), "few": synthetic("crowded", 4, 256),
            "lm_head": synthetic("crowded", 2, 256)}  # fmt: skip
    verdict = recommend(_sweep(data))
    assert verdict.inputs == 1 and verdict.comparisons[0].interval_db
    assert verdict.left_out == {"lm_head": "the output head is rarely quantized", "few": "it has too few tokens"}


def test_a_tensor_stored_exactly_by_one_recipe_does_not_make_infinity():
    exact = torch.tensor([[6.0] + [4.0] * 15]).repeat(32, 1) * 448  # standard holds it
    verdict = recommend(_sweep({"exact": exact, "normal": synthetic("normal", 32, 64)}))
    assert all(math.isfinite(c.margin_db) for c in verdict.comparisons)


def test_to_dict_is_json():
    verdict = recommend(_sweep(synthetic("crowded", 32, 64)))
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert stored["sentence"] == verdict.sentence()
    assert stored["comparisons"][0]["over"] == verdict.comparisons[0].over


def test_the_predicted_kl_stands_beside_and_is_never_overruled_by_tensor_error():
    errors = {"4/6-mae-448": np.full(512, 1.2), "4/6-mae-256": np.full(512, 1.0)}

    def verdict(*kl):
        rows = {}
        for i, name in enumerate("abcd"):
            made = _made({n: v * (1 + i / 10) for n, v in errors.items()})
            both = zip(made.items(), kl, strict=True)
            rows[name] = {n: replace(s, kl=k * (i + 1), kl_tokens=100) for (n, s), k in both}
        return recommend(_of(rows))

    agrees, disagrees = verdict(12.0, 10.0), verdict(9.0, 10.0)
    assert agrees.outlook.predicted == pytest.approx({"4/6-mae-448": 1.2, "4/6-mae-256": 1.0})
    assert agrees.contradicted is None
    assert agrees.sentence().startswith("Use 4/6-mae-256") and agrees.outlook.worst == ("d", "c", "b", "a")
    assert "Predicted KL of the output: 1 nats a token under 4/6-mae-256 (1.2 under 4/6-mae-448)." in agrees.sentence()
    assert "Worst layers by predicted effect: d, c, b and 1 more." in agrees.sentence()
    assert disagrees.contradicted == "4/6-mae-448" and "Use" not in disagrees.sentence()
    start = "Measure before you choose; tensor error favours 4/6-mae-256, the predicted KL 4/6-mae-448"
    assert disagrees.sentence().startswith(start)
    json.dumps(agrees.to_dict(), allow_nan=False)


def test_a_measured_output_overrules_tensor_error_and_prediction_where_it_is_resolved():
    def verdict(measured, predicted=(0.0, 0.0), recipes=PAIR, scatter=0.01):
        rng, errors = np.random.default_rng(0), {"4/6-mae-448": np.full(512, 1.2), "4/6-mae-256": np.full(512, 1.0)}
        both = zip(_made(errors).items(), predicted, strict=True)
        row = {n: replace(s, kl=k, kl_tokens=100 if k else 0) for (n, s), k in both}
        tokens = np.full(40, 64.0)
        effects = []
        for name, kl in zip(recipes, measured, strict=True):
            v = 64 * kl * (1 + scatter * rng.normal(size=40))
            effects.append(Effect(name, None, np.stack([tokens, tokens, tokens, v, tokens], 1), {}))
        impact = Impact(effects, np.arange(40), {n: RECIPES[n] for n in recipes}, "activations")
        return recommend(_of({"a": row}), impact=impact)

    agrees = verdict([0.12, 0.10])
    assert agrees.sentence().startswith("Use 4/6-mae-256") and agrees.contradicted is None
    assert "Measured KL of the output: 0.1 nats a token under 4/6-mae-256 (0.12 under 4/6-mae-448)" in agrees.sentence()
    disagrees = verdict([0.10, 0.12])
    start = "Tensor error favours 4/6-mae-256, the measured output 4/6-mae-448: "
    assert disagrees.sentence().startswith(start) and disagrees.contradicted == "4/6-mae-448"
    unresolved = verdict([0.10, 0.101], scatter=0.5)
    assert unresolved.contradicted is None and "not resolved; about" in unresolved.sentence()
    overruled = verdict([0.12, 0.10], predicted=(9.0, 10.0))  # the prediction was wrong, as measured
    assert overruled.contradicted is None and overruled.sentence().startswith("Use 4/6-mae-256")
    still = verdict([0.10, 0.101], predicted=(9.0, 10.0), scatter=0.5)
    assert still.contradicted == "4/6-mae-448" and still.sentence().startswith("Measure before you choose")
    other = verdict([0.1, 0.2], recipes=["standard", "4/6-mae-448"])
    assert other.contradicted is None and "What 4/6-mae-256 does to the output was not measured" in other.sentence()
    json.dumps(disagrees.to_dict(), allow_nan=False)
    with pytest.raises(TypeError, match="impact is a dict"):
        recommend(_of({"a": _made({n: np.ones(64) for n in PAIR})}), impact={})


def test_the_default_is_that_of_a_program_and_site():
    measured = _sweep(synthetic("crowded", 64, 128), [*RECIPES, "standard-tensor-fast"])
    assert recommend(measured).over("SGLang's default").over == "standard-tensor-fast"
    verdict = recommend(measured, program="vllm", site="dense")
    assert verdict.over("vLLM's default for dense layers").over == "standard-tensor-fast"
    assert "vLLM's default for dense layers" in verdict.sentence() and verdict.over("SGLang") is None
    with pytest.raises(ValueError, match="site='dens' is not one of"):
        recommend(measured, program="vllm", site="dens")
    for program, name in PROGRAMS.items():  # without a site: the first that it has
        assert any(c.role.startswith(f"{name}'s default") for c in recommend(measured, program=program).comparisons)


@pytest.mark.parametrize("worth", [-0.1, float("nan"), "0.1", None])
def test_a_difference_worth_having_is_a_number(worth):
    with pytest.raises(ValueError, match=r"worth_db=.*: a difference in dB, 0 or more"):
        recommend(_sweep(synthetic("crowded", 64, 128)), worth_db=worth)


# recipes that no engine runs


def test_a_recipe_that_nobody_can_run_is_in_no_headline():
    names = ["standard", "4/6-mse-448", "4/6-mse-300", "standard-256"]
    measured = _sweep({"a": synthetic("normal", 64, 512)}, names)
    verdict = recommend(measured)
    assert verdict.recipe == "4/6-mse-448" and verdict.over("to study only").over == "4/6-mse-300"
    assert verdict.sentence().startswith("Use 4/6-mse-448") and "standard-256" not in verdict.sentence()
    assert "Less error, but no engine runs it: 4/6-mse-300 (" in verdict.sentence()
    told = measured.table().set_index("recipe")["study_only"]
    assert told["standard"] == "" and "448 without 4over6" in told["standard-256"] and "to study" in told["4/6-mse-300"]
    assert "study_only" not in _sweep(synthetic("normal", 8, 64)).table()


@pytest.mark.parametrize(
    "names, start",
    [
        (["standard", "4/6-mse-300"], "Only standard was measured of the recipes that an engine runs: "),
        (["standard-256", "4/6-mse-300"], "No engine runs a recipe measured here; of those to study, 4/6-mse-300 has"),
    ],
)
def test_without_a_choice_among_recipes_that_run_it_says_so(names, start):
    verdict = recommend(_sweep({"a": synthetic("crowded", 64, 512)}, names))
    assert verdict.sentence().startswith(start) and "Use " not in verdict.sentence()
    assert json.dumps(verdict.to_dict())


def test_the_percentage_of_more_error_is_of_the_other_s():
    """A recipe to study that is ahead: 10^(0.053) times its error is 13 % more, not 11.5."""
    verdict = recommend(_sweep({"a": synthetic("normal", 128, 512)}, {"standard": "standard", "mine": "4/6-mse-300"}))
    (compared,) = verdict.comparisons
    more = 100 * (10 ** (-compared.margin_db / 10) - 1)
    assert compared.decided and compared.margin_db < -0.5
    assert f"{more:.2g} % more error of a typical token than mine, which is to study only (−" in verdict.sentence()
    assert "mine is surely better" not in verdict.sentence() and "over mine (study only) -0." in repr(verdict)


def test_the_least_kl_is_of_a_recipe_that_an_engine_runs():
    tokens, scatter = np.full(20, 64.0), 1 + 0.01 * np.random.default_rng(0).normal(size=20)
    kl = {"4/6-mse-300": 0.1, "standard": 0.3, "4/6-mse-448": 0.2}
    effects = [Effect(n, None, np.stack([*[tokens] * 3, 64 * v * scatter, tokens], 1), {}) for n, v in kl.items()]
    found = Impact(effects, np.arange(20), {n: Recipe.parse(n) for n in kl}, "activations")
    assert found.best == "4/6-mse-448" and found.sentence().startswith("Least KL under 4/6-mse-448: 0.2 nats")
    assert "Less KL, but no engine runs it: 4/6-mse-300 (0.09" in found.sentence()
    assert "4/6-mse-300 (study only)" in found.summary()["recipe"].tolist()
    assert found.table()["vs_best"].tolist()[-1] == "the best"
