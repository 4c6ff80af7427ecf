"""The figure of a comparison of two sweeps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from ..analysis import Pair
from ..catalog import style
from .style import INK, dress, legend_above, new_axes, shorten

ROWS = 30  # tensors that there is room for
GAINS_CAPTION = (
    "Each row is a tensor, each mark a recipe; left of zero B is worse. Lines are 95 % intervals over tokens, where "
    f"both saw the same activations. Of more than {ROWS} tensors those with the largest differences are drawn."
)


def gains(found: list[Pair], ax: Axes | None = None) -> Axes:
    """SQNR of B over A in dB, by tensor and recipe.

    How to read it: marks on the line at zero are the same in both; left of it B is worse.
    """
    largest: dict[str, float] = {}
    for p in found:
        largest[p.tensor] = max(largest.get(p.tensor, 0.0), abs(np.nan_to_num(p.gain_db)))
    kept = sorted(largest, key=largest.get, reverse=True)[:ROWS]
    tensors = [t for t in largest if t in kept][::-1]
    ax = ax or new_axes(7.4, 1.4 + 0.26 * len(tensors))
    recipes = list(dict.fromkeys(p.recipe for p in found))
    ax.axvline(0, color=INK, linewidth=0.8)
    for i, name in enumerate(recipes):
        pairs = [p for p in found if p.recipe == name and p.tensor in kept and np.isfinite(p.gain_db)]
        if not pairs:
            continue
        look, shift = style(pairs[0].a.recipe), (i - (len(recipes) - 1) / 2) * 0.12
        y = [tensors.index(p.tensor) - shift for p in pairs]
        ax.plot([p.gain_db for p in pairs], y, look["marker"], color=look["color"], markersize=4.5, label=shorten(name))
        sure = [(at, p.interval_db) for at, p in zip(y, pairs, strict=True) if p.interval_db]
        ax.hlines([at for at, _ in sure], *np.array([i for _, i in sure]).reshape(-1, 2).T, color=look["color"], lw=1)
    ax.set_yticks(range(len(tensors)), [shorten(t) for t in tensors])
    ax.set_ylim(-0.7, len(tensors) - 0.3)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -1e-3), max(high, 1e-3))  # where all are the same, zero in the middle
    dress(ax, "B − A by tensor", "SQNR of B over A (dB)", grid="both")
    ax.tick_params(axis="y", labelsize=8)
    legend_above(ax)
    return ax
