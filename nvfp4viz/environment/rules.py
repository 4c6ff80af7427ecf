"""How each program reads the environment variables of NVFP4 4over6: rules, variables and versions, as data.

Read off flashinfer-python 0.6.12 to 0.7.2.post1, sglang 0.5.13 to 0.5.23, vllm 0.26.0 to 0.33.0, transformer-engine
2.16 to 2.20.2 and Miles' miles/utils/nvfp4.py. vLLM reads none of them: FlashInfer's kernels do, inside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

CONSUMERS = {  # key: name in prose
    "flashinfer": "FlashInfer Python",
    "flashinfer-cuda": "FlashInfer C++ (CUDA)",
    "cute-dsl": "FlashInfer CuTe-DSL",
    "prims-ts": "FlashInfer Prims-TS MoE",
    "sglang": "SGLang",
    "vllm": "vLLM",
    "transformer-engine": "Transformer Engine",
    "miles": "Miles",
}


Rule = Callable[["str | None"], "Reading"]


class Reading(NamedTuple):
    """What a consumer makes of a text."""

    value: bool | str | None  # what it goes on with; None where it raises
    text: str  # the same in words


# --- how texts are read; None is an unset variable


def _flag(value: bool, remark: str = "") -> Reading:
    return Reading(value, ("on" if value else "off") + remark)


def only_1(text: str | None) -> Reading:
    """FlashInfer's Python and C++: exactly "1"."""
    return _flag(text == "1")


def prims_word(text: str | None) -> Reading:
    """FlashInfer's Prims-TS MoE runner, which has its own rule."""
    return _flag((text or "").lower() in ("1", "true", "yes", "on"))


def sglang_bool(text: str | None) -> Reading:
    """SGLang's EnvBool: four words each way in any case; others warn and give the default, which is off."""
    known = {**dict.fromkeys(("true", "1", "yes", "y"), True), **dict.fromkeys(("false", "0", "no", "n"), False)}
    value = False if text is None else known.get(text.lower())
    return _flag(False, ", after a warning") if value is None else _flag(value)


def cpp_stream(text: str | None) -> Reading:
    """Transformer Engine's C++: `stream >> bool`, so a leading integer 0 or 1; empty is off, anything else raises."""
    if not text:
        return _flag(False)
    m = re.match(r"[ \t\n\v\f\r]*([+-]?)([0-9]+)", text)
    value = int(m[2][:4000]) * (-1 if m[1] == "-" else 1) if m else None
    return Reading(None, "raises: only 0 and 1 are valid") if value not in (0, 1) else _flag(bool(value))


def scope(default: str) -> Rule:
    """Transformer Engine's scopes: one of four words, case and all."""

    def read(text: str | None) -> Reading:
        word = default if text is None else text
        valid = word in ("none", "weights", "activations", "all")
        return Reading(word, word) if valid else Reading(None, "raises: none, weights, activations or all")

    return read


def mode(upper: Callable[[str], str]) -> Rule:
    def read(text: str | None) -> Reading:
        word = "MAE" if text is None else upper(text)
        return Reading(word, word) if word in ("MAE", "MSE") else Reading(None, "raises: only MAE and MSE are valid")

    return read


def miles_scope(default: str) -> Rule:
    """Miles, for the weights that it hands to the rollout: any case, blanks round it, "weights" and "all" are on."""

    def read(text: str | None) -> Reading:
        return _flag((default if text is None else text).strip().lower() in ("weights", "all"))

    return read


def ascii_upper(text: str) -> str:  # std::toupper, byte by byte
    return "".join(c.upper() if c.isascii() else c for c in text)


# --- which variable is read by whom, by which rule, since which version: the one place that says so


@dataclass(frozen=True)
class Variable:
    """An environment variable and its readers."""

    name: str
    part: str  # the part of a recipe that it decides
    readers: Mapping[str, tuple[Rule, str]]  # consumer: (rule, the first of its versions that reads the variable)
    default: str
    when: str  # it is read
    words: tuple[str, str] = ("off", "on")  # what off and on mean


def _flashinfer(python: Rule, cpp: Rule, cpp_since: str = "0.6.12") -> dict[str, tuple[Rule, str]]:
    return {"flashinfer": (python, "0.6.13"), "flashinfer-cuda": (cpp, cpp_since), "cute-dsl": (python, "0.6.13")}


