"""What a report carries: a Sweep, exact to the last bit, in the form that its page draws. See docs/report-format.md.

Nothing is in it twice: `load_report` takes histograms from what is drawn, the page skips what only `load_report` needs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from dataclasses import fields

import numpy as np

from ..analysis import Attribution, Sweep, block_inspections, fitting
from ..explorer import COUNTS, compact, origin, outputs, packed, page_catalog, recipe_entry, summary
from ..nvfp4 import Recipe
from ..stats import Stats, plain

FORMAT = "nvfp4viz-report-1"
DRAWN = (*COUNTS, "engine", "max_error", "x_amax")  # fields of Stats that `page.compact` has by the same name
HISTOGRAMS = {"code_histogram": "codes", "token_histogram": "token_nmse", "block_histogram": "block_nmse"}
RUN_SUMS = "run_nmse"  # by its bytes


def page_data(sweep: Sweep, output: dict | None = None) -> dict:
    """The sweep as a report holds it, JSON-ready; output: what its page shows of the model's output, not read back."""
    about = {"skipped": sweep.skipped, "versions": sweep.provenance.get("versions"), "predicted": sweep.predicted}
    catalog = page_catalog(sweep.stats, (), **about, origin=origin(sweep.provenance))
    catalog["recipes"] = [{**recipe_entry(r), "name": name} for name, r in sweep.recipes.items()]
    fast = {name: recipe for name, recipe in sweep.recipes.items() if recipe.fast_math}  # the page computes the others
    return {
        "format": FORMAT,
        "catalog": catalog,
        "summary": {t: {n: summary(s) for n, s in row.items()} for t, row in sweep.stats.items()},
        "stats": {
            t: {n: compact(s, **_shares(sweep, t, n)) for n, s in row.items()} for t, row in sweep.stats.items()
        },
        "exact": {t: _shared({n: _exact(s) for n, s in row.items()}) for t, row in sweep.stats.items()},
        "recipes": {name: r.to_dict() for name, r in sweep.recipes.items()},
        "provenance": sweep.provenance,
        "skipped": sweep.skipped,
        "attributions": {t: {n: a.to_dict() for n, a in row.items()} for t, row in sweep.attributions.items()},
        "blocks": sweep.blocks,
        "output": outputs(sweep.stats) if output is None else output,
        "inspections": {t: block_inspections(kept["blocks"], fast) for t, kept in sweep.blocks.items()} if fast else {},
    }  # fmt: skip


def unpack(values: dict) -> Sweep:
    """The sweep that was packed. ValueError where it is of another version, KeyError or TypeError where damaged."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        seen = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"its data has format {seen!r}, expected {FORMAT!r}: written by another version of nvfp4viz?")
    parts = fitting(
        stats={t: {n: _stats(s, values["exact"][t], n) for n, s in row.items()} for t, row in values["stats"].items()},
        recipes={name: Recipe.from_dict(r) for name, r in values["recipes"].items()},
        provenance=values["provenance"],
        skipped=values["skipped"],
        attributions={
            t: {n: Attribution.from_dict(a) for n, a in row.items()} for t, row in values["attributions"].items()
        },
        blocks=values["blocks"],
    )
    return Sweep.of(**parts)


def _shares(sweep: Sweep, tensor: str, name: str) -> dict:
    return {"attribution": sweep.attributions[tensor][name].shares()} if tensor in sweep.attributions else {}


def _exact(stats: Stats) -> dict:
    """The fields that the page does not draw."""
    drawn = {*DRAWN, *HISTOGRAMS, RUN_SUMS, "scale_histogram"}
    rest = {f.name: plain(getattr(stats, f.name)) for f in fields(Stats) if f.name not in drawn}
    return rest | {RUN_SUMS: _shuffled(getattr(stats, RUN_SUMS))}


def _stats(compact: dict, exact: dict, name: str) -> Stats:
    values = {**exact["all"], **exact["each"][name]}
    values |= {field: compact[field] for field in DRAWN}
    values |= {field: _full(compact[drawn], 16 if drawn == "codes" else 256) for field, drawn in HISTOGRAMS.items()}
    if RUN_SUMS in values:  # the first release had none
        values[RUN_SUMS] = np.frombuffer(_unshuffled(values[RUN_SUMS]), "<f8").reshape(np.shape(values["run_tokens"]))
    values["scale_histogram"] = np.stack([_full(compact["six"], 127), _full(compact["four"], 127)], 1)
    return Stats.from_dict(values)


def _shared(row: dict[str, dict]) -> dict:
    """What is the same under all recipes of a tensor, said once."""
    first, *others = row.values()
    same = {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}
    return {"all": same, "each": {n: {k: v for k, v in one.items() if k not in same} for n, one in row.items()}}


def _full(trimmed: list[int], size: int) -> np.ndarray:
    counts = np.zeros(size, np.int64)
    if trimmed:
        counts[trimmed[0] : trimmed[0] + len(trimmed) - 1] = trimmed[1:]
    return counts


def _shuffled(values: np.ndarray) -> str:
    """Float64 as base64, first all first bytes, then all second ones: exponents together compress."""
    return base64.b64encode(np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, 8).T.tobytes()).decode()


def _unshuffled(text: str) -> bytes:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(8, -1).T.tobytes()


# In a file of HTML
UNSIGNED = "0" * 64
_SIGNATURE = re.compile(r'<meta name="nvfp4viz-sha256" content="([0-9a-f]{64})">')
_BLOCK = re.compile(r'<script type="application/gzip" id="sweep">([A-Za-z0-9+/=]+)</script>')


def script(value, name: str = "sweep") -> str:
    """A JSON value as a compressed data block of a page."""
    return f'<script type="application/gzip" id="{name}">{packed(value)}</script>'


def sign(html: str) -> str:
    """The page, whose head holds `signature(UNSIGNED)`, with its own checksum there."""
    return html.replace(signature(UNSIGNED), signature(hashlib.sha256(html.encode()).hexdigest()), 1)


def signature(digest: str = UNSIGNED) -> str:
    return f'<meta name="nvfp4viz-sha256" content="{digest}">'


def read(html: str) -> Sweep:
    """The Sweep in a signed page; ValueError where it is none, or not as it was written."""
    signed, found = _SIGNATURE.search(html), _BLOCK.search(html)
    if signed is None:
        raise ValueError("it is no report of nvfp4viz")
    unsigned = html.replace(signed[0], signature(UNSIGNED), 1)
    if hashlib.sha256(unsigned.encode()).hexdigest() != signed[1]:
        raise ValueError(
            "it does not match its checksum: truncated, edited, or saved anew by a browser; ask for the original file"
        )
    if found is None:
        raise ValueError("it holds no sweep: a comparison, or notebooks")
    try:
        return unpack(json.loads(_gunzip(base64.b64decode(found[1]))))
    except (KeyError, TypeError, AttributeError, OverflowError, zlib.error) as error:
        raise ValueError(f"its data is not of this version of nvfp4viz: {error!r}") from error


def _gunzip(packed: bytes) -> bytes:
    """What was compressed; ValueError where it is cut off, or grows beyond any sweep, so as not to fill the memory."""
    stream = zlib.decompressobj(wbits=31)
    data = stream.decompress(packed, (16 << 20) + 50 * len(packed))
    if not stream.eof:
        raise ValueError("its data does not end, or is much larger than a sweep")
    return data
