"""The report's part on the output: the plan with its price beside tensor errors, and where the error goes."""

from __future__ import annotations

import math

from markupsafe import Markup

from ..analysis import Sweep, marked
from ..explorer import TOKENS, measured, prompts, ranking
from ..planning import Drift, LayerPlan, drift_by_layer, drift_map, frontier
from ..shown import short
from .document import fill, picture

UNITS, FLIPS = 12, 10  # rows that a page lists


def output_section(sweep: Sweep, plan: LayerPlan | None, drift: Drift | None) -> Markup:
    """HTML of the section, empty where neither is given."""
    if plan is None and drift is None:
        return Markup()
    return fill("output.html", plan=plan and _plan(sweep, plan), drift=drift and _drift(drift))


def _plan(sweep: Sweep, plan: LayerPlan) -> dict:
    title = f"Keeping layers in {plan.keep}, the rest by {marked(plan.recipe)}"
    ax = frontier(plan.frontier, plan.knee, title)
    caption = "Each mark is a set of kept layers, its KL measured. The knee is farthest below a line between the ends."
    return {
        "sentence": plan.sentence() + ".", "figure": picture(ax, caption, "frontier"),
        "points": [_point(plan, i) for i in range(len(plan.frontier))],
        "recipes": [_recipe(sweep, r) for r in plan.recipes],
        "units": _units(sweep, plan), "families": _families(plan), "kept": plan.point.kept, "measured": measured(plan),
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
    return {"recipe": marked(row["recipe"]), "gain": gain, "kl": f"{row['kl']:.4g}", "interval": interval,
            "cost": copies, "machine": cost["machine"]}  # fmt: skip


def _interval(low: float, high: float) -> str:
    return "too few tokens" if math.isnan(low) else f"{max(0.0, low):.3g} to {high:.3g}"


def _units(sweep: Sweep, plan: LayerPlan) -> list[dict]:
    """Tensor error beside output error, the largest effect on the output first."""
    rows = []
    for row in ranking(sweep.stats, plan)["rows"][:UNITS]:
        seen = [sweep.stats[t][plan.recipe].sqnr_db for t in row["tensors"] if plan.recipe in sweep.stats[t]]
        spared = row["measured"]
        rows.append({
            "unit": row["name"], "sqnr": f"{min(seen):.2f}" if seen else "", "predicted": f"{row['predicted']:.4g}",
            "spared": "" if math.isnan(spared) else short(spared), "kept": row["kept"],
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
    recipe = marked(drift.provenance.get("recipe", "two recordings"))
    lines = drift_by_layer(
        drift.by_layer(), drift.layers, local=drift.by_layer("local"), floor=drift.by_layer("floor"),
        leaves=drift.leaves, title=f"Error along the depth, {recipe}",
    )  # fmt: skip
    heat = drift_map(drift.sqnr()[:, :TOKENS], drift.layers, f"Error by layer and token, {recipe}")
    output = drift.output
    changed = prompts(drift) if output else {"percentiles": [], "rows": [], "agreement": ""}
    return {
        "figures": [
            picture(lines, "SQNR of what layers return. Where it leaves the floor, quantizing says more than bf16.",
                    "drift-layers"),
            picture(heat, f"The first {min(TOKENS, drift.signal.shape[1])} tokens; a dark column is a hard token.",
                    "drift-map"),
        ],
        "percentiles": [(name, f"{v:.3g}") for name, v in changed["percentiles"]],
        "positions": [(f"{a} to {b}" if b > a else f"{a}", f"{kl:.3g}") for a, b, kl in output.by_position()]
        if output else [],
        "prompts": [(s, f"{kl:.3g}", text) for s, kl, text in changed["rows"]],
        "flips": output.flips[:FLIPS] if output else [],
        "agreement": changed["agreement"],
        "skipped": drift.skipped,
    }  # fmt: skip
