"""What each program quantizes and by which recipe: site x program x version, with the flags that decide it.

Read off the wheels of sglang 0.5.23 (srt/layers/moe, muse_spark, quantization), vllm 0.26.0 and 0.33.0
(quantization/online/nvfp4.py, fused_moe/experts, _custom_ops.py) and flashinfer 0.7.2.post1;
tests/environment/test_programs.py holds them to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..nvfp4 import Recipe
from .recipes import recipe_from_environment
from .rules import only_1, reading, sglang_bool, version_tuple

PROGRAMS = {
    "sglang": "SGLang",
    "vllm": "vLLM",
    "transformer-engine": "Transformer Engine",
    "miles": "Miles",
    "flashinfer": "FlashInfer",
}
NEWEST = {
    "sglang": "0.5.23",
    "vllm": "0.33.0",
    "transformer-engine": "2.20.2",
    "miles": "2026-11",
    "flashinfer": "0.7.2",
}
SITES = {  # key: in prose
    "fc1": "experts' input (fc1)",
    "fc2": "experts' inner input (fc2)",
    "dense": "dense layers",
    "dense-small": "dense layers, m <= 32",
    "weights": "weights",
    "kv": "KV cache",
    "dispatch": "expert dispatch",
    "activations": "activations",
    "calls": "calls of your own",
}
PER_TOKEN, W4A16, DISPATCH = (
    "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION", "SGLANG_FLASHINFER_CUTEDSL_NVFP4_W4A16", "SGLANG_MOE_NVFP4_DISPATCH"
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """How a program makes the scale at a site, and which kernel quantizes with it, where `when` holds."""

    program: str
    site: str
    when: str  # words of `_facts`, all of which must hold; "!x" for one that must not
    scale: str  # who says the ceiling: "448", "sglang", "flashinfer", "checkpoint", or "fixed:RECIPE"; "" not quantized
    kernel: str = ""  # whose reading decides the rest: "flashinfer-cuda", "cute-dsl", "flashinfer"
    per_token: bool = True
    since: str = "0"
    why: str = ""


_OWN = "fixed:standard-tensor-fast"
_FIXED = "passes 1/(448*6), whatever is set, and no nvfp4_4over6="
_INSIDE, _CHECKPOINT = "inside FlashInfer's kernel, one scale a row", "the checkpoint's scale, made for 448"
_VLLM, _OTHER = "vLLM's own quantizer, which reads none of the variables", "no NVFP4 with this --quantization"
ROWS = (  # the first row that holds is a site's
    Row("sglang", "fc1", "other-quantization", "", why=_OTHER),
    Row("sglang", "fc2", "other-quantization", "", why=_OTHER),
    Row("sglang", "dense", "other-quantization", "", why=_OTHER),
    Row("sglang", "fc1", "bf16", "", why="activations stay bf16"),
    Row("sglang", "fc1", "muse token", "448", "cute-dsl", since="0.5.23", why=_FIXED),
    Row("sglang", "fc1", "cutedsl token", "flashinfer", "cute-dsl", since="0.5.16", why="FlashInfer's own rule"),
    Row("sglang", "fc1", "token", "sglang", "sglang", why="SGLang reads the ceiling, FlashInfer's kernel the rest"),
    Row("sglang", "fc1", "", "checkpoint", "flashinfer-cuda", False, why=_CHECKPOINT),
    Row("sglang", "fc2", "bf16", "", why="activations stay bf16"),
    Row("sglang", "fc2", "cutedsl token", "flashinfer", "cute-dsl", since="0.5.16"),
    Row("sglang", "fc2", "token", "flashinfer", "flashinfer-cuda", why=_INSIDE),
    Row("sglang", "fc2", "", _OWN, per_token=False, why="the first product's epilogue, which has no 4over6"),
    Row("sglang", "dense", "experts", "", why="nvfp4_online quantizes the experts only"),
    Row("sglang", "dense", "marlin-dense", "", why="activations stay bf16"),
    Row("sglang", "dense", "", "checkpoint", "flashinfer-cuda", False, why=_CHECKPOINT),
    Row("sglang", "weights", "online", "fixed:4/6-mse-448-fp16err-tensor", per_token=False, why="pinned by SGLang"),
    Row("sglang", "weights", "", "", why="as the checkpoint has them"),
    Row("sglang", "kv", "kv-fp4", _OWN, per_token=False, why="SGLang's own quantizer"),
    Row("sglang", "dispatch", "dispatch !token", "checkpoint", "flashinfer-cuda", False, why=_CHECKPOINT),
    Row("vllm", "fc1", "other-quantization", "", why=_OTHER),
    Row("vllm", "fc1", "token", "448", "flashinfer-cuda", since="0.26.0", why=_FIXED),
    Row("vllm", "fc1", "", _OWN, per_token=False, why=_VLLM),
    Row("vllm", "fc2", "other-quantization", "", why=_OTHER),
    Row("vllm", "fc2", "cutedsl token", "448", "cute-dsl", since="0.32.0", why=_FIXED),
    Row("vllm", "fc2", "token", "flashinfer", "flashinfer-cuda", since="0.26.0", why=_INSIDE),
    Row("vllm", "fc2", "", _OWN, per_token=False),
    Row("vllm", "dense-small", "trtllm-dense !experts", "checkpoint", "flashinfer-cuda", False, why=_CHECKPOINT),
    Row("vllm", "dense", "other-quantization", "", why=_OTHER),
    Row("vllm", "dense", "experts", "", why="nvfp4_per_token quantizes the experts only"),
    Row("vllm", "dense", "", _OWN, per_token=False, why=_VLLM),
    Row("vllm", "weights", "online", _OWN, per_token=False, since="0.26.0", why=_VLLM),
    Row("vllm", "kv", "kv-4over6", "fixed:4/6-mse-448-tensor", per_token=False, since="0.28.0", why="a flag"),
    Row("vllm", "kv", "kv-fp4", _OWN, per_token=False),
    Row("transformer-engine", "activations", "", "transformer-engine", "transformer-engine"),
    Row("transformer-engine", "weights", "", "te-weights", "transformer-engine", False),
    Row("miles", "weights", "", "miles", "miles", False, why="what the rollout gets"),
    Row("flashinfer", "calls", "", "flashinfer", "flashinfer", why="a call's nvfp4_4over6= wins over the variables"),
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A place of a program that quantizes, and what it runs there."""

    program: str
    site: str
    recipe: Recipe | None  # None: not quantized to NVFP4 here, or it raises
    why: str
    error: str = ""
    sure: bool = True  # False where the checkpoint decides, which no environment and no flag tells

    @property
    def mismatch(self) -> bool:
        """The scale is made for one ceiling and the choice scored for another, with an effect on the result."""
        r = self.recipe
        return r is not None and r.scored_as is not None and r.four_over_six and r.per_token and not r.err_use_fast_math


