"""Where the squared error comes from: a split into parts that add up to it, by counterfactual quantizers.

Each counterfactual is a whole quantizer, a step closer to the real one than the one before; a part is the difference of
their squared errors, so it says what that step costs in that order, and is negative where the step helps:

| quantizer | its step | part |
| --- | --- | --- |
| 0 | each block scale is amax/6 exactly; elements are rounded to E2M1 | element rounding |
| 1 | block scales have 4 significant bits and any size; an element above 6 keeps its value | scale rounding |
| 2 | elements above 6 become 6 | clipping |
| 3 | block scales above 448 become 448 | saturation |
| 4 | block scales below 2^-6 are rounded to multiples of 2^-9, so to 0 below 2^-10: E4M3 as it is | subnormal scales |
| 5 | FP32 arithmetic of the recipe, instead of exact numbers | arithmetic |
| 6 | the recipe's own choice between 6 and 4: what is measured | choice |

Under 4over6 quantizers 0 to 5 have both candidates, amax/6 and amax/4, and choose the one of less squared error in each
block; so `choice` is what such a perfect chooser would save, never negative, and 0 for `standard`. `saturation` holds
the 4 candidate that could not be had. Clipping is the overload error of textbooks: what lies above 6 is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine import find_engine, given_encode_scale, run_tasks
from ..nvfp4 import (
    BLOCK,
    E2M1_MAGNITUDES,
    E2M1_MAX,
    Recipe,
    Tokens,
    as_recipe,
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
from ..stats import Additive, hash32, rate, summed, summed_array

PARTS = ("element rounding", "scale rounding", "clipping", "saturation", "subnormal scales", "arithmetic", "choice")
SAMPLE = 32  # one block in so many is searched over every E4M3 scale
CHUNK = 1 << 22  # elements at a time: 40 MB of errors


@dataclass(frozen=True, eq=False)
class Attribution(Additive):
    """The squared error of one tensor under one recipe, split. Errors are in the unit of x, squared."""

    recipe: Recipe
    sample: int  # one block in so many was searched over every E4M3 scale; 1 is all, 0 none
    blocks: int = summed()  # non-zero ones
    x_sq: float = summed(0.0)
    quantizers: np.ndarray = summed_array(7, dtype=np.float64)  # squared error of each quantizer of the table above
    six_only: np.ndarray = summed_array(7, dtype=np.float64)  # the same if every block maps its amax to 6
    sampled_blocks: int = summed()
    sampled_two: float = summed(0.0)  # squared error of those blocks under quantizer 4
    sampled_every: float = summed(0.0)  # the same if each has the best of all E4M3 scales

    @property
    def total(self) -> float:
        """The squared error itself; equals `Stats.err_sq`."""
        return float(self.quantizers[-1])

    @property
    def parts(self) -> dict[str, float]:
        """Squared error by part; they add up to the total."""
        with np.errstate(invalid="ignore"):
            steps = np.diff(self.quantizers, prepend=0.0)
        return dict(zip(PARTS, np.nan_to_num(steps, nan=0.0, posinf=np.inf, neginf=-np.inf).tolist(), strict=True))

    def shares(self) -> dict[str, float]:
        """Parts as shares of the total; they add up to 1, or are all 0 where there is no error."""
        return {name: rate(part, self.total) for name, part in self.parts.items()}

    def nmse(self) -> dict[str, float]:
        """Parts over the squared signal; they add up to `Stats.nmse`."""
        return {name: rate(part, self.x_sq) for name, part in self.parts.items()}

    @property
    def four_over_six_gain(self) -> np.ndarray:
        """What each quantizer saves by having a 4 candidate, [7]; the last is what the recipe really saves."""
        return self.six_only - self.quantizers

    @property
    def every_scale_saving(self) -> float:
        """Share of quantizer 4's error that choosing among all E4M3 scales would save, over the sampled blocks."""
        return rate(self.sampled_two - self.sampled_every, self.sampled_two)

    @property
    def every_scale_label(self) -> str:
        """Whether that share is exact or an estimate, for titles."""
        return (
            "every block"
            if self.sample == 1
            else f"a seeded sample of {self.sampled_blocks:,} of {self.blocks:,} blocks"
        )


