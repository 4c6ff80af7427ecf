"""Figures of rates and errors: limits met, the error of tensors, tokens and blocks, and two sweeps compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ..analysis import Pair, Sweep, known
from ..catalog import RATES, looks
from ..shown import INK, expect, label_tensors
from ..stats import Stats, nmse_bins
from .style import BY_RECIPE, dress, legend, legend_above, mark, named, new_axes


def clipping_rates(stats: Mapping[str, Stats] | Stats, ax: Axes | None = None) -> Axes:
    """How often blocks and elements meet a limit, by recipe.

    How to read it: a row is one kind of event, a mark one recipe, its place the share of blocks (or elements) that it
    happens to, on a logarithmic axis with a place for 0. `4 saturates` is the price of a high ceiling; `clipped
    at 6` comes from rounding the block scale down. Of a candidate 4 that saturates the last row says how often it was
    chosen all the same. Hollow marks are recipes with one scale a tensor, half-filled ones of fast arithmetic.
    """
    stats = {stats.recipe.name: stats} if isinstance(stats, Stats) else expect(stats, Mapping, BY_RECIPE, Stats)
    ax = ax or new_axes(7.4, 3.9)
    rows = list(RATES)[::-1]
    rates = {name: np.array([known(one, r) for r in rows]) for name, one in stats.items()}
    positive = [v for r in rates.values() for v in r if v > 0]
    least = np.floor(np.log10(min(positive, default=0.1)))
    shown = looks({name: one.recipe for name, one in stats.items()})
    for i, (name, one) in enumerate(stats.items()):
        x = np.maximum(np.log10(np.maximum(rates[name], 1e-30)), least - 0.5)  # NaN, which was not measured, stays
        y = np.arange(len(rows)) - (i - (len(stats) - 1) / 2) * 0.15
        ax.plot(x, y, **mark(shown[name]), markersize=5.5, label=named(name, one.recipe), linestyle="none")
    for row in range(0, len(rows), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F7F7F7", zorder=-2, linewidth=0)
    ticks = np.arange(least, 1)
    ax.set_xticks([least - 0.5, *ticks], ["0", *(f"{100 * 10.0**t:g} %" for t in ticks)])
    ax.set_xlim(least - 0.8, 0.15)
    ax.set_yticks(range(len(rows)), [f"{RATES[r].heading}\nof {RATES[r].of}" for r in rows])
    ax.set_ylim(-0.5, len(rows) - 0.5)
    dress(ax, f"Limits met · engine {next(iter(stats.values())).engine}" if stats else "", "share", grid="x")
    ax.tick_params(axis="y", labelsize=8, length=0)
    legend_above(ax)
    return ax


def error_by_tensor(sweep: Sweep, ax: Axes | None = None, *, baseline: str | None = None) -> Axes:
    """SQNR of each tensor under each recipe; with `baseline`, the gain over that recipe in dB.

    How to read it: a row is a tensor, a mark a recipe; farther right is better. Marks that keep their order in every
    row mean that one recipe suits the whole model.
    """
    tensors = expect(sweep, Sweep, "a Sweep, as nvfp4viz.sweep(activations) returns").tensors[::-1]
    if baseline is not None and baseline not in sweep.recipes:
        raise ValueError(f"baseline={baseline!r} is not in the sweep: its recipes are {', '.join(sweep.recipes)}")
    ax, shown = ax or new_axes(7.4, 1.3 + 0.24 * len(tensors)), looks(sweep.recipes)
    for name, recipe in sweep.recipes.items():
        if name == baseline:
            continue
        values = [_gain_db(sweep.stats[t][name], sweep.stats[t][baseline] if baseline else None) for t in tensors]
        look = {**mark(shown[name]), "markersize": 5.5, "linestyle": "none"}
        ax.plot(values, range(len(tensors)), **look, label=named(name, recipe))
    if baseline:
        ax.axvline(0, color=INK, linewidth=0.8)
    label_tensors(ax.yaxis, range(len(tensors)), tensors)
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


def nmse_distribution(stats: Mapping[str, Stats] | Stats, ax: Axes | None = None, *, of: str = "token") -> Axes:
    """How the error spreads over tokens (`of="token"`) or blocks (`of="block"`).

    How to read it: a line tells which share of tokens has at most that squared error, relative to its own signal;
    a line farther left is a better recipe, and a slow last rise means that few tokens carry the error. Where variants
    of a recipe share a line's dashes, lines carry the marks of their recipes.
    """
    stats = {stats.recipe.name: stats} if isinstance(stats, Stats) else expect(stats, Mapping, BY_RECIPE, Stats)
    if of not in ("token", "block"):
        raise ValueError(f'of={of!r} is neither "token" nor "block"')
    ax = ax or new_axes(7.2, 3.2)
    edges = 10 * np.log10(nmse_bins())
    shown, look_of = [], looks({name: one.recipe for name, one in stats.items()})
    crowded = len({(look["color"], look["dash"]) for look in look_of.values()}) < len(look_of)
    for name, one in stats.items():
        counts = getattr(one, f"{of}_histogram")
        share = np.cumsum(counts) / max(counts.sum(), 1)
        look = look_of[name]
        dash = tuple(map(float, look["dash"].split()))
        marks = {**mark(look), "markersize": 5, "markevery": 0.08} if crowded else {"color": look["color"]}
        line = (0, dash) if dash else "-"
        ax.plot(edges[1:], share, **marks, linewidth=1.6, label=named(name, one.recipe), linestyle=line)
        shown += [edges[np.searchsorted(share, q)] for q in (0.01, 0.999)]
    if shown:
        ax.set_xlim(min(shown) - 0.5, max(shown) + 1)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    engine = f" · engine {next(iter(stats.values())).engine}" if stats else ""
    dress(ax, f"Error of each {of}{engine}", "NMSE (dB)", f"share of {of}s at most there", grid="both")
    if crowded:
        legend_above(ax)
    else:
        legend(ax, loc="lower right")
    return ax


ROWS = 30  # tensors that there is room for


def gains(found: list[Pair], ax: Axes | None = None) -> Axes:
    """SQNR of B over A in dB, by tensor and recipe.

    How to read it: marks on the line at zero are the same in both; left of it B is worse.
    """
    largest: dict[str, float] = {}
    for p in expect(found, list, "a list of pairs, as nvfp4viz.analysis.pairs(a, b) of two sweeps returns"):
        largest[p.tensor] = max(largest.get(p.tensor, 0.0), abs(np.nan_to_num(p.gain_db)))
    kept = sorted(largest, key=largest.get, reverse=True)[:ROWS]
    tensors = [t for t in largest if t in kept][::-1]
    ax = ax or new_axes(7.4, 1.4 + 0.26 * len(tensors))
    recipes = list(dict.fromkeys(p.recipe for p in found))
    look_of = looks({p.recipe: p.a.recipe for p in found})
    ax.axvline(0, color=INK, linewidth=0.8)
    for i, name in enumerate(recipes):
        pairs = [p for p in found if p.recipe == name and p.tensor in kept and np.isfinite(p.gain_db)]
        if not pairs:
            continue
        look, shift = look_of[name], (i - (len(recipes) - 1) / 2) * 0.12
        y = [tensors.index(p.tensor) - shift for p in pairs]
        label = named(name, pairs[0].a.recipe)
        ax.plot([p.gain_db for p in pairs], y, **mark(look), markersize=4.5, label=label, linestyle="none")
        sure = [(at, p.interval_db) for at, p in zip(y, pairs, strict=True) if p.interval_db]
        ax.hlines([at for at, _ in sure], *np.array([i for _, i in sure]).reshape(-1, 2).T, color=look["color"], lw=1)
    label_tensors(ax.yaxis, range(len(tensors)), tensors)
    ax.set_ylim(-0.7, len(tensors) - 0.3)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -1e-3), max(high, 1e-3))  # where all are the same, zero in the middle
    dress(ax, "B − A by tensor", "SQNR of B over A (dB)", grid="both")
    ax.tick_params(axis="y", labelsize=8)
    legend_above(ax)
    return ax
