"""The environments that a text gives to what it starts. Texts are data: nothing runs, nothing is expanded."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import replace
from pathlib import Path

from .assignments import NAME, Lines, Place, Value, places
from .commandline import arguments_of, program_of
from .dockerfile import read_dockerfile
from .documents import read_markdown, read_notebook, read_python
from .dotenv import read_dotenv
from .names import meant
from .rules import VARIABLES
from .settings import HANDED_ON, Remark, Settings, settings
from .shell import Shell
from .structure import read_generic, read_justfile, read_makefile, read_systemd, uncommented
from .yaml_nodes import NotYamlError
from .yaml_scopes import read_yaml

LIMIT = 16 << 20  # bytes
PLACES = 2000  # occurrences that are looked at one by one
NAMED, SCOPED = 600, 200_000  # names and characters up to which a text is taken apart; longer ones are one scope
STARTS, _START = 1500, re.compile(r"vllm|sglang|megatron|miles|nemo", re.I)  # programs that it may start, for the same
COMMANDS = 60_000  # characters of a shell text, which takes longest
UNKNOWN = 300  # distinct names that are compared with the known ones
HEAD = 100_000  # characters that tell what a long text is
_FILES = (  # pattern of a file's name, what it is
    (r"(?:.*\.)?(?:dockerfile|containerfile)(?:\..*)?", "dockerfile"),
    (r".*\.(?:ya?ml|json|jsonc|json5)", "yaml"),
    (r".*\.(?:sh|bash|zsh|ksh|fish|csh|slurm|sbatch|pbs|lsf|job)"
     r"|\.?(?:bashrc|bash_profile|profile|zshrc|envrc)|shell", "shell"),
    (r".*\.(?:service|socket|timer|conf\.d)|systemd", "systemd"),
    (r"(?:gnu)?makefile(?:\..*)?|.*\.mk", "makefile"),
    (r"(?:.*\.)?just(?:file)?", "justfile"),
    (r".*\.(?:bat|cmd)", "bat"),
    (r".*\.(?:md|markdown|rst|mdx)|readme", "markdown"),
    (r".*\.(?:py|pyi)|python", "python"),
    (r".*\.ipynb", "notebook"),
    (r".*\.(?:toml|ini|cfg|conf|tf|hcl|tfvars|js|ts|go|rs|nix|xml|lua|groovy|properties|ps1|psm1)"
     r"|jenkinsfile", "generic"),
    (r"environ", "environ"),
    (r"(?:.*\.)?env(?:\..*)?", "dotenv"),
)  # fmt: skip
_TEXTS = (  # pattern in a text whose name says nothing, what it is
    (r"\A#![^\n]*python|^[ \t]*(?:import|from)[ \t]+\w+|^[ \t]*def \w+\(|^[ \t]*os\.environ\b", "python"),
    (r"\A#!", "shell"),
    (r"\A(?:[ \t\r\f\v]*(?:#[^\n]*)?\n)*[ \t]*(?i:from)[ \t]+[\w./:$@{}-]+(?:[ \t]+(?i:as)[ \t]+\S+)?[ \t]*$"
     r"|^ENTRYPOINT[ \t]|^CMD[ \t]*\[", "dockerfile"),
    (r"^\[(?:Unit|Service|Install)\][ \t]*$", "systemd"),
    (r"^(?:services|apiVersion|kind|spec|containers|env|environment|metadata|jobs)[ \t]*:"
     r"|\A\s*[\[{]\s*[\"{\[]|\A---\s*$|^[ \t]*- name:", "yaml"),
    (r"^[\w.-]+[ \t]*:{0,3}\?=|^[\w.-]+[ \t]*:=|^export[ \t]+\w+[ \t]*:=|^\.PHONY:|^[\w.-]+:[^\n]*\n\t", "makefile"),
    (r"(?i)^[ \t]*@?echo off|^[ \t]*set[ \t]+\"?\w+=|\$env:\w+[ \t]*=|^[ \t]*rem[ \t]", "bat"),
    (r"^[ \t]*```|^#{1,4} \w", "markdown"),
    (r"^\[{1,2}[\w.\"-]+\]{1,2}[ \t]*$", "generic"),
    (r"^[ \t]*(?:export|declare|unset|env|docker|source|\.|srun|ssh|sudo|if|for|set|setenv"
     r"|ray|python3?|exec|vllm|kubectl|apptainer|numactl|echo|printf|tee|sed|cd)[ \t]"
     r"|^[ \t]*\w+=\S*[ \t]+[\w./-]|&&|\\$|\$\(", "shell"),
)  # fmt: skip
_SPLIT = re.compile(r"(?<=[^\s\\])\\\n([^\s;&|()<>\\]+)")  # a word that goes on in the next line
_ENV_OUTPUT = re.compile(r"^(?:PATH|HOME|PWD|SHLVL|_|HOSTNAME|LANG|USER)=", re.M)


def read_environment(source: str | os.PathLike, kind: str | None = None) -> list[Settings]:
    """What a file, or a text of several lines, gives each program that it starts.

    Args:
        source: path of any text file, or such a text itself.
        kind:   "shell", "dotenv", "dockerfile", "yaml", "systemd", "makefile", "bat", "markdown", "python", "generic"
                or "environ" (the output of env, /proc/PID/environ); guessed where None.
    No format is refused: what is not understood is reported with its line. Raises ValueError for a folder and for more
    than 16 MiB, FileNotFoundError where there is no such file.
    """
    name, text = _load(source)
    if kind is not None and kind not in _READERS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(map(repr, _READERS))}")
    label = Path(name).name or name
    found = read_text(text, label if kind is None else "", kind)
    return [replace(one, name=f"{label}: {one.name}" if one.name else label) for one in found]


def read_text(text: str, name: str = "", kind: str | None = None) -> list[Settings]:
    """What a text gives each program that it starts, as `read_environment`; the name of its file tells its kind."""
    returns = "\r\n" in text
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    lines = Lines(text)
    kind = kind or _kind(name, text)
    named, started = _count(NAME, text, NAMED), _count(_START, text, STARTS)
    scoped = named <= NAMED and started <= STARTS and len(text) <= SCOPED
    found = _interpret(text, kind, lines, {}, 0) if scoped and (named or program_of(text)) else []
    found = _complete(_merged(found), text, lines, kind) or [Settings("")]
    if returns and kind in ("shell", "dotenv"):
        rows = text.split("\n")
        found = [_with_returns(one, rows, kind) for one in found]
    return found


def _with_returns(one: Settings, rows: list[str], kind: str) -> Settings:
    """Settings of a text with lines that end with CR LF: bash takes the CR for part of a value at the end of a line."""
    ends = {n: v for n, v in one.variables.items()
            if re.search(rf"{n}=[\"']?{re.escape(v)}[\"']?$", rows[one.lines[n] - 1])}  # fmt: skip
    if not ends:
        return one
    values = {}
    for name, text in ends.items():
        maybe = (f"{text}\r", text) if kind == "shell" else (text, f"{text}\r")
        values[name] = Value(None, one.lines[name], text, "it depends on who reads this file", maybe)
    why = "bash keeps the CR in each value, and FlashInfer reads it as off"
    remark = Remark("warning", "CR LF", "lines end with CR LF", why)
    settled = {n: v for n, v in one.variables.items() if n not in values}
    return replace(one, variables=settled, unsettled=one.unsettled | values, remarks=(*one.remarks, remark))


def _count(pattern: re.Pattern, text: str, limit: int) -> int:
    return sum(1 for _ in itertools.islice(pattern.finditer(text), limit + 1))


def _interpret(text: str, kind: str, lines: Lines, given: dict[str, Value], depth: int) -> list[Settings]:
    kind = kind if kind in _READERS else _kind(kind, text)
    if depth > 6:
        return []
    try:
        return _READERS[kind](text, lines, given, depth)
    except (NotYamlError, RecursionError):
        language = "shell" if re.search(r"^[ \t]*(?:- )?export[ \t]", text, re.M) else ""
        return read_generic(text, lines, language, given)


def _load(source) -> tuple[str, str]:
    if isinstance(source, str) and ("\n" in source or "\0" in source or re.match(r"\s*(?:[A-Za-z_]\w*=|\{)", source)):
        return "text", source
    path = Path(source)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give the file in it that sets the environment")
    with open(path, "rb") as f:
        data = f.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ValueError(f"{path}: larger than {LIMIT >> 20} MiB, so hardly a file of settings")
    return str(path), decoded(data, str(path))


def decoded(data: bytes, name: str) -> str:
    """Bytes of a text file as text: UTF-8, UTF-16 with its mark, else Latin-1, in which the names read the same."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _kind(name: str, text: str) -> str:
    for pattern, kind in _FILES:
        if name and name != "text" and re.fullmatch(pattern, Path(name).name, re.I):
            if kind == "dotenv" and re.search(
                r"\A#!|^[ \t]*(?:if|for|source|\.)[ \t]|^[ \t]*export[ \t]+\w+=(?:[^\n]*&&|\S*[ \t]+\w+=)", text, re.M
            ):
                return "shell"
            return kind
    printed = len(_ENV_OUTPUT.findall(text[:20_000])) >= 2
    if "\0" in text or (printed and not re.search(r"^[ \t]+\S|^export ", text[:20_000], re.M)):
        return "environ"
    found = next((kind for pattern, kind in _TEXTS if re.search(pattern, text[:20_000], re.M)), None)
    if found:
        return found
    rows = [r for r in text[:20_000].split("\n") if r.strip() and not r.lstrip().startswith("#")]
    return "dotenv" if all(re.match(r"[ \t]*(?:export[ \t]+)?[\w.-]+[ \t]*(=|$)", r) for r in rows[:200]) else "generic"


