"""The files of this folder as text, and the explorer's as one ES module."""

from __future__ import annotations

from importlib import resources


def asset(name: str) -> str:
    """A text file of nvfp4viz/web."""
    return resources.files("nvfp4viz").joinpath("web", name).read_text(encoding="utf-8")


def explorer_module() -> str:
    """The explorer's files as one ES module, since neither a widget nor an offline page can import one beside it."""
    drawing = ("svg", "scales", "clipping", "error", "tensors", "block")
    parts = ("knowledge", "skeleton", "page", "dials", "list", "microscope", "pictures", "controls")
    return "\n".join(asset(f"{name}.js") for name in (*drawing, *parts, "explorer", "mount"))
