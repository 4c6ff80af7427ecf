"""The split of the squared error in plain torch: the specification that `nvfp4viz.attribute` has compiled.

Blocks are [m, n], n = K/16; all is float64 but for the candidates, which are FP32 as an engine computes them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nvfp4viz.analysis.attribution import exact_encode
from nvfp4viz.nvfp4 import (
    E2M1_MAGNITUDES,
    E2M1_MAX,
    Recipe,
    block_candidates,
    blocks,
    candidate_error,
    e2m1_decode,
    e2m1_encode,
    e4m3_encode,
    flush,
    output_scale,
    token_amax,
    token_scales,
)


class Prepared(NamedTuple):
    """Some tokens as the functions below want them."""

    amax: np.ndarray  # float32 [m]
    energy: np.ndarray  # float64 [m, K/16]: squared signal of each block
    x: Tensor  # [m, K]


def prepare(x: Tensor) -> Prepared:
    return Prepared(token_amax(x).flatten().numpy(), blocks(x).double().square().sum(-1).numpy(), x)


def arithmetic(recipe: Recipe, encode_scale: Tensor | None):
    """What `candidate_errors` wants to know of a recipe."""
    return recipe, encode_scale


def plan(recipes, encode_scales) -> list:
    """What `sums` wants to know of recipes."""
    return list(zip(recipes, encode_scales, strict=True))


def sums(x: Tensor, plan: list, sampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attribution's counts [2], and by recipe its sums [17]: quantizers, six_only, x_sq, sampled_two, sampled_every.

    Args: x: [m, K]; sampled: bool [m, n], the blocks to search over every scale.
    """
    x = prepare(x)
    there = x.energy > 0  # [m, n]
    sampled = sampled & there
    found = []
    for recipe, given in plan:
        encode = exact_encode(x.amax, recipe, given)  # [m]
        both = np.concatenate([ideal_errors(x)[None], scaled_errors(x, encode)])  # [5, 2, m, n]
        real, four = candidate_errors(x, (recipe, given))  # [2, m, n], [m, n]
        six = [*both[:, 0], real[0], real[0]]
        best = [*both.min(1), real.min(0), np.where(four, real[1], real[0])]
        quantizers = best if recipe.four_over_six else six
        every = every_scale_errors(x, encode, np.where(sampled, both[4, 0], 0.0))
        found.append([*(e.sum() for e in [*quantizers, *six, x.energy]), quantizers[4][sampled].sum(), every.sum()])
    return np.array([there.sum(), sampled.sum()]), np.array(found)


def ideal_errors(x: Prepared) -> np.ndarray:
    """Squared error of each block under quantizer 0, by candidate: [2, m, n]."""
    tile = blocks(x.x).double()
    bmax = tile.abs().amax(-1, keepdim=True)
    return np.stack([_squared_errors(tile, bmax / to)[1] for to in (6, 4)])


def scaled_errors(x: Prepared, encode: np.ndarray) -> np.ndarray:
    """Squared error of each block under quantizers 1 to 4, by candidate: [4, 2, m, n]; encode float64 [m]."""
    tile, token = blocks(x.x).double(), torch.from_numpy(encode).reshape(-1, 1, 1)
    bmax = tile.abs().amax(-1, keepdim=True)
    inverse = torch.where(token != 0, torch.ones_like(token) / token, 0.0)
    found = np.empty((4, 2, *tile.shape[:2]))
    for k, to in enumerate((6, 4)):
        h = bmax * token / to
        mantissa, exponent = torch.frexp(h)  # h = mantissa * 2^exponent, mantissa in [0.5, 1)
        free = torch.ldexp((mantissa * 16).round() / 16, exponent)
        capped = free.clamp(max=448)
        stored = torch.where(h < 2.0**-6, (h * 512).round() / 512, capped)
        found[0, k], found[1, k] = _squared_errors(tile, free * inverse)
        found[2, k] = _squared_errors(tile, capped * inverse)[1]
        found[3, k] = _squared_errors(tile, stored * inverse)[1]
    return found


def candidate_errors(x: Prepared, rules) -> tuple[np.ndarray, np.ndarray]:
    """Squared error of each block by candidate, as the recipe computes and decodes it; and where it takes 4.

    Returns float64 [2, m, n] and bool [m, n].
    """
    recipe, encode_scale = rules
    raw, amax = blocks(x.x.float()), torch.from_numpy(x.amax).reshape(-1, 1, 1)  # [m, n, 16], [m, 1, 1]
    tile = flush(raw)
    if recipe.per_token:
        encode, decode = token_scales(amax, recipe)  # [m, 1, 1]
    else:
        encode, decode = encode_scale.reshape(1, 1, 1), (torch.ones(()) / encode_scale).reshape(1, 1, 1)
    bmax = tile.abs().amax(-1, keepdim=True)
    errors, scores = np.zeros((2, *raw.shape[:2])), []
    for k, h in enumerate(block_candidates(bmax, encode, recipe)[: 1 + recipe.four_over_six]):
        scale = e4m3_encode(h).float()
        codes = e2m1_encode(flush(tile * output_scale(scale, bmax, encode, recipe)))
        x_hat = e2m1_decode(codes) * scale * decode
        errors[k] = (x_hat.double() - raw.double()).square().sum(-1)
        scores.append(candidate_error(tile, codes, scale, encode, flush(amax), recipe).squeeze(-1))
    four = scores[1] < scores[0] if recipe.four_over_six else torch.zeros(raw.shape[:2], dtype=torch.bool)
    return errors, four.numpy()


def every_scale_errors(x: Prepared, encode: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The least squared error of any E4M3 block scale in blocks where `errors` [m, n] is above 0; elsewhere 0."""
    tile, token = blocks(x.x).double(), torch.from_numpy(encode).reshape(-1, 1, 1)
    best = torch.from_numpy(errors).clone()
    for scale in torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double():
        scales = torch.where(token != 0, scale / token, 0.0).expand(*tile.shape[:2], 1)
        best = torch.minimum(best, torch.from_numpy(_squared_errors(tile, scales)[1]))
    return best.numpy()


def _squared_errors(tile: Tensor, scale: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors [m, n] with real block scales [m, n, 1]: elements above 6 keep their value, or become 6."""
    magnitudes = torch.tensor(E2M1_MAGNITUDES, dtype=torch.float64)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2  # a tie is as far from either side
    y = torch.where(scale != 0, tile.abs() / scale, 0.0)
    sq = (magnitudes[torch.bucketize(y, middles)] * scale - tile.abs()).square()
    return torch.where(y <= E2M1_MAX, sq, 0.0).sum(-1).numpy(), sq.sum(-1).numpy()
