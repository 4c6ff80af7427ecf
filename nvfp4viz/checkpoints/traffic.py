"""A checkpoint's static input scales beside real activations: what clips, what room is left, what per token would gain.

An input scale of s takes amax up to 2688 s: E4M3's 448 times E2M1's 6. Headroom is that over the largest activation
seen: below 1 the largest values clip; each doubling above it takes one of the octaves that block scales have below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..engine import analyze_all
from ..nvfp4 import Recipe, as_tokens, check_finite, tensor_amax
from ..shown import printable
from ..stats import Stats
from .audit import Checkpoint
from .findings import COSTLY_DB, FULL, SEVERITIES, Finding

STATIC, PER_TOKEN = Recipe(per_token=False), Recipe()
COARSE = tuple(2.0 ** (i / 2) for i in range(-10, 5))  # headrooms tried for the best static scale
FINE = tuple(2.0 ** (i / 16) for i in range(-7, 8) if i)  # and round the best of them
TIGHT = 1 - 2.0**-6  # headroom below this clips; compressed-tensors rounds scales to bf16 before it stores them
MESSAGE = 600  # characters of names and reasons in an error
_PARTS = {  # a fused input answers to the names of its parts
    "gate_up_proj": ("gate_proj", "up_proj", "w1", "w3"), "w13": ("w1", "w3", "gate_proj", "up_proj"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"), "fc1": ("gate_proj", "up_proj", "w1", "w3"),
    "fc2": ("down_proj", "w2"), "down_proj": ("w2",), "gate_proj": ("w1",), "up_proj": ("w3",),
}  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """One input of the traffic under the checkpoint's scale."""

    tensor: str  # as the activations name it
    modules: tuple[str, ...]  # matrices that it feeds
    input_scale: float  # as decoding multiplies; the largest of the modules', as engines take it
    amax: float  # the largest activation
    static: Stats | None  # under the checkpoint's scale; None where only a sweep of other recipes is known
    per_token: Stats | None  # one scale a token
    best: Stats | None  # under the best static scale
    best_scale: float | None

    @property
    def headroom(self) -> float:
        """How many times the largest activation fits before it clips; below 1 it does."""
        return self.input_scale * FULL / self.amax if self.amax else math.inf

    @property
    def loss_db(self) -> float | None:
        """What the typical token loses to the checkpoint's scale against one scale a token, in dB."""
        if self.static is None or self.per_token is None:
            return None
        loss = self.per_token.token_sqnr_db - self.static.token_sqnr_db
        return 0.0 if math.isnan(loss) else loss  # both without error

    def to_dict(self) -> dict:
        """One row: rates between 0 and 1, SQNR of a typical token in dB."""
        row = {
            "tensor": self.tensor, "modules": list(self.modules), "input_scale": self.input_scale, "amax": self.amax,
            "headroom": self.headroom,
        }  # fmt: skip
        if self.static is not None:
            row |= {n: getattr(self.static, n) for n in ("scale_saturated", "element_clipped", "scale_subnormal",
                                                         "scale_zero", "tokens")}  # fmt: skip
        for name, s in (("static", self.static), ("best_static", self.best), ("per_token", self.per_token)):
            row[f"{name}_sqnr_db"] = None if s is None else s.token_sqnr_db
        return row | {"best_scale": self.best_scale, "loss_db": self.loss_db}


@dataclass(frozen=True)
class Traffic:
    """Activations under a checkpoint's input scales."""

    rows: list[Fit]
    unmatched: dict[str, str]  # tensor -> why it was not compared
    sources: list[dict] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """Scales that clip or waste range on this traffic, errors first."""
        found = [f for row in self.rows for f in _judge(row)]
        return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), f.code))

    def table(self):
        """A pandas DataFrame with a row an input: headroom, saturation, clipping, SQNR of a typical token in dB."""
        import pandas as pd

        return pd.DataFrame([row.to_dict() | {"modules": ", ".join(row.modules)} for row in self.rows])

    def to_dict(self) -> dict:
        rows = [{k: str(v) if v in (math.inf, -math.inf) else v for k, v in r.to_dict().items()} for r in self.rows]
        return {"rows": rows, "unmatched": self.unmatched, "findings": [f.to_dict() for f in self.findings]}

    def __repr__(self) -> str:
        clipped = sum(r.headroom < TIGHT for r in self.rows)
        return (
            f"Traffic({len(self.rows)} inputs, {clipped} clip; .table() has headroom and SQNR, .findings what is wrong)"
        )


def fit(
    checkpoint: Checkpoint,
    activations: Mapping[str, Tensor],
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Traffic:
    """Quantize activations with the scales that a checkpoint has for them.

    Args:
        activations: tensor name -> [..., K], as `load`, `record` or `capture` name them by module; or a Sweep, whose
                     largest values tell headroom alone.
    Returns: Traffic; tensors that no matrix of the checkpoint takes are in `.unmatched`.
    Raises ValueError where none does.
    """
    stats = getattr(activations, "stats", None)
    names = list(activations if stats is None else stats)
    index, rows, unmatched = _index(checkpoint), [], {}
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names), name)
        inputs = _inputs(checkpoint, index, name)
        if isinstance(inputs, str):
            unmatched[name] = inputs
            continue
        try:
            one = _of(activations[name]) if stats is None else _of_sweep(stats[name])
            rows += [one(name, modules, scale) for modules, scale in inputs]
        except (TypeError, ValueError) as error:
            unmatched[name] = str(error)
    if not rows:
        some = "; ".join(f"{n}: {why}" for n, why in list(unmatched.items())[:3])
        why = printable(some[:MESSAGE]) or "there is none"
        raise ValueError(f"no activation goes with a scale of {str(checkpoint.path)!r}: {why}")
    return Traffic(rows, unmatched, list(getattr(activations, "sources", [])))


