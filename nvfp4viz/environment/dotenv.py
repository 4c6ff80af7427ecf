"""Files of NAME=value lines, as each program that reads them does: bash, docker compose, docker run, systemd."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .assignments import NAME, OPEN, Lines, Value, inherited, possible
from .lexer import unquote
from .names import meant
from .settings import Remark, Settings, settings

BLANKS = " \t\r"  # ASCII only: bash, systemd and the programs themselves keep a no-break space
READERS = ("bash", "docker compose", "docker run --env-file", "systemd")
_LINE = re.compile(
    r"[ \t]*(?P<export>export[ \t]+)?(?P<name>[^\s=#;][^\s=]*)(?P<before>[ \t]*)"
    r"(?P<eq>=?)(?P<after>[ \t]*)(?P<rest>[^\n]*)"
)
_MULTILINE = 200  # lines that one quoted value may span
REFUSED = object()


def read_dotenv(text: str, lines: Lines) -> list[Settings]:
    """One environment; where the readers of such a file differ the value is open, and the remark says who gets what."""
    values: dict[str, Value] = {}
    remarks: list[Remark] = []
    exports_noted = False
    for offset, line in _logical(text):
        m = _LINE.match(line)
        if m is None or not NAME.fullmatch(m["name"]):
            continue
        at = lines.at(offset)
        if not m["eq"]:
            if not m["rest"].strip(BLANKS) and meant(m["name"]):
                values[m["name"]] = inherited(m["name"], at)
            continue
        values[m["name"]], remark = _value(m, at, m["export"] is not None)
        remarks += [remark] if remark else []
        if m["export"] and not exports_noted:
            exports_noted = True
            why = "a file for a shell: docker run --env-file refuses a line with export, and systemd ignores it"
            remarks.append(Remark("note", m["name"], line.strip()[:80], why, at))
    return [settings("", values, remarks)]


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their offsets; a quoted value of many lines is one."""
    offset, rows = 0, text.split("\n")
    i = 0
    while i < len(rows):
        row, start, first = rows[i], offset, i
        offset += len(row) + 1
        i += 1
        opened = re.match(r"[ \t]*(?:export[ \t]+)?[\w.-]+[ \t]*=[ \t]*([\"'])", row)
        if opened and not _closes(row[opened.end() :], opened[1]):
            for j in range(i, min(i + _MULTILINE, len(rows))):
                if _closes(rows[j], opened[1]):
                    offset += sum(len(r) + 1 for r in rows[i : j + 1])
                    i = j + 1
                    break
        yield start, row if i == first + 1 else row + "\n" + "\n".join(rows[first + 1 : i])


def _closes(row: str, quote: str) -> bool:
    return re.search(rf"(?<!\\){quote}", row) is not None


def by_reader(m: re.Match) -> dict[str, object]:
    """Reader -> the value it takes; None where only it can expand it; REFUSED where it takes no such line.

    >>> by_reader(_LINE.match("A=1 # on"))["docker run --env-file"], by_reader(_LINE.match("A=1 # on"))["bash"]
    ('1 # on', '1')
    """
    rest, found = m["rest"], {}
    whole = m["after"] + rest
    first = re.match(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s'\"\\])*", rest, re.S | re.A)[0]
    text, literal = unquote(first)
    found["bash"] = REFUSED if m["before"] or (m["after"] and rest) else text if literal else None
    quoted = re.match(r"'([^']*)'|\"((?:\\.|[^\"\\])*)\"", rest, re.S)
    if quoted:
        text = quoted[1] if quoted[1] is not None else re.sub(r'\\(["\\$])', r"\1", quoted[2])
        found["docker compose"] = None if quoted[2] is not None and re.search(r"(?<!\\)\$", quoted[2]) else text
    else:
        text = rest.split(" #")[0].rstrip()  # as Go's unicode.IsSpace: the no-break space too
        found["docker compose"] = None if "$" in text else "" if text.startswith("#") else text
    refused = m["export"] or m["before"]
    found["docker run --env-file"] = REFUSED if refused else whole.rstrip("\r")
    systemd = unquote(rest.strip(BLANKS))[0] if rest[:1] in "'\"" and rest else rest.strip(BLANKS)
    found["systemd"] = REFUSED if m["export"] else systemd
    return found


def _value(m: re.Match, line: int, exported: bool) -> tuple[Value, Remark | None]:
    found = by_reader(m)
    if exported:  # a file for a shell
        found = {r: v for r, v in found.items() if r in ("bash", "docker compose")}
    taken = {r: v for r, v in found.items() if v is not REFUSED}
    written = (m["after"] + m["rest"]).strip(" \t\r")[:80]
    texts = list(dict.fromkeys(v for v in taken.values()))
    if None in texts or any(isinstance(t, str) and OPEN.search(t) for t in texts[:2]):
        return Value(None, line, written, "it refers to another variable", possible(m["rest"])), None
    if len(texts) == 1 and len(taken) == len(found):
        return Value(texts[0], line, written), None
    by_program = "; ".join(
        f"{', '.join(rs)}: {'no such line' if v is REFUSED else repr(v)}" for v, rs in _groups(found)
    )
    remark = Remark("warning", m["name"], written, f"it depends on who reads this file: {by_program}", line)
    maybe = (*texts, *([None] if len(taken) < len(found) else []))  # refused: not set
    return Value(None, line, written, "it depends on who reads this file", maybe), remark


def _groups(found: dict) -> list[tuple[object, list[str]]]:
    groups: list[tuple[object, list[str]]] = []
    for reader, value in found.items():
        same = next((g for g in groups if g[0] is value or (isinstance(value, str) and g[0] == value)), None)
        same[1].append(reader) if same else groups.append((value, [reader]))
    return groups
