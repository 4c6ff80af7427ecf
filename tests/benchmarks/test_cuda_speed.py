"""Speed of the CUDA engine against a device copy of the same tensor: `pytest -m bench -s`, or run this file."""

import statistics

import pytest
import torch

from nvfp4viz.engines import cuda
from nvfp4viz.recipe import RECIPES, Recipe

FAST = Recipe(448, four_over_six=True, fast_math=True)


def milliseconds(work, repeat: int = 20) -> float:
    """Median device time of one call, by CUDA events, after a warm-up and behind work that hides the launches."""
    for _ in range(3):
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
        from nvfp4viz.engines import flashinfer_portable

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
    times = {"copy": milliseconds(lambda: target.copy_(x))}
    for name, launch in engines().items():
        for recipe in [*RECIPES.values(), FAST]:
            times[f"{name} quantize {recipe.name}"] = milliseconds(lambda: launch(x, recipe))  # noqa: B023
    for recipe in [*RECIPES.values(), FAST]:
        times[f"cuda analyze {recipe.name}"] = milliseconds(lambda: cuda.launch_analyze(x, [recipe], [None]))  # noqa: B023
    all_five = list(RECIPES.values())
    times["cuda analyze, five recipes"] = milliseconds(lambda: cuda.launch_analyze(x, all_five, [None] * 5))
    return times


def table(title: str, times: dict[str, float]) -> str:
    rows = [f"{name:46} {ms:8.3f} ms {ms / times['copy']:7.2f} x copy" for name, ms in times.items()]
    return "\n".join([f"{torch.cuda.get_device_name()}, {title}", *rows])


@pytest.mark.gpu
@pytest.mark.bench
def test_speed():
    times = speeds(8192, 8192)
    print("\n" + table("8192 x 8192 bf16", times))
    assert times["cuda quantize 4/6-mae-448"] < 4 * times["copy"]
    assert times["cuda analyze 4/6-mae-448"] < 6 * times["copy"]


@pytest.mark.gpu
@pytest.mark.bench
def test_cost_is_linear_in_tokens():
    recipe, costs = RECIPES["4/6-mse-256"], {}
    for m in (8192, 32768, 131072, 262144):
        x = torch.empty(m, 8192, dtype=torch.bfloat16, device="cuda").normal_()
        for name, work in {
            "quantize": lambda: cuda.launch_quantize(x, recipe),  # noqa: B023
            "analyze": lambda: cuda.launch_analyze(x, [recipe], [None]),  # noqa: B023
        }.items():
            costs.setdefault(name, []).append(milliseconds(work, 10) / m * 1e6)
    for name, nanoseconds in costs.items():
        print(f"\n{name}: " + ", ".join(f"{ns:.2f}" for ns in nanoseconds) + " ns a token of 8192 features")
        assert max(nanoseconds[1:]) < 1.15 * min(nanoseconds)
        assert nanoseconds[0] < 1.25 * min(nanoseconds)  # what every launch costs weighs on the smallest


if __name__ == "__main__":
    print(table("8192 x 8192 bf16", speeds(8192, 8192)))
