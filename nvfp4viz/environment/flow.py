"""The ways through a shell text: branches are alternatives, functions run where they are called, subshells forget."""

from __future__ import annotations

from .lexer import Command
from .settings import Building, Remark

STATES = 16  # alternatives that are followed side by side
CALLS = 200  # of functions, in all
DEEPEST = 60  # of branches in branches
_TESTS = {"[", "[[", "test", "((", "!"}


class Flow:
    """Walks the commands of a text; what one command does is the subclass's."""

    def __init__(self, items: list[Command], start: Building):
        self.items, self.states = items, [start]
        self.functions: dict[str, tuple[int, int]] = {}
        self.called: set[str] = set()
        self.calls = self.nested = 0

    def _simple(self, command: Command) -> None:
        raise NotImplementedError

    def _loop(self, command: Command) -> None:
        raise NotImplementedError

    def _line(self, command: Command) -> int:
        raise NotImplementedError

    def _short(self, command: Command) -> str:
        return " ".join(w.raw for w in command.words)[:60]

    def _block(self, at: int, end: int, until: tuple[str, ...] = ()) -> int:
        """Run items up to a keyword, or past the `)` that closes a subshell."""
        while at < end:
            item = self.items[at]
            if item.key and item.key in until:
                return at
            following = self._one(at, end)
            if ")" in until and following == at + 1 and item.after == ")":
                return following
            at = following
        return at

    def _one(self, at: int, end: int) -> int:
        item = self.items[at]
        if self.nested > DEEPEST:
            return at + 1
        self.nested += 1
        try:
            if item.key in ("if", "case"):
                return (self._if if item.key == "if" else self._case)(at + 1, end)
            if item.key == "function" or (len(item.words) == 1 and item.after == "(" and self._empty(at + 1)):
                return self._function(at, end)
            if item.key in ("for", "select"):
                self._loop(item)
            if item.key:
                return at + 1
            if item.after == "(" and not item.words:
                kept = [s.copy() for s in self.states]
                following = self._block(at + 1, end, (")",))
                self.states = kept
                return following
            kept = [s.copy() for s in self.states] if self._apart(at) else []
            self._simple(item)
            self.states = kept or self.states
            head = item.words[0].raw if item.words else ""
            tested = head in _TESTS or item.after in ("||", "||&")
            return self._conditional(at, end) if tested and item.after in ("&&", "||") else at + 1
        finally:
            self.nested -= 1

    def _apart(self, at: int) -> bool:
        """Whether a command runs in a shell of its own, part of a pipeline or in the background."""
        before = self.items[at - 1].after if at and not self.items[at - 1].key else ""
        return self.items[at].after in ("|", "|&", "&") or before in ("|", "|&")

    def _empty(self, at: int) -> bool:
        return at < len(self.items) and not self.items[at].words and self.items[at].after == ")"

    def _conditional(self, at: int, end: int) -> int:
        """`[ test ] && export X=1` may or may not happen; `cd x && export X=1` does."""
        before, item = [s.copy() for s in self.states], self.items[at]
        negated = "unless" if item.after == "||" else "where"
        self._mark(f"line {self._line(item)}: {negated} {self._short(item)}")
        following = self._one(at + 1, end) if at + 1 < end else end
        self._join([self.states, before])
        return following

    def _if(self, at: int, end: int) -> int:
        label = f"line {self._line(self.items[at])}: if" if at < end else ""
        at = self._block(at, end, ("then", "fi"))
        before, branches, other = [s.copy() for s in self.states], [], False
        while at < end and self.items[at].key != "fi":
            key, line = self.items[at].key, self._line(self.items[at])
            self.states = [s.copy() for s in before]
            if key == "elif":
                label = f"line {line}: elif"
                at = self._block(at + 1, end, ("then", "fi"))
                continue
            other |= key == "else"
            self._mark(f"line {line}: else" if key == "else" else label)
            at = self._block(at + 1, end, ("elif", "else", "fi"))
            branches.append(self.states)
        self._join(branches + ([] if other else [before]))
        return min(at + 1, end)

    def _case(self, at: int, end: int) -> int:
        before, branches, catch_all = [s.copy() for s in self.states], [], False
        while at < end and self.items[at].key != "esac":
            pattern = []
            while at < end and self.items[at].key != "esac":
                pattern += [w.raw for w in self.items[at].words]
                at += 1
                if self.items[at - 1].after == ")":
                    break
            if at >= end or self.items[at].key == "esac":
                break
            catch_all |= pattern[-1:] == ["*"]
            self.states = [s.copy() for s in before]
            self._mark(f"line {self._line(self.items[at - 1])}: case {' '.join(pattern)[:40]}")
            while at < end and self.items[at].key != "esac":
                closes = self.items[at].after in (";;", ";&", ";;&")
                at = self._one(at, end)
                if closes or self.items[at - 1].after in (";;", ";&", ";;&"):
                    break
            branches.append(self.states)
        self._join(branches + ([] if catch_all else [before]))
        return min(at + 1, end)

    def _function(self, at: int, end: int) -> int:
        """Remember a function's body; it runs where it is called."""
        item = self.items[at]
        name, start = (item.words[0].raw if item.words else ""), at + 1
        while start < end and not self.items[start].key and not self.items[start].words:
            start += 1
        depth, stop = 0, start
        while stop < end:
            depth += {"{": 1, "}": -1}.get(self.items[stop].key, 0)
            if depth <= 0:
                break
            stop += 1
        self.functions[name] = (start, stop)
        return min(stop + 1, end)

    def _call(self, name: str, start: int, end: int) -> None:
        self.calls += 1
        if self.calls <= CALLS and self.nested < DEEPEST:
            self.called.add(name)
            self._block(start, end)

    def _join(self, branches: list[list[Building]]) -> None:
        unique: dict[tuple, Building] = {}
        for state in (s for branch in branches for s in branch):
            unique.setdefault(state.key(), state)
        self.states = list(unique.values())[:STATES] or [Building()]
        if len(unique) > STATES:
            remark = Remark("warning", "branches", "", f"more than {STATES} ways through it: not all are followed")
            for state in self.states:
                state.remarks += [remark] if remark not in state.remarks else []

    def _mark(self, path: str) -> None:
        for state in self.states:
            state.path = path
