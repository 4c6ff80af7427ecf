"""Figures that explain: where the error comes from, what the choice gains, what the ceiling and a static scale cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ..analysis import PARTS, PLACES, POSITIONS, Attribution, CeilingDial, Choice, StaticCurve, ratio_edges, window
from ..catalog import style
from ..nvfp4 import Recipe
from .style import FAINT, INK, dress, expect, legend, legend_above, new_axes, shorten, tint

# Okabe-Ito, with hatches so that neighbours differ without colour too
LOOKS = dict(
    zip(
        PARTS,
        [("#BBBBBB", ""), ("#56B4E9", ""), ("#D55E00", ""), ("#0072B2", "////"), ("#CC79A7", "...."), ("#222222", ""),
         ("#009E73", "\\\\\\\\")],
        strict=True,
    )
)  # fmt: skip


def attribution_bars(
    attributions: Mapping[str, Attribution], ax: Axes | None = None, *, without_rounding: bool = False
) -> Axes:
    """Where each tensor's squared error comes from.

    How to read it: a bar is a tensor, as long as its NMSE in percent; its colours are the parts of
    `nvfp4viz.attribution`, each the cost of one step from an ideal quantizer to the real one, in the legend's order.
    Parts that lessen the error stand left of zero, and the dot marks the sum of both sides: the measured NMSE. Rounding
    elements to E2M1 is most of any error; `without_rounding` leaves it out, so that the rest is large enough to see. It
    differs between recipes, though, which only whole bars compare.

    Args: attributions: by tensor (or by recipe, to compare recipes), as `Sweep.attributions` has them.
    """
    expect(attributions, Mapping, "name -> what nvfp4viz.attribute(x, recipe) returns")
    names = list(attributions)[::-1]
    ax = ax or new_axes(7.6, 1.5 + 0.24 * len(names))
    left, right = np.zeros(len(names)), np.zeros(len(names))
    split = {name: {p: 100 * v for p, v in one.nmse().items()} for name, one in attributions.items()}
    shown = [p for p in PARTS if not (without_rounding and p == PARTS[0])]
    for part in shown:
        size = np.array([split[n][part] for n in names])
        start = np.where(size < 0, left + size, right)
        color, hatch = LOOKS[part]
        ax.barh(range(len(names)), abs(size), 0.74, start, color=color, hatch=hatch, edgecolor="white", linewidth=0.4)
        left, right = left + np.minimum(size, 0), right + np.maximum(size, 0)
    if not without_rounding:
        ax.plot(left + right, range(len(names)), "o", color=INK, markersize=3.5, linestyle="none")
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(names)), [shorten(n) for n in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    recipes = {one.recipe.name for one in attributions.values()}
    of = f" · {recipes.pop()}" if len(recipes) == 1 else ""
    title = "Error beyond E2M1's own rounding" if without_rounding else "Where the error comes from"
    dress(ax, title + of, "NMSE (% of the squared signal)", grid="x")
    ax.tick_params(axis="y", labelsize=8, length=0)
    ax.set_title(ax.get_title("left"), loc="left", color=INK, fontsize=11, fontweight="bold", pad=38)
    shown = [*shown[::4], *shown[1::4], *shown[2::4], *shown[3::4]]  # a legend of 4 columns is filled column by column
    handles = [Patch(facecolor=LOOKS[p][0], hatch=LOOKS[p][1], edgecolor="white", label=p) for p in shown]
    legend(
        ax,
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=4,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    return ax


def _family(name: str) -> tuple[dict, str]:
    """Look and label of a family of ceilings: the recipe's own, and for one scale a tensor its dashed twin."""
    recipe = Recipe.parse(name)
    kind = f"4over6 {recipe.err_mode}" if recipe.four_over_six else "standard"
    look = {"color": style(recipe)["color"], "linestyle": "-" if recipe.per_token else (0, (4, 2))}
    return look, f"{kind} ({'token' if recipe.per_token else 'tensor'})"


