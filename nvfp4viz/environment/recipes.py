"""From an environment to the recipe that each consumer runs, and back from a recipe to an environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..nvfp4 import Recipe
from .rules import CONSUMERS, VARIABLES, sglang_release, version_tuple


def _parts(env: Mapping[str, str], consumer: str, version: str | None) -> dict:
    """Part of a recipe -> what a consumer reads; several variables of one part are alternatives."""
    parts: dict = {}
    for v in VARIABLES.values():
        rule, since = v.readers.get(consumer, (None, "0"))
        if rule is None or (version and version_tuple(version) < version_tuple(since)):
            continue
        value, text = rule(env.get(v.name))
        needed = not (v.part == "err_mode" and consumer != "transformer-engine") or parts.get(
            "four_over_six"
        )  # in order
        if value is None and needed:
            raise ValueError(f"{v.name}={env[v.name]!r}: {CONSUMERS[consumer]} {text}")
        parts[v.part] = parts.get(v.part) or value
    return parts


def recipe_from_environment(
    env: Mapping[str, str] | None = None, consumer: str = "flashinfer", version: str | None = None
) -> Recipe:
    """The recipe that activations get in an environment.

    Args:
        env:      variables; this process's where it is None.
        consumer: "flashinfer" (its Python), "flashinfer-cuda", "cute-dsl", "prims-ts", "sglang", "vllm" (per token),
                  "transformer-engine", "miles" (the weights that it hands over).
        version:  of FlashInfer, SGLang or Transformer Engine; the newest known where it is None.
    FlashInfer has no variable for per token or per tensor, its caller says so: per token here. SGLang and Prims-TS make
    the scale, a FlashInfer kernel reads the rest: where the two disagree on the ceiling, `scored_as` is the kernel's.
    Raises ValueError where the consumer would raise.
    """
    if consumer not in CONSUMERS:
        raise ValueError(f"consumer={consumer!r} is not one of {', '.join(map(repr, CONSUMERS))}")
    env = os.environ if env is None else env
    if consumer in ("sglang", "prims-ts", "vllm"):
        return _host_recipe(env, consumer, version)
    parts = _parts(env, consumer, version)
    on, ceiling = parts.get("four_over_six", False), parts.get("ceiling")
    if consumer == "miles":
        return Recipe(
            256 if on and ceiling else 448,
            four_over_six=bool(on),
            err_mode=parts["err_mode"] if on else "MAE",
            per_token=False,
        )
    if consumer == "transformer-engine":
        on, ceiling = on in ("activations", "all"), ceiling in ("activations", "all")
    return Recipe(
        256 if on and ceiling else 448,
        four_over_six=bool(on),
        err_mode=parts["err_mode"] if on else "MAE",
        err_use_fast_math=bool(on and parts["err_use_fast_math"]),
        per_token=bool(parts.get("per_token")) if consumer == "transformer-engine" else True,
        fast_math=bool(parts.get("fast_math") if consumer == "transformer-engine" else not parts.get("strict")),
    )


def _host_recipe(env: Mapping[str, str], consumer: str, version: str | None) -> Recipe:
    """The scale by the host's reading, the kernel by FlashInfer's."""
    parts, per_token, kernel, flashinfer = _parts(env, consumer, version), True, "flashinfer-cuda", version
    if consumer == "vllm":  # 1/(448*6) whatever is set, and FlashInfer's default backend
        flashinfer = None
    if consumer == "sglang":
        release = sglang_release(version)
        per_token, flashinfer = parts["per_token"], release.flashinfer
        kernel = "cute-dsl" if release.backend and per_token else "flashinfer-cuda"
    recipe = recipe_from_environment(env, kernel, flashinfer)
    ceiling = 256 if per_token and parts.get("four_over_six") and parts.get("ceiling") else 448
    scored_as = recipe.e4m3_max if recipe.four_over_six else None
    return replace(recipe, e4m3_max=ceiling, scored_as=scored_as, per_token=per_token)


def recipes_of(env: Mapping[str, str] | None = None) -> dict[str, Recipe | str]:
    """Consumer -> its recipe, or the error that it would raise."""
    found: dict[str, Recipe | str] = {}
    for consumer in CONSUMERS:
        try:
            found[consumer] = recipe_from_environment(env, consumer)
        except ValueError as error:
            found[consumer] = f"error: {error}"
    return found


def environment_of(recipe: Recipe, consumer: str = "flashinfer") -> dict[str, str]:
    """Variables that give a consumer this recipe, complete, so that none is left to inherit.

    Raises ValueError where no environment can: other ceilings, 256 without 4over6, sides that disagree.
    """
    if consumer not in CONSUMERS:
        raise ValueError(f"consumer={consumer!r} is not one of {', '.join(map(repr, CONSUMERS))}")
    if recipe.scored_as is not None or recipe.e4m3_max not in ((448, 256) if recipe.four_over_six else (448,)):
        raise ValueError(
            f"{recipe.name}: the variables know the ceiling 448, and 256 with 4over6, the same for scale and kernel"
        )
    bit = {True: "1", False: "0"}
    if consumer == "vllm" and recipe.e4m3_max != 448:
        raise ValueError(f"{recipe.name}: vLLM passes the scale of 448 whatever the environment says")
    if consumer in ("transformer-engine", "miles"):
        return {
            "NVTE_NVFP4_4OVER6": ("weights" if consumer == "miles" else "activations")
            if recipe.four_over_six
            else "none",
            "NVTE_NVFP4_4OVER6_E4M3_USE_256": "none" if recipe.e4m3_max == 448 else "all",
            "NVTE_NVFP4_4OVER6_ERR_MODE": recipe.err_mode,
            "NVTE_NVFP4_4OVER6_ERR_USE_FAST_MATH": bit[recipe.err_use_fast_math],
            "NVTE_USE_FAST_MATH": bit[recipe.fast_math],
            "NVTE_NVFP4_ROW_SCALED_ACTIVATION": bit[recipe.per_token],
            **({"NVTE_NVFP4_DISABLE_RHT": "1"} if recipe.four_over_six else {}),
        }
    per_token = {"SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION": bit[recipe.per_token]}
    return {
        "FLASHINFER_NVFP4_4OVER6": bit[recipe.four_over_six],
        "FLASHINFER_NVFP4_4OVER6_E4M3_USE_256": bit[recipe.e4m3_max == 256],
        "FLASHINFER_NVFP4_4OVER6_ERR_MODE": recipe.err_mode,
        "FLASHINFER_NVFP4_4OVER6_ERR_USE_FAST_MATH": bit[recipe.err_use_fast_math],
        "FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH": bit[not recipe.fast_math],
        "TRTLLM_DISABLE_FP4_QUANT_FAST_MATH": bit[not recipe.fast_math],
        **(per_token if consumer == "sglang" else {}),
    }


def flashinfer_config(recipe: Recipe, *, text: bool = False):
    """What to pass as `nvfp4_4over6=` since FlashInfer 0.7.1: its NVFP44Over6Config, None for standard; or as source.

    >>> flashinfer_config(Recipe(256, four_over_six=True, err_mode="MSE"), text=True)
    "NVFP44Over6Config(e4m3_max=256, err_mode='MSE', err_use_fast_math=False)"
    """
    environment_of(recipe)  # raises for what FlashInfer cannot do
    arguments = {
        "e4m3_max": int(recipe.e4m3_max),
        "err_mode": recipe.err_mode,
        "err_use_fast_math": recipe.err_use_fast_math,
    }
    if text:
        call = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        return f"NVFP44Over6Config({call})" if recipe.four_over_six else "None"
    if not recipe.four_over_six:
        return None
    from flashinfer import NVFP44Over6Config

    return NVFP44Over6Config(**arguments)


def sglang_call(env: Mapping[str, str] | None = None, version: str | None = None, device="cpu") -> dict | None:
    """What SGLang passes to FlashInfer's nvfp4_quantize beside the activations; None where it does not call it.

    Without per-token activation it calls fp4_quantize with the checkpoint's scale instead.
    Source: sglang fused_experts_none_to_flashinfer_trtllm_fp4.

    >>> sglang_call({"SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION": "1"}, "0.5.13")["a_global_sf"] * 448 * 6
    1.0
    """
    env, release = os.environ if env is None else env, sglang_release(version)
    parts = _parts(env, "sglang", version)
    if not parts["per_token"]:
        return None
    e4m3_max = 256.0 if parts["four_over_six"] and parts["ceiling"] else 448.0
    scale = 1.0 / (e4m3_max * 6.0)
    if release.scale == "tensor":
        scale = torch.full((1,), scale, dtype=torch.float32, device=device)
    call = {"a_global_sf": scale, "sfLayout": "layout_linear", "per_token_activation": True}
    return call | ({"backend": release.backend} if release.backend else {})
