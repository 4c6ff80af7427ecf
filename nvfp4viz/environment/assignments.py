"""Every place of a text where a variable of NVFP4 is named, and what is assigned to it there; in any language.

One scan for shell, Dockerfile, YAML, JSON, TOML, Python, .bat, a README: no grammar, so no text is refused. What a
place belongs to (a service, a stage, one command) is decided elsewhere, from the structure of the text.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass

FOLD = "\x1f"  # a blank that was a line break in the file: a continuation, a folded scalar
REACH = 2000  # characters of one value
LOOK = 400  # characters searched for the value that belongs to `name: X`
_CORE = "4OVER6|40VER6|NVFP4|FP4_QUANT|NVTE_|FLASHINFER|SGLANG_|VLLM_"
_SHORT = r"(?<=[\s\"'\[,]-[ev])"  # `docker run -eNAME=1`, `qsub -vNAME`: the option's letter is not the name's
NAME = re.compile(
    rf"(?:{_SHORT}|(?<![A-Za-z0-9_])(?!(?<=[\s\"'\[,]-)(?-i:[ev][A-Z])))[A-Za-z0-9_]*?(?:{_CORE})[A-Za-z0-9_]*", re.I
)


@dataclass(frozen=True)
class Value:
    """What a text gives a variable at one place."""

    text: str | None  # None: removed, or not known from the text
    line: int
    written: str  # as it stands there, for the report
    open: str = ""  # why the text does not settle it; empty where it does
    maybe: tuple[str | None, ...] = ()  # what it can be where it is open; None: not set

    @property
    def settled(self) -> bool:
        return not self.open


def inherited(name: str, line: int, whom: str = "whoever starts it") -> Value:
    """The value of a variable that is handed on by name only."""
    return Value(None, line, name, f"taken over from {whom}", (None, "1"))


def from_cluster(line: int, written: str = "valueFrom", maybe: tuple[str | None, ...] = ("1", "0")) -> Value:
    """A value that only a Kubernetes cluster knows."""
    return Value(None, line, written, "the cluster fills it in", maybe)


@dataclass(frozen=True)
class Place:
    """One occurrence of a name."""

    name: str
    start: int
    end: int  # of the name and its value
    kind: str  # "set", "unset", "inherit" (taken over from the caller), "mention"
    value: Value
    handed_on: bool = False  # the name itself is the value of a variable: `NAME=X`


class Lines:
    """Line numbers of offsets; a fold counts as the line break that it was."""

    def __init__(self, text: str, first: int = 1):
        self.first, self.breaks = first, [m.start() for m in re.finditer(rf"[\n{FOLD}]", text)]

    def at(self, offset: int) -> int:
        return self.first + bisect.bisect_left(self.breaks, offset)


# --- what stands before a name

_REFERENCE = re.compile(r"(?:\$\{?|\$\(|%|\$ENV\{|\bprintenv\s+|\benv\.)[!#]?$")
_POWERSHELL = re.compile(r"\$\{?env:$|\bEnv:\\?$|\bprocess\.env\.$", re.I)
_METHOD = re.compile(r"\.(?P<name>set|override|clear)\(\s*")  # SGLang's envs.NAME.set(True)
_CONSTANT = re.compile(r"\w=[\"'(]?$|^[ \t]*(?:[\w&']+[ \t:]+){0,6}:?=[ \t]*[\"'`]$")  # the name is a variable's value
_CALL = re.compile(r"([A-Za-z_][\w.]*)\(\s*(?:[rbRB]?\\?[\"'`])?$")
_WORDS = re.compile(  # NAME value, with a blank between
    r"(?:^|[\s;&|(])(?:(?P<env>ENV|ARG)|(?:Set|New)-Item[ \t]+(?:-Path[ \t]+)?Env:\\?"
    r"|setenv|setx|-genv|-env|set[ \t]+-\w*x\w*|set[ \t]+--export)"
    r"(?:(?<=:|\\)|[ \t]+(?:\\?[\"'])?)$",
    re.I | re.M,
)
_SET = re.compile(
    r"\bset(?:-environment)?(?:[ \t]+-\w+)*[ \t]+[\"']?$"
)  # gh variable set NAME, tmux set-environment NAME 1
_REMOVE = re.compile(
    r"(?:\bunset[ \t]+(?:-\w[ \t]+)?(?:\w+[ \t]+)*|[ \t]-u[ \t]*|--unset[= ]|\bunsetenv[ \t]+"
    r"|\bUnsetEnvironment=(?:\w+[ \t]+)*"
    r"|\bdel[ \t]+[\w.]+\[[ \t]*|\bset[ \t]+-\w*e\w*[ \t]+|Remove-Item\s+Env:\\?)[\"']?$",
    re.I,
)
_PASS = re.compile(
    r"(?:(?:^|[\s\"'\[,])(?:(?:-e|--env|-x|--setenv)[ =]|-[ev])|\bPassEnvironment=(?:\w+[ \t]+)*"
    r"|--preserve-env=(?:\w+,)*|--export=(?:[\w=]+,)*"
    r"|\bexport[ \t]+(?:\w+[ \t]+)*)[\"']?$"
)
_SEARCH = re.compile(r"(?:^|[\s;&|(!])[efz]?grep[ \t][^|;&]*$")  # looked for, not set
_NAME_KEY = re.compile(r"(?:\bname|\bkey|\bvariable|\bNAME|\bName)\\?[\"']?\s*[:=]\s*(?:\\?[\"'])?$|<(?:name|key)>\s*$")
_VALUE_KEY = re.compile(r"\b(value(?:From)?|Value|VALUE)\\?[\"']?\s*[:=][ \t]*|<value>")

# --- what stands after it

_OPERATOR = re.compile(
    r"(?P<q>\\{0,3}[\"'`])?(?P<close>\s*[\])])?[ \t]*(?P<op>\+=|\?=|::?=|=>|===?|!=|=~|=|:(?![/\\=])|,)[ \t]*"
)
_TUPLE = re.compile(r"[\"'],[ \t]*[\"'][^\"'\n]{0,40}[\"'][ \t]*[)\]]")  # ("NAME", "1")
_SETTERS = re.compile(r"set|put|add|environ|env|export|update|push|with|assign|define", re.I)
_GETTERS = re.compile(r"get|lookup|exists|has|contains|pop|del|is_?set|read|require|query|assert", re.I)
_REMOVERS = re.compile(r"pop|del|remove|unset|clear", re.I)
_QUOTED = re.compile(r"(?P<prefix>[frbuFRBU]{0,2})(?P<quote>\\{0,3}[\"'`])")
_BARE = re.compile(
    r"(?:(?<==)\{[^{}\n\"']*\}|\$\{\{.*?\}\}|\{\{.*?\}\}|\$\{[^}\n]*\}|\$\([^)\n]*\)|\\.|[^\s\0;&|(),\]}\"'`\\#]|(?<=\S)#)+"
)
_AFTER = re.compile(r"[ \t]*(?:$|[,;)\]}#&|\n\r\x1f<>]|/>|//|\\n|\\?[\"'`])")
OPEN = re.compile(r"\$(?!\s|$)|`|\{\{|%\w+%|^<[\w |/.-]+>$|^\{[^{}\"']*\}$|^%(?:\(\w+\))?[sdri]$")
_DEFAULT = re.compile(
    r"\$\{\w+:?[-=](?P<shell>[^${}]*)\}|\bdefault\s*\(?\s*(?:\\?[\"'])?(?P<jinja>[\w.-]+)"
    r"|&&\s*(?:\\?[\"'])(?P<where>[\w.-]+)|\|\|\s*(?:\\?[\"'])(?P<actions>[\w.-]+)"
    r"|\bor\s+(?:\\?[\"'])?(?P<go>[\w-]+)\\?[\"']?\s*\}"
)
_ADDED = re.compile(r"[ \t]*(?:\+(?!=)|\.\.?[ \t]*\w|%[ \t]*\w)")  # "NAME=" + x
_JOINED = re.compile(r"\s*(?:\+|[rbfRBF]{0,2}[\"'])")  # "NAME=1 " "program"
_ANNOTATION = re.compile(r"[\w.]+(?:\[[^\]\n]*\])?(?:[ \t]*\|[ \t]*[\w.]+)*[ \t]*=[ \t]*(?!=)")  # NAME: str = "1"
_LITERALS = re.compile(r"[\"']([^\"'\n]{0,40})[\"']")


def possible(text: str) -> tuple[str | None, ...]:
    """Values that a text of an expansion names itself: the 1 of `${X:-1}`.

    >>> possible("${FOUR_OVER_SIX:-1}"), possible("$X")
    (('1', '0'), ('1', '0'))
    >>> possible("${X:-true}")[0]
    'true'
    """
    named = [next(g for g in m.groups() if g is not None) for m in _DEFAULT.finditer(text)]
    return tuple(dict.fromkeys([*named[:4], "1", "0"]))


def value_of(raw: str, line: int, written: str | None = None, why: str = "") -> Value:
    """A literal, or where a `$`, a template or a placeholder stands in it, an open value."""
    raw = re.sub(r"(?:\\n)+$", "", raw)  # a line's end in JSON
    written = (raw if written is None else written).replace(FOLD, " ")[:80]
    if not why and not OPEN.search(raw):
        return Value(raw, line, written)
    why = why or ("a placeholder" if raw.startswith("<") else "only known when it is expanded")
    return Value(None, line, written, why, possible(raw))


def places(
    text: str, lines: Lines, language: str = "", start: int = 0, end: int | None = None, wanted=None
) -> Iterator[Place]:
    """Occurrences in order. `language` is "" or one of "shell", "python", "bat", "prose"."""
    for m in NAME.finditer(text, start, len(text) if end is None else end):
        if wanted and not wanted(m[0]):
            continue
        before = text[max(0, m.start() - 160) : m.start()]
        before = before[max(before.rfind("\n"), before.rfind(FOLD)) + 1 :]
        yield _place(text, m, before, lines, language)


def _place(text: str, m: re.Match, before: str, lines: Lines, language: str) -> Place:
    name, line = m[0], lines.at(m.start())

    def made(kind: str, value: Value | None = None, end: int = m.end()) -> Place:
        handed_on = kind == "mention" and _CONSTANT.search(before) is not None
        return Place(name, m.start(), end, kind, value or Value(None, line, name), handed_on)

    passed = "inherit" if _PASS.search(before) else "mention"
    braced = before.endswith("{env:") and text[m.end() : m.end() + 1] == "}"  # ${env:NAME} of PowerShell
    after = _OPERATOR.match(text, m.end() + braced)
    if _REMOVE.search(before):
        return made("unset")
    if language == "shell" and _SEARCH.search(before):
        return made("mention")
    assigned = before.endswith("env.") and after is not None and after["op"] == "="  # --set env.NAME=1
    if _REFERENCE.search(before) and not _POWERSHELL.search(before) and not assigned:
        return made("mention")
    if _NAME_KEY.search(before) and not (after and after["op"] == "="):
        return _pair(text, m, made, lines)
    words = _WORDS.search(before) or (language == "shell" and _SET.search(before))
    if words and not (after and after["op"] in ("=", ",")):
        return _word_value(text, m, before, made, lines)
    method = _METHOD.match(text, m.end())
    if method:
        value, end = _value(text, method.end(), "", lines, "python")
        return made("unset") if method["name"] == "clear" else made("set", value, end)
    if after is None:
        return made(passed, inherited(name, line))
    op, call = after["op"], _CALL.search(before)
    if op == "," and not call and _in_tuple(text, m, before):
        value, end = _value(text, after.end(), "", lines, "python")
        return made("set", value, end)
    if op == "," and not call:
        return made(passed, inherited(name, line))
    if op in ("==", "===", "!=", "=~"):
        return made("mention")
    if op == ":" and (language == "prose" or (after["q"] is None and _lone_colon(text, after, before, language))):
        return made("mention")
    if call and op in (",", ")"):
        return _called(text, after, call[1], made, lines)
    annotation = _ANNOTATION.match(text, after.end()) if language == "python" and op == ":" else None
    at = annotation.end() if annotation else after.end()
    value, end = _value(text, at, _enclosing(before, after), lines, language)
    return made("set", value, end)


def _in_tuple(text: str, m: re.Match, before: str) -> bool:
    return bool(_TUPLE.match(text, m.end())) and before.rstrip(" \"'")[-1:] in ("(", "[")


def _lone_colon(text: str, after: re.Match, before: str, language: str) -> bool:
    """`NAME: what it does` in a comment or in shell: no assignment."""
    return language == "shell" or "#" in before or not text[after.end() : after.end() + 1].strip(" \t")


def _enclosing(before: str, after: re.Match) -> str:
    """The quote that opens right before a name and is not closed right after it: `"NAME=value"`."""
    opened = re.search(r"(\\{0,3}[\"'`])[ \t]*$", before)
    return opened[1] if opened and after["q"] is None else ""


def _called(text: str, after: re.Match, function: str, made, lines: Lines) -> Place:
    last = function.rsplit(".", 1)[-1]
    if _REMOVERS.search(last):
        return made("unset")
    if _GETTERS.search(last) or not _SETTERS.search(last):
        return made("mention")
    value, end = _value(text, after.end(), "", lines, "python")
    return made("set", value, end)


def _pair(text: str, m: re.Match, made, lines: Lines) -> Place:
    """`name: NAME` and `value: 1` beside it, in either order."""
    after = text[m.end() : m.end() + LOOK]
    after = re.split(r"\b(?:name|NAME|Name)\\?[\"']?\s*[:=]", after, maxsplit=1)[0]
    found, base = _VALUE_KEY.search(after), m.end()
    if found is None:
        start = max(0, m.start() - LOOK)
        earlier = text[start : m.start()]
        earlier_at = max(earlier.rfind("{"), earlier.rfind("- "), earlier.rfind("<"))
        base, found = start, _VALUE_KEY.search(earlier, max(earlier_at, 0))
    if found is None:
        return made("mention")
    line = lines.at(m.start())
    if found[1] == "valueFrom":
        return made("inherit", from_cluster(line))
    at = base + found.end()
    if found[0] == "<value>":
        end = re.compile("[^<\n]*").match(text, at, at + REACH).end()
        return made("set", value_of(text[at:end], line), end)
    value, end = _value(text, at, "", lines, "", line)
    return made("set", value, max(end, m.end()))


def _word_value(text: str, m: re.Match, before: str, made, lines: Lines) -> Place:
    found = re.compile(r"\\?[\"']?[ \t]+(?:(?:-Value|--body|--value|-b)[ \t=]+)?(?=\S)").match(text, m.end())
    if found is None:
        return made("mention")
    value, end = _value(text, found.end(), "", lines, "shell")
    return made("set", value, end)


def _value(
    text: str, at: int, enclosing: str, lines: Lines, language: str, line: int | None = None
) -> tuple[Value, int]:
    """The value that begins at an offset, and where it ends."""
    line = lines.at(at) if line is None else line
    if enclosing:
        end = text.find(enclosing, at, at + REACH)
        stop = min((i for i in (text.find("\n", at, at + REACH), end) if i >= 0), default=min(len(text), at + REACH))
        raw = text[at:stop]
        if end == stop and not re.search(r"[\s,]\w+=|[ \t]-|[;&|]", raw):  # the quotes hold this one assignment
            why = "an expression of the program" if not raw and _ADDED.match(text, end + len(enclosing)) else ""
            if language == "python" and _JOINED.match(text, end + len(enclosing)):
                raw = raw.rstrip(" ")  # a blank between the words of a command
            return value_of(raw, line, why=why), stop
    quoted = _QUOTED.match(text, at)
    if quoted and not (enclosing and quoted["quote"] == enclosing):
        return _quoted(text, quoted, line, language)
    before = text[max(0, at - 200) : at].split("\n")[-1]
    if language == "bat":
        closing = ")" if before.count("(") > before.count(")") else ""  # if x (set NAME=1) else (...)
        stop = re.compile(rf"[^&|\n\r\"{closing}]*").match(text, at, at + REACH).end()
        return value_of(text[at:stop], line), stop
    within = before.count("'") % 2 or before.count('"') % 2  # a string of the program: a command line
    if language == "python" and not enclosing and not within:
        raw = _closed(re.compile(r"[^\n#;,]*").match(text, at, at + REACH)[0])
        return _expression(raw.strip(" \t"), line), at + len(raw)
    bare = _BARE.match(text, at, at + REACH)
    raw = bare[0] if bare else ""
    return value_of(re.sub(r"\\(.)", r"\1", raw) if language == "shell" else raw, line, raw), at + len(raw)


def _closed(raw: str) -> str:
    """An expression up to the bracket that closes what it stands in."""
    open_ = 0
    for i, c in enumerate(raw):
        open_ += (c in "([{") - (c in ")]}")
        if open_ < 0:
            return raw[:i]
    return raw


def _expression(raw: str, line: int) -> Value:
    number = re.fullmatch(r"[\d.]+|True|False", re.sub(r"^str\((.*)\)$", r"\1", raw))
    named = tuple(dict.fromkeys(_LITERALS.findall(raw)))[:4]
    named = named or (("true", "false") if raw.endswith(".lower()") else ("1", "0"))  # str(flag).lower()
    return value_of(number[0], line) if number else Value(None, line, raw[:80], "an expression of the program", named)


def _quoted(text: str, quoted: re.Match, line: int, language: str) -> tuple[Value, int]:
    quote, at = quoted["quote"], quoted.end()
    end = text.find(quote, at, at + REACH)
    newline = text.find("\n", at, at + REACH)
    if end < 0 or (0 <= newline < end):
        stop = newline if newline >= 0 else min(len(text), at + REACH)
        return value_of(text[at:stop].rstrip(" \t\r"), line), stop
    raw, stop = text[at:end], end + len(quote)
    written = text[quoted.start() : stop]
    rest = text[stop : stop + 200].split("\n")[0].split(FOLD)[0]
    if "f" in quoted["prefix"].lower() and "{" in raw:
        return Value(None, line, written[:80], "an expression of the program", ("1", "0")), stop
    if not _AFTER.match(rest) and language != "shell":  # "1" if fast else "0"
        named = tuple(dict.fromkeys([raw, *_LITERALS.findall(rest)]))[:4]
        return Value(None, line, (written + rest)[:80], "an expression of the program", named), stop
    if quote == "'" and language == "shell":
        return Value(raw, line, written), stop
    return value_of(raw, line, written), stop
