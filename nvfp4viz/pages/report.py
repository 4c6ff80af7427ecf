"""The report: one HTML file that opens offline, shows the verdict and every number, and reads back as a Sweep."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from html import escape
from pathlib import Path

from .. import plots
from ..analysis import Comparison, Sweep, Verdict, recommend
from ..catalog import style
from ..files import replacing, said
from ..nvfp4 import Recipe
from . import packing
from .document import NEEDS_SCRIPT, document, figure, table, text

COLUMNS = {  # of the table and its CSV: heading, and how report.js shows it
    "tensor": ("tensor", "text"), "recipe": ("recipe", "text"), "engine": ("engine", "text"),
    "tokens": ("tokens", "count"), "features": ("features", "count"), "sqnr_db": ("SQNR (dB)", "db"),
    "nmse": ("NMSE", "short"), "mse": ("MSE", "short"), "mae": ("MAE", "short"), "max_error": ("max error", "short"),
    "cosine": ("cosine", "unit"), "four_rate": ("chose 4", "share"), "four_saturated": ("4 saturated", "share"),
    "scale_saturated": ("scale saturated", "share"), "element_clipped": ("clipped at 6", "share"),
    "scale_subnormal": ("scale subnormal", "share"), "scale_zero": ("scale 0", "share"),
    "element_flushed": ("decoded to 0", "share"),
}  # fmt: skip
ROWS = 24  # tensors that the figure of gains has room for


def report(sweep: Sweep, path: str | os.PathLike) -> Path:
    """Write the sweep as one self-contained HTML file and return its path.

    Raises TypeError for anything but a Sweep, ValueError for an empty one, OSError where the file cannot be written; an
    older file then stays as it was.
    """
    if not isinstance(sweep, Sweep):
        kind = type(sweep).__name__
        raise TypeError(f"report takes a Sweep and a path, not a {kind}: report(nvfp4viz.sweep(activations), path)")
    if not sweep.stats:
        raise ValueError("the sweep has no statistics: analyse at least one tensor before writing a report")
    return write(render(sweep), path)


def write(page: str, path: str | os.PathLike) -> Path:
    """Write a page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path).expanduser()


