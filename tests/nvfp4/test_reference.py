"""The reference engine: bit-equal to FlashInfer's kernels, its input checked, its corners defined."""

import json

import pytest
import torch

from nvfp4viz import RECIPES, Quantized, Recipe, analyze, quantize, synthetic
from nvfp4viz.engine import engines, golden_cases

ALL = [Recipe(c, four_over_six=f, err_mode=e, err_use_fast_math=h, per_token=t, fast_math=m)
       for f, c, e, h in [(False, 448, "MAE", False), *((True, c, e, h) for c in (448, 256) for e in ("MAE", "MSE")
                                                        for h in (False, True))]
       for t in (True, False) for m in (False, True)]  # fmt: skip


def _reference(x, recipe, encode_scale=None) -> Quantized:
    return quantize(x, recipe, engine="reference", encode_scale=encode_scale)


def _bytes(q: Quantized) -> tuple:
    return q.codes, q.block_scales.view(torch.uint8), q.decode_scale.view(torch.int32)


def _same(a: Quantized, b: Quantized) -> bool:
    return all(torch.equal(x, y) for x, y in zip(_bytes(a), _bytes(b), strict=True))


def test_every_golden_case_is_equal_to_the_bit():
    differing, seen = {}, set()
    for case in golden_cases():
        q = _reference(case.x, case.recipe, case.encode_scale)
        codes, scales = q.codes != case.codes, q.block_scales.view(torch.uint8) != case.scales
        blocks = int((codes.unflatten(-1, (-1, 8)).any(-1) | scales).sum())
        rows = (
            0 if case.decode is None else int((q.decode_scale.view(torch.int32) != case.decode.view(torch.int32)).sum())
        )
        if blocks or rows:
            differing[case.name] = f"{blocks} blocks, {rows} token scales"
        seen.add(case.recipe)
    assert not differing
    assert seen == set(ALL)


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_zero_tokens_and_zeros_have_defined_results(recipe):
    empty = _reference(torch.zeros(0, 32), recipe)
    assert empty.shape == (0, 32) and empty.decode_scale.shape == (0 if recipe.per_token else 1, 1)
    assert empty.dequantize().shape == (0, 32)
    zero = torch.zeros(3, 32)
    zero[1] *= -1
    q = _reference(zero, recipe)
    assert (q.block_scales.float() == 0).all() and (q.dequantize() == 0).all()
    if recipe.four_over_six:
        assert (q.codes == 0).all()
    else:
        assert q.codes.tolist() == [[0] * 16, [0x88] * 16, [0] * 16]  # the sign of -0 stays
    for x in (torch.zeros(0, 32), zero):
        stats = analyze(x, recipe, engine="reference")
        assert (stats.nmse, stats.sqnr_db, stats.cosine, stats.mse, stats.four_rate) == (0, float("inf"), 1, 0, 0)
        json.dumps(stats.to_dict(), allow_nan=False)


@pytest.mark.parametrize("recipe", ALL[::3], ids=lambda r: r.name)
def test_what_holds_x_does_not_matter(recipe):
    x = synthetic("spikes", 6, 64)
    expected = _reference(x, recipe)
    strided = torch.stack([x, x], -1)[..., 0]
    assert not strided.is_contiguous()
    assert _same(_reference(strided, recipe), expected)
    assert _same(_reference(x.t().contiguous().t(), recipe), expected)
    assert _same(_reference(x.reshape(2, 3, 64), recipe), expected)
    assert _same(_reference(x.clone().requires_grad_(), recipe), expected)
    assert _same(_reference(x.expand(1, 6, 64), recipe), expected)
    with torch.inference_mode():
        assert _same(_reference(x, recipe), expected)
    assert _same(_reference(x.float(), recipe), expected)  # bf16 values are FP32 values
    row = _reference(x[2], recipe)
    assert row.shape == (1, 64)
    if recipe.per_token:
        assert _same(row, expected.rows(2, 3))


def test_x_stays_as_it_was():
    x = synthetic("normal", 4, 32)
    before = x.clone()
    for recipe in ALL:
        _reference(x, recipe)
    assert torch.equal(x, before)


@pytest.mark.parametrize("form", [float, lambda v: v, lambda v: torch.tensor(v), lambda v: torch.tensor([v]),
                                  lambda v: torch.tensor([[v]], requires_grad=True), lambda v: torch.tensor(v).double(),
                                  lambda v: torch.tensor(v).numpy()])  # fmt: skip
def test_a_given_encode_scale_in_any_form(form):
    x, recipe = synthetic("normal", 4, 32), Recipe(per_token=False)
    q = _reference(x, recipe, form(640.0))
    assert q.encode_scale.tolist() == [[640.0]] and q.decode_scale.shape == (1, 1)
    assert q.decode_scale.item() == torch.div(torch.tensor(1.0), torch.tensor(640.0)).item()
    assert not q.encode_scale.requires_grad


