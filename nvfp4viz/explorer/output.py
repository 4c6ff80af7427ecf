"""What the tab "Output" and a report's section show: tensor error beside output error, frontier, drift, prompts.

`outputs` makes numbers of what `impact`, `plan` and `drift` returned; the page draws them, the report writes them.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from ..analysis import Impact
from ..planning import Drift, LayerPlan

TOKENS = 512  # of a drift map: more would be narrower than a pixel
CELLS = 8000  # of a drift map in the explorer: neighbouring tokens share one where there are more
PROMPTS = 5
MISSING = {  # part -> what it takes
    "ranking": "plan=nvfp4viz.plan(model, batches), or impact=nvfp4viz.impact(..., per_layer=True)",
    "frontier": "plan=nvfp4viz.plan(model, batches)",
    "drift": "drift=nvfp4viz.drift(model, batches), or drift_between(a, b) of two recordings",
    "prompts": "drift=nvfp4viz.drift(model, batches): two recordings have no output",
}


def outputs(tensors: Collection[str], impact=None, plan=None, drift=None) -> dict:
    """JSON-ready: "impact", "ranking", "frontier", "drift", "prompts", as far as they are known; "missing": the rest.

    Args: tensors: names that the page knows, to find the inputs of a unit; the others as `report` takes them.
    Raises TypeError where one of them is something else. KL is in nats a token, SQNR in dB; None is no number.
    """
    given = (("impact", impact, Impact), ("plan", plan, LayerPlan), ("drift", drift, Drift))
    for made, value, kind in given:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{made}= is a {type(value).__name__}: give what nvfp4viz.{made}(...) returns")
    found = {
        "impact": impact and _impact(impact),
        "ranking": (plan and ranking(tensors, plan)) or (impact and _by_layer(tensors, impact)),
        "frontier": plan and _frontier(plan),
        "drift": drift and _drift(drift),
        "prompts": drift and drift.output and prompts(drift),
    }
    found = {name: value for name, value in found.items() if value}
    return {**_plain(found), "missing": {part: why for part, why in MISSING.items() if part not in found}}


def ranking(tensors: Collection[str], plan: LayerPlan) -> dict:
    """Units, the largest predicted effect first, with those of their inputs that are known here."""
    rows = [
        {"name": unit["name"], "tensors": [t for t in (*unit["matrices"], unit["name"]) if t in tensors],
         "predicted": unit["predicted_kl"], "measured": unit["spared_kl"], "kept": unit["name"] in plan.point.kept}
        for unit in sorted(plan.units, key=lambda u: -u["predicted_kl"])
    ]  # fmt: skip
    return {"recipe": plan.recipe, "measured": "KL that keeping it takes off", "rows": rows}


def _by_layer(tensors: Collection[str], impact: Impact) -> dict | None:
    """Layers quantized alone, the largest measured effect first, under the recipe of the least KL."""
    alone = [e for e in impact.effects if e.module is not None]
    best = next((n for n in impact.kl if any(e.recipe == n for e in alone)), None)
    rows = [
        {"name": e.module, "tensors": [e.module] * (e.module in tensors), "predicted": None, "measured": e.kl,
         "kept": False}
        for e in sorted(alone, key=lambda e: -e.kl) if e.recipe == best
    ]  # fmt: skip
    return rows and {"recipe": best, "measured": "KL with it alone quantized", "rows": rows}


def _impact(impact: Impact) -> dict:
    """KL of each recipe on all layers with its 95 % interval, and how each differs from each in the same tokens."""
    names = list(impact.kl)
    return {
        "kl": {n: impact.whole[n].measures(impact.judge)["kl"] for n in names},
        "against": {n: {over: _difference(impact, n, over) for over in names if over != n} for n in names},
        "about": f"{impact.provenance.get('quantized', impact.quantize)}; {impact.judged_by}",
    }


def _difference(impact: Impact, recipe: str, over: str) -> str:
    found = impact.difference(recipe, over)
    return f"{found.percent()}: {found.enough()}"


def _frontier(plan: LayerPlan) -> dict:
    points = [
        {"kept": len(p.kept), "bits": p.bits, "share": p.fp4_share, "kl": p.kl, "low": p.kl_low, "high": p.kl_high,
         "other": p.other_kl, "additive": p.additive_kl}
        for p in plan.frontier
    ]  # fmt: skip
    return {"sentence": plan.sentence() + ".", "points": points, "knee": plan.knee, "about": measured(plan)}


def measured(plan: LayerPlan) -> str:
    """On how much, and by what, a plan was measured."""
    about = plan.provenance
    return (
        f"{about['quantized']}; {about['passes']} forward passes over {plan.text}; "
        f"nvfp4viz {about['versions']['nvfp4viz']}, torch {about['versions']['torch']}"
    )


def _drift(drift: Drift) -> dict:
    signal, error = drift.signal[:, :TOKENS], drift.cumulative[:, :TOKENS]
    tokens = signal.shape[1]
    step = math.ceil(tokens / max(1, min(tokens, CELLS // len(drift.layers))))
    starts = np.arange(0, tokens, step)
    with np.errstate(divide="ignore", invalid="ignore"):
        db = 10 * np.log10(np.add.reduceat(signal, starts, 1) / np.add.reduceat(error, starts, 1))
    seen = db[np.isfinite(db)]
    low, high = np.percentile(seen, [1, 99]).tolist() if seen.size else (0.0, 1.0)
    return {
        "recipe": drift.provenance.get("recipe", "two recordings"), "layers": drift.layers, "leaves": drift.leaves,
        **{what: np.round(drift.by_layer(what), 2).tolist() for what in ("cumulative", "local", "floor")},
        "map": np.round(db, 1).tolist(), "step": step, "tokens": tokens, "low": low, "high": high,
    }  # fmt: skip


def prompts(drift: Drift) -> dict:
    """The sequences that change most, and how the KL spreads over tokens."""
    change = drift.output
    return {
        "agreement": f"{change.same.mean():.2%} of {change.same.size:,} top tokens are the same",
        "percentiles": [["largest" if p == 100 else f"{p:g} %", v] for p, v in change.percentiles().items()],
        "rows": [list(row) for row in change.by_sequence()[:PROMPTS]],
    }


def _plain(value):
    """Without NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
