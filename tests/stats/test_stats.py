"""Statistics: closed forms, and every definition recomputed in plain NumPy from what was decoded."""

import json
import math
from dataclasses import fields
from functools import reduce
from operator import add

import ml_dtypes
import numpy as np
import pytest
import torch

from nvfp4viz import RECIPES, Quantized, Recipe, Stats, analyze, measure, quantize, synthetic
from nvfp4viz.stats import LEVELS, RUNS, nmse_bin, nmse_bins


def _analyze(x, recipe="standard", encode_scale=None) -> Stats:
    return analyze(x, recipe, engine="reference", encode_scale=encode_scale)


def _row(*blocks) -> torch.Tensor:
    """One token whose first block holds 2688 alone: its encode scale is 1, so block scales are in the unit of x."""
    return torch.tensor([[2688.0, *[0.0] * 15, *(v for b in blocks for v in [*b, *[0.0] * (16 - len(b))])]])


# closed forms


def test_values_on_the_grid_have_no_error():
    stats = _analyze(_row([6, -4, 3, 2, 1.5, 1, 0.5], [12, -1, 8], [-0.75, 0.0625]))
    assert (stats.err_sq, stats.err_abs, stats.max_error, stats.nmse, stats.mae) == (0, 0, 0, 0, 0)
    assert stats.sqnr_db == math.inf and stats.cosine == pytest.approx(1, abs=1e-15)
    assert (stats.elements, stats.blocks, stats.nonzero_blocks, stats.nonzero_elements) == (64, 4, 4, 13)
    assert stats.x_amax == 2688 and stats.x_sq == 2688**2 + 36 + 16 + 9 + 4 + 2.25 + 1 + 0.25 + 209 + 0.5625 + 2**-8
    bytes_ = torch.tensor([448, 1, 2, 0.125]).to(torch.float8_e4m3fn).view(torch.uint8).tolist()
    assert np.argwhere(stats.scale_histogram).tolist() == sorted([b, 0] for b in bytes_)
    assert stats.code_histogram[7] == 4 - 1 and stats.code_histogram[15] == 1 and stats.code_histogram[0] == 64 - 13


def test_errors_by_hand():
    """In a block of scale 1: 2.5 is a tie that goes to 2, 5.5 to 6, 0.2 to 0."""
    stats = _analyze(_row([6, 2.5, -5.5, 0.2]))
    x = np.float32([2688, 6, 2.5, -5.5, 0.2]).astype(float)
    x_hat = np.array([2688, 6, 2, -6, 0])
    assert stats.err_sq == pytest.approx(((x_hat - x) ** 2).sum(), rel=1e-15)
    assert stats.err_abs == pytest.approx(1.2) and stats.max_error == 0.5
    assert stats.mse == pytest.approx(stats.err_sq / 32) and stats.mae == pytest.approx(1.2 / 32)
    assert stats.nmse == pytest.approx(stats.err_sq / (x**2).sum())
    assert stats.sqnr_db == pytest.approx(10 * math.log10((x**2).sum() / ((x_hat - x) ** 2).sum()))
    assert stats.cosine == pytest.approx((x * x_hat).sum() / np.linalg.norm(x) / np.linalg.norm(x_hat))
    assert stats.n_element_flushed == 1 and stats.element_flushed == 1 / 5
    assert stats.n_element_clipped == 0 and stats.token_histogram.sum() == 1 and stats.block_histogram.sum() == 2


def test_scales_too_small_for_e4m3():
    """2^-6 is the smallest normal scale, 2^-9 the smallest of all; half of it rounds to 0."""
    stats = _analyze(_row([6 * 2**-6], [6 * 2**-7], [6 * 2**-9], [6 * 2**-10], [6 * 2**-11, 1e-5], []))
    assert stats.nonzero_blocks == 6 and stats.blocks == 7
    assert stats.n_scale_subnormal == 2 and stats.scale_subnormal == 2 / 6
    assert stats.n_scale_zero == 2 and stats.scale_zero == 2 / 6  # ties at 2^-10 go to even, 0
    assert stats.n_element_flushed == 3 and stats.element_flushed == 3 / 7
    assert stats.n_element_clipped == 0  # a block that is lost is not clipped
    assert stats.scale_histogram[0].tolist() == [3, 0]


