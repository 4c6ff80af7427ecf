"""Figures: statistics in, matplotlib Axes out. Each draws on the Axes it is given, or on a new figure of its own."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ..analysis import Sweep
from ..catalog import style
from ..nvfp4 import E2M1_MAGNITUDES, Recipe
from ..stats import Stats, nmse_bins

INK, FAINT, RULE = "#222222", "#6B6B6B", "#D9D9D9"
E4M3_VALUES = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()

RATES = {  # name in the table -> label, and what it is a share of
    "four_rate": ("chose 4", "blocks"),
    "four_saturated": ("4 could not be had", "blocks"),
    "scale_saturated": ("scale above 448", "blocks"),
    "scale_subnormal": ("scale subnormal", "blocks"),
    "scale_zero": ("scale rounds to 0", "blocks"),
    "element_clipped": ("clipped at 6", "elements"),
    "element_flushed": ("decoded to 0", "non-zero elements"),
}


def new_axes(width: float = 7.2, height: float = 3.6) -> Axes:
    """Axes on a new white figure of that size in inches, outside pyplot's state."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure.subplots()


def dress(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "", grid: str = "") -> Axes:
    """The look that all figures share: few lines, a title at the left, a grid only along the axis that is read."""
    ax.set_facecolor("white")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
        ax.spines[side].set_linewidth(0.8)
    ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=9, width=0.8)
    ax.set_xlabel(xlabel, color=INK, fontsize=9.5)
    ax.set_ylabel(ylabel, color=INK, fontsize=9.5)
    if title:
        ax.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    if grid:
        ax.grid(axis=grid, color=RULE, linewidth=0.6)
        ax.set_axisbelow(True)
    return ax


def legend(ax: Axes, **where) -> None:
    ax.legend(frameon=False, fontsize=8.5, labelcolor=INK, **where)


def expect(value, kind: type, wanted: str):
    """The value itself; TypeError where it is of another kind, with what the figure wants."""
    if not isinstance(value, kind):
        raise TypeError(f"cannot draw a {type(value).__name__}: this figure takes {wanted}")
    return value


STATS = "Stats, as nvfp4viz.analyze(x, recipe) returns"
BY_RECIPE = "recipe -> Stats, such as sweep.stats[tensor]"


def signature(stats: Stats, *, tokens: bool = True) -> str:
    """Recipe, engine and size in a line, for titles."""
    return f"{stats.recipe.name} · engine {stats.engine}" + (f" · {stats.tokens:,} tokens" if tokens else "")


def tint(color: str, share: float = 0.55) -> tuple:
    """The colour mixed with that share of white."""
    return tuple(share + (1 - share) * c for c in to_rgb(color))


def _scale_edges() -> np.ndarray:
    """Edges of the bars of bytes 1..126 on a log2 axis: halfway between neighbours."""
    log2 = np.log2(E4M3_VALUES[1:])
    middle = (log2[1:] + log2[:-1]) / 2
    return np.concatenate([[log2[0] - 0.5], middle, [log2[-1] + 0.08]])


ZERO_BAR = (-11.0, -10.2)  # where byte 0 stands on the log2 axis


def block_scale_histogram(
    stats: Stats, other: Stats | None = None, ax: Axes | None = None, *, log: bool = False, full: bool = False
) -> Axes:
    """Which E4M3 values the block scales take.

    How to read it: each bar is one E4M3 value, its height the share of blocks; solid bars mapped their amax to 6, pale
    ones to 4. Blocks at the far right hold the token's largest values. A block whose scale for 6 is right of 298.67
    cannot choose 4, because that scale would pass 448. In the shaded range scales are subnormal and lose precision;
    the bar at the left is scale 0.

    Args: stats: drawn upwards; other: drawn downwards, to compare; log: logarithmic shares;
          full: the whole range of E4M3, else from the smallest scale in use.
    """
    both = [expect(s, Stats, STATS) for s in (stats, other) if s is not None or s is stats]
    ax = ax or new_axes(7.4, 4.2 if other else 3.4)
    floor = 10.0 ** np.floor(-np.log10(max(2, *(s.blocks for s in both))))  # the foot of a log axis
    edges = _scale_edges()
    lefts = np.concatenate([[ZERO_BAR[0]], edges[:-1]])
    widths = np.concatenate([[ZERO_BAR[1] - ZERO_BAR[0]], np.diff(edges)])
    top = 0.0
    for one, sign in zip(both, (1, -1), strict=False):
        shares = one.scale_histogram / max(one.blocks, 1)
        six, all_ = shares[:, 0], shares.sum(1)
        if log:
            six, all_ = (np.log10(np.maximum(v, floor) / floor) for v in (six, all_))
        top = max(top, all_.max() * 1.08)
        look, four = style(one.recipe), one.recipe.four_over_six
        if four:
            ax.bar(lefts, sign * all_, widths, align="edge", color=tint(look["color"]), label=f"{one.recipe.name}: 4")
        ax.bar(lefts, sign * six, widths, align="edge", color=look["color"], label=one.recipe.name + ": 6" * four)
    ax.set_ylim(-top if other else 0, top or 1)
    _mark_scales(ax, both)
    used = np.flatnonzero(sum(s.scale_histogram.sum(1) for s in both))
    first = used[0] if len(used) and not full else 0
    ax.set_xlim(-11.4 if first == 0 else edges[first - 1] - 0.8, 9.3)
    if log:
        ticks = np.arange(0, int(-np.log10(floor)) + 1)
        ticks = ticks[ticks <= top]
        names = [f"{100 * floor * 10.0**t:g} %" for t in ticks]
        ax.set_yticks([*-ticks[:0:-1], *ticks] if other else ticks, [*names[:0:-1], *names] if other else names)
    else:
        ax.yaxis.set_major_formatter(lambda v, _: f"{abs(100 * v):.3g} %")
    if other:
        ax.axhline(0, color=INK, linewidth=0.8)
    legend(ax, loc="upper left")
    names = f"{stats.recipe.name} above, {other.recipe.name} below" if other else stats.recipe.name
    title = f"Block scales · {names} · engine {stats.engine}"
    dress(ax, "", "block scale (E4M3 value)", "share of blocks")
    ax.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=18)
    return ax