def _facts(
    env: Mapping[str, str], program: str, arguments: Mapping[str, str], version: str | None
) -> tuple[set[str], bool]:
    """What of a command line and an environment decides rows; and whether per token is certain."""
    word = {k: v.lower().replace("-", "_") for k, v in arguments.items()}
    quantization, moe, linear, kv = (word.get(k, "") for k in ("quantization", "moe", "linear", "kv"))
    facts = {name for name, holds in {
        "cutedsl": moe == "flashinfer_cutedsl",
        "trtllm-dense": linear == "flashinfer_trtllm",
        "marlin-dense": linear == "marlin",
        "muse": "muse" in word.get("model", ""),
        "kv-fp4": kv in ("nvfp4", "fp4_e2m1", "fp4"),
        "kv-4over6": kv == "nvfp4_4over6",
        "online": quantization in ("nvfp4_online", "nvfp4_per_token"),
        "experts": quantization in ("nvfp4_online", "nvfp4_per_token"),
        "dispatch": bool(sglang_bool(env.get(DISPATCH)).value),
    }.items() if holds}  # fmt: skip
    sure = True
    if program == "sglang":
        w4a16 = quantization == "w4a16_nvfp4" or moe in ("marlin", "humming")
        w4a16 |= bool(sglang_bool(env.get(W4A16)).value) and moe in ("flashinfer_cutedsl", "flashinfer_megamoe")
        token = quantization in ("nvfp4_online", "minimax_m3_nvfp4") or "minimax_m3" in word.get("model", "").replace(
            ".", "_"
        )
        token |= bool(reading(PER_TOKEN, "sglang", env.get(PER_TOKEN)).value)
        known = {"", "auto", "modelopt", "modelopt_fp4", "modelopt_mixed", "nvfp4_online", "minimax_m3_nvfp4",
                 "w4a16_nvfp4", "compressed_tensors", "quark"}  # fmt: skip
        facts |= {"other-quantization"} if quantization not in known and "$" not in quantization else set()
        facts |= {"bf16"} if w4a16 else {"token"} if token else set()
    elif program == "vllm":
        known = {"", "modelopt", "modelopt_fp4", "modelopt_mixed", "nvfp4_per_token", "compressed_tensors", "auto"}
        if version_tuple(version or NEWEST["vllm"]) < (0, 32):  # checkpoints that ask for it came with 0.32.0
            known -= {"modelopt", "modelopt_fp4", "modelopt_mixed"}
        facts |= {"token"} if quantization in known - {"compressed_tensors"} else set()
        facts |= (
            {"other-quantization"}
            if quantization not in known | {"modelopt", "modelopt_fp4", "modelopt_mixed"}
            else set()
        )
        sure = quantization == "nvfp4_per_token"
    return facts, sure


