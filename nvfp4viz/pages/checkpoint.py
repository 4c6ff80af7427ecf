"""The page of a checkpoint: what it is, what is wrong with it, and where, by layer and kind of matrix."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from ..analysis import finite, versions
from ..checkpoints import BEST, SEVERITIES, STORED, Checkpoint, Comparison, Finding, Traffic
from ..planning import layer_map
from ..shown import quantity
from . import packing
from .document import document, fill, picture, write, written

COLUMNS = {  # of the table and its CSV: heading, and how the page's script shows it
    "module": ("module", "text"), "layer": ("layer", "text"), "expert": ("expert", "text"), "rows": ("rows", "count"),
    "features": ("features", "count"), "made_with": ("made with", "text"), "weight_scale": ("weight scale", "short"),
    "input_scale": ("input scale", "short"), "input_amax": ("input takes", "short"),
    "largest_block_scale": ("largest block scale", "short"), "at_448": ("at 448", "share"),
    "scale_subnormal": ("subnormal", "share"), "scale_zero": ("zero", "share"), "four_share": ("mapped to 4", "share"),
    "findings": ("findings", "count"),
}  # fmt: skip
OF_TRAFFIC = {"headroom": ("headroom", "short"), "loss_db": ("lost to per token (dB)", "db")}
SHOWN = 8  # findings of one kind


def report_checkpoint(
    checkpoint: Checkpoint,
    path: str | os.PathLike,
    weights: Comparison | None = None,
    traffic: Traffic | None = None,
    *,
    author: str | None = None,
) -> Path:
    """Write a checkpoint's page as one self-contained HTML file and return its path; OSError where it cannot."""
    return write(render_checkpoint(checkpoint, weights, traffic, author), path)


def render_checkpoint(
    checkpoint: Checkpoint, weights: Comparison | None = None, traffic: Traffic | None = None, author: str | None = None
) -> str:
    """The page as a string."""
    parts = [p for p in (checkpoint, weights, traffic) if p is not None]
    found = sorted((f for p in parts for f in p.findings), key=lambda f: (SEVERITIES.index(f.severity), f.code))
    shown, known = _shown(found), versions()["versions"]
    columns = COLUMNS | ({n: (f"{_recipe(n)} (dB)", "db") for n in _names(weights)} if weights else {})
    columns |= OF_TRAFFIC if traffic else {}
    body = fill(
        "checkpoint.html",
        sentence=(_headline(found), ":", _sentence(checkpoint)), written=written(author),
        versions=[f"{name} {known[name]}" for name in ("nvfp4viz", "torch")],
        summary=_summary(checkpoint), findings=[_row(f) for f in shown], columns=columns,
        more=f"{len(found) - len(shown):,}" if len(found) > len(shown) else "",
        pictures=[picture(*p) for p in _maps(checkpoint, weights, traffic)],
        data=Markup(packing.script(finite(_rows(checkpoint, weights, traffic)), "rows")),
    )  # fmt: skip
    return document(f"NVFP4 checkpoint: {checkpoint.path.name[-40:]}", body, printed=written(author))


def _headline(found: list[Finding]) -> str:
    counts = Counter(f.severity for f in found)
    words = [quantity(counts[s], s) for s in SEVERITIES if counts[s]]
    return ", ".join(words) if words else "Nothing to mend"


def _sentence(checkpoint: Checkpoint) -> str:
    made = Counter(checkpoint.made_with.values()).most_common(1)[0][0]
    by = f" by {checkpoint.config.producer}" if checkpoint.config.producer else ""
    return f"{len(checkpoint.matrices):,} NVFP4 matrices{by}, {made}; scales are stored as {checkpoint.convention}."


def _shown(found: list[Finding]) -> list[Finding]:
    kinds: dict[tuple, list[Finding]] = defaultdict(list)
    for f in found:
        kinds[f.severity, f.code].append(f)
    return [f for group in kinds.values() for f in group[:SHOWN]]


def _row(f: Finding) -> dict:
    return f.to_dict() | {"finding": f.code.replace("-", " "), "where": f.tensor}


