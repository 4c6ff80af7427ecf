"""Figures: what they draw and say, read off the Axes; no pixels."""

import itertools
import math
import re
from dataclasses import replace
from itertools import pairwise

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from hostile import NAMES
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch

from nvfp4viz import RECIPES, Recipe, Stats, analyze, plots, shown, sweep, synthetic
from nvfp4viz.analysis import pairs, static_scale_curve
from nvfp4viz.catalog import RATES, STYLES, looks, style
from nvfp4viz.nvfp4 import E4M3_VALUES
from nvfp4viz.plots import ceilings
from nvfp4viz.plots.style import named

X = synthetic("lognormal", 16, 128)
STATS = {name: analyze(X, r, engine="reference") for name, r in RECIPES.items()}
SWEEP = sweep({"layers.0.a": X, "layers.1.b": synthetic("spikes", 16, 64), "lm_head": X * 3}, engine="reference")


@pytest.fixture(autouse=True)
def _stateless():
    """Nothing goes through pyplot's state or changes the user's settings."""
    before = dict(matplotlib.rcParams)
    yield
    assert matplotlib.pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def _labels(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def _draw(ax) -> None:
    """Lay out everything, texts too, without rendering: what a broken label would break."""
    ax.figure.draw_without_rendering()


def _heights(ax, color) -> np.ndarray:
    """Of the bars of bytes 0 to 126 in a colour."""
    (bars,) = [p for p in ax.patches if isinstance(p, StepPatch) and to_hex(p.get_facecolor()).upper() == color]
    heights = bars.get_data().values
    assert heights[1] == 0  # between byte 0 and the others
    return np.delete(heights, 1)


def _shares(ax, color) -> np.ndarray:
    """Areas of the bars of a colour: shares of blocks; that of scale 0, which lies in no octave, is its height."""
    edges = next(p.get_data().edges for p in ax.patches if isinstance(p, StepPatch))
    return _heights(ax, color) * np.array([1, *np.diff(edges[2:])])


@pytest.mark.parametrize("name", RECIPES)
def test_histogram_bars_are_the_shares_of_blocks(name):
    stats = STATS[name]
    ax = plots.block_scale_histogram(stats, full=True)
    six, both = stats.scale_histogram[:, 0] / stats.blocks, stats.scale_histogram.sum(1) / stats.blocks
    np.testing.assert_allclose(_shares(ax, style(stats.recipe)["color"]), six)
    if stats.recipe.four_over_six:
        pale = to_hex(plots.tint(style(stats.recipe)["color"])).upper()
        np.testing.assert_allclose(_shares(ax, pale), both)
        assert _labels(ax) == [f"{name}: 4", f"{name}: 6"]
    else:
        assert _labels(ax) == [name]
    assert ax.get_xlabel() == "block scale (E4M3 value)" and ax.get_ylabel() == "share of blocks an octave"
    assert name in ax.get_title("left") and "engine reference" in ax.get_title("left")
    _draw(ax)


def test_histogram_bars_touch_and_hold_their_value():
    ax = plots.block_scale_histogram(STATS["standard"], full=True)
    (edges,) = [p.get_data().edges for p in ax.patches if isinstance(p, StepPatch)]
    bars = list(pairwise(edges.tolist()))[2:]
    values = np.log2(torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy())
    assert len(bars) == len(values)
    for (low, high), value in zip(bars, values, strict=True):
        assert low < value < high
    assert edges[0] < edges[1] < edges[2]  # byte 0 stands apart


def test_the_axis_begins_where_the_data_do():
    stats = STATS["standard"]
    first = np.log2(E4M3_VALUES[np.flatnonzero(stats.scale_histogram.sum(1))[0]])
    assert first - 2 < plots.block_scale_histogram(stats).get_xlim()[0] < first
    assert plots.block_scale_histogram(stats, full=True).get_xlim()[0] < -11


def test_smooth_data_make_a_smooth_histogram():
    """Cells of E4M3 halve at each power of two: shares, unlike shares an octave, would have teeth there."""
    amax = torch.exp2(torch.linspace(-5, 0, 20000)).repeat_interleave(16)[None]  # of its blocks: as many in each octave
    stats = analyze(amax, "standard", engine="reference")
    bars = _heights(plots.block_scale_histogram(stats, full=True), STYLES["standard"]["color"])[1:]
    inside = bars[np.flatnonzero(bars)[2:-2]]
    assert inside.max() < 1.1 * inside.min()
    shares = stats.scale_histogram.sum(1)[1:][np.flatnonzero(bars)[2:-2]]
    assert shares.max() > 1.5 * shares.min()


def test_the_line_of_saturation_says_what_it_means_and_how_often_4_is_chosen_all_the_same():
    stats = STATS["4/6-mse-448"]
    texts = " ".join(t.get_text() for t in plots.block_scale_histogram(stats).texts)
    share = stats.n_four_saturated_chosen / stats.n_four_saturated
    assert f"scale for 6 above 298.67: its 4 saturates, chosen all the same in {100 * share:.2g} % of" in texts
    standard = plots.block_scale_histogram(STATS["standard"])
    assert "298.67" not in " ".join(t.get_text() for t in standard.texts)


def test_two_histograms_mirror_each_other_with_both_ceilings():
    high, low = STATS["4/6-mse-448"], STATS["4/6-mse-256"]
    ax = plots.block_scale_histogram(high, low)
    assert (_heights(ax, STYLES["4/6-mse-448"]["color"]) >= 0).all()
    assert (_heights(ax, STYLES["4/6-mse-256"]["color"]) <= 0).all()
    np.testing.assert_allclose(-_shares(ax, STYLES["4/6-mse-256"]["color"]), low.scale_histogram[:, 0] / low.blocks)
    bottom, top = ax.get_ylim()
    assert bottom == -top
    texts = " ".join(t.get_text() for t in ax.texts)
    assert "298.67" in texts and "ceiling 256" in texts and "448" in texts
    lines = {round(2 ** line.get_xdata()[0], 1) for line in ax.lines if len(set(line.get_xdata())) == 1}
    assert {298.7, 448.0, 256.0} <= lines
    assert "4/6-mse-448 above, 4/6-mse-256 below" in ax.get_title("left")
    assert ax.yaxis.get_major_formatter()(-0.1, 0) == "10 %"


def test_logarithmic_shares_are_labelled_as_shares():
    ax = plots.block_scale_histogram(STATS["standard"], log=True)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert all(label.endswith(" %") for label in labels) and len(labels) >= 2
    steps = [float(label[:-2]) for label in labels]
    np.testing.assert_allclose(np.diff(np.log10(steps)), 1)
    _draw(plots.block_scale_histogram(STATS["4/6-mse-448"], STATS["4/6-mse-256"], log=True))


def test_marks_stand_at_their_rates():
    ax = plots.clipping_rates(STATS)
    assert _labels(ax) == list(RECIPES)
    rows = [t.get_text().split("\n")[0] for t in ax.get_yticklabels()]
    assert rows[::-1] == [rate.heading for rate in RATES.values()]
    for line, (name, stats) in zip(
        [line for line in ax.lines if line.get_label() in STATS], STATS.items(), strict=True
    ):
        assert line.get_label() == name and line.get_color() == style(stats.recipe)["color"]
        assert line.get_marker() == style(stats.recipe)["marker"]
        for x, rate in zip(line.get_xdata(), list(RATES)[::-1], strict=True):
            value = getattr(stats, rate)
            assert 10**x == pytest.approx(value) if value else x == ax.get_xticks()[0]
    assert ax.get_xticklabels()[0].get_text() == "0"
    assert plots.clipping_rates(STATS["standard"]).get_legend_handles_labels()[1] == ["standard"]


def test_a_rate_that_an_old_release_did_not_measure_has_no_mark():
    one = STATS["4/6-mse-448"]
    old = replace(one, run_tokens=np.zeros_like(one.run_tokens), n_four_saturated_chosen=0)
    (line,) = (line for line in plots.clipping_rates(old).lines if line.get_label() == "4/6-mse-448")
    missing = np.isnan(line.get_xdata()).tolist()
    assert missing == [rate == "four_saturated_chosen" for rate in list(RATES)[::-1]]


@pytest.mark.parametrize("baseline", [None, "standard"])
def test_error_by_tensor_is_sqnr_or_the_gain_over_a_baseline(baseline):
    ax = plots.error_by_tensor(SWEEP, baseline=baseline)
    assert [t.get_text() for t in ax.get_yticklabels()] == SWEEP.tensors[::-1]
    assert _labels(ax) == [n for n in RECIPES if n != baseline]
    for name in _labels(ax):
        (line,) = (line for line in ax.lines if line.get_label() == name)
        wanted = [SWEEP.stats[t][name].sqnr_db for t in SWEEP.tensors[::-1]]
        if baseline:
            wanted = np.array(wanted) - [SWEEP.stats[t][baseline].sqnr_db for t in SWEEP.tensors[::-1]]
        np.testing.assert_allclose(line.get_xdata(), wanted)
    assert ax.get_xlabel() == ("gain over standard (dB)" if baseline else "SQNR (dB)")
    assert "engine reference" in ax.get_title("left")


@pytest.mark.parametrize("of", ["token", "block"])
def test_distributions_rise_from_0_to_1(of):
    ax = plots.nmse_distribution(STATS, of=of)
    assert _labels(ax) == list(RECIPES)
    for line in ax.lines[: len(RECIPES)]:
        y = line.get_ydata()
        assert (np.diff(y) >= 0).all() and y[-1] == pytest.approx(1)
    counts = getattr(STATS["standard"], f"{of}_histogram")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.cumsum(counts) / counts.sum())
    assert ax.get_ylabel() == f"share of {of}s at most there"
    _draw(ax)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.block_scale_histogram(STATS["standard"], ax=ax),
        lambda ax: plots.clipping_rates(STATS, ax=ax),
        lambda ax: plots.error_by_tensor(SWEEP, ax=ax),
        lambda ax: plots.nmse_distribution(STATS, ax=ax),
    ],
)
def test_axes_that_are_given_are_the_axes_that_come_back(draw):
    ax = plots.new_axes()
    assert draw(ax) is ax
    assert draw(None) is not ax
    for one in (ax, draw(None)):
        assert one.get_xlabel() and (one.get_ylabel() or len(one.get_yticklabels()))


