"""Figures by layer, as matplotlib Axes: any number of each kind, the price of keeping layers, error along the depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LogNorm

from ..plots import FAINT, INK, RULE, dress, legend, new_axes
from ..shown import shorten

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
LABELS = 24  # layers that have room for their names


def frontier(points: Sequence, knee: int | None = None, title: str = "", *, ax=None):
    """KL against bits a weight, a mark for each set of kept layers, with 95 % intervals where there are any.

    Args: points: such as `plan(...).frontier`, of bits, kl, kl_low, kl_high, other_kl and kept; knee: one to name.
    """
    if not points:
        raise ValueError("there is no point to draw: give a plan's frontier")
    ax = new_axes() if ax is None else ax
    bits, kl = (np.array([getattr(p, name) for p in points], float) for name in ("bits", "kl"))
    low, high = (np.array([getattr(p, name) for p in points], float) for name in ("kl_low", "kl_high"))
    ax.plot(bits, kl, "o-", color=BLUE, markersize=4, linewidth=1.4, label="KL on the text it was chosen on")
    if np.isfinite(low).any():
        ax.fill_between(bits, np.maximum(low, 0), high, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval")
    other = np.array([p.other_kl for p in points], float)
    if np.isfinite(other).any():
        ax.plot(bits, other, "s--", color=ORANGE, markersize=4, linewidth=1.2, label="on other text")
    if knee is not None:
        p = points[knee]
        ax.annotate(
            f"knee: {len(p.kept)} kept, {p.bits:.2f} bits", (p.bits, p.kl), (24, 34), textcoords="offset points",
            color=INK, fontsize=9, arrowprops={"arrowstyle": "-", "color": FAINT},
        )  # fmt: skip
    dress(ax, title, "bits a weight", "KL, nats a token", grid="y")
    ax.set_ylim(bottom=0)
    legend(ax, loc="upper right")
    return ax


def layer_map(values: Mapping[str, Mapping[int, float]], label: str, title: str = "", *, log: bool = False, ax=None):
    """A cell for each kind of matrix and layer; a kind that a layer lacks stays white.

    Args:
        values: kind -> layer -> number, such as `checkpoint.by_layer(...)`; -1 is what stands in no layer.
        label:  of the colours, with the unit.
        log:    colours by order of magnitude; zeros stay white then.
    """
    kinds, layers = list(values), sorted({layer for row in values.values() for layer in row})
    if not layers:
        raise ValueError("there is nothing to map: give kind -> layer -> number")
    ax = new_axes(7.2, 1.3 + 0.28 * len(kinds)) if ax is None else ax
    grid = np.array([[values[kind].get(layer, np.nan) for layer in layers] for kind in kinds], float)
    grid[~np.isfinite(grid) | (log & (grid <= 0))] = np.nan
    seen = grid[np.isfinite(grid)]
    norm = LogNorm(seen.min(), max(seen.max(), seen.min() * 1.001)) if log and seen.size else None
    image = ax.imshow(grid, aspect="auto", cmap="cividis", norm=norm, interpolation="nearest")
    dress(ax, title, "layer")
    ax.set_yticks(range(len(kinds)), [shorten(kind, 32) for kind in kinds])
    step = max(1, len(layers) // 16)
    ax.set_xticks(range(0, len(layers), step), ["none" if n < 0 else str(n) for n in layers[::step]])
    bar = _colour_bar(ax, image, label)
    if log:
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter("{x:g}")
    return ax


def drift_map(db: np.ndarray, layers: Sequence[str], title: str = "", *, ax=None):
    """SQNR by layer and token, the first layer on top; dark is where the error is large.

    Args: db: float [L, T], such as `drift(...).sqnr()`; what is not finite stays white. layers: their names.
    """
    db = np.array(db, float)
    if db.ndim != 2 or len(db) != len(layers) or not db.size:
        raise ValueError(f"db {db.shape} is not [layers, tokens] of {len(layers)} layers")
    ax = new_axes(7.2, min(7.0, 1.6 + 0.16 * max(8, len(layers)))) if ax is None else ax
    db[~np.isfinite(db)] = np.nan
    seen = db[np.isfinite(db)]
    low, high = np.percentile(seen, [1, 99]) if seen.size else (0, 1)
    image = ax.imshow(db, aspect="auto", cmap="cividis", interpolation="nearest", vmin=low, vmax=high)
    dress(ax, title, "token", "")
    _layer_ticks(ax.yaxis, layers)
    _colour_bar(ax, image, "SQNR, dB")
    return ax


def drift_by_layer(
    cumulative: Sequence[float], layers: Sequence[str], *, local: Sequence[float] = (), floor: Sequence[float] = (),
    leaves: str | None = None, title: str = "", ax=None,
):  # fmt: skip
    """SQNR along the depth: what each layer adds, what has gathered, and the floor of bf16.

    Args: each float [L] in dB, or empty where it was not measured; leaves: the first layer that is out of the floor.
    """
    ax = new_axes(7.2, 3.6) if ax is None else ax
    x = np.arange(len(layers))
    for values, color, style, label in (
        (floor, FAINT, "--", "floor: bf16 against fp32"), (local, GREEN, ".", "this layer alone"),
        (cumulative, BLUE, "-", "all before it, too"),
    ):  # fmt: skip
        if len(values):
            shown = np.where(np.isfinite(values), values, np.nan)
            ax.plot(x, shown, style, color=color, linewidth=1.4, markersize=4, label=label)
    if leaves in layers:
        at = list(layers).index(leaves)
        ax.axvline(at, color=RULE, linewidth=1)
        ax.annotate(f"leaves the floor: {shorten(leaves)}", (at, 0), (4, 6), xycoords=("data", "axes fraction"),
                    textcoords="offset points", color=INK, fontsize=8.5)  # fmt: skip
    dress(ax, title, "", "SQNR, dB", grid="y")
    _layer_ticks(ax.xaxis, layers)
    ax.tick_params("x", rotation=90)
    legend(ax, loc="best")
    return ax


def _colour_bar(ax, image, label: str):
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(label, color=INK, fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=8.5)
    return bar


def _layer_ticks(axis, layers: Sequence[str]) -> None:
    """Names, of many layers only some."""
    step = -(-len(layers) // LABELS)
    names = [shorten(n.removeprefix("model."), 32) for n in layers[::step]]
    axis.set_ticks(range(0, len(layers), step), names, fontsize=7.5)