def _te(rule: Rule, since: str = "2.17", miles: Rule | None = None) -> dict[str, tuple[Rule, str]]:
    return {"transformer-engine": (rule, since)} | ({"miles": (miles, "2026-11")} if miles else {})


_HOSTS = {"prims-ts": (prims_word, "0.7.0"), "sglang": (sglang_bool, "0.5.13")}
_FLAG = _flashinfer(only_1, only_1)
_CALL, _MODE = "every call", _flashinfer(mode(str.upper), mode(ascii_upper))
_PER_TOKEN = {"sglang": (sglang_bool, "0.5.13")}
_ALIAS = {"flashinfer-cuda": (only_1, "0.6.12")}
_STRICT = _flashinfer(only_1, only_1, "0.6.13")
_256 = ("448", "256")

VARIABLES = {
    v.name: v
    for v in (
        Variable("FLASHINFER_NVFP4_4OVER6", "four_over_six", _FLAG | _HOSTS, "off", _CALL),
        Variable("FLASHINFER_NVFP4_4OVER6_E4M3_USE_256", "ceiling", _FLAG | _HOSTS, "off (448)", _CALL, _256),
        Variable("FLASHINFER_NVFP4_4OVER6_ERR_MODE", "err_mode", _MODE, "MAE", "every call with 4over6 on"),
        Variable("FLASHINFER_NVFP4_4OVER6_ERR_USE_FAST_MATH", "err_use_fast_math", _FLAG, "off", _CALL),
        Variable("FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "strict", _STRICT, "off", _CALL),
        Variable("TRTLLM_DISABLE_FP4_QUANT_FAST_MATH", "strict", _ALIAS, "off", _CALL),
        Variable("SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION", "per_token", _PER_TOKEN, "off", "model load"),
        Variable("NVTE_NVFP4_4OVER6", "four_over_six", _te(scope("none"), miles=miles_scope("")), "none", "import"),
        Variable(
            "NVTE_NVFP4_4OVER6_E4M3_USE_256",
            "ceiling",
            _te(scope("all"), miles=miles_scope("all")),
            "all (256)",
            "import",
        ),
        Variable(
            "NVTE_NVFP4_4OVER6_ERR_MODE",
            "err_mode",
            _te(mode(str.upper), miles=mode(lambda t: t.strip().upper())),
            "MAE",
            "import",
        ),
        Variable("NVTE_NVFP4_4OVER6_ERR_USE_FAST_MATH", "err_use_fast_math", _te(cpp_stream), "off", _CALL),
        Variable("NVTE_USE_FAST_MATH", "fast_math", _te(cpp_stream), "off", _CALL),
        Variable("NVTE_NVFP4_ROW_SCALED_ACTIVATION", "per_token", _te(only_1, "2.16"), "off", "import"),
    )
}


def reading(variable: str, consumer: str, text: str | None) -> Reading:
    """What a consumer makes of the text of a variable; None for unset.

    >>> [reading("FLASHINFER_NVFP4_4OVER6", c, "Yes").text for c in ("sglang", "cute-dsl")]
    ['on', 'off']
    """
    return VARIABLES[variable].readers[consumer][0](text)


class Release(NamedTuple):
    """How SGLang calls FlashInfer per token, since one of its releases."""

    since: str
    scale: str  # 1/(e4m3_max*6) as a Python "float", or as a "tensor" on the device, which FlashInfer cannot check
    backend: str | None  # None: not passed, so FlashInfer's "cuda"
    flashinfer: str  # version that it pins


SGLANG = (
    Release("0.5.13", "float", None, "0.6.12"),  # PR #25239
    Release("0.5.16", "tensor", "cute-dsl", "0.6.14"),  # PR #28220
    Release("0.5.23", "tensor", "cute-dsl", "0.7.2"),
)


def version_tuple(text: str) -> tuple[int, ...]:
    numbers = re.match(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", str(text))
    if numbers is None:
        raise ValueError(f"version={text!r} is not a version such as '0.7.2'")
    return tuple(int(n or 0) for n in numbers.groups())


def sglang_release(version: str | None = None) -> Release:
    """What is known of a version of SGLang; the newest where it is None."""
    if version is None:
        return SGLANG[-1]
    found = [r for r in SGLANG if version_tuple(r.since) <= version_tuple(version)]
    if not found:
        raise ValueError(f"SGLang {version} knows no NVFP4 4over6: it came with {SGLANG[0].since}")
    return found[-1]
