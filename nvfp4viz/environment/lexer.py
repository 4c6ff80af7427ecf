"""Commands of a shell text with their place in it; nothing is expanded and no text is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

NAMED = r"[A-Za-z_][A-Za-z0-9_]*"
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\x1f]+)
      |(?P<comment>(?<![^\s;&|()\x1f])\#[^\n\x1f]*)
      |(?P<heredoc><<-?[ \t]*(?P<mark>['"]?)(?P<tag>\w+)(?P=mark))
      |(?P<redirect>&>>?|\d?(?:>>|>\||>&|<&|<<<|[<>]))
      |(?P<op>;;&?|;&|&&|\|\|&?|\|&|[;&|\n()])
      |(?P<single>\$'(?:[^'\\]|\\.)*'|'[^']*')
      |(?P<double>"(?:[^"\\]|\\.)*")
      |(?P<escape>\\.)
      |(?P<plain>[^\s'"\\;&|()<>$`\x1f]+|.)""",
    re.S | re.X,
)
_PIECES = re.compile(
    r"(?P<single>\$'(?:[^'\\]|\\.)*'|'[^']*')|(?P<double>\"(?:\\.|[^\"\\])*\")|(?P<escape>\\.)"
    r"|(?P<plain>(?:[^'\"\\$]|\$(?!'))+|.)",
    re.S,
)
_SPECIAL = re.compile(r"['\"\\$`]|\{\{")
_CLOSING = {"(": ")", "{": "}"}
WORD = re.compile(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\]|['"\\])+""")  # of a line in quotes or not
LONGEST = 4000  # characters of one `$(...)` or array


@dataclass
class Word:
    raw: str
    start: int

    @property
    def text(self) -> str:
        return unquote(self.raw)[0]


@dataclass
class Command:
    """A simple command; `after` is what ends it: ";", "&&", "|", ")" ..."""

    start: int
    words: list[Word] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)  # files that it writes
    heredocs: list[tuple[int, str]] = field(default_factory=list)  # offset, body
    end: int = 0
    after: str = ""
    key: str = ""  # a keyword of the shell stands here instead: "if", "then", "case" ...


def unquote(raw: str) -> tuple[str, bool]:
    """A shell word without its quotes, and whether that is all there is to know of it (no `$`, no backtick).

    >>> unquote('"a b"c'), unquote("'$X'"), unquote("$X")
    (('a bc', True), ('$X', True), ('$X', False))
    """
    if not _SPECIAL.search(raw):
        return raw, True
    out, literal = [], True
    for m in _PIECES.finditer(raw):
        piece = m[0]
        if m.lastgroup == "single":
            out.append(re.sub(r"\\(.)", r"\1", piece[2:-1]) if piece[0] == "$" else piece[1:-1])
        elif m.lastgroup == "escape":
            out.append(piece[1])
        else:
            body = piece[1:-1] if m.lastgroup == "double" else piece
            literal &= not re.search(r"(?<!\\)[$`]", body) and "{{" not in body
            out.append(re.sub(r'\\([$`"\\])', r"\1", body))
    return "".join(out), literal


def balanced(text: str, at: int) -> int:
    """End of what opens with the bracket at an offset; the offset after it where it never closes."""
    stack = [_CLOSING[text[at]]]
    for m in re.compile(r"[(){}]|'[^'\n]*'|\\.").finditer(text, at + 1, min(len(text), at + LONGEST)):
        if m[0] == stack[-1]:
            stack.pop()
            if not stack:
                return m.end()
        elif m[0] in _CLOSING:
            stack.append(_CLOSING[m[0]])
    return at + 1


def commands(text: str) -> list[Command]:
    """All simple commands and keywords in order; words keep their quotes."""
    found, command, word = [], Command(0), None
    waiting: list[tuple[Command, str, bool]] = []
    at, redirect, hopeless = 0, False, 0
    while at < len(text):
        m = _TOKEN.match(text, at)
        kind, piece, start, at = m.lastgroup if m["heredoc"] is None else "heredoc", m[0], at, m.end()
        if kind == "plain" and piece in "$`":
            if piece == "$" and text[at : at + 1] in _CLOSING and at >= hopeless:
                opened, at = at, balanced(text, at)
                hopeless = opened + LONGEST if at == opened + 1 else hopeless  # or nests without end cost their square
            elif piece == "`":
                at = (text.find("`", at, at + LONGEST) + 1) or at
            piece = text[start:at]
        elif kind == "op" and piece == "(" and word is not None and re.fullmatch(NAMED + r"\+?=", word.raw):
            kind, at = "plain", balanced(text, start)  # an array
            piece = text[start:at]
        if kind in ("single", "double", "escape", "plain"):
            if word is None:
                word = Word("", start)
            word.raw += piece
            continue
        if word is not None:
            if redirect:
                command.targets.append(word.text)
            else:
                command.words.append(word)
            word, redirect = None, False
        if kind == "heredoc":
            waiting.append((command, m["tag"], "-" in piece[:3]))
        elif kind == "redirect":
            redirect = ">" in piece and "&" not in piece[1:]
        elif kind == "op":
            command.end, command.after = start, piece
            found.append(command)
            command = Command(at)
            if piece == "\n" and waiting:
                at = _bodies(text, at, waiting)
                command.start = at
    if word is not None:
        (command.targets if redirect else command.words).append(word.text if redirect else word)
    command.end = len(text)
    found.append(command)
    return [part for one in found for part in _keywords(one)]


KEYWORDS = {"if", "then", "elif", "else", "fi", "do", "done", "{", "}", "!", "while", "until", "for", "select", "case",
            "esac", "function"}  # fmt: skip


def _keywords(command: Command) -> list[Command]:
    """Keywords in front of a command as items of their own."""
    parts, words = [], command.words
    while words and words[0].raw in KEYWORDS:
        key, words = words[0], words[1:]
        parts.append(Command(key.start, end=key.start, key=key.raw))
        if key.raw == "function":
            parts[-1].words, words = words[:1], words[1:]
        elif key.raw in ("for", "select"):
            parts[-1].words, words = words, []
        elif key.raw == "case":
            after_in = next((i for i, w in enumerate(words) if w.raw == "in"), len(words))
            words = words[after_in + 1 :]
            break
    command.words = words
    return [*parts, command]


def _bodies(text: str, at: int, waiting: list) -> int:
    """Give the heredocs that begin at a line their bodies; where they end."""
    for command, tag, tabs in waiting:
        blanks = r"[\t ]*" if tabs else " *"
        end = re.compile(rf"^{blanks}{re.escape(tag)}[ \t\r]*$", re.M).search(text, at)
        stop, following = (end.start(), min(len(text), end.end() + 1)) if end else (len(text), len(text))
        command.heredocs.append((at, text[at:stop]))
        at = following
    waiting.clear()
    return at
