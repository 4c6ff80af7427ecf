"""Properties that hold for any activations: scaling, sign, order of rows, chunks, and sums of parts."""

import importlib
import itertools
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nvfp4viz import Quantized, Recipe, Stats, analyze, measure, quantize
from nvfp4viz.nvfp4 import tokens as formats
from nvfp4viz.nvfp4 import unpack

dispatch = importlib.import_module("nvfp4viz.engine.dispatch")  # the package's attribute of this name is a function

# magnitudes far from FP32's subnormals, so that no scaling below flushes anything
VALUES = st.one_of(st.just(0.0), st.floats(2**-6, 65504, width=16), st.floats(-65504, -(2**-6), width=16))


@st.composite
def activations(draw, min_tokens=1):
    """float32 [M, K]: few distinct values, so blocks of zeros and ties come up."""
    m, n = draw(st.integers(min_tokens, 5)), draw(st.integers(1, 3))
    x = torch.from_numpy(draw(hnp.arrays(np.float32, (m, 16 * n), elements=VALUES)))
    return x * 2.0 ** draw(st.integers(-3, 3))


@st.composite
def recipes(draw):
    return Recipe(
        draw(st.sampled_from([448.0, 256.0, 320.0, 100.3])),
        four_over_six=draw(st.booleans()),
        err_mode=draw(st.sampled_from(["MAE", "MSE"])),
        err_use_fast_math=draw(st.booleans()),
        per_token=draw(st.booleans()),
        fast_math=draw(st.booleans()),
    )


def _reference(x, recipe, encode_scale=None) -> Quantized:
    return quantize(x, recipe, engine="reference", encode_scale=encode_scale)


def _assert_same(a: Quantized, b: Quantized):
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.block_scales.view(torch.uint8), b.block_scales.view(torch.uint8))
    assert torch.equal(a.decode_scale, b.decode_scale)


def assert_equal_stats(a: Stats, b: Stats):
    """Counts exactly, float64 sums up to their last bits."""
    for f in fields(Stats):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if np.asarray(x).dtype.kind == "f":
            np.testing.assert_allclose(x, y, rtol=1e-12, err_msg=f.name)
        else:
            assert np.array_equal(x, y), (f.name, x, y)


@settings(max_examples=50)
@given(activations(), recipes(), st.integers(-8, 8))
def test_scaling_by_a_power_of_two_scales_the_decode_scale_alone(x, recipe, k):
    if not recipe.per_token and not x.any():
        return  # an all-zero tensor has a fixed scale
    a, b = _reference(x, recipe), _reference(x * 2.0**k, recipe)
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.block_scales.view(torch.uint8), b.block_scales.view(torch.uint8))
    assert torch.equal(a.decode_scale * 2.0**k, b.decode_scale)


@settings(max_examples=50)
@given(activations(), recipes())
def test_the_opposite_decodes_to_the_opposite(x, recipe):
    a, b = _reference(x, recipe), _reference(-x, recipe)
    assert torch.equal(a.block_scales.view(torch.uint8), b.block_scales.view(torch.uint8))
    assert torch.equal(a.dequantize(), -b.dequantize())
    scaled = a.block_scales.float().repeat_interleave(16, 1) != 0  # zeros by an infinite factor are NaN, so +6
    flipped = unpack(a.codes) ^ 8
    assert torch.equal(flipped[scaled], unpack(b.codes)[scaled])


@settings(max_examples=50)
@given(activations(min_tokens=2), recipes(), st.randoms(use_true_random=False))
def test_tokens_may_come_in_any_order(x, recipe, random):
    order = list(range(len(x)))
    random.shuffle(order)
    a, b = _reference(x, recipe), _reference(x[order], recipe)
    assert torch.equal(a.codes[order], b.codes)
    assert torch.equal(a.dequantize()[order], b.dequantize())


@settings(max_examples=50)
@given(activations(), recipes(), st.randoms(use_true_random=False))
def test_blocks_may_come_in_any_order(x, recipe, random):
    order = list(range(x.shape[1] // 16))
    random.shuffle(order)
    shuffled = formats.blocks(x)[:, order].flatten(1)
    a, b = _reference(x, recipe), _reference(shuffled, recipe)
    assert torch.equal(formats.blocks(a.dequantize())[:, order].flatten(1), b.dequantize())


@settings(max_examples=50)
@given(activations(), recipes())
def test_what_was_decoded_has_no_larger_error_than_half_a_step(x, recipe):
    """Each element is within half the widest E2M1 step, 1 in units of its block scale, unless it is clipped."""
    q = _reference(x, recipe)
    scale = (q.block_scales.float() * q.decode_scale).double().repeat_interleave(16, 1)
    error = (q.dequantize().double() - x.double()).abs()
    clipped = x.double().abs() > 6 * scale
    assert (error[~clipped] <= scale[~clipped] * (1 + 1e-5)).all()


@settings(max_examples=30)
@given(activations(min_tokens=2), recipes(), st.sampled_from([16, 32, 48, 100]))
def test_the_size_of_tiles_does_not_matter(x, recipe, limit):
    whole = _reference(x, recipe)
    with pytest.MonkeyPatch.context() as patch:
        cut = []
        patch.setattr("nvfp4viz.nvfp4.reference.tiles", lambda m, k: cut.append(0) or formats.tiles(m, k, limit))
        _assert_same(_reference(x, recipe), whole)
        assert cut


@settings(max_examples=30)
@given(activations(min_tokens=2), recipes(), st.sampled_from([1, 16, 100]))
def test_the_size_of_chunks_does_not_matter_to_statistics(x, recipe, chunk):
    whole = analyze(x, recipe, engine="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "CHUNK", chunk)
        assert_equal_stats(analyze(x, recipe, engine="reference"), whole)


@settings(max_examples=50)
@given(activations(min_tokens=2), recipes(), st.data())
def test_statistics_of_parts_add_up_to_the_whole(x, recipe, data):
    cuts = sorted({0, len(x), *data.draw(st.lists(st.integers(0, len(x)), max_size=3))})
    scale = None if recipe.per_token else 6 * recipe.e4m3_max / max(float(x.abs().max()), 1e-3)
    whole = measure(x, _reference(x, recipe, scale))
    total = Stats(recipe, "reference", x.shape[1])
    for start, stop in itertools.pairwise(cuts):
        part = x[start:stop]
        total += measure(part, _reference(part, recipe, scale), first_token=start)
    assert_equal_stats(total, whole)


@settings(max_examples=50)
@given(activations(), recipes())
def test_statistics_stay_within_their_meaning(x, recipe):
    stats = analyze(x, recipe, engine="reference")
    rates = ("four_rate", "four_saturated", "scale_saturated", "scale_subnormal", "scale_zero", "element_clipped",
             "element_flushed")  # fmt: skip
    assert all(0 <= getattr(stats, r) <= 1 for r in rates)
    assert stats.scale_histogram.sum() == stats.blocks and stats.code_histogram.sum() == stats.elements
    assert stats.token_histogram.sum() == int((x != 0).any(1).sum())
    assert stats.block_histogram.sum() == stats.nonzero_blocks
    assert stats.cosine <= 1 + 1e-12 and stats.mae <= stats.max_error <= stats.x_amax * 1.5
    assert stats.mae**2 <= stats.mse * (1 + 1e-12)
    assert Stats.from_dict(stats.to_dict()) == stats
