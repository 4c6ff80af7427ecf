"""Notebooks as pages: run, then written as one HTML file each, in which explorers work offline and nothing is fetched.

nbconvert makes the prose, the code and the pictures. What it makes of widgets asks a network for their managers, so
each view of a widget is replaced before: an explorer by that of a report, with its statistics; a text by itself; any
other control by a sentence that says what it needs.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from markupsafe import Markup

from ..analysis import versions
from ..shown import error_text
from ..web import asset
from .document import document, fill, write, written
from .formulas import set_aside
from .packing import script
from .running import differences, read, run, targets

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def export(notebooks: Iterable[str | os.PathLike], folder: str | os.PathLike) -> Iterator[Path]:
    """Run each notebook where it lies and write folder/name.html; yields the paths as they are written.

    A notebook that does not run costs no other: its page says why, and shows the outputs that it holds. Raises
    ValueError where there is nothing to do or the only file is no notebook, RuntimeError, at the end, that says which
    do not run and why.
    """
    planned, failed = targets(notebooks, folder), []
    if not planned:
        raise ValueError("no notebook: name one, or run this where the folder notebooks is")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, target in planned.items():
        try:
            html = notebook_page(path)
        except RuntimeError as error:
            failed.append(error_text(error, 400))
            html = notebook_page(path, why_not=failed[-1])
        except (ValueError, OSError) as error:  # no notebook, or none there
            if len(planned) == 1:
                raise
            failed.append(error_text(error, 400))
            continue
        yield write(html, target)
    if failed:
        many = f"{len(failed)} of {len(planned)} notebooks do not run: " if len(planned) > 1 else ""
        raise RuntimeError(many + "; ".join(failed))


def check(notebooks: Iterable[str | os.PathLike]) -> Iterator[tuple[Path, list[str]]]:
    """Run each notebook; yields it with what it says otherwise than its stored outputs, or why it does not run."""
    for path in dict.fromkeys(map(Path, notebooks)):
        try:
            yield path, differences(path)
        except (RuntimeError, ValueError, OSError) as error:
            yield path, [error_text(error, 400)]


def notebook_page(path: Path, *, why_not: str = "") -> str:
    """The page of a notebook, which is run for it; of one that does not run, and why, as it is stored."""
    from nbconvert import HTMLExporter

    notebook, explorers, outputs = (read(path), {}, {}) if why_not else run(path)
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for model, held in outputs.items():
        state.setdefault(model, {"model_name": "OutputModel", "state": {}})["outputs"] = held
    blocks: dict[str, Markup] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VIEW in data and why_not and "image/png" in data:  # no explorer without its statistics, but its picture
                _show_as(data, _picture(data, output.get("metadata", {}).get("image/png", {}).get("alt", "")))
            elif VIEW in data:
                _show_as(data, "".join(_views(data[VIEW]["model_id"], state, explorers, blocks)))
            elif "image/svg+xml" in data and "text/html" not in data:
                _show_as(data, _picture(data))  # with words for it, which nbconvert does not give
    title, aside = _title(notebook, path), set_aside(notebook) | _fold_solutions(notebook)
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(path.parent)}})
    for mark, html in aside.items():
        body = body.replace(mark, html)
    known = versions()["versions"]
    filled = fill(
        "notebook.html", why_not=why_not, body=Markup(body), blocks=Markup("\n").join(blocks.values()),
        versions=[f"{name} {known[name]}" for name in ("nvfp4viz", "torch")], written=written(None),
    )  # fmt: skip
    return document(title, filled, css=_css(), printed=written(None))


def _title(notebook, path: Path) -> str:
    """The first heading, or the file's name."""
    lines = (line for c in notebook.cells if c.cell_type == "markdown" for line in c.source.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if re.match(r"#+ +\S", line)), path.stem)


def _fold_solutions(notebook) -> dict[str, str]:
    """Put a mark in place of each cell whose code Jupyter folds, such as a solution; returns mark -> folded HTML."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    found: dict[str, str] = {}
    for cell in notebook.cells:
        folded = cell.metadata.get("jupyter", {}).get("source_hidden") and not cell.get("outputs")
        if cell.cell_type == "code" and folded:
            name = f"nvfp4vizFolded{len(found)}e"
            code = highlight(cell.source, PythonLexer(), HtmlFormatter())
            found[name] = f"<details><summary>Solution</summary>{code}</details>"
            cell.update(cell_type="markdown", source=f"<div>{name}</div>")
    return found


def _show_as(data: dict, html: str) -> None:
    data.clear()
    data["text/html"] = html


def _picture(data: dict, alt: str = "") -> str:
    """An output's SVG, or else PNG, and what stands in for it."""
    alt = escape(alt or "".join(data.get("text/plain", "figure")), quote=True)
    if svg := data.get("image/svg+xml"):
        return f'<img alt="{alt}" src="data:image/svg+xml;base64,{b64encode("".join(svg).encode()).decode()}">'
    return f'<img alt="{alt}" src="data:image/png;base64,{data["image/png"].strip()}">'


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
    elif name == "Output":
        for output in state.get(model, {}).get("outputs", []):
            yield from _output(output, state, explorers, blocks)
    elif children:
        dials = [c for c in children if _is_dial(c, state, explorers)]
        if dials:
            yield _widget(controls=", ".join(state[d]["state"].get("description") or "one more" for d in dials))
        titles = dict(zip(children, values.get("titles", ()), strict=False))  # of the parts of a Tab or an Accordion
        for child in children:
            if titles.get(child):
                yield _widget(content=titles[child])
            if child not in dials:
                yield from _views(child, state, explorers, blocks)
    else:
        yield _widget(controls=name)


def _output(output: dict, state: dict, explorers: dict, blocks: dict[str, Markup]) -> Iterator[str]:
    """HTML for one output that an Output widget holds."""
    data = output.get("data", {})
    if VIEW in data:
        yield from _views(data[VIEW]["model_id"], state, explorers, blocks)
    elif "text/html" in data:
        yield f"<div>{''.join(data['text/html'])}</div>"
    elif {"image/png", "image/svg+xml"} & data.keys():
        yield _picture(data)
    else:
        text = output.get("text") or data.get("text/plain") or output.get("evalue", "")
        yield f"<pre>{escape(''.join(text))}</pre>"


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
