"""FlashInfer's device functions on older GPUs: what is adapted, what is built, and that results equal the reference."""

import importlib.util
import itertools
import logging

import pytest
import torch

from nvfp4viz.engine import find_engine, quantize
from nvfp4viz.engine.dispatch import _AUTO
from nvfp4viz.engine.flashinfer import engine as flashinfer
from nvfp4viz.engine.flashinfer import portable
from nvfp4viz.nvfp4 import Recipe

installed = pytest.mark.skipif(
    portable.version() is None, reason="flashinfer: flashinfer-python is not installed (Linux only)"
)
compiler = pytest.mark.skipif(portable.find_nvcc() is None, reason="nvcc: no CUDA compiler on PATH")

RECIPES = [
    Recipe(ceiling, four_over_six=four, err_mode=mode, err_use_fast_math=fp16err, per_token=per_token, fast_math=fast)
    for per_token, fast in itertools.product((True, False), (False, True))
    for ceiling, four, mode, fp16err in [
        (448, False, "MAE", False),
        *itertools.product((448, 256), (True,), ("MAE", "MSE"), (False, True)),
    ]
]
MISMATCHED = [
    Recipe(ceiling, four_over_six=True, scored_as=scored_as, fast_math=fast)
    for (ceiling, scored_as), fast in itertools.product([(256, 448), (448, 256), (320, 448)], (False, True))
] + [Recipe(256), Recipe(160, fast_math=True)]


@pytest.fixture
def header():
    return (portable.data_folder() / portable.INCLUDES[0] / portable.HEADER).read_text()


# --- the adapted header ---------------------------------------------------------------------------------------------


@installed
def test_adaptations_of_the_installed_header(header):
    adapted = portable.adapt(header)
    assert header.count("__CUDA_ARCH__ >= 1000") - adapted.count("__CUDA_ARCH__ >= 1000") == 5
    assert adapted.count("__CUDA_ARCH__ >= 800") == 1
    assert adapted.count("return nvfp4viz::encode_e2m1(array);") == 3
    assert adapted.count("return nvfp4viz::decode_scaled(byteVal, scaleVal);") == 1
    assert "satfinite.e2m1x2" in header
    assert "satfinite.e2m1x2" not in adapted
    # all else is as it was: the arithmetic is FlashInfer's
    quantizer = header[header.index("compute_4over6_error_rn(float diff) {") : header.index("_with_vec_max(")]
    assert quantizer.replace("__CUDA_ARCH__ >= 1000", "__CUDA_ARCH__ >= 800") in adapted


@installed
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("fp32_vec_to_e2m1(float2 (&array)[8]) {", "fp32_vec_to_e2m1(float2 (&array)[8], int) {", "E2M1.*2 times, not"),
        ("e2m1x2_byte_scaled_e4m3_to_float2(uint32_t", "renamed(uint32_t", "decode of E2M1 times E4M3.*0 times"),
        ("    float rowAmax = 0.0f) {\n", "    float rowAmax = 0.0f) {\n  // new\n", "guard of the quantizer.*0 times"),
    ],
)
def test_a_changed_header_is_an_error_that_names_the_version(header, old, new, what):
    assert header.count(old) == 1
    with pytest.raises(RuntimeError, match=rf"(?s)flashinfer-python {portable.version()} cannot be adapted.*{what}"):
        portable.adapt(header.replace(old, new))


@installed
def test_nothing_of_flashinfers_text_is_ours(header):
    ours = "".join(
        (portable.resources.files("nvfp4viz.engine.flashinfer") / name).read_text()
        for name in ("binding.cu", "portable.py")
    )
    lines = {line.strip() for line in header.splitlines() if len(line.strip()) > 40}
    copied = [line for line in lines if line in ours and not line.startswith(("#if", "#include"))]
    assert copied == []


# --- the build ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nvfp4viz"


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert portable.cache_folder() == tmp_path / ".cache" / "nvfp4viz"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert portable.cache_folder() == tmp_path / "xdg" / "nvfp4viz"


@installed
@compiler
@pytest.mark.parametrize(
    ("architecture", "dtype", "fast_math"), [("sm_90", torch.bfloat16, False), ("sm_80", torch.float16, True)]
)
def test_build_has_a_kernel_for_each_recipe_and_is_kept(cache, monkeypatch, caplog, architecture, dtype, fast_math):
    """Some 4 s on two cores."""
    with caplog.at_level(logging.WARNING):
        image = portable.build(architecture, dtype, fast_math)
    assert "building the quantizer of FlashInfer" in caplog.text
    assert image.startswith(b"\x7fELF")
    for name in {portable.recipe_kernel(r) for r in RECIPES + MISMATCHED} | {"token_scales"}:
        assert b"\0.text." + name.encode() + b"\0" in image
    (cubin,) = cache.iterdir()
    for word in (portable.version(), architecture, str(dtype)[6:], "fast" if fast_math else "strict"):
        assert word in cubin.name
    monkeypatch.setattr(portable, "_compile", None)  # a second build would fail
    assert portable.build(architecture, dtype, fast_math) == image


@installed
def test_another_header_or_binding_is_another_build(cache, monkeypatch):
    monkeypatch.setattr(portable, "_compile", lambda header, binding, defines: repr(defines).encode())
    build = [portable.build("sm_90", torch.bfloat16, fast) for fast in (False, True)]
    assert build[0] != build[1]
    monkeypatch.setattr(portable, "FLAGS", (*portable.FLAGS, "-lineinfo"))
    portable.build("sm_90", torch.bfloat16, False)
    assert len(list(cache.iterdir())) == 3