# --- the readers


def _environ(text: str, lines: Lines, given, depth: int) -> list[Settings]:
    rows = text.split("\0") if "\0" in text else text.split("\n")
    values, line = {}, lines.first
    for row in rows:
        name, eq, value = row.partition("=")
        if eq and NAME.fullmatch(name):
            values[name] = Value(value, line, value[:80])
        line += 1
    return [settings("", values)]


def _shell(text: str, lines: Lines, given, depth: int) -> list[Settings]:
    if len(text) > COMMANDS:
        return read_generic(text, lines, "shell", given)
    folded = _SPLIT.sub("\\1 \x1f", text).replace("\\\n", " \x1f")
    return Shell(folded, lines, given, _interpret, depth).run()


_READERS = {
    "environ": _environ,
    "dotenv": lambda text, lines, given, depth: read_dotenv(text, lines),
    "dockerfile": lambda text, lines, given, depth: read_dockerfile(text, lines, _interpret, depth),
    "yaml": lambda text, lines, given, depth: read_yaml(text, lines, given, _interpret, depth),
    "systemd": lambda text, lines, given, depth: read_systemd(text, lines, _interpret, depth),
    "makefile": lambda text, lines, given, depth: read_makefile(text, lines, _interpret, depth),
    "markdown": lambda text, lines, given, depth: read_markdown(text, lines, _interpret, depth),
    "bat": lambda text, lines, given, depth: read_generic(text, lines, "bat", given),
    "generic": lambda text, lines, given, depth: read_generic(text, lines, "", given),
    "python": lambda text, lines, given, depth: read_python(text, lines, given, _interpret, _kind, depth),
    "notebook": lambda text, lines, given, depth: read_notebook(text, lines, given, _interpret, _kind, depth),
    "justfile": lambda text, lines, given, depth: read_justfile(text, lines, _interpret, depth),
    "shell": _shell,
}


