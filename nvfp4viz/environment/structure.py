"""Scopes of texts that are neither shell nor YAML: systemd unit, Makefile, justfile, TOML, Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .assignments import FOLD, NAME, Lines, Place, Value, inherited, places, possible, value_of
from .commandline import arguments_of, program_of
from .lexer import WORD, unquote
from .settings import Remark, Settings, settings


def assemble(
    found: Iterable[Place], given: dict[str, Value] | None = None, remarks: list[Remark] | None = None
) -> dict[str, Value]:
    """What places set, in order; a name that is set to several values is open, for one of them may hold."""
    values, seen = dict(given or {}), {}
    for place in found:
        name, value = place.name, place.value
        if place.kind == "unset":
            values[name] = Value(None, value.line, name)
        elif place.kind in ("set", "inherit"):
            before = seen.get(name)
            if before is not None and (before.text, before.maybe) != (value.text, value.maybe):
                texts = [t for v in (before, value) for t in ((v.text,) if v.settled else v.maybe)]
                why = f"set on line {before.line} and again on line {value.line}"
                if remarks is not None:
                    message = f"set again on line {value.line}"
                    remarks.append(Remark("note", name, before.written, message, before.line))
                value = Value(None, value.line, value.written, why, tuple(dict.fromkeys(texts))[:6])
            values[name] = seen[name] = value
    return values


def uncommented(found: Iterable[Place], text: str, marks: str = "#") -> Iterator[Place]:
    """Places that do not stand in a comment."""
    pattern = re.compile(rf"(?:^\s*;|(?:^|\s)(?:{marks}))[^\"'\n]*$")
    for place in found:
        before = text[max(0, place.start - 300) : place.start]
        if not pattern.search(before[max(before.rfind("\n"), before.rfind(FOLD)) + 1 :]):
            yield place


# --- systemd


def read_systemd(text: str, lines: Lines, reader, depth: int) -> list[Settings]:
    values: dict[str, Value] = {}
    remarks: list[Remark] = []
    started: list[tuple[str, int]] = []
    folded = re.sub(r"\\\n", " " + FOLD, text)
    for m in re.finditer(r"^[ \t]*(\w+)[ \t]*=[ \t]*([^\n]*)", folded, re.M):
        key, rest, at = m[1], m[2], lines.at(m.start())
        if key == "Environment":
            if not rest.strip():
                values.clear()
            for word in WORD.finditer(rest):
                name, eq, text_ = unquote(word[0])[0].partition("=")
                if eq and NAME.fullmatch(name):
                    line = lines.at(m.start(2) + word.start())
                    values[name] = Value(text_, line, text_[:80])
                    if re.search(r"%[^%]", text_):
                        values[name] = value_of(text_, line, why="a specifier of systemd")
        elif key in ("PassEnvironment", "UnsetEnvironment"):
            for name in rest.split():
                passed = key == "PassEnvironment"
                values[name] = inherited(name, at, "the service manager") if passed else Value(None, at, name)
        elif key == "EnvironmentFile":
            why = "not followed: check that file too, as systemd reads it"
            remarks.append(Remark("warning", key, rest[:80], why, at))
        elif key.startswith("Exec") and rest:
            started.append((rest.lstrip("-@:+!"), at))
    values = {n: v for n, v in values.items() if NAME.fullmatch(n)}
    found: list[Settings] = []
    for rest, line in started:
        inner = reader(rest, "shell", Lines(rest, line), values, depth + 1)
        found += [one for one in inner if one.variables or one.program or one.unsettled or one.remarks]
    known = {(n, v.line) for n, v in values.items()}  # ExecStartPre and the like get no more than the unit
    found = [o for o in found if o.program or o.remarks or set(o.lines.items()) - known] or found[:1]
    if not found:
        return [settings("", values, remarks)]
    return [
        Settings(o.name, o.variables, o.lines, o.unsettled, o.program, o.arguments, (*remarks, *o.remarks))
        for o in found
    ]


# --- Makefile

_RULE = re.compile(
    r"^(?:[\w./$()%-]+[ \t]*:{1,2}[ \t]*)?(?P<export>(?:override[ \t]+)?export[ \t]+)?"
    r"(?P<name>\w+)[ \t]*(?P<op>\+|\?|:{0,3})=[ \t]*(?P<value>[^\n#]*)"
)
_TARGET = re.compile(r"[^\s#][^=:\n]*:(?!=)|[\w-]+(?:[ \t]+[+*]?\w+(?:=(?:\"[^\"]*\"|'[^']*'|\w*))?)+[ \t]*:(?!=)")


def read_justfile(text: str, lines: Lines, reader, depth: int) -> list[Settings]:
    """A justfile: a Makefile with recipes indented by anything, and texts in quotes."""
    text = re.sub(r"^[ ]+(?=\S)", "\t", text, flags=re.M)
    return read_makefile(text, Lines(text, lines.first), reader, depth, _expression)


def read_makefile(text: str, lines: Lines, reader, depth: int, value_at=value_of) -> list[Settings]:
    """Exported variables, and what each recipe starts with them; `value_at` reads what is assigned."""
    folded = re.sub(r"\\\n", " " + FOLD, text)
    values: dict[str, Value] = {}
    exported, all_exported, recipes = set(), False, []
    macros: dict[str, tuple[str, int]] = {}  # variables of make whose words set ours
    target, body, first, offset = "", [], 0, 0
    for row in [*folded.split("\n"), ""]:
        if row.startswith("\t"):
            first = first or lines.at(offset)
            body.append(re.sub(r"^\t[@+-]*", "", row).replace("$$", "$"))
        else:
            if body:
                recipes.append((target, "\n".join(body), first))
            body, first = [], 0
            if re.match(r"export[ \t]*(?:#|$)|\.EXPORT_ALL_VARIABLES[ \t]*:", row):
                all_exported = True
            m, alone = _RULE.match(row), re.match(r"export[ \t]+([\w \t]+)$", row)
            if m and NAME.fullmatch(m["name"]):
                line, raw = lines.at(offset), m["value"].strip(" \t\r" + FOLD)
                values[m["name"]] = value_at(raw, line)
                if m["op"] in ("+", "?"):
                    why = "kept or added to, if it is set already"
                    values[m["name"]] = Value(None, line, raw[:80], why, (raw, *possible(raw)))
                exported |= {m["name"]} if m["export"] else set()
            elif m and NAME.search(m["value"]):
                macros[m["name"]] = (m["value"], lines.at(offset + m.start("value")))
            elif alone:
                exported |= set(alone[1].split())
            elif _TARGET.match(row):
                target = re.split(r":|[ \t]\w+=", row)[0].strip()
        offset += len(row) + 1
    given = {n: v for n, v in values.items() if all_exported or n in exported}
    found = []
    for target, recipe, line in recipes:
        if NAME.search(recipe) or program_of(recipe) or _MACRO.search(recipe):
            inner = _recipe(recipe, line, given, macros, reader, depth)
            found += [one.named(f"target {target}") for one in inner]
    why = "assigned, but not exported: what a recipe starts does not see it"
    remarks = [Remark("warning", n, v.written, why, v.line)
               for n, v in values.items() if n not in given]  # fmt: skip
    if remarks or not found:
        found.append(settings("", given | {n: v for n, v in values.items() if n not in given}, remarks))
    return found


_MACRO = re.compile(r"\$[({](\w+)[)}]")


def _recipe(recipe: str, line: int, given: dict[str, Value], macros: dict, reader, depth: int) -> list[Settings]:
    """A recipe as the shell gets it, with the variables of make put in; what they set keeps its own line."""
    at: dict[str, int] = {}
    for name, (value, first) in macros.items():
        if re.search(rf"\$[({{]{name}[)}}]", recipe):
            at |= {p.name: p.value.line for p in places(value, Lines(value, first)) if p.kind == "set"}
    recipe = _MACRO.sub(lambda m: macros[m[1]][0].replace(FOLD, " ") if m[1] in macros else m[0], recipe)
    return [
        replace(one, lines={n: at.get(n, line_) for n, line_ in one.lines.items()})
        for one in reader(recipe, "shell", Lines(recipe, line), given, depth + 1)
    ]


def _expression(raw: str, line: int) -> Value:
    """The value of an expression of just: a text in quotes, or what only just knows."""
    quoted = re.fullmatch(r"'([^']*)'|\"([^\"\\]*)\"", raw)
    if quoted:
        return Value(quoted[1] if quoted[1] is not None else quoted[2], line, raw[:80])
    named = re.findall(r"['\"]([^'\"]*)['\"]", raw)
    return Value(None, line, raw[:80], "an expression of just", tuple(dict.fromkeys([*named[-1:], "1", "0"])))


# --- anything else: braces and sections are scopes


def read_generic(text: str, lines: Lines, language: str, given: dict[str, Value]) -> list[Settings]:
    """Assignments of the text itself, and with them those of each group of braces or section."""
    found = list(uncommented(places(text, lines, language), text, "//|#" if language != "bat" else r"(?i:rem)\s|::"))
    spans = _groups(text)
    scoped: dict[int, list[Place]] = {}
    for place in found:
        scoped.setdefault(_scope(spans, place, text), []).append(place)
    remarks: list[Remark] = []
    outer = assemble(scoped.pop(-1, []), given, remarks)
    program, arguments = program_of(text), arguments_of(text)
    whole = [settings("", outer, remarks, program, arguments)] if outer or program else []
    result = []
    for start, inner in scoped.items():
        label = (
            "section " + text[start:].split("]")[0][1:].strip("[ ") if text[start] == "[" else f"line {lines.at(start)}"
        )
        values = assemble(inner, outer, remarks)
        if any(p.kind != "mention" for p in inner):
            result.append(settings(label, values, remarks, program, arguments))
    return result or whole


def _groups(text: str) -> list[tuple[int, int]]:
    """Spans of `{...}` and of `[section]`s, those that begin later later."""
    spans, stack = [], []
    for m in re.finditer(r"(?<![$%{])\{(?!\{)|(?<!\})\}(?!\})|^[ \t]*\[{1,2}[\w .:\"'/-]+\]{1,2}[ \t]*$", text, re.M):
        if m[0] == "{":
            stack.append(m.start())
        elif m[0] == "}":
            if stack:
                spans.append((stack.pop(), m.end()))
        else:
            following = re.compile(r"^[ \t]*\[{1,2}[\w .:\"'/-]+\]{1,2}[ \t]*$", re.M).search(text, m.end())
            spans.append((m.start() + len(m[0]) - len(m[0].lstrip()), following.start() if following else len(text)))
    return sorted(spans)


def _scope(spans: list[tuple[int, int]], place: Place, text: str) -> int:
    """Where the innermost group round a place begins; -1 for the text itself."""
    import bisect

    at, skip = bisect.bisect_right(spans, (place.start, len(text) + 1)) - 1, 0
    pair = bool(re.search(r"(?i)name\\?[\"']?\s*[:=]\s*\\?[\"']?$", text[max(0, place.start - 40) : place.start]))
    for start, end in reversed(spans[max(0, at - 50) : at + 1]):
        if start < place.start < end:
            if pair and text[start] == "{" and skip == 0:  # {name: X, value: 1} belongs to what is round it
                skip = 1
                continue
            return start
    return -1
