"""Links that leave the book are listed, not fetched: external-links.txt in the folder of the built book."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes


def _collect(app, doctree: nodes.document, docname: str) -> None:
    for link in doctree.findall(nodes.reference):
        target = link.get("refuri", "")
        if target.startswith(("http:", "https:")):
            app.env.nvfp4viz_links.setdefault(target, set()).add(docname)


def _write(app, error) -> None:
    if error is None and app.builder.format == "html":
        lines = [f"{target}  {' '.join(sorted(pages))}" for target, pages in sorted(app.env.nvfp4viz_links.items())]
        (Path(app.outdir) / "external-links.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _start(app) -> None:
    app.env.nvfp4viz_links = {}


def setup(app) -> dict:
    app.connect("builder-inited", _start)
    app.connect("doctree-resolved", _collect)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}
