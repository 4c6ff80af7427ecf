"""Figures that explain: where the error comes from, and what choosing between 6 and 4 gains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ..analysis import PARTS, PLACES, POSITIONS, Attribution, Choice
from ..catalog import style
from ..shown import INK, expect, rounded, shorten
from .style import ABOVE, GUIDE, TITLE, dress, legend, legend_above, named, new_axes, tint

# Okabe-Ito, with hatches so that neighbours differ without colour too
LOOKS = dict(zip(PARTS, [
    ("#BBBBBB", ""), ("#56B4E9", ""), ("#D55E00", ""), ("#0072B2", "////"), ("#CC79A7", "----"), ("#222222", ""),
    ("#009E73", "\\\\\\\\"),
], strict=True))  # fmt: skip


def attribution_bars(
    attributions: Mapping[str, Attribution], ax: Axes | None = None, *, without_rounding: bool = False
) -> Axes:
    """Where each tensor's squared error comes from.

    How to read it: a bar is a tensor, as long as its NMSE in percent; its colours are the parts of
    `nvfp4viz.attribute`, each the cost of one step from an ideal quantizer to the real one, in the legend's order.
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
    ax.set_xlim(right=1.02 * ax.get_xlim()[1])  # else the longest bar's dot is cut
    ax.set_yticks(range(len(names)), [shorten(n) for n in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    recipes = {one.recipe.name for one in attributions.values()}
    of = f" · {recipes.pop()}" if len(recipes) == 1 else ""
    title = "Error beyond E2M1's own rounding" if without_rounding else "Where the error comes from"
    dress(ax, title + of, "NMSE (% of the squared signal)", grid="x")
    ax.tick_params(axis="y", labelsize=8, length=0)
    _legend_of_parts(ax, shown)
    return ax


def _legend_of_parts(ax: Axes, shown: list[str]) -> None:
    """Parts in four columns between title and axes."""
    ax.set_title(ax.get_title("left"), pad=38, **TITLE)
    shown = [*shown[::4], *shown[1::4], *shown[2::4], *shown[3::4]]  # a legend of 4 columns is filled column by column
    handles = [Patch(facecolor=LOOKS[p][0], hatch=LOOKS[p][1], edgecolor="white", label=p) for p in shown]
    legend(ax, handles=handles, ncols=4, **ABOVE)


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
    ax.bar(x, six, 1.0, color=color, label=f"took 6: {rounded(1 - choice.four_rate)} of blocks")
    ax.bar(x, four, 1.0, six, color=tint(color), label=f"took 4: {rounded(choice.four_rate)}")
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
    wrong = f"{rounded(choice.wrong_rate)} of blocks" if choice.wrong_rate else "no block"
    title = f"Gain of 4 over 6 · {named(choice.recipe.name, choice.recipe)} · {wrong} chose the worse"
    dress(ax, title, "(error of 6 − error of 4) / block's squared signal", "share of blocks")
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
    shares, line = [*(rows.blocks / max(choice.blocks, 1)), 0], {"color": "#9A9A9A", "linewidth": 1.2}
    ax.step(edges, shares, where="post", label="share of blocks", **line)
    ax.bar(middle, rows.saving, width * 0.8, color=tint(color), label="squared error saved")
    ax.plot(middle, rows.four_rate, "o", color=color, markersize=5, label="took 4", linestyle="none")
    ax.axhline(0, color=INK, linewidth=0.8)
    if of == "near":
        ax.axvline(5 / 6, **GUIDE)
        ax.set_xticks([2 / 3, 0.75, 5 / 6, 11 / 12, 1], ["2/3", "3/4", "5/6", "11/12", "1: amax itself"])
    labels = {"near": "value nearest to 5/6 of amax, over amax"}
    label = labels.get(of, "scale of amax/6 over the power of two below it")
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    dress(ax, f"Where 4over6 gains · {named(choice.recipe.name, choice.recipe)}", label, "share", grid="y")
    legend_above(ax)
    return ax
