"""Notebooks are read on web pages too, so they are committed as Restart & Run All leaves them.

nbval alone would not notice: a notebook whose outputs were stripped has nothing to compare, and passes.
"""

import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
FROM_AUTHORS_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/[^\s\"'<>]*")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source]


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_notebook_is_valid(path):
    nbformat.validate(nbformat.read(path, as_version=4))


@each_notebook
def test_cells_ran_once_in_order(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "Restart & Run All, then save"


@each_notebook
def test_outputs_are_stored_and_none_is_an_error(path):
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert outputs, "the outputs were stripped"
    assert [output.ename for output in outputs if output.output_type == "error"] == []


@each_notebook
def test_no_output_tells_of_the_authors_machine(path):
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert FROM_AUTHORS_MACHINE.findall(str(outputs)) == []


def test_the_first_notebook_has_a_map_of_all():
    first, *others = NOTEBOOKS
    text = "\n".join(c.source for c in nbformat.read(first, as_version=4).cells if c.cell_type == "markdown")
    assert [p.name for p in others if f"]({p.name})" not in text] == []


@each_notebook
def test_exercises_check_an_answer_before_they_show_it(path):
    """Every folded solution defines a function that the cell behind it hands to `check_answer`, with no answer yet."""
    cells = nbformat.read(path, as_version=4).cells
    for cell, following in pairwise(cells):
        if "answer" in cell.metadata.get("tags", []):
            assert cell.metadata["jupyter"]["source_hidden"] and not cell.outputs
            assert "hide-input" in cell.metadata["tags"], "the book folds by this tag"
            name = re.match(r"def (\w+)\(", cell.source)[1]
            assert following.source.startswith(f"check_answer(None, {name}")
            assert following.outputs[0].text.startswith("No answer yet")


@each_notebook
def test_a_saved_explorer_holds_all_its_statistics(path):
    """A notebook may end before its tensors are analysed: reopened without a kernel, its explorer would be empty."""
    widgets = nbformat.read(path, as_version=4).metadata.get("widgets", {})
    states = widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    progress = [s["state"]["progress"] for s in states.values() if "statistics" in s["state"]]
    assert all(p and p["done"] == p["total"] for p in progress)
