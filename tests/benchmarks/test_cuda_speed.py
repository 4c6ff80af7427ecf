"""Speed of the CUDA engine against a device copy of the same tensor, and beside others: `pytest -m bench -s`."""

import statistics
import time

import pytest
import torch
from inputs import KINDS, kind
from peers import STANDARD, libraries, torch_quantize
from tables import Table, publish
from test_record_speed import measure, mixtures

from nvfp4viz.engine.cuda import engine as cuda
from nvfp4viz.nvfp4 import RECIPES, Recipe, Tokens, as_recipe

TOKENS = (8192, 32768, 131072, 262144)
FAST = Recipe(448, four_over_six=True, fast_math=True)


def launch(x: torch.Tensor, recipes: list[Recipe], scales: list):
    """The engine's statistics, not waited for."""
    return cuda.ENGINE.launch(Tokens.of(x), recipes, scales)


def milliseconds(work, repeat: int = 20) -> float:
    """Median device time of one call, by CUDA events, after a warm-up and behind work that hides the launches."""
    for _ in range(10):
        work()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)]
    for start, stop in events:
        torch.cuda._sleep(2_000_000)  # cycles, about a millisecond
        start.record()
        work()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in events)


def engines():
    """The launch functions to compare, by name."""
    launchers = {"cuda": cuda.launch_quantize}
    try:
        from nvfp4viz.engine.flashinfer import portable as flashinfer_portable

        if flashinfer_portable.why_not() is None:
            launch = getattr(flashinfer_portable, "launch_quantize", flashinfer_portable.quantize)
            launchers["flashinfer:portable"] = launch
    except ImportError:
        pass
    return launchers


def speeds(m: int, k: int, dtype=torch.bfloat16) -> dict[str, float]:
    """Milliseconds of each task on a [m, k] tensor of normal values."""
    x = torch.empty(m, k, dtype=dtype, device="cuda").normal_()
    target = torch.empty_like(x)
    times = {"a copy": milliseconds(lambda: target.copy_(x))}
    for name, quantize in engines().items():
        for recipe in [*RECIPES.values(), FAST]:
            times[f"`{name}` quantize, {recipe.name}"] = milliseconds(lambda: quantize(x, recipe))  # noqa: B023
    for recipe in [as_recipe(STANDARD), *RECIPES.values(), FAST]:
        times[f"`cuda` analyze, {recipe.name}"] = milliseconds(lambda: launch(x, [recipe], [None]))  # noqa: B023
    standard = as_recipe(STANDARD)
    times[f"`cuda` quantize, {STANDARD}"] = milliseconds(lambda: cuda.launch_quantize(x, standard))
    all_five = list(RECIPES.values())
    times["`cuda` analyze, the five default recipes"] = milliseconds(lambda: launch(x, all_five, [None] * 5))
    reference = {
        "PyTorch reference, 4/6-mae-448, only quantizing": torch_quantize,
        "the same under torch.compile": torch.compile(torch_quantize),
    }
    for name, work in reference.items():
        times[name] = milliseconds(lambda: work(x, 448.0, True), 5)  # noqa: B023
    for name, work in libraries(x).items():
        times[f"{name}, {STANDARD}"] = milliseconds(work, 5)
    return times


@pytest.mark.gpu
@pytest.mark.bench
def test_speed():
    times, costs = speeds(8192, 8192), per_token()
    copy = times["a copy"]
    rows = [[name, f"{ms:.3f}", f"{ms / copy:.2f}"] for name, ms in times.items()]
    sizes = ", ".join(f"{m:,}" for m in TOKENS)
    note = "; ".join(f"{name} {', '.join(f'{ns:.2f}' for ns in found)}" for name, found in costs.items())
    caption = "8192 x 8192 bf16, per token unless named otherwise; medians of CUDA events."
    notes = (f"Nanoseconds a token of 8192 features, at {sizes} tokens: {note}.",)
    first = Table(caption, ["", "ms", "times a copy"], rows, notes)
    publish("speed-cuda.md", torch.cuda.get_device_name(), first, by_kind(), small_calls(), recording())
    assert times["`cuda` quantize, 4/6-mae-448"] < min(0.30, 4 * copy)
    assert times["`cuda` analyze, 4/6-mae-448"] < min(0.40, 5 * copy)
    assert times["`cuda` analyze, the five default recipes"] < min(0.8, 7.5 * copy)
    for name, found in costs.items():  # what a launch costs weighs on the smallest, for a copy too
        assert max(found) < 1.25 * min(found), name


