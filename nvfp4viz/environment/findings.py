"""What is wrong with values: settings that two programs read differently, that do nothing, that nobody reads.

The rules are data in rules.py and programs.py, tested against the programs themselves; docs/environment.md has them
as tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import intent
from .finding import (
    ALIAS,
    FI,
    PER_TOKEN,
    RHT,
    STRICT,
    TE,
    U256,
    Context,
    Finding,
    as_text,
    change,
    is_on,
    prose,
    readings_of,
)  # fmt: skip
from .names import ELSEWHERE, near_miss
from .recipes import environment_of, flashinfer_config, recipe_from_environment
from .rules import CONSUMERS, VARIABLES

UNKNOWN = 300  # names that are compared with the known ones
_HARM = {  # what follows where consumers disagree on a part
    "four_over_six": "the scale is made for one recipe and the kernel runs another",
    "ceiling": "the scale is made for one ceiling, and 4 or 6 is chosen by scores for the other, in silence",
    "strict": "CUDA and CuTe-DSL kernels round differently",
}


def of_values(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    """All that an environment says by itself."""
    for part in (_names, _values, _ineffective, _rht, _alias, _trainer):
        yield from part(env, context)


def of_use(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    """What one should know of settings that are right."""
    yield from _notes(env, context)


def _list(consumers: list[str]) -> str:
    """Consumers in prose, FlashInfer once where its three readers agree."""
    kernels = ["flashinfer", "flashinfer-cuda", "cute-dsl"]
    names = [CONSUMERS[c] for c in consumers]
    if set(kernels) <= set(consumers):
        names = ["FlashInfer"] + [CONSUMERS[c] for c in consumers if c not in kernels]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _names(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    for name in sorted(set(env) - set(VARIABLES) - ELSEWHERE)[:UNKNOWN]:
        meant = near_miss(name)
        if meant:
            value = _carried_over(meant, env[name])
            changes = {name: None} if meant in env else {name: None, meant: value}
            fix = f"remove {name}" if meant in env else f"{meant}={value}"
            yield Finding("error", name, env[name], {}, "no consumer reads this name", fix, changes=changes)
        elif "4OVER6" in name.upper() and "NVFP4" in name.upper():
            yield Finding("note", name, env[name], {}, "none of the consumers known here reads this name")


def _carried_over(meant: str, text: str) -> str:
    """The value of a name that nobody reads, for the name that was meant."""
    if VARIABLES[meant].part == "ceiling" and intent.word(text) in ("256", "448"):
        text = str(int(intent.word(text) == "256"))
    return intent.intended(meant, text) if intent.word(text) in intent.ON | intent.OFF else text


def _values(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    used = {"FLASHINFER": is_on(FI, env, context), "NVTE": True}
    for name in VARIABLES:
        if name not in env or not context.readers(name):
            continue
        needed = used.get(name.split("_")[0], True) or name == FI or "DISABLE" in name
        needed |= name != FI and intent.word(env.get(FI, "")) in intent.ON
        verdict = _verdict(name, env[name], readings_of(name, env, context), needed)
        if verdict:
            severity, message = verdict
            changes = change(name, intent.intended(name, env[name]))
            shown, fix = prose(readings_of(name, env, context)), as_text(changes)
            fix += ", or activations, or weights" if changes[name] == "all" and intent.scoped(name) else ""
            yield Finding(severity, name, env[name], shown, message, fix, changes=changes)


def _verdict(name: str, text: str, found: dict[str, tuple], needed: bool) -> tuple[str, str] | None:
    """How bad a value is and why; None where it is read as it is written."""
    severity, word, values = "error" if needed else "warning", intent.word(text), {value for value, _ in found.values()}
    if None in values:
        return severity, f"{_list([c for c, (value, _) in found.items() if value is None])} raises an error"
    if intent.scoped(name):
        strict = {v for v in values if isinstance(v, str)}
        return None if not strict or text in intent.SCOPES else (severity, "not one of the four scopes")
    if VARIABLES[name].part == "err_mode":
        return None
    if len(values) > 1:
        on, off = (_list([c for c in found if found[c][0] is v]) for v in (True, False))
        return (
            severity,
            f"read as on by {on}, as off by {off}: {_HARM.get(VARIABLES[name].part, 'their results differ')}",
        )
    if values == {False} and word in intent.ON:
        hidden = f"; it ends or begins with {_hidden(text)}, which they keep" if _hidden(text) else ""
        return severity, "written as on, read as off" + hidden
    if values == {False} and word not in intent.OFF:
        return "warning", "no consumer takes this for on, and none says so"
    if any("warning" in words for _, words in found.values()):
        return "note", "off for everyone, and SGLang warns about the value"
    return None


def _hidden(text: str) -> str:
    """Blanks and look-alikes that one does not see: a no-break space, a full-width digit."""
    odd = next((c for c in text if ord(c) > 126), "")
    if odd:
        return f"U+{ord(odd):04X}"
    return "a blank" if text != text.strip() else "quotes" if text[:1] in "\"'" and text else ""


def _ineffective(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    """Settings that are valid and do nothing."""
    if is_on(U256, env, context) and not is_on(FI, env, context):
        message = "a ceiling without 4over6 is ignored: the recipe is standard, with 448"
        shown = prose(readings_of(U256, env, context))
        yield Finding("warning", U256, env[U256], shown, message, f"{FI}=1", changes=change(FI, "1"))
    quantization = context.arguments.get("quantization", "").replace("-", "_")
    asks = context.program in ("", "sglang") and quantization not in ("nvfp4_online", "minimax_m3_nvfp4")
    if asks and is_on(FI, env, context) and not is_on(PER_TOKEN, env, context):
        ceiling = ", so 256 has no effect" if is_on(U256, env, context) else ""
        unknown = "quantization" not in context.arguments
        anyway = "; nvfp4_online and MiniMax-M3 are per token without it" if unknown else ""
        message = f"without it SGLang takes the checkpoint's scale per tensor, made for 448{ceiling}{anyway}"
        shown, changes = prose(readings_of(PER_TOKEN, env, context)), change(PER_TOKEN, "1")
        yield Finding("warning", PER_TOKEN, env.get(PER_TOKEN), shown, message, as_text(changes), changes=changes)
    name = f"{TE}_E4M3_USE_256"
    if name in env and env.get(TE, "none") == "none":
        message = "a ceiling without 4over6 is ignored: the recipe is standard, with 448"
        shown = prose(readings_of(name, env, context))
        yield Finding(
            "warning", name, env[name], shown, message, f"{TE}=activations", changes=change(TE, "activations")
        )


def _rht(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    if env.get(TE) in ("activations", "all") and env.get(RHT) != "1" and context.program != "miles":
        transforms = "random Hadamard transforms, nor with the stochastic rounding that comes with them"
        message = f"Transformer Engine raises: 4over6 activations do not go with {transforms}"
        yield Finding(
            "error", TE, env[TE], prose(readings_of(TE, env, context)), message, f"{RHT}=1", changes=change(RHT, "1")
        )


def _alias(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    """Strict arithmetic asked of some kernels only."""
    strict = is_on(STRICT, env, context)
    readings = {CONSUMERS["flashinfer-cuda"]: "strict", CONSUMERS["cute-dsl"]: "fast"}
    if is_on(ALIAS, env, context) and not strict:
        message = f"only the C++ kernels read this name, so {_HARM['strict']}"
        yield Finding("error", ALIAS, env[ALIAS], readings, message, f"{STRICT}=1", changes=change(STRICT, "1"))
    elif strict and not is_on(ALIAS, env, context):
        readings = {"FlashInfer 0.6.12": "fast", "FlashInfer since 0.6.13": "strict"}
        message = "FlashInfer 0.6.12 (SGLang 0.5.13 to 0.5.15) reads the TRT-LLM name only"
        yield Finding("note", STRICT, env[STRICT], readings, message, f"{ALIAS}=1")


_COMPARED = (  # attribute of a recipe, how bad a difference is, the trainer's variable, the rollout's
    ("four_over_six", "error", TE, FI),
    ("e4m3_max", "error", f"{TE}_E4M3_USE_256", U256),
    ("err_mode", "error", f"{TE}_ERR_MODE", f"{FI}_ERR_MODE"),
    ("err_use_fast_math", "error", f"{TE}_ERR_USE_FAST_MATH", f"{FI}_ERR_USE_FAST_MATH"),
    ("per_token", "error", "NVTE_NVFP4_ROW_SCALED_ACTIVATION", PER_TOKEN),
    ("fast_math", "warning", "NVTE_USE_FAST_MATH", STRICT),
)


def _trainer(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    """Transformer Engine's recipe against FlashInfer's, where the environment speaks to both."""
    if not ({n for n in VARIABLES if n.startswith("NVTE")} & set(env)) or not (
        {n for n in VARIABLES if not n.startswith("NVTE")} & set(env)
    ):
        return
    served_by = "vllm" if context.program == "vllm" else "sglang" if PER_TOKEN in env else "flashinfer"
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
        changes = _reconciled(attribute, env, theirs, ours, trainer, rollout)
        message = f"trainer and rollout differ in {attribute}{defaults}"
        yield Finding(severity, ours, env.get(ours), readings, message, as_text(changes), changes=changes)


def _reconciled(attribute: str, env, theirs: str, ours: str, trainer, rollout) -> dict[str, str | None]:
    """One side's variable, so that both run one recipe: 4over6 and strict where one side is, per token as rollout."""
    if attribute == "four_over_six":
        return (
            change(ours, "1")
            if trainer.four_over_six
            else change(theirs, "all" if env.get(theirs) == "weights" else "activations")
        )
    if attribute == "fast_math":
        return change(theirs, "0") if trainer.fast_math else change(ours, "1")
    if attribute == "per_token":
        return change(theirs, str(int(rollout.per_token)))
    wanted = environment_of(trainer, "sglang")[ours]
    follows = env.get(ours) != wanted and not (attribute == "e4m3_max" and rollout.scored_as)
    return change(ours, wanted) if follows else change(theirs, "none" if rollout.e4m3_max == 448 else "all")


def _word(value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).removesuffix(".0")


def _notes(env: Mapping[str, str], context: Context) -> Iterator[Finding]:
    try:
        recipe = recipe_from_environment(env, "flashinfer")
    except ValueError:
        return  # a finding of its own
    if recipe.four_over_six:
        message = "deprecated since FlashInfer 0.7.1, which warns: an explicit nvfp4_4over6= replaces the variables"
        call = f"nvfp4_4over6={flashinfer_config(recipe, text=True)} where you call FlashInfer yourself"
        yield Finding("note", FI, env[FI], {}, message, call)
        readings = {CONSUMERS["flashinfer-cuda"]: "standard, in silence", CONSUMERS["cute-dsl"]: "raises ValueError"}
        yield Finding("note", FI, env[FI], readings, "fp8 input has no 4over6: hand over bf16 or fp16")
