"""The ceiling as a dial, and what a static scale costs: error, saturation and underflow as either is turned.

A block's scale is about e4m3_max * block amax / token amax. E4M3's normal numbers end at 2^-6, so a scale has 4
significant bits while token amax / block amax is at most 64 * e4m3_max: 28,672 under 448, 16,384 under 256. That is the
price of a lower ceiling; whether it costs anything *here*, the data's own histogram of these ratios says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..engine import analyze, analyze_all
from ..nvfp4 import E2M1_MAX, E4M3_MAX, E4M3_VALUES, Recipe, Tokens, as_recipe, as_recipes, blocks
from ..stats import Additive, rate, summed, summed_array
from .attribution import PARTS, attribute_all

CEILINGS = E4M3_VALUES[1:]  # in (0, 448]
OCTAVES, PER_OCTAVE = 24, 8  # of the ratio histograms, from 1; 8 an octave, so that every E4M3 window ends at an edge
FACTORS = tuple(2.0 ** (k / 4) for k in range(-16, 17))  # of the true amax: 1/16 to 16
FAMILIES = tuple(Recipe(four_over_six=four, per_token=token) for token in (True, False) for four in (False, True))
RATES = ("four_saturated", "scale_saturated", "underflowed")
MATTERS = 0.05  # a cause of so much of the error names the regime of a static scale


def window(e4m3_max: float) -> float:
    """The largest token amax / block amax at which a block's scale is an E4M3 normal number."""
    return e4m3_max / 2.0**-6


def ceilings():
    """Every E4M3 value as a ceiling, a pandas DataFrame, the largest first: why 256.

    `four_scale` is 1.5 times the ceiling, the scale that maps the token's amax to 4; `has_four` where E4M3 holds it
    exactly. 256 is the largest of these, and its window is `octaves_lost` = 0.81 narrower than that of 448.
    """
    import pandas as pd

    values = np.array(CEILINGS[::-1])
    return pd.DataFrame({
        "e4m3_max": values,
        "four_scale": 1.5 * values,
        "has_four": np.isin(1.5 * values, values),
        "window": window(values),
        "octaves_lost": np.log2(E4M3_MAX / values),
    })  # fmt: skip