# --- nothing that stands in the text stays unsaid


def _files(found: list[Settings]) -> list[Settings]:
    """What is written into one file by several commands is one environment, where they do not contradict."""
    files: dict[str, int] = {}
    result: list[Settings] = []
    for one in found:
        at = files.get(one.file, -1) if one.file else -1
        if at < 0 or set(result[at].lines) & set(one.lines):
            files[one.file] = len(result)
            result.append(one)
            continue
        first = result[at]
        result[at] = replace(first, variables=first.variables | one.variables, lines=first.lines | one.lines,
                             unsettled=first.unsettled | one.unsettled, program=first.program or one.program,
                             remarks=tuple(dict.fromkeys((*first.remarks, *one.remarks))))  # fmt: skip
    return result


def _merged(found: list[Settings]) -> list[Settings]:
    """Equal environments once, with all their places."""
    unique: dict[tuple, Settings] = {}
    for one in _files(found):
        key = (
            tuple(sorted(one.variables.items())),
            tuple(sorted((n, v.maybe, v.written) for n, v in one.unsettled.items())),
            one.program,
            tuple(sorted(one.arguments.items())),
            one.remarks,
            tuple(sorted(one.lines.items())),
        )
        first = unique.get(key)
        same = first is None or one.name in (first.name, "") or len(first.name) > 120
        unique[key] = one if first is None else first if same else replace(first, name=f"{first.name}; {one.name}")
    return list(unique.values())


