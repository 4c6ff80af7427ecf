"""The report's part on the output: the plan with its price beside tensor errors, and where the error goes."""

from __future__ import annotations

import math

from markupsafe import Markup

from ..analysis import Sweep
from ..planning import Drift, LayerPlan, drift_by_layer, drift_map, frontier
from .document import fill, picture

UNITS, FLIPS, PROMPTS = 12, 10, 5  # rows that a page lists
TOKENS = 512  # of a drift map: more would be narrower than a pixel


def output_section(sweep: Sweep, plan: LayerPlan | None, drift: Drift | None) -> Markup:
    """HTML of the section, empty where neither is given; TypeError where they are something else."""
    for value, kind, made in ((plan, LayerPlan, "plan"), (drift, Drift, "drift")):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{made}= is a {type(value).__name__}: give what nvfp4viz.{made}(...) returns")
    if plan is None and drift is None:
        return Markup()
    return fill("output.html", plan=plan and _plan(sweep, plan), drift=drift and _drift(drift))


def _plan(sweep: Sweep, plan: LayerPlan) -> dict:
    title = f"Keeping layers in {plan.keep}, the rest by {plan.recipe}"
    ax = frontier(plan.frontier, plan.knee, title)
    caption = "Each mark is a set of kept layers, its KL measured. The knee is farthest below a line between the ends."
    about = plan.provenance
    return {
        "sentence": plan.sentence() + ".", "figure": picture(ax, caption, "frontier"),
        "points": [_point(plan, i) for i in range(len(plan.frontier))],
        "recipes": [_recipe(sweep, r) for r in plan.recipes],
        "units": _units(sweep, plan), "families": _families(plan), "kept": plan.point.kept,
        "measured": f"{about['quantized']}; {about['passes']} forward passes over {about['tokens']:,} tokens; "
                    f"nvfp4viz {about['versions']['nvfp4viz']}, torch {about['versions']['torch']}",
    }  # fmt: skip


def _point(plan: LayerPlan, i: int) -> dict:
    p = plan.frontier[i]
    return {
        "knee": i == plan.knee, "kept": len(p.kept), "bits": f"{p.bits:.2f}", "share": f"{p.fp4_share:.0%}",
        "kl": f"{p.kl:.4g}", "interval": _interval(p.kl_low, p.kl_high), "additive": f"{p.additive_kl:.4g}",
        "other": "" if math.isnan(p.other_kl) else f"{p.other_kl:.4g}",
    }  # fmt: skip


def _recipe(sweep: Sweep, row: dict) -> dict:
    """Gain over standard in dB, effect on the output, and cost of a recipe."""
    gain = ""
    if row["recipe"] in sweep.recipes and "standard" in sweep.recipes:
        gain = f"{sweep.total(row['recipe']).sqnr_db - sweep.total('standard').sqnr_db:+.2f}"
    cost = row["cost"]
    copies = "not in the table" if cost["copies"] is None else f"{cost['copies']:.2f}"
    interval = _interval(row["kl_low"], row["kl_high"])
    return {"recipe": row["recipe"], "gain": gain, "kl": f"{row['kl']:.4g}", "interval": interval, "cost": copies,
            "machine": cost["machine"]}  # fmt: skip


def _interval(low: float, high: float) -> str:
    return "too few tokens" if math.isnan(low) else f"{max(0.0, low):.3g} to {high:.3g}"


def _units(sweep: Sweep, plan: LayerPlan) -> list[dict]:
    """Tensor error beside output error, the largest effect on the output first."""
    rows = []
    for unit in sorted(plan.units, key=lambda u: -u["predicted_kl"])[:UNITS]:
        seen = [sweep.stats[m][plan.recipe].sqnr_db for m in (*unit["matrices"], unit["name"])
                if plan.recipe in sweep.stats.get(m, {})]  # fmt: skip
        spared = unit["spared_kl"]
        rows.append({
            "unit": unit["name"], "sqnr": f"{min(seen):.2f}" if seen else "",
            "predicted": f"{unit['predicted_kl']:.4g}",
            "spared": "" if math.isnan(spared) else f"{spared:.4g}", "kept": unit["name"] in plan.point.kept,
        })  # fmt: skip
    return rows


def _families(plan: LayerPlan) -> str:
    found = plan.families
    if set(found["recipes"].values()) == {plan.recipe}:
        return f"{plan.recipe} is predicted to be the best of every family of layers. {found['who']}"
    chosen = ", ".join(f"{family} {recipe}" for family, recipe in found["recipes"].items())
    return (
        f"The best recipe by family of layers ({chosen}) has a KL of {found['kl']:.4g}, {found['gain']:+.2g} better "
        f"than {plan.recipe} for all ({_interval_of_gain(found)}). {found['who']}"
    )


def _interval_of_gain(found: dict) -> str:
    low, high = found["gain_low"], found["gain_high"]
    return "too few tokens for an interval" if math.isnan(low) else f"95 %: {low:+.2g} to {high:+.2g}"


def _drift(drift: Drift) -> dict:
    recipe = drift.provenance.get("recipe", "two recordings")
    lines = drift_by_layer(
        drift.by_layer(), drift.layers, local=drift.by_layer("local"), floor=drift.by_layer("floor"),
        leaves=drift.leaves, title=f"Error along the depth, {recipe}",
    )  # fmt: skip
    heat = drift_map(drift.sqnr()[:, :TOKENS], drift.layers, f"Error by layer and token, {recipe}")
    output = drift.output
    return {
        "figures": [
            picture(lines, "SQNR of what layers return. Where it leaves the floor, quantizing says more than bf16.",
                    "drift-layers"),
            picture(heat, f"The first {min(TOKENS, drift.signal.shape[1])} tokens; a dark column is a hard token.",
                    "drift-map"),
        ],
        "percentiles": [("largest" if p == 100 else f"{p:g} %", f"{v:.3g}") for p, v in output.percentiles().items()]
        if output else [],
        "positions": [(f"{a} to {b}" if b > a else f"{a}", f"{kl:.3g}") for a, b, kl in output.by_position()]
        if output else [],
        "prompts": [(s, f"{kl:.3g}", text) for s, kl, text in output.by_sequence()[:PROMPTS]] if output else [],
        "flips": output.flips[:FLIPS] if output else [],
        "agreement": f"{output.same.mean():.2%} of {output.same.size:,} top tokens are the same" if output else "",
        "skipped": drift.skipped,
    }  # fmt: skip