def test_a_calibration_that_is_too_small_saturates():
    x = torch.cat([_row([6.0]), _row([4 * 2688.0, 2000, 100])], 1)  # scales 448, 1, 448, 1792 -> 448
    stats = _analyze(x, Recipe(per_token=False), encode_scale=1.0)
    assert stats.n_scale_saturated == 1 and stats.scale_saturated == 1 / 4
    assert stats.n_element_clipped == 1 and stats.element_clipped == 1 / 64
    assert stats.max_error == 3 * 2688
    exact = _analyze(_row([2688.0]), Recipe(per_token=False), encode_scale=1.0)
    assert exact.n_scale_saturated == exact.n_element_clipped == 0  # at the limit is not above it


def test_rounding_the_scale_down_clips_the_largest_element():
    stats = _analyze(_row([6 * 1.06, 1.0], [6 * 1.07, 1.0]))  # scales 1.06 -> 1, 1.07 -> 1.125
    assert stats.n_element_clipped == 1


@pytest.mark.parametrize("mode", ["mae", "mse"])
def test_4_cannot_be_had_above_two_thirds_of_448(mode):
    amax = 2688 / 6
    x = _row([6 * amax / 1.5 * 1.001], [6 * amax / 1.5], [6 * amax / 1.5 * 0.999], [1])
    high = _analyze(x, f"4/6-{mode}-448")
    assert high.n_four_saturated == 2 and high.four_saturated == 2 / 5  # the token's own amax, and the first
    assert _analyze(x, f"4/6-{mode}-256").n_four_saturated == 0
    assert _analyze(x, "standard").n_four_saturated == 0


def test_a_block_that_4_suits_chooses_it():
    """4, 3, 2, 1 over a scale of 1 are exact; mapped to 6 they are not. The histogram keeps both apart."""
    x = _row([4, 3, 2, 1], [6, 4, 3, 2])
    stats = _analyze(x, "4/6-mse-448")
    assert stats.n_four == 1 and stats.four_rate == 1 / 3 and stats.nmse == 0
    one = 0x38  # 1.0 in E4M3
    assert stats.scale_histogram[one].tolist() == [1, 1] and stats.scale_histogram[:, 1].sum() == 1
    assert _analyze(x, "standard").n_four == 0


@pytest.mark.parametrize("recipe", [*RECIPES, "standard-tensor-fast", "4/6-mae-256-tensor"])
@pytest.mark.parametrize("shape", [(0, 16), (3, 32)])
def test_nothing_and_zeros_have_defined_statistics(recipe, shape):
    stats = _analyze(torch.zeros(shape), recipe)
    rates = ("four_rate", "four_saturated", "scale_saturated", "scale_subnormal", "scale_zero", "element_clipped",
             "element_flushed", "nmse", "mse", "mae", "max_error")  # fmt: skip
    assert {r: getattr(stats, r) for r in rates} == dict.fromkeys(rates, 0)
    assert stats.sqnr_db == math.inf and stats.cosine == 1 and stats.token_nmse == 0 and stats.top_token == -1
    assert stats.tokens == shape[0] and stats.nonzero_blocks == 0 and stats.token_histogram.sum() == 0


def test_cosine_is_0_where_all_was_lost():
    lost = Quantized(torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(1, 1).to(torch.float8_e4m3fn), torch.ones(1, 1),
                     Recipe(), "by hand")  # fmt: skip
    stats = measure(torch.ones(1, 16), lost)
    assert stats.cosine == 0 and stats.nmse == 1 and stats.sqnr_db == 0 and stats.element_flushed == 1


# the definitions again


def _data() -> dict[str, tuple]:
    lost = synthetic("spread", 16, 256)
    lost[:, 64:128] /= 64
    lost[5], lost[:, 32:48] = 0, -0.0
    return {
        "lognormal bf16": (synthetic("lognormal", 24, 128), None),
        "spikes fp16": (synthetic("spikes", 16, 256, strength=3).half(), None),
        "scales too small": (lost, None),
        "outliers fp32": (synthetic("outlier channels", 16, 320).float() * 1.2345, None),
        "static scale too small": (synthetic("normal", 16, 128).float() * 1.1, 0.3),
        "static scale too large": (synthetic("normal", 16, 128).float() * 1.1, 3e4),
    }


DATA = _data()


