"""The look that all figures share: axes, titles, legends, names, and axis ticks."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ..analysis import marked
from ..nvfp4 import Recipe
from ..shown import FAINT, INK, RULE, shorten

STATS = "Stats, as nvfp4viz.analyze(x, recipe) returns"
TITLE = {"loc": "left", "color": INK, "fontsize": 11, "fontweight": "bold"}
ABOVE = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.2, "columnspacing": 1.2}
GUIDE = {"color": FAINT, "linewidth": 0.8, "linestyle": (0, (3, 2)), "zorder": -1}  # a line that marks a place
BY_RECIPE = "recipe -> Stats, such as sweep.stats[tensor]"


def new_axes(width: float = 7.2, height: float = 3.6) -> Axes:
    """Axes on a new white figure of that size in inches, outside pyplot's state."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure.subplots()


def dress(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "", grid: str = "") -> Axes:
    """The look that all figures share: few lines, a title at the left, a grid only along the axis that is read."""
    ax.set_facecolor("white")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=FAINT, linewidth=0.8)
    ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=9, width=0.8)
    ax.set_xlabel(xlabel, color=INK, fontsize=9.5)
    ax.set_ylabel(ylabel, color=INK, fontsize=9.5)
    if title:
        ax.set_title(title, **TITLE)
    if grid:
        ax.grid(axis=grid, color=RULE, linewidth=0.6)
        ax.set_axisbelow(True)
    return ax


def legend(ax: Axes, **where) -> None:
    ax.legend(frameon=False, fontsize=8.5, labelcolor=INK, **where)


def legend_above(ax: Axes) -> None:
    """The legend between title and axes, in as many columns as there is room for."""
    handles, labels = ax.get_legend_handles_labels()
    ticks = [line for t in ax.get_yticklabels() for line in t.get_text().splitlines()]
    longest, ticks = (max(map(len, texts), default=0) for texts in (labels, ticks))
    room = ax.figure.get_figwidth() - 0.6 - 0.06 * ticks  # inches; of a letter 0.06, of a mark 0.35
    columns = max(1, min(5, int(room / (0.35 + 0.06 * longest))))
    handles = [h for column in range(columns) for h in handles[column::columns]]  # it is filled column by column
    rows = -(-len(labels) // columns)
    ax.set_title(ax.get_title("left"), pad=13 + 13 * max(rows, 1), **TITLE)
    legend(ax, handles=handles, ncols=columns, handletextpad=0.3, **ABOVE)


def mark(look: dict[str, str]) -> dict:
    """How `Axes.plot` draws a recipe's marker, of one of `catalog.looks`."""
    hollow = look["fill"] == "none"
    face = {"markerfacecolor": "white" if hollow else look["color"], "markerfacecoloralt": "white"}
    return {"marker": look["marker"], "color": look["color"], "fillstyle": "full" if hollow else look["fill"], **face}


def named(name: str, recipe: Recipe) -> str:
    """A recipe's name in a figure, marked where no engine runs it."""
    return marked(shorten(name), recipe)


def tint(color: str, share: float = 0.55) -> tuple:
    """The colour mixed with that share of white."""
    return tuple(share + (1 - share) * c for c in to_rgb(color))


def log2_axis(ax: Axes, x: np.ndarray, *, fractions: bool = False) -> None:
    """A logarithmic x axis with ticks at powers of two."""
    ax.set_xscale("log", base=2)
    low, high = int(np.ceil(np.log2(x.min()) - 1e-9)), int(np.floor(np.log2(x.max()) + 1e-9))
    powers = list(range(high, low - 1, -1 if high - low <= 12 else -2))
    names = [f"1/{2**-k}" if k < 0 and (fractions or k >= -10) else f"{2.0**k:g}" for k in powers]
    ax.set_xticks([2.0**k for k in powers], names)
    ax.set_xlim(x.min() / 1.06, x.max() * 1.06)
    ax.minorticks_off()


def plain_log_ticks(ax: Axes) -> None:
    """Few round numbers on a logarithmic y axis, also where it spans less than a decade."""
    low, high = ax.get_ylim()
    if high / low < 2.5:
        ax.set_yscale("linear")
        return
    steps = [m * 10.0**e for e in range(-8, 9) for m in ((1, 2, 5) if high / low < 300 else (1,))]
    shown = [s for s in steps if low <= s <= high]
    ax.set_yticks(shown, [f"{s:g}" for s in shown])
    ax.minorticks_off()
