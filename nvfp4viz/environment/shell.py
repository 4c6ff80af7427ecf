"""What a shell text assigns and exports, from top to bottom, in every way through it."""

from __future__ import annotations

import re
from dataclasses import replace

from .assignments import NAME, Lines, Value, inherited, places, possible
from .inheritance import requote
from .launches import DEPTH, Launches, Reader
from .lexer import NAMED, Command, Word, commands, unquote
from .settings import Building, Remark, Settings, settings

_ASSIGNMENT = re.compile(rf"({NAMED})(\+?)=")
_HARMLESS = re.compile(
    r"conda shell|ssh-agent|direnv hook|brew shellenv|pyenv init|activate$|conda\.sh$|nvm\.sh$|setvars\.sh$|/dev/"
    r"|completion|cargo/env$|lib/functions"
)
_KEYWORDS = {"exec", "command", "time", "builtin"}


class Shell(Launches):
    """One text, read from top to bottom; `environments` has what each program gets."""

    def __init__(self, text: str, lines: Lines, given: dict[str, Value], reader: Reader, depth: int):
        super().__init__(commands(text), Building(dict(given), exported=set(given)))
        self.text, self.lines, self.reader, self.depth = text, lines, reader, depth
        self.environments: list[Settings] = []
        self.printed: list[Remark] = []  # what is only shown on a screen
        self.literals: dict[str, tuple[str, ...]] = {}  # variables of the script with the plain values that they had
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
        if self.printed:
            self.environments = self.environments or [settings("", {})]
            first = self.environments[0]
            self.environments[0] = replace(first, remarks=(*first.remarks, *self.printed))
        return self.environments

    # --- one command

    def _line(self, command: Command) -> int:
        return self.lines.at(command.words[0].start if command.words else command.start)

    def _simple(self, command: Command) -> None:
        self._substituted(command)
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

    def _loop(self, command: Command) -> None:
        """`for v in 0 1`: the variable has these values in turn."""
        words = [w.text for w in command.words]
        if words[1:2] == ["in"]:
            self.literals[words[0]] = tuple(w for w in words[2:6] if "$" not in w)

    def _value(self, word: Word) -> tuple[str, Value]:
        m = _ASSIGNMENT.match(word.raw)
        raw, line = word.raw[m.end() :], self.lines.at(word.start)
        text, literal = unquote(raw)
        if m[2] or not literal:
            why = "added to what is there" if m[2] else "only known when the shell runs"
            names = re.findall(r"\$\{?(\w+)", raw)
            known = self.literals.get(names[0], ()) if names else ()
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
        if literal is not None and len(literal) < 40:
            self.literals[name] = (*self.literals.get(name, ()), literal)[-4:]
        for state in self.states:
            state.carried[name] = (
                state.carried.get(name, {}) | held
                if word.raw[at - 2 : at - 1] == "+" or re.search(rf"\$\{{?{name}\b", word.raw)
                else held
            )

    def _assign(self, name: str, value: Value, export: bool) -> None:
        inside = re.sub(r"^(?:APPTAINERENV_|SINGULARITYENV_)", "", name)
        if not NAME.match(inside):
            return
        for state in self.states:
            if inside != name:  # set inside the container alone
                state.inside[inside] = value
                continue
            state.values[name] = value
            if export or state.all_exported:
                state.exported.add(name)

    def _builtin(self, words: list[Word], command: Command) -> bool:
        head, rest = words[0].raw, words[1:]
        if head in ("export", "declare", "typeset", "readonly", "local"):
            export = head == "export" or any(re.match(r"-\w*x", w.raw) for w in rest)
            back = any(re.match(r"-\w*n" if head == "export" else r"\+\w*x", w.raw) for w in rest)
            for word in rest:
                if back:  # no longer exported
                    for state in self.states:
                        state.exported.discard(word.text.partition("=")[0])
                else:
                    self._export(word, export)
        elif head == ":":
            self._defaulted(words)
        elif head == "unset":
            for word in rest:
                for state in self.states:
                    state.values.pop(word.text, None)
        elif head == "set" and rest and rest[0].raw in ("-a", "+a", "-o", "+o"):
            if rest[0].raw[1] == "a" or [w.raw for w in rest[1:2]] == ["allexport"]:
                for state in self.states:
                    state.all_exported = rest[0].raw[0] == "-"
        elif head in ("source", ".") and rest:
            self._sourced(words, command)
        elif head == "eval" and rest and self.depth < DEPTH:
            self._evaluated(words)
        elif head == "setenv" and len(rest) >= 2:
            self._assign(rest[0].text, self._plain(rest[1]), True)
        elif head == "set" and rest and re.match(r"-\w*[gx]|--export", rest[0].raw) and len(rest) >= 2:  # fish
            self._assign(rest[-2].text, self._plain(rest[-1]), "x" in rest[0].raw)
        else:
            return False
        return True

    def _plain(self, word: Word) -> Value:
        (text, literal), line, written = unquote(word.raw), self.lines.at(word.start), word.raw[:80]
        if literal:
            return Value(text, line, written)
        return Value(None, line, written, "only known when the shell runs", possible(word.raw))

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
        elif export and word.raw[:1] in '$`"' and re.match(r"\"?[$`]", word.raw):
            self._unknown(f"export {word.raw[:60]}", word)
        elif export and NAME.match(bare):
            for state in self.states:
                state.exported.add(bare)
                state.values.setdefault(bare, inherited(bare, self.lines.at(word.start)))

    def _evaluated(self, words: list[Word]) -> None:
        """What eval runs is run here where it is plain; else it is as unknown as a file that is sourced."""
        body = " ".join(w.text for w in words[1:])
        if not all(unquote(w.raw)[1] for w in words[1:]):
            self._sourced([words[0], Word(body, words[0].start)])
            return
        self._run_here(body, self.lines.at(words[0].start))

    def _run_here(self, body: str, first: int) -> None:
        """A text that this very shell runs."""
        for state in self.states:
            inner = Shell(body, Lines(body, first), {}, self.reader, self.depth + 1)
            inner.states = [state.copy()]
            inner._block(0, len(inner.items))
            self.environments += inner.environments
            self.used |= inner.used
            state.values, state.exported = inner.states[0].values, inner.states[0].exported

    def _unknown(self, written: str, word: Word) -> None:
        """Words that only the shell knows may set anything."""
        self._warn(written, "what these words set is only known when the shell runs", word)

    def _warn(self, written: str, why: str, word: Word) -> None:
        """What may set variables that are not known here."""
        for state in self.states:
            state.remarks.append(Remark("warning", "source", written, why, self.lines.at(word.start)))

    def _defaulted(self, words: list[Word]) -> None:
        """`: ${NAME:=value}` sets what is not set."""
        for word in words[1:]:
            m = re.match(r"\"?\$\{(\w+):?=([^}]*)\}", word.raw)
            if m and NAME.match(m[1]):
                why, line = "kept, if it is set already", self.lines.at(word.start)
                self._assign(m[1], Value(None, line, m[0][:80], why, (m[2], *possible(m[0]))), False)

    def _sourced(self, words: list[Word], command: Command | None = None) -> None:
        what = words[1].text
        if command and command.heredocs and self.depth < DEPTH:  # source /dev/stdin <<EOF
            self._run_here(command.heredocs[0][1], self.lines.at(command.heredocs[0][0]))
            return
        if _HARMLESS.search(what):
            return
        why = "not followed: what it sets is not known here; check that file too"
        self._warn(f"{words[0].raw} {what}", why, words[0])
