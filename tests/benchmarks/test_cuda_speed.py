"""Speed of the CUDA engine against a device copy of the same tensor, and beside others: `pytest -m bench -s`."""

import statistics

import pytest
import torch
from peers import STANDARD, libraries, torch_quantize
from tables import publish

from nvfp4viz.engine.cuda import engine as cuda
from nvfp4viz.nvfp4 import RECIPES, Recipe, as_recipe

TOKENS = (8192, 32768, 131072, 262144)
FAST = Recipe(448, four_over_six=True, fast_math=True)


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
    for name, launch in engines().items():
        for recipe in [*RECIPES.values(), FAST]:
            times[f"`{name}` quantize, {recipe.name}"] = milliseconds(lambda: launch(x, recipe))  # noqa: B023
    for recipe in [as_recipe(STANDARD), *RECIPES.values(), FAST]:
        times[f"`cuda` analyze, {recipe.name}"] = milliseconds(lambda: cuda.launch_analyze(x, [recipe], [None]))  # noqa: B023
    standard = as_recipe(STANDARD)
    times[f"`cuda` quantize, {STANDARD}"] = milliseconds(lambda: cuda.launch_quantize(x, standard))
    all_five = list(RECIPES.values())
    times["`cuda` analyze, the five default recipes"] = milliseconds(
        lambda: cuda.launch_analyze(x, all_five, [None] * 5)
    )
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
    times = speeds(8192, 8192)
    costs = per_token()
    copy = times["a copy"]
    publish(
        "speed-cuda.md",
        torch.cuda.get_device_name(),
        "8192 x 8192 bf16, per token unless named otherwise; medians of CUDA events.",
        ["", "ms", "times a copy"],
        [[name, f"{ms:.3f}", f"{ms / copy:.2f}"] for name, ms in times.items()],
        [
            f"Nanoseconds a token of 8192 features, at {', '.join(f'{m:,}' for m in TOKENS)} tokens: "
            + "; ".join(f"{name} {', '.join(f'{ns:.2f}' for ns in found)}" for name, found in costs.items())
            + "."
        ],
    )
    assert times["`cuda` quantize, 4/6-mae-448"] < min(0.30, 4 * copy)
    assert times["`cuda` analyze, 4/6-mae-448"] < min(0.40, 5 * copy)
    assert times["`cuda` analyze, the five default recipes"] < 1.2
    for name, found in costs.items():  # what a launch costs weighs on the smallest, for a copy too
        assert max(found) < 1.2 * min(found), name


def per_token() -> dict[str, list[float]]:
    """Nanoseconds a token of each of TOKENS tokens."""
    costs = {}
    for m in TOKENS:
        x = torch.empty(m, 8192, dtype=torch.bfloat16, device="cuda").normal_()
        works = {"a copy": x.clone}
        for name in ("4/6-mae-448", "4/6-mse-256"):
            recipe = RECIPES[name]
            works[f"quantize, {name}"] = lambda x=x, recipe=recipe: cuda.launch_quantize(x, recipe)
            works[f"analyze, {name}"] = lambda x=x, recipe=recipe: cuda.launch_analyze(x, [recipe], [None])
        for name, work in works.items():
            costs.setdefault(name, []).append(milliseconds(work, 40) / m * 1e6)
    return costs
