"""Formats: packing, views, checks of input. Their rounding is compared with other libraries in test_oracles.py."""

import ml_dtypes
import numpy as np
import pytest
import torch

from nvfp4viz.nvfp4 import (
    BLOCK,
    E2M1_MAGNITUDES,
    as_tokens,
    blocks,
    check_finite,
    e2m1_decode,
    e2m1_encode,
    flush,
    pack,
    tiles,
    unpack,
)


def test_codes_decode_as_ml_dtypes_reads_them():
    nibbles = np.arange(16, dtype=np.uint8)
    theirs = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    ours = e2m1_decode(torch.from_numpy(nibbles)).numpy()
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))
    assert ours[:8].tolist() == list(E2M1_MAGNITUDES)


def test_every_value_encodes_to_its_own_code():
    codes = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(e2m1_encode(e2m1_decode(codes)), codes)


def test_every_e4m3_byte_is_what_ml_dtypes_reads():
    byte = torch.arange(127, dtype=torch.uint8)
    theirs = byte.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(byte.view(torch.float8_e4m3fn).float().numpy(), theirs)
    assert theirs[126] == 448 and theirs[8] == 2**-6 and theirs[1] == 2**-9


def test_all_bytes_unpack_low_nibble_first():
    packed = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    codes = unpack(packed)
    assert codes.shape == (4, 128)
    assert torch.equal(codes[:, 0::2], packed % 16) and torch.equal(codes[:, 1::2], packed // 16)
    assert torch.equal(pack(codes), packed)


def test_blocks_are_neighbours_along_k():
    x = torch.arange(64.0).reshape(2, 32)
    assert blocks(x).shape == (2, 2, BLOCK)
    assert blocks(x)[1, 0].tolist() == list(range(32, 48))


def test_flush_keeps_the_sign_and_the_smallest_normal():
    smallest = 2.0**-126
    below = float(np.nextafter(np.float32(smallest), np.float32(0)))
    x = torch.tensor([smallest, -smallest, below, -below, 2.0**-149, 0.0, -0.0, np.inf, 1.0])
    flushed = flush(x)
    assert flushed.tolist() == [smallest, -smallest, 0, 0, 0, 0, 0, np.inf, 1.0]
    assert torch.signbit(flushed).tolist() == torch.signbit(x).tolist()


@pytest.mark.parametrize("m, k, limit", [(7, 48, 64), (3, 16, 1 << 21), (1, 4096, 32), (5, 64, 64), (0, 16, 64)])
def test_tiles_cover_each_element_once_within_the_limit(m, k, limit):
    seen = torch.zeros(m, k, dtype=torch.int)
    for rows, columns in tiles(m, k, limit):
        seen[rows, columns] += 1
        assert seen[rows, columns].numel() <= max(limit, BLOCK)
        assert columns.start % BLOCK == columns.stop % BLOCK == 0
    assert (seen == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_leading_axes_become_tokens(dtype):
    x = torch.zeros(2, 3, 32, dtype=dtype, requires_grad=True)
    tokens = as_tokens(x)
    assert tokens.shape == (6, 32) and tokens.dtype == dtype and not tokens.requires_grad
    assert tokens.data_ptr() == x.data_ptr()
    assert as_tokens(torch.zeros(16)).shape == (1, 16)
    assert as_tokens(torch.zeros(3, 0, 16)).shape == (0, 16)


@pytest.mark.parametrize(
    "x, error, message",
    [
        (torch.tensor(1.0), ValueError, r"0-d.*\[\.\.\., K\]"),
        (torch.zeros(4, 0), ValueError, r"shape \(4, 0\).*no features"),
        (torch.zeros(4, 30), ValueError, r"K=30 is not a multiple of 16.*x\[\.\.\., :16\]"),
        (torch.zeros(4, 8), ValueError, r"K=8 is not a multiple of 16.*pad x to 16"),
        (torch.zeros(4, 16, dtype=torch.int32), TypeError, r"torch\.int32.*x\.to"),
        (torch.zeros(4, 16, dtype=torch.bool), TypeError, r"torch\.bool"),
        (torch.zeros(4, 16, dtype=torch.float64), TypeError, r"torch\.float64.*x\.to"),
        (torch.zeros(4, 16, dtype=torch.complex64), TypeError, r"torch\.complex64"),
        (torch.zeros(4, 16).to(torch.float8_e4m3fn), TypeError, r"float8_e4m3fn"),
        (torch.zeros(4, 16).to_sparse(), TypeError, r"sparse_coo.*to_dense"),
        ([1.0] * 16, TypeError, r"list"),
    ],
    ids=lambda v: str(v)[:20] if isinstance(v, str) else "",
)
def test_what_cannot_be_tokens_is_refused_in_words(x, error, message):
    with pytest.raises(error, match=message):
        as_tokens(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_non_finite_values_are_counted_and_located(dtype):
    x = torch.zeros(3000, 32, dtype=dtype)
    check_finite(x)
    check_finite(x[:0])
    x[2000, 5] = float("nan")
    x[2500, 0] = float("-inf")
    x[2500, 31] = float("inf")
    with pytest.raises(ValueError, match=r"1 NaN and 2 Inf, the first at x\[2000, 5\]"):
        check_finite(x)
    x[2000, 5] = 0
    with pytest.raises(ValueError, match=r"0 NaN and 2 Inf, the first at x\[2500, 0\]"):
        check_finite(x)
