"""The CUDA engine against the reference, bit for bit, and against FlashInfer's own outputs."""

import dataclasses
import itertools
import shutil
import subprocess
import threading

import numpy as np
import pytest
import torch

from nvfp4viz.engine import analyze, find_engine, golden_cases, quantize
from nvfp4viz.engine.cuda import engine as cuda
from nvfp4viz.engine.cuda import nvrtc
from nvfp4viz.engine.cuda.plan import MOST, Plan
from nvfp4viz.engine.cuda.weighted import weighted_errors
from nvfp4viz.nvfp4 import RECIPES, Recipe, Tokens, tensor_amax, tensor_scales
from nvfp4viz.stats import Stats

KINDS = [
    Recipe(ceiling, four_over_six=four, err_mode=mode, err_use_fast_math=fp16, per_token=token, fast_math=fast)
    for four, ceiling, mode, fp16 in [(False, 448, "MAE", False)]
    + [(True, ceiling, mode, fp16) for ceiling, mode in [(448, "MAE"), (256, "MSE")] for fp16 in (False, True)]
    for token, fast in itertools.product([True, False], [False, True])
]
CEILINGS = [Recipe(c, four_over_six=four) for c in (0.3, 7.3, 160, 320, 447.9) for four in (False, True)]
MISMATCHES = [Recipe(448, four_over_six=True, err_mode=m, scored_as=256) for m in ("MAE", "MSE")]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class On:
    """An engine on plain tensors."""

    def __init__(self, engine):
        self.engine = engine

    def quantize(self, x, recipe, encode_scale=None):
        return self.engine.quantize(Tokens.of(x), recipe, encode_scale)

    def analyze(self, x, recipes, encode_scales, first_token=0, sequences=None):
        return self.engine.analyze(Tokens.of(x, first_token, sequences), recipes, encode_scales)

    def launch(self, x, recipes, encode_scales, first_token=0, sequences=None, into=None):
        return self.engine.launch(Tokens.of(x, first_token, sequences), recipes, encode_scales, into)


reference, gpu = On(find_engine("reference")), On(cuda.ENGINE)


