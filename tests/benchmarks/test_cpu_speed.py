"""Speed of the CPU engine on 4096 x 4096 bf16, beside a PyTorch reference as FlashInfer's tests write it, and a copy.

`make bench`, or `pytest -m bench tests/benchmarks/test_cpu_speed.py`. Each benchmark's extra_info has its Melem/s.
"""

import contextlib
import statistics
import time

import pytest
import torch

import nvfp4viz
from nvfp4viz.engines import analyze_all, cpu
from nvfp4viz.recipe import RECIPES

pytest.importorskip("pytest_benchmark")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(cpu.why_not() is not None, reason=f"cpu engine: {cpu.why_not()}"),
]


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()


def torch_cast_to_e2m1(x: torch.Tensor) -> torch.Tensor:
    sign, x = torch.sign(x), torch.abs(x)
    x[(x >= 0.0) & (x <= 0.25)] = 0.0
    x[(x > 0.25) & (x < 0.75)] = 0.5
    x[(x >= 0.75) & (x <= 1.25)] = 1.0
    x[(x > 1.25) & (x < 1.75)] = 1.5
    x[(x >= 1.75) & (x <= 2.5)] = 2.0
    x[(x > 2.5) & (x < 3.5)] = 3.0
    x[(x >= 3.5) & (x <= 5.0)] = 4.0
    x[x > 5.0] = 6.0
    return x * sign


def torch_quantize(x: torch.Tensor, e4m3_max: float, four_over_six: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """E2M1 values and E4M3 scales per token (MAE); it only quantizes, packs nothing and measures nothing."""
    amax = x.abs().amax(-1, keepdim=True).float()
    encode = torch.div(torch.full_like(amax, 6 * e4m3_max), amax).unsqueeze(-1)
    blocks = x.float().unflatten(-1, (-1, 16))
    h = blocks.abs().amax(-1, keepdim=True) / 6 * encode
    best = None
    for factor in (1.0, 1.5) if four_over_six else (1.0,):
        scale = (h * factor).clamp(max=448).to(torch.float8_e4m3fn).float()
        elements = torch_cast_to_e2m1((blocks * (encode / scale)).clamp(-6, 6))
        if not four_over_six:
            return elements, scale
        error = (elements * scale * amax.unsqueeze(-1) / (6 * e4m3_max) - blocks).abs().sum(-1, keepdim=True)
        if best is None:
            best = elements, scale, error
        else:
            four = error < best[2]
            best = torch.where(four, elements, best[0]), torch.where(four, scale, best[1]), error
    return best[:2]


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


def test_modelopt(benchmark, x):
    """The peer that does the same work for `standard`, per tensor: nvidia-modelopt's NVFP4QTensor."""
    peer = pytest.importorskip("modelopt.torch.quantization.qtensor", reason="pip install nvidia-modelopt to compare")
    run(benchmark, lambda: peer.NVFP4QTensor.quantize(x, 16), x, rounds=3)


def test_copy(benchmark, x):
    y = torch.empty_like(x)
    run(benchmark, lambda: y.copy_(x), x)


def test_ratios(x):
    """All in turn, so that a busy machine slows them alike; 15 times the PyTorch reference is what we promise."""
    name, part, y = "4/6-mae-448", x[:2048], torch.empty_like(x)
    works = {
        "copy": (lambda: y.copy_(x), x),
        "PyTorch reference, quantizing only": (lambda: torch_quantize(part, 448.0, True), part),
        "analyze": (lambda: nvfp4viz.analyze(x, name, engine="cpu"), x),
        "analyze, default set": (lambda: analyze_all(x, list(RECIPES.values()), engine="cpu"), x),
        "quantize": (lambda: nvfp4viz.quantize(x, name, engine="cpu"), x),
    }
    with contextlib.suppress(ImportError):
        from modelopt.torch.quantization.qtensor import NVFP4QTensor

        works["nvidia-modelopt, standard"] = (lambda: NVFP4QTensor.quantize(part, 16), part)
        works["analyze, standard"] = (lambda: nvfp4viz.analyze(x, "standard", engine="cpu"), x)
    seconds = {what: [] for what in works}  # an element
    for _ in range(6):
        for what, (work, tensor) in works.items():
            start = time.perf_counter()
            work()
            seconds[what].append((time.perf_counter() - start) / tensor.numel())
    print(f"\n{name}, {x.dtype} {tuple(x.shape)}, {torch.get_num_threads()} threads: Melem/s, best and median")
    for what, times in seconds.items():
        times = times[1:]  # the first may compile
        seconds[what] = min(times), statistics.median(times)
        best, median = seconds[what]
        print(f"  {what:36} {1e-6 / best:7.0f} {1e-6 / median:7.0f}")
    for which, word in enumerate(("best", "median")):
        reference, ours = seconds["PyTorch reference, quantizing only"][which], seconds["analyze"][which]
        print(
            f"  {word}: analyze is {reference / ours:.0f} times the PyTorch reference, "
            f"1/{ours / seconds['copy'][which]:.1f} of a copy; the default set costs "
            f"{seconds['analyze, default set'][which] / ours:.1f} times one recipe"
        )
    assert seconds["PyTorch reference, quantizing only"][0] > 15 * seconds["analyze"][0]
