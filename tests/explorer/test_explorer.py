"""The explorer's Python side: traits, messages, threads and size; the browser test sees what is drawn."""

import json
import threading
import time

import pytest
import torch
from traitlets import TraitError

import nvfp4viz
from nvfp4viz import RECIPES, Recipe, analyze, sweep, synthetic
from nvfp4viz.explorer import Explorer, explore
from nvfp4viz.explorer import messages as page
from nvfp4viz.explorer.store import PAGE_BYTES, Store

PAIR = ["4/6-mae-448", "4/6-mae-256"]


@pytest.fixture(scope="module")
def activations():
    return {
        f"layers.{i}.{part}": synthetic("lognormal", 16, 64, seed=i)
        for i in (10, 2)
        for part in ("down_proj", "q_proj")
    }


class Page:
    """Hears what a widget sends, and asks as the page does."""

    def __init__(self, widget, monkeypatch):
        self.widget, self.heard, self.came = widget, [], threading.Condition()
        monkeypatch.setattr(widget, "send", self.hear)

    def hear(self, content, buffers=None):
        with self.came:
            self.heard.append(json.loads(json.dumps(content, allow_nan=False)))
            self.came.notify_all()

    def ask(self, id, **message):
        self.widget._handle_custom_msg({**message, "id": id}, [])

    def answer(self, id, timeout=20):
        def found():
            return next((m for m in self.heard if m["id"] == id and m["kind"] != "working"), None)

        with self.came:
            assert self.came.wait_for(found, timeout), f"no answer to {id}"
            return found()


@pytest.fixture
def open_page(monkeypatch):
    opened = []

    def make(*args, **kwargs):
        widget = explore(*args, **{"engine": "reference", **kwargs})
        opened.append(widget)
        return widget, Page(widget, monkeypatch)

    yield make
    for widget in opened:
        widget.close()


def test_it_starts_with_448_against_256_on_the_first_layer(open_page, activations):
    w, _ = open_page(activations)
    assert (w.tensor, w.recipe_a, w.recipe_b, w.view, w.scale) == ("layers.2.q_proj", *PAIR, "overview", "linear")
    assert [t["name"] for t in w.catalog["tensors"]] == [
        "layers.2.q_proj", "layers.2.down_proj", "layers.10.q_proj", "layers.10.down_proj",
    ]  # fmt: skip
    assert w.stats_a == analyze(activations[w.tensor], PAIR[0], engine="reference")
    w.wait(30)
    assert set(w.statistics) == set(activations) and set(w.statistics[w.tensor]) == set(RECIPES)
    assert w.progress == {"done": 4, "total": 4}


def test_state_is_settable_and_a_wrong_value_is_one_clear_error(open_page, activations):
    w, _ = open_page(activations, view="scales", recipe_b=Recipe(320, four_over_six=True, err_mode="mse"))
    assert (w.view, w.recipe_b) == ("scales", "4/6-mse-320")
    w.recipe_a = "Standard"
    assert w.recipe_a == "standard"
    w.block = (3, 1)
    for name, value, message in [
        ("recipe_a", "4/6-mse-265x", "unknown recipe '4/6-mse-265x', did you mean '4/6-mse-256'"),
        ("recipe_b", 448, "unknown recipe 448"),
        ("tensor", "layers.2.q", "no tensor 'layers.2.q'; there is 'layers.2.q_proj'"),
        ("view", "histogram", "view"),
        ("scale", "sqrt", "scale"),
        ("block", [1], r"expected \[token, block\]"),
        ("block", [-1, 0], r"expected \[token, block\]"),
    ]:
        before = getattr(w, name)
        with pytest.raises(TraitError, match=message):
            setattr(w, name, value)
        assert getattr(w, name) == before
    with pytest.raises(TraitError, match="no tensor 'x'"):
        explore(activations, tensor="x", engine="reference")


def test_sources_may_be_a_tensor_a_file_or_a_sweep(open_page, activations, tmp_path):
    from safetensors.torch import save_file

    save_file(activations, tmp_path / "x.safetensors")
    assert open_page(tmp_path / "x.safetensors")[0].wait(30).tensor == "layers.2.q_proj"
    assert open_page(activations["layers.2.q_proj"])[0].tensor == "activations"
    swept = sweep(activations, PAIR, engine="reference")
    swept.save(tmp_path / "x.json")
    w, _ = open_page(str(tmp_path / "x.json"))
    assert not w.live and list(w.statistics["layers.2.q_proj"]) == PAIR
    for wrong, error, message in [
        (3, TypeError, "activations is a int: give one tensor"),
        ({}, ValueError, "no tensor"),
        ("gone.npy", OSError, "gone.npy"),
    ]:
        with pytest.raises(error, match=message):
            explore(wrong)
    with pytest.raises(ValueError, match="did you mean 'reference'"):
        explore(activations, engine="referense")