def adversarial(dtype: torch.dtype, k: int = 1024, seed: int = 0) -> torch.Tensor:
    """Rows that each stress something: ties, outliers, saturation, subnormals, zeros of both signs, dtype limits."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(24, k, generator=g)
    e2m1 = torch.tensor([0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, -0.0, 0.0])
    pick = e2m1[torch.randint(16, (24, k), generator=g)]
    rows = [
        normal,
        normal * torch.exp(3 * torch.randn(24, k, generator=g)),
        torch.where(torch.rand(24, k, generator=g) < 0.002, normal * 300, normal),
        normal * torch.exp2(torch.arange(24.0) * 10 - 120)[:, None],  # down into subnormals
        normal * 2.0 ** torch.randint(-40, 1, (24, k // 16), generator=g).repeat_interleave(16, 1),
        pick * torch.tensor([1.0, 2.0, -0.5])[torch.arange(24) % 3][:, None],
        torch.where(torch.rand(24, k, generator=g) < 0.9, torch.tensor(-0.0), pick),  # mostly zeros of sign -
        torch.round(normal * 2),  # few distinct values: exact ties between 4 and 6
        torch.zeros(1, k),
        -torch.zeros(1, k),
        torch.full((1, k), torch.finfo(dtype).max),
        normal[:4].clamp(-1, 1) * torch.finfo(dtype).max,
        torch.full((1, k), torch.finfo(dtype).tiny) * pick[:1],
        torch.full((1, k), torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps),
        torch.eye(16).repeat(1, k // 16)[:, :k],
    ]
    limit = torch.finfo(dtype).max
    return torch.cat(rows).clamp(-limit, limit).to(dtype)


def encode_scale(x: torch.Tensor, recipe: Recipe, calibration: float = 0.25) -> torch.Tensor | None:
    """A static scale that saturates some blocks; None per token."""
    if recipe.per_token:
        return None
    return torch.tensor([[6 * recipe.e4m3_max / calibration / min(float(x.abs().max()), 1e30)]])


def skip_unless_table_fits(recipe: Recipe) -> None:
    if recipe.fast_math and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the reference's approximate reciprocal was read off compute capability 9.0")


def assert_same_codes(x: torch.Tensor, recipe: Recipe, scale: torch.Tensor | None) -> None:
    want = reference.quantize(x, recipe, scale)
    got = gpu.quantize(x.cuda(), recipe, scale if scale is None else scale.cuda())
    for field in ("codes", "block_scales", "decode_scale", "encode_scale"):
        a, b = (getattr(q, field).cpu().contiguous().view(torch.uint8) for q in (want, got))
        assert torch.equal(a, b), f"{recipe.name} {x.dtype}: {int((a != b).sum())} bytes of {field} differ"


def assert_same_stats(want: Stats, got: Stats) -> None:
    for f in dataclasses.fields(Stats):
        a, b = getattr(want, f.name), getattr(got, f.name)
        if isinstance(a, float) or (isinstance(a, np.ndarray) and a.dtype == np.float64):
            np.testing.assert_allclose(b, a, rtol=1e-12, err_msg=f"{want.recipe.name} {f.name}")
        elif f.name != "engine":
            assert np.array_equal(a, b), f"{want.recipe.name} {f.name}: {b} instead of {a}"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("recipe", KINDS + CEILINGS + MISMATCHES, ids=lambda r: r.name)
def test_equals_reference(recipe, dtype):
    skip_unless_table_fits(recipe)
    x = adversarial(dtype)
    scale = encode_scale(x, recipe)
    assert_same_codes(x, recipe, scale)
    want = reference.analyze(x, [recipe], [scale], first_token=12345)[0]
    assert_same_stats(want, analyze_on_gpu(x, recipe, scale, first_token=12345))


def analyze_on_gpu(x, recipe, scale=None, first_token=0) -> Stats:
    return gpu.analyze(x.cuda(), [recipe], [scale if scale is None else scale.cuda()], first_token)[0]


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_equals_reference_on_many_blocks(recipe):
    x = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(1)).bfloat16()  # errors nearly tie in some
    assert_same_codes(x, recipe, None)


@pytest.mark.gpu
def test_equals_golden():
    for case in golden_cases():
        if case.recipe.fast_math and torch.cuda.get_device_capability() != (9, 0):
            continue
        scale = None if case.encode_scale is None else case.encode_scale.cuda()
        q = gpu.quantize(case.x.cuda(), case.recipe, scale)
        assert torch.equal(q.codes.cpu(), case.codes), case.name
        assert torch.equal(q.block_scales.view(torch.uint8).cpu(), case.scales), case.name
        if case.decode is not None:
            assert torch.equal(q.decode_scale.cpu(), case.decode), case.name


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 16), (1, 48), (3, 4112), (5, 592), (1, 32768), (2, 16 * 4099), (300, 32)])
def test_shapes(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).half()
    for recipe in (Recipe(), RECIPES["4/6-mse-256"]):
        assert_same_codes(x, recipe, None)
        assert_same_stats(reference.analyze(x, [recipe], [None])[0], analyze_on_gpu(x, recipe))


@pytest.mark.gpu
def test_no_tokens():
    x = torch.zeros(0, 64, dtype=torch.bfloat16, device="cuda")
    assert gpu.quantize(x, Recipe()).codes.shape == (0, 32)
    assert gpu.quantize(x, Recipe(per_token=False)).decode_scale.shape == (1, 1)
    assert analyze(x, "4/6-mse-256", engine="cuda").elements == 0


@pytest.mark.gpu
@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, 16:80], lambda x: x[:, 3:67], torch.t, lambda x: x[::2], lambda x: x[:1].expand(7, -1)],
    ids=["columns", "misaligned", "transposed", "rows", "repeated"],
)
def test_strides(view):
    x = view(torch.randn(128, 128, device="cuda", generator=torch.Generator("cuda").manual_seed(3)))
    q, copy = (gpu.quantize(x, RECIPES["4/6-mae-448"]) for x in (x, x.clone(memory_format=torch.contiguous_format)))
    assert torch.equal(q.codes, copy.codes) and torch.equal(q.decode_scale, copy.decode_scale)


@pytest.mark.gpu
@pytest.mark.parametrize("place, value", [((0, 0), float("nan")), ((-1, -1), float("inf")), ((5, 17), -float("inf"))])
@pytest.mark.parametrize("recipe", [RECIPES["4/6-mse-256"], Recipe(per_token=False)], ids=lambda r: r.name)
def test_not_finite(recipe, place, value):
    x = torch.randn(9, 4096, device="cuda").bfloat16()
    x[place] = value
    scale = None if recipe.per_token else torch.ones(1, 1, device="cuda")
    with pytest.raises(ValueError, match="NaN and" if value != value else "Inf, the first at"):
        gpu.quantize(x, recipe, scale)
    with pytest.raises(ValueError, match="NaN and"):
        gpu.analyze(x, [recipe], [scale])


@pytest.mark.gpu
def test_runs_on_the_current_stream_in_a_graph_and_in_a_new_thread():
    x = torch.randn(512, 4096, device="cuda").bfloat16()
    recipe = RECIPES["4/6-mae-256"]
    want = gpu.quantize(x, recipe).codes
    stream, static = torch.cuda.Stream(), torch.zeros_like(x)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # a launch on another stream would read `static` before it is filled
        static.copy_(x)
        assert torch.equal(cuda.launch_quantize(static, recipe).codes, want)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # refuses a synchronization
        captured = cuda.launch_quantize(static, recipe)
    static.copy_(-x)
    graph.replay()
    assert torch.equal(captured.codes & 0x77, want & 0x77)
    found = []
    thread = threading.Thread(target=lambda: found.append(cuda.launch_quantize(x, recipe).codes))
    thread.start()
    thread.join()
    assert torch.equal(found[0], want)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 255, 1000, 70_000])
@pytest.mark.parametrize("sequences", [None, (77, 100)])
def test_several_recipes_share_runs_and_the_top_token(m, sequences):
    x = torch.randn(m, 64, device="cuda").bfloat16()
    x[m // 2] = 0
    recipes = [Recipe(c, four_over_six=True) for c in range(100, 109)] + [Recipe(per_token=False)]
    scales = [None] * 9 + [torch.full((1, 1), 500.0, device="cuda")]
    place = {"first_token": 2**32 - 5, "sequences": sequences}
    together = gpu.analyze(x, recipes, scales, **place)
    for recipe, scale, stats in zip(recipes, scales, together, strict=True):
        assert_same_stats(gpu.analyze(x, [recipe], [scale], **place)[0], stats)
    assert_same_stats(reference.analyze(x.cpu(), recipes[:1], [None], **place)[0], together[0])
    half = m // 2
    if not half:
        return
    later = {"first_token": 2**32 - 5 + half, "sequences": sequences and (sequences[0] + half, sequences[1])}
    apart = gpu.launch(x[:half], recipes, scales, **place) + gpu.launch(x[half:], recipes, scales, **later)
    first = gpu.launch(x[:half], recipes, scales, **place)
    kept = first.copy()
    both = gpu.launch(x[half:], recipes, scales, **later, into=first)
    for a, b, c in zip(apart.fetch(), both.fetch(), together, strict=True):
        assert_same_stats(a, c)
        assert_same_stats(b, c)
    for a, b in zip(kept.fetch(), gpu.analyze(x[:half], recipes, scales, **place), strict=True):
        assert_same_stats(a, b)


@pytest.mark.gpu
@pytest.mark.parametrize("recipes", [list(RECIPES.values()), KINDS[:6]], ids=["default", "kinds"])
@pytest.mark.parametrize("k", [64, 2048])
def test_segments_equal_calls_of_their_own(recipes, k):
    recipes = [r for r in recipes if r.per_token]
    g, ends = torch.Generator().manual_seed(4), [0, 0, 5, 5, 300, 301, 2500]
    x = torch.randn(2500, k, generator=g).bfloat16().cuda()
    x[3], x[7] = 0, x[7] * 100
    offsets, total = torch.tensor(ends, dtype=torch.int32, device="cuda"), None
    with torch.cuda.stream(torch.cuda.Stream()):
        for part in (x, x.flip(0)):
            total = cuda.ENGINE.launch_segments(part, offsets, recipes, total)
        found = total.fetch_all()
    for (stats, left_out), start, end in zip(found, ends[:-1], ends[1:], strict=True):
        assert not left_out
        if start == end:
            assert all(s.tokens == 0 for s in stats)
            continue
        one = gpu.launch(x[start:end], recipes, [None] * len(recipes))
        own = torch.cat([x[start:end], x.flip(0)[start:end]])
        for s, expected, half in zip(stats, gpu.analyze(own, recipes, [None] * len(recipes)), one.fetch(), strict=True):
            assert_same_stats(expected, s)
            assert half.tokens == end - start
    total.seek(77)
    assert float(next(iter(total.states.values()))[0][0, -1]) == 77


@pytest.mark.gpu
def test_a_launch_leaves_rows_out_that_are_no_numbers():
    x = torch.randn(50, 256, device="cuda").bfloat16()
    bad = x.clone()
    bad[7, 3], bad[20, 255] = float("nan"), -float("inf")
    recipes = list(RECIPES.values())
    ((stats, left_out),) = gpu.launch(bad, recipes, [None] * 5).fetch_all()
    keep = torch.ones(50, dtype=torch.bool)
    keep[[7, 20]] = False
    assert left_out == 2
    for a, b in zip(gpu.analyze(x[keep.cuda()], recipes, [None] * 5), stats, strict=True):
        for name in ("tokens", "elements", "n_four", "code_histogram", "token_histogram", "x_amax", "max_error"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", KINDS + MISMATCHES, ids=lambda r: r.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weighted_errors_are_those_of_the_reference(recipe, dtype):
    for k in (16, 1024, 48):
        skewed = torch.randn(40, k).mul(2).exp().clamp(max=6e4)  # within float16's range
        x = torch.cat([torch.randn(40, k), skewed, torch.zeros(3, k)]).to(dtype).cuda()
        weights = torch.rand(len(x), k, device="cuda")
        scale = None if recipe.per_token else tensor_scales(tensor_amax(x), recipe)[0]
        decoded = reference.quantize(x, recipe, scale).dequantize()
        want = ((decoded.double() - x.double()).square() * weights).sum(1)
        found = weighted_errors(Tokens.of(x), weights, [recipe, recipe])
        np.testing.assert_allclose(found[1].cpu(), want.cpu(), rtol=1e-12)
        assert torch.equal(found[0], found[1]) and not found[0, -3:].any()


@pytest.mark.gpu
def test_ten_million_tokens():
    x = torch.randn(10_000_000, 16, device="cuda").bfloat16()
    q = gpu.quantize(x, RECIPES["4/6-mse-448"])
    want = reference.quantize(x[-100:].cpu(), RECIPES["4/6-mse-448"])
    assert torch.equal(q.codes[-100:].cpu(), want.codes) and torch.equal(q.decode_scale[-100:].cpu(), want.decode_scale)
    stats = gpu.analyze(x, [RECIPES["4/6-mse-448"]], [None])[0]
    assert stats.tokens == stats.token_histogram.sum() == stats.scale_histogram.sum() == 10_000_000
    assert stats.code_histogram.sum() == stats.elements


@pytest.mark.gpu
def test_beyond_2_31_elements():
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip(f"needs 20 GiB of free GPU memory, found {torch.cuda.mem_get_info()[0] / 2**30:.0f}")
    x = torch.empty(65_600, 32_768 + 16, device="cuda", dtype=torch.bfloat16).normal_()
    x[-3:] *= 100
    recipe = RECIPES["4/6-mae-256"]
    q, last = gpu.quantize(x, recipe).rows(65_597, 65_600), gpu.quantize(x[-3:].clone(), recipe)
    assert torch.equal(q.codes, last.codes) and torch.equal(q.dequantize(), last.dequantize())
    stats = gpu.analyze(x, [recipe], [None])[0]
    assert stats.code_histogram.sum() == stats.elements == x.numel()
    assert stats.x_amax == float(x[-3:].abs().max())


@pytest.mark.gpu
def test_auto_takes_it_and_returns_to_the_cpu():
    if torch.cuda.get_device_capability() < (10, 0):
        assert quantize(torch.ones(2, 32).cuda(), "standard").engine == "cuda"
    q = quantize(torch.ones(2, 32), "standard", engine="cuda")
    assert q.codes.device.type == "cpu" and q.engine == "cuda"


@pytest.mark.parametrize("architecture, dtype", [*zip(["sm_80", "sm_90", "sm_100"], DTYPES, strict=True)])
def test_compiles(architecture, dtype, tmp_path):
    sources = [
        Plan(recipes).source(dtype, kernel)
        for kernel in ("quantize", "analyze", "weigh")
        for recipes in ([Recipe()], KINDS[-1:], KINDS[4 : 4 + MOST])
    ]
    try:
        nvrtc.nvrtc()
    except OSError as error:
        if not shutil.which("nvcc"):
            pytest.skip(f"no nvcc on PATH, and {error}")
        for i, source in enumerate(sources):
            file = tmp_path / f"{i}.cu"
            file.write_text(source)
            command = ["nvcc", f"-arch={architecture}", *nvrtc.FLAGS, "-cubin", str(file), "-o", str(tmp_path / "out")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    else:
        assert all(nvrtc.compile_cubin(source, architecture) for source in sources)


def test_compiler_errors_are_shown():
    try:
        nvrtc.nvrtc()
    except OSError as error:
        pytest.skip(str(error))
    with pytest.raises(RuntimeError, match=r"identifier .nonsense. is undefined"):
        nvrtc.compile_cubin("int x = nonsense;", "sm_80")


def test_compiles_once_for_all_processes(monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setattr(nvrtc, "_nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda *what: compiled.append(what) or b"cubin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    for architecture in ("sm_80", "sm_80", "sm_90"):
        assert nvrtc.cached_cubin("source", architecture) == b"cubin"
    assert compiled == [("source", "sm_80"), ("source", "sm_90")]
    assert len(list(tmp_path.rglob("*"))) == 2 + 2  # folders and cubins: nothing half-written stays
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nowhere to write
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "file"))
    assert nvrtc.cached_cubin("source", "sm_80") == b"cubin"


def test_says_why_it_cannot_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in cuda.why_not()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(nvrtc, "nvrtc", lambda: None)
    monkeypatch.setattr(nvrtc, "capability", lambda index: (7, 5))
    assert "7.5" in cuda.why_not() and "8.0" in cuda.why_not()
    monkeypatch.setattr(nvrtc, "capability", lambda index: (8, 9))
    assert cuda.why_not() is None
