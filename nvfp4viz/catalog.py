"""What every number and recipe is called, and how it looks: one home for tables, figures and pages."""

from __future__ import annotations

from .nvfp4 import Recipe

# Okabe-Ito where a contrast of 3 holds on white and on #111; marker and dash tell recipes apart without colour
STYLES: dict[str, dict[str, str]] = {
    "standard": {"color": "#7A7A7A", "marker": "o", "dash": ""},
    "4/6-mae-448": {"color": "#0072B2", "marker": "s", "dash": "6 3"},
    "4/6-mse-448": {"color": "#009E73", "marker": "D", "dash": "2 2"},
    "4/6-mae-256": {"color": "#D55E00", "marker": "^", "dash": "8 3 2 3"},
    "4/6-mse-256": {"color": "#CC79A7", "marker": "v", "dash": "10 4"},
}


def style(recipe: Recipe) -> dict[str, str]:
    """Colour, marker and dash of a recipe: that of the named recipe with its ceiling side and error mode."""
    if not recipe.four_over_six:
        return STYLES["standard"]
    return STYLES[f"4/6-{recipe.err_mode.lower()}-{448 if recipe.e4m3_max > 298 else 256}"]
