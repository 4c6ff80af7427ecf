"""What to say of an environment that a text gives: findings with their lines, recipes, and what is not settled."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import commandline
from .assignments import Value
from .finding import SEVERITIES, Finding
from .fixes import check
from .names import meant
from .programs import PROGRAMS, Site, guess, sites
from .rules import VARIABLES
from .settings import HANDED_ON, Settings

# other texts that set variables
SOURCES = ("source", ".", "env_file", "envFrom", "extends", "EnvironmentFile", "--env-file", "template")
WAYS = 12  # combinations of open values that are followed
_ANYONE = (("sglang", {}), ("vllm", {"quantization": "nvfp4_per_token"}), ("flashinfer", {}))


@dataclass(frozen=True)
class Way:
    """One of the environments that an unsettled text can turn out to be."""

    given: str  # such as "FLASHINFER_NVFP4_4OVER6=1"; empty where all is settled
    variables: dict[str, str]
    named: bool = True  # the text itself names the values, they are not only possible


def ways(settings: Settings) -> list[Way]:
    """The environments that are possible; the first is the one that the text itself points to."""
    open_ = {n: v for n, v in settings.unsettled.items() if meant(n) or n in VARIABLES}
    choices = [[(n, c) for c in _candidates(v)] for n, v in open_.items()]
    texts = [_candidates(v) for v in open_.values()]
    named_ones = [_named(v) for v in open_.values()]
    found = []
    for combination in itertools.islice(itertools.product(*choices), WAYS):
        given = ", ".join(f"{short(n)}={_shown(c)}" if c is not None else f"{short(n)} not set" for n, c in combination)
        variables = settings.variables | {n: c for n, c in combination if c is not None}
        first = all(c == options[0] for (_, c), options in zip(combination, texts, strict=True))
        likely = all(
            c in (options[0], *named) for (_, c), options, named in zip(combination, texts, named_ones, strict=True)
        )
        found.append(Way(given, variables, first or likely))
    return found


def short(name: str) -> str:
    """A variable's name without what all of its family share.

    >>> short("FLASHINFER_NVFP4_4OVER6_E4M3_USE_256"), short("FLASHINFER_NVFP4_4OVER6")
    ('USE_256', '4OVER6')
    """
    return re.sub(r"^(?:SGLANG_FLASHINFER_NVFP4_|FLASHINFER_NVFP4_(?:4OVER6_(?:E4M3_)?)?)(?=.)", "", name)


def _shown(text: str) -> str:
    """A value as one can see it: with quotes where blanks or what has no shape stand in it."""
    return text if re.fullmatch(r"[!-~]*", text) else repr(text)


def _named(value: Value) -> tuple[str, ...]:
    """Values that the text itself names; who reads a file it does not say."""
    return (
        () if value.open.startswith("it depends on who") else tuple(m for m in value.maybe if m not in ("1", "0", None))
    )


def _candidates(value: Value) -> tuple[str | None, ...]:
    return value.maybe or ("1", "0")


def program_of(settings: Settings) -> str:
    """The program that gets these settings, by its key in `PROGRAMS`: as said, else guessed, else empty."""
    return guess({**settings.variables, **settings.unsettled}, settings.program)


def with_command(settings: Settings, line: str) -> Settings:
    """Settings that a command line gets, where the text does not say which."""
    if not line:
        return settings
    return replace(settings, program=commandline.program_of(line), arguments=commandline.arguments_of(line))


def check_settings(settings: Settings) -> list[Finding]:
    """Findings about what a text sets, with those that hold for some of its possible values only."""
    possible = ways(settings)
    merged: dict[tuple, tuple[Finding, list[str]]] = {}
    for way in possible:
        for finding in check(way.variables, settings.program, settings.arguments):
            key = (finding.variable, finding.message[:24])
            if key not in merged:
                severity = "warning" if finding.severity == "error" and not way.named else finding.severity
                merged[key] = (replace(finding, severity=severity), [])
            merged[key][1].append(way.given)
    found = []
    for finding, given in merged.values():
        if len(given) < len(possible):
            if finding.severity == "note":
                continue
            shown = finding.readings if finding.severity == "error" else {}
            finding = replace(finding, message=f"if {_joined(given)}: {finding.message}", readings=shown)
        found.append(replace(finding, line=settings.lines.get(finding.variable)))
    found += list(_unsettled(settings)) + list(_remarks(settings))
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def _joined(given: list[str]) -> str:
    return given[0] if len(given) == 1 else f"{given[0]}, or {len(given) - 1} more"


def _unsettled(settings: Settings) -> Iterator[Finding]:
    for name, value in settings.unsettled.items():
        if meant(name) and not value.open.startswith("it depends on who"):
            written = None if value.written == name else value.written
            yield Finding("warning", name, written, {}, f"not settled by this text: {value.open}", line=value.line)


def _remarks(settings: Settings) -> Iterator[Finding]:
    for r in settings.remarks:
        if r.variable in (*SOURCES, "branches", "CR LF", "") or meant(r.variable):
            written = None if r.written in ("", r.variable) else r.written
            yield Finding(r.severity, r.variable, written, {}, r.why, line=r.line)


def settled(settings: Settings) -> bool:
    """Whether the text says all that decides the recipe."""
    unknown = any(r.variable in SOURCES or r.why.startswith(HANDED_ON) for r in settings.remarks)
    return len(ways(settings)) == 1 and not unknown


def sites_of(settings: Settings, way: Way) -> list[Site]:
    """What the program runs; where no program is known, what SGLang, vLLM and FlashInfer would."""
    program = program_of(settings)
    if program in PROGRAMS:
        return sites(way.variables, program, settings.arguments)
    found = [s for p, arguments in _ANYONE for s in sites(way.variables, p, arguments) if s.site in ("fc1", "calls")]
    if any(n.startswith("NVTE") for n in way.variables):
        found += sites(way.variables, "transformer-engine") + sites(way.variables, "miles")
    return found
