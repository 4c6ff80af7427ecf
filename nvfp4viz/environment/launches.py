"""A program that a command starts: what it gets from the shell, from its own arguments, and from texts that it runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from .assignments import NAME, Lines, Value, places
from .commandline import arguments_of, program_of
from .flow import Flow
from .inheritance import cut, replacements, runs, started
from .lexer import Command, Word, balanced
from .names import meant
from .settings import Building, Remark, Settings, settings

DEPTH = 6  # of texts in texts
_SHELLS = {"bash", "sh", "zsh", "dash", "ksh", "fish"}
_RUNS_TEXT = _SHELLS | {
    "ssh", "su", "sudo", "docker", "podman", "nerdctl", "kubectl", "oc", "srun", "tmux", "screen", "eval", "pdsh",
    "clush", "parallel-ssh", "apptainer", "singularity", "enroot", "salloc", "sbatch", "xargs", "env", "timeout",
    "nohup", "wsl", "systemd-run", "mpirun", "flux", "gcloud", "run", "watch",
}  # fmt: skip
_TELLING = re.compile(NAME.pattern + r"|\benv\b|env-file", re.I)  # in commands that may set something
_SEVERAL = {"srun", "mpirun", "mpiexec"}  # that start several programs, with `:` between them
PRINTERS = {"echo", "printf", "cat", "tee"}

Reader = Callable[..., list[Settings]]  # (text, name, lines, given, depth) -> what a text inside this one sets


class Launches(Flow):
    """Commands that start programs; `environments` has what each of them gets."""

    def _unknown(self, written: str, word: Word) -> None:
        raise NotImplementedError

    text: str
    lines: Lines
    reader: Reader
    depth: int
    environments: list[Settings]  # of the programs started
    used: set[tuple[str, int]]  # assignments that some program was seen to get
    printed: list[Remark]

    def _launch(self, command: Command, words: list[Word], prefix: dict[str, Value]) -> None:
        head = words[0].text.rsplit("/", 1)[-1]
        if head in PRINTERS:
            self._printed(command, words)
            return
        if head in ("sed", "perl"):
            self._edited(command, words)
            return
        if head in _SEVERAL and any(w.raw == ":" for w in words):
            self._several(command, words, prefix)
            return
        raw = " ".join([*(w.raw for w in words), *(body for _, body in command.heredocs)])
        texts = [w.text for w in words]
        program = program_of(raw) or program_of(" ".join(texts))
        if not program and not prefix and self._idle() and not _TELLING.search(raw):
            return
        why = cut(texts)
        if head == "env":
            for word in words[1:6]:
                name = re.match(r"\"?\$\{?(\w+)", word.raw)
                if re.match(r"\"?[$`]", word.raw) and not (name and any(s.carried.get(name[1]) for s in self.states)):
                    self._unknown(f"env {word.raw[:60]}", word)
        inner = self._inner(command, words)
        own = self._arguments(words, [w for w, _ in inner])
        for state in self.states:
            given = state.given() | prefix
            inside = state.inside if {"apptainer", "singularity"} & set(texts[:4]) else {}
            values, remarks = self._passed(given, inside | own, why, words, texts)
            carried = {n: v for name in re.findall(r"\$\{?(\w+)", raw) for n, v in state.carried.get(name, {}).items()}
            self.used |= {(n, v.line) for n, v in carried.items()}
            values |= carried
            if inner:
                for _, (body, lines, kind) in inner:
                    for one in self.reader(body, kind, lines, values, self.depth + 1):
                        self._emit(command, state, one, remarks)
                continue
            if not (program or own or inside or prefix or carried or (why and given)):
                continue  # no program known here: what is left is told at the end
            self._emit(command, state, settings("", values, (), program, arguments_of(raw)), remarks)

    def _several(self, command: Command, words: list[Word], prefix: dict[str, Value]) -> None:
        """`mpirun -x NAME=1 a : -x NAME=0 b` starts two programs."""
        part: list[Word] = []
        for word in [*words[1:], Word(":", command.end)]:
            if word.raw != ":":
                part.append(word)
                continue
            own = [words[0], *part]
            self._launch(replace(command, words=own), own, prefix)
            part = []

    def _idle(self) -> bool:
        """Whether nothing is set here that a program could get, or not get."""
        return not any(s.values or s.carried or s.remarks for s in self.states)

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
            message = f"{why}; what it starts does not get it"
            remarks.append(Remark("warning", name, given[name].written, message, given[name].line))
        for flag, word in zip(texts, [*texts[1:], ""], strict=True):
            if flag.startswith("--env-file"):
                path = flag.partition("=")[2] or word
                why = "not followed: check that file too, as docker run reads it"
                remarks.append(Remark("warning", "--env-file", path, why, self.lines.at(words[0].start)))
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
            body = body.replace("'\\''", "'") if word.raw[:1] == "'" else body
            split = flag in ("-S", "--split-string") and not program_of(body)  # env -S "NAME=1" program
            if not body or split or body.lstrip(" \n\t").startswith("{"):
                continue
            lines = Lines(body, self.lines.at(word.start))
            if python and re.fullmatch(r"-\w*c", flag) and not heads & _SHELLS:
                found.append((word, (body, lines, "python")))
            elif heads & _RUNS_TEXT and (re.fullmatch(r"-\w*c", flag) or (re.search(r"\s", body) and runs(body))):
                unescaped = re.sub(r'\\(["$`\\])', r"\1", body) if word.raw[0] == '"' else body
                found.append((word, (unescaped, Lines(unescaped, lines.first), "shell")))
        read = not program_of(" ".join(w.text for w in words)) or heads & _RUNS_TEXT  # else it is data of the program
        for start, body in command.heredocs if read else ():
            kind = "python" if python else "shell" if heads & _RUNS_TEXT - {"kubectl", "oc"} else ""
            found.append((None, (body, Lines(body, self.lines.at(start)), kind or next(iter(command.targets), ""))))
        return [(w, t) for w, t in found if NAME.search(t[0]) or program_of(t[0])]

    def _substituted(self, command: Command) -> None:
        """Programs that `$(...)` and backticks start, in a shell of their own."""
        for word in command.words if self.depth < DEPTH else ():
            if word.raw[:1] == "'" or not NAME.search(word.raw):
                continue
            end = 0
            for m in re.finditer(r"\$\((?!\()|`[^`]*`", word.raw):
                if m.start() < end:
                    continue  # in the one before
                end = balanced(word.raw, m.end() - 1) if m[0] == "$(" else m.end()
                body = word.raw[m.end() : end - 1] if m[0] == "$(" else m[0][1:-1]
                given, lines = self.states[0].given(), Lines(body, self.lines.at(word.start + m.start()))
                for one in self.reader(body, "shell", lines, given, self.depth + 1) if NAME.search(body) else ():
                    if one.program:
                        self._emit(command, self.states[0], one, [])

    def _printed(self, command: Command, words: list[Word]) -> None:
        """Text that goes into a file sets what that file sets; text on a screen sets nothing."""
        follows: list[str] = []
        if command.after == "|":
            following = next((c for c in self.items if c.start >= command.end), None)
            follows = [w.text for w in following.words] if following else []
        teed = next((ws for ws in ([w.text for w in words], follows) if "tee" in ws[:3]), [])
        targets = [w for w in teed[teed.index("tee") + 1 :] if w[0:1] != "-"] if teed else []
        targets += [t for t in command.targets if t != "/dev/null"]
        bodies = [(self.lines.at(s), b) for s, b in command.heredocs]
        bodies += [(self.lines.at(w.start), w.text.replace("\\n", "\n")) for w in words[1:] if NAME.search(w.raw)]
        if {w.rsplit("/", 1)[-1] for w in follows} & _RUNS_TEXT and "tee" not in follows:
            self._piped(command, bodies, follows)
        elif targets:
            self._written(command, bodies, targets[0])
        elif command.after not in ("|", "|&", ")") and self.depth == 0 and not self._gathered:
            for word in words[1:]:
                for p in places(self.text, self.lines, "shell", word.start, word.start + len(word.raw)):
                    if p.kind == "mention":
                        continue
                    remark = Remark("note", p.name, p.value.written, "only printed here, not set", p.value.line)
                    self.printed.append(remark)

    @functools.cached_property
    def _gathered(self) -> bool:
        """Whether what commands print may go elsewhere together: `{ ...; } > file`, `done | tee file`, a function."""
        wholes = (c for c in self.items if not c.words and not c.key)
        return any(c.targets or c.after == "|" for c in wholes) or any(
            c.key == "function" or (len(c.words) == 1 and c.after == "(") for c in self.items
        )

    def _edited(self, command: Command, words: list[Word]) -> None:
        """`sed -i 's/NAME=.*/NAME=1/' file`: what the file has afterwards; the pattern sets nothing."""
        texts = [w.text for w in words[1:]]
        inplace = any(re.match(r"-\w*i|--in-place", t) for t in texts)
        named = [w for w in words[1:] if NAME.search(w.raw)]
        new = [(self.lines.at(w.start), n) for w in named for n in replacements(w.text) if NAME.search(n)]
        targets = [*command.targets, *(texts[-1:] if inplace else [])]
        if targets:
            self._written(command, new, targets[0])

    def _written(self, command: Command, bodies: list[tuple[int, str]], target: str) -> None:
        for line, body in bodies if self.depth < DEPTH else ():
            for one in self.reader(body, target, Lines(body, line), {}, self.depth + 1):
                one = replace(one, file="" if one.name else target)
                self._emit(command, None, one, [], f"line {line}: written into {target}")

    def _piped(self, command: Command, bodies: list[tuple[int, str]], follows: list[str]) -> None:
        """Text that a shell reads: echo '...' | ssh host bash."""
        given = {} if cut(follows) else self.states[0].given()
        for line, body in bodies if self.depth < DEPTH else ():
            for one in self.reader(body, "shell", Lines(body, line), given, self.depth + 1):
                self._emit(command, None, one, [], one.name or f"line {line}: piped into {follows[0]}")

    def _emit(
        self, command: Command, state: Building | None, one: Settings, remarks: Iterable[Remark], name: str = ""
    ) -> None:
        where = name or one.name or f"line {self._line(command)}: {started(command)}"
        path = f" ({state.path})" if state and state.path and len(self.states) > 1 else ""
        more = (*(state.remarks if state else ()), *remarks, *one.remarks)
        self.used |= {(n, line) for n, line in one.lines.items()}
        if state:
            self.used |= {(n, v.line) for n, v in state.given().items()}
        self.environments.append(replace(one, name=where + path, remarks=tuple(dict.fromkeys(more))))

    def _rest(self) -> None:
        """What the text exports or assigns and no program that it starts was seen to get."""
        for state in self.states:
            left = {n: v for n, v in (state.inside | state.values).items() if (n, v.line) not in self.used}
            for held in state.carried.values():
                left |= {n: v for n, v in held.items() if (n, v.line) not in self.used and n not in state.values}
                self.used |= {(n, v.line) for n, v in held.items()}
            left = {n: v for n, v in left.items() if meant(n)}  # a script's own FLASHINFER_VERSION is no setting
            if not left and not (state.remarks and not self.environments):
                continue
            remarks = [
                Remark("warning", n, v.written, "assigned, but not exported: what it starts does not see it", v.line)
                for n, v in left.items() if n in state.values and n not in state.exported
            ]  # fmt: skip
            values = {n: v for n, v in state.values.items() if n in state.exported or n in left} | left
            path = state.path if len(self.states) > 1 else ""
            self.environments.append(settings(path, values, [*state.remarks, *remarks]))