def test_statistics_for_the_page_are_the_library_s(activations):
    stats = analyze(activations["layers.2.q_proj"], "4/6-mae-448", engine="reference")
    drawn = json.loads(json.dumps(page.compact(stats, attribution={"scale": 0.5}), allow_nan=False))
    assert drawn["sqnr_db"] == stats.sqnr_db and drawn["nmse"] == stats.nmse
    assert drawn["rates"]["four_rate"] == [stats.four_rate, stats.n_four, stats.nonzero_blocks]
    for field, whole in [("six", stats.scale_histogram[:, 0]), ("four", stats.scale_histogram[:, 1]),
                         ("token_nmse", stats.token_histogram), ("block_nmse", stats.block_histogram)]:  # fmt: skip
        first, *counts = drawn[field]
        assert whole[first : first + len(counts)].tolist() == counts and sum(counts) == whole.sum()
    assert drawn["attribution"] == {"scale": 0.5}
    nothing = page.compact(analyze(torch.zeros(2, 32), "standard", engine="reference"))
    assert nothing["sqnr_db"] == "inf" and nothing["token_nmse"] == []


def test_a_recipe_from_the_dials_is_answered_with_statistics(open_page, activations):
    w, p = open_page(activations)
    settings = Recipe(320, four_over_six=True, err_mode="MSE", per_token=False).to_dict()
    p.ask("recipe", want="recipe", tensor=w.tensor, settings=settings)
    answer, w.recipe_b = p.answer("recipe"), "4/6-mse-320-tensor"
    assert answer["recipes"] == [page.recipe_entry(Recipe.from_dict(settings))]
    assert answer["stats"] == {w.tensor: {w.recipe_b: json.loads(json.dumps(page.compact(w.stats_b)))}}
    w.wait(30)
    p.ask("sweep", want="sweep", recipe=w.recipe_b)
    assert all(w.recipe_b in row for row in p.answer("sweep")["summary"].values())
    p.ask("bad", want="recipe", tensor=w.tensor, settings=settings | {"e4m3_max": 900})
    assert "e4m3_max=900 is no" in p.answer("bad")["text"]
    p.ask("none", want="nonsense")
    assert p.answer("none")["kind"] == "refused"


def test_the_microscope_answers_with_the_library_s_arithmetic(open_page, activations):
    w, p = open_page(activations)
    p.ask("picks", want="picks", tensor=w.tensor, recipe=PAIR[0], rule="worst")
    first = p.answer("picks")["blocks"][0]
    p.ask("block", want="block", tensor=w.tensor, block=[first["token"], first["block"]], recipes=PAIR)
    seen = p.answer("block")
    x = activations[w.tensor]
    assert seen["stored"] == x[first["token"], first["block"] * 16 :][:16].float().tolist()
    q = nvfp4viz.quantize(x, PAIR[0], engine="reference")
    assert seen["inspections"][PAIR[0]]["byte"] == q.block_scales.view(torch.uint8)[first["token"], first["block"]]
    p.ask("edited", want="block", tensor=w.tensor, block=[0, 0], recipes=PAIR, values=[1e3] + [0.0] * 15)
    assert p.answer("edited")["inspections"][PAIR[1]]["amax"] == 1000
    p.ask("outside", want="block", tensor=w.tensor, block=[0, 99], recipes=PAIR)
    assert "no block (0, 99)" in p.answer("outside")["text"]


def test_a_sweep_alone_says_what_it_cannot_do(open_page, activations):
    w, p = open_page(sweep(activations, PAIR, engine="reference"))
    p.ask("stats", want="stats", tensor="layers.10.q_proj", recipes=PAIR)
    assert p.answer("stats")["kind"] == "stats"
    p.ask("recipe", want="recipe", tensor=w.tensor, settings=Recipe(320, four_over_six=True).to_dict())
    assert "needs a new computation" in p.answer("recipe")["text"]
    assert w.recipe_a == PAIR[0]  # as drawn
    p.ask("picks", want="picks", tensor=w.tensor, recipe=PAIR[0], rule="worst")
    assert "explore(activations)" in p.answer("picks")["text"]
    w.recipe_a = "standard"
    with pytest.raises(ValueError, match="statistics without activations"):
        _ = w.stats_a


def test_a_tensor_that_cannot_be_quantized_is_named_with_its_reason(open_page, activations):
    bad = activations["layers.2.q_proj"].clone()
    bad[3, 5] = torch.nan
    w, p = open_page({**activations, "layers.99.bad": bad})
    w.wait(30)
    assert "1 NaN" in next(t["skipped"] for t in w.catalog["tensors"] if t["name"] == "layers.99.bad")
    p.ask("stats", want="stats", tensor="layers.99.bad", recipes=PAIR)
    assert "was skipped: x holds 1 NaN" in p.answer("stats")["text"]


