"""Choosing an engine, and what `analyze` does when a GPU runs out of memory."""

import importlib

import pytest
import torch

import nvfp4viz
from nvfp4viz.engine import find_engine

registry = importlib.import_module("nvfp4viz.engine.dispatch")
NAMES = ["flashinfer", "flashinfer:cute-dsl", "flashinfer:portable", "cuda", "cpu", "reference"]


def test_each_engine_says_whether_it_runs_here_and_why_not():
    rows = nvfp4viz.engines()
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert row["available"] == (row["why_not"] is None)
        assert row["available"] or len(row["why_not"]) > 10


@pytest.mark.parametrize(
    ("able", "chosen"),
    [
        (["flashinfer", "cuda", "cpu"], "flashinfer"),
        (["cuda", "cpu"], "cuda"),
        (["flashinfer:portable", "cpu"], "cpu"),  # portable is an oracle, never chosen
        ([], "reference"),
    ],
)
def test_auto_takes_the_first_that_can(monkeypatch, able, chosen):
    modules = {name: registry.find_engine(name) for name in NAMES}
    for name, module in modules.items():
        if name not in ("reference", "flashinfer:cute-dsl"):  # neither a choice of auto's, the second is frozen
            monkeypatch.setattr(module, "why_not", lambda name=name: None if name in able else "not here")
    x, recipe = torch.ones(1, 16, dtype=torch.bfloat16), nvfp4viz.Recipe()
    assert registry.choose("auto", x, [recipe]) is modules[chosen]


def test_auto_passes_over_an_engine_that_refuses_the_input(monkeypatch):
    first = registry.find_engine("flashinfer")
    monkeypatch.setattr(first, "why_not", lambda: None)
    monkeypatch.setattr(registry.find_engine("cuda"), "why_not", lambda: "not here")
    odd = nvfp4viz.Recipe(300, four_over_six=True)  # FlashInfer has 448 and 256
    assert registry.choose("auto", torch.ones(1, 16, dtype=torch.bfloat16), [odd]) is find_engine("cpu")


def test_out_of_gpu_memory_goes_on_with_smaller_chunks_and_says_so(monkeypatch):
    x = nvfp4viz.synthetic("normal", 40, 64)
    whole = nvfp4viz.analyze(x, "4/6-mse-256", engine="reference")
    reference = find_engine("reference")
    sizes, analyze = [], reference.analyze

    def small_gpu(chunk, *rest):
        sizes.append(chunk.shape[0])
        if chunk.shape[0] > 12:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return analyze(chunk, *rest)

    monkeypatch.setattr(reference, "analyze", small_gpu)
    with pytest.warns(RuntimeWarning, match="out of GPU memory: going on with 10 tokens at a time"):
        parts = nvfp4viz.analyze(x, "4/6-mse-256", engine="reference")
    assert sizes == [40, 20, 10, 10, 10, 10]
    assert (parts.scale_histogram == whole.scale_histogram).all() and parts.n_four == whole.n_four
    assert parts.err_sq == pytest.approx(whole.err_sq, rel=1e-12)
    assert (parts.run_tokens == whole.run_tokens).all() and parts.top_token == whole.top_token
    assert parts.run_nmse == pytest.approx(whole.run_nmse, rel=1e-12)


def test_one_token_that_does_not_fit_is_an_error(monkeypatch):
    def no_memory(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(find_engine("reference"), "analyze", no_memory)
    with pytest.warns(RuntimeWarning), pytest.raises(torch.cuda.OutOfMemoryError):
        nvfp4viz.analyze(nvfp4viz.synthetic("normal", 4, 64), "standard", engine="reference")
