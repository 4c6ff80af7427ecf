"""Every public name has an entry in the reference of the book, with an example, and every example there runs.

An entry is a heading with the name, the directive that shows its signature and docstring, and examples behind >>>.
"""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import nvfp4viz
from nvfp4viz import analysis, checkpoints, environment, model, planning, plots
from nvfp4viz.integrations import huggingface, sglang, vllm

PAGES = Path(__file__).parents[2] / "docs/reference"
INTEGRATIONS = {sglang: ("record",), vllm: ("Recording",), huggingface: ("load_model", "batches")}
RESULTS = {  # what functions return
    analysis: ("Agreement", "Attribution", "CeilingDial", "Choice", "Comparison", "StaticCurve", "Verdict"),
    checkpoints: ("Finding",),
    model: ("Recorder", "Sensitivity"),
    planning: ("Drift", "LayerEffects", "Point"),
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_names() -> list[str]:
    """Dotted names of everything that is public: what a user calls or reads."""
    figures = [n for n, f in vars(plots).items() if inspect.isfunction(f) and f.__module__ != "nvfp4viz.plots.style"]
    return [
        *(f"nvfp4viz.{name}" for name in nvfp4viz.__all__),
        *(f"nvfp4viz.plots.{name}" for name in figures),
        *(f"nvfp4viz.planning.{name}" for name in planning._FIGURES),
        *(f"nvfp4viz.environment.{name}" for name in environment.__all__),
        *(f"{module.__name__}.{name}" for module, names in (INTEGRATIONS | RESULTS).items() for name in names),
    ]


def _find(name: str):
    thing = nvfp4viz
    for part in name.split(".")[1:]:
        thing = getattr(thing, part)
    return thing


def entries() -> dict[str, str]:
    """Dotted name -> the text of its entry."""
    found = {}
    for page in sorted(PAGES.glob("*.md")):
        for entry in re.split(r"^(?=#+ )", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if shown := re.search(r"^```\{public\} (\S+)$", entry, re.MULTILINE):
                found[shown[1]] = entry
    return found


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_has_an_entry_with_an_example_that_uses_it(name):
    entry = entries().get(name)
    assert entry is not None, f"docs/reference lacks {name}: add a heading, ```{{public}} {name}``` and an example"
    last = name.rpartition(".")[2]
    assert last in entry.partition("\n")[0], f"the heading of {name} does not name it"
    code = "".join(example.source for example in doctest.DocTestParser().get_examples(entry))
    assert re.search(rf"\b{last}\b", code), f"no example of {name} uses it"


@pytest.mark.parametrize("name", [n for n in public_names() if inspect.isclass(_find(n))])
def test_the_entry_of_a_class_explains_each_of_its_fields(name, monkeypatch):
    pytest.importorskip("sphinx", reason="make book installs it")
    monkeypatch.syspath_prepend(PAGES.parent / "extensions")
    import public_names as extension

    cls = _find(name)
    fields = getattr(cls, "_fields", None) or [f.name for f in getattr(cls, "__dataclass_fields__", {}).values()]
    shown = re.findall(r"^- `(\w+)`: \S", extension.fields_of(cls), re.MULTILINE)
    assert shown == list(fields)


def test_no_entry_is_of_a_name_that_is_gone():
    assert set(entries()) <= set(public_names())


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_the_examples_run(page):
    """All of a page in one session, as it says."""
    text = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)  # a fence is no output
    parsed = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    failures = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(parsed, out=failures.append)
    assert not failures, "".join(failures)
    assert parsed.examples
