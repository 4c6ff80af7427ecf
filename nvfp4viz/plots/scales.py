"""Figures of block scales: which E4M3 values they take, and one block on the grids of its candidates."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..catalog import style
from ..nvfp4 import E2M1_MAGNITUDES, E4M3_VALUES, FOUR_LIMIT, Recipe
from ..stats import Stats
from .style import FAINT, INK, STATS, dress, expect, legend, new_axes, tint

ZERO_BAR = (-11.0, -10.2)  # where byte 0 stands on the log2 axis


def block_scale_histogram(
    stats: Stats, other: Stats | None = None, ax: Axes | None = None, *, log: bool = False, full: bool = False
) -> Axes:
    """Which E4M3 values the block scales take.

    How to read it: each bar is one E4M3 value, its height the share of blocks; solid bars mapped their amax to 6, pale
    ones to 4. Blocks at the far right hold the token's largest values. Of a block whose scale for 6 is above 298.67
    the scale for 4 saturates at 448: that 4 competes all the same. In the shaded range scales are subnormal and lose
    precision; the bar at the left is scale 0.

    Args: stats: drawn upwards; other: drawn downwards, to compare; log: logarithmic shares;
          full: the whole range of E4M3, else from the smallest scale in use.
    """
    both = [expect(s, Stats, STATS) for s in (stats, other) if s is not None or s is stats]
    ax = ax or new_axes(7.4, 4.2 if other else 3.4)
    floor = 10.0 ** np.floor(-np.log10(max(2, *(s.blocks for s in both))))  # the foot of a log axis
    edges = _scale_edges()
    top = 0.0
    for one, sign in zip(both, (1, -1), strict=False):
        shares = one.scale_histogram / max(one.blocks, 1)
        six, all_ = shares[:, 0], shares.sum(1)
        if log:
            six, all_ = (np.log10(np.maximum(v, floor) / floor) for v in (six, all_))
        top = max(top, all_.max() * 1.08)
        look, four = style(one.recipe), one.recipe.four_over_six
        if four:
            _bars(ax, sign * all_, edges, color=tint(look["color"]), label=f"{one.recipe.name}: 4")
        _bars(ax, sign * six, edges, color=look["color"], label=one.recipe.name + ": 6" * four)
    ax.set_ylim(-top if other else 0, top or 1)
    _mark_scales(ax, both)
    used = np.flatnonzero(sum(s.scale_histogram.sum(1) for s in both))
    first = used[0] if len(used) and not full else 0
    ax.set_xlim(-11.4 if first == 0 else edges[first - 1] - 0.8, 9.3)
    if log:
        _log_shares(ax, floor, top, mirrored=other is not None)
    else:
        ax.yaxis.set_major_formatter(lambda v, _: f"{abs(100 * v):.3g} %")
    ax.axhline(0, color=INK, linewidth=0.8 if other else 0)
    legend(ax, loc="upper left")
    names = f"{stats.recipe.name} above, {other.recipe.name} below" if other else stats.recipe.name
    dress(ax, "", "block scale (E4M3 value)", "share of blocks")
    look = {"color": INK, "fontsize": 11, "fontweight": "bold"}
    ax.set_title(f"Block scales · {names} · engine {stats.engine}", loc="left", pad=18, **look)
    return ax


def _bars(ax: Axes, heights: np.ndarray, edges: np.ndarray, **look) -> None:
    """A bar for each byte as one path, which a page draws in no time; between byte 0 and the others is a gap."""
    ax.stairs(np.insert(heights, 1, 0.0), np.concatenate([ZERO_BAR, edges]), fill=True, **look)


def _log_shares(ax: Axes, floor: float, top: float, *, mirrored: bool) -> None:
    """Ticks of an axis that is log10(share / floor), upwards and, where mirrored, downwards too."""
    ticks = np.arange(0, int(-np.log10(floor)) + 1)
    ticks = ticks[ticks <= top]
    names = [f"{100 * floor * 10.0**t:g} %" for t in ticks]
    ax.set_yticks([*-ticks[:0:-1], *ticks] if mirrored else ticks, [*names[:0:-1], *names] if mirrored else names)


def _scale_edges() -> np.ndarray:
    """Edges of the bars of bytes 1..126 on a log2 axis: halfway between neighbours."""
    log2 = np.log2(E4M3_VALUES[1:])
    middle = (log2[1:] + log2[:-1]) / 2
    return np.concatenate([[log2[0] - 0.5], middle, [log2[-1] + 0.08]])


def _mark_scales(ax: Axes, both: list[Stats]) -> None:
    """The subnormal range, 298.67, each recipe's ceiling on its side, and ticks at powers of two."""
    place = ax.get_xaxis_transform()
    ax.axvspan(-9.6, -6, color="#F2F2F2", zorder=-2, linewidth=0)
    ax.text(-7.8, 0.98, "subnormal", transform=place, ha="center", va="top", fontsize=8, color=FAINT, clip_on=True)
    limit = np.log2(FOUR_LIMIT)
    ax.axvline(limit, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=-1)
    ax.text(limit, 1.0, "298.67 ", transform=place, ha="right", va="bottom", fontsize=8, color=FAINT)
    for one, (low, high, y, va) in zip(
        both, [(0.5 if len(both) > 1 else 0, 1, 1.0, "bottom"), (0, 0.5, 0.01, "bottom")], strict=False
    ):
        ceiling, color = np.log2(one.recipe.e4m3_max), style(one.recipe)["color"]
        ax.axvline(ceiling, low, high, color=color, linewidth=1.2, zorder=-1)
        left = one.recipe.e4m3_max < FOUR_LIMIT
        text = f"ceiling {one.recipe.e4m3_max:g} " if left else f" {one.recipe.e4m3_max:g}"
        ax.text(ceiling, y, text, transform=place, ha="right" if left else "left", va=va, fontsize=8, color=color)
    ticks = list(range(-9, 9))
    ax.set_xticks([sum(ZERO_BAR) / 2, *ticks], ["0", *(f"{2.0**t:g}" if t >= -3 else f"$2^{{{t}}}$" for t in ticks)])


def block_close_up(seen: dict, ax: Axes | None = None) -> Axes:
    """One block on the E2M1 grids of its candidate scales, from `microscope.inspect_block`.

    How to read it: dots are the 16 values, ticks below them what the grid can hold under a scale; each dot is
    tied to the tick it is stored as: a slanted tie is an error. The candidate in colour was kept.
    """
    tried = seen["candidates"]
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
