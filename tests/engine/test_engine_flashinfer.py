"""FlashInfer's public call: what we pass, in which environment, when we refuse. Results need a Blackwell GPU."""

import importlib.util
import inspect
import itertools
import os
import threading
import time

import pytest
import torch

from nvfp4viz.engine import choose, find_engine, quantize
from nvfp4viz.engine.flashinfer import engine as flashinfer
from nvfp4viz.nvfp4 import RECIPES, Recipe, Tokens

installed = pytest.mark.skipif(
    importlib.util.find_spec("flashinfer") is None, reason="flashinfer: flashinfer-python is not installed (Linux only)"
)
# importing FlashInfer passes through modules that use deprecated names of nvidia-cutlass-dsl
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def all_recipes(ceilings=(448, 256)):
    """Each recipe that FlashInfer has."""
    for per_token, fast_math in itertools.product((True, False), (False, True)):
        yield Recipe(per_token=per_token, fast_math=fast_math)
        for ceiling, mode, fp16err in itertools.product(ceilings, ("MAE", "MSE"), (False, True)):
            yield Recipe(
                ceiling, four_over_six=True, err_mode=mode, err_use_fast_math=fp16err,
                per_token=per_token, fast_math=fast_math,
            )  # fmt: skip


ALL = list(all_recipes())
RUNS = [
    pytest.param(recipe, engine, id=f"{recipe.name}-{engine.backend}")
    for recipe in ALL
    for engine in (flashinfer.CUDA, flashinfer.CUTE_DSL)
]
X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()


def encode_scale(recipe, value=100.0):
    return None if recipe.per_token else torch.tensor([[value]])


class Recorder:
    """Stands in for nvfp4_quantize: keeps the call and the environment, answers in FlashInfer's shapes."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def __call__(self, a, **arguments):
        self.calls.append((a, arguments, {name: os.environ.get(name) for name in flashinfer.STRICT}))
        if self.error:
            raise self.error
        m, k = a.shape
        out = torch.zeros(m, k // 2, dtype=torch.uint8), torch.ones(m * k // 16, dtype=torch.uint8)
        return (*out, torch.ones(m)) if arguments["per_token_activation"] else out


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("flashinfer.nvfp4_quantize", recorder)
    return recorder


# --- what we pass ---------------------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize(("recipe", "engine"), RUNS)
def test_arguments_bind_to_the_installed_signature(recipe, engine):
    from flashinfer import NVFP44Over6Config, SfLayout, nvfp4_quantize

    arguments = flashinfer.arguments(X, recipe, encode_scale(recipe), engine.backend)
    bound = inspect.signature(nvfp4_quantize).bind(X, **arguments).arguments
    assert bound["sfLayout"] is SfLayout.layout_linear
    assert bound["backend"] == engine.backend
    assert bound["a_global_sf"].dtype == torch.float32
    assert bound["a_global_sf"].shape == (1,)
    config = bound["nvfp4_4over6"]  # given even where it is None: left out, it would be read from the environment
    if not recipe.four_over_six:
        assert config is None
        return
    assert config == NVFP44Over6Config(
        e4m3_max=int(recipe.e4m3_max), err_mode=recipe.err_mode, err_use_fast_math=recipe.err_use_fast_math
    )
    assert config.err_mode_name == recipe.err_mode


@installed
@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_per_token_scale_is_the_one_flashinfer_expects(recipe):
    """FlashInfer's own check of the scale against the recipe passes, as it would on the GPU."""
    from flashinfer.quantization.fp4_quantization import NVFP4_PER_TOKEN_SCALE_RTOL, _check_per_token_global_scale

    assert NVFP4_PER_TOKEN_SCALE_RTOL == flashinfer.SCALE_RTOL
    if recipe.per_token:
        arguments = flashinfer.arguments(X, recipe, None, "cuda")
        _check_per_token_global_scale(arguments["a_global_sf"].item(), arguments["nvfp4_4over6"])


