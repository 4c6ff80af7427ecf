"""Figures that explain: labels, units and the numbers drawn, read off the Axes."""

import inspect
import io

import numpy as np
import pytest
import torch

from nvfp4viz import Recipe, ceiling_dial, choice, plots, static_scale_curve, synthetic
from nvfp4viz.analysis import PARTS, Attribution, attribute
from nvfp4viz.plots import causes, ceilings, new_axes


@pytest.fixture(scope="module")
def x():
    return synthetic("lognormal", 32, 256)


@pytest.fixture(scope="module")
def dial(x):
    return ceiling_dial(x, values=(448, 384, 320, 256, 128, 1, 2**-4, 2**-6))


def _texts(ax):
    return [t.get_text() for t in ax.texts]


def _legend(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def test_bars_are_as_long_as_the_parts_and_dots_stand_at_the_sum(x):
    split = {name: attribute(x, name) for name in ("standard", "4/6-mae-448")}
    ax = plots.attribution_bars(split)
    assert "NMSE (%" in ax.get_xlabel() and sorted(_legend(ax)) == sorted(PARTS)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["4/6-mae-448", "standard"]  # from below
    widths = np.array([[b.get_width() for b in c] for c in ax.containers]).sum(0)
    totals = [100 * sum(split[n].nmse().values()) for n in ("4/6-mae-448", "standard")]
    assert widths == pytest.approx(totals, rel=1e-3)  # a negative part would lengthen both sides
    assert ax.lines[0].get_xdata() == pytest.approx(totals)


def test_negative_parts_stand_left_of_zero():
    steps = np.array([4.0, 1.0, 0.5, 0.0, 0.0, 0.0, -0.5]).cumsum()
    ax = plots.attribution_bars({"made up": Attribution(Recipe(), 1, 1, 100.0, steps, steps)})
    last = ax.containers[-1][0]
    assert last.get_x() == pytest.approx(-0.5) and last.get_x() + last.get_width() == pytest.approx(0)
    assert ax.lines[0].get_xdata() == pytest.approx([5.0])
    assert "standard" in ax.get_title("left")


def test_the_rest_without_rounding(x):
    split = {"x": attribute(x, "4/6-mae-448")}
    ax = plots.attribution_bars(split, without_rounding=True)
    assert PARTS[0] not in _legend(ax) and len(ax.containers) == len(PARTS) - 1


def test_ceiling_curve_draws_each_family_and_flashinfers_ceilings(dial):
    ax = plots.ceiling_curve(dial)
    assert _legend(ax) == ["standard (token)", "4over6 MAE (token)", "standard (tensor)", "4over6 MAE (tensor)"]
    line, dots = ax.lines[0], ax.lines[1]
    assert list(line.get_xdata()) == sorted(dial.values)
    assert line.get_ydata() == pytest.approx(100 * dial.nmse[0][np.argsort(dial.values)])
    assert list(dots.get_xdata()) == [256, 448]
    low, high = ax.get_ylim()
    assert low < 100 * dial.nmse.min() < high
    assert "e4m3_max" in ax.get_xlabel() and "%" in ax.get_ylabel()


def test_ceiling_rates_mark_both_ends(dial):
    ax = plots.ceiling_rates(dial)
    assert _texts(ax) == ["scale underflows", "4 saturates (thick)"]
    assert ax.lines[0].get_ydata()[0] == dial.underflowed[0, -1] / dial.blocks
    thick = [line for line in ax.lines if line.get_linewidth() == 2.5]
    assert thick and all(np.nanmax(line.get_ydata()) <= 1 for line in thick)


@pytest.mark.parametrize("per_token", [True, False])
def test_amax_ratios_say_how_many_blocks_a_window_leaves_out(per_token):
    dial = ceiling_dial(synthetic("spread", 32, 256), values=(448,))
    ax = plots.amax_ratios(dial, per_token=per_token)
    assert ("token" if per_token else "tensor") in ax.get_xlabel()
    notes = " ".join(_texts(ax))
    assert "normal up to 28,672" in notes and "normal up to 16,384" in notes and "% of blocks beyond" in notes
    areas = sum(b.get_height() * b.get_width() for b in ax.containers[0])
    assert areas == pytest.approx(1)


def test_gain_histogram_holds_all_blocks(x):
    found = choice(x, "4/6-mae-448")
    ax = plots.gain_histogram(found)
    six, four = (sum(b.get_height() for b in c) for c in ax.containers)
    assert six == pytest.approx(1 - found.four_rate) and four == pytest.approx(found.four_rate)
    ticks = dict(zip([t.get_text() for t in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert ticks["0"] == 0 and ticks["1 %"] == -ticks["−1 %"] > ticks["0.1 %"] > 0
    assert "of blocks chose the worse" in ax.get_title("left")


def test_ticks_of_the_gain_stand_where_their_values_are_counted():
    gain = 0.0101  # just above 1 %
    counts = causes._merge_small(np.zeros((2, 85)))
    from nvfp4viz.analysis.choice import _by_change

    histogram = causes._merge_small(_by_change(np.array([gain]), np.array([True])))
    place = int(histogram[1].argmax()) - counts.shape[1] // 2
    ax = plots.gain_histogram(choice(synthetic("normal", 8, 64), "4/6-mae-448"))
    ticks = dict(zip([t.get_text() for t in ax.get_xticklabels()], ax.get_xticks(), strict=True))
    assert place - 0.5 <= ticks["1 %"] <= place + 0.5


@pytest.mark.parametrize("of", ["near", "mantissa"])
def test_gain_by_position_draws_its_table(x, of):
    found = choice(x, "4/6-mse-256")
    ax = plots.gain_by_position(found, of=of)
    assert [b.get_height() for b in ax.containers[0]] == pytest.approx(found.positions(of).saving.tolist())
    assert _legend(ax) == ["share of blocks", "took 4", "squared error saved"]


def test_static_scale_marks_regimes_and_per_token():
    data = synthetic("crowded", 32, 256)
    curve = static_scale_curve(data, "standard", factors=(0.25, 0.5, 1, 2, 4, 2**15, 2**20))
    ax = plots.static_scale(curve)
    assert _texts(ax) == ["saturating", "flat", "underflowing"]
    assert ax.lines[0].get_ydata() == pytest.approx(100 * curve.nmse)
    assert ax.lines[1].get_ydata()[0] == pytest.approx(100 * curve.per_token_nmse)
    assert "calibrated amax / true amax" in ax.get_xlabel()


PUBLIC = [
    f
    for module in (causes, ceilings)
    for n, f in inspect.getmembers(module, inspect.isfunction)
    if f.__module__ == module.__name__ and n[0] != "_"
]


def test_each_docstring_says_how_to_read_it():
    assert len(PUBLIC) == 7
    assert all("How to read it:" in f.__doc__ for f in PUBLIC)


def _things(data):
    dial, found = ceiling_dial(data, values=(448, 256)), choice(data, "4/6-mae-448")
    return {
        "attribution_bars": {"x": attribute(data, "4/6-mae-448")},
        "ceiling_curve": dial, "ceiling_rates": dial, "amax_ratios": dial,
        "gain_histogram": found, "gain_by_position": found,
        "static_scale": None if not data.any() else static_scale_curve(data, factors=(0.5, 1, 2)),
    }  # fmt: skip


@pytest.mark.parametrize("data", [torch.zeros(2, 32), torch.ones(1, 16)], ids=["zeros", "ones"])
@pytest.mark.parametrize("function", PUBLIC, ids=lambda f: f.__name__)
def test_they_draw_on_given_axes_also_where_there_is_little_to_see(function, data):
    thing = _things(data)[function.__name__]
    if thing is None:
        return  # zeros have no static scale
    ax = new_axes()
    assert function(thing, ax) is ax
    ax.figure.savefig(io.BytesIO(), format="png")
    assert ax.get_title("left")
