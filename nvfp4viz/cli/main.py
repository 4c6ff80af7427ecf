"""The command line: nvfp4viz report, sweep, impact, notebooks and doctor."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from pathlib import Path

BUNDLED = "smollm2-135m-activations.safetensors"


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 well, 1 findings, 2 a mistake of the caller, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    warnings.showwarning = lambda message, *_, **__: print(f"nvfp4viz: {message}", file=sys.stderr)
    try:
        return arguments.run(arguments)
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

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")

    report = command(
        "report",
        "analyse activations and write one HTML file that opens offline; of two saved sweeps, their differences",
    )
    _add_sweep_arguments(report)
    report.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default: report.html")
    report.set_defaults(run=_report)

    sweep = command("sweep", "analyse activations and write the table of results")
    _add_sweep_arguments(sweep)
    sweep.add_argument(
        "-o", "--output", required=True, metavar="FILE", help=".json (everything), .csv or .parquet (the table)"
    )
    sweep.set_defaults(run=_sweep)

    notebooks = command("notebooks", "run notebooks and write each as an HTML file that opens offline")
    notebooks.add_argument("files", nargs="*", metavar="NOTEBOOK", help="default: every .ipynb in the folder notebooks")
    notebooks.add_argument("--html", required=True, metavar="DIR", help="folder for the pages; made if missing")
    notebooks.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    notebooks.set_defaults(run=_notebooks)

    impact = command("impact", "what quantizing a language model's layers does to its predictions")
    from ..integrations import add_arguments as add_impact_arguments
    from ..integrations import run as run_impact

    add_impact_arguments(impact)
    impact.set_defaults(run=run_impact)

    doctor = command("doctor", "what can run here, and whether all consumers read the same settings")
    doctor.epilog = "Exit code: 0 well, 1 a finding is an error or an engine is wrong, 2 it could not run."
    from .doctor import add_arguments, run

    add_arguments(doctor)
    doctor.set_defaults(run=run)
    return parser


def _add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
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


def _run_sweep(arguments: argparse.Namespace):
    from ..activations import load
    from ..analysis import Sweep, is_saved, sweep
    from ..files import check_target
    from ..nvfp4 import RECIPES, as_recipes

    target = check_target(arguments.output)  # said before the work, not after it
    files = arguments.files or [_bundled()]
    if target in [Path(f).resolve() for f in files]:
        raise ValueError(f"{arguments.output!r} is an input: writing the output there would lose it")
    if len(files) == 1 and is_saved(files[0]):
        if arguments.recipes or arguments.engine != "auto":
            raise ValueError(
                "a saved sweep is measured already: --recipes and --engine need the activations themselves"
            )
        return Sweep.load(files[0])
    for name in arguments.recipes or ():
        if Path(name).is_file():  # --recipes takes all that follows
            raise ValueError(f"{name!r} is a file, not a recipe: name the files before --recipes, or after a --")
    recipes = as_recipes(arguments.recipes or RECIPES)
    saved = [f for f in files if is_saved(f)]
    if saved:
        raise ValueError(f"{saved[0]!r} is a saved sweep: give it alone, or report two for their differences")
    activations = load(*files)
    with _progress_bar(arguments.quiet) as progress:
        return sweep(activations, recipes, engine=arguments.engine, progress=progress)


@contextlib.contextmanager
def _progress_bar(quiet: bool):
    """What `sweep` calls; the bar is on terminals only, and gone before anything else is printed."""
    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(unit="tensor", file=sys.stderr, leave=False, dynamic_ncols=True, disable=hidden) as bar:

        def show(done: int, total: int, name: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description_str("".join(c if c.isprintable() else "?" for c in name[-40:]), refresh=False)
            bar.refresh()

        yield show


def _bundled() -> Path:
    for folder in (Path("data"), Path(__file__).parents[2] / "data"):
        if (folder / BUNDLED).exists():
            return folder / BUNDLED
    raise ValueError(
        "no FILE given, and the bundled activations come only with the repository: name a file of your own"
    )


def _report(arguments: argparse.Namespace) -> int:
    from ..analysis import is_saved
    from ..pages import report

    if len(arguments.files) == 2 and all(map(is_saved, arguments.files)):
        return _compare(arguments)
    sweep = _run_sweep(arguments)
    return _finish(sweep, report(sweep, arguments.output))


def _compare(arguments: argparse.Namespace) -> int:
    """Two saved sweeps side by side."""
    from ..analysis import Sweep
    from ..files import check_target
    from ..pages import compare

    target = check_target(arguments.output)
    if target in [Path(f).resolve() for f in arguments.files]:
        raise ValueError(f"{arguments.output!r} is an input: writing the output there would lose it")
    if arguments.recipes or arguments.engine != "auto":
        raise ValueError("saved sweeps are measured already: --recipes and --engine need the activations themselves")
    short = [Path(f).name for f in arguments.files]
    names = tuple(short if short[0] != short[1] else arguments.files)
    print(compare(*map(Sweep.load, arguments.files), arguments.output, names))
    return 0


def _notebooks(arguments: argparse.Namespace) -> int:
    from ..pages import export

    for path in export(arguments.files or sorted(Path("notebooks").glob("*.ipynb")), arguments.html):
        if not arguments.quiet:
            print(path)
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from ..analysis import check_format

    check_format(arguments.output)
    sweep = _run_sweep(arguments)
    sweep.save(arguments.output)
    return _finish(sweep, Path(arguments.output))


def _finish(sweep, path: Path) -> int:
    for name, why in sweep.skipped.items():
        print(f"nvfp4viz: skipped {name}: {why}", file=sys.stderr)
    print(os.path.relpath(path) if not path.is_absolute() else path)
    return 130 if sweep.provenance.get("interrupted") else 0