def _index(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Modules by their name and its endings from a layer's number on: wrappers call layers differently."""
    found: dict[str, list[str]] = {}
    for name in checkpoint.matrices:
        m = re.search(r"(?:layers|blocks|block|h)\.\d+\..*", name)
        for key in {name, m[0] if m else name}:
            found.setdefault(key, []).append(name)
    return found


def _inputs(checkpoint: Checkpoint, index: dict, tensor: str) -> list[tuple[tuple[str, ...], float]] | str:
    """Modules that take a tensor, with the scale that engines use for them; or why there is none."""
    name = re.sub(r"( \[rank \d+\]|[._](inputs?(\.\d+)?|input_tensor))$", "", tensor)
    m = re.search(r"(?:layers|blocks|block|h)\.\d+\..*", name)
    modules = index.get(name) or (index.get(m[0]) if m else None) or _parts(index, m[0] if m else name)
    if not modules:
        return "the checkpoint has no quantized matrix of that name"
    usable = {n: checkpoint.scales[n]["input"] for n in modules}
    usable = {n: s for n, s in usable.items() if s is not None and math.isfinite(s) and s > 0}
    if not usable:
        return "the checkpoint has no usable scale for that input"
    groups: dict[int | None, list[str]] = {}
    for n in usable:
        groups.setdefault(checkpoint.matrices[n].expert, []).append(n)
    return [(tuple(g), max(usable[n] for n in g)) for g in groups.values()]


def _parts(index: dict, name: str) -> list[str]:
    """Modules of a fused input, `experts.7.gate_up_proj`, or of a whole stack of experts, `experts.gate_up_proj`."""
    parent, _, leaf = name.rpartition(".")
    leaves = (*_PARTS.get(leaf, ()), leaf)
    found = [n for part in leaves for n in index.get(f"{parent}.{part}", ())]
    if found or not parent.endswith("experts"):
        return found
    pattern = re.compile(re.escape(parent) + r"(\.\d+)?\.(" + "|".join(map(re.escape, leaves)) + r")(\[\d+\])?$")
    return [n for key, names in index.items() if pattern.search(key) for n in names if n.endswith(key)]


def _of(x: Tensor) -> Callable[[str, tuple[str, ...], float], Fit]:
    """What makes a row of a tensor: name, modules, scale -> Fit. Experts of a stack share all but their scales."""
    x = as_tokens(x)
    check_finite(x)
    amax = float(tensor_amax(x))
    [per_token] = analyze_all(x, [PER_TOKEN])
    searched = _best(x, amax) if amax else None
    by_scale: dict[float, Stats] = {}

    def row(tensor: str, modules: tuple[str, ...], scale: float) -> Fit:
        if scale not in by_scale:
            [by_scale[scale]] = analyze_all(x, [STATIC], encode_scales=[1 / scale])
        static = by_scale[scale]
        best, best_scale = searched or (static, scale)
        if static.token_nmse <= best.token_nmse:
            best, best_scale = static, scale
        return Fit(tensor, modules, scale, amax, static, per_token, best, best_scale)

    return row


def _best(x: Tensor, amax: float) -> tuple[Stats, float]:
    """The least error of a typical token that one scale for all reaches, searched by headroom."""
    found: dict[float, Stats] = {}
    for tried in (COARSE, FINE):
        centre = min(found, key=lambda s: found[s].token_nmse) if found else amax / FULL
        scales = [centre * h for h in tried if centre * h > 2.0**-120]
        stats = analyze_all(x, [STATIC] * len(scales), encode_scales=[1 / s for s in scales]) if scales else []
        found |= dict(zip(scales, stats, strict=True))
    best = min(found, key=lambda s: found[s].token_nmse)
    return found[best], best


def _of_sweep(stats: dict[str, Stats]) -> Callable[[str, tuple[str, ...], float], Fit]:
    some = next(iter(stats.values()))
    per_token = next((s for s in stats.values() if s.recipe == PER_TOKEN), None)
    return lambda tensor, modules, scale: Fit(tensor, modules, scale, some.x_amax, None, per_token, None, None)


def _judge(row: Fit):
    """Findings about one input."""
    value = f"headroom {row.headroom:.3g}"
    gain = None if row.best is None else row.best.token_sqnr_db - row.static.token_sqnr_db
    costly = gain is not None and gain >= COSTLY_DB
    better = "" if row.best_scale is None else f" (an input scale of {row.best_scale:.4g} gains {gain:.3g} dB)"
    fix = f"calibrate on this traffic{better}, or quantize per token"
    if row.headroom < TIGHT:
        clipped = "" if row.static is None else f"; {row.static.scale_saturated:.2%} of blocks saturate"
        yield Finding(
            "error" if costly else "warning", "input-clips", row.tensor, value,
            f"activations reach {row.amax:.4g}, the scale takes {row.input_scale * FULL:.4g}{clipped}",
            "the largest values of the input are cut, silently", fix,
        )  # fmt: skip
    elif costly:
        yield Finding(
            "warning", "input-scale-loose", row.tensor, value,
            f"the scale takes {row.headroom:.3g} times what this traffic has: "
            f"{row.static.scale_subnormal:.2%} of block scales are subnormal, {row.static.scale_zero:.2%} zero",
            "small blocks lose precision", fix,
        )  # fmt: skip
