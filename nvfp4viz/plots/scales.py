"""Figures of block scales: which E4M3 values they take, and one block on the grids of its candidates."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..catalog import looks, style
from ..nvfp4 import E2M1_MAGNITUDES, FOUR_LIMIT, Recipe, e4m3_edges
from ..shown import FAINT, INK, expect, rounded, shorten
from ..stats import Stats
from .style import GUIDE, STATS, TITLE, dress, legend, named, new_axes, tint

ZERO_BAR = (-11.0, -10.2)  # where byte 0 stands on the log2 axis


def block_scale_histogram(
    stats: Stats, other: Stats | None = None, ax: Axes | None = None, *, log: bool = False, full: bool = False
) -> Axes:
    """Which E4M3 values the block scales take.

    How to read it: a bar is one E4M3 value, as high as its share of blocks an octave, so that its area is its share:
    shares alone would jump at powers of two, where values lie twice as close, whatever the data. Solid bars mapped
    their amax to 6, pale ones to 4, at 1.5 times their scale for 6. Blocks at the far right hold the token's largest
    values. Above the dashed line a scale for 6 has a 4 that saturates; it competes, and the label says how often it is
    chosen. In the shaded range scales are subnormal and lose precision; the bar apart at the left is scale 0.

    Args: stats: drawn upwards; other: downwards, hatched where it has the same colour; log: logarithmic shares;
          full: the whole range of E4M3, else from the smallest scale in use.
    """
    both = [expect(s, Stats, STATS) for s in (stats, other) if s is not None or s is stats]
    ax = ax or new_axes(7.4, 4.2 if other else 3.4)
    look_of = list(looks(dict(enumerate(s.recipe for s in both))).values())
    floor = 10.0 ** np.floor(-np.log10(max(2, *(s.blocks for s in both))))  # the foot of a log axis
    edges, top = np.log2(e4m3_edges()), 0.0
    octaves = np.concatenate([[1], np.diff(edges)])  # that a bar's share is over; scale 0 lies in none
    for one, sign, look in zip(both, (1, -1), look_of, strict=False):
        shares = one.scale_histogram / max(one.blocks, 1) / octaves[:, None]
        six, all_ = shares[:, 0], shares.sum(1)
        if log:
            six, all_ = (np.log10(np.maximum(v, floor) / floor) for v in (six, all_))
        top = max(top, all_.max() * 1.08)
        four, name = one.recipe.four_over_six, named(one.recipe.name, one.recipe)
        hatch = look["hatch"] if sign < 0 and look["color"] == look_of[0]["color"] else ""
        if four:
            _bars(ax, sign * all_, edges, color=tint(look["color"]), label=f"{name}: 4", hatch=hatch)
        _bars(ax, sign * six, edges, color=look["color"], label=name + ": 6" * four, hatch=hatch)
    ax.set_ylim(-top if other else 0, top or 1)
    _mark_scales(ax, both)
    used = np.flatnonzero(sum(s.scale_histogram.sum(1) for s in both))
    first = used[0] if len(used) and not full else 0
    ax.set_xlim(-11.4 if first == 0 else edges[first - 1] - 0.8, 9.3)
    ax.yaxis.set_major_formatter(lambda v, _: f"{abs(100 * v):.3g} %")
    if log:
        _log_shares(ax, floor, top, mirrored=other is not None)
    ax.axhline(0, color=INK, linewidth=0.8 if other else 0)
    legend(ax, loc="best" if ax.get_xlim()[0] < -6 else "upper left")  # not on the word "subnormal"
    dress(ax, "", "block scale (E4M3 value)", "share of blocks an octave")
    return ax


def _bars(ax: Axes, heights: np.ndarray, edges: np.ndarray, color, **look) -> None:
    """A bar for each byte as one path, which a page draws in no time; between byte 0 and the others is a gap."""
    look |= {"fill": True, "facecolor": color, "edgecolor": "white", "linewidth": 0}
    ax.stairs(np.insert(heights, 1, 0.0), np.concatenate([ZERO_BAR, edges]), **look)


def _log_shares(ax: Axes, floor: float, top: float, *, mirrored: bool) -> None:
    """Ticks of an axis that is log10(share / floor), upwards and, where mirrored, downwards too."""
    ticks = np.arange(0, int(-np.log10(floor)) + 1)
    ticks = ticks[ticks <= top]
    names = [f"{100 * floor * 10.0**t:g} %" for t in ticks]
    ax.set_yticks([*-ticks[:0:-1], *ticks] if mirrored else ticks, [*names[:0:-1], *names] if mirrored else names)


def _mark_scales(ax: Axes, both: list[Stats]) -> None:
    """Title, subnormal range, the scale for 6 whose 4 saturates, each recipe's ceiling, and ticks at powers of two."""
    names = " above, ".join(s.recipe.name for s in both) + " below" * (len(both) > 1)
    names += " · " if len(names) < 44 else "\n"
    choosing = [s for s in both if s.recipe.four_over_six]
    ax.set_title(f"Block scales · {names}engine {both[0].engine}", pad=30 if choosing else 18, **TITLE)
    place = ax.get_xaxis_transform()
    ax.axvspan(-9.6, -6, color="#F2F2F2", zorder=-2, linewidth=0)
    ax.text(-7.8, 0.98, "subnormal", transform=place, ha="center", va="top", fontsize=8, color=FAINT, clip_on=True)
    if choosing:
        limit, words = np.log2(FOUR_LIMIT), _saturating(choosing)
        ax.axvline(limit, **GUIDE)
        ax.annotate(words, (limit, 1.0), (0, 12), place, "offset points", ha="right", fontsize=8, color=FAINT)
    for one, (low, high, y) in zip(both, [(0.5 if len(both) > 1 else 0, 1, 1.0), (0, 0.5, 0.01)], strict=False):
        ceiling, color = np.log2(one.recipe.e4m3_max), style(one.recipe)["color"]
        ax.axvline(ceiling, low, high, color=color, linewidth=1.2, zorder=-1)
        left = one.recipe.e4m3_max < FOUR_LIMIT
        text = f"ceiling {one.recipe.e4m3_max:g} " if left else f" {one.recipe.e4m3_max:g}"
        ax.text(ceiling, y, text, transform=place, ha="right" if left else "left", va="bottom", fontsize=8, color=color)
    ticks = list(range(-9, 9))
    ax.set_xticks([sum(ZERO_BAR) / 2, *ticks], ["0", *(f"{2.0**t:g}" if t >= -2 else f"$2^{{{t}}}$" for t in ticks)])


