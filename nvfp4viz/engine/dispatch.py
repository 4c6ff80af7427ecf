"""`quantize` and `analyze`: choose an engine, check the input once, and name the engine in the result."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..nvfp4 import FLT_MIN, Quantized, Recipe, Tokens, as_recipe, tensor_scales
from ..stats import Stats
from .base import Engine

_REGISTRY = {  # name -> module and instance, imported when asked for
    "flashinfer": ".flashinfer.engine:CUDA",
    "flashinfer:cute-dsl": ".flashinfer.engine:CUTE_DSL",
    "flashinfer:portable": ".flashinfer.portable:ENGINE",
    "cuda": ".cuda.engine:ENGINE",
    "cpu": ".cpu.engine:ENGINE",
    "reference": ".reference:ENGINE",
}
_AUTO = ("flashinfer", "cuda", "cpu", "reference")
CHUNK = 1 << 26  # elements analysed at a time; halved where a GPU runs out of memory


@functools.cache
def _imported(name: str) -> Engine:
    module, attribute = _REGISTRY[name].split(":")
    return getattr(importlib.import_module(module, __package__), attribute)


def find_engine(name: str) -> Engine:
    """The engine of a name; ValueError with the near misses where there is none."""
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name).lower(), _REGISTRY, n=2, cutoff=0.4)
        raise ValueError(
            f"unknown engine {name!r}"
            + (f", did you mean {' or '.join(map(repr, near))}?" if near else ":")
            + f' engines are "auto", {", ".join(map(repr, _REGISTRY))}'
        )
    return _imported(name)


def usable_engine(name: str) -> Engine:
    """The engine of a name; ValueError where there is none, RuntimeError where it cannot run here."""
    engine = find_engine(name)
    if why := engine.why_not():
        raise RuntimeError(f"engine {name!r} cannot run here: {why}")
    return engine


def engines() -> list[dict]:
    """One row an engine, in the order of preference: name, available, why not (None where it is available)."""
    reasons = {name: find_engine(name).why_not() for name in _REGISTRY}
    return [{"name": name, "available": why is None, "why_not": why} for name, why in reasons.items()]


def choose(name: str, x: Tensor, recipes: Sequence[Recipe]) -> Engine:
    """The engine that will run; for "auto" the first that is available and takes x under every recipe.

    Raises RuntimeError where a named engine cannot run here, ValueError where it cannot take this input.
    """
    if name == "auto":
        for candidate in map(find_engine, _AUTO):
            if candidate.why_not() is None and not any(candidate.refuses(x, r) for r in recipes):
                return candidate
    engine = usable_engine(name)
    for recipe in recipes:
        why = engine.refuses(x, recipe)
        if why:
            raise ValueError(f"engine {name!r} cannot run {recipe.name} on this input: {why}")
    return engine


def quantize(x: Tensor, recipe: Recipe | str, *, engine: str = "auto", encode_scale=None) -> Quantized:
    """Quantize activations to NVFP4.

    Args:
        x:            [..., K] bf16, fp16 or fp32, K a multiple of 16; leading axes are flattened to M tokens.
        recipe:       a Recipe or its short name, such as "4/6-mse-256".
        engine:       "auto", or one that `engines()` lists.
        encode_scale: per-tensor recipes only: e4m3_max * 6 / calibrated amax; from x's own amax where it is None.
    Returns: Quantized, on x's device.
    Raises TypeError or ValueError for input that cannot be quantized, RuntimeError for an engine that cannot run here.
    """
    recipe, tokens = as_recipe(recipe), Tokens.of(x)
    chosen, here = choose(engine, tokens.x, [recipe]), tokens.x.device
    device = chosen.device(tokens.x)
    q = chosen.quantize(tokens.to(device), recipe, given_encode_scale(tokens, recipe, encode_scale, device))
    if q.codes.device == here:
        return q
    moved = {f: getattr(q, f).to(here) for f in ("codes", "block_scales", "decode_scale")}
    return replace(q, **moved, encode_scale=None if q.encode_scale is None else q.encode_scale.to(here))


def analyze(x: Tensor, recipe: Recipe | str, *, engine: str = "auto", encode_scale=None) -> Stats:
    """Statistics of quantizing x; fused in one pass where the engine can, without keeping codes.

    Arguments and errors are those of `quantize`; memory beyond x is bounded whatever its size.
    """
    return analyze_all(x, [as_recipe(recipe)], engine=engine, encode_scales=[encode_scale])[0]


def analyze_all(
    x: Tensor | Tokens,
    recipes: Sequence[Recipe],
    *,
    engine: str = "auto",
    encode_scales=None,
    first_token: int = 0,
    sequences: tuple[int, int] | None = None,
) -> list[Stats]:
    """Statistics of x under several recipes, sharing what they can; first_token and sequences as in `Tokens`."""
    tokens = Tokens.of(x, first_token, sequences)
    chosen = choose(engine, tokens.x, recipes)
    device, given = chosen.device(tokens.x), encode_scales or [None] * len(recipes)
    scales = [given_encode_scale(tokens, r, s, device) for r, s in zip(recipes, given, strict=True)]
    m, totals, start, step = tokens.shape[0], None, 0, max(1, CHUNK // tokens.shape[1])
    while totals is None or start < m:
        try:
            stats = chosen.analyze(tokens.rows(start, min(start + step, m)).to(device), recipes, scales)
        except torch.cuda.OutOfMemoryError:
            if step == 1:
                raise
            step = math.ceil(min(step, m - start) / 2)
            warnings.warn(f"out of GPU memory: going on with {step} tokens at a time", RuntimeWarning, stacklevel=3)
            torch.cuda.empty_cache()
            continue
        totals = stats if totals is None else [a + b for a, b in zip(totals, stats, strict=True)]
        start += step
    return totals


def given_encode_scale(tokens: Tokens, recipe: Recipe, encode_scale, device: torch.device) -> Tensor | None:
    """float32 [1, 1] on the device for per-tensor recipes, from amax where none is given; None per token."""
    if recipe.per_token:
        if encode_scale is not None:
            raise ValueError(f"encode_scale is given, but {recipe.name} scales per token: use Recipe(per_token=False)")
        return None
    if encode_scale is None:
        return tensor_scales(tokens.tensor_amax, recipe)[0].to(device)
    try:
        scale = torch.as_tensor(encode_scale, dtype=torch.float32).detach()
    except (TypeError, ValueError, RuntimeError):
        scale = torch.empty(0)
    if scale.numel() != 1 or not scale.isfinite().all() or not (scale >= FLT_MIN).all():  # below, 1/scale overflows
        raise ValueError(
            f"encode_scale={encode_scale!r}: expected one positive finite FP32 number, e4m3_max * 6 / amax"
        )
    return scale.reshape(1, 1).to(device)
