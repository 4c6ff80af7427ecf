"""The report: one HTML file that opens offline, shows the verdict and every number, and reads back as a Sweep."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
import re
import shlex
from html import escape
from importlib import resources
from pathlib import Path

from . import plots
from .files import replacing
from .recipe import Recipe, style
from .sweep import COLUMNS, Sweep
from .verdict import recommend

HEADINGS = {
    "tensor": "tensor", "recipe": "recipe", "engine": "engine", "tokens": "tokens", "features": "features",
    "sqnr_db": "SQNR (dB)", "nmse": "NMSE", "mse": "MSE", "mae": "MAE", "max_error": "max error", "cosine": "cosine",
    "four_rate": "chose 4", "four_saturated": "4 saturated", "scale_saturated": "scale saturated",
    "element_clipped": "clipped at 6", "scale_subnormal": "scale subnormal", "scale_zero": "scale 0",
    "element_flushed": "decoded to 0",
}  # fmt: skip


def report(sweep: Sweep, path: str | os.PathLike) -> Path:
    """Write the sweep as one self-contained HTML file and return its path.

    Raises ValueError for an empty sweep, OSError where the file cannot be written; an older file then stays as it was.
    """
    if not sweep.stats:
        raise ValueError("the sweep has no statistics: analyse at least one tensor before writing a report")
    page = render(sweep)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render(sweep: Sweep) -> str:
    """The page as a string."""
    script, css = _asset("report.js"), _asset("report.css")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {_source(script)}"
    try:
        verdict = recommend(sweep)
    except ValueError as error:  # nothing but zeros or nothing at all: the table still says so
        sentence, best = f"No verdict: {error}.", None
    else:
        sentence, best = verdict.sentence(), verdict.recipe
    sections = [
        _summary(sweep, sentence),
        _figures(sweep, best or next(iter(sweep.recipes))),
        _settings(sweep.recipes[best]) if best else "",
        _table(sweep),
        _provenance(sweep),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>NVFP4 report: {_text(', '.join(sweep.tensors)[:80])}</title>\n<style>\n{css}</style>\n"
        + "</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + f"\n</main>\n{_data(sweep)}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def load_report(path: str | os.PathLike) -> Sweep:
    """The Sweep inside a report; ValueError where the file is no report, is truncated or was edited."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    found = re.search(r'<script type="application/gzip" id="sweep" data-sha256="([0-9a-f]{64})">([^<]*)</script>', text)
    if found is None:
        raise ValueError(
            f"{str(path)!r} holds no sweep: not a report of nvfp4viz, or truncated; ask for the file again"
        )
    packed = found[2].encode()
    if hashlib.sha256(packed).hexdigest() != found[1]:
        raise ValueError(
            f"the data in {str(path)!r} does not match its checksum: truncated or edited; ask for the file again"
        )
    return Sweep.from_dict(json.loads(gzip.decompress(base64.b64decode(packed))))


def _asset(name: str) -> str:
    return resources.files("nvfp4viz").joinpath(name).read_text(encoding="utf-8")


def _source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _data(sweep: Sweep) -> str:
    packed = base64.b64encode(gzip.compress(json.dumps(sweep.to_dict(), allow_nan=False).encode(), 9, mtime=0))
    digest = hashlib.sha256(packed).hexdigest()
    return f'<script type="application/gzip" id="sweep" data-sha256="{digest}">{packed.decode()}</script>'


def _summary(sweep: Sweep, verdict: str) -> str:
    tokens = max(s.tokens for row in sweep.stats.values() for s in row.values())
    versions = sweep.provenance.get("versions", {})
    parts = [
        f"{len(sweep.stats)} tensors", f"up to {tokens:,} tokens", f"{len(sweep.recipes)} recipes",
        f"engine {', '.join(sweep.engines)}",
        *(f"{name} {versions[name]}" for name in ("nvfp4viz", "torch", "flashinfer-python") if versions.get(name)),
    ]  # fmt: skip
    warnings = ""
    if sweep.skipped:
        reasons = "".join(f"<li>{_text(name)}: {_text(why)}</li>" for name, why in sweep.skipped.items())
        warnings = (
            f'<p class="note">{len(sweep.skipped)} tensors could not be analysed:</p><ul class="note">{reasons}</ul>'
        )
    if sweep.provenance.get("interrupted"):
        warnings += '<p class="note">The sweep was interrupted: tensors are missing.</p>'
    return (
        f'<h1>NVFP4 activation quantization</h1>\n<p class="verdict">{_text(verdict)}</p>\n'
        f'<p class="signature">{_text(" · ".join(parts))}</p>{warnings}'
    )


