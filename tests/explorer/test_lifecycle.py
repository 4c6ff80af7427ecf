"""An explorer that a new run of its cell replaces lets go; a display carries a picture for where no kernel is."""

import gc
import threading
import weakref

import pytest

from nvfp4viz import sweep, synthetic
from nvfp4viz.explorer import explore, lab, widget
from nvfp4viz.explorer.cells import Cell, Replaced

X = {"a": synthetic("lognormal", 32, 64), "b": synthetic("normal", 32, 64)}
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def cell(monkeypatch):
    """Sets the cell that runs."""
    monkeypatch.setattr(widget, "_REPLACED", Replaced())
    return lambda name, run: monkeypatch.setattr(widget, "running_cell", lambda: Cell(name, run))


def test_twenty_runs_of_a_cell_leave_one_explorer(cell):
    kept, threads = [], threading.active_count()
    for run in range(20):
        cell("one", f"run {run}")
        w = explore(dict(X), engine="reference").wait(60)
        w._repr_mimebundle_()
        kept.append(w)  # as IPython's Out does
    assert threading.active_count() <= threads + 1
    assert [w.comm is None for w in kept] == [True] * 19 + [False]
    assert all(not w.statistics and not any(w.session.store.stats.values()) for w in kept[:-1])
    assert kept[-1].statistics and kept[0].stats_a.tokens == 32  # computed again, if somebody asks
    gone = weakref.ref(kept[0])
    del kept[0], w
    gc.collect()
    assert gone() is None
    kept[-1].close()


def test_one_run_may_make_several_and_another_cell_replaces_none(cell):
    cell("one", "run 1")
    first = [explore(dict(X), engine="reference") for _ in range(2)]
    cell("two", "run 2")
    other = explore(dict(X), engine="reference")
    assert all(w.comm is not None for w in [*first, other])
    other._repr_mimebundle_()
    first[0]._repr_mimebundle_()  # displayed in another cell than the one that made it
    cell("one", "run 3")
    last = explore(dict(X), engine="reference")
    assert first[0].wait(60).comm is not None and other.comm is not None  # displayed in two cells; of another cell
    assert first[1].comm is None
    for w in (first[0], other, last):
        w.close()


def test_outside_jupyter_nothing_is_replaced():
    several = [explore(dict(X), engine="reference") for _ in range(2)]
    assert all(w.comm is not None for w in several)
    for w in several:
        w.close()


def test_a_lab_carries_the_picture_of_its_explorer():
    bench = lab("standard", "4/6-mse-256", engine="reference")
    data, _ = bench._repr_mimebundle_()
    assert data[VIEW]["model_id"] == bench.model_id and data["image/png"].startswith("iVBORw0KGgo")
    assert data["text/plain"] == "Lab(crowded ×1: A standard, B 4/6-mse-256)"
    bench.explorer.close()


def test_a_display_carries_a_picture_and_words(monkeypatch):
    w = explore(X, engine="reference").wait(60)
    data, metadata = w._repr_mimebundle_()
    assert data[VIEW]["model_id"] == w.model_id and data["image/png"].startswith("iVBORw0KGgo")
    assert data["text/plain"] == repr(w)
    assert f"{w.stats_a.sqnr_db:.2f} dB" in metadata["image/png"]["alt"] and "width" in metadata["image/png"]
    w.close()
    other = explore(X, engine="reference", recipe_b="4/6-mae-256-tensor")  # of which nobody asked for statistics
    assert "image/png" in other._repr_mimebundle_()[0]
    other.close()
    monkeypatch.setattr(widget, "PICTURE_S", 0.0)
    monkeypatch.setattr("nvfp4viz.explorer.store.analyze_all", lambda *a, **k: threading.Event().wait(5))
    late = explore(X, engine="reference")
    bundle = late._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert VIEW in data and "image/png" not in data  # nothing waits for the computation
    late.close()
    stored = explore(sweep(X, ["standard"], engine="reference"))
    assert "image/png" in stored._repr_mimebundle_()[0]
    stored.close()
