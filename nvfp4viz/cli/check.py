"""The command check: has a model's quantization become worse than a baseline? For continuous integration."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ..files import check_target, replacing
from ..shown import printable, quantity

LISTED = 50  # failures that a person is shown; JUnit XML has them all


@dataclass(frozen=True)
class Case:
    """One tensor under one recipe."""

    tensor: str
    recipe: str
    gain_db: float | None  # SQNR of a typical token of new over baseline; None where one of them is missing
    failure: str  # why it fails; empty where it passes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baseline", metavar="BASELINE", help="a saved sweep (.json) or a report (.html)")
    parser.add_argument("new", metavar="NEW", help="the same of what is to be checked")
    parser.add_argument(
        "--max-loss", type=decibels, default=0.1, metavar="DB",
        help="how many dB a tensor may lose under a recipe, such as 0.1dB (the default)",
    )  # fmt: skip
    parser.add_argument("--junit", metavar="FILE", help="also write the cases as JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="also write the result as Markdown")
    parser.epilog = "Exit code: 0 well, 1 a tensor lost more, or is missing, 2 it could not be checked."


def decibels(text: str) -> float:
    """A loss such as "0.1", "0.1dB" or "0.1 dB"; argparse's error for anything else."""
    number = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(db)?\s*", text, re.IGNORECASE)
    if number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no loss in dB, which is 0 or more: give 0.1 or 0.1dB")
    return float(number[1])


def run(arguments: argparse.Namespace) -> int:
    """Compare, print and write; returns the exit code."""
    from .sweep import load_done

    for path in filter(None, (arguments.junit, arguments.summary)):
        if check_target(path) in [Path(p).resolve() for p in (arguments.baseline, arguments.new)]:
            raise ValueError(f"{path!r} is an input: writing the output there would lose it")
    baseline, new = load_done(arguments.baseline), load_done(arguments.new)
    found = cases(baseline, new, arguments.max_loss)
    about = [made_by(arguments.baseline, baseline), made_by(arguments.new, new), *other_data(baseline, new)]
    for path, content in (
        (arguments.summary, markdown(found, arguments.max_loss, about)),
        (arguments.junit, junit(found, about)),
    ):
        if path:
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    print("\n".join(map(printable, lines(found, arguments.max_loss, about))))
    return int(any(c.failure for c in found))


def cases(baseline, new, max_loss: float) -> list[Case]:
    """A Case for each tensor and recipe of the baseline. ValueError where the sweeps share nothing."""
    from ..analysis import pairs

    gains = {(p.tensor, p.recipe): p.gain_db for p in pairs(baseline, new)}
    measured = {recipe for _, recipe in gains}
    found = []
    for tensor, row in baseline.stats.items():
        for recipe in row:
            gain = gains.get((tensor, recipe))
            failure = ""
            if gain is None:
                lacks = "it has no such tensor" if recipe in measured else f"it has no recipe {recipe}"
                failure = f"missing in the new sweep: {new.skipped.get(tensor, lacks)}"
            elif math.isnan(gain) or gain < -max_loss:
                failure = f"lost {-gain:.3g} dB, allowed are {max_loss:g} dB"
            found.append(Case(tensor, recipe, gain, failure))
    return found


def made_by(path: str, sweep) -> str:
    """What made a sweep: its file, engines and versions."""
    versions = sweep.provenance.get("versions", {})
    named = [f"{name} {versions[name]}" for name in ("nvfp4viz", "torch") if versions.get(name)]
    return f"{path}: {', '.join(['engine ' + ' + '.join(sweep.engines), *named])}"


def other_data(baseline, new) -> list[str]:
    """What to know before a difference is put down to the quantizer: other arithmetic, or other activations."""
    from ..analysis import other_arithmetic, pairs

    other = {p.tensor for p in pairs(baseline, new) if not p.same_input}
    where = f"{quantity(len(other), 'tensor')}, such as {min(other)}" if other else ""
    seen = [f"The two saw other activations in {where}."] if other else []
    return other_arithmetic(baseline, new, ("the baseline", "the new one")) + seen


def failed(found: list[Case]) -> list[Case]:
    """Those that fail, the worst first: what is missing, then by loss."""
    return sorted((c for c in found if c.failure), key=lambda c: -math.inf if c.gain_db is None else c.gain_db)


def listed(found: list[Case]) -> list[Case]:
    """What a person is shown of the failures: a recipe that the new sweep lacks for all tensors once."""
    there = {c.recipe for c in found if c.gain_db is not None}
    gone = {c.recipe: c for c in found if c.recipe not in there}
    many = len({c.tensor for c in found})
    whole = [Case(f"all {many} tensors", recipe, None, "missing in the new sweep") for recipe in gone]
    return whole + [c for c in failed(found) if c.recipe not in gone]


def counted(found: list[Case], max_loss: float) -> tuple[str, str]:
    """The result in words, and of what."""
    many = len(failed(found))
    tensors, recipes = len({c.tensor for c in found}), len({c.recipe for c in found})
    of = f"{quantity(tensors, 'tensor')} under {quantity(recipes, 'recipe')}"
    loss = max((-c.gain_db for c in found if c.gain_db is not None), default=0.0)
    lost = f"; the largest loss is {loss:.3g} dB" if loss > 0 else "" if many else "; nothing was lost"
    what = f"{of}, which may lose {max_loss:g} dB of a typical token's SQNR{lost}."
    return (f"{many} of {len(found)} failed" if many else f"All {len(found)} passed"), what


def lines(found: list[Case], max_loss: float, about: list[str]) -> list[str]:
    """For a terminal: the result, what failed, and what made the two."""
    worst, (head, what) = listed(found), counted(found, max_loss)
    rows = [f"  {c.tensor[:200]}, {c.recipe}: {c.failure[:200]}" for c in worst[:LISTED]]
    return [f"{head}: {what}", *rows, *_more(worst), *about]


def markdown(found: list[Case], max_loss: float, about: list[str]) -> str:
    """For a job's page: the result in words, then a table of what failed."""
    worst, (head, what) = listed(found), counted(found, max_loss)
    text = [f"**{head}**: {what}"]
    if worst:
        text += ["", "| tensor | recipe | change (dB) | why |", "| --- | --- | ---: | --- |"]
        text += [
            f"| {_cell(c.tensor)} | {_cell(c.recipe)} | {_change(c)} | {_cell(c.failure)} |" for c in worst[:LISTED]
        ]
    text += ["", *_more(worst), *(f"- {_cell(line)}" for line in about)]
    return "\n".join(text) + "\n"


def _more(worst: list[Case]) -> list[str]:
    hidden = len(worst) - LISTED
    return [f"{hidden} more; --junit FILE lists all.", ""] if hidden > 0 else []


def _change(case: Case) -> str:
    return "" if case.gain_db is None else f"{case.gain_db:+.3f}"


def _cell(text: str) -> str:
    """A stranger's text as a cell of Markdown: no markup, no cell of its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", printable(text[:200]))


def junit(found: list[Case], about: list[str]) -> str:
    """The cases as JUnit XML, a test each; what made the two is the suite's output."""
    suite = ElementTree.Element(
        "testsuite",
        {"name": "nvfp4viz check", "tests": str(len(found)), "failures": str(len(failed(found))), "errors": "0"},
        skipped="0",
    )
    for c in found:
        case = ElementTree.SubElement(suite, "testcase", classname=printable(c.recipe), name=printable(c.tensor))
        if c.failure:
            ElementTree.SubElement(case, "failure", message=printable(c.failure))
    ElementTree.SubElement(suite, "system-out").text = "\n".join(map(printable, about))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
