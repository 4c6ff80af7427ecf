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
block; so `choice` is what such a perfect chooser would save, never negative, and 0 for `standard`. `saturation` is what
the end of E4M3 adds, where a 4 that wants a scale above 448 was the better candidate; what that 4 lost by the rounding
of its scale is in `scale rounding`. Clipping is the overload error of textbooks: what lies above 6 is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine import find_engine, given_encode_scale, run_tasks
from ..nvfp4 import BLOCK, E2M1_MAX, Recipe, Tokens, as_recipe
from ..shown import percent
from ..stats import Additive, rate, summed, summed_array
from .draws import hash32

PARTS = ("element rounding", "scale rounding", "clipping", "saturation", "subnormal scales", "arithmetic", "choice")
SAMPLE = 32  # one block in so many is searched over every E4M3 scale
CHUNK = 1 << 22  # elements at a time: 40 MB of errors


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Additive):
    """The squared error of one tensor under one recipe, split. Errors are in the unit of x, squared."""

    recipe: Recipe  # by which the tensor was quantized
    sample: int  # one block in so many was searched over every E4M3 scale; 1 is all, 0 none
    blocks: int = summed()  # non-zero ones
    x_sq: float = summed(0.0)  # sum of x^2
    quantizers: np.ndarray = summed_array(7, dtype=np.float64)  # squared error of each quantizer, one step apart
    six_only: np.ndarray = summed_array(7, dtype=np.float64)  # the same if every block maps its amax to 6
    sampled_blocks: int = summed()  # blocks that were searched
    sampled_two: float = summed(0.0)  # their squared error under E4M3 as it is, in exact arithmetic
    sampled_every: float = summed(0.0)  # the same if each has the best of all E4M3 scales

    def _card(self):
        parts = sorted(self.shares().items(), key=lambda p: -abs(p[1]))
        left = {"best of all scales would save": percent(self.every_scale_saving)} if self.sampled_blocks else {}
        nmse = {"NMSE": rate(self.total, self.x_sq)}
        return f"{self.recipe.name}, {self.blocks:,} blocks", nmse | {n: percent(s) for n, s in parts} | left

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
    """Split the squared error of quantizing x into parts that add up to it, each the cost of one step.

    In order: elements rounded to E2M1 under a block scale that is exact; the scale rounded to 4 significant bits;
    elements above 6 clipped; scales above 448 saturated; scales below 2^-6 subnormal; FP32 arithmetic; and the recipe's
    own choice between 6 and 4 instead of a perfect one. A part is negative where its step lessens the error.

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
    tokens, recipes = Tokens.of(x, first_token), [as_recipe(r) for r in recipes]
    _ = tokens.amax  # refuses what is not finite
    given, cpu = encode_scales or [None] * len(recipes), torch.device("cpu")
    encode_scales = [given_encode_scale(tokens, r, scale, cpu) for r, scale in zip(recipes, given, strict=True)]
    compute = compiled()
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


def compiled():
    """The compiled errors of blocks; RuntimeError where numba is missing."""
    if why := find_engine("cpu").why_not():
        raise RuntimeError(f"splitting errors needs the cpu engine's compiled code: {why}")
    from ..engine import block_errors

    return block_errors