def sites(
    env: Mapping[str, str],
    program: str = "sglang",
    arguments: Mapping[str, str] | None = None,
    version: str | None = None,
) -> list[Site]:
    """What a program quantizes in an environment, each site with its recipe.

    Args:
        env:       variables.
        program:   "sglang", "vllm", "transformer-engine", "miles" or "flashinfer".
        arguments: what its flags say, by "quantization", "moe" (the runner), "linear" (the backend), "kv", "model".
        version:   of the program; the newest known where it is None.
    >>> env = {"FLASHINFER_NVFP4_4OVER6": "1", "FLASHINFER_NVFP4_4OVER6_E4M3_USE_256": "1"}
    >>> found = sites(env, "vllm", {"quantization": "nvfp4_per_token"})
    >>> [s.recipe.name for s in found if s.site in ("fc1", "fc2")]
    ['4/6-mae-448-fast-scored256', '4/6-mae-256-fast']
    """
    if program not in PROGRAMS:
        raise ValueError(f"program={program!r} is not one of {', '.join(map(repr, PROGRAMS))}")
    facts, sure = _facts(env, program, arguments or {}, version)
    at, found = version_tuple(version or NEWEST[program]), {}
    for row in ROWS:
        holds = all((w[1:] not in facts) if w[0] == "!" else w in facts for w in row.when.split())
        if row.program == program and holds and row.site not in found and version_tuple(row.since) <= at:
            found[row.site] = _site(row, env, version, sure or "token" not in row.when)
    return list(found.values())


def _site(row: Row, env: Mapping[str, str], version: str | None, sure: bool) -> Site:
    activations = row.program == "transformer-engine" and env.get("NVTE_NVFP4_4OVER6") in ("activations", "all")
    if activations and env.get("NVTE_NVFP4_DISABLE_RHT") != "1":  # its recipe is refused, weights and all
        return Site(row.program, row.site, None, row.why, "4over6 activations need NVTE_NVFP4_DISABLE_RHT=1", sure)
    try:
        return Site(row.program, row.site, _recipe(row, env, version), row.why, "", sure)
    except ValueError as error:
        return Site(row.program, row.site, None, row.why, str(error), sure)


def _recipe(row: Row, env: Mapping[str, str], version: str | None) -> Recipe | None:
    if not row.scale:
        return None
    if row.scale.startswith("fixed:"):
        return Recipe.parse(row.scale[6:])
    if row.scale == "te-weights":
        words = {"activations": "none", "weights": "activations"}  # the scope of weights, asked as for activations
        names = ("NVTE_NVFP4_4OVER6", "NVTE_NVFP4_4OVER6_E4M3_USE_256")
        recipe = recipe_from_environment(
            {**env, **{n: words[env[n]] for n in names if env.get(n) in words}}, row.kernel, version
        )
        return replace(recipe, per_token=False)
    if row.kernel in ("transformer-engine", "miles", "flashinfer"):
        return recipe_from_environment(env, row.kernel, version)
    if row.kernel == "sglang":
        return recipe_from_environment({**env, PER_TOKEN: "1"}, "sglang", version)
    kernel = recipe_from_environment(env, row.kernel)
    if row.scale == "flashinfer":
        return replace(kernel, per_token=row.per_token)
    scored = kernel.e4m3_max if kernel.four_over_six else None
    return replace(kernel, e4m3_max=448.0, scored_as=scored, per_token=row.per_token)


def default_recipe(
    program: str = "sglang", site: str = "fc1", version: str | None = None, **arguments: str
) -> Recipe | None:
    """What a program runs at a site when no variable is set: its default, as the doctor reads it.

    None where the site is not quantized. Raises ValueError for a program or a site that is not known.

    >>> default_recipe().name, default_recipe("transformer-engine", "activations").name
    ('standard-tensor-fast', 'standard-tensor')
    >>> default_recipe("sglang", "fc1", quantization="nvfp4_online").name
    'standard-fast'
    """
    found = {s.site: s for s in sites({}, program, arguments, version)}
    if site not in found:
        raise ValueError(f"site={site!r} is not one of {program}'s: {', '.join(map(repr, found))}")
    return found[site].recipe


def guess(names, program: str = "") -> str:
    """The program that variables speak of, where no command line says it."""
    families = {"sglang": r"SGLANG_", "vllm": r"VLLM_", "transformer-engine": r"NVTE_"}
    spoken = [key for key, pattern in families.items() if any(re.match(pattern, n) for n in names)]
    return program or (spoken[0] if len(spoken) == 1 else "")


def truth(name: str, env: Mapping[str, str]) -> bool:
    """Whether a flag of FlashInfer is on by its own rule."""
    return bool(only_1(env.get(name)).value)