def ceiling_curve(dial: CeilingDial, ax: Axes | None = None) -> Axes:
    """The error under every ceiling.

    How to read it: lower is better; the axis shows what lies near the best, so a line that leaves at the top climbs on.
    Halving a ceiling only moves its scales' exponents, so the pattern of a line repeats with every octave, until small
    blocks fall out of E4M3's normal range and the error climbs: at the left, where the valley ends. 4over6 also loses
    at the right, above 298.67, where the largest blocks cannot have a scale 1.5 times as large. Dots are FlashInfer's
    ceilings, 448 and 256.
    """
    expect(dial, CeilingDial, "what nvfp4viz.ceiling_dial(x) returns")
    ax = ax or new_axes(7.4, 3.6)
    x, curves = _by_ceiling(dial, 100 * dial.nmse)
    best = [curve.min() for curve in curves]
    low, high = min(best, default=0.0), max((c[x >= 256].max(initial=0.0) for c in curves), default=1.0)
    margin = 0.15 * (high - low) or 0.1 * high or 1.0
    for name, curve in zip(dial.families, curves, strict=True):
        look, label = _family(name)
        ax.plot(x, curve, linewidth=1.5, label=label, **look)
        there = np.isin(x, (256, 448))
        ax.plot(x[there], curve[there], "o", color=look["color"], markersize=5)
    ax.set_ylim(low - margin, high + 2 * margin)
    inside = [x[curve <= high + 2 * margin].min(initial=x.max()) for curve in curves]
    _log2_axis(ax, x[x >= min(inside, default=0.0) / 1.5])
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.4g}")
    dress(ax, "Error by ceiling", "ceiling e4m3_max (an E4M3 value)", "NMSE (%)", grid="y")
    legend_above(ax)
    return ax


def ceiling_rates(dial: CeilingDial, ax: Axes | None = None) -> Axes:
    """What each ceiling costs: blocks whose 4 candidate saturates, and blocks whose scale underflows.

    How to read it: lines fall from the left, where scales lie below E4M3's normal numbers, and thick ones of 4over6
    rise at the right, where the ceiling leaves no room for a scale 1.5 times as large. A good ceiling lies in the
    valley; the wider that is, the less the ceiling matters here. Upright lines are FlashInfer's ceilings, 256 and 448.
    """
    expect(dial, CeilingDial, "what nvfp4viz.ceiling_dial(x) returns")
    ax = ax or new_axes(7.4, 3.3)
    x, under = _by_ceiling(dial, dial.underflowed / max(dial.blocks, 1))
    saturated = _by_ceiling(dial, dial.four_saturated / max(dial.blocks, 1))[1]
    for name, left, right in zip(dial.families, under, saturated, strict=True):
        look, label = _family(name)
        ax.plot(x, left, linewidth=1.5, label=label, **look)
        if right.any():
            ax.plot(x, np.where(right > 0, right, np.nan), linewidth=2.5, **look)
    for ceiling in (256, 448):
        ax.axvline(ceiling, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=-1)
    there = [x[one > 0.999].max(initial=x.min()) for one in under]
    _log2_axis(ax, x[x >= min(there, default=0.0) / 1.5])
    for at, align, text in ((0.01, "left", "scale underflows"), (0.99, "right", "4 saturates (thick) ")):
        ax.text(at, 0.12, text, transform=ax.transAxes, ha=align, fontsize=8.5, color=FAINT)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    ax.set_ylim(bottom=0)
    dress(ax, "Saturation and underflow by ceiling", "ceiling e4m3_max (an E4M3 value)", "share of blocks", grid="y")
    legend_above(ax)
    return ax


