"""Nodes of YAML and JSON texts with their marks; templates in them are text, and nothing is constructed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .assignments import FOLD, NAME, Lines
from .commandline import program_of

DEPTH = 200  # deeper ones overflow the stack of the C library
LONG = 50_000  # characters from which documents that tell nothing are passed over
CONDITIONS = 200  # of a template that are looked at
LIMIT = 400_000  # characters; beyond, scopes cost more than they tell
TEMPLATE = "\ue000"  # stands for each character of {{ ... }}


class NotYamlError(ValueError):
    """The text has no nodes: a template, tabs, prose."""


def untemplated(text: str) -> str:
    """Helm's and Jinja's parts as text of the same length that YAML takes; whole lines of them as comments."""
    if "{{" not in text and "{%" not in text:
        return text
    text = re.sub(r"^[ \t]*(?:\{\{[^\n]*\}\}|\{%[^\n]*%\})[ \t]*$", lambda m: "#" * len(m[0]), text, flags=re.M)
    return re.sub(r"\{\{[^{}\n]*\}\}", lambda m: TEMPLATE * len(m[0]), text)


def shown(text: str) -> str:
    """A text for a person: what stood for a template as one."""
    return re.sub(f"{TEMPLATE}+", "{{ }}", text)


def conditional(text: str) -> list[tuple[int, int]]:
    """First and last line, from 0, of what a template may leave out or repeat: `{{ if }}` to `{{ end }}`."""
    found, open_, breaks = [], [], Lines(text, 0)
    for m in re.finditer(r"\{[{%]-?[ \t]*(if|range|with|for|define|block|macro|end\w*)\b", text):
        line = breaks.at(m.start())
        if not m[1].startswith("end"):
            open_.append((m[1], line))
        elif open_:
            keyword, first = open_.pop()
            found += [(first, line)] if keyword in ("if", "range", "with", "for") else []
    return found[:CONDITIONS]


def documents(text: str) -> list:
    try:
        import yaml
    except ImportError:
        raise NotYamlError("PyYAML is not installed") from None
    if len(text) > LONG:
        text = _telling(text)
    if len(text) > LIMIT:
        raise NotYamlError("too long")
    try:
        json.loads(text)
        text = text.replace("\t", " ")
    except ValueError:
        pass
    loader, nested = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    try:
        for event in yaml.parse(text, loader):
            nested += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if nested > DEPTH:
                raise NotYamlError("nested too deeply")
        return [d for d in yaml.compose_all(text, loader) if isinstance(d, (yaml.MappingNode, yaml.SequenceNode))]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise NotYamlError(str(error)[:100]) from None


def _telling(text: str) -> str:
    """A stream of documents with those blanked that name no variable and start no program."""
    parts = re.split(r"(^---[^\n]*\n)", text, flags=re.M)
    telling = (p.startswith("---") or NAME.search(p) or program_of(p) for p in parts)
    return "".join(p if tells else re.sub(r"[^\n]", " ", p) for p, tells in zip(parts, telling, strict=True))


def kind_of(node) -> str:
    return {"MappingNode": "map", "SequenceNode": "list"}.get(type(node).__name__, "scalar")


def pairs_of(node, depth: int = 0) -> Iterator[tuple[str, object, object]]:
    """(key, key's node, value's node), merged maps (`<<`) first."""
    for key, value in node.value if depth < 8 else ():
        if kind_of(key) == "scalar" and key.value == "<<":
            for one in value.value if kind_of(value) == "list" else [value]:
                if kind_of(one) == "map":
                    yield from pairs_of(one, depth + 1)
    for key, value in node.value:
        if kind_of(key) == "scalar" and key.value != "<<":
            yield key.value, key, value


def scalars_of(node) -> dict[str, str]:
    """The scalars of a map; nothing of anything else."""
    if kind_of(node) != "map":
        return {}
    return {k: v.value for k, _, v in pairs_of(node) if kind_of(v) == "scalar"}


def argv_text(argv: list[tuple[str, int]]) -> tuple[str, int]:
    """Words of a command as one line of shell, each on the line of the file that it stands on."""
    text, at = "", argv[0][1]
    for word, line in argv:
        text += FOLD * max(0, line - at) or " "
        quoted = re.search(r"[\s;&|()<>\"'$*#]", word) or not word
        text += "'" + word.replace("'", "'\\''") + "'" if quoted else word
        at = max(at, line) + word.count("\n") + word.count(FOLD)
    return text, argv[0][1]
