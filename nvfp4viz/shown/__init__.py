"""How results show themselves: a line in a console, a small table or a picture in a notebook, a figure on a page."""

import importlib

from .order import layer, layer_order
from .text import (
    NAMELESS,
    ROWS,
    Card,
    change,
    error_text,
    fixed,
    number,
    percent,
    printable,
    quantity,
    rounded,
    short,
    signed,
    table,
)

_PICTURES = (  # these come with matplotlib, at first use
    "FAINT", "INK", "RULE", "Picture", "expect", "formula", "label_tensors", "shorten", "svg", "titles",
)  # fmt: skip


def __getattr__(name):
    if name not in _PICTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".pictures", __name__), name)
