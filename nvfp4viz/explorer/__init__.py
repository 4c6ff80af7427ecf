"""The explorer: a widget, and what pages show of it. The widget needs Jupyter's packages and comes at first use."""

import importlib

from .exercise import check_answer
from .messages import COUNTS, compact, origin, packed, page_catalog, recipe_entry, summary, unpacked
from .output import TOKENS, measured, outputs, prompts, ranking
from .stored import or_stored, show_stored

_LAZY = {"Explorer": "widget", "explore": "widget", "lab": "laboratory"}

__all__ = [
    "COUNTS", "TOKENS", "check_answer", "compact", "measured", "or_stored", "origin", "outputs", "packed",
    "page_catalog", "prompts", "ranking", "recipe_entry", "show_stored", "summary", "unpacked", *_LAZY,
]  # fmt: skip


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module("." + _LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