def by_kind() -> Table:
    """Kernel time in copies by kind of data, 8192 x 8192."""
    rows, five = [], list(RECIPES.values())
    for name in KINDS:
        x = kind(name, 8192, 8192, "cuda")
        target = torch.empty_like(x)
        copy = milliseconds(lambda: target.copy_(x))  # noqa: B023
        quantize = [milliseconds(lambda: cuda.launch_quantize(x, r)) / copy for r in five]  # noqa: B023
        one = [milliseconds(lambda: launch(x, [r], [None])) / copy for r in five]  # noqa: B023
        together = milliseconds(lambda: launch(x, five, [None] * 5)) / copy  # noqa: B023
        rows.append([name, f"{min(quantize):.2f} to {max(quantize):.2f}", f"{min(one):.2f} to {max(one):.2f}",
                     f"{together:.2f}"])  # fmt: skip
    caption = "By kind of data, 8192 x 8192 bf16, in copies of it: least and most over the five default recipes."
    return Table(caption, ["data", "quantize", "analyze, one recipe", "analyze, five at once"], rows)


def small_calls() -> Table:
    """Microseconds a call of few tokens, back to back, by wall clock: what a host needs to ask for it."""
    rows, five = [], list(RECIPES.values())
    for m in (1, 16, 256, 1024):
        x = torch.randn(m, 7168, device="cuda").bfloat16()
        target = torch.empty_like(x)
        works = (lambda: target.copy_(x), lambda: cuda.launch_quantize(x, five[1]),  # noqa: B023
                 lambda: launch(x, five[1:2], [None]), lambda: launch(x, five, [None] * 5))  # noqa: B023 # fmt: skip
        rows.append([str(m), *(f"{microseconds(work):.0f}" for work in works)])
    columns = ["tokens", "a copy", "quantize, 4/6-mae-448", "analyze, 4/6-mae-448", "analyze, five"]
    return Table("Microseconds a call on m x 7168 bf16, 200 calls back to back by wall clock.", columns, rows)


def microseconds(work, repeat: int = 200) -> float:
    for _ in range(20):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeat * 1e6


def recording() -> Table:
    """Recording as a ratio to the plain pass: dense blocks by device time, a mixture of experts by wall clock."""
    dense = measure(repeat=10)
    rows = [[f"four dense blocks, 8,192 tokens, {n}", f"{dense[n][0] / dense['plain'][0]:.2f}"]
            for n in ("one recipe", "five recipes")]  # fmt: skip
    rows += [[f"64 {name} experts, {n:,} tokens, {r}", f"{ratio:.2f}"] for (name, n, r), ratio in mixtures().items()]
    return Table("Recording, as a ratio to the plain pass.", ["", "times the plain pass"], rows)


def per_token() -> dict[str, list[float]]:
    """Nanoseconds a token of each of TOKENS tokens."""
    costs = {}
    for m in TOKENS:
        x = torch.empty(m, 8192, dtype=torch.bfloat16, device="cuda").normal_()
        works = {"a copy": x.clone}
        for name in ("4/6-mae-448", "4/6-mse-256"):
            recipe = RECIPES[name]
            works[f"quantize, {name}"] = lambda x=x, recipe=recipe: cuda.launch_quantize(x, recipe)
            works[f"analyze, {name}"] = lambda x=x, recipe=recipe: launch(x, [recipe], [None])
        for name, work in works.items():
            costs.setdefault(name, []).append(milliseconds(work, 40) / m * 1e6)
    return costs