def test_colours_markers_and_dashes_tell_recipes_apart_without_colour():
    ax = plots.error_by_tensor(SWEEP)
    lines = [line for line in ax.lines if line.get_label() in RECIPES]
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == len(RECIPES)
    dashes = {str(line._dash_pattern) for line in plots.nmse_distribution(STATS).lines[: len(RECIPES)]}
    assert len(dashes) == len(RECIPES)


VARIANTS = [
    Recipe(c, four_over_six=four, err_mode=m, err_use_fast_math=e, per_token=p, fast_math=f, scored_as=s)
    for four, c in ((True, 448), (True, 256), (True, 300), (False, 448), (False, 256))
    for m, e, p, f in itertools.product(("MAE", "MSE"), *[(False, True)] * 3)
    for s in (None, 200)
]


def test_two_recipes_in_one_figure_always_differ():
    """Without colour in marker and fill, in bars by colour and hatch: all pairs of variants."""
    for a, b in itertools.combinations(VARIANTS, 2):
        one, two = looks({"a": a, "b": b}).values()
        assert (one["marker"], one["fill"]) != (two["marker"], two["fill"]), (a, b)
        assert (one["color"], one["hatch"]) != (two["color"], two["hatch"]), (a, b)
    many = looks({str(i): r for i, r in enumerate(VARIANTS[::10])}).values()
    assert len({(look["marker"], look["fill"]) for look in many}) == len(many)


