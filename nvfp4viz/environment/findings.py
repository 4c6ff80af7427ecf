"""What the environment variables of NVFP4 4over6 mean to each program that reads them, and where they disagree.

The rules are data in envrules.py, tested against the programs themselves; docs/environment.md has them as tables.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .files import Settings, read_environment, read_process
from .recipes import environment_of, flashinfer_config, recipe_from_environment, recipes_of, sglang_call
from .rules import CONSUMERS, VARIABLES, reading

__all__ = ["CONSUMERS", "VARIABLES", "Finding", "Settings", "check", "check_settings", "environment_of",
           "flashinfer_config", "read_environment", "read_process", "reading", "recipe_from_environment", "recipes_of",
           "sglang_call"]  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something in an environment that its author should know."""

    severity: str  # "error": results differ from what the setting says; "warning": it does nothing; "note"
    variable: str
    value: str | None  # None: not set
    readings: dict[str, str]  # consumer in prose -> what it makes of the value
    message: str
    fix: str = ""  # what to write instead, empty where there is nothing to mend


SEVERITIES = ("error", "warning", "note")
_ON = {"1", "true", "yes", "y", "on", "t", "01", "enable", "enabled"}
_OFF = {"0", "false", "no", "n", "off", "", "none"}
_ELSEWHERE = {  # real variables of other programs, or of other purpose, that look like ours
    "NVTE_NVFP4_DISABLE_RHT", "NVTE_NVFP4_DISABLE_STOCHASTIC_ROUNDING", "NVTE_NVFP4_DISABLE_2D_QUANTIZATION",
}  # fmt: skip
_ONCE = {"SGLANG_FLASHINFER_PER_TOKEN_NVFP4_MOE": "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION"}  # before its release
_HARM = {  # what follows where consumers disagree on a part
    "four_over_six": "the scale is made for one recipe and the kernel runs another",
    "ceiling": "the scale is made for one ceiling, and 4 or 6 is chosen by scores for the other, in silence",
    "strict": "CUDA and CuTe-DSL kernels round differently",
}
_COMPARED = (  # attribute of a recipe, how bad a difference is, the trainer's variable, the rollout's
    ("four_over_six", "error", "NVTE_NVFP4_4OVER6", "FLASHINFER_NVFP4_4OVER6"),
    ("e4m3_max", "error", "NVTE_NVFP4_4OVER6_E4M3_USE_256", "FLASHINFER_NVFP4_4OVER6_E4M3_USE_256"),
    ("err_mode", "error", "NVTE_NVFP4_4OVER6_ERR_MODE", "FLASHINFER_NVFP4_4OVER6_ERR_MODE"),
    ("err_use_fast_math", "error", "NVTE_NVFP4_4OVER6_ERR_USE_FAST_MATH", "FLASHINFER_NVFP4_4OVER6_ERR_USE_FAST_MATH"),
    ("per_token", "error", "NVTE_NVFP4_ROW_SCALED_ACTIVATION", "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION"),
    ("fast_math", "warning", "NVTE_USE_FAST_MATH", "FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH"),
)


def check(env: Mapping[str, str] | None = None) -> list[Finding]:
    """Findings about an environment (this process's where it is None), errors first.

    >>> [f.severity for f in check({"FLASHINFER_NVFP4_4OVER6": "true"})]
    ['error', 'warning']
    """
    env = os.environ if env is None else env
    parts = (_names, _values, _ineffective, _alias, _trainer, _notes)
    return sorted((f for part in parts for f in part(env)), key=lambda f: SEVERITIES.index(f.severity))


def check_settings(settings: Settings) -> list[Finding]:
    """Findings about what a file sets, with those values of our variables that it does not settle."""
    ours = (r for r in settings.remarks if r[1] in VARIABLES or r[1] in ("env_file", "envFrom"))
    unsettled = [Finding(severity, name, written, {}, why) for severity, name, written, why in ours]
    return sorted(check(settings.variables) + unsettled, key=lambda f: SEVERITIES.index(f.severity))


