"""Environment variables out of the files that set them. Files are data: nothing runs, nothing is expanded.

A value that only the shell, the build or the cluster knows (`$X`, `valueFrom`) is no variable here but a remark.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import said
from .yaml_files import VARIABLES, read_yaml

LIMIT = 1 << 20  # bytes; no hand-written settings are larger
RUNTIME = "its value is only known when the shell runs"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_FILES = (  # pattern of a file's name, its kind
    (r"(.*\.)?dockerfile(\..*)?|(.*\.)?containerfile(\..*)?", "dockerfile"),
    (r".*\.(ya?ml|json)", "yaml"),
    (r".*\.(sh|bash|zsh|ksh)|\.(bashrc|bash_profile|profile|zshrc)", "shell"),
    (r"environ", "process"),
    (r"(.*\.)?env(\..*)?", "dotenv"),
)
_TEXTS = (  # pattern in a text without a telling name, its kind
    (r"\0", "process"),
    (r"^[ \t]*(?i:from)[ \t]+\S", "dockerfile"),
    (r"^(services|apiVersion|kind|spec|containers)[ \t]*:|\A\s*\{", "yaml"),
    (r"\A#!|^[ \t]*(export|set|declare|unset|env|docker)[ \t]|^[ \t]*\w+=\S*[ \t]+[\w./-]", "shell"),
)


@dataclass(frozen=True)
class Settings:
    """The environment of one service, container, build stage, script or process."""

    name: str  # where it is: the file, then the service, container or stage in it
    variables: dict[str, str]
    remarks: tuple[tuple[str, str, str, str], ...] = ()  # (severity, variable, as written, why it is not certain)


def read_environment(source: str | os.PathLike, kind: str | None = None) -> list[Settings]:
    """Settings in a file, or in a text of several lines.

    Args:
        source: path of a .env, Dockerfile, docker-compose, Kubernetes or shell file, or such a text itself.
        kind:   "dotenv", "dockerfile", "yaml" (compose and Kubernetes), "shell" or "process"; guessed where None.
    Raises ValueError with the file's name and what is wrong, FileNotFoundError where there is no such file.
    """
    name, text = _load(source)
    kind = kind or _kind(name, text)
    try:
        found = _READERS[kind](text)
    except KeyError:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(map(repr, _READERS))}") from None
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply to be settings") from None
    except ValueError as error:
        raise ValueError(f"{name}: {said(error)}") from None
    label = Path(name).name or name
    return [Settings(f"{label}: {part}" if part else label, *rest) for part, *rest in found]


def read_process(pid: int) -> Settings:
    """The environment a running process was started with (Linux); changes it made itself later are not in it."""
    try:
        data = Path(f"/proc/{int(pid)}/environ").read_bytes()
    except FileNotFoundError:
        raise ValueError(f"there is no process {pid} (or no /proc: this needs Linux)") from None
    except PermissionError:
        raise ValueError(f"process {pid} belongs to someone else: run as its user, or with sudo") from None
    return Settings(f"process {pid}", _process(data.decode(errors="surrogateescape"))[0][1])


def _load(source) -> tuple[str, str]:
    if isinstance(source, str) and ("\n" in source or "\0" in source or re.match(rf"\s*({_NAME}=|\{{)", source)):
        return "text", source.replace("\r\n", "\n")
    path = Path(source)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; give the file in it that sets the environment")
    with open(path, "rb") as f:
        data = f.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ValueError(f"{path}: larger than {LIMIT >> 20} MiB, so hardly a file of settings")
    try:
        return str(path), data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}), so not a file of settings") from None


def _kind(name: str, text: str) -> str:
    for pattern, kind in _FILES:
        if name != "text" and re.fullmatch(pattern, Path(name).name, re.I):
            return kind
    return next((kind for pattern, kind in _TEXTS if re.search(pattern, text, re.M)), "dotenv")


# --- .env and /proc/PID/environ


def _process(text: str) -> list[tuple]:
    return [("", dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry))]


def _dotenv(text: str) -> list[tuple]:
    variables, remarks = {}, []
    for number, line in enumerate(text.split("\n"), 1):
        m = re.match(rf"(?:export\s+)?({_NAME})\s*(=?)\s*(.*)", line.strip())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if m is None or (not m[2] and m[3]):
            raise ValueError(f"line {number} is {line[:60]!r}: expected NAME=value")
        name, value = m[1], m[3]
        quoted = re.fullmatch(r"""('[^']*'|"(?:\\.|[^"\\])*")(?:\s*#.*)?""", value)
        if quoted:
            value, literal = _unquote(quoted[1])
        else:
            value, literal = re.sub(r"(^|\s)#.*$", "", value).rstrip(), "$" not in value
        if not m[2]:
            remarks.append(("warning", name, name, "taken over from whoever starts the process"))
        elif not literal:
            remarks.append(("warning", name, m[3], "it refers to another variable"))
            variables.pop(name, None)
        else:
            variables[name] = value
            if quoted:
                remarks.append(
                    ("note", name, m[3], "docker run --env-file keeps the quotes: write the value without them")
                )
    return [("", variables, tuple(remarks))]


