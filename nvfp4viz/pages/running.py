"""Running notebooks: where each page goes, which kernel, what its explorers hold, and what came out otherwise."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..activations import token_texts
from ..analysis import Sweep, kept_blocks
from .packing import page_data

SHOWN = ("tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block")
TIMEOUT = 600  # seconds a cell may take
CHANGING = (  # what two runs of the same code print differently
    (r"0x[0-9a-f]{6,}", "ADDRESS"),
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"/tmp/\S+", "TEMPORARY"),
    (r"\d+(\.\d+)?\s?(s|ms|µs|ns|min)\b", "TIME"),
)


def targets(notebooks: Iterable[str | os.PathLike], folder: str | os.PathLike) -> dict[Path, Path]:
    """Where the page of each notebook goes: folder/name.html, with its own folder's name before it where names meet."""
    paths = list(dict.fromkeys(map(Path, notebooks)))
    stems, taken, found = Counter(p.stem for p in paths), set(), {}
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}-{path.stem}"
        n, free = 2, name
        while free in taken:
            free, n = f"{name}-{n}", n + 1
        taken.add(free)
        found[path] = Path(folder) / f"{free}.html"
    return found


def read(path: Path):
    """The notebook; FileNotFoundError where there is none, ValueError where it is something else."""
    import nbformat

    try:
        return nbformat.read(path, 4)
    except FileNotFoundError:
        raise
    except Exception as error:  # every way of not being a notebook has its own
        raise ValueError(f"{str(path)!r} is no notebook: {str(error).splitlines()[0][:200]}") from error


def run(path: Path) -> tuple:
    """The notebook after running all its cells, its explorers (model id -> {"shown", "data"}), and the outputs that
    its Output widgets hold (model id -> list).

    Raises ValueError for what is no notebook, RuntimeError where a cell fails or takes more than TIMEOUT.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "explorers.json"
        before = "from nvfp4viz.pages.running import draw_vectors\ndraw_vectors()"
        behind = f"from nvfp4viz.pages.running import collect\ncollect({str(collected)!r})"
        notebook.cells[:] = [_cell(before), *notebook.cells, _cell(behind)]
        try:
            execute(notebook, path)
        finally:
            notebook.cells[:] = notebook.cells[1:-1]
        held = json.loads(collected.read_text())
        return notebook, held["explorers"], held["outputs"]


def _cell(code: str):
    import nbformat

    return nbformat.v4.new_code_cell(code)


def execute(notebook, path: Path) -> None:
    """Run all cells in place, in the current Python where the notebook names a kernel that is not here."""
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from .kernel import Runner

    wanted = notebook.metadata.get("kernelspec", {}).get("name", "python3")
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    if language.lower() != "python":
        raise RuntimeError(f"{str(path)!r} is written in {language}: only Python notebooks can be run here")
    manager = KernelSpecManager()
    if wanted not in manager.find_kernel_specs():
        warnings.warn(
            f"{path}: kernel {wanted!r} is not on this machine; run with {sys.executable} instead", stacklevel=2
        )
        wanted = "python3"
    resources = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=ERROR"]  # it warns of its own connection, which never leaves this machine
    client = Runner(notebook, timeout=TIMEOUT, kernel_name=wanted, resources=resources, extra_arguments=quiet)
    try:
        client.execute()
    except CellExecutionError as error:
        raise RuntimeError(f"{str(path)!r} does not run: {error.ename}: {error.evalue}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise RuntimeError(f"{str(path)!r} does not run: {str(error).strip().splitlines()[0]}") from error


def draw_vectors() -> None:
    """Runs in a notebook's kernel, before its cells: our figures come as SVG in the page's ink beside their PNG."""
    from itertools import count

    from ..shown import Picture, svg

    number = count(1)
    formatter = sys.modules["IPython"].get_ipython().display_formatter.formatters["text/html"]
    formatter.for_type(Picture, lambda p: f'<div class="drawn">{svg(p.axes, f"drawn{next(number)}", p.alt)}</div>')


def collect(path: str) -> None:
    """Runs in a notebook's kernel, behind its cells: write what every explorer and Output there holds."""
    from ipywidgets.widgets import widget

    from ..explorer import Explorer

    living = list(widget._instances.items())
    found = {
        "explorers": {
            i: {"shown": {s: getattr(w, s) for s in SHOWN}, "data": page_data(_sweep(w), w.output)}
            for i, w in living
            if isinstance(w, Explorer)
        },
        "outputs": {i: list(w.outputs) for i, w in living if type(w).__name__ == "Output"},
    }
    Path(path).write_text(json.dumps(found, allow_nan=False))


def _sweep(explorer) -> Sweep:
    """What an explorer knows, completed for the two recipes that it shows."""
    from ..nvfp4 import as_recipes

    store = explorer.wait().session.store
    recipes = as_recipes([*store.recipes, explorer.recipe_a, explorer.recipe_b])
    tensors = [t for t in store.stats if t not in store.skipped]
    texts, blocks = token_texts(getattr(store.activations, "sources", [])), dict(store.blocks)
    for tensor in tensors if store.live else []:
        store.analyze(tensor, recipes)
        blocks[tensor] = kept_blocks(store.read(tensor), recipes, texts)
    stats = {t: {n: store.stats[t][n] for n in recipes} for t in tensors if store.has(t, recipes)}
    return Sweep.of(stats, recipes, {"versions": store.versions}, store.skipped, blocks=blocks)


# Whether a notebook still says what it said
def differences(path: Path) -> list[str]:
    """What a notebook prints otherwise than its stored outputs, a line each; RuntimeError where it does not run.

    Compared is text, as printed or shown, without addresses, times and temporary paths; not pictures or widgets.
    """
    import copy

    stored = read(path)
    if not any(cell.get("execution_count") for cell in stored.cells if cell.cell_type == "code"):
        raise RuntimeError(f"{str(path)!r} holds no outputs to compare with: run it, and save it with its outputs")
    fresh = copy.deepcopy(stored)
    execute(fresh, path)
    lines = []
    for number, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=True), 1):
        if old.cell_type == "code" and _texts(old) != _texts(new):
            before, after = (" ".join(_texts(c))[:120] for c in (old, new))
            lines.append(f"{path}, cell {number}: stored {before!r}, now {after!r}")
    return lines


def _texts(cell) -> list[str]:
    """What a cell prints and shows as text."""
    streams, shown = [], []
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            streams.append(output.text)
        elif output.output_type == "execute_result" or output.output_type == "display_data":
            data = output.get("data", {})
            if set(data) <= {"text/plain", "text/html"}:
                shown.append(str(data.get("text/plain", "")))
    texts = ["".join(streams), *shown]
    for pattern, word in CHANGING:
        texts = [re.sub(pattern, word, text) for text in texts]
    return [text for text in texts if text.strip()]
