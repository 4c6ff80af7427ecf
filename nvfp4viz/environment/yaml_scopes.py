"""Services, containers and other scopes of YAML and JSON, by nodes: nothing is constructed, so no tag is refused."""

from __future__ import annotations

import re
from dataclasses import replace

from .assignments import FOLD, NAME, Lines, Value
from .commandline import arguments_of, program_of
from .settings import Remark, Settings, settings
from .yaml_nodes import DEPTH, TEMPLATE, argv_text, documents, kind_of, scalars_of, shown, untemplated
from .yaml_values import ENV_KEY, NODES, VALUE_KEYS, Unit, Values

LOOK = 4000  # characters of a map that are searched for the program and its flags
_COMMAND = re.compile(
    r"(?i)^(?:command|args|entrypoint|cmd|run|script|exec\w*|path|shell|launch\w*|arguments|.*cmd|steps?"
    r"|(?:.*_)?commands|.*run_options)$"
)
_FILLED = "a template fills it in: what it sets is not known here"
_CUT = {
    "env_file": "not followed: check that file too",
    "envFrom": "not followed: check what it names too",
    "extends": "not followed: what it extends may set more",
    "EnvironmentFile": "not followed: check that file too",
}


def read_yaml(text: str, lines: Lines, given: dict[str, Value], reader, depth: int) -> list[Settings]:
    """Settings of each scope. Raises NotYamlError where there are no nodes to see."""
    walk, found = _Walk(text, lines, reader, depth), documents(untemplated(text))
    for document in found:
        walk.remember(document)
    for document in found:
        walk.visit(document, (), "", given)
    return walk.environments