# --- shell

_QUOTES = r"""(?P<single>'[^']*')|(?P<double>"(?:\\.|[^"\\])*")|(?P<escape>\\.)"""
_PIECE = re.compile(_QUOTES + r"|(?P<plain>[^'\"\\]+|.)", re.S)
_TOKEN = re.compile(
    r"(?P<gap>[ \t\r]+|(?<![^\s;&|()])\#[^\n]*)|(?P<end>[\n;&|()<>]+)|"
    + _QUOTES
    + r"|(?P<plain>[^\s'\"\\;&|()<>]+)|(?P<lone>.[^\n]*)",
    re.S,
)


def _unquote(text: str) -> tuple[str, bool]:
    """A shell word without its quotes, and whether that is all there is to know of it (no `$`, no backtick)."""
    out, literal = [], True
    for m in _PIECE.finditer(text):
        piece = m[0]
        if m.lastgroup == "single":
            out.append(piece[1:-1])
        elif m.lastgroup == "escape":
            out.append(piece[1])
        else:
            body = piece[1:-1] if m.lastgroup == "double" else piece
            literal &= not re.search(r"(?<!\\)[$`]", body)
            out.append(re.sub(r'\\([$`"\\])', r"\1", body))
    return "".join(out), literal


def _commands(text: str) -> Iterator[list[str]]:
    """Simple commands of a shell text, each a list of words as written, quotes included."""
    words, word = [], ""
    for m in _TOKEN.finditer(text.replace("\\\n", " ") + "\n"):
        if m.lastgroup in ("gap", "end", "lone"):
            words += [word] if word else []
            word = ""
            if m.lastgroup == "end" and words:
                yield words
                words = []
        else:
            word += m[0]


_BEFORE_A_COMMAND = {"then", "do", "else", "{", "!", "if", "elif", "while", "exec", "command", "nohup", "time", "sudo"}