@installed
@pytest.mark.parametrize("scored_as", [256.0, 448.0])
def test_refused_scales_are_those_flashinfer_refuses(scored_as):
    from flashinfer.quantization.fp4_quantization import _check_per_token_global_scale

    recipe = Recipe(704 - scored_as, four_over_six=True, scored_as=scored_as)
    arguments = flashinfer.arguments(X, recipe, None, "cuda")
    with pytest.raises(ValueError, match="does not match the requested NVFP4"):
        _check_per_token_global_scale(arguments["a_global_sf"].item(), arguments["nvfp4_4over6"])
    assert "raises" in flashinfer.CUDA.refuses(X, recipe)
    assert arguments["nvfp4_4over6"].e4m3_max == scored_as
    assert flashinfer.CUTE_DSL.refuses(X, recipe) is None  # leaves a device tensor unchecked


@installed
@pytest.mark.parametrize(("recipe", "engine"), RUNS)
def test_call_and_result(recorder, recipe, engine):
    q = engine.quantize(Tokens.of(X), recipe, encode_scale(recipe))
    (a, arguments, environment), = recorder.calls  # fmt: skip
    assert torch.equal(a, X)
    assert environment == {flashinfer.STRICT[0]: None if recipe.fast_math else "1", flashinfer.STRICT[1]: None}
    scale = 1 / (6 * recipe.e4m3_max) if recipe.per_token else 100.0
    assert arguments["a_global_sf"].item() == pytest.approx(scale, rel=1e-7)
    assert (q.engine, q.recipe, q.shape) == (engine.name, recipe, (4, 64))
    assert q.block_scales.dtype == torch.float8_e4m3fn
    if recipe.per_token:
        assert q.decode_scale.tolist() == [[1.0]] * 4
        assert q.encode_scale is None
    else:
        assert torch.equal(q.decode_scale, torch.div(torch.ones(1, 1), torch.full((1, 1), 100.0)))
        assert q.encode_scale.item() == 100.0


@installed
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(per_token=False)], ids=lambda r: r.name)
@pytest.mark.parametrize(
    "make",
    [lambda x: x.T.contiguous().T, lambda x: x[:, ::2], lambda x: x.flatten()[:64, None].T,
     lambda x: x.flatten()[4:20][None]],
    ids=["transposed", "strided", "one row", "misaligned"],
)  # fmt: skip
def test_kernels_get_aligned_contiguous_rows(recorder, recipe, make):
    x = make(X)
    flashinfer.CUDA.quantize(Tokens.of(x), recipe, encode_scale(recipe))
    a = recorder.calls[0][0]
    assert torch.equal(a, x)
    assert a.stride() == (x.shape[1], 1)  # FlashInfer takes a stride of 1 along M for a transposed tensor
    assert a.data_ptr() % 32 == 0


@installed
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(per_token=False)], ids=lambda r: r.name)
def test_large_tensors_in_parts_and_empty_ones_not_at_all(recorder, recipe, monkeypatch):
    monkeypatch.setattr(flashinfer, "LIMIT", 130)  # two rows of 64
    q = flashinfer.CUDA.quantize(Tokens.of(X[:3]), recipe, encode_scale(recipe))
    assert [len(a) for a, *_ in recorder.calls] == [2, 1]
    assert q.shape == (3, 64)
    recorder.calls.clear()
    assert flashinfer.CUDA.quantize(Tokens.of(X[:0]), recipe, encode_scale(recipe)).shape == (0, 64)
    assert not recorder.calls


@installed
def test_analyze_measures_what_was_quantized(recorder):
    recipes = [Recipe(), Recipe(256, four_over_six=True)]
    stats = flashinfer.CUTE_DSL.analyze(Tokens.of(X), recipes, [None, None])
    assert [s.recipe for s in stats] == recipes
    assert [s.engine for s in stats] == ["flashinfer:cute-dsl"] * 2
    assert stats[0].scale_histogram[1].sum() == X.numel() // 16


def test_non_finite_input_is_refused_before_the_call():
    with pytest.raises(ValueError, match=r"1 NaN and 0 Inf, the first at x\[0, 3\]"):
        x = torch.tensor([[1.0] * 3 + [float("nan")] + [1.0] * 12]).half()
        flashinfer.CUDA.quantize(Tokens.of(x), Recipe())


