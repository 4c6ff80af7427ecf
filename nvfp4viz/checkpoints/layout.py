"""Which tensors of a checkpoint are one NVFP4 matrix, and whether its scales multiply or divide.

A packed tensor `STEM` + `weight` (ModelOpt, SGLang's `w13_weight`), `STEM` + `weight_packed` (compressed-tensors) or a
stack named without either (`experts.gate_up_proj`, whose stem ends in `_`) has its scales beside it:

    STEM + weight_scale                                E4M3 [.., N, K/16]
    STEM + weight_scale_2, STEM + input_scale          FP32, multiply when decoding           (ModelOpt)
    STEM + weight_global_scale, + input_global_scale   FP32, divide when decoding: inverses   (compressed-tensors)

A 3-D tensor is a stack of experts, [E, N, K/2], or [E, K/2, N] where a tool transposed it. `w13` with two scales an
expert is two matrices an expert, w1 and w3. Read off nvidia-modelopt 0.47.0, compressed-tensors 0.19.0 and sglang
0.5.13.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..activations import natural
from ..nvfp4 import BLOCK
from ..shown import layer_order
from .headers import Entry

ALONE = ("weight_scale", "weight_scale_2", "weight_global_scale", "input_scale", "input_global_scale")
FUSED = (  # siblings that engines compute as one product, with one scale
    ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"), ("q_a_proj", "kv_a_proj_with_mqa"),
)  # fmt: skip


@dataclass(frozen=True)
class Scalar:
    """One number of a checkpoint: an element of a tensor of scales."""

    name: str
    entry: Entry
    index: int  # into its elements, in order
    divides: bool  # as stored: decoding divides by it


@dataclass(frozen=True)
class Matrix:
    """One quantized weight [N, K], as a layer's or as one expert's of a stack."""

    name: str  # the module's, with the expert's number where its stack has none
    tensor: str  # name of the packed tensor
    codes: Entry
    scales: Entry | None  # block scales; None where the file has none
    rows: range  # of this matrix among the rows of its stack
    features: int  # K
    weight: Scalar | None  # scale of the matrix
    input: Scalar | None  # static scale of its input
    transposed: bool = False  # stored as [E, K/2, N]
    pre_quant: Entry | None = field(default=None, repr=False)  # [K], multiplies the input before quantization (AWQ)

    @cached_property
    def layer(self) -> int | None:
        m = re.search(r"(?:^|\.)(?:layers|blocks|block|h)\.(\d{1,6})(?:\.|$)", self.name)
        return int(m[1]) if m else None

    @cached_property
    def expert(self) -> int | None:
        m = re.search(r"experts\.(\d{1,6})(?:\.|$)", self.name) or re.search(r"\[(\d{1,6})\]$", self.name)
        return int(m[1]) if m else None

    @cached_property
    def kind(self) -> str:
        """What it is in every layer: the name behind the layer's number, without the expert's."""
        behind = re.split(r"(?:^|\.)(?:layers|blocks|block|h)\.\d+\.", self.name, maxsplit=1)[-1]
        return re.sub(r"\[\d+\]$", "", re.sub(r"experts\.\d+\.", "experts.*.", behind))

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass
class Layout:
    """A checkpoint's tensors, sorted into what they are."""

    matrices: dict[str, Matrix]
    plain: dict[str, Entry]  # all that is not quantized to NVFP4, and not one of its scales
    orphans: list[str]  # scales that belong to no packed weight
    misfits: dict[str, str]  # packed tensor -> why its shape is none of NVFP4


