"""The messages between a page and a session, and what they carry: statistics, recipes, tables as compact JSON.

A page sends {"want": name, "id": any, ...} with the fields of REQUESTS; each request is answered by messages
{"kind": name, "id": the same, ...} with the fields of ANSWERS, and a session may send one with id None. A report's page
has the same values without a session. docs/messages.md says more, for who writes another page.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from dataclasses import asdict

import numpy as np

from ..analysis import RULES as BLOCK_RULES
from ..analysis import block_at, finite, inspect_block, known
from ..catalog import ERRORS, RATES, SUMMARY, style
from ..nvfp4 import E2M1_MAGNITUDES, E4M3_VALUES, FOUR_LIMIT, Recipe, as_recipe
from ..shown import layer, layer_order
from ..stats import Stats, nmse_bins

REQUESTS = {  # name -> its fields, and what is wanted; a field in brackets may be missing
    "hello": ((), "what was computed before the page listened: answered by `stats`"),
    "stats": (("tensor", "recipes"), "statistics of a tensor under recipes, by name: `stats`"),
    "ahead": (("tensors", "recipes"), "of these tensors what needs no computation, before it is looked at: `stats`"),
    "recipe": (("tensor", "settings"), "statistics under a recipe that the dials made, with its name: `stats`"),
    "sweep": (("recipe",), "every tensor under one more recipe, where that is quick: `stats`, later or never"),
    "picks": (("tensor", "recipe", "rule"), "the first blocks of a rule: `picks`"),
    "attribution": (("tensor", "recipes"), "where the error comes from: `attribution`"),
    "block": (("tensor", "block", "recipes", "[values]"), "one block, or 16 other values in its place: `block`"),
    "nothing": ((), "no answer: its arrival makes a server that waits for an acknowledgement go on"),
}
ANSWERS = {  # name -> its fields beside kind and id, and what it says
    "working": ((), "a computation has begun, the answer follows"),
    "refused": (("text",), "it cannot be had, and why"),
    "stats": (("[stats]", "[summary]", "[recipes]"), "tensor -> recipe -> statistics, or a summary; recipes' looks"),
    "picks": (("blocks", "note"), "token, block and value of each, best first"),
    "attribution": (("shares",), "recipe -> part -> share of the squared error"),
    "block": (("stored", "inspections", "token_text"), "its own 16 values; recipe -> every step of quantizing it"),
}
NUMBERS = (*ERRORS, "x_amax")
SOURCES = 8  # files that a call which loads them names
COUNTS = ("tokens", "features", "blocks", "nonzero_blocks", "elements", "nonzero_elements")


def check_request(message) -> None:
    """ValueError where a message is none of REQUESTS, or lacks a field."""
    want = message.get("want") if isinstance(message, dict) else None
    if want not in REQUESTS:
        raise ValueError(f"unknown request {want!r}: one of {', '.join(REQUESTS)}")
    missing = [f for f in REQUESTS[want][0] if not f.startswith("[") and f not in message]
    if missing:
        raise ValueError(f"request {want!r} lacks {', '.join(missing)}")


def compact(stats: Stats, **more) -> dict:
    """What is drawn of one tensor under one recipe; about 1 kB.

    Histograms are [first index, counts...] from the first non-zero count to the last, rates [rate, count, of].
    `more` is added as it is, such as attribution={...}.
    """
    trimmed = {
        "six": stats.scale_histogram[:, 0],  # by E4M3 byte
        "four": stats.scale_histogram[:, 1],
        "codes": stats.code_histogram,  # by E2M1 code
        "token_nmse": stats.token_histogram,  # by bin, whose edges in dB the catalog has
        "block_nmse": stats.block_histogram,
    }
    return {
        "engine": stats.engine,
        **{c: getattr(stats, c) for c in COUNTS},
        **{c: finite(getattr(stats, c)) for c in NUMBERS},
        "rates": {
            name: [getattr(stats, name), getattr(stats, rate.count), getattr(stats, rate.whole)]
            for name, rate in RATES.items()
            if not math.isnan(known(stats, name))
        },
        **{name: _trim(counts) for name, counts in trimmed.items()},
        **({"predicted_kl": stats.predicted_kl} if stats.kl_tokens else {}),
        **more,
    }


def summary(stats: Stats) -> list:
    """The numbers of SUMMARY, short, for the strip of all tensors; behind them the predicted KL, where there is one."""
    columns = (*SUMMARY, "predicted_kl") if stats.kl_tokens else SUMMARY
    digits = {"sqnr_db": 7}  # differences of it are shown in thousandths
    return [finite(float(f"{getattr(stats, c):.{digits.get(c, 5)}g}")) for c in columns]


def recipe_entry(recipe: Recipe) -> dict:
    """A recipe as the page knows it: name, settings for the dials, colour, dash and marker."""
    return {"name": recipe.name, "settings": recipe.to_dict(), **style(recipe)}


def origin(provenance: dict) -> dict[str, list[str]]:
    """What gives the same activations again: {"load": paths} or {"checkpoint": [path]}; empty where nothing does."""
    if checkpoint := provenance.get("checkpoint"):
        return {"checkpoint": [checkpoint]}
    paths = [str(source["path"]) for source in provenance.get("sources", [])]
    return {"load": paths} if 0 < len(paths) <= SOURCES else {}


def page_catalog(names, recipes, *, skipped=None, versions=None, predicted=False, origin=None) -> dict:
    """What a page has from the start: tensors in layer order, recipes, and the tables that it draws with.

    predicted: whether a KL of the output is predicted, so that tensors can be ordered by it; origin: as by `origin`.
    """
    skipped = skipped or {}
    return {
        "tensors": [{"name": n, "layer": layer(n), "skipped": skipped.get(n)} for n in layer_order(names)],
        "recipes": [recipe_entry(r) for r in recipes],
        "summary_columns": SUMMARY,
        "predicted": predicted,
        "rates": {name: rate.definition for name, rate in RATES.items()},
        "numbers": [asdict(rate) for rate in RATES.values()],
        "rules": BLOCK_RULES,
        "versions": versions or {},
        "origin": origin or {},
        "e4m3": E4M3_VALUES,
        "e2m1": E2M1_MAGNITUDES,
        "four_limit": FOUR_LIMIT,  # of a block scale for 6 above it, the one for 4 saturates
        "nmse_db": [round(v, 4) for v in (-10 * np.log10(nmse_bins())).tolist()],
    }


def packed(value) -> str:
    """A JSON value, compressed: what a page unpacks."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def unpacked(text: str):
    """What was packed; for the little that this process made."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def _trim(counts: np.ndarray) -> list[int]:
    filled = np.flatnonzero(counts)
    return [] if not filled.size else [int(filled[0]), *counts[filled[0] : filled[-1] + 1].tolist()]


def inspections(x, token: int, block: int, recipes, values=None) -> dict:
    """One block under several recipes, as the page asks for it; `values` stand in for the block's own 16."""
    steps = {}
    for name in recipes:
        recipe = as_recipe(name)
        stored, amax = block_at(x, token, block, recipe)
        steps[recipe.name] = inspect_block(values or stored, amax, recipe)
    return {"stored": stored, "inspections": steps}
