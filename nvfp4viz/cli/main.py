"""The command line: which commands there are, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from ..shown import printable

CHECKPOINT = "whether the scales of a quantized checkpoint are right"


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 well, 1 findings, 2 a mistake of the caller, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a name that the console cannot show must not cost the result
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    warnings.showwarning = lambda message, *_, **__: print(f"nvfp4viz: {message}", file=sys.stderr)
    try:
        return arguments.run(arguments)
    except BrokenPipeError:  # who read has enough, such as head: nothing is wrong, and nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"nvfp4viz: error: {_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nvfp4viz: interrupted", file=sys.stderr)
        return 130


def _text(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename!r}: {error.strerror}" if error.filename else error.strerror


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="nvfp4viz", description="See what NVFP4 and 4over6 do to a model's activations."
    )
    parser.add_argument("--version", action="version", version=f"nvfp4viz {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, what, add_arguments, run in _commands():
        command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        add_arguments(command)
        command.set_defaults(run=run)
    exit_codes = "Exit code: 0 well, 1 a finding is an error or an engine is wrong, 2 it could not run."
    commands.choices["doctor"].epilog = exit_codes
    return parser


def _commands() -> list[tuple]:
    """Name, what it does, what adds its arguments to a parser, what runs it and returns the exit code."""
    from .. import integrations as impact
    from . import check, checkpoint, doctor, lab, plan, sweep

    return [
        ("report",
         "analyse activations and write one HTML file that opens offline; of two saved sweeps, their differences",
         sweep.add_report_arguments, sweep.run_report),
        ("sweep", "analyse activations and write the table of results", sweep.add_sweep_arguments, sweep.run_sweep),
        ("check", "whether a sweep lost quality against a baseline, for continuous integration",
         check.add_arguments, check.run),
        ("notebooks", "run notebooks and write each as an HTML file that opens offline, or check what they print",
         _add_notebook_arguments, _notebooks),
        ("lab", "copy the notebooks into a folder of yours, and open JupyterLab on them", lab.add_arguments, lab.run),
        ("impact", "what quantizing a language model's layers does to its predictions",
         impact.add_arguments, impact.run),
        ("plan", "which layers of a language model to keep in higher precision, and what that costs",
         plan.add_arguments, plan.run),
        ("checkpoint", "whether the scales of a quantized checkpoint are right",
         checkpoint.add_arguments, checkpoint.run),
        ("doctor", "what can run here, and whether all consumers read the same settings",
         doctor.add_arguments, doctor.run),
    ]  # fmt: skip


def _add_notebook_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="NOTEBOOK", help="default: every .ipynb in the folder notebooks")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--html", metavar="DIR", help="folder for the pages; made if missing")
    what.add_argument("--check", action="store_true", help="compare what they print with their stored outputs instead")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def _notebooks(arguments: argparse.Namespace) -> int:
    from ..pages import check_notebooks, export

    files = arguments.files or sorted(Path("notebooks").glob("*.ipynb"))
    if not files:
        raise ValueError("no NOTEBOOK given, and the folder notebooks has none: name the files")
    if arguments.html:
        for path in export(files, arguments.html):
            if not arguments.quiet:
                print(path)
        return 0
    wrong = 0
    for path, lines in check_notebooks(files):
        wrong += bool(lines)
        for line in lines or [f"{path}: as stored"] * (not arguments.quiet):
            print(printable(line))
    return int(wrong > 0)