def _by_ceiling(dial: CeilingDial, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ceilings in rising order, and the rows' values so."""
    order = np.argsort(dial.values)
    return np.array(dial.values)[order], rows[:, order]


def amax_ratios(dial: CeilingDial, ax: Axes | None = None, *, per_token: bool = True, ceilings=(448, 256)) -> Axes:
    """How far the blocks' amax lie below their token's, over the windows that ceilings leave.

    How to read it: bars are the data: blocks by token amax / block amax, so the largest blocks stand at the left. A
    bracket above is the window of a ceiling, up to which a block's scale is an E4M3 normal number; blocks right of it
    have coarser scales, and the bracket says how many. If all bars lie inside both, the lower ceiling costs nothing.
    """
    expect(dial, CeilingDial, "what nvfp4viz.ceiling_dial(x) returns")
    ax = ax or new_axes(7.4, 3.2)
    counts = dial.token_ratios if per_token else dial.tensor_ratios
    edges = np.log2(ratio_edges())
    ax.bar(edges[:-1], counts / max(dial.blocks, 1) / np.diff(edges), np.diff(edges), align="edge", color="#9A9A9A")
    top = ax.get_ylim()[1]
    farthest = max(
        [window(c) for c in ceilings] + [2.0 ** edges[np.flatnonzero(counts)[-1] + 1] if counts.any() else 1]
    )
    for row, ceiling in enumerate(ceilings):
        color = style(Recipe(ceiling, four_over_six=True))["color"]
        end, y = np.log2(window(ceiling)), top * (1.06 + 0.13 * row)
        ax.annotate("", (end, y), (0, y), arrowprops={"arrowstyle": "|-|,widthA=0.3,widthB=0.3", "color": color})
        ax.plot([end, end], [0, y], color=color, linewidth=1, linestyle=(0, (3, 2)))
        beyond = dial.beyond(ceiling, per_token=per_token)
        share = f"{_percent(beyond)} of blocks" if beyond else "no block"
        note = f" ceiling {ceiling:g}: normal up to {window(ceiling):,.0f}, {share} beyond"
        ax.text(0.05, y * 1.005, note, color=color, fontsize=8.5, va="bottom")
    ax.set_ylim(0, top * (1.14 + 0.13 * len(ceilings)))
    ax.set_xlim(-0.2, np.log2(farthest) + 0.7)
    ax.set_xticks(
        range(0, int(np.log2(farthest)) + 1, 2), [f"{2**k:,}" for k in range(0, int(np.log2(farthest)) + 1, 2)]
    )
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    whose = "token" if per_token else "tensor"
    dress(ax, "How far blocks lie below the largest", f"{whose} amax / block amax", "share of blocks an octave")
    return ax


def gain_histogram(choice: Choice, ax: Axes | None = None) -> Axes:
    """What mapping amax to 4 instead of 6 gains in each block.

    How to read it: right of the middle, 4 has less squared error, left of it more; the distance is how much, over the
    block's own squared signal, on two logarithmic scales that meet in a bar of all below 0.006 %. Solid bars are blocks
    that took 6, pale ones took 4: pale at the left or solid at the right is a wrong choice.
    """
    expect(choice, Choice, "what nvfp4viz.choice(x, recipe) returns")
    ax = ax or new_axes(7.4, 3.2)
    color = style(choice.recipe)["color"]
    six, four = _merge_small(choice.gain_histogram / max(choice.blocks, 1))
    x = np.arange(len(six)) - len(six) // 2
    ax.bar(x, six, 1.0, color=color, label=f"took 6: {_percent(1 - choice.four_rate)} of blocks")
    ax.bar(x, four, 1.0, six, color=tint(color), label=f"took 4: {_percent(choice.four_rate)}")
    used = np.abs(x[six + four > 0])
    reach = max(used.max(initial=0), 16)
    values = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    mantissa, exponent = np.frexp(values)  # a bin is half an octave, linear in the mantissa
    places = 0.5 + 2 * (exponent - 1 + 20) + 2 * (2 * mantissa - 1) - SMALL
    shown = (places > 4) & (places <= reach + 1)  # the nearest to 0 would stand on its label
    places, values = places[shown], values[shown]
    names = [f"{100 * v:g} %" for v in values]
    ax.set_xticks([*-places[::-1], 0, *places], [*(f"−{n}" for n in names[::-1]), "0", *names])
    ax.set_xlim(-reach - 1, reach + 1)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    wrong = (
        f"{_percent(choice.wrong_rate)} of blocks chose the worse" if choice.wrong_rate else "no block chose the worse"
    )
    dress(
        ax,
        f"Gain of 4 over 6 · {choice.recipe.name} · {wrong}",
        "(error of 6 − error of 4) / block's squared signal",
        "share of blocks",
    )
    legend(ax, loc="upper right")
    return ax


SMALL = 12  # bins next to 0 that are drawn with it: below 2^-14 of the signal


def _merge_small(histogram: np.ndarray) -> np.ndarray:
    """The signed histogram with its SMALL bins on either side of the middle one added to that."""
    middle = histogram.shape[1] // 2
    small = histogram[:, middle - SMALL : middle + SMALL + 1].sum(1, keepdims=True)
    return np.concatenate([histogram[:, : middle - SMALL], small, histogram[:, middle + SMALL + 1 :]], 1)


def gain_by_position(choice: Choice, ax: Axes | None = None, *, of: str = "near") -> Axes:
    """Where in a block's shape 4over6 finds its gain.

    How to read it: blocks are sorted by the value nearest to 5/6 of their amax (`of="near"`), the middle of E2M1's gap
    between 4 and 6, or by where their scale lies between two powers of two (`of="mantissa"`). Bars are how much of the
    squared error of always 6 the choice saves in those blocks, dots the share of them that took 4; the grey line is how
    many of all blocks they are. At 1 no other value is as near to 5/6 as amax itself.
    """
    expect(choice, Choice, "what nvfp4viz.choice(x, recipe) returns")
    if of not in POSITIONS:
        raise ValueError(f"of={of!r} is not one of {', '.join(map(repr, POSITIONS))}")
    ax = ax or new_axes(7.4, 3.2)
    low, high = POSITIONS[of]
    edges = np.linspace(low, high, PLACES + 1)
    rows, middle, width = choice.positions(of), (edges[1:] + edges[:-1]) / 2, (high - low) / PLACES
    color = style(choice.recipe)["color"]
    ax.step(
        edges,
        [*(rows.blocks / max(choice.blocks, 1)), 0],
        where="post",
        color="#9A9A9A",
        linewidth=1.2,
        label="share of blocks",
    )
    ax.bar(middle, rows.saving, width * 0.8, color=tint(color), label="squared error saved")
    ax.plot(middle, rows.four_rate, "o", color=color, markersize=5, label="took 4", linestyle="none")
    ax.axhline(0, color=INK, linewidth=0.8)
    if of == "near":
        ax.axvline(5 / 6, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=-1)
        ax.set_xticks([2 / 3, 0.75, 5 / 6, 11 / 12, 1], ["2/3", "3/4", "5/6", "11/12", "1: amax itself"])
    label = (
        "value nearest to 5/6 of amax, over amax" if of == "near" else "scale of amax/6 over the power of two below it"
    )
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    dress(ax, f"Where 4over6 gains · {choice.recipe.name}", label, "share", grid="y")
    legend_above(ax)
    return ax


REGIMES = {"saturating": "#F6DFD2", "flat": "#FFFFFF", "underflowing": "#DCE9F5"}


def static_scale(curve: StaticCurve, ax: Axes | None = None) -> Axes:
    """The error of a static per-tensor scale by how far its calibration is off, beside per-token scaling.

    How to read it: 1 is a scale calibrated to the true amax. Left of it activations exceed the calibration and block
    scales saturate; right of it small blocks' scales underflow, once the factor has used up E4M3's range; between lies
    the flat part, where calibration does not matter. Shades name a regime where it makes 5 % of the error or more. The
    dashed line is what per-token scaling has without any calibration.
    """
    expect(curve, StaticCurve, "what nvfp4viz.static_scale_curve(x) returns")
    ax = ax or new_axes(7.4, 3.4)
    x, y, color = np.array(curve.factors), 100 * curve.nmse, style(curve.recipe)["color"]
    order = np.argsort(x)
    x, y, regimes = x[order], y[order], [curve.regimes[i] for i in order]
    edges = np.sqrt(x[1:] * x[:-1])
    edges = np.array([x[0] / 1.05, *edges, x[-1] * 1.05])
    start = 0
    for i in range(1, len(regimes) + 1):
        if i == len(regimes) or regimes[i] != regimes[start]:
            ax.axvspan(edges[start], edges[i], color=REGIMES[regimes[start]], zorder=-2, linewidth=0)
            at = np.sqrt(edges[start] * edges[i])
            ax.text(
                at,
                0.97,
                regimes[start],
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=8.5,
                color=FAINT,
            )
            start = i
    ax.plot(
        x,
        y,
        color=color,
        linewidth=1.6,
        marker=style(curve.recipe)["marker"],
        markersize=3.5,
        label=shorten(curve.recipe.name),
    )
    ax.axhline(100 * curve.per_token_nmse, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label="per token")
    _log2_axis(ax, x, fractions=True)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_yscale("log")
    _plain_log_ticks(ax)
    dress(ax, f"Static scale · {curve.recipe.name}", "calibrated amax / true amax", "NMSE (%)", grid="y")
    legend(ax, loc="center right")
    return ax


def _log2_axis(ax: Axes, x: np.ndarray, *, fractions: bool = False) -> None:
    """A logarithmic x axis with ticks at powers of two."""
    ax.set_xscale("log", base=2)
    low, high = int(np.ceil(np.log2(x.min()) - 1e-9)), int(np.floor(np.log2(x.max()) + 1e-9))
    powers = list(range(high, low - 1, -1 if high - low <= 12 else -2))
    names = [f"1/{2**-k}" if k < 0 and (fractions or k >= -10) else f"{2.0**k:g}" for k in powers]
    ax.set_xticks([2.0**k for k in powers], names)
    ax.set_xlim(x.min() / 1.06, x.max() * 1.06)
    ax.minorticks_off()


def _plain_log_ticks(ax: Axes) -> None:
    """Few round numbers on a logarithmic y axis, also where it spans less than a decade."""
    low, high = ax.get_ylim()
    if high / low < 2.5:
        ax.set_yscale("linear")
        return
    steps = [m * 10.0**e for e in range(-8, 9) for m in ((1, 2, 5) if high / low < 300 else (1,))]
    shown = [s for s in steps if low <= s <= high]
    ax.set_yticks(shown, [f"{s:g}" for s in shown])
    ax.minorticks_off()


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
