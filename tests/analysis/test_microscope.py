"""The microscope shows what the engines do: every block it explains has the bytes that `quantize` stores."""

import json

import numpy as np
import pytest
import torch

from nvfp4viz import Recipe, quantize, sweep, synthetic
from nvfp4viz.analysis import RULES, block_at, inspect_block, pick
from nvfp4viz.nvfp4 import MARGIN, blocks, candidates, scales_of, scores, token_amax, unpack

VARIANTS = [
    "standard", "standard-tensor", "4/6-mae-448", "4/6-mse-256", "4/6-mse-448-fp16err", "4/6-mae-256-tensor",
    "4/6-mae-256-fast", "4/6-mse-448-tensor-fast",
]  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", ["lognormal", "spikes", "spread"])
def test_every_block_is_explained_as_it_is_quantized(name, kind):
    x = synthetic(kind, 8, 64, seed=3)
    x[2] = 0
    x[3, 16:32] = 0
    recipe = Recipe.parse(name)
    q = quantize(x, recipe, engine="reference")
    codes, bytes_ = unpack(q.codes), q.block_scales.view(torch.uint8)
    for token in range(8):
        for block in range(4):
            seen = inspect_block(*block_at(x, token, block, recipe), recipe)
            assert seen["byte"] == bytes_[token, block]
            assert seen["codes"] == codes[token, block * 16 : block * 16 + 16].tolist()
            assert seen["decode_scale"] == q.decode_scale.expand(8, 1)[token].item()
            json.dumps(seen, allow_nan=False)


def test_the_chosen_candidate_decodes_to_what_the_tensor_does():
    x, recipe = synthetic("lognormal", 4, 32), Recipe.parse("4/6-mse-448")
    x_hat = quantize(x, recipe, engine="reference").dequantize()
    choices = set()
    for token, block in [(t, b) for t in range(4) for b in range(2)]:
        seen = inspect_block(*block_at(x, token, block, recipe), recipe)
        chosen = next(c for c in seen["candidates"] if c["to"] == seen["choice"])
        choices.add(seen["choice"])
        assert chosen["decoded"] == x_hat[token, block * 16 : block * 16 + 16].tolist()
        assert chosen["score"] == min(c["score"] for c in seen["candidates"])
    assert choices == {4, 6}


def test_saturation_of_the_four_candidate_is_the_ceiling_s_doing():
    values = [1.0, 0.9] + [0.3] * 14
    four = {
        ceiling: inspect_block(values, 1.0, Recipe(ceiling, four_over_six=True))["candidates"][1]
        for ceiling in (448, 256)
    }
    assert four[448]["saturated"] and four[448]["byte"] == 126
    assert not four[256]["saturated"] and four[256]["block_scale"] == 384


@pytest.mark.parametrize("rule", RULES)
def test_rules_find_what_they_say(rule):
    x, recipe = (
        synthetic("spread" if rule == "underflowed" else "lognormal", 32, 128, strength=2.0),
        Recipe.parse("4/6-mae-448"),
    )
    found = pick(x, recipe, rule, 5)
    assert len(found["blocks"]) == 5 and found["note"] == ""
    json.dumps(found, allow_nan=False)
    seen = [inspect_block(*block_at(x, b["token"], b["block"], recipe), recipe) for b in found["blocks"]]
    values = [b["value"] for b in found["blocks"]]
    assert rule == "random" or values == sorted(values, reverse=True)
    for value, s in zip(values, seen, strict=True):
        six, four = s["candidates"]
        if rule == "worst":
            assert value == pytest.approx(next(c["squared_error"] for c in s["candidates"] if c["to"] == s["choice"]))
        if rule == "gained":
            assert s["choice"] == 4 and value == pytest.approx(six["score"] - four["score"])
        if rule == "saturated":
            assert four["saturated"]
        if rule == "underflowed":
            assert s["byte"] < 8


def test_the_worst_block_is_the_worst_of_all():
    x, recipe = synthetic("spikes", 16, 64, seed=1), Recipe.parse("4/6-mse-256")
    err = blocks(quantize(x, recipe, engine="reference").dequantize().double() - x.double()).square().sum(-1)
    worst = pick(x, recipe, "worst", 1)["blocks"][0]
    assert worst["value"] == pytest.approx(err.max().item())
    assert err[worst["token"], worst["block"]] == err.max()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", ["lognormal", "spread", "crowded"])
