"""`nvfp4viz lab`: the notebooks in a folder of the user's, and JupyterLab on them."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SHARE = "share/nvfp4viz/"  # where the wheel has them, as pyproject.toml says
FOLDERS = ("notebooks", "data", "tests/checkpoints/data")  # beside each other, as in the repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", default="nvfp4viz-notebooks", metavar="FOLDER",
        help="where the notebooks go (default: nvfp4viz-notebooks, here); what is there already stays as it is",
    )  # fmt: skip
    parser.add_argument("--copy", action="store_true", help="copy the notebooks, do not start JupyterLab")


def run(arguments: argparse.Namespace) -> int:
    """Copy the notebooks and start JupyterLab; returns its exit code.

    Raises RuntimeError where JupyterLab or the notebooks are not installed, OSError where nothing can be written.
    """
    if not arguments.copy and importlib.util.find_spec("jupyterlab") is None:
        raise RuntimeError("JupyterLab is missing: pip install 'nvfp4viz[lab]', or --copy for the notebooks alone")
    folder = Path(arguments.folder)
    new, kept = copy(folder)
    print(f"{folder / 'notebooks'}: {new} files copied" + (f", {kept} left as they were" if kept else ""))
    if arguments.copy:
        return 0
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", str(folder / "notebooks")])


def copy(folder: Path) -> tuple[int, int]:
    """Copy what is not there yet; returns how many files are new, and how many were there."""
    new = kept = 0
    for name, source in installed():
        target = folder / name
        if target.exists():
            kept += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")  # an interrupt leaves no half of a file under its name
        shutil.copyfile(source, part)
        part.replace(target)
        new += 1
    return new, kept


def installed() -> Iterator[tuple[str, Path]]:
    """Relative name and path of each file: from the installed wheel, or from the repository of an editable install."""
    found = [(f.as_posix().partition(SHARE), f) for f in importlib.metadata.files("nvfp4viz") or ()]
    shared = [(parts[2], Path(f.locate())) for parts, f in found if parts[1]]
    root = Path(__file__).parents[2]
    if not shared and (root / "notebooks").is_dir():
        for path in (p for name in FOLDERS for p in sorted((root / name).rglob("*")) if p.is_file()):
            if not any(part.startswith(".") for part in path.relative_to(root).parts):
                shared.append((path.relative_to(root).as_posix(), path))
    if not shared:
        raise RuntimeError("this installation holds no notebooks: pip install 'nvfp4viz[lab]' from a wheel has them")
    yield from shared