def _mark_scales(ax: Axes, both: list[Stats]) -> None:
    """The subnormal range, 298.67, each recipe's ceiling on its side, and ticks at powers of two."""
    place = ax.get_xaxis_transform()
    ax.axvspan(-9.6, -6, color="#F2F2F2", zorder=-2, linewidth=0)
    ax.text(-7.8, 0.98, "subnormal", transform=place, ha="center", va="top", fontsize=8, color=FAINT, clip_on=True)
    limit = np.log2(448 / 1.5)
    ax.axvline(limit, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=-1)
    ax.text(limit, 1.0, "298.67 ", transform=place, ha="right", va="bottom", fontsize=8, color=FAINT)
    for one, (low, high, y, va) in zip(
        both, [(0.5 if len(both) > 1 else 0, 1, 1.0, "bottom"), (0, 0.5, 0.01, "bottom")], strict=False
    ):
        ceiling, color = np.log2(one.recipe.e4m3_max), style(one.recipe)["color"]
        ax.axvline(ceiling, low, high, color=color, linewidth=1.2, zorder=-1)
        left = one.recipe.e4m3_max < 448 / 1.5
        text = f"ceiling {one.recipe.e4m3_max:g} " if left else f" {one.recipe.e4m3_max:g}"
        ax.text(ceiling, y, text, transform=place, ha="right" if left else "left", va=va, fontsize=8, color=color)
    ticks = list(range(-9, 9))
    ax.set_xticks([sum(ZERO_BAR) / 2, *ticks], ["0", *(f"{2.0**t:g}" if t >= -3 else f"$2^{{{t}}}$" for t in ticks)])


