"""The command check: has a model's quantization become worse than a baseline? For continuous integration."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ..files import check_target, printable, replacing


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
    parser.add_argument("--summary", metavar="FILE", help="also write what is printed, in Markdown")
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
    found = cases(load_done(arguments.baseline), load_done(arguments.new), arguments.max_loss)
    text = summary(found, arguments.max_loss)
    for path, content in ((arguments.summary, text + "\n"), (arguments.junit, junit(found))):
        if path:
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    print("\n".join(map(printable, text.splitlines())))
    return int(any(c.failure for c in found))


def cases(baseline, new, max_loss: float) -> list[Case]:
    """A Case for each tensor and recipe of the baseline. ValueError where the sweeps share nothing."""
    from ..analysis import pairs

    gains = {(p.tensor, p.recipe): p.gain_db for p in pairs(baseline, new)}
    found = []
    for tensor, row in baseline.stats.items():
        for recipe in row:
            gain = gains.get((tensor, recipe))
            failure = ""
            if gain is None:
                failure = f"missing in the new sweep: {new.skipped.get(tensor, 'no statistics')}"
            elif math.isnan(gain) or gain < -max_loss:
                failure = f"lost {-gain:.3g} dB, allowed are {max_loss:g} dB"
            found.append(Case(tensor, recipe, gain, failure))
    return found


def summary(found: list[Case], max_loss: float) -> str:
    """Markdown: the result in words, then what failed, the worst first."""
    failed = sorted((c for c in found if c.failure), key=lambda c: -math.inf if c.gain_db is None else c.gain_db)
    head = f"**{len(failed)} of {len(found)} failed**" if failed else f"**All {len(found)} passed**"
    lines = [f"{head}: tensors under recipes, which may lose {max_loss:g} dB."]
    if failed:
        lines += ["", "| tensor | recipe | change (dB) | why |", "| --- | --- | ---: | --- |"]
        lines += [f"| {_cell(c.tensor)} | {_cell(c.recipe)} | {_change(c)} | {_cell(c.failure)} |" for c in failed]
    return "\n".join(lines)


def _change(case: Case) -> str:
    return "" if case.gain_db is None else f"{case.gain_db:+.3f}"


def _cell(text: str) -> str:
    """A stranger's text as a cell of Markdown: no markup, no cell of its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", printable(text[:200]))


def junit(found: list[Case]) -> str:
    """The cases as JUnit XML, a test each."""
    failures = sum(bool(c.failure) for c in found)
    suite = ElementTree.Element(
        "testsuite", name="nvfp4viz check", tests=str(len(found)), failures=str(failures), errors="0", skipped="0"
    )
    for c in found:
        case = ElementTree.SubElement(suite, "testcase", classname=printable(c.recipe), name=printable(c.tensor))
        if c.failure:
            ElementTree.SubElement(case, "failure", message=printable(c.failure))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode")
