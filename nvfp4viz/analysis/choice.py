"""What 4over6's choice gains block by block, where it gains it, and where two ways of choosing part.

E2M1 has no value between 4 and 6. A block whose amax maps to 6 rounds worst what lies near 5/6 of it; mapped to 4,
it has values at 3/4 and 1 of it instead of 2/3 and 1, but the smallest ones become 1.5 times as coarse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine import given_encode_scale
from ..nvfp4 import E2M1_MAX, Recipe, Tokens, as_recipe, blocks
from ..shown import change, percent
from ..stats import Additive, rate, summed, summed_array
from .attribution import compiled, exact_encode

SIDE = 42  # bins of a signed ratio on either side of 0: two an octave from 2^-20 to 2
PLACES = 16  # bins of a position
POSITIONS = {"mantissa": (1.0, 2.0), "near": (2 / 3, 1.0)}  # what a block is placed by, and its range
CHUNK = 1 << 20  # elements at a time


@dataclass(frozen=True, eq=False, repr=False)
class Choice(Additive):
    """What choosing between 6 and 4 did to a tensor's non-zero blocks. Errors are squared, in the unit of x squared.

    The gain of a block is err6 - err4, over its squared signal: positive where 4 is better.
    """

    recipe: Recipe  # the one that chose
    blocks: int = summed()  # non-zero ones
    n_four: int = summed()  # chose 4
    n_wrong_four: int = summed()  # chose 4 although 6 has less squared error
    n_wrong_six: int = summed()  # chose 6 although 4 has
    cost_wrong_four: float = summed(0.0)  # squared error that the other candidate would have saved there
    cost_wrong_six: float = summed(0.0)  # the same of those
    x_sq: float = summed(0.0)  # sum of x^2
    err_six: float = summed(0.0)  # if all blocks mapped their amax to 6
    err_four: float = summed(0.0)  # or to 4
    err_chosen: float = summed(0.0)  # as it is
    gain_histogram: np.ndarray = summed_array(2, 2 * SIDE + 1)  # blocks by choice (6, 4) and gain, see `gain_edges`
    by_mantissa: np.ndarray = summed_array(PLACES, 4, dtype=np.float64)  # by amax's place between two powers of two
    by_near: np.ndarray = summed_array(PLACES, 4, dtype=np.float64)  # by the value nearest to 5/6 of amax, over amax
    # columns of both: blocks, those that chose 4, squared error of always 6, and as it is

    def _card(self):
        return f"{self.recipe.name}, {self.blocks:,} blocks", {
            "took 4": percent(self.four_rate),
            "saves of always 6's squared error": percent(self.saving),
            "took the worse": percent(self.wrong_rate),
            "always 4 against always 6": change(rate(self.err_four - self.err_six, self.err_six)),
        }

    @property
    def four_rate(self) -> float:
        return rate(self.n_four, self.blocks)

    @property
    def wrong_rate(self) -> float:
        """Share of blocks where the candidate not chosen has less squared error."""
        return rate(self.n_wrong_four + self.n_wrong_six, self.blocks)

    @property
    def saving(self) -> float:
        """Share of the squared error of always 6 that the choice saves."""
        return rate(self.err_six - self.err_chosen, self.err_six)

    def positions(self, of: str):
        """A pandas DataFrame by position, `of` "mantissa" or "near": its bin, blocks, four_rate, saving.

        `mantissa` is the real-valued scale of amax/6 over the power of two at or below it, in [1, 2); `near` is |x| /
        amax of the value nearest to 5/6, in [2/3, 1], E2M1's gap between 4 and 6. Where no other value is as near, it
        is amax itself, at 1.
        """
        import pandas as pd

        low, high = POSITIONS[of]
        edges = np.linspace(low, high, PLACES + 1)
        count, four, six, chosen = getattr(self, f"by_{of}").T
        return pd.DataFrame({
            "low": edges[:-1],
            "high": edges[1:],
            "blocks": count.astype(int),
            "four_rate": _ratio(four, count),
            "saving": _ratio(six - chosen, six),
        })  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(Additive):
    """Where two recipes choose differently, and what that costs: squared error under b less that under a."""

    a: Recipe  # the first
    b: Recipe  # the second
    blocks: int = summed()  # non-zero ones
    n_to_four: int = summed()  # a takes 6, b takes 4
    n_to_six: int = summed()  # a takes 4, b takes 6
    cost_to_four: float = summed(0.0)  # change of squared error over those blocks, negative where b is better
    cost_to_six: float = summed(0.0)  # the same over those
    cost_elsewhere: float = summed(0.0)  # over blocks of the same choice: other scales or arithmetic
    err_a: float = summed(0.0)  # squared error under a
    err_b: float = summed(0.0)  # under b
    flip_histogram: np.ndarray = summed_array(2, 2 * SIDE + 1)  # by direction (to 4, to 6) and change over x^2

    def _card(self):
        return f"{self.a.name} and {self.b.name}, {self.blocks:,} blocks", {
            "choose alike": percent(self.agree_rate),
            "squared error of the second": change(rate(self.err_b - self.err_a, self.err_a)),
            "a flip costs, in mean block errors": self.cost_per_flip,
        }

    @property
    def flips(self) -> int:
        return self.n_to_four + self.n_to_six

    @property
    def agree_rate(self) -> float:
        """Share of non-zero blocks in which both choose alike; 1 over nothing."""
        return 1 - rate(self.flips, self.blocks)

    @property
    def cost_per_flip(self) -> float:
        """Mean change of squared error of a flip, over a's mean squared error of a block."""
        return rate(rate(self.cost_to_four + self.cost_to_six, self.flips), rate(self.err_a, self.blocks))