def load_report(path: str | os.PathLike) -> Sweep:
    """The Sweep inside a report; ValueError where the file is no report, is truncated or was edited."""
    try:
        return packing.read(Path(path).expanduser().read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the report {str(path)!r}: {said(error)}") from error


def render(sweep: Sweep) -> str:
    """The page as a string."""
    try:
        verdict = recommend(sweep)
    except ValueError as error:  # nothing but zeros or nothing at all: the table still says so
        verdict, sentence, best = None, f"No verdict: {error}.", next(iter(sweep.recipes))
    else:
        sentence, best = verdict.sentence(), verdict.recipe
    sections = [
        f"<header>{headline(*sentence.split(': ', 1), recipe=sweep.recipes[best])}{_size(sweep)}</header>",
        _margins(sweep, verdict.comparisons) if verdict else "",
        _settings(sweep.recipes[best]) if verdict else "",
        _figures(sweep, best),
        _explorer(sweep, verdict, best),
        f'<section class="every"><h2>Every tensor, every recipe</h2>\n{table(COLUMNS)}</section>',
        _provenance(sweep),
        packing.script(packing.pack(sweep)),
    ]
    return document(f"NVFP4 report: {', '.join(sweep.tensors)[:80]}", "\n".join(sections))


def headline(first: str, rest: str = "", *, recipe: Recipe | None = None) -> str:
    """What is to be read first, large, and the rest of it as a paragraph."""
    color = f' style="--recipe:{style(recipe)["color"]}"' if recipe else ""
    return f'<h1{color}>{text(first)}</h1>\n<p class="verdict">{text(rest)}</p>'


def _size(sweep: Sweep) -> str:
    """What was measured with what, and what is missing."""
    tokens = max(s.tokens for row in sweep.stats.values() for s in row.values())
    versions = sweep.provenance.get("versions", {})
    models = [s.get("metadata", {}).get("model") for s in sweep.provenance.get("sources", [])]
    parts = [
        *dict.fromkeys(m for m in models if m), f"{len(sweep.stats)} tensors", f"up to {tokens:,} tokens",
        f"{len(sweep.recipes)} recipes", f"engine {', '.join(sweep.engines)}",
        *(f"{name} {versions[name]}" for name in ("nvfp4viz", "torch", "flashinfer-python") if versions.get(name)),
    ]  # fmt: skip
    notes = f'<p class="signature">{text(" · ".join(parts))}</p>'
    if sweep.skipped:
        reasons = "".join(f"<li>{text(name)}: {text(why)}</li>" for name, why in sweep.skipped.items())
        notes += f'<p class="note">{len(sweep.skipped)} tensors could not be analysed:</p><ul>{reasons}</ul>'
    if sweep.provenance.get("interrupted"):
        notes += '<p class="note">The sweep was interrupted: tensors are missing.</p>'
    return notes


def _margins(sweep: Sweep, comparisons: tuple[Comparison, ...]) -> str:
    """The named recipe against others, as a line with its interval on one axis."""
    if not comparisons:
        return ""
    ends = [v for c in comparisons for v in (0.0, c.margin_db, *(c.interval_db or ()))]
    low, span = min(ends), max(ends) - min(ends) or 1.0
    place = {v: 2 + 96 * (v - low) / span for v in ends}
    rows = []
    for c in comparisons:
        left, right = (place[v] for v in c.interval_db or (c.margin_db,) * 2)
        interval = "{:.3f} to {:.3f}".format(*c.interval_db) if c.interval_db else "too few tokens"
        zero, to = place[0.0], place[c.margin_db]
        bar = (
            f'<i class="zero" style="left:{zero:.2f}%"></i>'
            f'<i class="reach" style="left:{min(zero, to):.2f}%;width:{abs(to - zero):.2f}%"></i>'
            f'<i class="interval" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
        )
        color = style(sweep.recipes[c.over])["color"]
        rows.append(
            f'<tr><th scope="row">{text(c.role)} <span style="--recipe:{color}">{text(c.over)}</span></th>'
            f'<td class="axis"><div>{bar}</div></td><td class="gain">{c.margin_db:+.3f} dB</td><td>{interval}</td>'
            f"<td>{c.wins} of {len(c.by_tensor_db)}</td></tr>"
        )
    head = ("against", "gain", "", "95 % interval, dB", "tensors better")
    cells = "".join(f'<th scope="col"{" colspan=2" if h == "gain" else ""}>{h}</th>' for h in head if h)
    return f'<table class="margins"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _settings(recipe: Recipe) -> str:
    from ..environment import environment_of, flashinfer_config

    try:
        variables = "\n".join(f"{name}={value}" for name, value in environment_of(recipe, "sglang").items())
        call = f"nvfp4_4over6={flashinfer_config(recipe, text=True)}".replace("(", "(\n    ").replace(")", "\n)")
        call = call.replace(", ", ",\n    ")
    except ValueError as error:  # a ceiling to study, which no environment can set
        return f"<section><h2>What to set</h2>\n<p>{text(error)}</p></section>"
    return (
        f'<section><h2>What to set for {text(recipe.name)}</h2>\n<div class="two">'
        f"<div><h3>Environment of SGLang and FlashInfer</h3><pre>{text(variables)}</pre></div>"
        f"<div><h3>Or, calling FlashInfer</h3><pre>{text(call)}</pre></div></div></section>"
    )


def _figures(sweep: Sweep, best: str) -> str:
    baseline = "standard" if "standard" in sweep.recipes and len(sweep.recipes) > 1 else None
    totals = {name: sweep.total(name) for name in sweep.recipes}
    low, high = _ceilings(sweep, best)
    shown, which = _telling(sweep, best, baseline)
    figures = [
        (plots.error_by_tensor(shown, baseline=baseline),
         f"Each row is a tensor, each mark a recipe; farther right is better. {which}"),
        (plots.block_scale_histogram(totals[high], totals[low] if low != high else None),
         "All tensors together. Solid: blocks that map their largest value to 6; pale: to 4. A block whose scale for 6"
         " is right of 298.67 cannot choose 4."),
        (plots.clipping_rates(totals),
         "All tensors together, on a logarithmic axis. A 4 that could not be had is the price of a high ceiling; a"
         " scale that is subnormal or 0 would be that of a low one."),
    ]  # fmt: skip
    return "<section><h2>Why</h2>\n" + "\n".join(figure(ax, caption) for ax, caption in figures) + "</section>"


def _telling(sweep: Sweep, best: str, baseline: str | None) -> tuple[Sweep, str]:
    """The tensors on which the best recipe gains most and least, where there are too many to draw."""
    if len(sweep.stats) <= ROWS:
        return sweep, ""

    def gain(tensor: str) -> float:
        row = sweep.stats[tensor]
        return row[best].sqnr_db - (row[baseline].sqnr_db if baseline not in (None, best) else 0)

    order = sorted(sweep.stats, key=gain)
    kept = {*order[: ROWS // 2], *order[-ROWS // 2 :]}
    shown = replace(sweep, stats={t: row for t, row in sweep.stats.items() if t in kept})
    few = ROWS // 2
    return shown, f"Of {len(sweep.stats):,} tensors, the {few} of least and the {few} of most gain by {best}."


def _ceilings(sweep: Sweep, best: str) -> tuple[str, str]:
    """Two recipes that differ in the ceiling: like the best one, of the lowest and the highest ceiling there is."""
    mode = sweep.recipes[best].err_mode
    like = [n for n, r in sweep.recipes.items() if r.four_over_six and r.err_mode == mode] or [best]
    ordered = sorted(like, key=lambda n: sweep.recipes[n].e4m3_max)
    return ordered[0], ordered[-1]


def _explorer(sweep: Sweep, verdict: Verdict | None, best: str) -> str:
    others = [c.over for c in verdict.comparisons] if verdict else []
    shown = {"recipe_a": next((n for n in (*others, *sweep.recipes) if n != best), best), "recipe_b": best}
    return (
        '<section class="live"><h2>Look for yourself</h2>\n'
        '<p class="note">Two recipes, A and B, on any tensor. Everything here is in this file.</p>'
        f'<div id="explorer" data-sweep="sweep" data-shown="{escape(json.dumps(shown))}"></div>{NEEDS_SCRIPT}</section>'
    )


def _provenance(sweep: Sweep) -> str:
    provenance = sweep.provenance
    rows = [(name, version or "not installed") for name, version in provenance.get("versions", {}).items()]
    rows += [("command", shlex.join(map(str, provenance.get("command", []))))]
    for source in provenance.get("sources", []):
        rows += [("file", source["path"]), ("its SHA-256", source["sha256"])]
        rows += [(f"its {key}", value) for key, value in source.get("metadata", {}).items() if len(str(value)) < 400]
    entries = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in rows)
    fields = "\n".join(f"{name}: {recipe}" for name, recipe in sweep.recipes.items())
    return (
        f"<section><h2>Provenance</h2>\n<dl>{entries}</dl>\n<h3>Recipes</h3>\n<pre>{text(fields)}</pre>\n"
        '<p class="note"><code>nvfp4viz.load_report(path)</code> gives this sweep back, to the last bit.</p></section>'
    )
