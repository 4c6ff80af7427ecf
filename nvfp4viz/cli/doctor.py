"""`nvfp4viz doctor`: what can run here, whether it is right to the bit, and whether all programs read one recipe."""

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
from collections.abc import Iterable
from pathlib import Path

import torch

from ..engine import engines, result_line, verify
from ..environment import (
    SITES,
    VARIABLES,
    Costs,
    Settings,
    bundled,
    check_settings,
    phrase,
    program_of,
    read_environment,
    read_processes,
    read_text,
    recipes_of,
    settled,
    sites_of,
    ways,
    with_command,
)
from ..files import check_target
from . import certificate
from .doctor_text import printable, report_lines

PACKAGES = (
    "torch",
    "flashinfer-python",
    "nvidia-cutlass-dsl",
    "numba",
    "numpy",
    "sglang",
    "vllm",
    "transformer-engine",
)
SHOWN = 4  # ways of an unsettled text whose recipes are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", metavar="FILE",
        help="any text that sets variables: shell, Slurm, Dockerfile, compose, Kubernetes, Helm, .env, systemd, "
        "Makefile, Python; - is what env, docker inspect, docker compose config or kubectl get -o yaml print",
    )  # fmt: skip
    parser.add_argument("--env-file", action="append", metavar="FILE", help="the same as FILE; may be repeated")
    parser.add_argument(
        "--pid", type=int, action="append", help="check a running process and those that it started (Linux)"
    )
    parser.add_argument(
        "--command", metavar="LINE", help='the command line that gets the settings, such as "vllm serve ..."'
    )
    parser.add_argument(
        "--activations", metavar="FILE", help="say what a mismatch costs on these, not on the bundled ones"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--verify", action="store_true", help="run FlashInfer's golden cases through every engine here")
    parser.add_argument(
        "--certificate", metavar="FILE", help="with --verify: write down what came out, as text or .json, to be sent"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 where a finding is an error or an engine is wrong, else 0.

    Raises ValueError or OSError where a file or process cannot be read.
    """
    if arguments.certificate:
        if not arguments.verify:
            raise ValueError("--certificate FILE writes down what --verify finds: give both")
        check_target(arguments.certificate)
    where = _where(arguments)
    machine = not where or arguments.verify or arguments.json
    where = where or [with_command(Settings("this process", dict(os.environ)), arguments.command or "")]
    costs = _measured(where, arguments.activations) if arguments.activations else bundled()
    report = examine(where, costs, machine)
    if not arguments.json:
        say("\n".join(map(printable, report_lines(report, *_terminal()))))
    if arguments.verify:
        report["verify"] = []
        if not arguments.json:
            say("\nGolden cases: what FlashInfer's kernels returned, against each engine here")
        for result in verify(row for row in report["engines"] if row["available"]):
            report["verify"].append(result)
            if not arguments.json:
                say(f"  {result['engine']:20} {result_line(result)}")
    if arguments.certificate:
        certificate.write(report, arguments.certificate)
    report["ok"] = not _errors(report) and all(r["ok"] for r in report.get("verify", ()))
    if arguments.json:
        say(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


def _where(arguments: argparse.Namespace) -> list[Settings]:
    found = []
    for path in [*(arguments.files or ()), *(arguments.env_file or ())]:
        if path == "-":
            read = read_text(sys.stdin.buffer.read().decode(errors="surrogateescape"))
            found += [dataclasses.replace(s, name=f"input: {s.name}" if s.name else "input") for s in read]
        else:
            found += read_environment(Path(path))
    found += [s for pid in arguments.pid or () for s in read_processes(pid)]
    return [with_command(s, arguments.command or "") for s in found]


def say(line: str) -> None:
    """Print to any console: what its encoding lacks is spelt out."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _measured(where: Iterable[Settings], path: str) -> Costs:
    """SQNR on a user's activations of the recipes that findings compare."""
    from ..activations import load
    from ..analysis import sweep

    names = {name for s in where for f in check_settings(s) for name in f.costs}
    names |= {s.recipe.name for one in where for w in ways(one)[:SHOWN] for s in sites_of(one, w) if s.recipe}
    result = sweep(load(path), sorted(names))
    engine = ", ".join(sorted(set(result.table()["engine"])))
    return Costs({name: result.total(name).sqnr_db for name in result.recipes}, f"{path}, engine {engine}")


# --- what there is to say


def examine(where: Iterable[Settings], costs: Costs | None = None, machine: bool = True) -> dict:
    """Versions, GPUs, engines, and for each environment its variables, sites, recipes and findings; plain data."""
    costs = costs or bundled()
    report = {"versions": versions(), "gpus": gpus(), "engines": engines()} if machine else {}
    return report | {"costs_on": costs.where, "environments": [_environment(s, costs) for s in where]}


def _environment(settings: Settings, costs: Costs) -> dict:
    findings = []
    for finding in check_settings(settings):
        findings.append(dataclasses.asdict(finding) | {"cost": phrase(finding.costs, costs)})
    possible = ways(settings)
    return {
        "name": settings.name,
        "program": program_of(settings),
        "variables": {n: v for n, v in settings.variables.items() if n in VARIABLES},
        "lines": {n: line for n, line in settings.lines.items() if n in VARIABLES},
        "unsettled": {n: dataclasses.asdict(v) for n, v in settings.unsettled.items()},
        "settled": settled(settings),
        "recipes": {c: getattr(r, "name", r) for c, r in recipes_of(settings.variables).items()}
        if len(possible) == 1
        else {},
        "ways": [
            {"given": w.given, "sites": [_site(s, costs) for s in sites_of(settings, w)]} for w in possible[:SHOWN]
        ],
        "more_ways": max(0, len(possible) - SHOWN),
        "findings": findings,
    }


def _site(site, costs: Costs) -> dict:
    name = site.recipe.name if site.recipe else None
    return {
        "program": site.program, "site": site.site, "place": SITES[site.site], "recipe": name, "why": site.why,
        "error": site.error,
        "sqnr_db": costs.sqnr_db.get(name), "mismatch": site.mismatch,
    }  # fmt: skip


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


def _terminal() -> tuple[int, bool]:
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return max(60, min(100, shutil.get_terminal_size().columns)), color


def _errors(report: dict) -> int:
    return sum(f["severity"] == "error" for e in report["environments"] for f in e["findings"])