def test_the_own_amax_is_taken_where_no_encode_scale_is_given():
    x, recipe = synthetic("normal", 4, 32), Recipe(256, four_over_six=True, per_token=False)
    amax = x.float().abs().max()
    own = _reference(x, recipe)
    assert own.encode_scale.item() == torch.div(torch.tensor(1536.0), amax).item()
    assert _same(own, _reference(x, recipe, own.encode_scale))
    assert not _same(own, _reference(x, recipe, 4 * own.encode_scale))


@pytest.mark.parametrize(
    "value", ["abc", [1.0, 2.0], torch.ones(2), 0, -1.0, float("nan"), float("inf"), 1e-60, 1e-40, {}, torch.empty(0)]
)
def test_an_encode_scale_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"(?s)encode_scale=.*expected one positive finite FP32 number"):
        quantize(torch.ones(2, 16), Recipe(per_token=False), engine="reference", encode_scale=value)


def test_an_encode_scale_per_token_is_refused():
    with pytest.raises(ValueError, match=r"encode_scale is given, but standard scales per token.*per_token=False"):
        _reference(torch.ones(2, 16), "standard", 1.0)


@pytest.mark.parametrize("recipe", ["standard", "4/6-mse-256-tensor-fast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_non_finite_input_is_counted_and_located(recipe, dtype):
    x = torch.ones(5, 32, dtype=dtype)
    x[3, 7], x[4, 1] = float("nan"), float("-inf")
    for run in (quantize, analyze):
        with pytest.raises(ValueError, match=r"1 NaN and 1 Inf, the first at x\[3, 7\]"):
            run(x, recipe, engine="reference")


@pytest.mark.parametrize("run", [quantize, analyze])
@pytest.mark.parametrize(
    "x, error, message",
    [
        (torch.ones(2, 15), ValueError, "K=15"),
        (torch.ones(2, 0), ValueError, "K=0"),
        (torch.tensor(1.0), ValueError, "0-d"),
        (torch.ones(2, 16, dtype=torch.long), TypeError, "int64"),
    ],
)
def test_input_that_is_no_activations_is_refused(run, x, error, message):
    with pytest.raises(error, match=message):
        run(x, "standard", engine="reference")


def test_an_unknown_engine_or_recipe_is_answered_with_near_ones():
    x = torch.ones(1, 16)
    with pytest.raises(ValueError, match=r"unknown engine 'refrence', did you mean 'reference'\?"):
        quantize(x, "standard", engine="refrence")
    with pytest.raises(ValueError, match=r"unknown engine None: engines are \"auto\""):
        quantize(x, "standard", engine=None)
    with pytest.raises(ValueError, match=r"unknown recipe 'standart', did you mean 'standard'"):
        quantize(x, "standart")


def test_the_reference_runs_everywhere():
    row = next(row for row in engines() if row["name"] == "reference")
    assert row == {"name": "reference", "available": True, "why_not": None}


def test_auto_names_the_engine_that_ran():
    q = quantize(torch.ones(1, 16), "standard")
    assert q.engine in {row["name"] for row in engines() if row["available"]}


@pytest.mark.parametrize("ceiling", [160, 320, 1e-3, 447.9999, 298.0, 1 / 3, 1e-30])
@pytest.mark.parametrize("recipe", [Recipe(), RECIPES["4/6-mse-448"]], ids=lambda r: r.name)
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_any_ceiling_quantizes(ceiling, recipe, fast, per_token):
    recipe = Recipe(
        ceiling, four_over_six=recipe.four_over_six, err_mode=recipe.err_mode, per_token=per_token, fast_math=fast
    )
    x = synthetic("lognormal", 8, 64)
    q = _reference(x, recipe)
    assert (q.block_scales.view(torch.uint8) <= 126).all() and q.dequantize().isfinite().all()
    if ceiling >= 160:
        error = (q.dequantize() - x.float()).square().sum() / x.float().square().sum()
        assert error < 0.02
        largest = q.block_scales.float().max().item()
        assert largest <= min(448, 1.07 * 1.5 * ceiling if recipe.four_over_six else 1.07 * ceiling)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("recipe", [*RECIPES.values(), Recipe(250), Recipe(per_token=False)], ids=lambda r: r.name)
def test_the_largest_numbers_and_the_smallest_have_statistics(dtype, recipe):
    limits = torch.finfo(dtype)
    for value in (limits.max, limits.tiny, limits.tiny * limits.eps):
        x = torch.full((20, 32), value, dtype=dtype)
        x[:, ::2] *= 0.3
        stats = analyze(x, recipe, engine="reference")
        assert stats.elements == 640 and stats.x_amax == x.double().max().item()
        json.dumps(stats.to_dict(), allow_nan=False)


def test_a_non_finite_value_anywhere_in_a_large_tensor_is_found():
    x = torch.zeros(4096, 64, dtype=torch.bfloat16)
    x[4095, 63] = float("inf")
    with pytest.raises(ValueError, match=r"0 NaN and 1 Inf, the first at x\[4095, 63\]"):
        _reference(x, "standard")
