"""Quantized: scale layouts against FlashInfer's offset formulas, wrapping a serving engine's dump, decoding."""

import numpy as np
import pytest
import torch

from nvfp4viz import Quantized, Recipe, measure, quantize, synthetic
from nvfp4viz.nvfp4 import unswizzle


def offset_128x4(row: int, column: int, columns: int) -> int:
    """get_sf_out_offset_128x4 of FlashInfer 0.7.2, quantization_utils.cuh."""
    tiles = (columns + 3) // 4
    return (row // 128) * tiles * 512 + (column // 4) * 512 + (row % 32) * 16 + (row % 128) // 32 * 4 + column % 4


def offset_8x4(row: int, column: int, columns: int) -> int:
    """get_sf_out_offset_8x4 of the same file."""
    tiles = (columns + 3) // 4
    return (row // 8) * tiles * 32 + (column // 4) * 32 + (row % 8) * 4 + column % 4


LAYOUTS = {"128x4": (offset_128x4, 128), "8x4": (offset_8x4, 8)}


def swizzle(linear: torch.Tensor, layout: str, padding: int = 0x77) -> torch.Tensor:
    """Bytes [m, n] as FlashInfer stores them, flat, with padding that must not be read."""
    m, n = linear.shape
    offset, rows = LAYOUTS[layout]
    stored = torch.full((-(-m // rows) * rows * -(-n // 4) * 4,), padding, dtype=torch.uint8)
    for r in range(m):
        for c in range(n):
            stored[offset(r, c, n)] = linear[r, c]
    return stored


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("m, n", [(1, 1), (3, 5), (8, 4), (31, 4), (33, 9), (128, 8), (130, 3), (257, 6)])
def test_layouts_follow_flashinfers_offsets(layout, m, n):
    linear = torch.randint(0, 127, (m, n), dtype=torch.uint8, generator=torch.Generator().manual_seed(m))
    assert torch.equal(unswizzle(swizzle(linear, layout), m, n, layout), linear)


def test_the_linear_layout_is_itself():
    linear = torch.arange(15, dtype=torch.uint8).reshape(3, 5)
    assert torch.equal(unswizzle(linear.flatten(), 3, 5, "linear"), linear)


@pytest.fixture(params=["per token", "per tensor"])
def ours(request):
    recipe = Recipe(256, four_over_six=True, per_token=request.param == "per token")
    return quantize(synthetic("lognormal", 37, 80), recipe, engine="reference")


@pytest.mark.parametrize("layout", ["linear", *LAYOUTS])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("flat", [False, True])
def test_a_serving_engines_dump_is_what_we_made(ours, layout, dtype, flat):
    scales = ours.block_scales.view(torch.uint8)
    stored = scales if layout == "linear" else swizzle(scales, layout).reshape(-1, 4)
    stored = stored.flatten() if flat else stored
    decode = ours.decode_scale.flatten() if ours.recipe.per_token else float(ours.decode_scale)
    theirs = Quantized.from_flashinfer(ours.codes, stored.view(dtype), decode, ours.recipe, layout)
    assert theirs.engine == "flashinfer" and theirs.recipe == ours.recipe and theirs.shape == (37, 80)
    assert theirs.block_scales.dtype == torch.float8_e4m3fn and theirs.decode_scale.shape == ours.decode_scale.shape
    assert torch.equal(theirs.dequantize(), ours.dequantize())
    x = synthetic("lognormal", 37, 80)
    measured, own = measure(x, theirs).to_dict(), measure(x, ours).to_dict()
    assert {k: v for k, v in measured.items() if k != "engine"} == {k: v for k, v in own.items() if k != "engine"}


def test_decode_scales_may_be_numpy_or_a_column_and_codes_not_contiguous(ours):
    codes = torch.stack([ours.codes, ours.codes], -1)[..., 0]
    assert not codes.is_contiguous()
    theirs = Quantized.from_flashinfer(codes, ours.block_scales, ours.decode_scale.numpy(), ours.recipe)
    assert torch.equal(theirs.dequantize(), ours.dequantize())


def test_recipes_may_be_named_and_tensors_empty():
    q = Quantized.from_flashinfer(
        torch.zeros(0, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8), torch.zeros(0), "4/6-mae-256", "128x4"
    )
    assert q.shape == (0, 16) and q.dequantize().shape == (0, 16) and q.recipe.e4m3_max == 256


CODES, SCALES = torch.zeros(4, 16, dtype=torch.uint8), torch.zeros(4, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    "codes, scales, decode, layout, message",
    [
        (CODES.float(), SCALES, torch.ones(4), "linear", r"codes are torch.float32 \(4, 16\): expected uint8"),
        (CODES[:, :12], SCALES, torch.ones(4), "linear", r"uint8 \(4, 12\).*K a multiple of 16"),
        (CODES[0], SCALES, torch.ones(4), "linear", r"uint8 \(16,\)"),
        (CODES, SCALES.float(), torch.ones(4), "linear", r"scales are torch.float32: expected E4M3"),
        (CODES, SCALES[:3], torch.ones(4), "linear", r"6 block scales: layout linear of 4 tokens and 2 .* has 8"),
        (CODES, SCALES, torch.ones(4), "128x4", r"8 block scales: layout 128x4 .* has 512"),
        (CODES, SCALES, torch.ones(4), "8x4", r"8 block scales: layout 8x4 .* has 32"),
        (CODES, SCALES, torch.ones(4), "swizzled", r"layout='swizzled' is not one of"),
        (CODES, SCALES, torch.ones(3), "linear", r"3 decode scales for 4: recipe standard over 4 tokens"),
        (CODES, SCALES, 1.0, "linear", r"1 decode scales for 4"),
        (CODES, SCALES, torch.tensor([1.0, np.nan, 1, 1]), "linear", r"decode_scale holds NaN"),
        (CODES, SCALES, -torch.ones(4), "linear", r"negative"),
    ],
)
def test_what_does_not_fit_together_is_refused(codes, scales, decode, layout, message):
    with pytest.raises(ValueError, match=message):
        Quantized.from_flashinfer(codes, scales, decode, Recipe(), layout)


def test_a_wrong_layout_shows_as_impossible_scales():
    q = Quantized.from_flashinfer(CODES, torch.full((4, 2), 0x7F, dtype=torch.uint8), torch.ones(4), Recipe())
    with pytest.raises(ValueError, match=r"8 block scales are NaN or negative.*layout"):
        measure(torch.zeros(4, 32), q)


def test_decoding_is_element_times_block_scale_times_decode_scale():
    codes = torch.arange(16, dtype=torch.uint8)[None].repeat(2, 1)
    packed = codes[:, 0::2] + 16 * codes[:, 1::2]
    scales = torch.tensor([[1.5], [448.0]]).to(torch.float8_e4m3fn)
    q = Quantized(packed, scales, torch.tensor([[2.0], [0.1]]), Recipe(), "by hand")
    values = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    by_hand = np.stack([values * np.float32(3), values * np.float32(448) * np.float32(0.1)])
    np.testing.assert_array_equal(q.dequantize().numpy(), by_hand)


def test_rows_are_the_same_tokens(ours):
    part = ours.rows(5, 9)
    assert part.shape == (4, 80) and torch.equal(part.dequantize(), ours.dequantize()[5:9])
    assert part.codes.data_ptr() == ours.codes[5:].data_ptr()
    one = quantize(synthetic("normal", 1, 32), ours.recipe, engine="reference")
    assert torch.equal(one.rows(0, 1).dequantize(), one.dequantize())
