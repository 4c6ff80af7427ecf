"""The ceiling's dial and static scales: tables in closed form, counts by hand, regimes on data built for them."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch

from nvfp4viz import Recipe, analyze, ceiling_dial, load, static_scale_curve, synthetic
from nvfp4viz.analysis import CeilingDial, StaticCurve, amax_ratios, ceilings, ratio_edges, window
from nvfp4viz.analysis.ceiling import CEILINGS


def test_the_dial_covers_all_e4m3_values():
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert tuple(np.sort(every[(every > 0) & (every <= 448)])) == CEILINGS
    assert len(CEILINGS) == 126


def test_the_table_of_ceilings_says_why_256():
    table = ceilings()
    assert table.e4m3_max.tolist() == sorted(CEILINGS, reverse=True)
    for row in table.itertuples():
        as_e4m3 = np.float64(1.5 * row.e4m3_max).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        assert row.has_four == (as_e4m3 == 1.5 * row.e4m3_max)
    assert table[table.has_four].e4m3_max.iloc[0] == 256
    assert table.set_index("e4m3_max").octaves_lost[256.0] == pytest.approx(0.807, abs=1e-3)
    assert window(448) == 28_672 and window(256) == 16_384


@pytest.mark.parametrize("ceiling", [448.0, 256.0, 208.0, 1.125])
def test_a_scale_is_normal_exactly_inside_the_window(ceiling):
    edge = window(ceiling)
    for ratio, normal in [(edge, True), (edge * 1.07, False)]:
        x = torch.zeros(1, 32)
        x[0, 0], x[0, 16] = ratio, 1.0
        stats = analyze(x, Recipe(ceiling), engine="reference")
        assert (stats.n_scale_subnormal == 0) == normal
        token, _ = amax_ratios(x)
        dial = CeilingDial((), (), 2, token_ratios=token)
        assert dial.beyond(ceiling) == (0 if normal else 0.5)


def test_every_window_ends_at_an_edge_of_the_histogram():
    assert set(map(window, CEILINGS)) - {w for w in map(window, CEILINGS) if w < 1} <= set(ratio_edges())


def test_ratios_by_hand():
    x = torch.zeros(2, 48)
    x[0, 0], x[0, 16], x[1, 0], x[1, 40] = 8, 2, 1, -1  # ratios in the token 1, 4; 1, 1; in the tensor 1, 4, 8, 8
    token, tensor = amax_ratios(x)
    below = ratio_edges()
    assert {below[i + 1]: n for i, n in enumerate(token) if n} == {1.125: 3, 4: 1}
    assert {below[i + 1]: n for i, n in enumerate(tensor) if n} == {1.125: 1, 4: 1, 8: 2}
    assert token.sum() == tensor.sum() == 4
    parts = amax_ratios(x[:1], tensor_amax=8.0), amax_ratios(x[1:], tensor_amax=8.0)
    np.testing.assert_array_equal(parts[0][1] + parts[1][1], tensor)


def test_the_dial_holds_what_analyze_says():
    x, values = synthetic("lognormal", 32, 256, strength=3.0), (448.0, 256.0, 1.0)
    dial = ceiling_dial(x, values=values)
    assert dial.families == ("standard", "4/6-mae-448", "standard-tensor", "4/6-mae-448-tensor")
    rows = dial.table().set_index(["family", "e4m3_max"])
    for i, family in enumerate(dial.families):
        for j, value in enumerate(values):
            recipe = Recipe(value, four_over_six="4/6" in family, per_token="tensor" not in family)
            stats = analyze(x, recipe)
            assert dial.err_sq[i, j] == stats.err_sq and dial.nmse[i, j] == stats.nmse
            row = rows.loc[(family, value)]
            assert row.four_saturated == stats.four_saturated
            assert row.underflowed == pytest.approx(stats.scale_subnormal + stats.scale_zero)
    assert dial.blocks == stats.nonzero_blocks


@pytest.mark.parametrize("kind, better, worse", [("spread", 448, 256), ("crowded", 256, 448)])
def test_the_dial_points_where_the_data_were_built_to(kind, better, worse):
    dial = ceiling_dial(synthetic(kind, 32, 256), ["4/6-mse-448"], values=(448, 256))
    assert dial.best("4/6-mse-448") == better
    assert dial.beyond(256) > dial.beyond(448) if kind == "spread" else dial.beyond(256) == 0
    assert dial.four_saturated[0, 0] > 0.9 * dial.blocks if kind == "crowded" else True


def test_real_activations_need_no_high_ceiling(bundled):
    x = load(bundled)["lm_head"]
    dial = ceiling_dial(x, ["4/6-mae-448"], values=(448, 256))
    assert dial.beyond(448) == dial.beyond(256) == 0
    assert dial.best("4/6-mae-448") == 256


def test_dials_add_and_go_through_json():
    x = synthetic("lognormal", 32, 128)
    whole, first, second = (ceiling_dial(part, ["4/6-mae-448"], values=(448, 256)) for part in (x, x[:9], x[9:]))
    added = first + second
    np.testing.assert_allclose(added.err_sq, whole.err_sq, rtol=1e-12)
    np.testing.assert_array_equal(added.token_ratios, whole.token_ratios)
    np.testing.assert_array_equal(added.four_saturated, whole.four_saturated)
    assert CeilingDial.from_dict(json.loads(json.dumps(whole.to_dict(), allow_nan=False))) == whole
    with pytest.raises(ValueError, match="values"):
        whole + ceiling_dial(x, ["4/6-mae-448"], values=(448, 128))


# static scales


def test_static_curve_holds_what_analyze_says():
    x, recipe = synthetic("lognormal", 32, 128), Recipe(256, four_over_six=True, per_token=False)
    curve = static_scale_curve(x, "4/6-mae-256", factors=(0.25, 1, 4))
    assert curve.recipe == recipe and curve.amax == x.abs().max().item()
    for factor, nmse in zip(curve.factors, curve.nmse, strict=True):
        encode = 6 * 256 / (curve.amax * factor)
        assert nmse == pytest.approx(analyze(x, recipe, encode_scale=encode).nmse, rel=1e-9)
    assert curve.per_token_nmse == pytest.approx(analyze(x, "4/6-mae-256").nmse)


@pytest.mark.parametrize("ceiling", [448, 256])
def test_saturating_flat_and_underflowing_lie_where_closed_form_has_them(ceiling):
    x = synthetic("crowded", 32, 256)  # every block has amax 1, so a scale of ceiling / factor
    saturates, underflows = ceiling / 448, 64 * ceiling
    factors = (saturates / 2, saturates * 1.1, underflows / 1.1, underflows * 24)
    curve = static_scale_curve(x, Recipe(ceiling), factors=factors)
    assert curve.regimes == ["saturating", "flat", "flat", "underflowing"]


def test_curves_add_and_go_through_json():
    x = synthetic("lognormal", 32, 128)
    amax = x.abs().max().item()
    whole = static_scale_curve(x, factors=(0.5, 1))
    first, second = (static_scale_curve(part, factors=(0.5, 1), amax=amax) for part in (x[:20], x[20:]))
    added = first + second
    np.testing.assert_allclose(added.nmse, whole.nmse, rtol=1e-12)
    assert added.per_token_err_sq == pytest.approx(whole.per_token_err_sq)
    assert StaticCurve.from_dict(json.loads(json.dumps(whole.to_dict(), allow_nan=False))) == whole
    with pytest.raises(ValueError, match="only zeros"):
        static_scale_curve(torch.zeros(2, 32))
