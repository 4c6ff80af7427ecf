"""Numbers by kind of matrix and layer, as a map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from ..shown import FAINT, INK
from .style import dress, new_axes, shorten


def layer_map(
    values: Mapping[str, Mapping[int, float]], label: str, title: str = "", *, log: bool = False, ax: Axes | None = None
) -> Axes:
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
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(label, color=INK, fontsize=9.5)
    if log:
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter("{x:g}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=8.5)
    return ax