def test_the_named_recipes_look_the_same_beside_whatever_variants():
    for variant in VARIANTS:
        found = looks({**RECIPES, "more": variant})
        assert all(found[n] | STYLES[n] == found[n] and found[n]["fill"] == "full" for n in RECIPES)


def _drawn(line) -> tuple:
    colors = [to_hex(c) for c in (line.get_color(), line.get_markerfacecolor())]
    marks = str(line.get_marker()), line.get_fillstyle(), line.get_markevery()
    return *colors, *marks, str(line._dash_pattern), line.get_linewidth()


@pytest.mark.parametrize("other", ["tensor", "fast", "fp16err", "tensor-fast", "fp16err-fast", "scored256"])
def test_variants_differ_in_every_figure(other):
    pair = {n: analyze(X, n, engine="reference") for n in ("4/6-mae-448", f"4/6-mae-448-{other}")}
    both = sweep(X, list(pair), engine="reference")
    for ax in (
        plots.clipping_rates(pair), plots.error_by_tensor(both), plots.nmse_distribution(pair),
        plots.gains(pairs(both, both)),
    ):  # fmt: skip
        one, two = (line for line in ax.lines if line.get_label() in {named(n, s.recipe) for n, s in pair.items()})
        assert _drawn(one) != _drawn(two)
    ax = plots.block_scale_histogram(*pair.values())
    hatches = [p.get_hatch() for p in ax.patches if isinstance(p, StepPatch)]  # 4 and 6 of the first, then of the other
    assert not any(hatches[:2]) and all(hatches[2:])
    families = ceilings._families(["4/6-mae-448", f"4/6-mae-448-{other}"])
    assert families[0][0] != families[1][0] and (families[0][1] != families[1][1] or other == "scored256")


