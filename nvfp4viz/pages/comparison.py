"""The page of a comparison: which is better, by how much, and what got worse."""

from __future__ import annotations

import os
from pathlib import Path

from ..analysis import Pair, Sweep, db, finite, pairs, sentence
from ..plots import GAINS_CAPTION, gains
from . import packing
from .document import document, figure, table, text
from .report import headline, write

COLUMNS = {  # of the table and its CSV: heading, and how report.js shows it
    "tensor": ("tensor", "text"), "recipe": ("recipe", "text"), "gain_db": ("B − A (dB)", "gain"),
    "low_db": ("at least", "gain"), "high_db": ("at most", "gain"), "same": ("same bits", "text"),
    **{f"{side}_{name}": (f"{side.upper()} {title}", kind) for name, title, kind in (
        ("sqnr_db", "SQNR (dB)", "db"), ("four_rate", "chose 4", "share"), ("four_saturated", "4 saturated", "share"),
        ("element_clipped", "clipped at 6", "share"), ("scale_subnormal", "scale subnormal", "share"),
        ("element_flushed", "decoded to 0", "share")) for side in "ab"},
}  # fmt: skip
WORST = 8  # pairs listed under what got worse


def compare(a: Sweep, b: Sweep, path: str | os.PathLike, names: tuple[str, str] = ("A", "B")) -> Path:
    """Write the differences of two sweeps as one self-contained HTML file and return its path.

    Args: names: what to call them, such as their files. Raises ValueError where they share nothing, OSError where the
        file cannot be written.
    """
    return write(render(a, b, names), path)


def render(a: Sweep, b: Sweep, names: tuple[str, str] = ("A", "B")) -> str:
    """The page as a string."""
    found = pairs(a, b)
    sides = [_described(side, name, sweep) for side, name, sweep in zip("AB", names, (a, b), strict=True)]
    head = "".join(f"<th scope=col>{text(s['side'])}</th>" for s in sides)
    rows = "".join(
        f'<tr><th scope="row">{text(key)}</th>' + "".join(f"<td>{text(s[key])}</td>" for s in sides) + "</tr>"
        for key in sides[0]
        if key != "side"
    )
    ax = gains(found)
    sections = [
        f"<header>{headline(*sentence(found).split(': ', 1))}</header>",
        f'<table class="sides"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>',
        "<section><h2>What got worse</h2>\n" + _worse(found) + "</section>",
        f"<section><h2>Differences</h2>\n{figure(ax, GAINS_CAPTION)}</section>",
        f'<section class="every"><h2>Every tensor, every recipe</h2>\n{table(COLUMNS)}</section>',
        packing.script(finite([_row(p) for p in found]), "rows"),
    ]
    return document(f"NVFP4 comparison: {names[0][-40:]} and {names[1][-40:]}", "\n".join(sections))


def _described(side: str, name: str, sweep: Sweep) -> dict[str, str]:
    """What a reader must know to judge a difference."""
    versions = sweep.provenance.get("versions", {})
    sources = [s.get("path", "") for s in sweep.provenance.get("sources", [])]
    return {
        "side": f"{side}: {name}",
        "tensors": f"{len(sweep.stats):,}",
        "recipes": ", ".join(sweep.recipes),
        "engine": ", ".join(sweep.engines),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "platform"),
        "platform": str(versions.get("platform", "unknown")),
        "activations": ", ".join(sources) or "not told",
    }


def _worse(found: list[Pair]) -> str:
    worse = sorted((p for p in found if p.gain_db < 0), key=lambda p: p.gain_db)
    if not worse:
        return "<p>Nothing.</p>"
    items = []
    for p in worse[:WORST]:
        sure = ", 95 % interval {} to {}".format(*map(db, p.interval_db)) if p.interval_db else ""
        items.append(
            f"<li><b>{db(p.gain_db)} dB</b>{sure}: {text(p.tensor)} under {text(p.recipe)}, "
            f"{p.a.sqnr_db:.3f} to {p.b.sqnr_db:.3f} dB</li>"
        )
    more = f'<p class="note">and {len(worse) - WORST:,} more, in the table</p>' if len(worse) > WORST else ""
    return f'<ol class="worse">{"".join(items)}</ol>{more}'


def _row(pair: Pair) -> dict:
    low, high = pair.interval_db or (None, None)
    values = {"tensor": pair.tensor, "recipe": pair.recipe, "gain_db": pair.gain_db, "low_db": low, "high_db": high}
    values["same"] = "yes" if pair.identical else ""
    for name in COLUMNS:
        if name[:2] in ("a_", "b_"):
            values[name] = getattr(pair.a if name[0] == "a" else pair.b, name[2:])
    return values