def _readings(name: str, env: Mapping[str, str]) -> dict[str, tuple]:
    """Consumer -> (value, words for it), `off, after a warning (448)` say."""
    variable, found = VARIABLES[name], {}
    for consumer in variable.readers:
        value, text = reading(name, consumer, env.get(name))
        named = isinstance(value, bool) and variable.words != ("off", "on")
        found[consumer] = (value, f"{text} ({variable.words[value]})" if named else text)
    return found


def _prose(readings: dict[str, tuple]) -> dict[str, str]:
    return {CONSUMERS[c]: text for c, (_, text) in readings.items()}


def _list(consumers: list[str]) -> str:
    """Consumers in prose, FlashInfer once where its three readers agree."""
    kernels = ["flashinfer", "flashinfer-cuda", "cute-dsl"]
    names = [CONSUMERS[c] for c in consumers]
    if set(kernels) <= set(consumers):
        names = ["FlashInfer"] + [CONSUMERS[c] for c in consumers if c not in kernels]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _on(name: str, env: Mapping[str, str]) -> bool:
    return any(value is True for value, _ in _readings(name, env).values())


def _names(env: Mapping[str, str]) -> Iterator[Finding]:
    for name in sorted(set(env) - set(VARIABLES) - _ELSEWHERE):
        near = difflib.get_close_matches(name.upper(), VARIABLES, n=1, cutoff=0.86)
        meant = _ONCE.get(name) or (near[0] if near else None)
        if meant:
            yield Finding("error", name, env[name], {}, "no consumer reads this name", f"{meant}={env[name]}")
        elif "4OVER6" in name.upper() and "NVFP4" in name.upper():
            yield Finding("note", name, env[name], {}, "none of the consumers known here reads this name")


def _values(env: Mapping[str, str]) -> Iterator[Finding]:
    used = {"FLASHINFER": _on("FLASHINFER_NVFP4_4OVER6", env), "NVTE": True}
    for name, variable in VARIABLES.items():
        if name not in env:
            continue
        text, found = env[name], _readings(name, env)
        word, values = text.strip(" \t\r\n\"'").lower(), {value for value, _ in found.values()}
        needed = used.get(name.split("_")[0], True) or name == "FLASHINFER_NVFP4_4OVER6" or "DISABLE" in name
        severity, message, fix = "error" if needed else "warning", "", f"{name}={int(word in _ON)}"
        if None in values:
            who = _list([c for c, (value, _) in found.items() if value is None])
            message, fix = f"{who} raises an error", f"{name}={variable.default.split()[0].replace('off', '0')}"
        elif len(values) > 1:
            on, off = (_list([c for c in found if found[c][0] is v]) for v in (True, False))
            message = f"read as on by {on}, as off by {off}: {_HARM.get(variable.part, 'their results differ')}"
        elif values == {False} and word in _ON:
            message = "written as on, read as off"
        elif values == {False} and word not in _OFF:
            severity, message = "warning", "no consumer takes this for on, and none says so"
        elif any("warning" in words for _, words in found.values()):
            severity, message = "note", "off for everyone, and SGLang warns about the value"
        if message:
            yield Finding(severity, name, text, _prose(found), message, fix)


def _ineffective(env: Mapping[str, str]) -> Iterator[Finding]:
    """Settings that are valid and do nothing."""
    name, switch = "FLASHINFER_NVFP4_4OVER6_E4M3_USE_256", "FLASHINFER_NVFP4_4OVER6"
    if _on(name, env) and not _on(switch, env):
        yield Finding(
            "warning", name, env[name], _prose(_readings(name, env)),
            "a ceiling without 4over6 is ignored: the recipe is standard, with 448", f"{switch}=1",
        )  # fmt: skip
    per_token = "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION"
    if _on(switch, env) and not _on(per_token, env):
        ceiling = ", so 256 has no effect" if _on(name, env) else ""
        yield Finding(
            "warning", per_token, env.get(per_token), _prose(_readings(per_token, env)),
            f"without it SGLang takes the checkpoint's scale per tensor, made for 448{ceiling}", f"{per_token}=1",
        )  # fmt: skip
    name, switch = "NVTE_NVFP4_4OVER6_E4M3_USE_256", "NVTE_NVFP4_4OVER6"
    if name in env and env.get(switch, "none") == "none":
        message = "a ceiling without 4over6 is ignored: the recipe is standard, with 448"
        yield Finding("warning", name, env[name], _prose(_readings(name, env)), message, f"{switch}=activations")
    if env.get(switch) in ("activations", "all") and env.get("NVTE_NVFP4_DISABLE_RHT") != "1":
        message = "Transformer Engine raises: 4over6 activations do not go with random Hadamard transforms"
        yield Finding("error", switch, env[switch], _prose(_readings(switch, env)), message, "NVTE_NVFP4_DISABLE_RHT=1")


