"""What the kernels are told of recipes: which share their scales, what a launch is compiled for, and its constants."""

from __future__ import annotations

import ctypes
import functools
import operator
from collections.abc import Sequence
from importlib import resources

import torch

from ...nvfp4 import E2M1_MAX, Recipe, caller_scale
from ...stats import BINS, LEVELS, MANTISSA_SHIFT, RUNS, SHORTEST, SPARE_BITS

TYPES = 9  # of recipes, by the choice that they make; see block.cu
MOST = 6  # recipes of a launch: its registers and shared memory grow with them
LOG_THREADS = 7  # of a CTA that works on blocks; small, since a row's threads wait for each other
QUANTIZE_CTAS, ANALYZE_CTAS = 8, 4  # that a multiprocessor shall hold at once
LOG_CHUNK = 10  # tokens that a CTA of `finish` has at a time
HISTOGRAMS = (256, 256, BINS, BINS)  # scale byte and choice, pairs of codes, block NMSE, token NMSE
COUNTERS = (
    "n_four_saturated", "n_four_saturated_chosen", "n_scale_saturated", "n_element_clipped", "n_element_flushed",
)  # fmt: skip
SUMS = ("err_abs", "x_hat_sq", "x_dot_x_hat")
RECIPE_COUNTS, RECIPE_SUMS = sum(HISTOGRAMS) + len(COUNTERS), len(SUMS)  # numbers of a recipe, as in analyze.cu
OWN_COUNTS = 3  # integers of a segment
COLUMN = (LEVELS + 1) * RUNS + 2  # numbers by token, of a recipe
_PARTS = {  # of the source that a kernel is in, in this order
    "quantize": ("numbers", "block", "quantize"),
    "weigh": ("numbers", "block", "weigh"),
    "analyze": ("numbers", "block", "measure", "tally", "analyze", "finish"),  # `finish`, too
}
_INPUTS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


class Scaling(ctypes.Structure):
    """Of recipes that share their FP32 scales; the kernels' `Scaling`."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("caller_scale", "full_range")),
        *((name, ctypes.c_void_p) for name in ("encode", "decode")),
    ]


class Scoring(ctypes.Structure):
    """Of one recipe; the kernels' `Scoring`."""

    _fields_ = [(name, ctypes.c_float) for name in ("range", "factor")]


class Quantize(ctypes.Structure):
    """The kernels' `Quantize`; its comments in quantize.cu say what each field is."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("stride", "tokens")),
        *((name, ctypes.c_int) for name in ("blocks", "log_lanes")),
        *((name, ctypes.c_void_p) for name in ("not_finite", "codes", "scales")),
        ("scaling", Scaling),
        ("scoring", Scoring),
    ]


class Weigh(ctypes.Structure):
    """The kernels' `Weigh`, see weigh.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weights", "sums")),
        *((name, ctypes.c_longlong) for name in ("stride", "tokens")),
        *((name, ctypes.c_int) for name in ("blocks", "log_lanes")),
        ("scaling", Scaling),
        ("scoring", Scoring),
    ]


@functools.cache
def _analyze_type(groups: int, recipes: int) -> type[ctypes.Structure]:
    """The kernels' `Analyze`, see analyze.cu."""
    pointers = ("offsets", "counts", "sums", "err_sq", "x_sq", "indices", "next")
    fields = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("stride", "tokens")),
        *((name, ctypes.c_int) for name in ("blocks", "log_lanes", "parts")),
        *((name, ctypes.c_void_p) for name in pointers),
        ("next_stride", ctypes.c_longlong),
        ("scaling", Scaling * groups),
        ("scoring", Scoring * recipes),
        ("recipes", ctypes.c_byte * TYPES * groups),
        ("first", ctypes.c_byte * (groups + 1)),
    ]
    return type("Analyze", (ctypes.Structure,), {"_fields_": fields})