class _Walk(Values):
    def __init__(self, text: str, lines: Lines, reader, depth: int):
        super().__init__(text, lines)
        self.reader, self.depth = reader, depth
        self.environments: list[Settings] = []
        self.extending: list[str] = []
        self.alone = "vllm" if "ray.serve.llm" in text else ""  # what Ray Serve's applications are

    def visit(self, node, path: tuple[str, ...], dialect: str, given: dict[str, Value], nested: int = 0) -> None:
        self.visited += 1
        if self.visited > NODES or nested > DEPTH:
            return
        if kind_of(node) == "list":
            for i, item in enumerate(node.value):
                inner, before = (*path, self._item(item, i)), len(self.environments)
                if kind_of(item) == "list" and item.value and all(kind_of(v) == "scalar" for v in item.value):
                    unit = Unit(inner, dialect)  # a command in words, among others
                    self._command(unit, "command", item)
                    self._emit(unit, given, False)
                else:
                    self.visit(item, inner, dialect, given, nested + 1)
                if i + 1 < len(node.value):
                    given = given | self._handed_to_later_steps(before)
        if kind_of(node) != "map":
            return
        pairs = self.pairs(node)
        keys = {k: v for k, _, v in pairs}
        dialect, path = self._dialect(keys, path, dialect)
        start = node.start_mark.index
        unit = Unit(path, dialect, self.line(node), self.text[start : min(node.end_mark.index, start + LOOK)])
        children = self._unit(unit, pairs)
        before, values = len(self.environments), given | unit.base | unit.own
        for key, value in children:
            self.visit(value, (*path, key), dialect, values, nested + 1)
        self._emit(unit, values, len(self.environments) > before)

    def _item(self, item, i: int) -> str:
        keys = scalars_of(item)
        return shown(next((keys[k] for k in keys if k in ("name", "id", "Name", "service")), "")) or str(i + 1)

    def _handed_to_later_steps(self, since: int) -> dict[str, Value]:
        """What a step of GitHub Actions writes into $GITHUB_ENV, the steps after it get."""
        written = [o for o in self.environments[since:] if re.fullmatch(r"\$\{?GITHUB_ENV\}?", o.file)]
        self.environments = [o for o in self.environments if o not in written] if written else self.environments
        return {n: o.unsettled.get(n) or Value(o.variables[n], line, o.variables[n])
                for o in written for n, line in o.lines.items()}  # fmt: skip

    def _dialect(self, keys: dict, path: tuple[str, ...], dialect: str) -> tuple[str, tuple[str, ...]]:
        if "services" in keys and kind_of(keys["services"]) == "map" and not path:
            return "compose", path
        if "kind" in keys and ("metadata" in keys or "apiVersion" in keys) and kind_of(keys["kind"]) == "scalar":
            named = scalars_of(keys.get("metadata")).get("name", "")
            return "kubernetes", (shown(f"{keys['kind'].value} {named}").strip(),)
        if "Config" in keys and "HostConfig" in keys:
            return "raw", path
        return dialect, path

    def _unit(self, unit: Unit, pairs: list) -> list[tuple[str, object]]:
        """Fill a unit from a map; the children that are scopes of their own come back."""
        children = []
        keys = {k: v for k, _, v in pairs}
        name = keys.get("name")
        alone = name is not None and kind_of(name) == "scalar" and {*VALUE_KEYS, "valueFrom"} & set(keys)
        if alone and NAME.fullmatch(name.value):  # one variable by itself
            self._pair(unit, name.value, pairs, name)
            return children
        for key, key_node, value in pairs:
            kind = kind_of(value)
            words = kind == "list" and bool(value.value) and all(kind_of(v) == "scalar" for v in value.value)
            if NAME.fullmatch(key) and kind == "scalar":
                self._own(unit, key, self._value(value, unit, self.line(key_node)))
            elif key in _CUT and (kind != "scalar" or value.value):
                if not self._followed(unit, key, value, keys):
                    unit.remarks.append(Remark("warning", key, self._short(value), _CUT[key], self.line(key_node)))
                    children.append((key, value))
            elif NAME.fullmatch(key) and words:
                texts = tuple(dict.fromkeys(v.value for v in value.value))
                self._own(unit, key, Value(None, self.line(key_node), ", ".join(texts)[:80], "one of a list", texts))
            elif ENV_KEY.match(key) and kind == "scalar" and TEMPLATE in value.value:
                written = self.text[value.start_mark.index : value.end_mark.index]
                unit.remarks.append(
                    Remark("warning", "template", f"{key}: {written}"[:80], _FILLED, self.line(key_node))
                )
            elif _COMMAND.match(key) and (kind == "scalar" or words):
                self._command(unit, key.lower(), value)
            elif ENV_KEY.match(key) and kind != "scalar" and self._environment(unit, value):
                continue
            elif kind == "scalar":
                self._scalar(unit, key, value)
            else:
                children.append((key, value))
        return children

    def _followed(self, unit: Unit, key: str, node, keys: dict) -> bool:
        """Whether all that an `extends` or an `envFrom` names stands in this text; it is the base then."""
        if key == "envFrom" and kind_of(node) == "list":
            refs = [(re.match("configMap|secret", k), v) for item in node.value if kind_of(item) == "map"
                    for k, _, v in self.pairs(item)]  # fmt: skip
            kinds = {"configMap": "ConfigMap", "secret": "Secret"}
            found = [self.shared.get((kinds[m[0]], scalars_of(v).get("name", ""))) if m else None for m, v in refs]
            if not found or None in found:
                return False
            for data in found:
                base = Unit(unit.path, unit.dialect)
                self._environment(base, data)
                unit.base |= base.own
            return True
        named = node.value if kind_of(node) == "scalar" else scalars_of(node).get("service", "")
        target = None if "file" in scalars_of(node) else self.shared.get(("service", named))
        if key != "extends" or target is None or named in self.extending:
            return False
        self.extending.append(named)
        base = Unit(unit.path, unit.dialect, self.line(target))
        self._unit(base, self.pairs(target))
        self.extending.pop()
        unit.base |= base.base | base.own
        unit.remarks += base.remarks
        if not {"command", "entrypoint"} & set(keys):
            unit.argv, unit.words, unit.texts = base.argv + unit.argv, base.words + unit.words, base.texts + unit.texts
        return True

    def _short(self, node) -> str:
        words = (
            [node.value]
            if kind_of(node) == "scalar"
            else [n.value for n in node.value if kind_of(n) == "scalar"]
            if kind_of(node) == "list"
            else []
        )
        return " ".join(map(str, words))[:80] or "..."

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

    def _emit(self, unit: Unit, values: dict[str, Value], nested: bool) -> None:
        name = ", ".join(p for p in unit.path if p)
        name = re.sub(r"^services, ", "service ", name)
        name = re.sub(r"(?:spec, )?(?:template, )?(?:spec, )?\b(init)?[cC]ontainers?, ", r"\1container ", name)
        line, alone = " ".join(unit.words), ""
        if unit.own and not unit.words:  # no command of its own: what stands in it tells
            line, alone = unit.text, self.alone
        program, arguments = program_of(line) or alone, arguments_of(line)
        inner: list[Settings] = []
        texts = [(*text, "") for text in unit.texts]
        if any(NAME.search(word) for word, _ in unit.argv):
            texts.append((*argv_text(unit.argv), "shell"))
        for body, first, kind in texts if self.depth < 6 else ():
            inner += self.reader(body, kind, Lines(body, first), values, self.depth + 1)
        inner = [one for one in inner if one.variables or one.unsettled or one.remarks or one.program]
        whole = settings(name, values, unit.remarks, program, arguments)
        added = [one for one in inner if one.variables != whole.variables or one.unsettled != whole.unsettled]
        lost = set(unit.own) - {n for one in inner for n in one.lines}  # what no text in the unit has taken over
        for one in inner if added else ():
            called = ", ".join(filter(None, (name, one.name)))
            joined, remarks = {**arguments, **one.arguments}, (*unit.remarks, *one.remarks)
            self.environments.append(
                replace(one, name=called, program=one.program or program, arguments=joined, remarks=remarks)
            )
        if added and lost:
            self.environments.append(settings(name, values, unit.remarks, program, arguments))
        if not added and (unit.own or unit.remarks or program) and (unit.words or not nested or unit.remarks):
            program = program or next((o.program for o in inner if o.program), "")
            more = tuple(r for o in inner for r in o.remarks)
            self.environments.append(settings(name, values, (*unit.remarks, *more), program, arguments))
