"""Notebooks as pages: run, then written as one HTML file each, in which explorers work offline and nothing is fetched.

nbconvert makes the prose, the code and the pictures. What it makes of widgets asks a network for their managers, so
each view of a widget is replaced before: an explorer by that of a report, with its statistics; a text by itself; any
other control by a sentence that says what it needs.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from markupsafe import Markup

from ..analysis import Sweep, keep, token_texts
from ..web import asset
from .document import document, fill, write
from .packing import pack, script

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
SHOWN = ("tensor", "recipe_a", "recipe_b", "view", "scale", "span", "sort", "rule", "under", "block")
TIMEOUT = 600  # seconds a cell may take


def export(notebooks: Iterable[str | os.PathLike], folder: str | os.PathLike) -> Iterator[Path]:
    """Run each notebook where it lies and write folder/name.html; yields the paths as they are written.

    Raises ValueError where there is nothing to do or a file is no notebook, RuntimeError where a cell fails.
    """
    notebooks = [Path(n) for n in notebooks]
    if not notebooks:
        raise ValueError("no notebook: name one, or run this where the folder notebooks is")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path in notebooks:
        yield write(page(path), Path(folder) / f"{path.stem}.html")


def page(path: Path) -> str:
    """The page of a notebook, which is run for it."""
    from nbconvert import HTMLExporter

    notebook, explorers = run(path)
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    blocks: dict[str, Markup] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VIEW in data:
                html = "".join(_views(data.pop(VIEW)["model_id"], state, explorers, blocks))
                data.clear()
                data["text/html"] = html
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(path.parent)}})
    title = next((line.lstrip("# ") for c in notebook.cells for line in c.source.splitlines()[:1]), path.stem)
    filled = fill("notebook.html", body=Markup(body), blocks=Markup("\n").join(blocks.values()))
    return document(title, filled, css=_css())


def run(path: Path) -> tuple:
    """The notebook after running all its cells, and its explorers: model id -> {"shown", "data"}."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    try:
        notebook = nbformat.read(path, 4)
    except FileNotFoundError:
        raise
    except Exception as error:  # every way of not being a notebook has its own
        raise ValueError(f"{str(path)!r} is no notebook: {str(error).splitlines()[0][:200]}") from error
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "explorers.json"
        code = f"from nvfp4viz.pages.notebooks import collect\ncollect({str(collected)!r})"
        notebook.cells.append(nbformat.v4.new_code_cell(code))
        client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(path.parent)}})
        try:
            client.execute()
        except CellExecutionError as error:
            raise RuntimeError(f"{str(path)!r} does not run: {error.ename}: {error.evalue}") from error
        notebook.cells.pop()
        return notebook, json.loads(collected.read_text())


def collect(path: str) -> None:
    """Runs in a notebook's kernel, behind its cells: write what every explorer there knows and shows."""
    from ipywidgets.widgets import widget

    from ..explorer import Explorer

    living = [(i, w) for i, w in widget._instances.items() if isinstance(w, Explorer)]
    found = {i: {"shown": {s: getattr(w, s) for s in SHOWN}, "data": pack(_sweep(w))} for i, w in living}
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
        blocks[tensor] = keep(store.read(tensor), recipes, texts)
    stats = {t: {n: store.stats[t][n] for n in recipes} for t in tensors if store.has(t, recipes)}
    return Sweep.of(stats, recipes, {"versions": store.versions}, store.skipped, blocks=blocks)


def _views(model: str, state: dict, explorers: dict, blocks: dict[str, Markup]) -> Iterator[str]:
    """HTML for a widget and those in it."""
    if model in explorers:
        blocks[model] = Markup(script(explorers[model]["data"], f"sweep-{model}"))
        yield _widget(explorer={"data": f"sweep-{model}", "shown": explorers[model]["shown"]})
        return
    values = state.get(model, {}).get("state", {})
    name = state.get(model, {}).get("model_name", "widget").removesuffix("Model")
    children = [c.removeprefix("IPY_MODEL_") for c in values.get("children", [])]
    if name in ("HTML", "HTMLMath", "Label"):
        yield _widget(content=Markup(values["value"]) if name == "HTML" else values.get("value", ""))
    elif children:
        dials = [c for c in children if _is_dial(c, state, explorers)]
        if dials:
            yield _widget(controls=", ".join(state[d]["state"].get("description") or "one more" for d in dials))
        for child in children:
            if child not in dials:
                yield from _views(child, state, explorers, blocks)
    else:
        yield _widget(controls=name)


def _widget(**what) -> Markup:
    return fill("widget.html", **{"explorer": None, "content": None, "controls": ""} | what)


def _is_dial(model: str, state: dict, explorers: dict) -> bool:
    values = state.get(model, {})
    held = values.get("state", {})
    return model not in explorers and bool(values) and "children" not in held and "description" in held and not (
        values.get("model_name", "").startswith(("HTML", "Label"))
    )  # fmt: skip


def _css() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark"))
    return f"{asset('report/notebook.css')}{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n"
