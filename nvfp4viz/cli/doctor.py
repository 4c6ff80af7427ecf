"""`nvfp4viz doctor`: what can run here, whether it is right to the bit, and whether all consumers read one recipe."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from ..engine import engines, verdict, verify
from ..environment import (
    CONSUMERS,
    SEVERITIES,
    VARIABLES,
    Finding,
    Settings,
    check_settings,
    read_environment,
    read_process,
    recipes_of,
)

PACKAGES = ("torch", "flashinfer-python", "nvidia-cutlass-dsl", "numba", "numpy", "sglang", "transformer-engine")
COLORS = {"error": "31", "warning": "33", "note": "36", "yes": "32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env-file", action="append", metavar="FILE",
        help="check a .env, Dockerfile, docker-compose, Kubernetes or shell file; may be repeated",
    )  # fmt: skip
    parser.add_argument("--pid", type=int, action="append", help="check the environment of a running process (Linux)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--verify", action="store_true", help="run FlashInfer's golden cases through every engine here")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 where a finding is an error or an engine is wrong, else 0.

    Raises ValueError or OSError where a file or process cannot be read.
    """
    files = [s for path in arguments.env_file or () for s in read_environment(Path(path))]
    where = files + [read_process(pid) for pid in arguments.pid or ()]
    report = examine(where or [Settings("this process", dict(os.environ))])
    if not arguments.json:
        print("\n".join(map(_printable, text(report, *_terminal()))))
    if arguments.verify:
        report["verify"] = []
        if not arguments.json:
            print("\nGolden cases: what FlashInfer's kernels returned, against each engine here", flush=True)
        for result in verify(row for row in report["engines"] if row["available"]):
            report["verify"].append(result)
            if not arguments.json:
                print(f"  {result['engine']:20} {verdict(result)}", flush=True)
    report["ok"] = not _errors(report) and all(r["ok"] for r in report.get("verify", ()))
    if arguments.json:
        print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


# --- what there is to say


def examine(where: Iterable[Settings]) -> dict:
    """Versions, GPUs, engines, and for each environment its variables, recipes and findings; plain data."""
    return {
        "versions": versions(),
        "gpus": gpus(),
        "engines": engines(),
        "environments": [
            {
                "name": settings.name,
                "variables": {n: settings.variables[n] for n in VARIABLES if n in settings.variables},
                "recipes": {c: getattr(r, "name", r) for c, r in recipes_of(settings.variables).items()},
                "findings": [dataclasses.asdict(f) for f in check_settings(settings)],
            }
            for settings in where
        ],
    }


def versions() -> dict[str, str]:
    """Versions of nvfp4viz, Python and the packages that matter; those not installed are left out."""
    from .. import __version__

    found = {"nvfp4viz": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    driver = Path("/proc/driver/nvidia/version")
    m = re.search(r"Module.*?(\d+\.[\d.]+)", driver.read_text()) if driver.exists() else None
    return found | ({"nvidia driver": m[1]} if m else {})


def gpus() -> list[dict]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": p.name, "capability": f"{p.major}.{p.minor}"} for p in found]


# --- how it is said


def _printable(line: str) -> str:
    """Control characters and broken bytes of a stranger's file spelt out; our own colours stay."""
    return re.sub(r"(?!\033\[\d+m)[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda m: repr(m[0])[1:-1], line)


def _terminal() -> tuple[int, bool]:
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return max(60, min(100, shutil.get_terminal_size().columns)), color


def _errors(report: dict) -> int:
    return sum(f["severity"] == "error" for e in report["environments"] for f in e["findings"])


def text(report: dict, width: int = 88, color: bool = False) -> Iterator[str]:
    """The report in lines, for a terminal."""

    def paint(word: str, pad: int = 0) -> str:
        padded = word.ljust(pad)
        return f"\033[{COLORS[word]}m{padded}\033[0m" if color and word in COLORS else padded

    def rows(pairs, indent: int = 2) -> Iterator[str]:
        pairs = list(pairs)
        column = max((len(a) for a, _ in pairs), default=0)
        for a, b in pairs:
            lines = textwrap.wrap(b, max(30, width - indent - column - 2), break_long_words=False) or [""]
            yield " " * indent + f"{a.ljust(column)}  {lines[0]}".rstrip()
            yield from (" " * (indent + column + 2) + line for line in lines[1:])

    gpu = [("gpu", f"{g['name']}, compute capability {g['capability']}") for g in report["gpus"]]
    yield from ("Versions", *rows([*report["versions"].items(), *(gpu or [("gpu", "none that torch can use")])]))
    yield from ("", "Engines")
    for row in report["engines"]:
        lines = textwrap.wrap(row["why_not"] or "", width - 29, break_long_words=False) or [""]
        yield f"  {row['name']:20}  {paint('yes' if row['available'] else 'no', 3)}  {lines[0]}".rstrip()
        yield from (" " * 29 + line for line in lines[1:])
    for e in report["environments"]:
        yield from ("", f"Environment: {e['name']}")
        if not e["variables"]:
            yield f"  sets none of the NVFP4 variables: FlashInfer runs {e['recipes']['flashinfer']}"
        else:
            yield from rows(e["variables"].items())
            yield from (
                "",
                "  the recipe that each makes of it",
                *rows((CONSUMERS[c], r) for c, r in e["recipes"].items()),
            )
        for f in (Finding(**f) for f in e["findings"]):
            value = "" if f.value is None else f"={f.value}"
            yield from ("", f"  {paint(f.severity, 7)}  {f.variable}{value or ', not set'}")
            yield from ("           " + line for line in textwrap.wrap(f.message, width - 11, break_long_words=False))
            yield from rows(f.readings.items(), 13)
            if f.fix:
                yield from rows([("fix:", f.fix)], 11)
    found = [f["severity"] for e in report["environments"] for f in e["findings"]]
    counts = [f"{found.count(s)} {s}{'s' if found.count(s) > 1 else ''}" for s in SEVERITIES if s in found]
    yield from ("", ", ".join(counts) if counts else "Nothing to mend.")