def stem_of(name: str) -> str:
    """What the names of a packed tensor's scales begin with."""
    for suffix in ("weight_packed", "weight"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name + "_"


def arrange(entries: dict[str, Entry]) -> Layout:
    """Tensors sorted into matrices, scales and the rest, matrices in the order of layers and experts."""
    found = Layout({}, {}, [], {})
    used: set[str] = set()
    for name in sorted((n for n in entries if _is_packed(n, entries)), key=natural):
        used |= {name, *(n for n in _beside(name) if n in entries)}
        matrices, why = _matrices(name, entries)
        found.matrices |= {m.name: m for m in matrices}
        if why:
            found.misfits[name] = why
    for name, entry in entries.items():
        if name not in used and _is_scale(name, entries):
            found.orphans.append(name)
        elif name not in used:
            found.plain[name] = entry
    return replace(found, matrices={name: found.matrices[name] for name in layer_order(found.matrices)})


def _beside(name: str) -> list[str]:
    stem = stem_of(name)
    short = [stem + "scale", stem + "scale_2"] if stem == name + "_" else []
    return [stem + s for s in (*ALONE, "pre_quant_scale", "input_quantizer._pre_quant_scale")] + short


def _is_packed(name: str, entries: dict[str, Entry]) -> bool:
    """Bytes with E4M3 scales beside them; MXFP4 has a scale of another type for 32 of them, bitsandbytes none."""
    entry = entries[name]
    if entry.dtype not in ("U8", "I8") or len(entry.shape) not in (2, 3) or name.endswith("scale"):
        return False
    stem = stem_of(name)
    scales = entries.get(stem + "weight_scale") or entries.get(stem + "scale")
    if scales is None:  # a packed weight whose block scales are lost still has the rest, or its name
        return name.endswith("weight_packed") or any(stem + s in entries for s in ALONE[1:])
    return scales.dtype == "F8_E4M3" or (scales.dtype == "U8" and _block(entry, scales) == BLOCK)


def _is_scale(name: str, entries: dict[str, Entry]) -> bool:
    """A scale that only NVFP4 has; FP8 layers have `weight_scale` and `input_scale` too, beside their weight."""
    if name.endswith(("weight_scale_2", "weight_global_scale", "input_global_scale")):
        return True
    if not name.endswith(("weight_scale", "input_scale")):
        return False
    return re.sub(r"(weight|input)_scale$", "weight", name) not in entries


def _block(codes: Entry, scales: Entry) -> int:
    """Elements that share a scale, by the shapes along the last axis; 0 where they share none evenly."""
    k, n = 2 * codes.shape[-1], scales.shape[-1] if scales.shape else 0
    return k // n if n and k % n == 0 else 0


def _matrices(name: str, entries: dict[str, Entry]) -> tuple[list[Matrix], str]:
    """The matrices of a packed tensor, and what is wrong with its shape; without scales where that cannot be."""
    codes, stem = entries[name], stem_of(name)
    scales = entries.get(stem + "weight_scale") or entries.get(stem + "scale")
    why, transposed = ("", False) if scales is None else _fit(codes, scales)
    experts = codes.shape[0] if len(codes.shape) == 3 else 1
    n, k = codes.shape[-2], 2 * codes.shape[-1]
    if transposed:
        n, k = codes.shape[-1], 2 * codes.shape[-2]
    if not why and (k % BLOCK or not k):
        why = f"K={k} is no multiple of {BLOCK}"
    weight, incoming = _scalar(stem, "weight", entries), _scalar(stem, "input", entries)
    halves = 2 if weight is not None and experts > 1 and weight[1].numel == 2 * experts else 1
    module, found = stem.rstrip("._"), []
    pre = entries.get(stem + "pre_quant_scale") or entries.get(stem + "input_quantizer._pre_quant_scale")
    for e in range(experts):
        for half in range(halves):
            title = _title(module, e if len(codes.shape) == 3 else None, half if halves == 2 else None)
            part = range(e * n + half * n // halves, e * n + (half + 1) * n // halves)
            scalars = [_pick(s, e, half, experts) for s in (weight, incoming)]
            found.append(Matrix(title, name, codes, None if why else scales, part, k, *scalars, transposed, pre))
    return found, why


def _title(module: str, expert: int | None, half: int | None) -> str:
    if expert is None:
        return module
    return f"{module.removesuffix('w13').rstrip('._')}.{expert}.w{1 + 2 * half}" if half is not None else (
        f"{module}[{expert}]"
    )  # fmt: skip


def _fit(codes: Entry, scales: Entry) -> tuple[str, bool]:
    """What is wrong with the shapes of codes and block scales, and whether both are transposed."""
    c, s = codes.shape, scales.shape
    if len(s) == len(c) and s[:-1] == c[:-1] and s[-1] * BLOCK == 2 * c[-1]:
        return "", False
    if len(c) == len(s) == 3 and s[0] == c[0] and s[2] == c[2] and s[1] * BLOCK == 2 * c[1]:
        return "", True
    wanted = (*c[:-1], 2 * c[-1] // BLOCK)
    padded = (*c[:-2], -(-c[-2] // 128) * 128, -(-wanted[-1] // 4) * 4)
    if s == padded:
        return f"block scales are {list(s)}: padded to tiles of 128 x 4, as in kernels, not {list(wanted)}", False
    return f"codes {list(c)} need block scales {list(wanted)}; they are {list(s)}", False


def _scalar(stem: str, what: str, entries: dict[str, Entry]) -> tuple[str, Entry, bool] | None:
    names = [(f"{stem}{what}_scale" + "_2" * (what == "weight"), False), (f"{stem}{what}_global_scale", True)]
    names += [(stem + "scale_2", False)] if what == "weight" else []
    return next(((n, entries[n], divides) for n, divides in names if n in entries), None)


def _pick(scalar, expert: int, half: int, experts: int) -> Scalar | None:
    """The one number of a matrix among those of its stack: one in all, one an expert, or two an expert."""
    if scalar is None:
        return None
    name, entry, divides = scalar
    each = entry.numel // experts if experts and entry.numel % experts == 0 else 0
    index = expert * each + (half if each > 1 else 0) if each else 0
    return Scalar(name, entry, index, divides) if entry.numel else None


def fused(matrices: dict[str, Matrix]) -> list[list[Matrix]]:
    """Groups of matrices that engines run as one, in order: q, k and v; gate and up; w1 and w3."""
    roles = {leaf: group for group in FUSED for leaf in group}
    together: dict[tuple, list[Matrix]] = {}
    for m in matrices.values():
        if m.leaf in roles:
            together.setdefault((m.parent, roles[m.leaf]), []).append(m)
    return [sorted(g, key=lambda m: roles[m.leaf].index(m.leaf)) for g in together.values() if len(g) > 1]