def choice(x: Tensor, recipe: Recipe | str, *, encode_scale=None) -> Choice:
    """What the choice of a 4over6 recipe does to x's blocks.

    Arguments and errors are those of `quantize`; computed on the CPU, with the bits that every engine has.
    Returns: Choice, whose errors are squared and in the unit of x, squared. Raises ValueError for a standard recipe.
    """
    recipe = _choosing(as_recipe(recipe))
    total = Choice(recipe)
    for tile, prepared, ((err, four, encode),) in _chunks(x, [(recipe, encode_scale)]):
        there = prepared.energy > 0
        (six, fours), energy, four = (e[there] for e in err), prepared.energy[there], four[there]
        chosen, other = np.where(four, fours, six), np.where(four, six, fours)
        wrong = other < chosen
        bmax = blocks(tile).double().abs()[torch.from_numpy(there)]  # [blocks, 16]
        top = bmax.amax(-1, keepdim=True)
        ratio = bmax / top
        near = ratio.gather(-1, (ratio - 5 / 6).abs().argmin(-1, keepdim=True)).squeeze(-1).numpy()
        h6 = top.squeeze(-1).numpy() * np.broadcast_to(encode[:, None], there.shape)[there] / E2M1_MAX
        columns = [np.ones(len(six)), four, six, chosen]
        total += Choice(
            recipe,
            blocks=len(six),
            n_four=int(four.sum()),
            n_wrong_four=int((wrong & four).sum()),
            n_wrong_six=int((wrong & ~four).sum()),
            cost_wrong_four=float((chosen - other)[wrong & four].sum()),
            cost_wrong_six=float((chosen - other)[wrong & ~four].sum()),
            x_sq=float(energy.sum()),
            err_six=float(six.sum()),
            err_four=float(fours.sum()),
            err_chosen=float(chosen.sum()),
            gain_histogram=_by_change((six - fours) / energy, four),
            by_mantissa=_by_place(2 * np.frexp(h6)[0], "mantissa", columns),
            by_near=_by_place(near, "near", columns),
        )
    return total


