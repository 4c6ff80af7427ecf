"""The head of a report on the model's output: tensor error, predicted KL and measured KL, a recipe a row."""

from __future__ import annotations

from ..analysis import Impact, Sweep, Verdict
from ..catalog import style
from ..nvfp4 import study_only
from ..shown import signed

NOT_MEASURED = (
    "Output not measured: nvfp4viz impact MODEL TEXT -o impact.json does it, and report --impact impact.json shows it."
)
WORST = 10  # inputs listed by predicted effect


def outlook_rows(sweep: Sweep, verdict: Verdict | None, impact: Impact | None) -> dict | None:
    """For the page: a row a recipe, the least KL first, measured or else predicted; None where neither is known."""
    if verdict is None or not (verdict.outlook.predicted or verdict.outlook.measured):
        return None
    known, best = verdict.outlook, verdict.recipe
    margin = {best: 0.0} | {c.over: c.margin_db for c in verdict.comparisons}  # dB of error above the named recipe's
    measures = {e.recipe: e.measures(impact.judge)["kl"] for e in impact.whole.values()} if impact else {}
    kl_of = known.measured or known.predicted
    order = sorted(known.predicted or known.measured, key=lambda n: kl_of.get(n, float("inf")))
    rows = []
    for name in order:
        kl, low, high = measures.get(name, (None, None, None)) if name in known.measured else (None, None, None)
        against = impact.difference(name, best) if kl is not None and name != best and best in known.measured else None
        rows.append({
            "name": name, "study": study_only(sweep.recipes[name]), "color": style(sweep.recipes[name])["color"],
            "error": signed(margin[name]),
            "predicted": f"{known.predicted[name]:.3g}" if known.predicted else "",
            "measured": "" if kl is None else f"{kl:.3g}" if low != low else f"{kl:.3g} ({low:.3g} to {high:.3g})",
            "against": f"{against.percent()}: {against.enough()}" if against else "",
        })  # fmt: skip
    judged = f"{impact.provenance.get('quantized', impact.quantize)}; {impact.judged_by}" if known.measured else ""
    return {"rows": rows, "best": best, "predicted": bool(known.predicted), "measured": bool(known.measured),
            "judged": judged, "worst": _worst(sweep, verdict), "part": known.part}  # fmt: skip


def _worst(sweep: Sweep, verdict: Verdict) -> list[dict]:
    """The inputs of the largest predicted effect: KL by recipe, in nats a token, and the share of the named one's."""
    total = verdict.outlook.predicted.get(verdict.recipe) or 1.0
    return [
        {"tensor": t, "place": sweep.tensors.index(t),
         "share": f"{sweep.stats[t][verdict.recipe].predicted_kl / total:.0%}",
         "kl": [f"{sweep.stats[t][n].predicted_kl:.2g}" for n in sweep.recipes]}
        for t in verdict.outlook.worst[:WORST]
    ]  # fmt: skip
