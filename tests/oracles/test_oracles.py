"""Independent oracles: other libraries for every rounding, and a scalar twin written from NUMERICS for whole blocks.

The twin uses NumPy's float32 scalars only, and rounds to E2M1 and E4M3 by comparing distances to every value. It shares
no code with the library but the table of the hardware's reciprocal, whose file it reads itself.
"""

import lzma
from functools import cache
from pathlib import Path

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch

import nvfp4viz
from nvfp4viz import Recipe, quantize
from nvfp4viz.nvfp4 import e2m1_encode, e4m3_encode, rcp_approx

F = np.float32
FLT_MAX, FLT_MIN, INF = np.finfo(F).max, np.finfo(F).tiny, F(np.inf)

E2M1 = [(-1) ** (code >> 3) * (0, 0.5, 1, 1.5, 2, 3, 4, 6)[code & 7] for code in range(16)]
E4M3 = [(m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)) for e in range(16) for m in range(8)][:127]


def _edges(values) -> np.ndarray:
    """Every value and midpoint of an ascending list, the float32 neighbours of each, and what lies outside."""
    values = np.array(values, dtype=np.float64)
    marks = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(F)  # exact: few bits
    outside = F([FLT_MIN, 1e-45, 6.5, 7, 448, 464, 465, 480, 1e4, FLT_MAX])
    marks = np.concatenate([marks, outside])
    with np.errstate(over="ignore"):
        neighbours = np.concatenate([np.nextafter(marks, INF), np.nextafter(marks, -INF)])
    return np.unique(np.concatenate([marks, neighbours]).clip(0, FLT_MAX))


def test_e2m1_rounds_as_ml_dtypes_and_gfloat_do():
    x = _edges(E2M1[:8])
    x = np.concatenate([x, -x])
    ours = e2m1_encode(torch.from_numpy(x)).numpy()
    theirs = np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15
    np.testing.assert_array_equal(ours, theirs)
    info = gfloat.formats.format_info_ocp_e2m1
    rounded = gfloat.round_ndarray(info, x.astype(np.float64), gfloat.RoundMode.TiesToEven, sat=True)
    np.testing.assert_array_equal(ours, gfloat.encode_ndarray(info, rounded))
    np.testing.assert_array_equal(ours, [_nearest_e2m1(v) for v in x])
    assert len(x) > 90


