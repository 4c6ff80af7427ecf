"""What every number and recipe is called, and how it looks: one home for tables, figures, pages and their script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from .nvfp4 import FOUR_LIMIT, Recipe
from .stats import Stats


@dataclass(frozen=True)
class Number:
    """A number of `Stats`, by its property's name."""

    name: str
    heading: str  # short, over a column, in figures and in the explorer
    kind: str  # how a page writes it: "db", "short", "unit", "count", "text" or "share"


@dataclass(frozen=True)
class Rate(Number):
    """A share of blocks or elements, as `Stats` defines and counts it."""

    definition: str  # in one line
    of: str  # what it is a share of, in words
    count: str  # the field of `Stats` that counts it
    whole: str  # the field of `Stats` that counts what it is a share of


def _by_name(*numbers):
    return {n.name: n for n in numbers}


def _rate(name: str, heading: str, of: str = "blocks") -> Rate:
    share = getattr(Stats, name)
    return Rate(name, heading, "share", share.definition, of, share.count, share.whole)


SIZES = _by_name(Number("tokens", "tokens", "count"), Number("features", "features", "count"))
ERRORS = _by_name(
    Number("sqnr_db", "SQNR (dB)", "db"), Number("nmse", "NMSE", "short"), Number("mse", "MSE", "short"),
    Number("mae", "MAE", "short"), Number("max_error", "max error", "short"), Number("cosine", "cosine", "unit"),
)  # fmt: skip
RATES = _by_name(
    _rate("four_rate", "chose 4"),
    _rate("four_saturated", "4 saturates"),
    _rate("scale_saturated", "scale saturated"),
    _rate("element_clipped", "clipped at 6", "elements"),
    _rate("scale_subnormal", "scale subnormal"),
    _rate("scale_zero", "scale 0"),
    _rate("element_flushed", "decoded to 0", "non-zero elements"),
    _rate("four_saturated_chosen", "4 saturates, chosen"),
)
COLUMNS = {**ERRORS, **RATES}  # of tables, in order
SUMMARY = ("sqnr_db", "four_rate", "four_saturated", "scale_subnormal", "element_clipped", "element_flushed")

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
    return STYLES[f"4/6-{recipe.err_mode.lower()}-{448 if recipe.e4m3_max > FOUR_LIMIT else 256}"]


# What fills the marker of a variant, which keeps its recipe's colour: per token, per tensor
FILLS = {(False, False): ("full", "none"), (True, False): ("left", "right"), (False, True): ("bottom", "top")}
SPARE_MARKERS, SPARE_HATCHES = "PX*phd<>8H", ("++", "oo", "--", "||", "**", "OO")


def looks(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, str]]:
    """Looks of the recipes of one figure: `style` with "fill" of the marker and "hatch" of a bar, by name.

    No two have the same marker and fill, nor the same colour and hatch, whatever they are: what differs neither in
    colour, granularity nor arithmetic (other ceilings, other scores) gets another marker, and another hatch.
    """
    found: dict[str, dict[str, str]] = {}
    for name, recipe in recipes.items():
        look = style(recipe)
        fills = FILLS.get((recipe.fast_math, recipe.err_use_fast_math), FILLS[False, False])
        fill, both = fills[not recipe.per_token], recipe.fast_math and recipe.err_use_fast_math
        first = (SPARE_MARKERS[0] if both else look["marker"], fill)
        flags = {"///": not recipe.per_token, "..": recipe.fast_math, "\\\\\\": recipe.err_use_fast_math}
        hatch = (look["color"], "".join(h for h, there in flags.items() if there))
        others = list(found.values())
        marker, fill = _free(first, product(SPARE_MARKERS, fills), others, ("marker", "fill"))
        _, hatch = _free(hatch, ((look["color"], h + hatch[1]) for h in SPARE_HATCHES), others, ("color", "hatch"))
        found[name] = look | {"marker": marker, "fill": fill, "hatch": hatch}
    return found


def _free(first: tuple, spare: Iterable[tuple], others: list[dict], parts: tuple[str, ...]) -> tuple:
    """The first of `first` and `spare` that no other look has; `first` where all are taken."""
    taken = {tuple(o[p] for p in parts) for o in others}
    return next((v for v in (first, *spare) if v not in taken), first)