# --- the environment ------------------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize("fast_math", [False, True])
@pytest.mark.parametrize("before", [(None, None), ("1", None), ("0", "1"), ("", "true")])
@pytest.mark.parametrize("error", [None, RuntimeError("launch failed"), KeyboardInterrupt()])
def test_environment_is_restored(monkeypatch, fast_math, before, error):
    for name, value in zip(flashinfer.STRICT, before, strict=True):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    recorder = Recorder(error)
    monkeypatch.setattr("flashinfer.nvfp4_quantize", recorder)
    if error:
        with pytest.raises(type(error)):
            flashinfer.CUDA.quantize(Tokens.of(X), Recipe(fast_math=fast_math))
    else:
        flashinfer.CUDA.quantize(Tokens.of(X), Recipe(fast_math=fast_math))
    assert recorder.calls[0][2] == {flashinfer.STRICT[0]: None if fast_math else "1", flashinfer.STRICT[1]: None}
    assert tuple(map(os.environ.get, flashinfer.STRICT)) == before


def test_threads_do_not_see_each_others_environment(monkeypatch):
    monkeypatch.setenv(flashinfer.STRICT[1], "1")
    seen, start = [], threading.Barrier(8)

    def work(fast_math):
        start.wait()
        for _ in range(20):
            with flashinfer.environment(fast_math):
                time.sleep(0.0005)  # lets another thread in, if it can
                seen.append((fast_math, *map(os.environ.get, flashinfer.STRICT)))

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {(True, None, None), (False, "1", None)}
    assert len(seen) == 160
    assert tuple(map(os.environ.get, flashinfer.STRICT)) == (None, "1")


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A machine that looks as if it had a GPU, of capability 10.0 unless changed, FlashInfer and nvcc."""

    def capability(*pair):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: pair)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(flashinfer, "version", lambda: "0.7.2.post1")
    monkeypatch.setattr(flashinfer, "find_nvcc", lambda: "/usr/local/cuda/bin/nvcc")
    monkeypatch.setattr(flashinfer, "installed", lambda name: True)
    capability(10, 0)
    return capability


@pytest.mark.parametrize("capability", [(10, 0), (10, 3), (12, 0)])
@pytest.mark.parametrize("engine", [flashinfer.CUDA, flashinfer.CUTE_DSL], ids=lambda e: e.name)
def test_available_from_blackwell_on(gpu, engine, capability):
    gpu(*capability)
    assert engine.why_not() is None


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("engine", [flashinfer.CUDA, flashinfer.CUTE_DSL], ids=lambda e: e.name)
def test_older_gpus_are_refused_before_flashinfer_is_imported(gpu, engine, capability, monkeypatch):
    gpu(*capability)
    monkeypatch.setitem(__import__("sys").modules, "flashinfer", None)  # an import would raise
    why = engine.why_not()
    assert f"{capability[0]}.{capability[1]}" in why
    for words in ("zeros or garbage", '"cuda"', '"flashinfer:portable"'):
        assert words in why
    with pytest.raises(RuntimeError, match="zeros or garbage"):
        choose(engine.name, X, [Recipe()])


@pytest.mark.parametrize(
    ("found", "words"),
    [(None, "not installed"), ("0.7.0", "0.7.0 is too old"), ("0.6.12", "too old"), ("0.7.1", None),
     ("0.10.0rc1", None), ("1.0", None), ("0.7.2.post1", None)],
)  # fmt: skip
def test_version(gpu, monkeypatch, found, words):
    monkeypatch.setattr(flashinfer, "version", lambda: found)
    why = flashinfer.CUDA.why_not()
    assert (why is None) if words is None else (words in why and "pip install" in why)


def test_no_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in flashinfer.CUDA.why_not()


def test_no_compiler(gpu, monkeypatch):
    monkeypatch.setattr(flashinfer, "find_nvcc", lambda: None)
    assert flashinfer.CUDA.why_not() is None  # built kernels are installed
    monkeypatch.setattr(flashinfer, "installed", lambda name: name != "flashinfer_jit_cache")
    assert "install-jit-cache-wheel" in flashinfer.CUDA.why_not()
    assert flashinfer.CUTE_DSL.why_not() is None  # compiles without nvcc
    monkeypatch.setattr(flashinfer, "installed", lambda name: name != "cutlass")
    assert "nvidia-cutlass-dsl" in flashinfer.CUTE_DSL.why_not()


def test_nvcc_is_found_as_flashinfer_finds_it(monkeypatch, tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.delenv("FLASHINFER_NVCC", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert flashinfer.find_nvcc() == str(nvcc)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(nvcc.parent))
    assert flashinfer.find_nvcc() == str(nvcc)


@pytest.mark.parametrize(
    ("dtype", "recipe", "words"),
    [
        (torch.float32, Recipe(), "float32; FlashInfer takes bfloat16 and float16"),
        (torch.bfloat16, Recipe(320, four_over_six=True), "ceilings 448 and 256, not 320"),
        (torch.bfloat16, Recipe(320, four_over_six=True, per_token=False), "ceilings 448 and 256, not 320"),
        (torch.bfloat16, Recipe(256), "raises"),
        (torch.bfloat16, Recipe(256, four_over_six=True, scored_as=448), "raises"),
        (torch.bfloat16, Recipe(256, per_token=False), None),  # per tensor the scale is the caller's
        (torch.bfloat16, Recipe(256, four_over_six=True, scored_as=448, per_token=False), None),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_refused_input(gpu, dtype, recipe, words):
    why = flashinfer.CUDA.refuses(X.to(dtype), recipe)
    assert why is None if words is None else words in why


def test_the_other_backend_takes_a_scale_of_another_ceiling(gpu):
    mismatched = [Recipe(ceiling, four_over_six=True, scored_as=448) for ceiling in (256, 320)]
    for recipe in (Recipe(256), *mismatched):
        assert flashinfer.CUTE_DSL.refuses(X, recipe) is None
    assert "float32" in flashinfer.CUTE_DSL.refuses(X.float(), Recipe())


def test_engine_names():
    assert find_engine("flashinfer") is flashinfer.CUDA
    assert find_engine("flashinfer:cute-dsl") is flashinfer.CUTE_DSL


# --- the results, on a GPU that has the kernels ---------------------------------------------------------------------


def activations(dtype):
    """[1056, 1024] with outliers, spread blocks, zero rows and blocks, and rounding boundaries."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(1056, 1024, generator=g) * torch.exp2(torch.randint(-8, 6, (1056, 64, 1), generator=g)).expand(
        -1, -1, 16
    ).flatten(1)
    x[:, 7] *= 60
    x[3] = 0
    x[5, 32:48] = 0
    x[6] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(128)
    return x.to(dtype)


