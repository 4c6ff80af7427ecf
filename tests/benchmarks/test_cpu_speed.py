"""Speed of the CPU engine on 4096 x 4096 bf16, beside a PyTorch reference as FlashInfer's tests write it, and a copy.

`make bench`, or `pytest -m bench tests/benchmarks/test_cpu_speed.py`. Each benchmark's extra_info has its Melem/s.
"""

import statistics
import time

import pytest
import torch
from inputs import KINDS, kind
from peers import STANDARD, libraries, torch_quantize
from tables import Table, cpu_name, publish
from test_record_speed import cpu_ratios

import nvfp4viz
from nvfp4viz.engine import analyze_all
from nvfp4viz.engine.cpu import engine as cpu
from nvfp4viz.nvfp4 import RECIPES

pytest.importorskip("pytest_benchmark")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(cpu.why_not() is not None, reason=f"cpu engine: {cpu.why_not()}"),
]


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()


def run(benchmark, work, x, rounds=7):
    benchmark.pedantic(work, rounds=rounds, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["Melem/s"] = round(x.numel() / benchmark.stats.stats.min / 1e6, 1)


@pytest.mark.parametrize("name", RECIPES)
def test_analyze(benchmark, x, name):
    run(benchmark, lambda: nvfp4viz.analyze(x, name, engine="cpu"), x)


def test_analyze_default_set(benchmark, x):
    run(benchmark, lambda: analyze_all(x, list(RECIPES.values()), engine="cpu"), x)


@pytest.mark.parametrize("name", RECIPES)
def test_quantize(benchmark, x, name):
    run(benchmark, lambda: nvfp4viz.quantize(x, name, engine="cpu"), x)


@pytest.mark.parametrize("name", ["standard", "4/6-mae-448"])
def test_torch_reference(benchmark, x, name):
    part = x[:1024]
    run(benchmark, lambda: torch_quantize(part, 448.0, name != "standard"), part, rounds=3)


def test_copy(benchmark, x):
    y = torch.empty_like(x)
    run(benchmark, lambda: y.copy_(x), x)


def test_ratios(x):
    """All in turn, so that a busy machine slows them alike; 15 times the PyTorch reference is what we promise."""
    part, y = x[:2048], torch.empty_like(x)
    reference, name = "PyTorch reference, 4/6-mae-448, only quantizing", "4/6-mae-448"
    works = {
        "a copy": (lambda: y.copy_(x), x),
        reference: (lambda: torch_quantize(part, 448.0, True), part),
        "PyTorch reference, standard, only quantizing": (lambda: torch_quantize(part, 448.0, False), part),
    }
    works |= {f"{library}, {STANDARD}": (work, part) for library, work in libraries(part).items()}
    for recipe in (STANDARD, *RECIPES):
        works[f"`quantize`, {recipe}"] = (lambda r=recipe: nvfp4viz.quantize(x, r, engine="cpu"), x)
    for recipe in (STANDARD, *RECIPES):
        works[f"`analyze`, {recipe}"] = (lambda r=recipe: nvfp4viz.analyze(x, r, engine="cpu"), x)
    default = "`analyze`, the five default recipes at once"
    works[default] = (lambda: analyze_all(x, list(RECIPES.values()), engine="cpu"), x)

    best, median = in_turn(works)
    rows = [
        [what, f"{1e-6 / best[what]:,.0f}", f"{1e-6 / median[what]:,.0f}", f"{best[reference] / best[what]:.1f}",
         f"1/{best[what] / best['a copy']:.1f}"]
        for what in works
    ]  # fmt: skip
    size = f"{x.shape[0]} x {x.shape[1]} bf16 on {torch.get_num_threads()} threads"
    caption = f"{size}, per token unless named otherwise; all in turn, seven rounds. Million elements a second."
    note = f"Five recipes at once cost {best[default] / best[f'`analyze`, {name}']:.1f} times one."
    columns = ["", "best", "median", "times the first reference", "of a copy"]
    publish("speed-cpu.md", cpu_name(), Table(caption, columns, rows, (note,)), by_kind(name, *x.shape), recording())
    assert best[reference] > 15 * best[f"`analyze`, {name}"]
    assert best[default] < 4 * best[f"`analyze`, {name}"]


def by_kind(recipe: str, m: int, k: int) -> Table:
    """`analyze` of one recipe and of five on all KINDS of data, in turn."""
    sets = {"one": [RECIPES[recipe]], "five": list(RECIPES.values())}
    data = {name: kind(name, m, k) for name in KINDS}
    works = {
        (count, name): (lambda x=x, r=recipes: analyze_all(x, r, engine="cpu"), x)
        for name, x in data.items()
        for count, recipes in sets.items()
    }
    best, _ = in_turn(works)
    rows = [
        [name, f"{1e-6 / best['one', name]:,.0f}", f"{1e-6 / best['five', name]:,.0f}",
         f"{best['five', name] / best['one', name]:.2f}", f"{best['one', name] / best['one', 'normal']:.2f}"]
        for name in KINDS
    ]  # fmt: skip
    caption = f"`analyze` by kind of data, {m} x {k} bf16, million elements a second (best of seven): {recipe} alone, "
    columns = ["data", "one recipe", "five", "five / one (time)", "one / one on normal (time)"]
    return Table(caption + "and the five default recipes at once.", columns, rows)


def recording() -> Table:
    """What recording adds to a prefill and to decode steps of SmolLM2-135M's shape, as a ratio to the plain pass."""
    found = {f"{what}, {n}": ratio for what in ("prefill", "decode") for n, ratio in cpu_ratios(what).items()}
    caption = "Recording a model of SmolLM2-135M's shape (random weights, fp32): time as a ratio to the plain pass."
    return Table(caption, ["", "times the plain pass"], [[what, f"{ratio:.2f}"] for what, ratio in found.items()])


def in_turn(works: dict) -> tuple[dict, dict]:
    """Best and median seconds an element of each (work, tensor), after a first round that may compile."""
    seconds = {what: [] for what in works}
    for _ in range(8):
        for what, (work, tensor) in works.items():
            start = time.perf_counter()
            work()
            seconds[what].append((time.perf_counter() - start) / tensor.numel())
    best = {what: min(times[1:]) for what, times in seconds.items()}
    return best, {what: statistics.median(times[1:]) for what, times in seconds.items()}
