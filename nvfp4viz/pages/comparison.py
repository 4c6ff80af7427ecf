"""The page of a comparison: which is better, by how much, and what got worse."""

from __future__ import annotations

import math
import os
from pathlib import Path

from markupsafe import Markup

from ..analysis import Pair, Sweep, db, finite, middle, obstacles, pairs, sentence
from ..catalog import COLUMNS as NUMBERS
from ..catalog import SUMMARY
from ..nvfp4 import study_only
from ..plots import ROWS, gains
from ..shown import fixed
from . import packing
from .document import document, fill, picture, write, written

COLUMNS = {  # of the table and its CSV: heading, and how report.js shows it
    "tensor": ("tensor", "text"), "recipe": ("recipe", "text"), "gain_db": ("B − A (dB)", "gain"),
    "low_db": ("at least", "gain"), "high_db": ("at most", "gain"), "same": ("same bits", "text"),
    **{f"{side}_{name}": (f"{side.upper()} {NUMBERS[name].heading}", NUMBERS[name].kind)
       for name in SUMMARY for side in "ab"},
}  # fmt: skip
CAPTION = (
    "Each row is a tensor, each mark a recipe; left of zero B is worse. Lines are 95 % intervals over tokens, where "
    f"both saw the same activations. Of more than {ROWS} tensors those with the largest differences are drawn."
)
LISTED = 8  # pairs under what got worse, and under what got better


def compare(
    a: Sweep, b: Sweep, path: str | os.PathLike, names: tuple[str, str] = ("A", "B"), *, author: str | None = None
) -> Path:
    """Write the differences of two sweeps as one self-contained HTML file and return its path.

    Args: names: what to call them, such as their files; author: who made it, as the page says beside the date.
    Raises ValueError where they share nothing, OSError where the file cannot be written.
    """
    return write(render(a, b, names, author), path)


def render(a: Sweep, b: Sweep, names: tuple[str, str] = ("A", "B"), author: str | None = None) -> str:
    """The page as a string."""
    found = pairs(a, b)
    sides = [_described(side, name, sweep) for side, name, sweep in zip("AB", names, (a, b), strict=True)]
    ends = [_end("What got worse", [p for p in found if p.change == "worse"]),
            _end("What got better", [p for p in found if p.change == "better"])]  # fmt: skip
    body = fill(
        "comparison.html",
        sentence=sentence(found).partition(": "), sides={key: [s[key] for s in sides] for key in sides[0]},
        obstacles=obstacles(a, b, found),
        ends=ends, written=written(author), by_recipe=_by_recipe(found),
        picture=picture(gains(found), CAPTION), columns=COLUMNS,
        data=Markup(packing.script(finite([_row(p) for p in found]), "rows")),
    )  # fmt: skip
    title = f"NVFP4 comparison: {names[0][-40:]} and {names[1][-40:]}"
    return document(title, body, printed=written(author))


def _described(side: str, name: str, sweep: Sweep) -> dict[str, str]:
    """What a reader must know to judge a difference."""
    versions = sweep.provenance.get("versions", {})
    sources = [s.get("path", "") for s in sweep.provenance.get("sources", [])]
    return {
        "name": side if name == side else f"{side}: {name}",
        "tensors": f"{len(sweep.stats):,}",
        "recipes": ", ".join(sweep.recipes),
        "engine": ", ".join(sweep.engines),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "platform"),
        "platform": str(versions.get("platform", "unknown")),
        "activations": ", ".join(sources) or "unknown",
    }


def _end(title: str, those: list[Pair]) -> dict:
    """The pairs that differ most, the largest difference first."""
    order = sorted(those, key=lambda p: -abs(p.gain_db))
    more = f"{len(order) - LISTED:,}" if len(order) > LISTED else ""
    return {"title": title, "pairs": [_listed(p) for p in order[:LISTED]], "more": more}


def _by_recipe(found: list[Pair]) -> list[dict[str, str]]:
    """Of each recipe the least, the median and the most of its gains."""
    rows = {name: [p for p in found if p.recipe == name] for name in dict.fromkeys(p.recipe for p in found)}
    gains = {name: [p.gain_db for p in row if not math.isnan(p.gain_db)] or [math.nan] for name, row in rows.items()}
    return [{**_named(rows[name][0]), "ends": [db(f(row)) for f in (min, middle, max)]} for name, row in gains.items()]


def _listed(p: Pair) -> dict[str, str]:
    sure = ", 95 % interval {} to {}".format(*map(db, p.interval_db)) if p.interval_db else ", no interval"
    sqnr = dict(zip(("before", "after"), (fixed(v, 3) for v in p.sqnr_db), strict=True))
    return {"gain": db(p.gain_db), "sure": sure, "tensor": p.tensor, **_named(p), **sqnr}


def _named(p: Pair) -> dict[str, str]:
    """The recipe's name, and what stands against running it."""
    return {"recipe": p.recipe, "study": study_only(p.a.recipe)}


def _row(pair: Pair) -> dict:
    low, high = pair.interval_db or (None, None)
    values = {"tensor": pair.tensor, **_named(pair), "gain_db": pair.gain_db, "low_db": low, "high_db": high}
    values["same"] = "yes" if pair.identical else ""
    for name in COLUMNS:
        if name[:2] in ("a_", "b_"):
            values[name] = getattr(pair.a if name[0] == "a" else pair.b, name[2:])
    return values