def _e4m3(h) -> np.ndarray:
    return np.minimum(h, np.float32(448)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("recipe", [*RECIPES, "4/6-mae-160-fp16err", "4/6-mse-320"])
def test_each_statistic_follows_its_definition(data, recipe):
    x, calibration = DATA[data]
    recipe = Recipe.parse(recipe if calibration is None else recipe + "-tensor")
    scale = None if calibration is None else 6 * recipe.e4m3_max / (float(x.abs().max()) * calibration)
    q = quantize(x, recipe, engine="reference", encode_scale=scale)
    stats = measure(x, q)

    a, m = x.double().numpy(), len(x)  # [M, K]
    b = q.dequantize().double().numpy()
    block = lambda v: v.reshape(m, -1, 16)  # noqa: E731
    byte = q.block_scales.view(torch.uint8).numpy()  # [M, K/16]
    b_scale = byte.view(ml_dtypes.float8_e4m3fn).astype(float)
    decode = q.decode_scale.double().numpy()  # [M, 1] or [1, 1]
    filled = block(a).any(-1)

    # what a block's scale would be before rounding: FP32, as NUMERICS says
    bmax = np.abs(block(a)).max(-1).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        if recipe.per_token:
            s = np.float32(1 / (6 * recipe.e4m3_max))
            encode = np.minimum(
                np.float32(1) / s / np.abs(a).max(1, keepdims=True).astype(np.float32), np.finfo("f4").max
            )
        else:
            encode = np.float32(scale)
        h6 = bmax / np.float32(6) * encode if recipe.four_over_six else bmax * (encode * np.float32(1 / 6))
        h4 = h6 * np.float32(1.5)
        scaled = np.abs(block(a)) / (b_scale * decode)[..., None]
    four = (byte == _e4m3(h4)) & (byte != _e4m3(h6)) & recipe.four_over_six
    limit, margin = 448, 1 + 2.0**-20

    assert stats.recipe == recipe and stats.engine == "reference" and stats.features == x.shape[1]
    counts = {
        "tokens": m, "elements": a.size, "nonzero_elements": (a != 0).sum(), "blocks": byte.size,
        "nonzero_blocks": filled.sum(), "n_four": (four & filled).sum(),
        "n_four_saturated": ((h4 > limit * margin) & filled).sum() if recipe.four_over_six else 0,
        "n_scale_saturated": ((np.where(four, h4, h6) > limit * margin) & filled).sum(),
        "n_scale_subnormal": ((byte > 0) & (byte < 8) & filled).sum(), "n_scale_zero": ((byte == 0) & filled).sum(),
        "n_element_clipped": ((scaled > 6 * margin) & (byte != 0)[..., None]).sum(),
        "n_element_flushed": ((b == 0) & (a != 0)).sum(),
    }  # fmt: skip
    assert {name: getattr(stats, name) for name in counts} == counts

    of_blocks, of_all = filled.sum(), a.size
    rates = {
        "four_rate": counts["n_four"] / of_blocks, "four_saturated": counts["n_four_saturated"] / of_blocks,
        "scale_saturated": counts["n_scale_saturated"] / of_blocks, "scale_zero": counts["n_scale_zero"] / of_blocks,
        "scale_subnormal": counts["n_scale_subnormal"] / of_blocks,
        "element_clipped": counts["n_element_clipped"] / of_all,
        "element_flushed": counts["n_element_flushed"] / (a != 0).sum(),
        "mse": ((b - a) ** 2).mean(), "mae": np.abs(b - a).mean(), "max_error": np.abs(b - a).max(),
        "nmse": ((b - a) ** 2).sum() / (a**2).sum(), "x_amax": np.abs(a).max(), "err_sq": ((b - a) ** 2).sum(),
        "sqnr_db": 10 * np.log10((a**2).sum() / ((b - a) ** 2).sum()),
        "cosine": (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), "x_hat_sq": (b**2).sum(),
    }  # fmt: skip
    assert {name: getattr(stats, name) for name in rates} == pytest.approx(rates, rel=1e-12)

    histogram = np.zeros((127, 2), int)
    np.add.at(histogram, (byte, four.astype(int)), 1)
    np.testing.assert_array_equal(stats.scale_histogram, histogram)
    packed = q.codes.numpy()
    codes = np.bincount(np.concatenate([packed & 15, packed >> 4], None), minlength=16)
    np.testing.assert_array_equal(stats.code_histogram, codes)
    edges = nmse_bins()
    for name, error, signal in (
        ("token_histogram", ((b - a) ** 2).sum(1), (a**2).sum(1)),
        ("block_histogram", (block(b - a) ** 2).sum(-1), (block(a) ** 2).sum(-1)),
    ):
        there = signal > 0
        ratio = np.clip(error[there] / signal[there], edges[0], np.nextafter(edges[-1], 0))
        np.testing.assert_array_equal(getattr(stats, name), np.histogram(ratio, edges)[0])

    signal, error = (a**2).sum(1), ((b - a) ** 2).sum(1)
    there = signal > 0
    assert stats.token_nmse == pytest.approx((error[there] / signal[there]).mean() if there.any() else 0, rel=1e-12)
    assert stats.top_token_x_sq == pytest.approx(signal.max(initial=0), rel=2**-33)
    assert stats.top_token == (signal.argmax() if there.any() else -1)
    for row in range(LEVELS):
        for slot in range(RUNS):
            mine = there & (np.arange(m) // (4 * 2**row) % 16 == slot)
            assert stats.run_tokens[row, slot] == mine.sum()
            assert stats.run_nmse[row, slot] == pytest.approx((error[mine] / signal[mine]).sum(), rel=1e-12)
    assert not stats.run_tokens[LEVELS].any() and not stats.run_nmse[LEVELS].any()


def test_the_data_reach_every_event():
    """Else the recomputation would compare zeros with zeros."""
    seen = {}
    for x, calibration in DATA.values():
        for recipe in RECIPES.values():
            if calibration is None:
                stats = _analyze(x, recipe)
            else:
                tensor = Recipe.parse(recipe.name + "-tensor")
                stats = _analyze(x, tensor, 6 * tensor.e4m3_max / (float(x.abs().max()) * calibration))
            for f in fields(Stats):
                if f.name.startswith("n_"):
                    seen[f.name] = seen.get(f.name, 0) + getattr(stats, f.name)
    assert len(seen) == 8 and all(seen.values()), seen


def test_nmse_bins_are_eighths_of_octaves():
    edges = nmse_bins()
    assert edges[0] == 2**-24 and edges[-1] == 2**8 and len(edges) == 257
    assert edges[192] == 1 and edges[193] == 1.125
    inside = torch.from_numpy(np.concatenate([edges[:-1], np.nextafter(edges[1:], 0)]))
    assert nmse_bin(inside).tolist() == list(range(256)) * 2
    assert nmse_bin(torch.tensor([0.0, 1e-300, 2.0**8, 1e300, np.inf], dtype=torch.float64)).tolist() == [
        0,
        0,
        *[255] * 3,
    ]


# runs of tokens


def test_runs_are_those_of_the_stream_however_it_is_cut():
    x, recipe = synthetic("lognormal", 300, 64), RECIPES["4/6-mse-256"]
    whole = measure(x, quantize(x, recipe, engine="reference"), first_token=1000, sequences=(37, 50))
    parts = [(0, 1), (1, 130), (130, 300)]
    some = [measure(x[i:j], quantize(x[i:j], recipe, engine="reference"), first_token=1000 + i, sequences=(37 + i, 50))
            for i, j in parts]  # fmt: skip
    for added in (some[0] + some[1] + some[2], some[2] + (some[0] + some[1])):
        np.testing.assert_array_equal(added.run_tokens, whole.run_tokens)
        np.testing.assert_allclose(added.run_nmse, whole.run_nmse, rtol=1e-12)
        assert added.top_token == whole.top_token >= 1000
    index = np.arange(300)
    np.testing.assert_array_equal(whole.run_tokens[3], np.bincount((1000 + index) // 32 % 16, minlength=16))
    np.testing.assert_array_equal(whole.run_tokens[LEVELS], np.bincount((37 + index) // 50 % 16, minlength=16))
    for bad in ((-1, 50), (0, 0)):
        with pytest.raises(ValueError, match="expected \\(at, length\\)"):
            measure(x, quantize(x, recipe, engine="reference"), sequences=bad)


def test_of_two_equal_towers_the_first_is_named():
    x = torch.ones(9, 16)
    x[[3, 7]] = 8.0
    a, b = (_analyze(part, RECIPES["standard"]) for part in (x, x[[0, 3]]))
    assert (a.top_token, b.top_token, (a + b).top_token, (b + a).top_token) == (3, 1, 1, 1)
    assert (a + _analyze(torch.zeros(4, 16), RECIPES["standard"])).top_token == 3


def test_statistics_of_the_first_release_load_and_say_what_they_lack():
    stats = _analyze(synthetic("spikes", 40, 64), RECIPES["4/6-mse-256"])
    new = {"run_tokens", "run_nmse", "top_token", "top_token_x_sq"}
    old = {k: v for k, v in stats.to_dict().items() if k not in new}
    old |= {"bootstrap_err_sq": [1.0] * 200, "bootstrap_x_sq": [2.0] * 200}
    loaded = Stats.from_dict(old)
    assert loaded.runs_missing is True and stats.runs_missing is False
    assert loaded.token_nmse == loaded.nmse == stats.nmse != stats.token_nmse
    with pytest.raises(ValueError, match="fields \\['err_abs'\\] differ"):
        Stats.from_dict({k: v for k, v in old.items() if k != "err_abs"})


# sums and files


def test_tensors_of_different_features_and_engines_add():
    recipe = RECIPES["4/6-mse-256"]
    a = _analyze(synthetic("normal", 4, 32), recipe)
    b = Stats.from_dict(_analyze(synthetic("spikes", 6, 64), recipe).to_dict() | {"engine": "cpu"})
    both = a + b
    assert both.features == 0 and both.engine == "cpu + reference" and both.tokens == 10
    assert both.elements == 4 * 32 + 6 * 64 and both.max_error == max(a.max_error, b.max_error)
    assert both.mse == pytest.approx((a.err_sq + b.err_sq) / both.elements)
    assert (both.scale_histogram == a.scale_histogram + b.scale_histogram).all()
    assert both == b + a and (both + a).engine == "cpu + reference"
    assert a + Stats(recipe, "reference", 32) == a
    assert reduce(add, [a, a, a]).tokens == 12 and a.tokens == 4


def test_only_the_same_recipe_adds():
    a, b = (Stats(RECIPES[name], "cpu", 16) for name in ("standard", "4/6-mae-256"))
    with pytest.raises(ValueError, match=r"standard and 4/6-mae-256"):
        a + b
    with pytest.raises(TypeError):
        a + 1
    assert a != b and a != "standard"


def _infinite() -> Stats:
    """A ceiling of 250 rounds up to 256, which the largest bf16 numbers cannot bear."""
    return _analyze(torch.full((20, 16), 3.38e38).bfloat16(), Recipe(250))


@pytest.mark.parametrize("stats", [
    _analyze(synthetic("normal", 8, 48), "4/6-mae-256-fp16err-tensor-fast"), _analyze(torch.zeros(0, 16)), _infinite(),
    Stats(Recipe(1 / 3), "by hand", 16),
], ids=["normal", "empty", "infinite", "nothing"])  # fmt: skip
def test_statistics_survive_json(stats):
    text = json.dumps(stats.to_dict(), allow_nan=False)
    back = Stats.from_dict(json.loads(text))
    assert back == stats
    for f in fields(Stats):
        assert type(getattr(back, f.name)) is type(getattr(stats, f.name)), f.name
        if isinstance(getattr(back, f.name), np.ndarray):
            assert getattr(back, f.name).dtype == getattr(stats, f.name).dtype


def test_an_infinite_error_is_said_as_such():
    stats = _infinite()
    assert stats.err_sq == stats.nmse == math.inf and stats.sqnr_db == -math.inf


GOOD = Stats(Recipe(), "cpu", 16).to_dict()


@pytest.mark.parametrize(
    "values, message",
    [
        ({k: v for k, v in GOOD.items() if k != "n_four"}, r"not the \w+ of this version: fields \['n_four'\]"),
        (GOOD | {"n_five": 5}, r"fields \['n_five'\]"),
        (GOOD | {"code_histogram": [0] * 15}, r"code_histogram has shape \(15,\), expected \(16,\)"),
        (GOOD | {"scale_histogram": [[0, 0]]}, r"scale_histogram has shape \(1, 2\)"),
        (GOOD | {"tokens": "many"}, "many"),
        (GOOD | {"tokens": 0.5}, "invalid literal.*0.5"),
        (GOOD | {"code_histogram": [-3] + [0] * 15}, "code_histogram holds what is no count: -3"),
        (GOOD | {"recipe": {"e4m3_max": 500}}, r"e4m3_max=500"),
        ("stats", "fields"),
    ],
)
def test_what_was_edited_out_of_shape_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Stats.from_dict(values)


def test_a_tensor_is_measured_against_its_own_codes():
    x = synthetic("normal", 4, 32)
    q = quantize(x, "standard", engine="reference")
    with pytest.raises(ValueError, match=r"x is \(2, 32\), quantized was \(4, 32\)"):
        measure(x[:2], q)
    with pytest.raises(ValueError, match=r"1 NaN"):
        measure(torch.where(torch.arange(32) == 5, torch.nan, torch.zeros(1)).expand(4, 32)[:1], q.rows(0, 1))
    assert measure(x.reshape(2, 2, 32).float().requires_grad_(), q) == measure(x, q)