def _summary(checkpoint: Checkpoint) -> dict[str, str]:
    config, made = checkpoint.config, Counter(checkpoint.made_with.values())
    return {
        "checkpoint": str(checkpoint.path),
        "made by": " ".join(filter(None, (config.producer or config.method, config.algorithm))) or "unknown",
        "made with": ", ".join(f"{name} ({n:,})" for name, n in made.most_common(6)),
        "matrices": f"{len(checkpoint.matrices):,}",
        "scales": f"stored as {checkpoint.convention}",
        "kept in high precision": ", ".join(checkpoint.ignored[:12]) or "not said",
    }


def _names(weights: Comparison) -> list[str]:
    return [*next(iter(weights.stats.values())), *([BEST] if weights.best else [])]


def _recipe(name: str) -> str:
    return "as stored" if name == STORED else name


def _rows(checkpoint: Checkpoint, weights: Comparison | None, traffic: Traffic | None) -> list[dict]:
    fits = {m: r for r in (traffic.rows if traffic else ()) for m in r.modules}
    rows = []
    for row in checkpoint.rows():
        row = {k: row[k] for k in COLUMNS} | {k: "" if row[k] is None else str(row[k]) for k in ("layer", "expert")}
        if weights:
            db = weights.sqnr_db(row["module"]) if row["module"] in weights.stats else {}
            row |= {n: db.get(n) for n in _names(weights)}
        if traffic:
            fit = fits.get(row["module"])
            row |= {"headroom": fit.headroom if fit else None, "loss_db": fit.loss_db if fit else None}
        rows.append(row)
    return rows


def _maps(checkpoint: Checkpoint, weights: Comparison | None, traffic: Traffic | None) -> Iterator[tuple]:
    """Figures and captions: the error, the block scales at E4M3's ends, headroom, and where findings are."""
    scans = {n: s for n, s in checkpoint.scans.items() if s.blocks}
    if weights:
        db = {n: weights.sqnr_db(n)[STORED] for n in weights.stats}
        yield _map(checkpoint, db, "SQNR (dB)", "Weights against the original", min), "The worst expert of each layer."
    else:
        db = {n: -10 * math.log10(s.nmse) for n, s in scans.items() if s.nmse > 0}
        if db:
            yield (_map(checkpoint, db, "SQNR (dB)", "Error expected from the codes", min),
                   "What rounding to E2M1 leaves in such codes; --against measures it.")  # fmt: skip
    for share, what in (("at_448", "Block scales at 448"), ("subnormal", "Subnormal block scales")):
        values = {n: 100 * getattr(s, share) for n, s in scans.items()}
        if any(values.values()):
            yield _map(checkpoint, values, "share (%)", what, max), "The largest share among a layer's experts."
    if traffic:
        room = {m: r.headroom for r in traffic.rows for m in r.modules if math.isfinite(r.headroom)}
        if room:
            yield (layer_map(checkpoint.by_layer(room, min), "headroom (times)", "Headroom of inputs", log=True),
                   "How many times the largest activation fits before it clips; the tightest expert.")  # fmt: skip
    counts = _counts(checkpoint, weights, traffic)
    if any(counts.values()):
        yield _map(checkpoint, counts, "findings", "Where findings are", sum), "Findings of all experts of a layer."


def _counts(checkpoint: Checkpoint, weights: Comparison | None, traffic: Traffic | None) -> dict[str, int]:
    """Findings about each matrix: its own, its weight's and its input's."""
    counts = {n: len(checkpoint.findings_of(n)) for n in checkpoint.matrices}
    for f in weights.findings if weights else ():
        counts[f.tensor] += 1
    wrong = {f.tensor for f in traffic.findings} if traffic else set()
    for module in {m for r in traffic.rows if r.tensor in wrong for m in r.modules} if traffic else ():
        counts[module] += 1
    return counts


def _map(checkpoint: Checkpoint, values: dict[str, float], label: str, title: str, worst):
    return layer_map(checkpoint.by_layer(values, worst), label, title)
