"""Which layers to keep in higher precision: a frontier of measured sets, from none to all, with its price."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import nn

from ..analysis import marked
from ..files import replacing
from ..model import NothingQuantizedError
from ..nvfp4 import RECIPES, as_recipes, study_only
from ..shown import error_text, quantity
from .cost import recipe_cost
from .families import by_family
from .meter import AS_IS, FP8, Meter
from .outputs import kl_interval
from .predict import predicted
from .search import search

FORMAT = "nvfp4viz plan 1"
BITS = {AS_IS: 16.0, FP8: 8.0}
FP4_BITS = 4 + 8 / 16  # an element and its share of a block's E4M3 scale
PRICES = ("bits", "layers", "multiply-adds")


@dataclass(frozen=True)
class Point:
    """A set of kept units, and what the model does with it."""

    kept: tuple[str, ...]  # names of units
    kl: float  # nats a token, measured
    kl_low: float  # 95 % over the text; NaN where it is too short
    kl_high: float  # the other end
    additive_kl: float  # what it would be if the drops of units kept alone added up
    bits: float  # a weight, over all matrices of the plan
    fp4_share: float  # of the model's multiply-adds
    other_kl: float = math.nan  # on other text, where some was given
    other_kl_low: float = math.nan  # 95 % over that
    other_kl_high: float = math.nan  # the other end


@dataclass(frozen=True)
class LayerPlan:
    """A frontier from nothing kept to all kept; `table()` has it, `export(engine)` writes what engines read."""

    recipe: str  # short name of the one planned with
    keep: str  # what kept layers run in: "bf16" (as they are) or "fp8"
    price: str  # of a kept unit: "bits", "multiply-adds" or "layers"
    quantize: str  # as for `impact`
    units: list[dict]  # name, family, layer, parameters, multiply_adds, matrices, predicted_kl, spared_kl
    frontier: list[Point]  # from nothing kept to all kept
    knee: int  # number of the point where keeping more begins to bring less
    recipes: list[dict]  # each for all units: recipe, kl with its ends, cost
    families: dict  # the best recipe by family, and what that gains: see `planning.families`
    unquantized: dict[str, str]  # matrices that are in no unit -> why; engines must keep them too
    provenance: dict = field(default_factory=dict)  # model, text, versions, passes

    @property
    def point(self) -> Point:
        """The knee."""
        return self.frontier[self.knee]

    @property
    def text(self) -> str:
        """On how much it was measured: "4,096 tokens", and which of them had no say."""
        copies = self.provenance.get("copies", 0)
        left = f" ({quantity(copies, 'copied sequence')} left out)" if copies else ""
        return quantity(self.provenance["tokens"], "token") + left

    def choose(self, *, kl: float | None = None, bits: float | None = None, layers: int | None = None) -> Point:
        """The cheapest point of at most that KL, or the best of at most so many bits a weight or kept units."""
        if sum(v is not None for v in (kl, bits, layers)) != 1:
            raise ValueError("choose(kl=...), choose(bits=...) or choose(layers=...): give one of the three")
        fits = [p for p in self.frontier if (kl is None or p.kl <= kl) and (bits is None or p.bits <= bits)
                and (layers is None or len(p.kept) <= layers)]  # fmt: skip
        if not fits:
            least = min(self.frontier, key=lambda p: p.kl if kl is not None else p.bits)
            raise ValueError(
                f"no set of the plan fits kl={kl}, bits={bits}, layers={layers}: the nearest has a KL of "
                f"{least.kl:.3g} at {least.bits:.2f} bits a weight"
            )
        return min(fits, key=lambda p: (p.bits, p.kl)) if kl is not None else min(fits, key=lambda p: (p.kl, p.bits))

    def table(self):
        """A pandas DataFrame, a row a point of the frontier."""
        import pandas as pd

        rows = []
        before: set[str] = set()
        for p in self.frontier:
            added = [u for u in p.kept if u not in before]
            before = set(p.kept)
            row = {"kept": len(p.kept), "added": ", ".join(added), **asdict(p)} | {"kept": len(p.kept)}
            rows.append(row | {"additive_error": p.additive_kl - p.kl})
        return pd.DataFrame(rows)

    def export(self, engine: str, point: Point | None = None) -> dict:
        """What an engine reads to keep these layers; see `nvfp4viz.planning.EXPORTS` for the names."""
        from .exports import export

        return export(self, engine, point or self.point)

    def sentence(self) -> str:
        """The knee in words."""
        p, none = self.point, self.frontier[0]
        interval = "" if math.isnan(p.kl_low) else f" ({p.kl_low:.2g} to {p.kl_high:.2g})"
        return (
            f"{marked(self.recipe)}, {len(p.kept)} of {len(self.units)} units kept in {self.keep}: KL {p.kl:.3g} nats "
            f"a token{interval} instead of {none.kl:.3g}, {p.bits:.2f} bits a weight instead of {none.bits:.2f}, "
            f"{p.fp4_share:.0%} of the multiply-adds in FP4"
        )

    def __repr__(self) -> str:
        return f"LayerPlan({self.sentence()}; {len(self.frontier)} sets measured, .table() has them)"

    def save(self, path: str | os.PathLike) -> Path:
        """As JSON, whole or not at all."""
        with replacing(path) as temporary:
            text = json.dumps(_plain({"format": FORMAT, **asdict(self)}), indent=1, allow_nan=False)
            temporary.write_text(text, encoding="utf-8")
        return Path(path).expanduser()

    @classmethod
    def load(cls, path: str | os.PathLike) -> LayerPlan:
        """A saved plan; ValueError where the file is none."""
        try:
            found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("another format")
            points = [Point(**{**_numbers(p), "kept": tuple(p["kept"])}) for p in found.pop("frontier")]
            for name in ("units", "recipes"):
                found[name] = [_numbers(row) for row in found[name]]
            return cls(frontier=points, **found | {"families": _numbers(found["families"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} holds no plan: {error_text(error)}") from error


def plan(
    model: nn.Module, batches: Iterable, recipes=RECIPES, *, keep: str = AS_IS, price: str = "bits", other=None,
    quantize: str = "all-linear", modules=None, budget: int = 200, resume=None, engine: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> LayerPlan:  # fmt: skip
    """Choose which layers to keep in higher precision, and measure what each choice does to the output.

    Args:
        model, batches: as for `impact`.
        recipes:  each is measured on all layers, and the best that an engine runs is planned with.
        keep:     "bf16", which is the model as it is, or "fp8": E4M3, a scale a token and an output channel.
        price:    of a kept layer: its "bits", its "multiply-adds", or 1 for all "layers".
        other:    further batches, on which the frontier is measured again: sets chosen on a text look better there.
        quantize: as for `impact`; by default as servers do, inputs and weights of all linear layers.
        modules:  as for `record`.
        budget:   forward passes over the text.
        resume:   a file of measurements, written after each pass; where it is there, what it has is not measured again.
        progress: called with passes done, passes at most, and what runs, with the time left.
    Returns: LayerPlan: sets from nothing kept to all kept, each with its measured KL.
    Raises ValueError for a model in training mode or no causal one, and a budget too small to choose anything;
    NothingQuantizedError where no layer could be quantized.
    """
    if keep not in (AS_IS, FP8) or price not in PRICES:
        raise ValueError(f"keep={keep!r} is one of 'bf16', 'fp8', and price={price!r} one of {', '.join(PRICES)}")
    named = as_recipes(recipes)
    if budget < len(named) + 8:
        raise ValueError(f"budget={budget} forward passes: {len(named)} recipes and a choice need {len(named) + 8}")
    options = {"quantize": quantize, "modules": modules, "engine": engine}
    resume = resume and Path(resume).expanduser()
    meter = Meter(model, batches, named, **options, resume=resume, budget=budget, progress=progress)
    guess = predicted(meter, list(named))
    recipe, about = _best_recipe(meter)
    families = by_family(meter, guess, recipe)
    sets = search(lambda kept: meter.kl(meter.variant(recipe, kept, keep)), guess[recipe], _prices(meter, price),
                  lambda: meter.left)  # fmt: skip
    drops = _drops(meter, recipe, keep)
    frontier = _frontier(meter, recipe, keep, sets, guess[recipe], drops)
    if other is not None:
        again = Meter(model, other, named, **options, resume=_beside(resume))
        frontier = [_on_other(p, again.measure(again.variant(recipe, kept, keep)))
                    for p, kept in zip(frontier, sets, strict=True)]  # fmt: skip
    units = _units(meter, guess[recipe], drops)
    return LayerPlan(recipe, keep, price, quantize, units, frontier, knee(frontier), about, families,
                     _unquantized(meter), meter.provenance)  # fmt: skip


def _best_recipe(meter: Meter) -> tuple[str, list[dict]]:
    """The recipe of the least KL where all is quantized, of those that an engine runs; and the KL and cost of each."""
    rows = {name: meter.measure(meter.variant(name)) for name in meter.recipes}
    about = [
        dict(zip(("recipe", "kl", "kl_low", "kl_high"), (name, *kl_interval(found)), strict=True))
        | {"cost": recipe_cost(meter.recipes[name]).to_dict()}
        for name, found in rows.items()
    ]
    best = min(about, key=lambda row: (bool(study_only(meter.recipes[row["recipe"]])), row["kl"]))
    if best["kl"] == 0:
        why = "; ".join(f"{n}: {text}" for n, text in list(meter.skipped.items())[:3])
        raise NothingQuantizedError(f"nothing ran quantized under {best['recipe']}: {why}")
    return best["recipe"], about


def _units(meter: Meter, guess: list[float], drops: dict[int, float]) -> list[dict]:
    return [
        {"name": u.name, "family": u.family, "layer": u.layer, "parameters": u.parameters, "multiply_adds": adds,
         "matrices": list(u.matrices), "predicted_kl": p, "spared_kl": drops.get(i, math.nan)}
        for i, (u, adds, p) in enumerate(zip(meter.units, meter.multiply_adds, guess, strict=True))
    ]  # fmt: skip


def _beside(path: Path | None) -> Path | None:
    return path and path.with_name(f"{path.stem}.other{path.suffix}")


def _prices(meter: Meter, price: str) -> list[float]:
    if price == "layers":
        return [1.0] * len(meter.units)
    return [max(1.0, u.parameters if price == "bits" else adds)
            for u, adds in zip(meter.units, meter.multiply_adds, strict=True)]  # fmt: skip


def _point(meter: Meter, recipe: str, keep: str, kept: frozenset[int]) -> Point:
    kl, low, high = kl_interval(meter.measure(meter.variant(recipe, kept, keep)))
    sizes = [u.parameters for u in meter.units]
    bits = sum(n * (BITS[keep] if i in kept else FP4_BITS) for i, n in enumerate(sizes)) / sum(sizes)
    fp4 = sum(adds for i, adds in enumerate(meter.multiply_adds) if i not in kept)
    share = fp4 / (meter.coverage["multiply_adds"] or 1)
    return Point(tuple(meter.units[i].name for i in sorted(kept)), kl, low, high, math.nan, bits, share)


def _drops(meter: Meter, recipe: str, keep: str) -> dict[int, float]:
    """What keeping a unit alone takes off the KL, of those that the search has measured."""
    alone = {i: meter.variant(recipe, [i], keep) for i in range(len(meter.units))}
    every = meter.kl(meter.variant(recipe))
    return {i: every - meter.kl(v) for i, v in alone.items() if meter.knows(v)}


def _frontier(meter: Meter, recipe: str, keep: str, sets, guess: list[float], drops: dict[int, float]) -> list[Point]:
    """A point a set; with what the KL would be if drops added up, of units never kept alone as predicted."""
    points = [_point(meter, recipe, keep, kept) for kept in sets]
    known = sum(guess[i] for i in drops)
    scale = sum(drops.values()) / known if known else 0.0
    return [
        replace(p, additive_kl=points[0].kl - sum(drops.get(i, scale * guess[i]) for i in kept))
        for p, kept in zip(points, sets, strict=True)
    ]


def _on_other(p: Point, rows) -> Point:
    return replace(p, **dict(zip(("other_kl", "other_kl_low", "other_kl_high"), kl_interval(rows), strict=True)))


def _plain(value):
    """Without NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _numbers(row: dict) -> dict:
    return {k: math.nan if v is None else v for k, v in row.items()}


def knee(frontier: list[Point]) -> int:
    """The point farthest below the line from the first to the last, KL against bits a weight.

    >>> points = [Point((), kl, 0, 0, 0, bits, 1) for kl, bits in ((1, 4.5), (0.3, 5), (0.25, 8), (0, 16))]
    >>> knee(points)
    1
    """
    first, last = frontier[0], frontier[-1]
    kl, bits = first.kl - last.kl or 1.0, last.bits - first.bits or 1.0
    below = [(first.kl - p.kl) / kl - (p.bits - first.bits) / bits for p in frontier]
    return max(range(len(frontier)), key=lambda i: (below[i], -i))


def _unquantized(meter: Meter) -> dict[str, str]:
    """Linear matrices of the model that are in no unit: the head, routers, what was not chosen."""
    kinds = ("linear", "function", "stack")
    return {label: why for w, why in meter.scheme.choice.why.items() if w.kind in kinds for label in w.labels()}