def test_a_recipe_that_no_engine_runs_is_marked_in_figures():
    names = ["4/6-mae-448", "4/6-mae-300", "standard-256"]
    both = sweep(X, names, engine="reference")
    row = both.stats["activations"]
    wanted = ["4/6-mae-448", "4/6-mae-300 (study only)", "standard-256 (study only)"]
    for ax in (plots.error_by_tensor(both), plots.clipping_rates(row), plots.nmse_distribution(row)):
        assert _labels(ax) == wanted
    assert _labels(plots.block_scale_histogram(row["standard-256"])) == ["standard-256 (study only)"]


def test_a_share_of_all_reads_so():
    """Two digits of 100 % are no 1e+02 %."""
    from nvfp4viz import choice

    assert "took 6: 100 % of blocks" in _labels(plots.gain_histogram(choice(torch.ones(4, 16), "4/6-mae-448")))
    assert [shown.rounded(v) for v in (0.0, 1e-7, 0.044, 0.997, 1.0)] == ["0 %", "1×10⁻⁵ %", "4.4 %", "100 %", "100 %"]


def test_whose_saturating_4_is_chosen_is_said_where_two_are_drawn():
    row = {n: analyze(X, n, engine="reference") for n in ("4/6-mae-448", "4/6-mse-448")}
    assert all(s.n_four_saturated_chosen for s in row.values())
    most = max(row, key=lambda n: row[n].four_saturated)
    words = {t.get_text() for t in plots.block_scale_histogram(*row.values()).texts}
    assert any(
        w.startswith("scale for 6 above 298.67: its 4 saturates, ") and w.endswith(f"under {most}") for w in words
    )


ZERO = analyze(torch.zeros(4, 16), "4/6-mse-448", engine="reference")
NOTHING = Stats(Recipe(), "by hand", 16)
LARGEST = analyze(torch.full((20, 16), 3.38e38).bfloat16(), Recipe(250), engine="reference")


