"""The CPU engine against the reference: the same bits, counts and sums by run, for every recipe and any shape."""

import ast
import itertools
import multiprocessing
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import nvfp4viz
from nvfp4viz.engine import analyze_all, find_engine
from nvfp4viz.engine.cpu import engine as cpu
from nvfp4viz.nvfp4 import RECIPES, Recipe, Tokens
from nvfp4viz.stats import Stats

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class reference:  # noqa: N801
    """The engine "reference" on plain tensors."""

    @staticmethod
    def quantize(x, recipe, encode_scale=None):
        return find_engine("reference").quantize(Tokens.of(x), recipe, encode_scale)

    @staticmethod
    def analyze(x, recipes, encode_scales, first_token=0, sequences=None):
        return find_engine("reference").analyze(Tokens.of(x, first_token, sequences), recipes, encode_scales)


pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason=f"cpu engine: {cpu.why_not()}")


def every_recipe(ceilings=(448.0, 256.0)) -> list[Recipe]:
    """Standard and 4over6 at each ceiling, with every switch both ways."""
    switches = itertools.product((False, True), ("MAE", "MSE"), (False, True), (False, True), (False, True))
    return [
        Recipe(c, four_over_six=four, err_mode=mode, err_use_fast_math=fp16, per_token=token, fast_math=fast)
        for c in ceilings
        for four, mode, fp16, token, fast in switches
        if four or (mode, fp16) == ("MAE", False)
    ]


ODD_RECIPES = [
    Recipe(160, four_over_six=True),  # rn(1/s) is not 6 * 160
    Recipe(320, four_over_six=True, fast_math=True),
    Recipe(0.37, four_over_six=True, err_mode="MSE"),
    Recipe(1e-3, fast_math=True),
    Recipe(1e-30, four_over_six=True),
    Recipe(448, four_over_six=True, scored_as=256.0),
    Recipe(256, four_over_six=True, err_mode="MSE", scored_as=448.0),
]


