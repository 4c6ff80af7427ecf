"""What the nodes of one scope of a YAML or JSON text set: the forms of an env block, and what decides their values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .assignments import FOLD, NAME, OPEN, Lines, Value, from_cluster, inherited, possible
from .commandline import program_of
from .settings import Remark
from .yaml_nodes import TEMPLATE, conditional, kind_of, pairs_of, scalars_of

ENV_KEY = re.compile(
    r"(?i).*env(?:ironment)?s?(?:_?var(?:iable)?s)?$"
    r"|^(?:data|stringData|literals|variables|extraEnv\w*|env_vars|with|args)$"
)
NODES = 60_000  # nodes and keys walked, aliases again each time
VALUE_KEYS = ("value", "Value", "default")


@dataclass
class Unit:
    """A mapping that starts a program or holds its environment."""

    path: tuple[str, ...]
    dialect: str  # "compose", "kubernetes", "raw" (docker inspect), "" (others)
    first: int = 0  # its line
    text: str = ""
    base: dict[str, Value] = field(default_factory=dict)  # what it extends or takes from a ConfigMap of this text
    own: dict[str, Value] = field(default_factory=dict)
    plain: dict[str, str] = field(default_factory=dict)  # variables of other names, which values may refer to
    remarks: list[Remark] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)  # command lines and scripts, with their line
    words: list[str] = field(default_factory=list)
    argv: list[tuple[str, int]] = field(default_factory=list)  # lists of words, command and arguments, with their lines


class Values:
    """Fills units from nodes; `shared` is what other parts of the text may refer to."""

    def __init__(self, text: str, lines: Lines):
        self.text, self.lines = text, lines
        self.visited = 0
        self.shared: dict[tuple[str, str], object] = {}  # ("service", name): what other parts of the text refer to
        self.conditional = conditional(text) if "{" in text else []

    def pairs(self, node) -> list[tuple[str, object, object]]:
        """As `pairs_of`, and counted, since maps that merge each other have pairs without end; then none."""
        found = list(pairs_of(node)) if self.visited <= NODES else []
        self.visited += len(found)
        return found

    def line(self, node) -> int:
        return self.lines.first + node.start_mark.line

    def remember(self, document) -> None:
        """Services and ConfigMaps, which others of this text extend or take their environment from."""
        keys = {k: v for k, _, v in pairs_of(document)} if kind_of(document) == "map" else {}
        if "services" in keys and kind_of(keys["services"]) == "map":
            self.shared |= {("service", k): v for k, _, v in pairs_of(keys["services"]) if kind_of(v) == "map"}
        kind, name = scalars_of(document).get("kind"), scalars_of(keys.get("metadata")).get("name", "")
        for key in ("data", "stringData"):
            if kind in ("ConfigMap", "Secret") and key in keys and kind_of(keys[key]) == "map":
                self.shared[kind, name] = keys[key]

    def _own(self, unit: Unit, name: str, value: Value) -> None:
        """Set a variable of a unit; open, where a template decides inside the unit whether it is set."""
        at, before = value.line - self.lines.first, unit.own.get(name)
        if any(a < at < b and a > unit.first - self.lines.first for a, b in self.conditional):
            texts = [t for v in (before, value) if v for t in ((v.text,) if v.settled else v.maybe)]
            maybe = tuple(dict.fromkeys([*texts, *([] if before else [None])]))
            value = Value(None, value.line, value.written, "a template may leave it out", maybe)
        unit.own[name] = value

    def _environment(self, unit: Unit, node) -> bool:
        """Take the assignments of an env block; whether it was nothing but one."""
        only = True
        if kind_of(node) == "map":
            for key, key_node, value in self.pairs(node):
                if kind_of(value) == "scalar":
                    if NAME.fullmatch(key):
                        self._own(unit, key, self._value(value, unit, self.line(key_node)))
                    elif NAME.search(value.value):
                        self._scalar(unit, key, value)
                elif ENV_KEY.match(key) and self._environment(unit, value):
                    continue
                elif NAME.fullmatch(key) and kind_of(value) == "map":  # NAME: {value: 1}
                    self._pair(unit, key, self.pairs(value), key_node)
                else:
                    only = False
            return only
        for item in node.value:
            if kind_of(item) == "scalar":
                self._entry(unit, item)
            elif kind_of(item) == "map":
                pairs = self.pairs(item)
                names = {k: v for k, _, v in pairs if k in ("name", "Name", "key", "variable")}
                name = next((v for v in names.values() if kind_of(v) == "scalar"), None)
                if name is not None and NAME.fullmatch(name.value):
                    self._pair(unit, name.value, pairs, name)
                elif name is not None:
                    unit.plain[name.value] = next((v for k, v in scalars_of(item).items() if k in VALUE_KEYS), "")
                else:
                    only &= self._environment(unit, item)
            else:
                only = False
        return only

    def _pair(self, unit: Unit, name: str, pairs: list, at) -> None:
        """`name: NAME` with its value; a template may choose between several."""
        line, given = self.line(at), [v for k, _, v in pairs if k in VALUE_KEYS and kind_of(v) == "scalar"]
        if len(given) > 1:
            chosen = Value(None, line, "", "a template chooses", tuple(dict.fromkeys(v.value for v in given)))
            self._own(unit, name, chosen)
        for value in given if len(given) == 1 else ():
            self._own(unit, name, self._value(value, unit, line))
            if unit.dialect == "kubernetes" and not value.style and value.tag.endswith((":int", ":bool", ":float")):
                why = f'Kubernetes takes strings only and refuses this: write value: "{value.value}"'
                unit.remarks.append(Remark("warning", name, value.value, why, line))
        source = next((v for k, _, v in pairs if k == "valueFrom"), None)
        if source is not None:
            self._own(unit, name, self._referred(source, line))
        elif not given:
            unit.own[name] = Value("", line, "")

    def _referred(self, source, line: int) -> Value:
        """What `valueFrom` takes: a key of a ConfigMap that stands in this text, or what only the cluster knows."""
        for ref, _, node in pairs_of(source) if kind_of(source) == "map" else ():
            kind = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}.get(ref, "")
            data = scalars_of(self.shared.get((kind, scalars_of(node).get("name", ""))))
            key = scalars_of(node).get("key", "")
            if kind == "ConfigMap" and key in data:
                return Value(data[key], line, data[key][:80])
        return from_cluster(line)

    def _entry(self, unit: Unit, item) -> None:
        """`- NAME=value`, or `- NAME`, which takes the caller's."""
        name, eq, raw = item.value.partition("=")
        line = self.line(item)
        if TEMPLATE in raw:
            raw = self.text[item.start_mark.index : item.end_mark.index].partition("=")[2].rstrip("\"'")
        if NAME.fullmatch(name):
            if eq:
                self._own(unit, name, self._text_value(raw, unit, line))
            elif unit.dialect != "raw":
                self._own(unit, name, inherited(name, line))
        elif NAME.search(item.value):
            self._scalar(unit, "", item)

    def _value(self, node, unit: Unit, line: int) -> Value:
        if node.tag.endswith(":null") and node.value in ("", "~", "null") and not node.style:
            if unit.dialect == "compose":
                return inherited("", line)
            return Value("", line, "")
        if TEMPLATE in node.value:
            written = self.text[node.start_mark.index : node.end_mark.index]
            matrix = re.search(r"\bmatrix\.(\w+)", written)
            listed = matrix and re.search(rf"\b{matrix[1]}:[ \t]*\[([^\]\n]*)\]", self.text)
            texts = [t.strip(" \"'") for t in listed[1].split(",")] if listed else possible(written)
            return Value(None, line, written[:80], "a template fills it in", tuple(dict.fromkeys(texts)))
        return self._text_value(node.value, unit, line)

    def _text_value(self, raw: str, unit: Unit, line: int) -> Value:
        written, dialect = raw[:80], unit.dialect
        if dialect == "compose":
            plain = raw.replace("$$", "")
            if "$" in plain:
                return Value(None, line, written, "docker compose fills it in from its own environment", possible(raw))
            return Value(raw.replace("$$", "$"), line, written)
        if dialect == "kubernetes" and "$(" in raw:
            known = [unit.plain[n] for n in re.findall(r"\$\((\w+)\)", raw) if n in unit.plain]
            maybe = tuple(dict.fromkeys((*known, *possible(raw))))
            return from_cluster(line, written, maybe)
        if dialect in ("kubernetes", "raw") or not OPEN.search(raw):
            return Value(raw, line, written)
        return Value(None, line, written, "only known when it is expanded", possible(raw))

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
