"""What is wrong with a checkpoint's scales, and what an engine would do with them; each finding with its fix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ..nvfp4 import E2M1_MAX, E4M3_MAX
from .config import Config
from .layout import Layout, Matrix, fused
from .scan import Scan

SEVERITIES = ("error", "warning", "note")
FULL = E2M1_MAX * E4M3_MAX  # amax over the scale of a tensor whose largest block scale is 448
WEIGHT_AMAX = (1e-7, 1e3)  # what a trained weight's amax can be
INPUT_AMAX = (1e-5, 65504.0)  # an activation's: up to fp16's largest
FAR, NEAR = 100.0, 30.0  # from the median of its kind: a scale that is wrong, and its inverse that is right
COSTLY_DB = 1.0  # loss from which unequal scales are an error


@dataclass(frozen=True)
class Finding:
    """Something in a checkpoint that whoever serves it should know."""

    severity: str  # "error": wrong results or none; "warning": worse ones than need be; "note"
    code: str  # what it is, in a word or three, the same for every tensor
    tensor: str  # tensor, module or file
    value: str  # as seen; empty where something is missing
    message: str  # what is wrong
    engine: str  # what an engine does with it
    fix: str  # what to do about it

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What the checks look at, by module."""

    layout: Layout
    config: Config
    scans: dict[str, Scan]
    stored: dict[str, dict[str, float | None]]  # "weight" and "input" -> module -> scale as stored
    multipliers: dict[str, dict[str, float | None]]  # the same, as decoding multiplies

    def amax(self, what: str, name: str) -> float:
        """The amax that a scale stands for: of the weight by its largest block scale, of the input by calibration."""
        largest = self.scans[name].largest or E4M3_MAX if what == "weight" else E4M3_MAX
        return E2M1_MAX * largest * self.multipliers[what][name]


def check_scales(seen: Evidence) -> list[Finding]:
    """Findings about the scales of matrices and inputs, one a scale at most, and about those of fused matrices."""
    found: list[Finding] = []
    for what in ("weight", "input"):
        values = {n: v for n, v in seen.stored[what].items() if v is not None}
        wanted = what == "weight" or (seen.config.static_inputs is not False and (values or seen.config.static_inputs))
        inverted = _inverted(seen, what, values)
        bad: set[str] = set()
        for name, m in seen.layout.matrices.items():
            finding = _one(seen, what, m, inverted) if wanted else None
            if finding:
                bad.add(name)
                found.append(finding)
        found += _constant(seen, what, {n: v for n, v in values.items() if n not in bad})
        found += _unequal(seen, what, bad)
    return found


def _title(m: Matrix, what: str) -> str:
    scalar = m.weight if what == "weight" else m.input
    return f"{m.name}: {what} scale" if scalar is None else (
        scalar.name if scalar.entry.numel == 1 else f"{scalar.name}[{scalar.index}]"
    )  # fmt: skip


def _one(seen: Evidence, what: str, m: Matrix, inverted: set[str]) -> Finding | None:
    """The finding about one scale by itself, the gravest first."""
    stored, expert = seen.stored[what][m.name], m.expert is not None and what == "input"
    title, again = _title(m, what), "calibrate again" if what == "input" else "export the weight again"
    if stored is None:
        code, message = f"{what}-scale-missing", f"there is no scale of its {what}"
        engine = "SGLang and vLLM keep the memory that they allocated for it: another value every start, or NaN"
    elif not math.isfinite(stored):
        code, message = "scale-not-finite", f"the scale is {stored}"
        engine = "every output of the layer is NaN or 0"
    elif stored == 0:
        code, message = "scale-zero", "the scale is 0"
        engine = f"the {what} decodes to 0, or its inverse is infinite and the outputs NaN"
    elif stored < 0:
        code, message = "scale-negative", "the scale is negative: a magnitude was expected"
        engine = "the outputs change sign, or saturate: encode scales are taken as positive"
    elif stored == 1:
        code, message = "scale-one", "the scale is exactly 1, what tools write where they saw no data"
        engine = f"the {what} is taken to reach {seen.amax(what, m.name):,.4g}"
    elif m.name in inverted:
        return _backwards(seen, what, m, title, stored)
    elif not _plausible(what, seen.amax(what, m.name)):
        code, message = "scale-implausible", f"it stands for a largest {what} of {seen.amax(what, m.name):.3g}"
        engine = "memory that was never written looks like this; the layer decodes to rubbish"
    else:
        return None
    if expert and code != "scale-negative":
        code = "expert-not-calibrated"
        again = "calibrate with every expert fed (llm-compressor: moe_calibrate_all_experts), or with more text"
        message = f"calibration never reached this expert: {message}"
    return Finding("error", code, title, "" if stored is None else f"{stored:.6g}", message, engine, again)


def _plausible(what: str, amax: float) -> bool:
    low, high = WEIGHT_AMAX if what == "weight" else INPUT_AMAX
    return low <= amax <= high


