"""The commands report and sweep: activations in, a page or a table out; of two saved sweeps their differences."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from ..shown import printable

BUNDLED = "smollm2-135m-activations.safetensors"


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default: report.html")
    parser.add_argument("--author", metavar="NAME", help="who made it: stands beside the date, on paper too")
    parser.add_argument(
        "--impact", metavar="FILE", help="what `nvfp4viz impact MODEL TEXT -o FILE.json` measured of the model's output"
    )


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".json (everything), .csv or .parquet (the table)"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", metavar="FILE",
        help="activations: .safetensors, .npy, .npz, .pt, or folders of them; default: the bundled SmolLM2 activations",
    )  # fmt: skip
    parser.add_argument(
        "--recipes", nargs="+", metavar="RECIPE",
        help="short names, such as standard 4/6-mse-256 or 4/6-mae-448-tensor-fast; default: the five named ones",
    )  # fmt: skip
    parser.add_argument("--engine", default="auto", help="auto (the default), or a name that `nvfp4viz doctor` lists")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run_report(arguments: argparse.Namespace) -> int:
    """Write the page of one sweep, or of two saved ones side by side; returns the exit code."""
    from ..analysis import Impact
    from ..pages import report

    measured = Impact.load(arguments.impact) if arguments.impact else None
    if len(arguments.files) == 2 and all(map(_is_done, arguments.files)):
        if measured:
            raise ValueError("--impact goes with one sweep: two are compared without it")
        return _compare(arguments)
    _check_output(arguments.output, [arguments.impact] if measured else [])
    sweep = _measure(arguments)
    return _finish(sweep, report(sweep, arguments.output, author=arguments.author, impact=measured))


def run_sweep(arguments: argparse.Namespace) -> int:
    """Write everything, or the table; returns the exit code."""
    from ..analysis import check_format

    check_format(arguments.output)
    sweep = _measure(arguments)
    sweep.save(arguments.output)
    return _finish(sweep, Path(arguments.output))


def _measure(arguments: argparse.Namespace):
    from ..activations import load
    from ..analysis import sweep
    from ..nvfp4 import RECIPES, as_recipes

    files = arguments.files or [bundled()]
    _check_output(arguments.output, files)
    if len(files) == 1 and _is_done(files[0]):
        if arguments.recipes or arguments.engine != "auto":
            raise ValueError(
                "a saved sweep is measured already: --recipes and --engine need the activations themselves"
            )
        return load_done(files[0])
    for name in arguments.recipes or ():
        if Path(name).is_file():  # --recipes takes all that follows
            raise ValueError(f"{name!r} is a file, not a recipe: name the files before --recipes, or after a --")
    recipes = as_recipes(arguments.recipes or RECIPES)
    saved = [f for f in files if _is_done(f)]
    if saved:
        raise ValueError(f"{saved[0]!r} is a saved sweep: give it alone, or report two for their differences")
    activations = load(*files)
    with progress_bar(arguments.quiet) as progress:
        return sweep(activations, recipes, engine=arguments.engine, progress=progress)


def _check_output(output: str, files: list) -> None:
    """OSError or ValueError where the output cannot be written, said before the work and not after it."""
    from ..files import check_target

    if check_target(output) in [Path(f).resolve() for f in files]:
        raise ValueError(f"{output!r} is an input: writing the output there would lose it")


@contextlib.contextmanager
def progress_bar(quiet: bool):
    """What `sweep` calls; the bar is on terminals only, and gone before anything else is printed."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(unit="tensor", file=sys.stderr, leave=False, dynamic_ncols=True, disable=hidden) as bar:

        def show(done: int, total: int, name: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description_str(printable(name[-40:]), refresh=False)
            bar.refresh()

        yield show


def bundled() -> Path:
    """The activations that come with the repository and the wheel; ValueError where neither has them."""
    from .lab import installed

    for folder in (Path("data"), Path(__file__).parents[2] / "data"):
        if (folder / BUNDLED).exists():
            return folder / BUNDLED
    with contextlib.suppress(RuntimeError, ImportError):  # no notebooks and data, or the package not installed at all
        for name, path in installed():
            if name == f"data/{BUNDLED}":
                return path
    raise ValueError("no FILE given, and the bundled activations are not installed: name a file of your own")


def _is_report(path) -> bool:
    return str(path).lower().endswith((".html", ".htm"))


def _is_done(path) -> bool:
    """Whether a file holds a sweep already: a saved one, or a report."""
    from ..analysis import is_saved

    return is_saved(path) or _is_report(path)


def load_done(path):
    """The Sweep in a saved one or a report."""
    from ..analysis import Sweep
    from ..pages import load_report

    return load_report(path) if _is_report(path) else Sweep.load(path)


def _compare(arguments: argparse.Namespace) -> int:
    from ..pages import compare

    _check_output(arguments.output, arguments.files)
    if arguments.recipes or arguments.engine != "auto":
        raise ValueError("saved sweeps are measured already: --recipes and --engine need the activations themselves")
    short = [Path(f).name for f in arguments.files]
    names = tuple(short if short[0] != short[1] else arguments.files)
    print(compare(*map(load_done, arguments.files), arguments.output, names, author=arguments.author))
    return 0


def _finish(sweep, path: Path) -> int:
    for name, why in sweep.skipped.items():
        print(printable(f"nvfp4viz: skipped {name[-200:]}: {why}"), file=sys.stderr)
    print(os.path.relpath(path) if not path.is_absolute() else path)
    return 130 if sweep.provenance.get("interrupted") else 0