def _complete(found: list[Settings], text: str, lines: Lines, kind: str) -> list[Settings]:
    """With every occurrence of a known name that no reader claimed: assigned, in a comment, or only named."""
    claimed = {(n, line) for one in found for n, line in one.lines.items()}
    claimed |= {(r.variable, r.line) for one in found for r in one.remarks}
    language = {"markdown": "prose", "shell": "shell", "python": "python", "bat": "bat"}.get(kind, "")
    everything, whole, unknown = [], True, set()

    def wanted(name: str) -> bool:
        if name not in VARIABLES:
            unknown.add(name)
        return name in VARIABLES or (len(unknown) <= UNKNOWN and meant(name) is not None)

    for place in places(text, lines, language, wanted=wanted):
        if (place.name, place.value.line) in claimed and place.kind != "unset":
            continue
        whole = len(everything) < PLACES
        if not whole:
            break
        everything.append(place)
    whole &= len(unknown) <= UNKNOWN
    active = {p.start for p in uncommented(everything, text, _COMMENTS.get(kind, "#"))}
    everything_unset = [p for p in everything if p.kind == "unset"]
    last = {n: max(line for m, line in claimed if m == n and line) for n in {n for n, line in claimed if line}}
    for place in everything_unset:
        last[place.name] = max(last.get(place.name, 0), place.value.line)
    alike: dict[tuple[str, str, str], list[Place]] = {}
    for place in everything:
        severity, why = _unclaimed(place, place.start in active, kind, last)
        alike.setdefault((severity, place.name, why), []).append(place)
    remarks = [_remark(*key, group) for key, group in alike.items()]
    if not whole:
        why = f"more than {PLACES:,} places or {UNKNOWN} unknown names: what comes after them is not read"
        remarks.append(Remark("warning", "", "", why))
    open_ = ("set", "inherit")
    left = {
        p.name: p.value
        for p in everything
        if p.kind in open_ and _unclaimed(p, p.start in active, kind, last)[0] == "warning"
    }
    if left:
        return [*found, settings("elsewhere in it", left, remarks, program_of(text[:HEAD]), arguments_of(text[:HEAD]))]
    if remarks and found:
        return [replace(found[0], remarks=(*found[0].remarks, *remarks)), *found[1:]]
    return [settings("", {}, remarks)] if remarks else found


_COMMENTS = {"bat": r"(?i:rem)\s|::", "generic": "#|//", "yaml": "#|//"}  # what begins a comment


def _unclaimed(place: Place, active: bool, kind: str, last: dict[str, int]) -> tuple[str, str]:
    """How much an occurrence matters that no reader claimed, and why."""
    if not active:
        return "note", "in a comment: not set"
    if place.kind == "unset":
        return "note", "taken out here"
    later = last.get(place.name, 0)
    if place.kind == "mention" and kind in ("shell", "python", "generic") and place.handed_on and not later:
        return "warning", HANDED_ON
    if place.kind == "mention" or kind == "markdown":
        return "note", "only named here, not set"
    if place.kind == "inherit" and later:
        return "note", "handed on here"
    if kind in ("shell", "dotenv", "dockerfile", "systemd", "makefile") and later > place.value.line:
        return "note", f"set again or taken out on line {later}"
    return "warning", "set here, but it is not understood which program gets it"


def _remark(severity: str, name: str, why: str, group: list[Place]) -> Remark:
    """One remark for all places of a name that are alike; the first line, and the others in words."""
    first, *others = list(dict.fromkeys(p.value.line for p in group))
    also = f" (also on line{'s' if len(others) > 1 else ''} {', '.join(map(str, others))})" if others else ""
    return Remark(severity, name, group[0].value.written, why + also, first)
