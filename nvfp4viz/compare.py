"""Two sweeps side by side: two models, engines, versions, or strict against fast; and what got worse."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .files import replacing
from .microscope import finite
from .stats import Stats
from .sweep import Sweep

COLUMNS = {  # of the table and its CSV: heading, and how report.js shows it
    "tensor": ("tensor", "text"), "recipe": ("recipe", "text"), "gain_db": ("B − A (dB)", "gain"),
    "low_db": ("at least", "gain"), "high_db": ("at most", "gain"), "same": ("same bits", "text"),
    **{f"{side}_{name}": (f"{side.upper()} {title}", kind) for name, title, kind in (
        ("sqnr_db", "SQNR (dB)", "db"), ("four_rate", "chose 4", "share"), ("four_saturated", "4 saturated", "share"),
        ("element_clipped", "clipped at 6", "share"), ("scale_subnormal", "scale subnormal", "share"),
        ("element_flushed", "decoded to 0", "share")) for side in "ab"},
}  # fmt: skip
WORST = 8  # pairs listed under what got worse


@dataclass(frozen=True)
class Pair:
    """One tensor under one recipe in both sweeps."""

    tensor: str
    recipe: str  # its name in the first sweep
    a: Stats
    b: Stats

    @property
    def gain_db(self) -> float:
        """SQNR of b over a, positive where b is better; 0 where both are without error."""
        return 0.0 if self.a.nmse == self.b.nmse else self.b.sqnr_db - self.a.sqnr_db

    @property
    def same_input(self) -> bool:
        """Whether both saw the same values, as far as sums tell."""
        return self.a.tokens == self.b.tokens and self.a.x_sq == self.b.x_sq and self.a.x_amax == self.b.x_amax

    @property
    def identical(self) -> bool:
        """Whether every statistic is the same but for the engine's name."""
        return replace(self.b, engine=self.a.engine, recipe=self.a.recipe) == self.a

    @property
    def interval_db(self) -> tuple[float, float] | None:
        """95 % of the gain over 200 redraws of tokens, the same in both; None where the inputs differ."""
        a, b = self.a.bootstrap_nmse, self.b.bootstrap_nmse
        drawn = (a > 0) & (b > 0)
        if not self.same_input or not drawn.any():
            return None
        return tuple(np.quantile(10 * np.log10(a[drawn] / b[drawn]), [0.025, 0.975]).tolist())


def pairs(a: Sweep, b: Sweep) -> list[Pair]:
    """What both sweeps have: tensors by name, recipes by name or else as twins that differ only in `fast_math`.

    Raises ValueError where they share nothing.
    """
    twins = {}
    for name, recipe in a.recipes.items():
        same = [n for n, r in b.recipes.items() if r == recipe]
        twin = [n for n, r in b.recipes.items() if replace(r, fast_math=recipe.fast_math) == recipe]
        if same or twin:
            twins[name] = (same or twin)[0]
    found = [
        Pair(tensor, name, row[name], b.stats[tensor][other])
        for tensor, row in a.stats.items()
        if tensor in b.stats
        for name, other in twins.items()
    ]
    if not found:
        raise ValueError(
            f"the sweeps share no tensor and recipe: {a.tensors[:3]} under {list(a.recipes)} and {b.tensors[:3]} under"
            f" {list(b.recipes)}; sweep both over tensors of the same names"
        )
    return found


def sentence(found: list[Pair]) -> str:
    """What the comparison says, in plain English: B against A."""
    identical = sum(p.identical for p in found)
    if identical == len(found):
        return f"No difference: all {len(found)} statistics (tensor and recipe) are the same to the last bit."
    gains = np.array([p.gain_db for p in found if np.isfinite(p.gain_db)])
    worse = [p for p in found if p.gain_db < 0]
    surely = [p for p in worse if p.interval_db and p.interval_db[1] < 0]
    side = "better" if len(gains) and gains.mean() > 0 else "worse"
    mean = gains.mean() if len(gains) else 0.0
    text = f"B is {abs(mean):.2g} dB {side} than A on average: over {len(found)} pairs of tensor and recipe"
    text += f", {identical} are identical and {len(worse)} got worse"
    if worse:
        first = min(worse, key=lambda p: p.gain_db)
        text += f" ({len(surely)} of them beyond the 95 % interval over tokens)"
        text += f", most {first.tensor} under {first.recipe}: {_db(first.gain_db)} dB"
    return text + "."


def compare(a: Sweep, b: Sweep, path: str | os.PathLike, names: tuple[str, str] = ("A", "B")) -> Path:
    """Write the differences of two sweeps as one self-contained HTML file and return its path.

    Args: names: what to call them, such as their files. Raises ValueError where they share nothing, OSError where the
        file cannot be written.
    """
    page = render(a, b, names)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render(a: Sweep, b: Sweep, names: tuple[str, str] = ("A", "B")) -> str:
    """The page as a string."""
    from . import packing, plots_compare
    from .document import document, figure, table, text
    from .html import headline

    found = pairs(a, b)
    sides = [_described(side, name, sweep) for side, name, sweep in zip("AB", names, (a, b), strict=True)]
    head = "".join(f"<th scope=col>{text(s['side'])}</th>" for s in sides)
    rows = "".join(
        f'<tr><th scope="row">{text(key)}</th>' + "".join(f"<td>{text(s[key])}</td>" for s in sides) + "</tr>"
        for key in sides[0]
        if key != "side"
    )
    ax = plots_compare.gains(found)
    sections = [
        f"<header>{headline(*sentence(found).split(': ', 1))}</header>",
        f'<table class="sides"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>',
        "<section><h2>What got worse</h2>\n" + _worse(found) + "</section>",
        f"<section><h2>Differences</h2>\n{figure(ax, plots_compare.CAPTION)}</section>",
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
    from .document import text

    worse = sorted((p for p in found if p.gain_db < 0), key=lambda p: p.gain_db)
    if not worse:
        return "<p>Nothing.</p>"
    items = []
    for p in worse[:WORST]:
        sure = ", 95 % interval {} to {}".format(*map(_db, p.interval_db)) if p.interval_db else ""
        items.append(
            f"<li><b>{_db(p.gain_db)} dB</b>{sure}: {text(p.tensor)} under {text(p.recipe)}, "
            f"{p.a.sqnr_db:.3f} to {p.b.sqnr_db:.3f} dB</li>"
        )
    more = f'<p class="note">and {len(worse) - WORST:,} more, in the table</p>' if len(worse) > WORST else ""
    return f'<ol class="worse">{"".join(items)}</ol>{more}'


def _db(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−")


def _row(pair: Pair) -> dict:
    low, high = pair.interval_db or (None, None)
    values = {"tensor": pair.tensor, "recipe": pair.recipe, "gain_db": pair.gain_db, "low_db": low, "high_db": high}
    values["same"] = "yes" if pair.identical else ""
    for name in COLUMNS:
        if name[:2] in ("a_", "b_"):
            values[name] = getattr(pair.a if name[0] == "a" else pair.b, name[2:])
    return values