def _shell(text: str) -> list[tuple]:
    """Assignments and exports in the order they are written, those in branches too."""
    values: dict[str, str] = {}  # as written
    exported: set[str] = set()
    all_exported = False

    def assign(word: str, export: bool) -> bool:
        m = re.match(rf"({_NAME})(\+?)=", word)
        if m:
            values[m[1]] = "$" + word if m[2] else word[m.end() :]  # += is not literal
            exported.update([m[1]] if export else [])
        return m is not None

    for words in _commands(text):
        words = list(itertools.dropwhile(_BEFORE_A_COMMAND.__contains__, words))
        own = next((i for i, w in enumerate(words) if not re.match(rf"{_NAME}\+?=", w)), len(words))
        for word in words[:own]:
            assign(word, own < len(words) or all_exported)
        head, rest = (words[own], words[own + 1 :]) if own < len(words) else ("", [])
        if head in ("export", "declare", "typeset", "readonly", "local"):
            export = head == "export" or any(re.match(r"-\w*x", w) for w in rest)
            for word in rest:
                if not assign(word, export) and export:
                    exported.add(word)
        elif head == "unset":
            for word in rest:
                values.pop(word, None)
        elif head == "set" and (rest[:1] == ["-a"] or rest[:2] == ["-o", "allexport"]):
            all_exported = True
        elif head == "set" and (rest[:1] == ["+a"] or rest[:2] == ["+o", "allexport"]):
            all_exported = False
        elif head == "env":
            for word in rest:
                assign(word, True)
        else:  # docker run -e NAME=value
            for flag, word in zip([head, *rest], rest, strict=False):
                if flag in ("-e", "--env"):
                    assign(word, True)
    variables, remarks = {}, []
    for name, written in values.items():
        value, literal = _unquote(written)
        if not literal:
            remarks.append(("warning", name, written, RUNTIME))
            continue
        variables[name] = value
        if name not in exported:
            remarks.append(
                ("warning", name, written, "assigned, but not exported: what the script starts does not see it")
            )
    return [("", variables, tuple(remarks))]


# --- Dockerfile

_WORD = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\]|['"\\])+"""


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """(INSTRUCTION, rest) of each logical line; comments, continuations and heredocs resolved."""
    escape = re.match(r"\A#[ \t]*escape[ \t]*=[ \t]*(\S)", text, re.I)
    mark = escape[1] if escape else "\\"
    lines, logical = iter(text.split("\n")), ""
    for line in lines:
        if line.lstrip().startswith("#") or (logical and not line.strip()):
            continue
        if line.rstrip().endswith(mark):
            logical += line.rstrip()[:-1] + " "
            continue
        word, _, rest = (logical + line).strip().partition(" ")
        logical = ""
        for heredoc in re.findall(r"<<-?['\"]?(\w+)", rest) if word.upper() in ("RUN", "COPY", "ADD") else ():
            next((inner for inner in lines if inner.strip() == heredoc), None)
        if word:
            yield word.upper(), rest.strip()


def _dockerfile(text: str) -> list[tuple]:
    """One entry a build stage; a stage inherits the variables of the stage it is built from."""
    stages: dict[str, tuple[dict, list]] = {"": ({}, [])}
    variables, remarks = stages[""]
    inherited = 0
    for word, rest in _instructions(text):
        if word == "FROM":
            m = re.fullmatch(r"(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", rest, re.I)
            if m is None:
                raise ValueError(f"FROM {rest[:60]!r}: expected FROM image [AS name]")
            base = stages.get(f"stage {m[1].lower()}", ({}, []))
            inherited += len(base[0]) + len(base[1])
            if inherited > VARIABLES:
                raise ValueError(f"its stages inherit more than {VARIABLES:,} variables: hardly settings")
            variables, remarks = dict(base[0]), list(base[1])
            stages[f"stage {(m[2] or str(len(stages) - 1)).lower()}"] = (variables, remarks)
        elif word == "ENV":
            pairs = [word.partition("=")[::2] for word in re.findall(_WORD, rest)]
            if "=" not in rest.split(None, 1)[0] if rest else True:  # the old form: ENV NAME all the rest
                pairs = [tuple(rest.split(None, 1))]
            for pair in pairs:
                if len(pair) != 2 or not re.fullmatch(_NAME, pair[0]):
                    raise ValueError(f"ENV {rest[:60]!r}: expected ENV NAME=value")
                value, literal = _unquote(pair[1])
                if literal:
                    variables[pair[0]] = value
                else:
                    variables.pop(pair[0], None)
                    remarks.append(("warning", *pair, "it refers to a variable of the build"))
    found = [(name, v, tuple(r)) for name, (v, r) in stages.items() if name or v or r]
    return [("", *found[0][1:])] if len(found) == 1 else found or [("", {}, ())]


_READERS = {"dotenv": _dotenv, "dockerfile": _dockerfile, "yaml": read_yaml, "shell": _shell, "process": _process}