@installed
def test_a_cache_that_cannot_be_written_is_done_without(cache, monkeypatch, caplog):
    cache.write_text("in the way")
    monkeypatch.setattr(portable, "_compile", lambda *_: b"cubin")
    assert portable.build("sm_90", torch.bfloat16, False) == b"cubin"
    assert "not kept" in caplog.text


@installed
def test_a_failing_compiler_is_reported_and_leaves_nothing(cache, monkeypatch, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'nvcc fatal: Unsupported gpu architecture' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(portable, "find_nvcc", lambda: str(nvcc))
    with pytest.raises(RuntimeError, match=r"(?s)CUDA 12.8 or newer.*Unsupported gpu architecture"):
        portable.build("sm_90", torch.bfloat16, False)
    assert not cache.exists()


@installed
def test_no_compiler(cache, monkeypatch):
    monkeypatch.setattr(portable, "find_nvcc", lambda: None)
    with pytest.raises(RuntimeError, match="no nvcc is found: install a CUDA toolkit"):
        portable.build("sm_90", torch.bfloat16, False)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A machine that looks as if it had a GPU, of capability 9.0 unless changed, FlashInfer and nvcc."""

    def capability(*pair):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: pair)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(flashinfer, "version", lambda: "0.7.2.post1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(portable, "find_nvcc", lambda: "/usr/local/cuda/bin/nvcc")
    capability(9, 0)
    return capability


@pytest.mark.parametrize(
    ("capability", "use"),
    [((7, 5), '"cpu"'), ((8, 0), None), ((8, 6), None), ((8, 9), None), ((9, 0), None), ((10, 0), '"flashinfer"')],
)
def test_capabilities(gpu, capability, use):
    gpu(*capability)
    why = portable.why_not()
    assert why is None if use is None else (use in why and f"{capability[0]}.{capability[1]}" in why)


def test_what_is_missing_is_said(gpu, monkeypatch):
    monkeypatch.setattr(portable, "find_nvcc", lambda: None)
    assert "no nvcc is found" in portable.why_not()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in portable.why_not()
    monkeypatch.setattr(flashinfer, "version", lambda: None)
    assert "not installed" in portable.why_not()


def test_refused_input():
    x = torch.ones(2, 32)
    assert "float32; FlashInfer takes" in portable.refuses(x, Recipe())
    assert "ceilings 448 and 256, not 320" in portable.refuses(x.half(), Recipe(320, four_over_six=True))
    for recipe in RECIPES + MISMATCHED:
        assert portable.refuses(x.half(), recipe) is None


def test_engine_is_named_and_never_automatic():
    assert find_engine("flashinfer:portable") is portable.ENGINE
    assert "flashinfer:portable" not in _AUTO


# --- the results, on a GPU of capability 8.0 to 9.x -------------------------------------------------------------------


@pytest.fixture
def here():
    if why := portable.why_not():
        pytest.skip(f"flashinfer:portable: {why}")


def activations(dtype, seed=5):
    """[72, 1024] with outliers, spread blocks, zero rows and blocks, rounding boundaries and FP32 subnormals."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.exp2(torch.randint(-8, 6, (72, 64, 1), generator=g)).expand(-1, -1, 16).flatten(1)
    x = torch.randn(72, 1024, generator=g) * spread
    x[:, 7] *= 60
    x[3] = 0
    x[5, 32:48] = 0
    x[6] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(128)
    x[8] *= 2.0**-12 if dtype == torch.float16 else 2.0**-128
    x[9] *= 2.0**5 if dtype == torch.float16 else 2.0**110
    return x.to(dtype).cuda()


def assert_same(q, expected):
    assert torch.equal(q.codes, expected.codes)
    assert torch.equal(q.block_scales.view(torch.uint8), expected.block_scales.view(torch.uint8))
    assert torch.equal(q.decode_scale, expected.decode_scale)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("recipe", RECIPES + MISMATCHED, ids=lambda r: r.name)
def test_equals_the_reference_bit_for_bit(here, recipe, dtype):
    """In fast mode on sm_90, whose approximate reciprocal the reference knows; elsewhere in strict mode."""
    if recipe.fast_math and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("fast: the reference has the approximate reciprocal of compute capability 9.0")
    x = activations(dtype)
    scale = None if recipe.per_token else 40.0
    q = quantize(x, recipe, engine="flashinfer:portable", encode_scale=scale)
    assert q.engine == "flashinfer:portable"
    assert_same(q, quantize(x, recipe, engine="reference", encode_scale=scale))


@pytest.mark.gpu
def test_views_rows_and_empty_tensors(here):
    x, recipe = activations(torch.bfloat16), Recipe(256, four_over_six=True)
    for view in (x[:, ::2], x[:64].T.contiguous().T, x[:1], x.flatten()[8 : 8 + 32 * 64].view(64, 32), x[:0]):
        assert_same(
            quantize(view, recipe, engine="flashinfer:portable"), quantize(view, recipe, engine="reference")
        )  # fmt: skip


@pytest.mark.gpu
def test_non_finite_input(here):
    x = activations(torch.float16)
    x[4, 5] = float("inf")
    with pytest.raises(ValueError, match=r"0 NaN and 1 Inf, the first at x\[4, 5\]"):
        quantize(x, Recipe(), engine="flashinfer:portable")
