"""What a finding is, whom an environment speaks to, and what those make of a variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .rules import CONSUMERS, VARIABLES, reading

SEVERITIES = ("error", "warning", "note")
FI, U256 = "FLASHINFER_NVFP4_4OVER6", "FLASHINFER_NVFP4_4OVER6_E4M3_USE_256"
PER_TOKEN, TE, RHT = "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION", "NVTE_NVFP4_4OVER6", "NVTE_NVFP4_DISABLE_RHT"
STRICT, ALIAS = "FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "TRTLLM_DISABLE_FP4_QUANT_FAST_MATH"


@dataclass(frozen=True)
class Finding:
    """Something in an environment that its author should know."""

    severity: str  # "error": results differ from what the setting says; "warning": it does nothing; "note"
    variable: str  # which one it is about
    value: str | None  # its text; None: not set
    readings: dict[str, str]  # consumer in prose -> what it makes of the value
    message: str  # what is wrong, and what it does
    fix: str = ""  # what to write instead, empty where there is nothing to mend
    line: int | None = None  # of the file that sets it
    changes: dict[str, str | None] = field(default_factory=dict)  # the fix as data; None: remove
    costs: dict[str, str] = field(default_factory=dict)  # short name of a recipe -> why it is here


@dataclass(frozen=True)
class Context:
    """Whom an environment speaks to."""

    program: str = ""  # empty: unknown, so every reader counts
    arguments: Mapping[str, str] = field(default_factory=dict)

    def readers(self, name: str) -> list[str]:
        """Who reads a variable here."""
        found = list(VARIABLES[name].readers)
        if self.program == "vllm" or (
            self.program == "sglang" and self.arguments.get("moe", "").replace("-", "_") == "flashinfer_cutedsl"
        ):
            hosts = {"sglang", "prims-ts"} if name != PER_TOKEN else set()
        else:
            hosts = {"prims-ts"} if self.program == "sglang" else set()
        return [c for c in found if c not in hosts]


def change(name: str, value: str | None) -> dict[str, str | None]:
    return {name: value}


def as_text(changes: Mapping[str, str | None]) -> str:
    """Changes as one writes them."""
    return " ".join(f"{n}={v}" if v is not None else f"(remove {n})" for n, v in changes.items())


def readings_of(name: str, env: Mapping[str, str], context: Context) -> dict[str, tuple]:
    """Consumer -> (value, words for it), `off, after a warning (448)` say."""
    variable, found = VARIABLES[name], {}
    for consumer in context.readers(name):
        value, text = reading(name, consumer, env.get(name))
        named = isinstance(value, bool) and variable.words != ("off", "on")
        found[consumer] = (value, f"{text} ({variable.words[value]})" if named else text)
    return found


def prose(readings: dict[str, tuple]) -> dict[str, str]:
    return {CONSUMERS[c]: text for c, (_, text) in readings.items()}


def is_on(name: str, env: Mapping[str, str], context: Context) -> bool:
    return any(value is True for value, _ in readings_of(name, env, context).values())
