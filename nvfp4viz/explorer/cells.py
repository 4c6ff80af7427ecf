"""Which cell of a notebook runs, so that a widget which a new run of its cell replaces lets go of what it holds."""

from __future__ import annotations

import sys
import weakref


class Cell:
    """One run of a notebook's cell."""

    def __init__(self, name: str, run: str):
        self.name, self.run = name, run


def running_cell() -> Cell | None:
    """The cell that runs; None outside Jupyter, or where its front end does not say which cell it is."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    name, run = (parent or {}).get("metadata", {}).get("cellId"), (parent or {}).get("header", {}).get("msg_id")
    return Cell(name, run) if name and run else None


class Replaced:
    """Remembers what each cell made; what a cell makes anew replaces what its run before made."""

    def __init__(self):
        self._made: dict[str, tuple[str, weakref.WeakSet]] = {}  # cell -> its last run, and what that made

    def take_place(self, thing, cell: Cell | None) -> list:
        """What `thing`, made in this cell, replaces."""
        if cell is None:
            return []
        run, members = self._made.get(cell.name, (cell.run, weakref.WeakSet()))
        old = [] if run == cell.run else list(members)
        members = members if run == cell.run else weakref.WeakSet()
        members.add(thing)
        self._made[cell.name] = (cell.run, members)
        return old