def ratio_edges() -> np.ndarray:
    """Edges of the ratio histograms; the last bin also holds larger ratios. A ratio at an edge counts below it."""
    eighths = np.arange(OCTAVES * PER_OCTAVE + 1)
    return np.ldexp(1 + eighths % PER_OCTAVE / PER_OCTAVE, eighths // PER_OCTAVE)


@dataclass(frozen=True, eq=False, repr=False)
class CeilingDial(Additive):
    """What quantizing does under each ceiling: arrays [families, values] unless said; counts of non-zero blocks."""

    families: tuple[str, ...]  # names of the recipes at ceiling 448
    values: tuple[float, ...]  # the ceilings
    blocks: int = summed()  # non-zero ones
    x_sq: float = summed(0.0)  # sum of x^2
    err_sq: np.ndarray = summed_array(dtype=np.float64)  # sum of (x_hat - x)^2
    four_saturated: np.ndarray = summed_array()  # blocks whose 4 candidate exceeds 448
    scale_saturated: np.ndarray = summed_array()  # blocks whose chosen scale would
    underflowed: np.ndarray = summed_array()  # blocks whose scale is subnormal or 0
    token_ratios: np.ndarray = summed_array(OCTAVES * PER_OCTAVE)  # blocks by token amax / block amax, see ratio_edges
    tensor_ratios: np.ndarray = summed_array(OCTAVES * PER_OCTAVE)  # blocks by tensor amax / block amax

    def _card(self):
        best = {f"best ceiling of {family}": self.best(family) for family in self.families}
        return f"{len(self.values)} ceilings, {self.blocks:,} blocks", best

    @property
    def nmse(self) -> np.ndarray:
        return self.err_sq / self.x_sq if self.x_sq else np.zeros_like(self.err_sq)

    def best(self, family: str) -> float:
        """The ceiling of least error; the largest of equals."""
        if family not in self.families:
            raise ValueError(f"no family {family!r}: there is {', '.join(self.families)}")
        errors = self.err_sq[self.families.index(family)]
        return max(v for v, e in zip(self.values, errors, strict=True) if e == errors.min())

    def beyond(self, e4m3_max: float, *, per_token: bool = True) -> float:
        """Share of non-zero blocks whose ratio is above the window of an E4M3 ceiling: their scale is not normal."""
        counts = self.token_ratios if per_token else self.tensor_ratios
        return rate(counts[ratio_edges()[:-1] >= window(e4m3_max)].sum(), self.blocks)

    def table(self):
        """A pandas DataFrame with one row a family and ceiling."""
        import pandas as pd

        return pd.DataFrame([
            {"family": family, "e4m3_max": value, "nmse": self.nmse[i, j]}
            | {name: rate(getattr(self, name)[i, j], self.blocks) for name in RATES}
            for i, family in enumerate(self.families)
            for j, value in enumerate(self.values)
        ])  # fmt: skip


def ceiling_dial(x: Tensor, recipes=FAMILIES, *, values=CEILINGS, engine: str = "auto") -> CeilingDial:
    """Error, saturation and underflow of x under each ceiling.

    Args:
        x:       [..., K], as in `quantize`.
        recipes: families, whose ceiling is turned; standard and 4over6, per token and per tensor, if not given.
        values:  ceilings in (0, 448]; all 126 E4M3 values if not given.
    Raises ValueError or TypeError for other values, else as `quantize`.
    Returns: CeilingDial; `.table()` and `.best(family)` read it. Errors are those of `quantize`.
    """
    x, families = Tokens.of(x), [replace(r, e4m3_max=E4M3_MAX, scored_as=None) for r in as_recipes(recipes).values()]
    values = _numbers("values", values, "ceilings in (0, 448], such as (448, 256)")
    stats = analyze_all(x, [replace(f, e4m3_max=v) for f in families for v in values], engine=engine)
    token, tensor = amax_ratios(x)

    def grid(number) -> np.ndarray:
        return np.array([number(s) for s in stats]).reshape(len(families), len(values))

    return CeilingDial(
        tuple(f.name for f in families),
        values,
        stats[0].nonzero_blocks,
        stats[0].x_sq,
        grid(lambda s: s.err_sq),
        grid(lambda s: s.n_four_saturated),
        grid(lambda s: s.n_scale_saturated),
        grid(lambda s: s.n_scale_subnormal + s.n_scale_zero),
        token,
        tensor,
    )


def amax_ratios(x: Tensor, *, tensor_amax: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero blocks by token amax, and by tensor amax, over block amax; tensor_amax is given where x is a part."""
    tokens = Tokens.of(x)
    token, tensor = np.zeros((2, OCTAVES * PER_OCTAVE), np.int64)
    if tensor_amax is None:
        tensor_amax = tokens.tensor_amax.item()
    for part in tokens.chunks(1 << 22):
        block, top = blocks(part.x).abs().amax(-1).double(), part.amax.double()
        there = block > 0
        token += _ratio_counts((top / block)[there])
        tensor += _ratio_counts((tensor_amax / block)[there])
    return token, tensor


def _ratio_counts(ratio: Tensor) -> np.ndarray:
    """The histogram of ratios >= 1, float64: exponent and three bits of the mantissa of the number just below each."""
    place = ((ratio.view(torch.int64) - 1) >> 49) - (1023 << 3)
    return torch.bincount(place.clamp(0, OCTAVES * PER_OCTAVE - 1), minlength=OCTAVES * PER_OCTAVE).cpu().numpy()


@dataclass(frozen=True, eq=False, repr=False)
class StaticCurve(Additive):
    """The error of a per-tensor recipe by how far its calibrated amax is off; and of its per-token twin."""

    recipe: Recipe  # per tensor
    amax: float  # the true one
    factors: tuple[float, ...]  # calibrated amax / true amax
    blocks: int = summed()  # non-zero ones
    x_sq: float = summed(0.0)  # sum of x^2
    quantizers: np.ndarray = summed_array(dtype=np.float64)  # [factors, 7], as in Attribution
    per_token_err_sq: float = summed(0.0)  # squared error of its per-token twin

    def _card(self):
        best = self.factors[int(self.nmse.argmin())]
        numbers = {"least NMSE": float(self.nmse.min()), "at a factor of": best, "per token NMSE": self.per_token_nmse}
        return f"{self.recipe.name}, true amax {self.amax:.4g}", numbers

    @property
    def nmse(self) -> np.ndarray:
        """By factor."""
        return self.quantizers[:, -1] / self.x_sq if self.x_sq else np.zeros(len(self.factors))

    @property
    def per_token_nmse(self) -> float:
        return rate(self.per_token_err_sq, self.x_sq)

    def shares(self, part: str) -> np.ndarray:
        """A part of the error, as in `Attribution`, over the whole; by factor."""
        i, total = PARTS.index(part), self.quantizers[:, -1]
        steps = np.diff(self.quantizers, axis=1, prepend=0.0)[:, i]
        return np.divide(steps, total, where=total > 0, out=np.zeros_like(total))

    @property
    def regimes(self) -> list[str]:
        """By factor: "saturating" or "underflowing" where block scales above 448, or below 2^-6, make 5 % of the error
        or more (the larger, where both do), else "flat"."""
        return [
            "flat" if max(high, low) < MATTERS else "saturating" if high >= low else "underflowing"
            for high, low in zip(self.shares("saturation"), self.shares("subnormal scales"), strict=True)
        ]


def _numbers(name: str, values, wanted: str) -> tuple[float, ...]:
    """What was given for a dial, as positive floats; TypeError or ValueError where it is something else."""
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        raise TypeError(f"{name}={values!r}: give {wanted}") from None
    if not found or not min(found) > 0:
        raise ValueError(f"{name}={values!r}: give {wanted}")
    return found


def static_scale_curve(x: Tensor, recipe: Recipe | str = "4/6-mae-448", *, factors=FACTORS, amax=None) -> StaticCurve:
    """The error of x under static scales calibrated to factors of its true amax, beside per-token scaling.

    Args:
        x:       [..., K], as in `quantize`.
        recipe:  its granularity does not matter.
        factors: calibrated amax / true amax; 1/16 to 16 if not given.
        amax:    the true one, where x is a part of the tensor.
    Returns: StaticCurve; `.nmse`, `.regimes` by factor. Raises ValueError where x has only zeros, else as `quantize`.
    """
    x, recipe = Tokens.of(x), as_recipe(recipe)
    recipe = replace(recipe, per_token=False)
    factors = _numbers("factors", factors, "positive numbers, such as (0.5, 1, 2)")
    amax = float(x.tensor_amax if amax is None else amax)
    if not amax > 0:
        raise ValueError("amax is 0: a scale is calibrated to a largest magnitude, and x has only zeros")
    encode = [E2M1_MAX * recipe.e4m3_max / (amax * f) for f in factors]
    splits = attribute_all(x, [recipe] * len(factors), encode_scales=encode, sample=0)
    return StaticCurve(
        recipe,
        amax,
        factors,
        splits[0].blocks,
        splits[0].x_sq,
        np.stack([s.quantizers for s in splits]),
        analyze(x, replace(recipe, per_token=True)).err_sq,
    )