def test_200_changes_beside_a_running_computation(open_page, activations, monkeypatch):
    """Each answer is right for what it was asked, the last change stands, and nothing raises."""
    from nvfp4viz.explorer import store

    real = store.analyze_all
    monkeypatch.setattr(store, "analyze_all", lambda *a, **k: (time.sleep(0.01), real(*a, **k))[1])
    w, p = open_page(activations)
    tensors, names, errors = list(activations), [*RECIPES, "4/6-mae-320", "4/6-mse-208", "standard-tensor"], []

    def turn(worker: int):
        try:
            for i in range(50):
                tensor, a = tensors[(i + worker) % 4], names[(3 * i + worker) % len(names)]
                w.set_state({"tensor": tensor, "recipe_a": a})
                p.ask(f"{worker}-{i}", want="stats", tensor=tensor, recipes=[a])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=turn, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for i in range(50):  # the cell goes on meanwhile
        w.recipe_b, w.scale = names[i % len(names)], ("linear", "log")[i % 2]
    for t in threads:
        t.join()
    wanted = {
        (t, n): json.loads(json.dumps(page.compact(analyze(activations[t], n, engine="reference"))))
        for t in tensors
        for n in names
    }
    for worker in range(4):
        for i in range(50):
            tensor, a = tensors[(i + worker) % 4], names[(3 * i + worker) % len(names)]
            assert p.answer(f"{worker}-{i}")["stats"] == {tensor: {a: wanted[tensor, a]}}
    assert not errors
    assert w.tensor in tensors and w.recipe_a in names and w.recipe_b == names[49 % len(names)] and w.scale == "log"
    assert w.wait(30).statistics[tensors[0]][PAIR[0]] == wanted[tensors[0], PAIR[0]]


@pytest.mark.alone
def test_nothing_waits_for_the_computation(activations, monkeypatch):
    from nvfp4viz.explorer import store

    go, real = threading.Event(), store.analyze_all
    monkeypatch.setattr(store, "analyze_all", lambda *a, **k: (go.wait(20), real(*a, **k))[1])
    start = time.perf_counter()
    w = explore(activations, engine="reference")
    assert time.perf_counter() - start < 1
    with pytest.raises(TimeoutError, match="still analysing"):
        w.wait(0.01)
    go.set()
    w.wait(30).close()


def _size(widget) -> int:
    return len(json.dumps(widget.get_state()))


def test_the_state_that_a_notebook_saves_is_small_and_reads_back(bundled):
    w = explore(nvfp4viz.load(bundled)).wait(120)
    print(f"state of the bundled data: {_size(w):,} bytes")
    assert len(w.statistics) == 21 and _size(w) < 150_000
    kept, saved = w.statistics, w.get_state()["statistics"]
    w.set_state({"statistics": saved})
    assert w.statistics == kept and len(saved) < 60_000
    w.close()


@pytest.mark.alone
def test_500_tensors_have_summaries_in_the_page_and_the_rest_on_demand(monkeypatch):
    one = sweep({"x": synthetic("lognormal", 64, 128)}, engine="reference").stats["x"]
    many = nvfp4viz.Sweep.of({f"model.layers.{i}.mlp.down_proj": one for i in range(500)}, dict(RECIPES))
    start = time.perf_counter()
    w = Explorer(Store(many))
    print(f"500 tensors: {_size(w):,} bytes, {time.perf_counter() - start:.2f} s")
    assert len(w.summary) == 500 and len(w.statistics) < 500
    assert _size(w) < 2_000_000 and PAGE_BYTES < 2_000_000
    p = Page(w, monkeypatch)
    start = time.perf_counter()
    p.ask("far", want="stats", tensor="model.layers.499.mlp.down_proj", recipes=PAIR)
    assert p.answer("far")["kind"] == "stats" and time.perf_counter() - start < 0.02


def test_the_lab_says_which_data_favour_which_ceiling():
    from nvfp4viz.explorer import lab

    bench = lab(engine="reference")
    bench.features.value, bench.tokens.value = 256, 64
    assert "256 beats 448 by" in bench.verdict.value
    assert "would saturate at 448 if they mapped their largest value to 4" in bench.verdict.value
    bench.kind.value = "spread"
    assert bench.explorer.tensor == "spread ×1, 64 × 256"
    assert "448 beats 256 by" in bench.verdict.value and "normal range" in bench.verdict.value
    gain = bench.explorer.stats_a.sqnr_db - bench.explorer.stats_b.sqnr_db
    assert f"{gain:.2f} dB" in bench.verdict.value
    bench.explorer.recipe_b = "4/6-mse-256"  # it differs in the error mode, too: the ceilings alone did not win
    assert "4/6-mae-448 beats 4/6-mse-256 by" in bench.verdict.value
    bench.explorer.recipe_b = "4/6-mae-4"
    assert "4 (study only)" in bench.verdict.value
    bench.explorer.recipe_b = bench.explorer.recipe_a
    assert "does not matter" in bench.verdict.value
    with pytest.raises(ValueError, match="already"):
        bench.explorer.add("spread ×1", synthetic("spread"))
    bench.explorer.close()