def clipping_rates(stats: Mapping[str, Stats] | Stats, ax: Axes | None = None) -> Axes:
    """How often blocks and elements meet a limit, by recipe.

    How to read it: a row is one kind of event, a mark one recipe, its place the share of blocks (or elements) that it
    happens to, on a logarithmic axis with a place for 0. `4 could not be had` is the price of a high ceiling; `clipped
    at 6` comes from rounding the block scale down. Hollow marks are recipes with one scale a tensor.
    """
    stats = {stats.recipe.name: stats} if isinstance(stats, Stats) else expect(stats, Mapping, BY_RECIPE)
    ax = ax or new_axes(7.4, 3.9)
    rows = list(RATES)[::-1]
    rates = {name: np.array([getattr(one, r) for r in rows]) for name, one in stats.items()}
    positive = [v for r in rates.values() for v in r if v > 0]
    least = np.floor(np.log10(min(positive, default=0.1)))
    for i, (name, one) in enumerate(stats.items()):
        look = style(one.recipe)
        x = np.where(rates[name] > 0, np.log10(np.maximum(rates[name], 1e-30)), least - 0.5)
        y = np.arange(len(rows)) - (i - (len(stats) - 1) / 2) * 0.15
        fill = look["color"] if one.recipe.per_token else "white"
        ax.plot(x, y, look["marker"], color=look["color"], mfc=fill, markersize=5.5, label=shorten(name))
    for row in range(0, len(rows), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F7F7F7", zorder=-2, linewidth=0)
    ticks = np.arange(least, 1)
    ax.set_xticks([least - 0.5, *ticks], ["0", *(f"{100 * 10.0**t:g} %" for t in ticks)])
    ax.set_xlim(least - 0.8, 0.15)
    ax.set_yticks(range(len(rows)), [f"{RATES[r][0]}\nof {RATES[r][1]}" for r in rows])
    ax.set_ylim(-0.5, len(rows) - 0.5)
    dress(ax, f"Limits met · engine {next(iter(stats.values())).engine}" if stats else "", "share", grid="x")
    ax.tick_params(axis="y", labelsize=8, length=0)
    legend_above(ax)
    return ax


def legend_above(ax: Axes) -> None:
    """The legend in a line between title and axes."""
    ax.set_title(ax.get_title("left"), loc="left", color=INK, fontsize=11, fontweight="bold", pad=26)
    legend(
        ax,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=5,
        handletextpad=0.3,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def error_by_tensor(sweep: Sweep, ax: Axes | None = None, *, baseline: str | None = None) -> Axes:
    """SQNR of each tensor under each recipe; with `baseline`, the gain over that recipe in dB.

    How to read it: a row is a tensor, a mark a recipe; farther right is better. Marks that keep their order in every
    row mean that one recipe suits the whole model.
    """
    tensors = expect(sweep, Sweep, "a Sweep, as nvfp4viz.sweep(activations) returns").tensors[::-1]
    if baseline is not None and baseline not in sweep.recipes:
        raise ValueError(f"baseline={baseline!r} is not in the sweep: its recipes are {', '.join(sweep.recipes)}")
    ax = ax or new_axes(7.4, 1.3 + 0.24 * len(tensors))
    for name, recipe in sweep.recipes.items():
        if name == baseline:
            continue
        look = style(recipe)
        values = [_gain_db(sweep.stats[t][name], sweep.stats[t][baseline] if baseline else None) for t in tensors]
        ax.plot(
            values,
            range(len(tensors)),
            look["marker"],
            color=look["color"],
            mfc=look["color"] if recipe.per_token else "white",
            markersize=5.5,
            label=shorten(name),
            linestyle="none",
        )
    if baseline:
        ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(tensors)), [shorten(t) for t in tensors])
    ax.set_ylim(-0.7, len(tensors) - 0.3)
    label = f"gain over {baseline} (dB)" if baseline else "SQNR (dB)"
    dress(ax, f"{label[0].upper()}{label[1:-5]} by tensor · engine {', '.join(sweep.engines)}", label, grid="both")
    ax.tick_params(axis="y", labelsize=8)
    legend_above(ax)
    return ax


def _gain_db(stats: Stats, baseline: Stats | None) -> float:
    if baseline is None:
        return stats.sqnr_db
    return stats.sqnr_db - baseline.sqnr_db if np.isfinite(stats.sqnr_db) else np.nan


def shorten(name: str, limit: int = 40) -> str:
    """A name as matplotlib draws it in full: no mathematics, no control characters, bounded, in legends too."""
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    name = name if len(name) <= limit else name[: limit // 2 - 1] + "…" + name[-limit // 2 :]
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def nmse_distribution(stats: Mapping[str, Stats] | Stats, ax: Axes | None = None, *, of: str = "token") -> Axes:
    """How the error spreads over tokens (`of="token"`) or blocks (`of="block"`).

    How to read it: a line tells which share of tokens has at most that squared error, relative to its own signal;
    a line farther left is a better recipe, and a slow last rise means that few tokens carry the error.
    """
    stats = {stats.recipe.name: stats} if isinstance(stats, Stats) else expect(stats, Mapping, BY_RECIPE)
    if of not in ("token", "block"):
        raise ValueError(f'of={of!r} is neither "token" nor "block"')
    ax = ax or new_axes(7.2, 3.2)
    edges = 10 * np.log10(nmse_bins())
    shown = []
    for name, one in stats.items():
        counts = getattr(one, f"{of}_histogram")
        share = np.cumsum(counts) / max(counts.sum(), 1)
        look = style(one.recipe)
        dash = tuple(map(float, look["dash"].split()))
        ax.plot(
            edges[1:],
            share,
            color=look["color"],
            linewidth=1.6,
            label=shorten(name),
            linestyle=(0, dash) if dash else "-",
        )
        shown += [edges[np.searchsorted(share, q)] for q in (0.01, 0.999)]
    if shown:
        ax.set_xlim(min(shown) - 0.5, max(shown) + 1)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    engine = f" · engine {next(iter(stats.values())).engine}" if stats else ""
    dress(ax, f"Error of each {of}{engine}", "NMSE (dB)", f"share of {of}s at most there", grid="both")
    legend(ax, loc="lower right")
    return ax


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


class Picture:
    """A figure as PNG for notebooks, on a white card, with a text that stands in for it."""

    def __init__(self, ax: Axes, alt: str = ""):
        figure = expect(ax, Axes, "Axes, as the functions of plots and plots_why return them").figure
        self.alt = alt or " · ".join(t for t in (a.get_title("left") for a in figure.axes) if t) or "figure"
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        self.png = buffer.getvalue()
        self.size = tuple(round(72 * v) for v in figure.get_size_inches())

    def _repr_mimebundle_(self, include=None, exclude=None):
        size = {"width": round(self.size[0] * 4 / 3), "height": round(self.size[1] * 4 / 3), "alt": self.alt}
        return {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}, {"image/png": size}

    def __repr__(self) -> str:
        return self.alt