@pytest.mark.blackwell
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
@pytest.mark.parametrize("tokens", [1056, 96])  # two kernels per tensor: with TMA from 1024 tokens on, and without
def test_equals_the_reference_bit_for_bit(recipe, dtype, tokens):
    from flashinfer.jit.cpp_ext import is_cuda_version_at_least

    if tokens < 1024 and recipe.four_over_six and not recipe.per_token and not is_cuda_version_at_least("12.9"):
        pytest.skip("nvcc: before 12.9 this kernel adds candidate errors in two halves")
    x = activations(dtype)[:tokens]
    expected = quantize(x, recipe, engine="reference")
    scale = expected.encode_scale if not recipe.per_token else None
    q = quantize(x.cuda(), recipe, engine="flashinfer", encode_scale=scale)
    assert torch.equal(q.codes.cpu(), expected.codes)
    assert torch.equal(q.block_scales.view(torch.uint8).cpu(), expected.block_scales.view(torch.uint8))
    assert torch.equal(q.decode_scale.cpu(), expected.decode_scale)


@pytest.mark.blackwell
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_cute_dsl_decodes_to_the_reference(recipe, dtype):
    """Its codes may differ where a scale byte is 0 (fast standard writes 0 there) and where FP32 is subnormal."""
    x = activations(dtype)
    expected = quantize(x, recipe, engine="reference")
    scale = expected.encode_scale if not recipe.per_token else None
    q = quantize(x.cuda(), recipe, engine="flashinfer:cute-dsl", encode_scale=scale)
    different = q.codes.cpu() != expected.codes
    allowed = (expected.block_scales.view(torch.uint8) == 0).repeat_interleave(8, -1)
    rest = different & ~allowed
    print(f"{recipe.name}: {int(different.sum())} code bytes differ, {int(rest.sum())} of them under a scale above 0")
    assert torch.equal(q.dequantize().cpu(), expected.dequantize())
    assert not rest.any()


@pytest.mark.blackwell
def test_reference_of_every_named_recipe_under_auto():
    for recipe in RECIPES.values():
        assert quantize(activations(torch.bfloat16).cuda(), recipe).engine == "flashinfer"
        assert find_engine("reference").why_not() is None