def _alias(env: Mapping[str, str]) -> Iterator[Finding]:
    """Strict arithmetic asked of some kernels only."""
    ours, alias = "FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "TRTLLM_DISABLE_FP4_QUANT_FAST_MATH"
    strict, readings = _on(ours, env), {CONSUMERS["flashinfer-cuda"]: "strict", CONSUMERS["cute-dsl"]: "fast"}
    if _on(alias, env) and not strict:
        message = f"only the C++ kernels read this name, so {_HARM['strict']}"
        yield Finding("error", alias, env[alias], readings, message, f"{ours}=1")
    elif strict and not _on(alias, env):
        readings = {"FlashInfer 0.6.12": "fast", "FlashInfer since 0.6.13": "strict"}
        message = "FlashInfer 0.6.12 (SGLang 0.5.13 to 0.5.15) reads the TRT-LLM name only"
        yield Finding("note", ours, env[ours], readings, message, f"{alias}=1")


def _trainer(env: Mapping[str, str]) -> Iterator[Finding]:
    """Transformer Engine's recipe against FlashInfer's, where the environment speaks to both."""
    if not ({n for n in VARIABLES if n.startswith("NVTE")} & set(env)) or not (
        {n for n in VARIABLES if not n.startswith("NVTE")} & set(env)
    ):
        return
    served_by = "sglang" if "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION" in env else "flashinfer"
    try:
        trainer, rollout = (recipe_from_environment(env, c) for c in ("transformer-engine", served_by))
    except ValueError:
        return  # a finding of its own
    both_on = trainer.four_over_six and rollout.four_over_six
    for attribute, severity, theirs, ours in _COMPARED:
        asked, got = getattr(trainer, attribute), getattr(rollout, attribute)
        comparable = {"four_over_six": True, "fast_math": True, "per_token": served_by == "sglang"}
        if asked == got or not comparable.get(attribute, both_on):
            continue
        defaults = ": their defaults are opposite" if attribute == "e4m3_max" and not {theirs, ours} <= set(env) else ""
        readings = {
            CONSUMERS["transformer-engine"]: f"{_word(asked)} ({trainer.name})",
            CONSUMERS[served_by]: f"{_word(got)} ({rollout.name})",
        }
        message = f"trainer and rollout differ in {attribute}{defaults}"
        wanted = environment_of(trainer, "sglang")[ours]
        # per tensor, SGLang's scale is made for 448 whatever is set: only the trainer can follow
        fix = f"{theirs}=none" if env.get(ours) == wanted else f"{ours}={wanted}, or change {theirs}"
        yield Finding(severity, ours, env.get(ours), readings, message, fix)


def _word(value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).removesuffix(".0")


def _notes(env: Mapping[str, str]) -> Iterator[Finding]:
    name = "FLASHINFER_NVFP4_4OVER6"
    try:
        recipe = recipe_from_environment(env, "flashinfer")
    except ValueError:
        return  # a finding of its own
    if recipe.four_over_six:
        message = "deprecated since FlashInfer 0.7.1, which warns: an explicit nvfp4_4over6= replaces the variables"
        call = f"nvfp4_4over6={flashinfer_config(recipe, text=True)} where you call FlashInfer yourself"
        yield Finding("note", name, env[name], {}, message, call)
        readings = {CONSUMERS["flashinfer-cuda"]: "standard, in silence", CONSUMERS["cute-dsl"]: "raises ValueError"}
        yield Finding("note", name, env[name], readings, "fp8 input has no 4over6: hand over bf16 or fp16")
