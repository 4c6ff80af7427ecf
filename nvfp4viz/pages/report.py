"""The report: one HTML file that opens offline, shows the verdict and every number, and reads back as a Sweep."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from math import isfinite
from pathlib import Path

from markupsafe import Markup

from .. import plots
from ..analysis import (
    DEFAULTS,
    SGLANG,
    Comparison,
    Impact,
    Sweep,
    Verdict,
    changes,
    coverage_sentence,
    is_decided,
    is_saved,
    recommend,
)
from ..analysis import sweep as measured
from ..catalog import COLUMNS as NUMBERS
from ..catalog import RATES, SIZES, style
from ..checkpoints import Checkpoint
from ..explorer import outputs
from ..nvfp4 import FOUR_LIMIT, study_only
from ..shown import error_text, fixed, percent, quantity, short, signed
from . import packing
from .checkpoint import report_checkpoint
from .document import document, fill, picture, write, written
from .outlook import NOT_MEASURED, outlook_rows
from .output import output_section
from .words import glossary

COLUMNS = {  # of the table and its CSV: heading, and how report.js shows it
    **{name: (name, "text") for name in ("tensor", "recipe", "engine")},
    **{n.name: (n.heading, n.kind) for n in (*SIZES.values(), *NUMBERS.values())},
}
SHORT = ("sqnr_db", "nmse", "max_error", "four_rate", "four_saturated", "element_clipped")  # without a script
OF_ACTIVATIONS = "Errors are of activations, not of the model's output: nvfp4viz.impact measures that."
WORST = 5  # tensors listed as the worst
ROWS = 24  # tensors that the figure of gains has room for


def report(
    sweep: Sweep | Checkpoint, path: str | os.PathLike, *, author: str | None = None, impact: Impact | None = None,
    plan=None, drift=None,
) -> Path:  # fmt: skip
    """Write the sweep as one self-contained HTML file and return its path; of a checkpoint, its findings and maps.

    Args:
        sweep:  or activations, whatever `nvfp4viz.sweep` takes, for all named recipes.
        author: who made it, as the page says beside the date; nobody where it is None.
        impact: what was measured of the model's output, for the page's head beside tensor error and predicted KL.
        plan:   of the same model, as `nvfp4viz.plan` returns: which layers to keep. drift: as `nvfp4viz.drift` returns.
    Raises TypeError for anything else, ValueError for an empty one, OSError where the file cannot be written; an
    older file then stays as it was.
    """
    if isinstance(sweep, Checkpoint):
        return report_checkpoint(sweep, path, author=author)
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path is a {type(path).__name__}: report(sweep, path) takes a Sweep and a path, in this order")
    if isinstance(sweep, (str, os.PathLike)) and is_saved(sweep):
        sweep = Sweep.load(sweep)
    if not isinstance(sweep, Sweep):
        try:
            sweep = measured(sweep)
        except TypeError as error:
            raise TypeError(f"report takes a Sweep, a Checkpoint, or activations to sweep: {error}") from error
    if not sweep.stats:
        raise ValueError("the sweep has no statistics: analyse at least one tensor before writing a report")
    output = outputs(sweep.stats, impact, plan, drift)
    return write(render(sweep, author, impact, output_section(sweep, plan, drift), output), path)


def load_report(path: str | os.PathLike) -> Sweep:
    """The Sweep inside a report; ValueError where the file is no report, is truncated or was edited."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"load_report takes a report's path, not a {type(path).__name__}")
    try:
        return packing.read(Path(path).expanduser().read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read the report {str(path)!r}: {error_text(error)}") from error


def render(
    sweep: Sweep, author: str | None = None, impact: Impact | None = None, planned: Markup | None = None,
    output: dict | None = None,
) -> str:  # fmt: skip
    """The page as a string; planned: the section on plan and drift; output: what the explorer has of them."""
    impact = impact and impact.called_as(sweep.recipes)
    try:
        verdict = recommend(sweep, impact=impact)
    except ValueError as error:  # nothing but zeros or nothing at all: the table still says so
        verdict, sentence, best = None, ("No verdict", "", f"{error}."), next(iter(sweep.recipes))
    else:
        sentence, best = verdict.sentence().partition(": "), verdict.recipe
    recipe = sweep.recipes[best]
    body = fill(
        "report.html",
        sentence=sentence, color=style(recipe)["color"], best=best, written=written(author), planned=planned,
        worst=_worst(sweep, best), unmeasured=_unmeasured(sweep, impact), words=glossary(), rows=_rows(sweep),
        short=SHORT,
        measured=_measured(sweep), skipped=sweep.skipped, interrupted=sweep.provenance.get("interrupted"),
        margins=_margins(sweep, verdict.comparisons) if verdict else [],
        output=outlook_rows(sweep, verdict, impact), not_measured=_not_measured(verdict, impact),
        settings=_settings(sweep, verdict) if verdict else None,
        figures=_figures(sweep, best), shown=_shown(sweep, verdict, best), columns=_columns(sweep),
        provenance=_provenance(sweep), recipes=_recipes(sweep),
        data=Markup(packing.script(packing.page_data(sweep, output))),
    )  # fmt: skip
    return document(f"NVFP4 report: {_subject(sweep)}: {sentence[0]}", body, printed=written(author))


def _columns(sweep: Sweep) -> dict[str, tuple[str, str]]:
    """Columns of the table: those of all sweeps, and the predicted KL where there is one."""
    return COLUMNS | ({"predicted_kl": ("predicted KL", "short")} if sweep.predicted else {})


def _models(sweep: Sweep) -> list[str]:
    found = [s.get("metadata", {}).get("model") for s in sweep.provenance.get("sources", [])]
    return list(dict.fromkeys(str(m) for m in found if m))


def _subject(sweep: Sweep) -> str:
    """What was measured, in a few words."""
    return f"{(_models(sweep) or sweep.tensors)[0][-60:]}, {quantity(len(sweep.stats), 'tensor')}"


def _worst(sweep: Sweep, best: str) -> list[dict]:
    """The tensors with the largest error under the best recipe, and what others give there."""
    order = sorted(sweep.stats, key=lambda t: sweep.stats[t][best].sqnr_db)[:WORST]
    return [
        {"tensor": t, "place": sweep.tensors.index(t), "sqnr": [fixed(s.sqnr_db) for s in sweep.stats[t].values()]}
        for t in order
    ]


def _unmeasured(sweep: Sweep, impact: Impact | None) -> list[str]:
    """What a reader might think was measured, and was not."""
    seen = coverage_sentence(sweep.provenance.get("coverage"))
    missing = [f"Of the model, {seen} were seen; the rest was not."] if seen else [
        "Only the tensors listed here were measured, not every input of the model's layers."
    ]  # fmt: skip
    return [*missing, "Weights stay as they are; their own quantization adds to the error.",
            *([] if impact else [OF_ACTIVATIONS]),
            f"Engine {', '.join(sweep.engines)} computed this: no speed was measured."]  # fmt: skip


def _rows(sweep: Sweep) -> list[dict]:
    """The table without a script: the numbers of SHORT, and which recipe is a tensor's best."""
    rows = []
    for tensor, row in sweep.stats.items():
        most = max(s.sqnr_db for s in row.values())
        for name, stats in row.items():
            numbers = [_shown_number(getattr(stats, n), NUMBERS[n].kind) for n in SHORT]
            rows.append({"tensor": tensor, "recipe": name, "numbers": numbers, "best": stats.sqnr_db == most,
                         "study": study_only(sweep.recipes[name])})  # fmt: skip
    return rows


def _shown_number(value: float, kind: str) -> str:
    """As the page's script writes it."""
    return {"db": lambda v: fixed(v, 3), "share": percent}.get(kind, short)(value)


def _recipes(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Name, settings, and what stands against running it."""
    return [(name, repr(recipe), study_only(recipe)) for name, recipe in sweep.recipes.items()]


def _measured(sweep: Sweep) -> list[str]:
    """What was measured with what."""
    tokens = max(s.tokens for row in sweep.stats.values() for s in row.values())
    versions = sweep.provenance.get("versions", {})
    return [
        *_models(sweep), quantity(len(sweep.stats), "tensor"), f"up to {quantity(tokens, 'token')}",
        quantity(len(sweep.recipes), "recipe"), f"engine {', '.join(sweep.engines)}",
        *(f"{name} {versions[name]}" for name in ("nvfp4viz", "torch", "flashinfer-python") if versions.get(name)),
    ]  # fmt: skip


def _not_measured(verdict: Verdict | None, impact: Impact | None) -> str:
    """Where no measurement speaks of the named recipe: how to make one, or what the one that was given lacks."""
    if impact is None or verdict is None:
        return NOT_MEASURED if impact is None else ""
    return "" if verdict.outlook.measured else f"{verdict.outlook.how}."


def _margins(sweep: Sweep, comparisons: tuple[Comparison, ...]) -> list[dict]:
    """The named recipe against others, each as a line with its interval; places are percent of one axis."""
    ends = [v for c in comparisons for v in (0.0, c.margin_db, *(c.interval_db or ()))] or [0.0]
    low, span = min(ends), max(ends) - min(ends) or 1.0
    place = {v: 2 + 96 * (v - low) / span for v in ends}
    rows = []
    for c in comparisons:
        other = sweep.recipes[c.over]
        left, right = (place[v] for v in c.interval_db or (c.margin_db,) * 2)
        zero, to = place[0.0], place[c.margin_db]
        interval = " to ".join(fixed(v, 3) for v in c.interval_db) if c.interval_db else c.lacks
        places = {"zero": zero, "from": min(zero, to), "reach": abs(to - zero), "left": left, "width": right - left}
        rows.append({
            "role": c.role, "over": c.over, "study": study_only(other), "color": style(other)["color"],
            "gain": signed(c.margin_db), "wins": c.wins, "tensors": len(c.by_tensor_db),
            "interval": interval,
            **{name: f"{v:.2f}" for name, v in places.items()},
        })  # fmt: skip
    return rows


def _settings(sweep: Sweep, verdict: Verdict) -> dict:
    """What to set, and all that it changes; nothing where only a measurement can tell which recipe to set."""
    from ..environment import environment_of, flashinfer_config

    name = verdict.outlook.measured_against(verdict.recipe) or verdict.recipe
    recipe = sweep.recipes[name]
    if verdict.contradicted not in (None, name):
        return {
            "name": name,
            "unset": "Nothing yet: tensor error and the predicted KL of the output disagree. Measure it.",
        }
    try:
        variables = "\n".join(f"{key}={value}" for key, value in environment_of(recipe, "sglang").items())
        call = f"nvfp4_4over6={flashinfer_config(recipe, text=True)}".replace("(", "(\n    ").replace(")", "\n)")
    except ValueError as error:  # a ceiling to study, which no environment can set
        return {"name": name, "unset": str(error)}
    advised = is_decided(verdict) or name != verdict.recipe
    heading = f"What to set for {name}" if advised else f"What would set {name}"
    return {"name": name, "heading": heading, "unset": "",
            "variables": variables, "call": call.replace(", ", ",\n    "),
            "default": DEFAULTS[SGLANG].name, "changes": changes(DEFAULTS[SGLANG], recipe)}  # fmt: skip


def _figures(sweep: Sweep, best: str) -> list[dict]:
    baseline = "standard" if "standard" in sweep.recipes and len(sweep.recipes) > 1 else None
    totals = {name: sweep.total(name) for name in sweep.recipes}
    low, high = _ceilings(sweep, best)
    shown, which = _telling(sweep, best, baseline)
    figures = [
        (plots.error_by_tensor(shown, baseline=baseline),
         f"Each row is a tensor, each mark a recipe; farther right is better. {which}"),
        (plots.block_scale_histogram(totals[high], totals[low] if low != high else None),
         "All tensors together. Solid: blocks that map their largest value to 6; pale: to 4, where they stand at 1.5"
         f" times their scale for 6. Of a block whose scale for 6 is above {FOUR_LIMIT:.2f} the 4 saturates at 448: it"
         " competes all the same, and wins where that still makes the smaller error."),
        (plots.clipping_rates(totals),
         "All tensors together, on a logarithmic axis. A 4 that saturates is the price of a high ceiling; a scale that"
         " is subnormal or 0 would be that of a low one."),
    ]  # fmt: skip
    seen = (_seen_by_tensor(shown, best, baseline), _seen_in_all(totals, "four_rate"),
            "; ".join(_seen_in_all(totals, rate) for rate in RATES))  # fmt: skip
    return [picture(ax, caption, f"figure{i}", seen[i]) for i, (ax, caption) in enumerate(figures)]


def _seen_by_tensor(sweep: Sweep, best: str, baseline: str | None) -> str:
    """From which number to which a figure of tensors goes, under the best recipe."""
    over = baseline if baseline not in (None, best) else None
    values = [row[best].sqnr_db - (row[over].sqnr_db if over else 0) for row in sweep.stats.values()]
    known = [v for v in values if isfinite(v)]
    if not known:
        return "no number is finite"
    return f"{best}{f' over {over}' if over else ''} from {fixed(min(known))} to {fixed(max(known))} dB"


def _seen_in_all(totals: dict, rate: str) -> str:
    """A rate under each recipe."""
    shares = ", ".join(f"{name} {percent(getattr(stats, rate))}" for name, stats in totals.items())
    return f"{RATES[rate].heading}: {shares}"


def _telling(sweep: Sweep, best: str, baseline: str | None) -> tuple[Sweep, str]:
    """The tensors on which the best recipe gains most and least, where there are too many to draw."""
    if len(sweep.stats) <= ROWS:
        return sweep, ""

    def gain(tensor: str) -> float:
        row = sweep.stats[tensor]
        return row[best].sqnr_db - (row[baseline].sqnr_db if baseline not in (None, best) else 0)

    order = sorted(sweep.stats, key=gain)
    kept = {*order[: ROWS // 2], *order[-ROWS // 2 :]}
    shown = replace(sweep, records={t: record for t, record in sweep.records.items() if t in kept})
    few = ROWS // 2
    return shown, f"Of {len(sweep.stats):,} tensors, the {few} of least and the {few} of most gain by {best}."


def _ceilings(sweep: Sweep, best: str) -> tuple[str, str]:
    """Two recipes that differ in the ceiling: like the best one, of the lowest and the highest ceiling there is."""
    mode = sweep.recipes[best].err_mode
    like = [n for n, r in sweep.recipes.items() if r.four_over_six and r.err_mode == mode] or [best]
    ordered = sorted(like, key=lambda n: sweep.recipes[n].e4m3_max)
    return ordered[0], ordered[-1]


def _shown(sweep: Sweep, verdict: Verdict | None, best: str) -> dict[str, str]:
    """What the explorer shows first."""
    others = [c.over for c in verdict.comparisons] if verdict else []
    return {"recipe_a": next((n for n in (*others, *sweep.recipes) if n != best), best), "recipe_b": best}


def _provenance(sweep: Sweep) -> list[tuple]:
    provenance = sweep.provenance
    rows = [(name, version or "not installed") for name, version in provenance.get("versions", {}).items()]
    rows += [("command", shlex.join(map(str, provenance.get("command", []))))]
    for source in provenance.get("sources", []):
        rows += [("file", source["path"]), ("its SHA-256", source["sha256"])]
        rows += [(f"its {key}", value) for key, value in source.get("metadata", {}).items() if len(str(value)) < 400]
    return rows