@pytest.mark.parametrize("stats", [ZERO, NOTHING, LARGEST], ids=["zeros", "nothing", "infinite"])
@pytest.mark.filterwarnings("error")
def test_zeros_nothing_and_infinities_are_drawn(stats):
    for ax in (
        plots.block_scale_histogram(stats),
        plots.block_scale_histogram(stats, STATS["4/6-mse-256"], log=True),
        plots.clipping_rates(stats),
        plots.nmse_distribution({"a": stats}),
        plots.nmse_distribution({"a": stats}, of="block"),
    ):
        _draw(ax)


@pytest.mark.filterwarnings("error")
def test_infinite_and_missing_errors_are_drawn():
    s = sweep({"zero": torch.zeros(4, 16), "x": X, "large": torch.full((4, 16), 3.38e38).bfloat16()},
              ["standard", "4/6-mae-240"], engine="reference")  # fmt: skip
    for baseline in (None, "standard", "4/6-mae-240"):
        ax = plots.error_by_tensor(s, baseline=baseline)
        _draw(ax)
        assert all(map(math.isfinite, ax.get_xlim()))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.filterwarnings("error::UserWarning", "ignore:Glyph:UserWarning")
def test_any_name_can_be_drawn(name):
    s = sweep({name: X[:, :16]}, {name: Recipe(), "b": Recipe(256, four_over_six=True)}, engine="reference")
    ax = plots.error_by_tensor(s)
    _draw(ax)
    (label,) = (t.get_text() for t in ax.get_yticklabels())
    assert len(label) <= 60 and label.removeprefix("\N{ZERO WIDTH SPACE}").isprintable()
    assert len(_labels(ax)) == 2
    (row,) = s.stats.values()
    _draw(plots.clipping_rates(row))
    assert _labels(plots.nmse_distribution(row)) == _labels(ax)


def test_a_picture_is_a_png_with_words_for_it():
    picture = plots.Picture(plots.clipping_rates(STATS))
    assert picture.png.startswith(b"\x89PNG") and "Limits met" in picture.alt == repr(picture)
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == picture.alt and metadata["image/png"]["alt"] == picture.alt
    assert picture.png == plots.Picture(plots.clipping_rates(STATS)).png  # reproducible
    assert plots.Picture(plots.new_axes(), "mine").alt == "mine" and plots.Picture(plots.new_axes()).alt == "figure"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.block_scale_histogram(STATS), "cannot draw a dict: this figure takes Stats, as"),
        (lambda: plots.clipping_rates([]), "cannot draw a list: this figure takes recipe -> Stats"),
        (lambda: plots.error_by_tensor(STATS), "cannot draw a dict: this figure takes a Sweep"),
        (lambda: plots.nmse_distribution(None), "cannot draw a NoneType"),
        (lambda: plots.Picture(STATS), "cannot draw a dict: this figure takes Axes"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, message):
    with pytest.raises(TypeError, match=message):
        draw()


def test_hatched_bars_keep_their_colour_in_pages():
    """A pattern's colour is an attribute that begins as a reference does: with a quote and a #."""
    pair = [analyze(X, n, engine="reference") for n in ("4/6-mae-448", "4/6-mae-448-tensor")]
    text = shown.svg(plots.block_scale_histogram(*pair), "one")
    fills = re.findall(r'fill="(.*?)"', text)
    assert fills and all(re.fullmatch(r"#[0-9a-f]{6}|none|var\(--\w+\)", fill) for fill in fills)
    used, made = set(re.findall(r"url\(#(.*?)\)", text)), set(re.findall(r'id="(.*?)"', text))
    assert used and used <= made and set(re.findall(r'href="#(.*?)"', text)) <= made


def test_regimes_are_shades_that_any_ground_shows_through():
    """An opaque pastel would be a white box in the dark, with letters that nobody can read."""
    ax = plots.static_scale(static_scale_curve(X, factors=[1 / 16, 1.0, 2.0**18]))
    assert len(ax.patches) == 3 and max(p.get_facecolor()[3] for p in ax.patches) < 0.3