def _backwards(seen: Evidence, what: str, m: Matrix, title: str, stored: float) -> Finding:
    scalar = m.weight if what == "weight" else m.input
    word, other = ("divisor", "multiplier") if scalar.divides else ("multiplier", "divisor")
    amax, right = seen.amax(what, m.name), seen.amax(what, m.name) / seen.multipliers[what][m.name] ** 2
    return Finding(
        "error", "scale-inverted", title, f"{stored:.6g}",
        f"by its name it is a {word}, by its size a {other}: the largest {what} would be {amax:.3g}, "
        f"inverted {right:.3g}",
        f"the {what} decodes {amax / right:.3g} times too large",
        f"store {1 / stored:.6g}, or name it as the other convention does",
    )  # fmt: skip


def _inverted(seen: Evidence, what: str, values: dict[str, float]) -> set[str]:
    """Modules whose scale is plausible only the other way round, by itself or beside its kind in other layers."""
    high = (WEIGHT_AMAX if what == "weight" else INPUT_AMAX)[1]
    ordinary = {n for n, v in values.items() if math.isfinite(v) and v > 0 and v != 1}
    amax = {n: seen.amax(what, n) for n in ordinary}
    other = {n: amax[n] / seen.multipliers[what][n] ** 2 for n in ordinary}
    found = {n for n in ordinary if amax[n] > high and _plausible(what, other[n])}
    if len(found) * 2 > len(ordinary):  # a whole checkpoint: the rest was large enough to look right
        return found | {n for n in ordinary if seen.multipliers[what][n] > 1}
    kinds = defaultdict(list)
    for n in ordinary:
        kinds[seen.layout.matrices[n].kind].append(n)
    for names in kinds.values():
        median = sorted(amax[n] for n in names)[len(names) // 2]
        for n in names if len(names) > 2 else ():
            far, near = abs(math.log(amax[n] / median)), abs(math.log(other[n] / median))
            if far > math.log(FAR) and near < math.log(NEAR):
                found.add(n)
    return found


def _constant(seen: Evidence, what: str, values: dict[str, float]) -> Iterator[Finding]:
    """Kinds of matrices whose scale is the same in three layers or more, and in all."""
    kinds = defaultdict(lambda: (set(), set()))
    for name, v in values.items():
        m = seen.layout.matrices[name]
        kinds[m.kind][0].add(v)
        kinds[m.kind][1].add(m.layer)
    for kind, (distinct, layers) in kinds.items():
        if len(distinct) == 1 and len(layers - {None}) >= 3:
            yield Finding(
                "warning", "scale-constant", f"{kind}: {what} scale", f"{distinct.pop():.6g}",
                f"the same in all {len(layers)} layers: a default, not measured",
                "layers with larger values clip, layers with smaller ones lose their low end",
                "calibrate, or quantize per token, where the scale in the checkpoint plays no part",
            )  # fmt: skip


def _unequal(seen: Evidence, what: str, bad: set[str]) -> Iterator[Finding]:
    """Fused matrices whose scales differ, with what the one that an engine takes does to the others."""
    for group in fused(seen.layout.matrices):
        group = [m for m in group if seen.multipliers[what].get(m.name) is not None]
        if len(group) < 2 or any(m.name in bad for m in group):
            continue
        values = [seen.multipliers[what][m.name] for m in group]
        ratio = max(values) / min(values)
        if ratio <= 1 + 1e-5:
            continue
        leaves, parent = " and ".join(m.leaf for m in group), group[0].parent
        if what == "input":
            yield Finding(
                "warning", "fused-inputs-differ", f"{parent}: {leaves}", f"{ratio:.4g} times",
                "they share one input, and its scales differ",
                f"SGLang and vLLM take the largest: the others leave {math.log2(ratio):.2g} octaves of E4M3 unused",
                "give all of them the largest",
            )  # fmt: skip
            continue
        moe = group[0].expert is not None
        taken = values[0] if moe else max(values)
        before, after = _noise_of(seen, group, values, taken)
        cost = 10 * math.log10(after / before) if before > 0 else math.inf
        yield Finding(
            "error" if cost >= COSTLY_DB else "warning", "fused-scales-differ", f"{parent}: {leaves}",
            f"{ratio:.4g} times",
            f"engines run them as one product with one scale; as stored about {_db(before)}, "
            f"with one scale {_db(after)}",
            f"SGLang and vLLM take {'the first' if moe else 'the largest'} for all and leave block scales as they are: "
            f"{cost:.3g} dB lost",
            f"quantize {leaves} with one scale, made from their common amax",
        )  # fmt: skip


def _db(nmse: float) -> str:
    return f"{-10 * math.log10(nmse):.1f} dB" if nmse > 0 else "no error"


def _noise_of(seen: Evidence, group: list[Matrix], values: list[float], taken: float) -> tuple[float, float]:
    """NMSE of the group as stored, expected from its codes, and where all decode with one scale."""
    signal = before = after = 0.0
    for m, own in zip(group, values, strict=True):
        scan, r = seen.scans[m.name], taken / own
        weight = m.features * len(m.rows) / max(1, int(scan.largest_code.sum()))  # the sample stands for the matrix
        s, n = scan.signal * own * own * weight, scan.noise * own * own * weight
        signal, before, after = signal + s, before + n, after + n * r * r + s * (r - 1) ** 2
    return (before / signal, after / signal) if signal else (0.0, 0.0)