def _figures(sweep: Sweep, best: str) -> str:
    baseline = "standard" if "standard" in sweep.recipes else None
    totals = {name: sweep.total(name) for name in sweep.recipes}
    low, high = _ceilings(sweep, best)
    figures = [
        (plots.error_by_tensor(sweep, baseline=baseline if len(sweep.recipes) > 1 else None),
         "Each row is a tensor, each mark a recipe; farther right is better."),
        (plots.block_scale_histogram(totals[high], totals[low] if low != high else None),
         "All tensors together. Solid: blocks that map their largest value to 6; pale: to 4. A block whose scale for"
            " 6 is"
         " right of 298.67 cannot choose 4."),
        (plots.clipping_rates(totals), "All tensors together, on a logarithmic axis."),
    ]  # fmt: skip
    cards = []
    for ax, caption in figures:
        picture = plots.Picture(ax)
        width, height = (round(v * 4 / 3) for v in picture.size)
        source = base64.b64encode(picture.png).decode()
        cards.append(
            f'<figure><img src="data:image/png;base64,{source}" width="{width}" height="{height}"'
            f' alt="{_text(picture.alt)}"><figcaption>{_text(caption)}</figcaption></figure>'
        )
    return "<h2>Why</h2>\n" + "\n".join(cards)


def _ceilings(sweep: Sweep, best: str) -> tuple[str, str]:
    """Two recipes that differ in the ceiling: like the best one, of the lowest and the highest ceiling there is."""
    like = [n for n, r in sweep.recipes.items() if r.four_over_six and r.err_mode == sweep.recipes[best].err_mode] or [
        best
    ]
    ordered = sorted(like, key=lambda n: sweep.recipes[n].e4m3_max)
    return ordered[0], ordered[-1]


def _settings(recipe: Recipe) -> str:
    return (
        f"<h2>What to set</h2>\n<p>For <code>{_text(recipe.name)}</code>:</p>\n<pre>{_text(_how_to_set(recipe))}</pre>"
    )


def _how_to_set(recipe: Recipe) -> str:
    from .environment import environment_of, flashinfer_config

    try:
        variables = [f"{name}={value}" for name, value in environment_of(recipe, "sglang").items()]
        call = f"nvfp4_4over6={flashinfer_config(recipe, text=True)}"
    except ValueError as error:  # a ceiling to study, which no environment can set
        return f"# {error}"
    return "\n".join(["# environment of SGLang and FlashInfer", *variables, "", "# or, calling FlashInfer", call])


def _table(sweep: Sweep) -> str:
    head = "".join(
        f'<th scope="col" data-name="{name}"{" class=text" if name in ("recipe", "engine") else ""}>'
        f"<button>{_text(title)}</button></th>"
        for name, title in HEADINGS.items()
    )
    rows = []
    for tensor, row in sweep.stats.items():
        for name, stats in row.items():
            swatch = f'<span class="swatch" style="background:{style(stats.recipe)["color"]}"></span>'
            cells = [
                f'<td title="{_text(tensor)}">{_text(tensor)}</td>',
                f'<td class="text" data-value="{_text(name)}">{swatch}{_text(name)}</td>',
                f'<td class="text">{_text(stats.engine)}</td>',
                f"<td>{stats.tokens}</td><td>{stats.features}</td>",
            ]
            cells += [_cell(column, getattr(stats, column)) for column in COLUMNS]
            rows.append(f"<tr>{''.join(cells)}</tr>")
    tools = (
        '<div class="tools"><label>Filter <input id="filter" type="search" placeholder="down_proj 256"></label>'
        '<button id="csv" type="button">Download CSV</button><span id="shown" class="note" role="status"></span></div>'
    )
    return (
        f'<h2>Every tensor, every recipe</h2>\n{tools}\n<div id="results" class="scroll tall" tabindex="0" '
        ' role="region"'
        f' aria-label="Results"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _cell(column: str, value: float) -> str:
    if column in plots.RATES:
        text = f"{100 * value:.2f} %" if value else "0"
    elif column == "sqnr_db":
        text = f"{value:.3f}" if math.isfinite(value) else "∞"
    elif column == "cosine":
        text = f"{value:.6f}"
    else:
        text = f"{value:.4g}"
    return f'<td data-value="{value!r}">{text}</td>'


def _provenance(sweep: Sweep) -> str:
    provenance = sweep.provenance
    rows = [(name, version or "not installed") for name, version in provenance.get("versions", {}).items()]
    rows += [("command", shlex.join(map(str, provenance.get("command", []))))]
    for source in provenance.get("sources", []):
        rows += [("file", source["path"]), ("its SHA-256", source["sha256"])]
        rows += [(f"its {key}", value) for key, value in source.get("metadata", {}).items() if len(str(value)) < 400]
    entries = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in rows)
    fields = "\n".join(f"{name}: {recipe}" for name, recipe in sweep.recipes.items())
    return f"<h2>Provenance</h2>\n<dl>{entries}</dl>\n<h3>Recipes</h3>\n<pre>{_text(fields)}</pre>"


def _text(value) -> str:
    """Any text as HTML text: escaped, control characters and bidirectional overrides made visible, bounded."""
    text = str(value)
    text = text if len(text) <= 2000 else text[:1000] + f" … ({len(text):,} characters) … " + text[-500:]
    visible = "".join(_VISIBLE.get(ord(c), c) for c in text)
    return escape(visible.encode("utf-8", "backslashreplace").decode())  # half a surrogate pair has no UTF-8


_VISIBLE = {i: chr(0x2400 + i) for i in range(32) if i != 10} | {127: "␡"}
_VISIBLE |= {i: f"[U+{i:04X}]" for i in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
