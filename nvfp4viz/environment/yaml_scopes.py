"""Services, containers and other scopes of YAML and JSON, by nodes: nothing is constructed, so no tag is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .assignments import FOLD, NAME, OPEN, Lines, Value, possible
from .commandline import arguments_of, program_of
from .settings import Remark, Settings, settings
from .yaml_nodes import DEPTH, TEMPLATE, argv_text, documents, kind_of, pairs_of, untemplated

NODES = 60_000  # walked, aliases again each time
_ENV = re.compile(
    r"(?i).*env(?:ironment)?s?(?:_?var(?:iable)?s)?$"
    r"|^(?:data|stringData|literals|variables|extraEnv\w*|env_vars|with|args)$"
)
_COMMAND = re.compile(
    r"(?i)^(?:command|args|entrypoint|cmd|run|script|exec\w*|path|shell|launch\w*|arguments|.*cmd|steps?"
    r"|(?:.*_)?commands|.*run_options)$"
)
_CUT = {
    "env_file": "not followed: check that file too",
    "envFrom": "not followed: check what it names too",
    "extends": "not followed: what it extends may set more",
    "EnvironmentFile": "not followed: check that file too",
}


@dataclass
class Unit:
    """A mapping that starts a program or holds its environment."""

    path: tuple[str, ...]
    dialect: str  # "compose", "kubernetes", "raw" (docker inspect), "" (others)
    own: dict[str, Value] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)  # command lines and scripts, with their line
    words: list[str] = field(default_factory=list)
    argv: list[tuple[str, int]] = field(default_factory=list)  # lists of words, command and arguments, with their lines


def read_yaml(text: str, lines: Lines, given: dict[str, Value], reader, depth: int) -> list[Settings]:
    """Settings of each scope. Raises NotYamlError where there are no nodes to see."""
    walk = _Walk(text, lines, reader, depth)
    for document in documents(untemplated(text)):
        walk.visit(document, (), "", given)
    return walk.environments


class _Walk:
    def __init__(self, text: str, lines: Lines, reader, depth: int):
        self.text, self.lines, self.reader, self.depth = text, lines, reader, depth
        self.environments: list[Settings] = []
        self.visited = 0

    def line(self, node) -> int:
        return self.lines.first + node.start_mark.line

    def visit(self, node, path: tuple[str, ...], dialect: str, given: dict[str, Value], nested: int = 0) -> None:
        self.visited += 1
        if self.visited > NODES or nested > DEPTH:
            return
        if kind_of(node) == "list":
            for i, item in enumerate(node.value):
                inner = (*path, self._item(item, i))
                if kind_of(item) == "list" and item.value and all(kind_of(v) == "scalar" for v in item.value):
                    unit = Unit(inner, dialect)  # a command in words, among others
                    self._command(unit, "command", item)
                    self._emit(unit, given, False)
                else:
                    self.visit(item, inner, dialect, given, nested + 1)
        if kind_of(node) != "map":
            return
        pairs = list(pairs_of(node))
        keys = {k: v for k, _, v in pairs}
        dialect, path = self._dialect(keys, path, dialect)
        unit = Unit(path, dialect)
        children = self._unit(unit, pairs)
        before, values = len(self.environments), given | unit.own
        for key, value in children:
            self.visit(value, (*path, key), dialect, values, nested + 1)
        self._emit(unit, values, len(self.environments) > before)

    def _item(self, item, i: int) -> str:
        if kind_of(item) == "map":
            name = next(
                (
                    v.value
                    for k, _, v in pairs_of(item)
                    if k in ("name", "id", "Name", "service") and kind_of(v) == "scalar"
                ),
                "",
            )
            return str(name) or str(i + 1)
        return str(i + 1)

    def _dialect(self, keys: dict, path: tuple[str, ...], dialect: str) -> tuple[str, tuple[str, ...]]:
        if "services" in keys and kind_of(keys["services"]) == "map" and not path:
            return "compose", path
        if "kind" in keys and ("metadata" in keys or "apiVersion" in keys) and kind_of(keys["kind"]) == "scalar":
            meta = keys.get("metadata")
            named = (
                {k: v.value for k, _, v in pairs_of(meta) if kind_of(v) == "scalar"}
                if meta is not None and kind_of(meta) == "map"
                else {}
            )
            return "kubernetes", (f"{keys['kind'].value} {named.get('name', '')}".strip(),)
        if "Config" in keys and "HostConfig" in keys:
            return "raw", path
        return dialect, path

    def _unit(self, unit: Unit, pairs: list) -> list[tuple[str, object]]:
        """Fill a unit from a map; the children that are scopes of their own come back."""
        children = []
        keys = {k: v for k, _, v in pairs}
        name = keys.get("name")
        if name is not None and kind_of(name) == "scalar" and NAME.fullmatch(name.value):  # one variable by itself
            self._pair(unit, name.value, keys, name)
            return children
        for key, key_node, value in pairs:
            kind = kind_of(value)
            if NAME.fullmatch(key) and kind == "scalar":
                unit.own[key] = self._value(value, unit.dialect, self.line(key_node))
            elif key in _CUT and (kind != "scalar" or value.value):
                unit.remarks.append(Remark("warning", key, self._short(value), _CUT[key], self.line(key_node)))
                children.append((key, value))
            elif _COMMAND.match(key) and (
                kind == "scalar" or (kind == "list" and all(kind_of(v) == "scalar" for v in value.value))
            ):
                self._command(unit, key.lower(), value)
            elif _ENV.match(key) and kind != "scalar" and self._environment(unit, value):
                continue
            elif kind == "scalar":
                self._scalar(unit, key, value)
            else:
                children.append((key, value))
        return children

    def _short(self, node) -> str:
        words = (
            [node.value]
            if kind_of(node) == "scalar"
            else [n.value for n in node.value if kind_of(n) == "scalar"]
            if kind_of(node) == "list"
            else []
        )
        return " ".join(map(str, words))[:80] or "..."

    def _environment(self, unit: Unit, node) -> bool:
        """Take the assignments of an env block; whether it was nothing but one."""
        only = True
        if kind_of(node) == "map":
            for key, key_node, value in pairs_of(node):
                if kind_of(value) == "scalar":
                    if NAME.fullmatch(key):
                        unit.own[key] = self._value(value, unit.dialect, self.line(key_node))
                    elif NAME.search(value.value):
                        self._scalar(unit, key, value)
                elif _ENV.match(key) and self._environment(unit, value):
                    continue
                elif NAME.fullmatch(key) and kind_of(value) == "map":  # NAME: {value: 1}
                    self._pair(unit, key, {k: v for k, _, v in pairs_of(value)}, key_node)
                else:
                    only = False
            return only
        for item in node.value:
            if kind_of(item) == "scalar":
                self._entry(unit, item)
            elif kind_of(item) == "map":
                keys = {k: v for k, _, v in pairs_of(item)}
                name = next(
                    (
                        keys[k]
                        for k in ("name", "Name", "key", "variable")
                        if k in keys and kind_of(keys[k]) == "scalar"
                    ),
                    None,
                )
                if name is not None and NAME.fullmatch(name.value):
                    self._pair(unit, name.value, keys, name)
                elif name is None:
                    only &= self._environment(unit, item)
            else:
                only = False
        return only

    def _pair(self, unit: Unit, name: str, keys: dict, at) -> None:
        value, line = next((keys[k] for k in ("value", "Value", "default") if k in keys), None), self.line(at)
        if value is not None and kind_of(value) == "scalar":
            unit.own[name] = self._value(value, unit.dialect, line)
            if unit.dialect == "kubernetes" and not value.style and value.tag.endswith((":int", ":bool", ":float")):
                why = f'Kubernetes takes strings only and refuses this: write value: "{value.value}"'
                unit.remarks.append(Remark("warning", name, value.value, why, line))
        elif "valueFrom" in keys:
            unit.own[name] = Value(None, line, "valueFrom", "the cluster fills it in", ("1", "0"))
        else:
            unit.own[name] = Value("", line, "")

    def _entry(self, unit: Unit, item) -> None:
        """`- NAME=value`, or `- NAME`, which takes the caller's."""
        name, eq, raw = item.value.partition("=")
        line = self.line(item)
        if TEMPLATE in raw:
            raw = self.text[item.start_mark.index : item.end_mark.index].partition("=")[2].rstrip("\"'")
        if NAME.fullmatch(name):
            if eq:
                unit.own[name] = self._text_value(raw, unit.dialect, line)
            elif unit.dialect != "raw":
                unit.own[name] = Value(None, line, name, "taken over from whoever starts it", (None, "1"))
        elif NAME.search(item.value):
            self._scalar(unit, "", item)

    def _value(self, node, dialect: str, line: int) -> Value:
        if node.tag.endswith(":null") and node.value in ("", "~", "null") and not node.style:
            if dialect == "compose":
                return Value(None, line, "", "taken over from whoever starts it", (None, "1"))
            return Value("", line, "")
        if TEMPLATE in node.value:
            written = self.text[node.start_mark.index : node.end_mark.index]
            return Value(None, line, written[:80], "a template fills it in", possible(written))
        return self._text_value(node.value, dialect, line)

    def _text_value(self, raw: str, dialect: str, line: int) -> Value:
        written = raw[:80]
        if dialect == "compose":
            plain = raw.replace("$$", "")
            if "$" in plain:
                return Value(None, line, written, "docker compose fills it in from its own environment", possible(raw))
            return Value(raw.replace("$$", "$"), line, written)
        if dialect == "kubernetes" and "$(" in raw:
            return Value(None, line, written, "the cluster fills it in", possible(raw))
        if dialect in ("kubernetes", "raw") or not OPEN.search(raw):
            return Value(raw, line, written)
        return Value(None, line, written, "only known when it is expanded", possible(raw))

    def _command(self, unit: Unit, key: str, node) -> None:
        if kind_of(node) == "list":
            argv = [self._body(scalar) for scalar in node.value]
            if key.endswith("options"):  # of docker run, several words in each
                unit.texts += [(f"docker run {option}", line) for option, line in argv if NAME.search(option)]
                return
            first = key in ("command", "entrypoint", "path")  # printed by the alphabet, args come before command
            unit.argv = argv + unit.argv if first else unit.argv + argv
            words = [word for word, _ in argv]
            unit.words = words + unit.words if first else unit.words + words
            return
        body, line = self._body(node)
        if NAME.search(body) or "\n" in body or FOLD in body or len(body.split()) > 2:
            unit.texts.append((body, line))
        unit.words.append(body)

    def _scalar(self, unit: Unit, key: str, node) -> None:
        """A text under any other key: an image, a script, a document in a document."""
        if key == "image":
            unit.words.insert(0, node.value)
        elif NAME.search(node.value) or ("\n" in node.value and program_of(node.value)):
            unit.texts.append(self._body(node))

    def _body(self, node) -> tuple[str, int]:
        """The text of a scalar and the line that it begins on; folded line breaks are kept as folds."""
        line, raw = self.line(node), self.text[node.start_mark.index : node.end_mark.index]
        if node.style in ("|", ">"):
            rest = raw.partition("\n")[2]
            body = rest if node.style == ">" else node.value
            if node.style == ">":
                body = re.sub(r"\n(?=[ \t]*\S)", FOLD, body)
            leading = len(rest) - len(rest.lstrip("\n")) if node.style == "|" and not node.value.startswith("\n") else 0
            return body, line + 1 + leading
        if "\n" in raw and not node.style:
            return raw.replace("\n", FOLD), line
        if "\n" in raw and node.style in ("'", '"'):
            inner = raw[1:-1].replace("\\\n", FOLD).replace("\n", FOLD)
            return inner.replace('\\"', '"') if node.style == '"' else inner.replace("''", "'"), line
        return node.value, line

    def _emit(self, unit: Unit, values: dict[str, Value], nested: bool) -> None:
        name = ", ".join(p for p in unit.path if p)
        name = re.sub(r"^services, ", "service ", name)
        name = re.sub(r"(?:spec, )?(?:template, )?(?:spec, )?\b(init)?[cC]ontainers?, ", r"\1container ", name)
        line = " ".join(unit.words)
        program, arguments = program_of(line), arguments_of(line)
        inner: list[Settings] = []
        texts = [(*text, "") for text in unit.texts]
        if any(NAME.search(word) for word, _ in unit.argv):
            texts.append((*argv_text(unit.argv), "shell"))
        for body, first, kind in texts if self.depth < 6 else ():
            inner += self.reader(body, kind, Lines(body, first), values, self.depth + 1)
        inner = [one for one in inner if one.variables or one.unsettled or one.remarks or one.program]
        whole = settings(name, values, unit.remarks, program, arguments)
        added = [one for one in inner if one.variables != whole.variables or one.unsettled != whole.unsettled]
        for one in inner if added else ():
            joined = {**arguments, **one.arguments}
            self.environments.append(
                Settings(f"{name}, {one.name}" if one.name else name, one.variables, one.lines, one.unsettled,
                         one.program or program, joined, (*unit.remarks, *one.remarks))
            )  # fmt: skip
        if not added and (unit.own or unit.remarks or program) and (unit.words or not nested or unit.remarks):
            program = program or next((o.program for o in inner if o.program), "")
            more = tuple(r for o in inner for r in o.remarks)
            self.environments.append(settings(name, values, (*unit.remarks, *more), program, arguments))