def test_e4m3_rounds_as_ml_dtypes_and_gfloat_do():
    x = _edges(E4M3)
    ours = e4m3_encode(torch.from_numpy(x)).view(torch.uint8).numpy()
    theirs = np.clip(x, 0, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(ours, theirs)
    info = gfloat.formats.format_info_ocp_e4m3
    rounded = gfloat.round_ndarray(info, x.astype(np.float64), gfloat.RoundMode.TiesToEven, sat=True)
    np.testing.assert_array_equal(ours, gfloat.encode_ndarray(info, rounded))
    np.testing.assert_array_equal(ours, [_nearest_e4m3(v) for v in x])
    assert len(x) > 700 and ours.max() == 126


def test_nan_becomes_6_and_infinity_saturates():
    x = torch.tensor([np.nan, -np.nan, np.inf, -np.inf])
    assert e2m1_encode(x).tolist() == [7, 7, 7, 15]


def _nearest(magnitude: float, values) -> int:
    """Index of the nearest value, of two the even one; the last beyond the end."""
    distance = [abs(float(magnitude) - v) for v in values]  # exact, or so unequal that it does not matter
    return min(range(len(values)), key=lambda i: (distance[i], i % 2))


def _nearest_e2m1(x) -> int:
    return 7 if np.isnan(x) else _nearest(min(abs(x), 6), E2M1[:8]) + 8 * bool(np.signbit(x))


def _nearest_e4m3(x) -> int:
    return _nearest(min(x, 448), E4M3)


# the twin


def ftz(x) -> F:
    assert isinstance(x, F), type(x)  # nothing may leave FP32
    return np.copysign(F(0), x) if abs(x) < FLT_MIN else x


def mul(a, b) -> F:
    return ftz(ftz(a) * ftz(b))


def div(a, b) -> F:
    return ftz(ftz(a) / ftz(b))


@cache
def _table() -> np.ndarray:
    packed = (Path(nvfp4viz.__file__).parent / "data" / "rcp_delta_sm90.i8.xz").read_bytes()
    return np.frombuffer(lzma.decompress(packed), np.int8)


def rcp(x) -> F:
    x = ftz(x)
    exact = div(F(1), x)
    if exact == 0 or np.isinf(exact):
        return exact
    bits = int(exact.view(np.uint32)) + int(_table()[int(x.view(np.uint32)) & 0x7FFFFF])
    return ftz(np.uint32(bits).view(F))


def _sequential(terms) -> F:
    total = F(0)
    for term in terms:
        total = ftz(total + term)
    return total


class Twin:
    """One token or tensor under a recipe: its scales, and any block of it."""

    def __init__(self, recipe: Recipe, amax, encode=None):
        self.recipe, self.amax, self.fast = recipe, ftz(amax), recipe.fast_math
        ceiling = recipe.e4m3_max
        if encode is not None:
            self.SF, self.d = F(encode), F(1) / F(encode)
        elif not recipe.per_token:
            self.SF = min(F(6 * ceiling) / amax, FLT_MAX)
            self.d = F(1) / self.SF
        else:
            s = F(1.0 / (ceiling * 6))
            if self.fast:
                self.d = mul(self.amax, s)
                self.SF = rcp(self.d) if self.d != 0 else F(0)
            else:
                SF = ftz(min(div(div(F(1), s), self.amax), FLT_MAX))
                self.SF = SF if SF != 0 else F(1)
                self.d = F(0) if self.amax == 0 else div(F(1), self.SF)

    def block(self, x) -> tuple[list[int], int, bool]:
        """Codes, scale byte, and whether 4 was chosen."""
        x = [ftz(F(v)) for v in x]
        bmax, r = max(abs(v) for v in x), self.recipe
        if r.four_over_six and bmax == 0:
            return [0] * 16, 0, False
        if self.fast:
            h6 = mul(self.SF, mul(bmax, rcp(F(6))))
        elif r.four_over_six:
            h6 = mul(div(bmax, F(6)), self.SF)
        else:
            h6 = mul(bmax, mul(self.SF, F(1 / 6)))
        six = self._candidate(x, bmax, h6)
        if not r.four_over_six:
            return *six, False
        four = self._candidate(x, bmax, mul(h6, F(1.5)))
        if self._error(x, *four) < self._error(x, *six):
            return *four, True
        return *six, False

    def _candidate(self, x, bmax, h) -> tuple[list[int], int]:
        byte = _nearest_e4m3(h)
        b = F(E4M3[byte])
        if bmax == 0:
            scale = F(0)
        elif self.fast:
            scale = rcp(mul(b, rcp(self.SF)))
        else:
            scale = min(div(F(1), mul(b, div(F(1), self.SF))), FLT_MAX)
        return [_nearest_e2m1(mul(v, scale)) for v in x], byte

    def _error(self, x, codes, byte) -> F:
        terms = []
        for v, code in zip(x, codes, strict=True):
            q, b = F(E2M1[code]), F(E4M3[byte])
            if self.recipe.err_use_fast_math:
                product = np.float16(q) * np.float16(b)
                assert float(product) == float(q) * float(b)
                diff = ftz(F(product) - mul(v, self.SF))
            elif self.recipe.per_token:
                diff = ftz(div(mul(mul(q, b), self.amax), F(6 * self.recipe.e4m3_max)) - v)
            else:
                g = rcp(self.SF) if self.fast else div(F(1), self.SF)
                diff = ftz(mul(mul(q, b), g) - v)
            terms.append(abs(diff) if self.recipe.err_mode == "MAE" else mul(diff, diff))
        return _sequential(terms)


TOKENS, FEATURES = 10, 48


def _inputs() -> dict[str, torch.Tensor]:
    """Small tensors that reach every branch; each row another scale."""
    g = torch.Generator().manual_seed(20)
    normal = torch.randn(TOKENS, FEATURES, generator=g)
    scales = torch.tensor([1, 1e-3, 1e3, 1e-38, 3e-40, 1e37, 1, 2.0**-120, 7, 1e-20]).unsqueeze(1)
    spread = normal * torch.exp(4 * torch.randn(TOKENS, FEATURES // 16, 1, generator=g)).expand(-1, -1, 16).flatten(1)
    spread[:, 0] = 3e4  # E4M3 subnormals and zeros in the other blocks
    grid = torch.tensor([0.0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, -0.25]).repeat(3)
    ties = torch.stack([grid * 448 * 2.0**i for i in range(-5, 5)])
    zeros = normal.clone()
    zeros[1:3], zeros[:, 16:32], zeros[4] = 0, -0.0, torch.cat([torch.full((47,), -0.0), torch.tensor([1e-30])])
    # errors so near to each other that the order of their sum decides between 4 and 6
    near = [-0.5, -1.75, -2, -1.5, -1.75, -0.75, -1, -3.5, -0.5, -0.5, 1.25, -1.5, -1.25, 0.75, -0.25, -1]
    order = torch.tensor([[*near, 12.0, *[0.0] * 15, *near[::-1]]])
    return {"order": order, "normal": normal, "scales": normal * scales, "spread": spread, "ties": ties, "zeros": zeros,
            "equal": torch.full((TOKENS, FEATURES), 3.0)}  # fmt: skip


RECIPES = [
    Recipe(ceiling, four_over_six=four, err_mode=mode, err_use_fast_math=fp16, per_token=per_token, fast_math=fast)
    for four, ceilings in ((False, (448.0, 320.0)), (True, (448.0, 256.0, 160.0)))
    for ceiling in ceilings
    for mode, fp16 in ((("MAE", False), ("MSE", False), ("MAE", True), ("MSE", True)) if four else (("MAE", False),))
    for per_token in (True, False)
    for fast in (False, True)
]


def _assert_twin(x: torch.Tensor, recipe: Recipe, encode_scale=None):
    q = quantize(x, recipe, engine="reference", encode_scale=encode_scale)
    codes = torch.stack([q.codes & 15, q.codes >> 4], -1).reshape(x.shape[0], -1, 16).tolist()
    scales, rows = q.block_scales.view(torch.uint8).tolist(), x.float().numpy()
    fours = 0
    with np.errstate(all="ignore"):
        amax = np.abs(rows).max(1)
        for i, row in enumerate(rows):
            twin = Twin(recipe, amax[i] if recipe.per_token else amax.max(), encode_scale)
            np.testing.assert_array_equal(q.decode_scale[i if recipe.per_token else 0, 0].numpy(), twin.d)
            for j, block in enumerate(row.reshape(-1, 16)):
                expected, byte, four = twin.block(block)
                fours += four
                assert (codes[i][j], scales[i][j]) == (expected, byte), (recipe.name, i, j)
    return fours


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_whole_blocks_equal_the_scalar_twin(recipe):
    fours = 0
    for name, x in _inputs().items():
        if name == "scales" and not recipe.per_token:
            x = x * 1e-3  # its subnormal rows are nothing beside 1e37
        fours += _assert_twin(x, recipe)
    assert (fours > 0) == recipe.four_over_six


@pytest.mark.parametrize("recipe", [r for r in RECIPES if not r.per_token], ids=lambda r: r.name)
@pytest.mark.parametrize("factor", [0.25, 1, 64])
def test_a_given_encode_scale_equals_the_scalar_twin(recipe, factor):
    """A calibration that is too small saturates, one that is too large makes scales subnormal."""
    x = _inputs()["normal"][:4]
    encode = F(6 * recipe.e4m3_max) / (x.abs().max().numpy() * F(factor))
    _assert_twin(x, recipe, encode)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recipe", RECIPES[::5], ids=lambda r: r.name)
def test_16_bit_input_equals_the_scalar_twin(recipe, dtype):
    limits = torch.finfo(dtype)
    x = torch.cat([_inputs()["normal"][:3], _inputs()["normal"][3:4] * limits.tiny * 3]).to(dtype)
    x[0, 3], x[1, 40] = limits.max, -limits.max
    _assert_twin(x, recipe)


def test_the_approximate_reciprocal_equals_the_twins():
    bits = np.random.default_rng(3).integers(0, 1 << 32, 4000, dtype=np.uint32)
    special = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7E800000, 0x7E800001], np.uint32)
    bits = np.concatenate([bits, special, special | 1 << 31])
    x = bits.view(F)
    x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        twin, rounded = np.array([rcp(v) for v in x], F), F(1) / x
    np.testing.assert_array_equal(rcp_approx(torch.from_numpy(x)).numpy().view(np.uint32), twin.view(np.uint32))
    assert (twin != rounded).mean() > 0.05  # it is not simply the rounded reciprocal