def test_the_compiled_ranker_finds_what_the_readable_arithmetic_finds(name, kind):
    """Of all blocks, in order, equals by place."""
    x, recipe = synthetic(kind, 40, 176, seed=7), Recipe.parse(name)
    x[5], x[6, :16] = 0, 0
    tile = blocks(x.float())
    amax = (token_amax(x) if recipe.per_token else x.float().abs().amax().reshape(1, 1)).unsqueeze(-1)
    encode, _ = (s.unsqueeze(-1) for s in scales_of(amax.squeeze(-1), recipe))
    tried = candidates(tile, encode, recipe)
    score = scores(tried, tile, encode, amax, recipe)
    q = quantize(x, recipe, engine="reference")
    nonzero, byte = (tile != 0).any(-1), q.block_scales.view(torch.uint8)
    error = blocks(q.dequantize().double() - x.double()).square().sum(-1)
    saved, h4 = (score[0] - score[-1]).squeeze(-1).double(), tried[-1].h.squeeze(-1).double()
    both = torch.full_like(nonzero, recipe.four_over_six)
    wanted = {
        "worst": (error, nonzero & (error > -1)),
        "gained": (saved, both & (saved > 0)),
        "saturated": (h4, both & nonzero & (h4 > 448 * MARGIN)),
        "underflowed": (-byte.double(), nonzero & (byte < 8)),
    }
    for rule, (value, admitted) in wanted.items():
        order = torch.where(admitted, value, -torch.inf).flatten().argsort(descending=True, stable=True)
        first = [divmod(i, 11) for i in order[: min(12, int(admitted.sum()))].tolist()]
        found = pick(x, recipe, rule)["blocks"]
        assert [(b["token"], b["block"]) for b in found] == first, rule
        np.testing.assert_allclose([b["value"] for b in found], [value[p].item() for p in first], rtol=1e-12)


def test_what_a_sweep_keeps_is_what_the_microscope_picks():
    x = synthetic("lognormal", 64, 256, seed=1)
    kept = sweep({"x": x}).blocks["x"]
    for key, found in kept["picks"].items():
        name, rule = key.split("|")
        picked = [(b["token"], b["block"]) for b in pick(x, name, rule, 2)["blocks"]]
        assert [(b["token"], b["block"]) for b in found["blocks"]] == [p for p in picked if "{},{}".format(*p) in
                                                                      kept["blocks"]]  # fmt: skip


def test_no_such_block_is_no_error():
    assert pick(synthetic("normal", 4, 32), "standard", "gained") == {
        "blocks": [], "note": "no such block: most error saved by mapping to 4",
    }  # fmt: skip
    assert pick(torch.zeros(0, 32), "standard")["blocks"] == []
    assert pick(torch.zeros(2, 32), "standard")["blocks"] == []


def test_mistakes_have_one_clear_error():
    with pytest.raises(ValueError, match="16 finite numbers"):
        inspect_block([1.0] * 15, 1.0, "standard")
    with pytest.raises(ValueError, match="16 finite numbers"):
        inspect_block([float("nan")] * 16, 1.0, "standard")
    with pytest.raises(ValueError, match="amax='big'"):
        inspect_block([1.0] * 16, "big", "standard")
    with pytest.raises(ValueError, match=r"no block \(0, 4\): .* blocks 0 to 3"):
        block_at(torch.ones(2, 64), 0, 4, Recipe())
    with pytest.raises(ValueError, match="unknown rule 'best'"):
        pick(torch.ones(2, 64), "standard", "best")
    with pytest.raises(ValueError, match="n=0: how many blocks"):
        pick(torch.ones(2, 64), "standard", n=0)


def test_candidates_take_many_blocks_at_once():
    x, recipe = synthetic("lognormal", 4, 64).float(), Recipe.parse("4/6-mae-256")
    amax = token_amax(x)
    encode, amax = scales_of(amax, recipe)[0].unsqueeze(-1), amax.unsqueeze(-1)
    six, four = scores(candidates(blocks(x), encode, recipe), blocks(x), encode, amax, recipe)
    one = inspect_block(*block_at(x, 2, 1, recipe), recipe)["candidates"]
    assert [six[2, 1].item(), four[2, 1].item()] == [c["score"] for c in one]
