"""Texts that hold texts: the blocks of a README, the strings of a Python program, the cells of a notebook."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from .assignments import NAME, Lines, Value, places
from .settings import Remark, Settings, settings
from .structure import read_generic

_LANGUAGES = {  # of a fenced block: the name of a file of its kind
    **dict.fromkeys(("bash", "sh", "console", "shell", "zsh", "shell-session"), "shell"),
    **dict.fromkeys(("py", "python", "python3"), "python"),
    **dict.fromkeys(("env", "dotenv"), ".env"),
    "dockerfile": "Dockerfile", "powershell": "x.ps1",
}  # fmt: skip
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1", re.M | re.S)
_DIRECTIVE = re.compile(  # reStructuredText: what is indented behind `::`
    r"^[ \t]*(?:\.\. (?:code-block|code|sourcecode|prompt|tab)::[ \t]*([\w+-]*)[^\n]*|[^\n]*::)[ \t]*\n"
    r"(?:[ \t]+:[\w-]+:[^\n]*\n)*((?:[ \t]*\n|[ \t]+\S[^\n]*\n)+)", re.M,
)  # fmt: skip
_INDENTED = re.compile(r"(?:\A|(?<=\n))[ \t]*\n()((?:(?: {4}|\t)[^\n]*(?:\n|\Z))+)")
_TRIPLE = re.compile(r"(?P<quote>\"{3}|'{3})(?P<body>.*?)(?P=quote)", re.S)
_CONSTANT = re.compile(
    r"^[ \t]*(?P<constant>[A-Za-z_]\w*)[ \t]*(?::[^=\n]*)?=[ \t]*[\"'](?P<name>\w+)[\"'][ \t]*(?:#.*)?$", re.M
)
CONSTANTS = 20  # that are put in where they are used, and uses of one
_NEAR = 200  # characters before a string that say whether it is one of a program: `run(f`, `script = `
_SCRIPTS = ("shell", "yaml", "dockerfile", "systemd")  # what a string of a program can be


def read_markdown(text: str, lines: Lines, reader, depth: int) -> list[Settings]:
    """Each block of code as the text that it is; the prose names variables and sets none."""
    found: list[Settings] = []
    for language, body, start in _blocks(text):
        if NAME.search(body):
            first = lines.at(start)
            body = re.sub(r"^([ \t]*)\$ ", r"\1  ", body, flags=re.M)
            kind = _LANGUAGES.get(language, language and f"x.{language}")
            found += [
                one.named(f"block of line {first - 1}") for one in reader(body, kind, Lines(body, first), {}, depth + 1)
            ]
    return found


def _blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, text and offset of each block: fenced ones, then those that are only indented."""
    for m in _FENCED.finditer(text):
        yield m[2].lower(), m[3], m.start(3)
    text = _FENCED.sub(lambda m: re.sub(r"[^\n]", "x", m[0]), text)
    for pattern in (_DIRECTIVE, _INDENTED):
        for m in pattern.finditer(text):
            yield (m[1] or "").lower(), m[2], m.start(2)
        text = pattern.sub(lambda m: re.sub(r"[^\n]", "x", m[0]), text)


def read_python(text: str, lines: Lines, given: dict[str, Value], reader, kind_of, depth: int) -> list[Settings]:
    """What a program sets, and what a script in a string of many lines does; a docstring sets nothing."""
    found: list[Settings] = []
    text = _constants(text)
    lines = Lines(text, lines.first)
    own, end, remarks = [], 0, []  # the program without such strings
    for m in _TRIPLE.finditer(text):
        if NAME.search(m["body"]) and _documents(text, m.start()):
            for p in places(text, lines, "prose", m.start(), m.end()):
                remarks.append(Remark("note", p.name, p.value.written, "in a docstring: not set", p.value.line))
            own += [text[end : m.start()], re.sub(r"[^\n]", " ", m[0])]
            end = m.end()
            continue
        body, before = m["body"], re.split(r"[\n\"']", text[max(0, m.start() - _NEAR) : m.start()])[-1].strip()
        if not before or "\n" not in body or not NAME.search(body) or kind_of("", body) not in _SCRIPTS:
            continue
        if "f" in before[-2:].lower():
            body = re.sub(r"(?<!\{)\{([^{}\n]+)\}", r"$\1", body)  # filled in by the program, as by a shell
        first = lines.at(m.start("body"))
        found += [one.named(f"string of line {first}") for one in reader(body, "", Lines(body, first), {}, depth + 1)]
        own += [text[end : m.start("body")], re.sub(r"[^\n]", " ", m["body"])]
        end = m.end("body")
    found = read_generic("".join(own) + text[end:], lines, "python", given) + found
    return found if not remarks else [settings("", {}, remarks)] if not found else [
        replace(found[0], remarks=(*found[0].remarks, *remarks)), *found[1:]]  # fmt: skip


def _documents(text: str, at: int) -> bool:
    """Whether a string that begins at an offset is the docstring of a file, a class or a function."""
    before = text[max(0, at - _NEAR) : at].rstrip(" \trR")
    first = at < _NEAR and not re.sub(r"#[^\n]*", "", text[:at]).strip(" \t\nrR")
    return first or (before.endswith("\n") and before.rstrip().endswith(":"))


def _constants(text: str) -> str:
    """Names that stand in a constant, put in where it is used: `FLAG = "NAME"`, `os.environ[FLAG] = "1"`."""
    for m in itertools.islice(_CONSTANT.finditer(text), CONSTANTS):
        if NAME.fullmatch(m["name"]):
            used = rf"(?<=[\[({{,])([ \t]*){m['constant']}(?=[ \t]*[\]:,])"
            text = re.sub(used, rf'\1"{m["name"]}"', text, count=CONSTANTS)
    return text


def read_notebook(text: str, lines: Lines, given: dict[str, Value], reader, kind_of, depth: int) -> list[Settings]:
    """The code of a notebook's cells as one program, each line where it stands in the file."""
    rows = text.split("\n")
    code = [_source_line(row) for row in rows]
    program = "\n".join(code)
    if not NAME.search(program):
        return read_generic(text, lines, "", given)
    return read_python(program, Lines(program, lines.first), given, reader, kind_of, depth)


def _source_line(row: str) -> str:
    """The line of code that a line of a notebook's JSON holds, or nothing; magics as what they do."""
    m = re.fullmatch(r"[ \t]*(?:\"source\": \[)?[ \t]*(\"(?:[^\"\\]|\\.)*\")[\], \t]*", row)
    try:
        code = json.loads(m[1]).rstrip("\n") if m else ""
    except ValueError:
        return ""
    magic = re.match(r"%(?:set_)?env[ \t]+(\w+)(?:[ \t]*=[ \t]*|[ \t]+)(\S.*)$", code)
    return f"os.environ[{magic[1]!r}] = {magic[2].strip()!r}" if magic else re.sub(r"\n", " ", code)
