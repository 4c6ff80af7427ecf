"""What a program's sites make of an environment: ceilings that differ, dead switches, workers that never see them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from .finding import FI, PER_TOKEN, TE, U256, Context, Finding, as_text, is_on
from .programs import SITES, W4A16, Site, sites
from .rules import VARIABLES, sglang_bool

_PREFIXES, _NAMES = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY", "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"


def of_sites(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    if context.program == "vllm":
        yield from _vllm(env, context)
    if context.program == "sglang":
        yield from _sglang(env, context)
    if (
        not context.program
        and is_on(FI, env, context)
        and is_on(U256, env, context)
        and PER_TOKEN not in env
        and TE not in env
    ):
        mixed = [s for s in sites(env, "vllm", {"quantization": "nvfp4_per_token"}) if s.mismatch]
        for site in mixed[:1]:
            readings = {
                "vLLM, the scale": _ceiling(site.recipe.e4m3_max),
                "FlashInfer's kernel, the score": _ceiling(site.recipe.scored_as),
            }
            message = (
                "if this starts vLLM: it makes the scale for 448 whatever is set; give its command line to be sure"
            )
            yield Finding("note", U256, env[U256], readings, message, costs=_costs(site))


def _ceiling(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _costs(site: Site) -> dict[str, str]:
    """Recipes to compare: what runs, what either ceiling would give on both sides, and no 4over6."""
    recipe = site.recipe
    return {
        recipe.name: "as it is",
        replace(recipe, scored_as=None).name: f"{_ceiling(recipe.e4m3_max)} on both sides",
        replace(recipe, e4m3_max=recipe.scored_as, scored_as=None).name: f"{_ceiling(recipe.scored_as)} on both sides",
        replace(recipe, four_over_six=False, e4m3_max=448.0, scored_as=None, err_mode="MAE").name: "no 4over6",
    }


def _vllm(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    found = sites(env, "vllm", context.arguments)
    mixed = [s for s in found if s.mismatch]
    if mixed:
        where = " and ".join(SITES[s.site] for s in mixed)
        first = mixed[0].recipe
        unsure = "; so with --quantization nvfp4_per_token, and for checkpoints that ask for it"
        scale, score = _ceiling(first.e4m3_max), _ceiling(first.scored_as)
        message = f"vLLM, {where}: the scale is made for {scale}, whatever is set, and FlashInfer's kernel scores "
        message += f"4 or 6 for {score}{'' if mixed[0].sure else unsure}"
        readings = {"vLLM, the scale": scale, "FlashInfer's kernel, the score": score}
        other = [s for s in found if s.site == "fc2" and s.recipe and not s.mismatch and s.recipe.per_token]
        if other:
            readings["FlashInfer, experts' inner input"] = (
                f"{_ceiling(other[0].recipe.e4m3_max)} on both sides: one layer runs two recipes"
            )
        changes = {U256: "0"}
        yield Finding(
            "error", U256, env.get(U256), readings, message, as_text(changes), changes=changes, costs=_costs(mixed[0])
        )
    small = next((s for s in found if s.site == "dense-small" and s.recipe), None)
    if small and small.recipe.four_over_six:
        message = "vLLM with --linear-backend flashinfer_trtllm: dense layers run 4over6 in batches of up to 32 "
        message += "tokens, standard in larger ones"
        readings = {"m <= 32, FlashInfer's quantizer": small.recipe.name, "m > 32, vLLM's own": "standard-tensor-fast"}
        yield Finding("error", FI, env.get(FI), readings, message, f"another --linear-backend, or {FI}=0")
    yield from _unread(env, context, found)
    yield from _ray(env, context)


def _unread(env: Mapping[str, str], context: Context, found: list[Site]) -> Iterator[Finding]:
    if is_on(PER_TOKEN, env, Context()):
        message = "vLLM does not read this: it quantizes per token with --quantization nvfp4_per_token"
        yield Finding(
            "warning",
            PER_TOKEN,
            env[PER_TOKEN],
            {"vLLM": "not read"},
            message,
            f"(remove {PER_TOKEN})",
            changes={PER_TOKEN: None},
        )
    reached = [s for s in found if s.recipe and s.recipe.four_over_six and s.site != "kv"]
    if is_on(FI, env, context) and not reached:
        quantization = context.arguments.get("quantization", "")
        message = f"with --quantization {quantization} no site of vLLM runs FlashInfer's quantizer: 4over6 does nothing"
        yield Finding(
            "warning", FI, env[FI], {"vLLM": "not read"}, message, "--quantization nvfp4_per_token, for the experts"
        )


def _ray(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    if context.arguments.get("executor", "").lower() != "ray":
        return
    prefixes = {p.strip() for p in env.get(_PREFIXES, "").split(",") if p.strip()}
    names = {n.strip() for n in env.get(_NAMES, "").split(",")}
    lost = [n for n in VARIABLES if n in env and n not in names and not any(n.startswith(p) for p in prefixes)]
    if lost:
        wanted = ",".join(sorted({re.match(r"[A-Z]+_", n)[0] for n in lost} | prefixes))
        message = f"vLLM's Ray workers get VLLM_, HF_, NCCL_ and a few more: {', '.join(lost)} "
        message += "stay behind" if len(lost) > 1 else "stays behind"
        yield Finding("error", lost[0], env[lost[0]], {"the driver": env[lost[0]], "Ray's workers": "not set"}, message,
                      f"{_PREFIXES}={wanted}", changes={_PREFIXES: wanted})  # fmt: skip


def _sglang(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    found = {s.site: s for s in sites(env, "sglang", context.arguments)}
    fc1 = found["fc1"]
    dead = fc1.recipe is None and not fc1.error
    if dead and is_on(FI, env, context):
        off = bool(sglang_bool(env.get(W4A16)).value) and "bf16" in fc1.why
        changes = {W4A16: "0"} if off else {}
        message = f"SGLang here: {fc1.why}, so no switch of 4over6 does anything for the experts"
        yield Finding("warning", FI, env[FI], {"SGLang": "not used"}, message, as_text(changes), changes=changes)
    if fc1.mismatch and "whatever is set" in fc1.why:
        readings = {
            "SGLang's muse_spark, the scale": "448",
            "FlashInfer's kernel, the score": _ceiling(fc1.recipe.scored_as),
        }
        message = "SGLang, experts' input (fc1) of muse_spark: the scale is made for 448, whatever is set"
        yield Finding(
            "error", U256, env.get(U256), readings, message, f"{U256}=0", changes={U256: "0"}, costs=_costs(fc1)
        )