def _saturating(choosing: list[Stats]) -> str:
    """What the line at 298.67 means, and how often a 4 that saturates is chosen; of two, where more does."""
    stats = max(choosing, key=lambda s: s.four_saturated)
    under = f" under {shorten(stats.recipe.name)}" if len(choosing) > 1 else ""
    text = f"scale for 6 above {FOUR_LIMIT:.2f}: its 4 saturates"
    if not stats.n_four_saturated_chosen:
        return text
    chosen = rounded(stats.n_four_saturated_chosen / stats.n_four_saturated)
    return f"{text}, chosen all the same in {chosen} of {rounded(stats.four_saturated)} of blocks{under}"


def block_close_up(seen: dict, ax: Axes | None = None) -> Axes:
    """One block on the E2M1 grids of its candidate scales, from `nvfp4viz.analysis.inspect_block`.

    How to read it: dots are the 16 values, ticks below them what the grid can hold under a scale; each dot is
    tied to the tick it is stored as: a slanted tie is an error. The candidate in colour was kept.
    """
    tried = expect(seen, dict, "what nvfp4viz.analysis.inspect_block returns")["candidates"]
    ax = ax or new_axes(7.4, 0.9 + 1.25 * len(tried))
    color = style(Recipe.parse(seen["recipe"]))["color"]
    for row, c in zip(range(len(tried))[::-1], tried, strict=True):
        kept = c["to"] == seen["choice"]
        ink = color if kept else FAINT
        grid = sorted({sign * m * c["step"] for m in E2M1_MAGNITUDES for sign in (-1, 1)})
        ax.hlines(row, grid[0], grid[-1], color=ink, linewidth=0.8)
        ax.vlines(grid, row - 0.07, row + 0.07, color=ink, linewidth=1.2)
        for x, x_hat in zip(seen["values"], c["decoded"], strict=True):
            ax.plot([x, x_hat], [row + 0.42, row + 0.07], color=ink, linewidth=0.9, alpha=0.8)
        ax.plot(seen["values"], [row + 0.42] * len(seen["values"]), "o", color=ink, markersize=4.5, linestyle="none")
        note = f"amax to {c['to']}: scale {c['block_scale']:g}, {seen['err_mode']} score {c['score']:.4g}"
        note += ", saturated" * c["saturated"] + ", kept" * (kept and len(tried) > 1)
        ax.text(0, row + 0.58, note, color=ink, fontsize=8.5, ha="center", va="bottom")
    ax.set_ylim(-0.25, len(tried) - 0.12)
    ax.set_yticks([])
    dress(ax, f"One block under {seen['recipe']}", "value (unit of x)")
    ax.spines["left"].set_visible(False)
    return ax
