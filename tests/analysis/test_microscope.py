"""The microscope shows what the engines do: every block it explains has the bytes that `quantize` stores."""

import json

import pytest
import torch

from nvfp4viz import Recipe, quantize, synthetic
from nvfp4viz.analysis import RULES, block_at, inspect_block, pick
from nvfp4viz.analysis.microscope import candidates, scales
from nvfp4viz.nvfp4 import blocks, token_amax, unpack

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


def test_large_tensors_are_sampled_and_say_so():
    x = synthetic("normal", 100, 64)
    found = pick(x, "4/6-mae-448", "worst", 3, limit=640, seed=5)
    assert found == pick(x, "4/6-mae-448", "worst", 3, limit=640, seed=5)
    assert found["note"] == "among 10 of 100 tokens, drawn with seed 5"


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


def test_candidates_take_many_blocks_at_once():
    x, recipe = synthetic("lognormal", 4, 64).float(), Recipe.parse("4/6-mae-256")
    amax = token_amax(x)
    encode, _ = scales(amax, recipe)
    six, four = candidates(blocks(x), encode.unsqueeze(-1), amax.unsqueeze(-1), recipe)
    one = inspect_block(*block_at(x, 2, 1, recipe), recipe)["candidates"]
    assert [six.score[2, 1].item(), four.score[2, 1].item()] == [c["score"] for c in one]
