"""Explorers of notebooks, alive in the book: each stands where the notebook shows its widget.

The stored notebook has the statistics that its explorer showed. Blocks for the microscope, and recipes that were sent
later, are computed from the bundled activations, once for all; where their statistics differ from the stored ones, the
notebook is older than the package, and that is a warning.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import nvfp4viz
from nvfp4viz.explorer import unpacked
from nvfp4viz.nvfp4 import RECIPES, as_recipe
from nvfp4viz.pages.document import fill
from nvfp4viz.pages.notebooks import STATE, VIEW
from nvfp4viz.pages.packing import page_data, script
from nvfp4viz.pages.running import SHOWN
from nvfp4viz.web import page_module

BUNDLED = Path(__file__).parents[2] / "data/smollm2-135m-activations.safetensors"
MORE = ("4/6-mae-256-tensor", "4/6-mae-448-tensor", "standard-tensor")  # beside the five, for notebook 04's question
FOR_PYTHON = ("exact", "provenance", "attributions")  # parts of a report that its page does not read
log = logging.getLogger(__name__)


@cache
def bundled() -> dict:
    """What a report of the bundled activations holds, as far as a page draws it."""
    packed = page_data(nvfp4viz.sweep(nvfp4viz.load(BUNDLED), [*RECIPES, *MORE]))
    return {key: value for key, value in packed.items() if key not in FOR_PYTHON}


def html(shown: dict, name: str) -> str:
    """An explorer with its data, and the script that draws it."""
    place = fill("widget.html", explorer={"data": f"sweep-{name}", "shown": shown}, content=None, controls="")
    return f'<div class="explorer">{place}</div>\n{script(bundled(), f"sweep-{name}")}\n'


def enliven(app, docname: str, source: list[str]) -> None:
    """Put explorers in place of the widgets of a notebook."""
    if not docname.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    state = notebook["metadata"].pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VIEW in data:
                widget = state.get(data[VIEW]["model_id"], {}).get("state", {})
                output["data"] = {"text/html": _view(docname, data, widget)}
    source[0] = json.dumps(notebook)


def _view(docname: str, data: dict, widget: dict) -> str:
    if "statistics" not in widget:
        return str(fill("widget.html", explorer=None, content=None, controls="a widget"))
    for tensor, row in unpacked(widget["statistics"]).items():
        for recipe, stored in row.items():
            if recipe in RECIPES and not _alike(bundled()["stats"].get(tensor, {}).get(recipe), stored):
                log.warning("%s: its explorer shows other statistics of %s under %s than the package computes now: "
                            "run the notebook again", docname, tensor, recipe)  # fmt: skip
                return html(_shown(widget), data[VIEW]["model_id"])
    return html(_shown(widget), data[VIEW]["model_id"])


def _alike(a, b) -> bool:
    """Equality but for the last digits of sums, which the order of adding decides."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def _shown(widget: dict) -> dict:
    """What is shown first; recipes by the names that the data has."""
    shown = {key: widget[key] for key in SHOWN if key in widget}
    return shown | {key: as_recipe(shown[key]).name for key in ("recipe_a", "recipe_b")}


class Explorer(SphinxDirective):
    """`{explorer}`: an explorer of the bundled activations; its content says what is shown first, as JSON."""

    has_content = True

    def run(self):
        shown = json.loads("\n".join(self.content) or "{}")
        return [nodes.raw("", html(shown, f"page{self.env.new_serialno('explorer')}"), format="html")]


def add_script(app, pagename, templatename, context, doctree) -> None:
    """The explorer's script, in the pages that have one: a file beside them could not be a module without a server."""
    if "data-sweep=" in context.get("body", ""):
        context["body"] += f'<script type="module">{page_module()}</script>\n'


def setup(app) -> dict:
    app.add_directive("explorer", Explorer)
    app.connect("source-read", enliven)
    app.connect("html-page-context", add_script)
    app.add_css_file("explorer.css")
    app.connect("builder-inited", _styles)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def _styles(app) -> None:
    from nvfp4viz.web import asset

    folder = Path(app.outdir) / "_static"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "explorer.css").write_text(asset("explorer/explorer.css"), encoding="utf-8")
