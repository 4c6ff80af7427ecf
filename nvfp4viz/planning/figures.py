"""Figures of a plan and a drift, as matplotlib Axes: the price of keeping layers, and the error along the depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..plots import FAINT, INK, RULE, dress, legend, new_axes, shorten

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
            f"knee: {len(p.kept)} kept, {p.bits:.2f} bits", (p.bits, p.kl), (18, 22), textcoords="offset points",
            color=INK, fontsize=9, arrowprops={"arrowstyle": "-", "color": FAINT},
        )  # fmt: skip
    dress(ax, title, "bits a weight", "KL, nats a token", grid="y")
    ax.set_ylim(bottom=0)
    legend(ax, loc="upper right")
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
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label("SQNR, dB", color=INK, fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=8.5)
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


def _layer_ticks(axis, layers: Sequence[str]) -> None:
    """Names, of many layers only some."""
    step = -(-len(layers) // LABELS)
    names = [shorten(n.removeprefix("model."), 32) for n in layers[::step]]
    axis.set_ticks(range(0, len(layers), step), names, fontsize=7.5)
