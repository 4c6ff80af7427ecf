"""Engines: who computes. `quantize` and `analyze` choose one, check the input and name the engine in the result.

An engine is a module with
    why_not()                                     None, or why it cannot run on this machine
    refuses(x, recipe)                            None, or why it cannot run this input (x on any device)
    device()                                      where it wants x
    quantize(x, recipe, encode_scale)             -> Quantized; x [M, K] there, encode_scale float32 [1, 1] or None
    analyze(x, recipes, encode_scales, first_token, sequences) -> list of Stats, one a recipe, as encode_scales are
The last two raise ValueError where x is not finite (`formats.check_finite` words it); they may find out on the way.
"""

from __future__ import annotations

import difflib
import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..nvfp4 import FLT_MIN, Quantized, Recipe, as_recipe, as_tokens, tensor_amax, tensor_scales
from ..stats import Stats

# name -> module; "flashinfer:cute-dsl" is the module's engine("cute-dsl")
_MODULES = {
    "flashinfer": "flashinfer.engine",
    "flashinfer:cute-dsl": "flashinfer.engine:CUTE_DSL",
    "flashinfer:portable": "flashinfer.portable",
    "cuda": "cuda.engine",
    "cpu": "cpu.engine",
    "reference": "reference",
}
_AUTO = ("flashinfer", "cuda", "cpu", "reference")
CHUNK = 1 << 26  # elements analysed at a time; halved where a GPU runs out of memory


def engine_module(name: str):
    """The engine of a name; ValueError with the near misses where there is none."""
    if name not in _MODULES:
        near = difflib.get_close_matches(str(name), _MODULES, n=2, cutoff=0.4)
        raise ValueError(
            f"unknown engine {name!r}"
            + (f", did you mean {' or '.join(map(repr, near))}?" if near else ":")
            + f' engines are "auto", {", ".join(map(repr, _MODULES))}'
        )
    module, _, attribute = _MODULES[name].partition(":")
    loaded = importlib.import_module("." + module, __package__)
    return getattr(loaded, attribute) if attribute else loaded


def engines() -> list[dict]:
    """One row an engine, in the order of preference: name, available, why not (None where it is available)."""
    reasons = {name: engine_module(name).why_not() for name in _MODULES}
    return [{"name": name, "available": why is None, "why_not": why} for name, why in reasons.items()]


def choose(engine: str, x: Tensor, recipes: Sequence[Recipe]):
    """The engine module that will run; for "auto" the first that is available and takes x under every recipe.

    Raises RuntimeError where a named engine cannot run here, ValueError where it cannot take this input.
    """
    if engine == "auto":
        for name in _AUTO:
            module = engine_module(name)
            if module.why_not() is None and not any(module.refuses(x, r) for r in recipes):
                return module
    module = engine_module(engine)
    why = module.why_not()
    if why:
        raise RuntimeError(f"engine {engine!r} cannot run here: {why}")
    for recipe in recipes:
        why = module.refuses(x, recipe)
        if why:
            raise ValueError(f"engine {engine!r} cannot run {recipe.name} on this input: {why}")
    return module


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
    recipe, x2d = as_recipe(recipe), as_tokens(x)
    module = choose(engine, x2d, [recipe])
    q = module.quantize(x2d.to(module.device(x2d)), recipe, given_encode_scale(x2d, recipe, encode_scale, module))
    if q.codes.device == x2d.device:
        return q
    moved = {f: getattr(q, f).to(x2d.device) for f in ("codes", "block_scales", "decode_scale")}
    return replace(q, **moved, encode_scale=None if q.encode_scale is None else q.encode_scale.to(x2d.device))


def analyze(x: Tensor, recipe: Recipe | str, *, engine: str = "auto", encode_scale=None) -> Stats:
    """Statistics of quantizing x; fused in one pass where the engine can, without keeping codes.

    Arguments and errors are those of `quantize`; memory beyond x is bounded whatever its size.
    """
    return analyze_all(x, [as_recipe(recipe)], engine=engine, encode_scales=[encode_scale])[0]


def analyze_all(
    x: Tensor,
    recipes: Sequence[Recipe],
    *,
    engine: str = "auto",
    encode_scales=None,
    first_token: int = 0,
    sequences: tuple[int, int] | None = None,
) -> list[Stats]:
    """Statistics of x under several recipes, sharing what they can.

    `first_token` is x's place in a longer stream; sequences=(at, length): token t is of sequence (at + t) // length.
    """
    x = as_tokens(x)
    module = choose(engine, x, recipes)
    given = encode_scales or [None] * len(recipes)
    scales = [given_encode_scale(x, r, s, module) for r, s in zip(recipes, given, strict=True)]
    totals, start, step = None, 0, max(1, CHUNK // x.shape[1])
    while totals is None or start < x.shape[0]:
        try:
            chunk = x[start : start + step].to(module.device(x))
            at = sequences and (sequences[0] + start, sequences[1])
            stats = module.analyze(chunk, recipes, scales, first_token + start, at)
        except torch.cuda.OutOfMemoryError:
            if step == 1:
                raise
            step = math.ceil(min(step, x.shape[0] - start) / 2)
            warnings.warn(f"out of GPU memory: going on with {step} tokens at a time", RuntimeWarning, stacklevel=3)
            torch.cuda.empty_cache()
            continue
        totals = stats if totals is None else [a + b for a, b in zip(totals, stats, strict=True)]
        start += step
    return totals


def given_encode_scale(x: Tensor, recipe: Recipe, encode_scale, module) -> Tensor | None:
    """float32 [1, 1] on the engine's device for per-tensor recipes, None per token."""
    if recipe.per_token:
        if encode_scale is not None:
            raise ValueError(f"encode_scale is given, but {recipe.name} scales per token: use Recipe(per_token=False)")
        return None
    if encode_scale is None:
        return tensor_scales(tensor_amax(x), recipe)[0].to(module.device(x))
    try:
        scale = torch.as_tensor(encode_scale, dtype=torch.float32).detach()
    except (TypeError, ValueError, RuntimeError):
        scale = torch.empty(0)
    if scale.numel() != 1 or not scale.isfinite().all() or not (scale >= FLT_MIN).all():  # below, 1/scale overflows
        raise ValueError(
            f"encode_scale={encode_scale!r}: expected one positive finite FP32 number, e4m3_max * 6 / amax"
        )
    return scale.reshape(1, 1).to(module.device(x))