def agreement(x: Tensor, a: Recipe | str, b: Recipe | str, *, encode_scale=None) -> Agreement:
    """Where 4over6 recipes a and b choose differently, and what each flip costs.

    Say MAE and MSE, exact and fp16 scores, strict and fast. `encode_scale` is for those that are per tensor; the rest
    is as in `choice`.
    Returns: Agreement; costs are changes of the squared error, positive where b is worse.
    """
    pair = [_choosing(as_recipe(r)) for r in (a, b)]
    total = Agreement(*pair)
    given = [(r, None if r.per_token else encode_scale) for r in pair]
    for _, prepared, found in _chunks(x, given):
        there = prepared.energy > 0
        (err_a, four_a), (err_b, four_b) = (
            (np.where(four, err[1], err[0])[there], four[there]) for err, four, _ in found
        )
        change, flipped = err_b - err_a, four_a != four_b
        total += Agreement(
            *pair,
            blocks=int(there.sum()),
            n_to_four=int((flipped & four_b).sum()),
            n_to_six=int((flipped & four_a).sum()),
            cost_to_four=float(change[flipped & four_b].sum()),
            cost_to_six=float(change[flipped & four_a].sum()),
            cost_elsewhere=float(change[~flipped].sum()),
            err_a=float(err_a.sum()),
            err_b=float(err_b.sum()),
            flip_histogram=_by_change((change / prepared.energy[there])[flipped], four_a[flipped]),
        )
    return total


def gain_edges() -> np.ndarray:
    """Edges of the signed histograms, [2 * SIDE + 2]: two bins an octave up to +-2, and one for |v| < 2^-20.

    The outermost bins also hold what lies beyond.
    """
    halves = np.arange(SIDE + 1)
    positive = np.ldexp(1 + halves % 2 / 2, halves // 2 - 20)
    return np.concatenate([-positive[::-1], positive])


def _choosing(recipe: Recipe) -> Recipe:
    if not recipe.four_over_six:
        raise ValueError(f"{recipe.name} does not choose between 6 and 4: give a 4over6 recipe, such as 4/6-mae-448")
    return recipe


def _chunks(x: Tensor, recipes):
    """Chunks of x [m, K], prepared, and for each recipe the candidates' errors, where it takes 4 and encode scales."""
    tokens, compute, cpu = Tokens.of(x), compiled(), torch.device("cpu")
    _ = tokens.amax  # refuses what is not finite
    given = [(r, given_encode_scale(tokens, r, scale, cpu)) for r, scale in recipes]
    rules = [compute.arithmetic(r, scale) for r, scale in given]
    for part in tokens.chunks(CHUNK):
        tile = part.x.cpu()
        prepared = compute.prepare(tile)
        found = [
            (*compute.candidate_errors(prepared, rule), exact_encode(prepared.amax, r, scale))
            for rule, (r, scale) in zip(rules, given, strict=True)
        ]
        yield tile, prepared, found


def _by_change(value: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Counts [2, 2 * SIDE + 1] by row (bool) and by the bin of a signed value."""
    place = (np.abs(value).view(np.int64) >> 51) - ((1023 - 20) << 1)  # exponent and one bit of the mantissa
    place = np.where(place < 0, 0, np.minimum(place, SIDE - 1) + 1) * np.where(value < 0, -1, 1) + SIDE
    return np.bincount(row * (2 * SIDE + 1) + place, minlength=2 * (2 * SIDE + 1)).reshape(2, -1)


def _by_place(value: np.ndarray, of: str, columns) -> np.ndarray:
    """Sums [PLACES, columns] of columns by the bin of a position."""
    low, high = POSITIONS[of]
    place = np.clip((value - low) * (PLACES / (high - low)), 0, PLACES - 1).astype(np.int64)
    return np.stack([np.bincount(place, c, PLACES) for c in columns], 1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, where=b > 0, out=np.zeros_like(b, dtype=np.float64))
