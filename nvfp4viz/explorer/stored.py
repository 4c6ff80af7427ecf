"""A notebook whose data are missing shows what it holds: Run All would wipe every stored result before it fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def or_stored(notebook: str | os.PathLike, needs: str | os.PathLike) -> bool:
    """Whether `needs` is there; where it is not, the cells below show what the notebook's file holds and run nothing.

    Front ends clear the outputs of all cells when Run All begins, so that an error in one leaves none of them.

    Args: notebook: the file in which this is called; needs: a file or folder that its cells below need.
    """
    shell = _shell()
    if shell is None:
        return Path(needs).exists()
    transforms = shell.input_transformers_cleanup
    transforms[:] = [t for t in transforms if not isinstance(t, Replay)]
    if Path(needs).exists():
        return True
    transforms.append(Replay(Path(notebook)))
    print(f"There is no {needs}: the cells below run nothing, and show what {Path(notebook).name} holds.")
    return False


class Replay:
    """Puts in place of a cell's code what shows its stored outputs; cells that the file has not run as they are."""

    def __init__(self, notebook: Path):
        cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]).strip() for c in cells]
        here = next((i for i, source in enumerate(sources) if f"{or_stored.__name__}(" in source), -1)
        self.sources, self.outputs = sources[here + 1 :], [c["outputs"] for c in cells[here + 1 :]]

    def __call__(self, lines: list[str]) -> list[str]:
        source = "".join(lines).strip()
        if source not in self.sources:
            return lines
        place = self.sources.index(source)
        return [f"__import__('nvfp4viz.explorer', fromlist=['explorer']).show_stored({place})\n"]


def _shell():
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def show_stored(place: int) -> None:
    """Show what a cell's stored outputs hold: text, pictures and tables, no widgets and no errors."""
    from IPython.display import display

    replay = next(t for t in _shell().input_transformers_cleanup if isinstance(t, Replay))
    for output in replay.outputs[place]:
        if "text" in output:
            print("".join(output["text"]), end="", file=getattr(sys, output.get("name", "stdout")))
        data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if "widget" not in kind}
        if data:
            display(data, metadata=output.get("metadata", {}), raw=True)
