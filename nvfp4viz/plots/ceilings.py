"""Figures of ceilings and calibration: what each ceiling costs, and a static scale that is off."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..analysis import CeilingDial, StaticCurve, ratio_edges, window
from ..catalog import looks, style
from ..nvfp4 import Recipe
from ..shown import FAINT, INK, expect, rounded
from .style import GUIDE, dress, legend, legend_above, log2_axis, mark, named, new_axes, plain_log_ticks


def _families(names) -> list[tuple[dict, str]]:
    """Look and label of each family of ceilings: solid a token, dashed a tensor, with marks where colours repeat."""
    recipes = {name: Recipe.parse(name) for name in names}
    look_of, found = looks(recipes), []
    drawn = {name: (look["color"], recipes[name].per_token) for name, look in look_of.items()}
    for name, recipe in recipes.items():
        kind = f"4over6 {recipe.err_mode}" if recipe.four_over_six else "standard"
        more = ", fast" * recipe.fast_math + ", fp16 scores" * recipe.err_use_fast_math
        twins = list(drawn.values()).count(drawn[name]) > 1
        look = {**mark(look_of[name]), "markersize": 4, "markevery": 0.1} if twins else {"color": drawn[name][0]}
        look["linestyle"] = "-" if recipe.per_token else (0, (4, 2))
        found.append((look, f"{kind} ({'token' if recipe.per_token else 'tensor'}{more})"))
    return found


def ceiling_curve(dial: CeilingDial, ax: Axes | None = None) -> Axes:
    """The error under every ceiling.

    How to read it: lower is better; the axis shows what lies near the best, so a line that leaves at the top climbs on.
    Halving a ceiling only moves its scales' exponents, so the pattern of a line repeats with every octave, until small
    blocks fall out of E4M3's normal range and the error climbs: at the left, where the valley ends. 4over6 also loses
    at the right, above 298.67, where a scale 1.5 times as large saturates in the largest blocks: their 4 competes with
    a scale that is too small. Dots are FlashInfer's ceilings, 448 and 256.
    """
    expect(dial, CeilingDial, "what nvfp4viz.ceiling_dial(x) returns")
    ax = ax or new_axes(7.4, 3.6)
    x, curves = _by_ceiling(dial, 100 * dial.nmse)
    best = [curve.min() for curve in curves]
    low, high = min(best, default=0.0), max((c[x >= 256].max(initial=0.0) for c in curves), default=1.0)
    margin = 0.15 * (high - low) or 0.1 * high or 1.0
    for (look, label), curve in zip(_families(dial.families), curves, strict=True):
        ax.plot(x, curve, linewidth=1.5, label=label, **look)
        there = np.isin(x, (256, 448))
        ax.plot(x[there], curve[there], "o", color=look["color"], markersize=5)
    ax.set_ylim(low - margin, high + 2 * margin)
    inside = [x[curve <= high + 2 * margin].min(initial=x.max()) for curve in curves]
    log2_axis(ax, x[x >= min(inside, default=0.0) / 1.5])
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.4g}")
    dress(ax, "Error by ceiling", "ceiling e4m3_max (an E4M3 value)", "NMSE (%)", grid="y")
    legend_above(ax)
    return ax


def ceiling_rates(dial: CeilingDial, ax: Axes | None = None) -> Axes:
    """What each ceiling costs: blocks whose 4 candidate saturates, and blocks whose scale underflows.

    How to read it: lines fall from the left, where scales lie below E4M3's normal numbers, and thick ones of 4over6
    rise at the right, where scales 1.5 times as large saturate at 448. A good ceiling lies in the valley; the wider
    that is, the less the ceiling matters here. Upright lines are FlashInfer's ceilings, 256 and 448.
    """
    expect(dial, CeilingDial, "what nvfp4viz.ceiling_dial(x) returns")
    ax = ax or new_axes(7.4, 3.3)
    x, under = _by_ceiling(dial, dial.underflowed / max(dial.blocks, 1))
    saturated = _by_ceiling(dial, dial.four_saturated / max(dial.blocks, 1))[1]
    for (look, label), left, right in zip(_families(dial.families), under, saturated, strict=True):
        ax.plot(x, left, linewidth=1.5, label=label, **look)
        if right.any():
            ax.plot(x, np.where(right > 0, right, np.nan), linewidth=2.5, **look)
    for ceiling in (256, 448):
        ax.axvline(ceiling, **GUIDE)
    there = [x[one > 0.999].max(initial=x.min()) for one in under]
    log2_axis(ax, x[x >= min(there, default=0.0) / 1.5])
    beside = max((x[one > 0.6].max(initial=x.min()) for one in under), default=x.min())  # right of all lines up there
    ax.annotate("scale underflows", (beside, 0.75), (10, 0), textcoords="offset points", fontsize=8.5, color=FAINT)
    ax.text(244, 0.3, "4 saturates (thick)", transform=ax.get_xaxis_transform(), ha="right", fontsize=8.5, color=FAINT)
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
    last = 2.0 ** edges[np.flatnonzero(counts)[-1] + 1] if counts.any() else 1
    farthest = max(last, *map(window, ceilings))
    for row, ceiling in enumerate(ceilings):
        color = style(Recipe(ceiling, four_over_six=True))["color"]
        end, y = np.log2(window(ceiling)), top * (1.06 + 0.13 * row)
        ax.annotate("", (end, y), (0, y), arrowprops={"arrowstyle": "|-|,widthA=0.3,widthB=0.3", "color": color})
        ax.plot([end, end], [0, y], color=color, linewidth=1, linestyle=(0, (3, 2)))
        beyond = dial.beyond(ceiling, per_token=per_token)
        share = f"{rounded(beyond)} of blocks" if beyond else "no block"
        note = f" ceiling {ceiling:g}: normal up to {window(ceiling):,.0f}, {share} beyond"
        ax.annotate(note, (0.05, y), (0, 3), textcoords="offset points", color=color, fontsize=8.5, va="bottom")
    ax.set_ylim(0, top * (1.14 + 0.13 * len(ceilings)))
    ax.set_xlim(-0.2, np.log2(farthest) + 0.7)
    powers = range(0, int(np.log2(farthest)) + 1, 2)
    ax.set_xticks(powers, [f"{2**k:,}" for k in powers])
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    whose = "token" if per_token else "tensor"
    dress(ax, "How far blocks lie below the largest", f"{whose} amax / block amax", "share of blocks an octave")
    return ax


REGIMES = {"saturating": ("#D55E00", 0.18), "flat": ("#FFFFFF", 0), "underflowing": ("#0072B2", 0.16)}  # and its alpha


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
    edges = np.array([x[0] / 1.05, *np.sqrt(x[1:] * x[:-1]), x[-1] * 1.05])
    _shade_regimes(ax, edges, regimes)
    look = {"linewidth": 1.6, "marker": style(curve.recipe)["marker"], "markersize": 3.5}
    ax.plot(x, y, color=color, **look, label=named(curve.recipe.name, curve.recipe))
    ax.axhline(100 * curve.per_token_nmse, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label="per token")
    log2_axis(ax, x, fractions=True)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_yscale("log")
    plain_log_ticks(ax)
    dress(ax, f"Static scale · {curve.recipe.name}", "calibrated amax / true amax", "NMSE (%)", grid="y")
    legend(ax, loc="best")
    return ax


def _shade_regimes(ax: Axes, edges: np.ndarray, regimes: list[str]) -> None:
    """Shades behind neighbours of one regime, with its name."""
    start = 0
    for i in range(1, len(regimes) + 1):
        if i == len(regimes) or regimes[i] != regimes[start]:
            ax.axvspan(edges[start], edges[i], color=REGIMES[regimes[start]], zorder=-2, linewidth=0)
            at, place = np.sqrt(edges[start] * edges[i]), ax.get_xaxis_transform()
            ax.text(at, 0.97, regimes[start], transform=place, ha="center", va="top", fontsize=8.5, color=FAINT)
            start = i