def adversarial(dtype: torch.dtype, m=41, k=16 * 13, seed=0) -> torch.Tensor:
    """Rows of every kind: normal, heavy-tailed, on rounding boundaries, tiny, largest, of zeros, -0 and subnormals."""
    rng = torch.Generator().manual_seed(seed)
    info = torch.finfo(dtype)
    x = torch.randn(m, k, generator=rng, dtype=torch.float64)
    x[1::9] = x[1::9].exp() * x[1::9].sign()
    x[2::9] = torch.randint(-24, 25, x[2::9].shape, generator=rng) / 4  # ties, once the amax is 6
    x[2::9, 0] = 6
    x[3::9] *= torch.randint(-60, 20, x[3::9].shape, generator=rng).double().exp2()  # blocks and elements far apart
    x[4::9] *= info.smallest_normal
    x[5::9] *= info.tiny * torch.randint(-12, 30, x[5::9].shape, generator=rng).double().exp2()
    x[6::9] = x[6::9].sign() * info.max * (torch.rand(x[6::9].shape, generator=rng) < 0.1)  # dtype maxima among +-0
    x[7::9, : k // 2] *= 1e-30
    x[8::11] = 0
    x[9::11, :32] = -0.0
    return x.clamp(info.min, info.max).to(dtype)


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.flatten().view(torch.uint8)


def assert_same_quantized(x, recipe, encode_scale=None):
    ours, theirs = cpu.quantize(x, recipe, encode_scale), reference.quantize(x, recipe, encode_scale)
    for name in ("codes", "block_scales", "decode_scale", "encode_scale"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        differ = (bits(a) != bits(b)).sum().item()
        assert differ == 0, f"{recipe.name}, {x.dtype} {tuple(x.shape)}: {differ} bytes of {name} differ"
    assert (ours.engine, ours.recipe) == ("cpu", recipe)


def assert_same_stats(ours: Stats, theirs: Stats):
    """Counts exactly, float64 sums to 1e-12, NaN where the reference has NaN."""
    for f in fields(Stats):
        a, b = np.asarray(getattr(ours, f.name)), np.asarray(getattr(theirs, f.name))
        if f.name != "engine" and a.dtype == np.float64:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=0, err_msg=f"{theirs.recipe.name}: {f.name}")
        elif f.name != "engine":
            assert np.array_equal(a, b), f"{theirs.recipe.name}: {f.name} is {a}, the reference has {b}"


def scales_for(x, recipes, calibrated=0.25):
    """Encode scales from a part of the largest magnitude, so that per-tensor recipes saturate; None per token."""
    amax = max(float(x.float().abs().max()) * calibrated, 1e-30) if x.numel() else 1.0
    return [None if r.per_token else torch.full((1, 1), min(6 * r.e4m3_max / amax, 3e38)) for r in recipes]


def assert_same(x, recipes, first_token=0, sequences=None):
    scales = scales_for(x, recipes)
    for recipe, scale in zip(recipes, scales, strict=True):
        assert_same_quantized(x, recipe, scale)
    ours, theirs = (e.analyze(x, recipes, scales, first_token, sequences) for e in (cpu, reference))
    for a, b in zip(ours, theirs, strict=True):
        assert_same_stats(a, b)
        assert a.engine == "cpu"


def test_a_largest_error_of_nan_is_not_dropped():
    x = torch.full((3, 32), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
    x[1:, 3] = 1
    recipe = Recipe(0.01, fast_math=True)
    assert np.isnan(cpu.analyze(x, [recipe], [None])[0].max_error)
    assert_same(x, [recipe])


def test_a_code_of_plus_6_that_is_no_number_keeps_its_sign_against_negative_x():
    """Elements that are subnormal in FP32, times an infinite output scale: 0 times infinity is NaN, and +6 whatever the
    sign of x."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 6e-37
    recipe = Recipe(448, per_token=False, fast_math=True)
    for a, b in zip(cpu.analyze(x, [recipe], [None]), reference.analyze(x, [recipe], [None]), strict=True):
        assert_same_stats(a, b)
    assert (cpu.quantize(x, recipe).dequantize().sign() * x.sign() < 0).any()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("mode", [None, "MAE", "MSE"])
def test_a_subnormal_encode_scale_is_zero_where_it_multiplies(mode, fast):
    x = torch.full((2, 32), 3e38)
    x[0, :5] = -1e38
    kind = {"four_over_six": mode is not None, "err_mode": mode or "MAE", "fast_math": fast}
    recipe = Recipe(0.01, per_token=False, **kind)
    ours, theirs = (e.quantize(x, recipe) for e in (cpu, reference))
    assert not bits(ours.block_scales).any() and 0 < ours.encode_scale.item() < 2**-126
    assert torch.equal(ours.codes, theirs.codes) and torch.equal(bits(ours.block_scales), bits(theirs.block_scales))


@pytest.mark.parametrize("first_token, sequences", [(0, (0, 7)), (2**32 - 5, (123, 50)), (2**40, None)])
def test_runs_and_sequences_are_those_of_the_reference(first_token, sequences):
    x = torch.randn(333, 64, generator=torch.Generator().manual_seed(1))
    x[5::13] = 0
    assert_same(x, list(RECIPES.values()), first_token, sequences)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_reference_under_every_recipe(dtype):
    assert_same(adversarial(dtype), every_recipe() + ODD_RECIPES, first_token=123)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_equals_the_reference_at_every_16_bit_value(dtype):
    """All finite values of bf16 or fp16 as elements, beside neighbours of all sizes and of their own."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    x = torch.cat([x[torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))], x])
    assert_same(
        x.reshape(-1, 64), [RECIPES["4/6-mae-448"], Recipe(256, four_over_six=True, err_mode="MSE", fast_math=True)]
    )


@pytest.mark.parametrize(
    "shape", [(0, 16), (0, 64), (1, 16), (1, 1040), (5, 16), (64, 16), (65, 16), (3, 16 * 37), (2, 32784)]
)
def test_any_shape(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert_same(x, [RECIPES["standard"], RECIPES["4/6-mse-256"], Recipe(per_token=False)])


def test_per_tensor_without_a_scale_takes_the_tensors_amax():
    x = adversarial(torch.bfloat16)[:, :64]
    for recipe in (Recipe(per_token=False), Recipe(256, four_over_six=True, per_token=False, fast_math=True)):
        for part in (x, x[:0], x[8:9]):
            assert_same_quantized(part, recipe)
            assert_same_stats(cpu.analyze(part, [recipe], [None])[0], reference.analyze(part, [recipe], [None])[0])


@pytest.mark.parametrize("encode_scale", [1e-45, 1e-39, 2.0**-126, 1.0, 2.0**127, 3.4e38])
def test_extreme_encode_scales(encode_scale):
    x, scale = adversarial(torch.float32), torch.full((1, 1), encode_scale)
    for recipe in (r for r in every_recipe((448.0,)) if not r.per_token):
        assert_same_quantized(x, recipe, scale)


def test_rows_and_columns_in_any_stride():
    wide = adversarial(torch.bfloat16, 60, 16 * 40)
    recipes = [RECIPES["4/6-mae-448"]]
    views = {
        "columns": wide[:, 16:336],
        "every other row": wide[::2, :320],
        "transposed": adversarial(torch.float16, 320, 48).t(),
        "every other column": wide[:, ::2],
        "one row repeated": wide[3:4].expand(7, -1),
        "upside down": wide.flip(0),
    }
    for name, x in views.items():
        a, b = cpu.quantize(x, recipes[0]), reference.quantize(x.contiguous(), recipes[0])
        assert torch.equal(a.codes, b.codes), name
        assert_same_stats(cpu.analyze(x, recipes, [None])[0], reference.analyze(x.contiguous(), recipes, [None])[0])


def test_tasks_add_up(monkeypatch):
    """However x falls into tasks and threads, the statistics are the same, and so are those of parts."""
    x, recipes = adversarial(torch.bfloat16, 90), list(RECIPES.values())
    whole = reference.analyze(x, recipes, [None] * 5, 11)
    for smallest, threads in itertools.product((16, 1000), (1, 3)):
        monkeypatch.setattr(cpu, "SMALLEST", smallest)
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        ours = cpu.analyze(x, recipes, [None] * 5, 11)
        for a, b in zip(ours, whole, strict=True):
            assert_same_stats(a, b)
        assert ours == cpu.analyze(x, recipes, [None] * 5, 11), "the sums depend on the threads' timing"
        assert_same_quantized(x, recipes[1])
    parts = (cpu.analyze(x[i:j], recipes, [None] * 5, 11 + i) for i, j in ((0, 1), (1, 50), (50, 90)))
    for a, b in zip((p + q + r for p, q, r in zip(*parts, strict=True)), whole, strict=True):
        assert_same_stats(a, b)


@settings(max_examples=60)
@given(st.data())
def test_any_bits(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    n = data.draw(st.integers(1, 5))
    rows = data.draw(st.integers(1, 4))
    width = torch.finfo(dtype).bits
    edges = st.sampled_from([0, 1, (1 << width - 1) + 1, 1 << width - 1])
    raw = data.draw(st.lists(st.one_of(st.integers(0, (1 << width) - 1), edges), min_size=16, max_size=16 * n * rows))
    raw = np.resize(np.array(raw, np.uint32 if width == 32 else np.uint16), (rows, 16 * n))
    x = torch.from_numpy(raw.view(np.int32 if width == 32 else np.int16)).view(dtype)
    x = torch.where(x.isfinite(), x, torch.ones_like(x))
    ceiling = data.draw(st.one_of(st.sampled_from([448.0, 256.0]), st.floats(2**-20, 448, width=32)))
    flags = [data.draw(st.booleans()) for _ in range(4)]
    recipe = Recipe(
        ceiling,
        four_over_six=flags[0],
        err_use_fast_math=flags[1],
        per_token=flags[2],
        fast_math=flags[3],
        err_mode=data.draw(st.sampled_from(["MAE", "MSE"])),
    )
    assert_same_quantized(x, recipe, scales_for(x, [recipe])[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_input_is_found_on_the_way(dtype, bad):
    x = torch.randn(300, 512, generator=torch.Generator().manual_seed(3)).to(dtype)
    x[257, 499] = bad
    for recipe in (RECIPES["4/6-mae-448"], Recipe(four_over_six=True, per_token=False, fast_math=True)):
        with pytest.raises(ValueError, match=r"the first at x\[257, 499\]"):
            nvfp4viz.quantize(x, recipe, engine="cpu")
        with pytest.raises(ValueError, match=r"the first at x\[257, 499\]"):
            nvfp4viz.analyze(x, recipe, engine="cpu")


def test_public_calls_on_several_axes():
    x = adversarial(torch.bfloat16, 42, 64).reshape(2, 3, 7, 64)
    recipes = list(RECIPES.values())
    for a, b in zip(analyze_all(x, recipes, engine="cpu"), analyze_all(x, recipes, engine="reference"), strict=True):
        assert_same_stats(a, b)


def test_several_callers_at_once():
    x = adversarial(torch.bfloat16, 400)
    expected = [cpu.analyze(x, [r], [None])[0] for r in RECIPES.values()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda r: cpu.analyze(x, [r], [None])[0], list(RECIPES.values()) * 6))
    assert found == expected * 6


def _child(queue, x):
    queue.put(cpu.analyze(x, [RECIPES["4/6-mae-448"]], [None])[0].to_dict())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_in_a_forked_process():
    x = adversarial(torch.bfloat16, 4000)
    expected = cpu.analyze(x, [RECIPES["4/6-mae-448"]], [None])[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue, x))
    child.start()
    assert Stats.from_dict(queue.get(timeout=60)) == expected
    child.join(10)
    assert child.exitcode == 0


def test_compiles_little():
    """One version of each kernel: compiling one costs seconds, and numba's cache may mix up two made at once."""
    for dtype in DTYPES:
        assert_same(adversarial(dtype, 3), [Recipe(), Recipe(fast_math=True), Recipe(per_token=False)])
    cpu.analyze_segments(
        adversarial(torch.bfloat16, 3), torch.tensor([0, 1, 3]), [Recipe(four_over_six=True)], [None], [0, 0]
    )
    from nvfp4viz.engine.cpu import analyze, quantize

    assert len(analyze.analyze.signatures) == len(quantize.quantize.signatures) == 1


def test_numba_is_imported_at_first_use():
    code = "import sys, nvfp4viz; nvfp4viz.engines(); assert not [m for m in sys.modules if m.startswith('numba')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("version", "reason"), [("0.59.1", r"older than 0\.60"), ("0.60.0", None), ("0.61.0rc1", None)]
)
def test_why_not_names_an_old_numba(monkeypatch, version, reason):
    monkeypatch.setattr(cpu.metadata, "version", lambda name: version)
    why = cpu.why_not.__wrapped__()
    assert why is None if reason is None else re.search(reason, why)


def test_why_not_names_a_missing_numba(monkeypatch):
    monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda name: None)
    assert "pip install numba" in cpu.why_not.__wrapped__()


@pytest.mark.parametrize("dtype", DTYPES)
def test_segments_equal_separate_calls(dtype, monkeypatch):
    """Of any length, none and one token included, over tasks' borders too."""
    monkeypatch.setattr(cpu, "SMALLEST", 1 << 11)  # tasks that begin and end within segments
    x, recipes = adversarial(dtype), every_recipe()[:6]
    offsets = torch.tensor([0, 0, 1, 1, 20, 21, 39], dtype=torch.int32)  # the last rows are nobody's
    firsts = [0, 5, 0, 1000, 70_000, 3]
    scales = [None if r.per_token else torch.full((1, 1), 100.0) for r in recipes]
    found = cpu.analyze_segments(x, offsets, recipes, scales, firsts)
    for e, row in enumerate(found):
        part = x[offsets[e] : offsets[e + 1]]
        for ours, theirs in zip(row, cpu.analyze(part, recipes, scales, firsts[e]), strict=True):
            assert_same_stats(ours, theirs)


def test_a_segment_with_nan_is_refused():
    x = torch.ones(4, 32)
    x[2, 3] = torch.nan
    with pytest.raises(ValueError, match="1 NaN"):
        cpu.analyze_segments(x, torch.tensor([0, 1, 4], dtype=torch.int32), [Recipe()], [None], [0, 0])


@pytest.mark.parametrize("mode", ["MAE", "MSE"])
def test_near_ties_are_decided_by_the_score(mode):
    """Blocks of few values, where candidates' errors are equal or all but: the choice is the reference's."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randint(-3, 4, (200, 16 * 40), generator=rng).float() * 2.0 ** torch.randint(
        -9, 1, (200, 640), generator=rng
    )
    x[:, ::16] = (torch.randint(1, 64, (200, 40), generator=rng) / 8).float()
    recipes = [Recipe(c, four_over_six=True, err_mode=mode) for c in (448.0, 256.0, 300.0)]
    for dtype in DTYPES:
        ours, theirs = (analyze_all(x.to(dtype), recipes, engine=engine) for engine in ("cpu", "reference"))
        for a, b in zip(ours, theirs, strict=True):
            assert_same_stats(a, b)


def test_kernels_return_no_array():
    """numba counts no references in them: an array that one returned, alone or in a tuple, would be freed in use."""
    kernels = 0
    for file in sorted(Path(cpu.__file__).parent.glob("*.py")):
        for function in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)):
            if not {"kernel", "inlined"} & {d.id for d in function.decorator_list if isinstance(d, ast.Name)}:
                continue
            kernels += 1
            returned = [
                n.value for n in ast.walk(function) if isinstance(n, ast.Return) and isinstance(n.value, ast.Call)
            ]
            made = [ast.unparse(call.func) for call in returned if ast.unparse(call.func)[0].isupper()]
            assert not made, f"{function.name} returns {made}: @spliced"
    assert kernels > 20


@pytest.mark.parametrize("recipe", ["standard-tensor-fast", "4/6-mse-256-tensor"])
def test_a_transposed_tensor_has_the_statistics_of_its_copy(recipe):
    """A token that one scale for all loses wholly has an NMSE of exactly 1, the edge of a bin, in every layout."""
    x = torch.randn((300, 128), generator=torch.Generator().manual_seed(0))
    x[7] *= 1e6
    transposed, recipe = x.t().contiguous().t(), nvfp4viz.Recipe.parse(recipe)
    for engine in ("reference", "cpu"):
        (a,), (b,) = (nvfp4viz.engine.analyze_all(y, [recipe], engine=engine) for y in (x, transposed))
        assert a == b
