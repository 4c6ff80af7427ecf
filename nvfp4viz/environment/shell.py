"""What a shell text gives each program that it starts: prefixes, exports, branches, and what cuts inheritance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from .assignments import NAME, Lines, Value, places, possible
from .commandline import arguments_of, program_of
from .flow import Flow
from .inheritance import cut, requote, runs, started
from .lexer import NAMED, Command, Word, commands, unquote
from .settings import Building, Remark, Settings, settings

DEPTH = 6  # of texts in texts
_ASSIGNMENT = re.compile(rf"({NAMED})(\+?)=")
_HARMLESS = re.compile(r"activate$|conda\.sh$|nvm\.sh$|setvars\.sh$|/dev/|completion|cargo/env$|lib/functions")
_KEYWORDS = {"exec", "command", "time", "builtin"}
_SHELLS = {"bash", "sh", "zsh", "dash", "ksh", "fish"}
_PRINTERS = {"echo", "printf", "cat", "tee"}
_RUNS_TEXT = _SHELLS | {
    "ssh",
    "su",
    "sudo",
    "docker",
    "podman",
    "nerdctl",
    "kubectl",
    "oc",
    "srun",
    "tmux",
    "screen",
    "eval",
    "pdsh",
    "clush",
    "parallel-ssh",
    "apptainer",
    "singularity",
    "enroot",
    "salloc",
    "sbatch",
    "xargs",
    "env",
    "timeout",
    "nohup",
    "systemd-run",
    "mpirun",
    "flux",
    "gcloud",
    "run",
    "watch",
    "wsl",
}

Reader = Callable[..., list[Settings]]  # (text, name, lines, given, depth) -> what a text inside this one sets


class Shell(Flow):
    """One text, read from top to bottom; `found` has what each program gets."""

    def __init__(self, text: str, lines: Lines, given: dict[str, Value], reader: Reader, depth: int):
        super().__init__(commands(text), Building(dict(given), exported=set(given)))
        self.text, self.lines, self.reader, self.depth = text, lines, reader, depth
        self.found: list[Settings] = []
        self.used: set[tuple[str, int]] = set()  # assignments that some program was seen to get

    def run(self) -> list[Settings]:
        for m in re.finditer(r"^#(?:SBATCH|PBS|BSUB|FLUX|\$)[^\n]*", self.text, re.M):  # options of a batch system
            for place in places(self.text, self.lines, "shell", m.start(), m.end()):
                if place.kind == "set":
                    self._assign(place.name, place.value, True)
        self._block(0, len(self.items))
        for name, (start, end) in list(self.functions.items()):
            if name not in self.called:
                self._call(name, start, end)
        self._rest()
        return self.found

    # --- one command

    def _line(self, command: Command) -> int:
        return self.lines.at(command.words[0].start if command.words else command.start)

    def _simple(self, command: Command) -> None:
        words = command.words
        while words and words[0].raw in _KEYWORDS:
            words = words[1:]
        own = next((i for i, w in enumerate(words) if not _ASSIGNMENT.match(w.raw)), len(words))
        prefix = [self._value(w) for w in words[:own]]
        if own == len(words):
            for name, value in prefix:
                self._assign(name, value, False)
            return
        if self._builtin(words[own:], command):
            return
        head = words[own].raw
        if head in self.functions and not prefix:
            self._call(head, *self.functions[head])
            return
        self._launch(command, words[own:], {n: v for n, v in prefix if NAME.match(n)})

    def _value(self, word: Word) -> tuple[str, Value]:
        m = _ASSIGNMENT.match(word.raw)
        raw, line = word.raw[m.end() :], self.lines.at(word.start)
        text, literal = unquote(raw)
        if m[2] or not literal:
            why = "added to what is there" if m[2] else "only known when the shell runs"
            names = re.findall(r"\$\{?(\w+)", raw)
            known = tuple(self.states[0].literals[n] for n in names[:1] if n in self.states[0].literals)
            value = Value(None, line, raw[:80], why, tuple(dict.fromkeys((*known, *possible(raw)))))
        else:
            value = Value(text, line, raw[:80])
        self._carry(m[1], word, m.end(), text if literal else None)
        return m[1], value

    def _carry(self, name: str, word: Word, at: int, literal: str | None) -> None:
        """A variable of the script whose words set ours: `ARGS="-e NAME=1"`."""
        inner = list(places(self.text, self.lines, "", word.start + at, word.start + len(word.raw)))
        held = {
            p.name: Value(None, p.value.line, p.value.written, f"it stands in the value of {name}",
                          (p.value.text, *p.value.maybe, None) if p.value.settled else p.value.maybe)
            for p in inner if p.kind == "set"
        }  # fmt: skip
        for state in self.states:
            state.carried[name] = state.carried.get(name, {}) | held if word.raw[at - 2 : at - 1] == "+" else held
            if literal is not None and len(literal) < 40:
                state.literals[name] = literal

    def _assign(self, name: str, value: Value, export: bool) -> None:
        if not NAME.match(name):
            return
        for state in self.states:
            state.values[name] = value
            if export or state.all_exported:
                state.exported.add(name)

    def _builtin(self, words: list[Word], command: Command) -> bool:
        head, rest = words[0].raw, words[1:]
        if head in ("export", "declare", "typeset", "readonly", "local"):
            export = head == "export" or any(re.match(r"-\w*x", w.raw) for w in rest)
            for word in rest:
                self._export(word, export)
        elif head == "unset":
            for word in rest:
                for state in self.states:
                    state.values.pop(word.text, None)
        elif head == "set" and rest and rest[0].raw in ("-a", "+a", "-o", "+o"):
            if rest[0].raw[1] == "a" or [w.raw for w in rest[1:2]] == ["allexport"]:
                for state in self.states:
                    state.all_exported = rest[0].raw[0] == "-"
        elif head in ("source", ".") and rest:
            self._sourced(words)
        elif head == "setenv" and len(rest) >= 2:
            self._assign(rest[0].text, self._plain(rest[1]), True)
        elif head == "set" and rest and re.match(r"-\w*[gx]|--export", rest[0].raw) and len(rest) >= 2:  # fish
            self._assign(rest[-2].text, self._plain(rest[-1]), "x" in rest[0].raw)
        else:
            return False
        return True

    def _plain(self, word: Word) -> Value:
        text, literal = unquote(word.raw)
        line = self.lines.at(word.start)
        return (
            Value(text, line, word.raw[:80])
            if literal
            else Value(None, line, word.raw[:80], "only known when the shell runs", possible(word.raw))
        )

    def _export(self, word: Word, export: bool) -> None:
        bare = word.raw.strip("\"'")
        quoted = Word(word.raw[0] + word.raw[1:], word.start)
        m = _ASSIGNMENT.match(bare)
        if m and not _ASSIGNMENT.match(word.raw):  # export "NAME=value"
            text, literal = unquote(word.raw)
            quoted = Word(f"{m[1]}{m[2]}={requote(text[m.end() :], literal)}", word.start)
        if m:
            name, value = self._value(quoted)
            self._assign(name, value, export)
        elif export and NAME.match(bare):
            for state in self.states:
                state.exported.add(bare)
                inherited = Value(
                    None, self.lines.at(word.start), bare, "taken over from whoever starts it", (None, "1")
                )
                state.values.setdefault(bare, inherited)

    def _sourced(self, words: list[Word]) -> None:
        what = words[1].text
        if _HARMLESS.search(what):
            return
        remark = Remark(
            "warning",
            words[0].raw,
            f"{words[0].raw} {what}",
            "not followed: what it sets is not known here; check that file too",
            self.lines.at(words[0].start),
        )
        for state in self.states:
            state.remarks.append(remark)

    # --- a program that is started

    def _launch(self, command: Command, words: list[Word], prefix: dict[str, Value]) -> None:
        head = words[0].text.rsplit("/", 1)[-1]
        if head in _PRINTERS:
            self._printed(command, words)
            return
        raw = self.text[words[0].start : command.end] + " ".join(body for _, body in command.heredocs)
        texts = [w.text for w in words]
        why, program = cut(texts), program_of(raw) or program_of(" ".join(texts))
        inner = self._inner(command, words)
        own = self._arguments(words, [w for w, _ in inner])
        for state in self.states:
            given = state.given() | prefix
            values, remarks = self._passed(given, own, why, words, texts)
            carried = {n: v for name in re.findall(r"\$\{?(\w+)", raw) for n, v in state.carried.get(name, {}).items()}
            self.used |= {(n, v.line) for n, v in carried.items()}
            values |= carried
            if inner:
                for _, (body, lines, kind) in inner:
                    for one in self.reader(body, kind, lines, values, self.depth + 1):
                        self._emit(command, state, one, remarks)
                continue
            if not (program or own or prefix or carried or (why and given)):
                continue  # no program known here: what is left is told at the end
            self._emit(command, state, settings("", values, (), program, arguments_of(raw)), remarks)

    def _arguments(self, words: list[Word], skip: list[Word]) -> dict[str, Value]:
        """What the arguments themselves set: -e NAME=1, env NAME=1, --export=ALL,NAME=1, a JSON in quotes."""
        own: dict[str, Value] = {}
        for word in words[1:]:
            if word in skip or not NAME.search(word.raw):
                continue
            end = word.start + len(word.raw)
            for place in places(self.text, self.lines, "shell" if "{" not in word.raw else "", word.start, end):
                if place.kind in ("set", "inherit"):
                    own[place.name] = place.value
                elif place.kind == "unset":
                    own[place.name] = Value(None, place.value.line, place.name, "")
        return own

    def _passed(self, given: dict[str, Value], own: dict[str, Value], why: str, words: list[Word], texts: list[str]):
        values, remarks = {} if why else dict(given), []
        for name, value in own.items():
            taken = value.open.startswith("taken over")
            values[name] = given[name] if taken and name in given else value
        lost = sorted(set(given) - set(own)) if why else []
        for name in lost:
            told = f"{why}; what it starts does not get it"
            remarks.append(Remark("warning", name, given[name].written, told, given[name].line))
        for flag, word in zip(texts, [*texts[1:], ""], strict=True):
            if flag.startswith("--env-file"):
                path = flag.partition("=")[2] or word
                remarks.append(
                    Remark(
                        "warning",
                        "--env-file",
                        path,
                        "not followed: check that file too, as docker run reads it",
                        self.lines.at(words[0].start),
                    )
                )
        return values, remarks

    def _inner(self, command: Command, words: list[Word]) -> list[tuple[Word | None, tuple[str, Lines, str]]]:
        """Texts that this command has run: bash -c '...', ssh host '...', python - <<EOF."""
        found: list = []
        if self.depth >= DEPTH:
            return found
        heads = {w.text.rsplit("/", 1)[-1] for w in words[:14]}
        python = next((w for w in words[:14] if re.fullmatch(r"(?:.*/)?python[\d.]*", w.text)), None)
        for i, word in enumerate(words[1:], 1):
            flag = words[i - 1].raw
            body = word.raw[1:-1] if re.fullmatch(r"(?s)'.*'|\".*\"", word.raw) else ""
            if not body or body.lstrip(" \n\t").startswith("{"):
                continue
            lines = Lines(body, self.lines.at(word.start))
            if python and re.fullmatch(r"-\w*c", flag) and not heads & _SHELLS:
                found.append((word, (body, lines, "python")))
            elif heads & _RUNS_TEXT and (re.fullmatch(r"-\w*c", flag) or (re.search(r"\s", body) and runs(body))):
                unescaped = re.sub(r'\\(["$`\\])', r"\1", body) if word.raw[0] == '"' else body
                found.append((word, (unescaped, Lines(unescaped, lines.first), "shell")))
        for start, body in command.heredocs:
            kind = "python" if python else "shell" if heads & _RUNS_TEXT - {"kubectl", "oc"} else ""
            found.append((None, (body, Lines(body, self.lines.at(start)), kind or next(iter(command.targets), ""))))
        return [(w, t) for w, t in found if NAME.search(t[0]) or program_of(t[0])]

    def _printed(self, command: Command, words: list[Word]) -> None:
        """Text that goes into a file sets what that file sets; text on a screen sets nothing."""
        targets = [*command.targets, *[w.text for w in words[1:2] if words[0].raw == "tee"]]
        if command.after == "|":
            following = next((c for c in self.items if c.start >= command.end), None)
            follows = [w.text for w in following.words] if following else []
            targets += [w for w in follows[1:] if "tee" in follows[:3] and w not in ("tee", "-a")][-1:]
        bodies = [(self.lines.at(s), b) for s, b in command.heredocs]
        bodies += [(self.lines.at(w.start), w.text) for w in words[1:] if NAME.search(w.raw)]
        for line, body in bodies if targets and self.depth < DEPTH else ():
            for one in self.reader(body, targets[0], Lines(body, line), {}, self.depth + 1):
                name = f"line {line}: written into {targets[0]}"
                self._emit(command, None, one, [], name)

    def _emit(
        self, command: Command, state: Building | None, one: Settings, remarks: Iterable[Remark], name: str = ""
    ) -> None:
        where = name or one.name or f"line {self._line(command)}: {started(command)}"
        path = f" ({state.path})" if state and state.path and len(self.states) > 1 else ""
        more = (*(state.remarks if state else ()), *remarks, *one.remarks)
        self.used |= {(n, line) for n, line in one.lines.items()}
        if state:
            self.used |= {(n, v.line) for n, v in state.given().items()}
        self.found.append(replace(one, name=where + path, remarks=tuple(dict.fromkeys(more))))

    def _rest(self) -> None:
        """What the text exports or assigns and no program that it starts was seen to get."""
        for state in self.states:
            left = {n: v for n, v in state.values.items() if (n, v.line) not in self.used}
            for held in state.carried.values():
                left |= {n: v for n, v in held.items() if (n, v.line) not in self.used and n not in state.values}
                self.used |= {(n, v.line) for n, v in held.items()}
            if not left and not (state.remarks and not self.found):
                continue
            remarks = [
                Remark("warning", n, v.written, "assigned, but not exported: what it starts does not see it", v.line)
                for n, v in left.items() if n in state.values and n not in state.exported
            ]  # fmt: skip
            values = {n: v for n, v in state.values.items() if n in state.exported or n in left} | left
            path = state.path if len(self.states) > 1 else ""
            self.found.append(settings(path, values, [*state.remarks, *remarks]))