class Finish(ctypes.Structure):
    """The kernels' `Finish`, see finish.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("counts", "sums", "err_sq", "x_sq", "offsets", "state", "partial")),
        *((name, ctypes.c_void_p) for name in ("indices", "tickets")),
        *((name, ctypes.c_longlong) for name in ("tokens", "first", "at", "length")),
        *((name, ctypes.c_int) for name in ("segments", "sum_parts", "parts")),
    ]


class Plan:
    """Up to MOST recipes of a launch: groups that share their scales, families whose scales are computed alike."""

    def __init__(self, recipes: Sequence[Recipe]):
        groups: dict[tuple, dict[int, int]] = {}  # (what scales depend on, which of its groups) -> place by type
        for i, recipe in enumerate(recipes):
            key, kind = _scales_key(i, recipe), _type(recipe)
            which = sum(key == other and kind in found for (other, _), found in groups.items())
            groups.setdefault((key, which), {})[kind] = i
        ordered = sorted(groups.values(), key=lambda group: _family(recipes[next(iter(group.values()))]))
        self.order = [group[kind] for group in ordered for kind in sorted(group)]  # neighbours; type 0 first
        self.recipes = tuple(recipes[i] for i in self.order)
        self.groups = [{kind: self.order.index(i) for kind, i in group.items()} for group in ordered]
        self.group_of = {i: g for g, group in enumerate(self.groups) for i in group.values()}
        n = len(self.recipes)
        self.columns, self.values = n * RECIPE_COUNTS + OWN_COUNTS, n * RECIPE_SUMS + n + 1
        self.state = self.columns + self.values + (n + 1) * COLUMN + 2
        threads, of_group = 1 << LOG_THREADS, 12 << LOG_THREADS
        of_recipe = threads * (8 * (1 + RECIPE_SUMS) + 8 + 4) + 8 + 4 * (RECIPE_COUNTS + 1)
        of_warps = 8 * threads // 32 * self.values
        shared = n * of_recipe + 8 * threads + len(self.groups) * of_group + of_warps + 4 * OWN_COUNTS
        self.shared_bytes = -(-shared // 16) * 16  # of analyze.cu's Shared
        self.analyze_type = _analyze_type(len(self.groups), n)

    def leader(self, group: dict[int, int]) -> Recipe:
        """One of a group's recipes."""
        return self.recipes[next(iter(group.values()))]

    def constants(self, job) -> None:
        """Fill in what the recipes decide of an Analyze."""
        for scaling, row, group in zip(job.scaling, job.recipes, self.groups, strict=True):
            scaling.caller_scale, scaling.full_range = scale_constants(self.leader(group))
            row[:] = [group.get(kind, -1) for kind in range(TYPES)]
        job.first[:] = [min(group.values()) for group in self.groups] + [len(self.recipes)]
        for scoring, recipe in zip(job.scoring, self.recipes, strict=True):
            scoring.range, scoring.factor = score_constants(recipe)

    @functools.cache  # noqa: B019 - plans are kept anyway
    def source(self, dtype: torch.dtype, kernel: str) -> str:
        """CUDA C++ of a kernel for these recipes and kind of x; recipes that differ in ceilings alone share it."""
        low, high = self._families()
        kinds = {
            "N": len(self.recipes), "G": len(self.groups), "FAMILIES_LOW": f"{low}ull", "FAMILIES_HIGH": f"{high}ull",
            "FAMILY_COUNT": len({_family(r) for r in self.recipes}), "FIRST_TYPE": _type(self.recipes[0]),
            "ANY_PER_TOKEN": int(any(r.per_token for r in self.recipes)), "INPUT": _INPUTS[dtype],
            "SHARED_BYTES": self.shared_bytes, "ANALYZE_BYTES": ctypes.sizeof(self.analyze_type),
            "FINISH_BYTES": ctypes.sizeof(Finish), "QUANTIZE_BYTES": ctypes.sizeof(Quantize),
            "WEIGH_BYTES": ctypes.sizeof(Weigh),
        }  # fmt: skip
        return _CONSTANTS + _defines(**kinds) + "".join(map(_text, _PARTS[kernel]))

    def _families(self) -> tuple[int, int]:
        """`Family`'s bits of block.cu, two families in each number: flags, first and last group, types that occur."""
        families, bits = [_family(self.leader(group)) for group in self.groups], 0
        for i, (per_token, fast) in enumerate(sorted(set(families))):
            begin, end = families.index((per_token, fast)), len(families) - families[::-1].index((per_token, fast))
            types = functools.reduce(operator.or_, (1 << kind for group in self.groups[begin:end] for kind in group))
            bits |= (per_token | fast << 1 | begin << 2 | end << 6 | types << 10) << 32 * i
        return bits & (1 << 64) - 1, bits >> 64


@functools.lru_cache(maxsize=256)
def plans(recipes: tuple[Recipe, ...]) -> tuple[tuple[Plan, tuple[int, ...]], ...]:
    """Plans that run all recipes, and which ones each runs; those that share their scales together."""
    order = sorted(range(len(recipes)), key=lambda i: (_family(recipes[i]), -recipes[i].e4m3_max))
    found = []
    for start in range(0, len(order), MOST):
        part = order[start : start + MOST]
        plan = Plan([recipes[i] for i in part])
        found.append((plan, tuple(part[i] for i in plan.order)))
    return tuple(found)


def _family(recipe: Recipe) -> tuple[bool, bool]:
    return recipe.per_token, recipe.fast_math


def _scales_key(i: int, recipe: Recipe) -> tuple:
    """What FP32 scales depend on; a tensor's scale is given for each recipe."""
    return (_family(recipe), recipe.e4m3_max if recipe.per_token else i)


def _type(recipe: Recipe) -> int:
    """0 without 4over6; else 1 and flags: MSE, scaled scores, scores that assume another ceiling than the scale's."""
    if not recipe.four_over_six:
        return 0
    own_unit = recipe.per_token and not recipe.err_use_fast_math and recipe.scored_as is not None
    return 1 + ((recipe.err_mode == "MSE") | recipe.err_use_fast_math << 1 | own_unit << 2)


@functools.cache
def scale_constants(recipe: Recipe) -> tuple[float, float]:
    """caller_scale and full_range of `Scaling`."""
    s = caller_scale(recipe)
    return s.item(), torch.div(torch.ones_like(s), s).item()


@functools.cache
def score_constants(recipe: Recipe) -> tuple[float, float]:
    """range and factor of `Scoring`."""
    score_range = E2M1_MAX * recipe.score_e4m3_max
    return score_range, 1 / score_range


def _defines(**values) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in values.items())


@functools.cache
def _text(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.cu").read_text(encoding="utf-8")


_CONSTANTS = _defines(
    LOG_THREADS=LOG_THREADS, QUANTIZE_CTAS=QUANTIZE_CTAS, ANALYZE_CTAS=ANALYZE_CTAS, LOG_CHUNK=LOG_CHUNK,
    BINS=BINS, MANTISSA_SHIFT=MANTISSA_SHIFT, FIRST_BIN=(1023 - 24) << (52 - MANTISSA_SHIFT),  # of 2^-24, see nmse_bins
    ROWS=LEVELS + 1, RUNS=RUNS, SHORTEST=SHORTEST, SPARE_BITS=SPARE_BITS,
)  # fmt: skip
