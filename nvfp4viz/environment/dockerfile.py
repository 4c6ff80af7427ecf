"""Build stages of a Dockerfile: ENV lasts, ARG and what a RUN exports do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from .assignments import FOLD, NAME, Lines, Value, possible
from .commandline import arguments_of, program_of
from .lexer import WORD, unquote
from .settings import Remark, Settings, settings


def instructions(text: str) -> Iterator[tuple[str, str, int]]:
    """(INSTRUCTION, rest, offset of the rest); continuations are folds, bodies of heredocs stay in the rest."""
    escape = re.match(r"\A#[ \t]*escape[ \t]*=[ \t]*(\S)", text, re.I)
    mark, rows, offset, i = escape[1] if escape else "\\", text.split("\n"), 0, 0
    while i < len(rows):
        row, start = rows[i], offset
        offset += len(row) + 1
        i += 1
        if row.lstrip().startswith("#") or not row.strip():
            continue
        logical = row
        while i < len(rows) and (
            logical.rstrip().endswith(mark) or (rows[i - 1].lstrip().startswith("#") and logical[-1:] == FOLD)
        ):
            logical = logical.rstrip().removesuffix(mark) + FOLD
            following = rows[i]
            offset += len(following) + 1
            i += 1
            skipped = following.lstrip().startswith("#") or not following.strip()
            logical += mark if skipped else following
        m = re.match(r"[ \t]*(\w+)[ \t\x1f]*", logical)
        if m is None:
            continue
        rest = logical[m.end() :]
        for tag in re.findall(r"<<-?['\"]?(\w+)", rest) if m[1].upper() in ("RUN", "COPY", "ADD") else ():
            stop = next((j for j in range(i, len(rows)) if rows[j].strip() == tag), None)
            if stop is not None:
                body = rows[i : stop + 1]
                rest += "\n" + "\n".join(body)
                offset += sum(len(r) + 1 for r in body)
                i = stop + 1
        yield m[1].upper(), rest, start


def read_dockerfile(text: str, lines: Lines, reader, depth: int) -> list[Settings]:
    """One entry a build stage, and one a thing that its RUN and CMD set apart from it."""
    stages: dict[str, dict[str, Value]] = {}
    found: list[Settings] = []
    values: dict[str, Value] = {}
    remarks: list[Remark] = []
    started: list[tuple[str, int]] = []
    name, image = "", ""
    defaults: dict[str, str] = {}  # plain values of ARG and ENV
    for word, rest, offset in [*instructions(text), ("FROM", "", len(text))]:
        line = lines.at(offset)
        if word == "FROM":
            if values or remarks or any(NAME.search(s) or program_of(s) for s, _ in started):
                found += _stage(name, values, remarks, started, image, reader, depth)
            m = re.match(r"(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", rest, re.I)
            base = m[1].lower() if m else ""
            name, image = (m[2] or str(len(stages))).lower() if m else "", base
            values, remarks, started = dict(stages.get(base, {})), [], []
            stages[name] = values
        elif word in ("ENV", "ARG"):
            _env(word, rest, Lines(rest, line), values, remarks, defaults)
        elif word == "RUN":
            found += _run(rest, line, values, remarks, reader, depth, name)
        elif word in ("COPY", "ADD") and "<<" in rest and NAME.search(rest):
            head, _, body = rest.partition("\n")
            target = head.split()[-1]
            for one in reader(body, target, Lines(body, line + 1), {}, depth + 1):
                found.append(one.named(f"line {line}: written into {target}"))
        elif word in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
            started.append((rest, line))
    return found


def _env(word: str, rest: str, lines: Lines, values: dict, remarks: list[Remark], defaults: dict[str, str]) -> None:
    words = list(WORD.finditer(rest.replace(FOLD, " ")))
    if words and "=" not in words[0][0] and word == "ENV":  # the old form: ENV NAME all the rest
        pairs = [(words[0][0], rest[words[0].end() :].strip(" \t\r" + FOLD), lines.at(words[0].start()))]
    else:
        pairs = [(*w[0].partition("=")[::2], lines.at(w.start())) for w in words]
    for name, raw, line in pairs:
        text, literal = unquote(raw)
        if not NAME.fullmatch(name):
            defaults |= {name: text} if literal and text else {}
            continue
        value = Value(text, line, raw[:80])
        if not literal:
            known = [defaults[n] for n in re.findall(r"\$\{?(\w+)", raw) if n in defaults]
            maybe = tuple(dict.fromkeys((*known, *possible(raw))))
            value = Value(None, line, raw[:80], "it refers to a variable of the build", maybe)
        if word == "ENV":
            values[name] = value
        else:
            why = "an ARG lasts while the image is built: what runs in it does not see it unless ENV takes it over"
            remarks.append(Remark("warning", name, raw[:80], why, line))


def _run(rest: str, line: int, values, remarks: list[Remark], reader, depth: int, stage: str) -> list[Settings]:
    if not NAME.search(rest):
        return []
    body, found = _shell_form(rest), []
    heredoc = re.match(r"[ \t]*<<-?['\"]?(\w+)['\"]?[ \t]*\n(.*?)\n?[ \t]*\1[ \t]*$", body, re.S)
    if heredoc:  # the script itself
        body, line = heredoc[2], line + 1
    for one in reader(body, "shell", Lines(body, line), values, depth + 1):
        changed = {n for n in one.variables if n not in values or values[n].text != one.variables[n]}
        written = "written into" in one.name
        if changed and not written:
            for n in sorted(changed):
                why = "set for this RUN alone: later steps and the container do not see it, ENV would"
                remarks.append(Remark("warning", n, one.variables[n], why, one.lines.get(n)))
        if changed or one.unsettled:
            found.append(one.named(f"stage {stage}, RUN") if stage else one.named("RUN"))
    return found


def _shell_form(rest: str) -> str:
    """The exec form, a JSON list, as a command line."""
    if not rest.lstrip().startswith("["):
        return re.sub(r"^(?:--\S+[ \t]+)*", "", rest)
    words = re.findall(r'"((?:\\.|[^"\\])*)"', rest)
    return " ".join(f"'{w}'" if re.search(r"[\s;&|$]", w) else w for w in words)


def _stage(name: str, values, remarks, started, image: str, reader, depth: int) -> list[Settings]:
    line_ = " ".join(_shell_form(rest) for rest, _ in started)  # ENTRYPOINT and CMD are one command
    program, arguments = program_of(line_) or program_of(image), arguments_of(line_)
    whole, found = settings(f"stage {name}", values, remarks, program, arguments), []
    for rest, line in started:
        body = _shell_form(rest)
        for one in reader(body, "shell", Lines(body, line), values, depth + 1) if NAME.search(body) else ():
            if one.variables != whole.variables or one.unsettled != whole.unsettled:
                one = replace(one, program=one.program or program, arguments=arguments | one.arguments)
                found.append(one.named(whole.name))
    return found if found and not remarks else [whole, *found]