def attribute(x: Tensor, recipe: Recipe | str, *, encode_scale=None, sample: int = SAMPLE) -> Attribution:
    """Split the squared error of quantizing x into parts; see this module's text for their order.

    Args:
        x, recipe, encode_scale: as in `quantize`. Computed on the CPU, with the bits that every engine has.
        sample: one block in so many is searched over every E4M3 scale; 1 searches all and is exact, 0 none.
    Returns: Attribution; `.shares()` and `.nmse()` give the parts by name. Errors are those of `quantize`.
    """
    return attribute_all(x, [as_recipe(recipe)], encode_scales=[encode_scale], sample=sample)[0]


def attribute_all(
    x: Tensor, recipes, *, encode_scales=None, sample: int = SAMPLE, first_token: int = 0
) -> list[Attribution]:
    """Attributions of x under several recipes, sharing the counterfactuals that they have in common.

    `first_token` is x's place in a longer stream: it seeds the sample.
    """
    tokens = Tokens.of(x, first_token)
    _ = tokens.amax  # refuses what is not finite
    given, cpu = encode_scales or [None] * len(recipes), torch.device("cpu")
    encode_scales = [given_encode_scale(tokens, r, scale, cpu) for r, scale in zip(recipes, given, strict=True)]
    compute = implementation()
    plan = compute.plan(recipes, encode_scales)
    counts, totals = np.zeros(2, np.int64), np.zeros((len(recipes), 17))
    for part in tokens.chunks(CHUNK):
        chunk = part.x.cpu()
        sampled = _sampled(part.first, len(chunk), part.shape[1] // BLOCK, sample)

        def task(rows: slice, chunk=chunk, sampled=sampled):
            return compute.sums(chunk[rows], plan, sampled[rows])

        for more_counts, more_sums in run_tasks(task, chunk):
            counts += more_counts
            totals += more_sums
    return [
        Attribution(r, sample, int(counts[0]), s[14], s[:7].copy(), s[7:14].copy(), int(counts[1]), s[15], s[16])
        for r, s in zip(recipes, totals, strict=True)
    ]


def exact_encode(amax: np.ndarray, recipe: Recipe, given: Tensor | None) -> np.ndarray:
    """Each token's encode scale for the counterfactuals, float64 [m]: exact or the given one; 0 for a zero token."""
    amax = amax.astype(np.float64)
    if given is not None:
        return np.where(amax > 0, float(given), 0.0)
    return np.divide(E2M1_MAX * recipe.e4m3_max, amax, where=amax > 0, out=np.zeros_like(amax))


def _sampled(first_token: int, m: int, n: int, sample: int) -> np.ndarray:
    """One in `sample` of each token's blocks, from a start hashed from its index: bool [m, n], whatever the chunks."""
    if not sample:
        return np.zeros((m, n), bool)
    start = hash32(torch.arange(first_token, first_token + m) & 0xFFFFFFFF).numpy() % sample
    return start.astype(np.int32)[:, None] == np.arange(n, dtype=np.int32) % sample


# The rest computes errors of blocks [m, n] in plain torch: the specification, which `engines.cpu_errors` has compiled.


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


_PLAIN = SimpleNamespace(
    plan=plan,
    sums=sums,
    prepare=prepare,
    arithmetic=arithmetic,
    ideal_errors=ideal_errors,
    scaled_errors=scaled_errors,
    candidate_errors=candidate_errors,
    every_scale_errors=every_scale_errors,
)


def implementation():
    """What computes: compiled where numba is installed, else plain torch."""
    if find_engine("cpu").why_not():
        return _PLAIN
    from ..engine import block_errors

    return block_errors
