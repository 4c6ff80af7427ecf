"""`{public} nvfp4viz.sweep`: what a public name is, from its signature and its docstring.

Docstrings are plain text with `code` in backticks, indented code, examples behind >>>, and parts that begin with a word
and a colon; this makes Markdown of them.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from dataclasses import is_dataclass

from sphinx.util.docutils import SphinxDirective

import nvfp4viz

PARTS = re.compile(r"^(Args|Returns|Reading it|How to read it|Raises|Source): ?")
ARGUMENT = re.compile(r"^ {4}([\w, ]+):\s+(.*)$")
FIELD = re.compile(r"^    (\w+): [^#=\n]+(?:=[^#\n]*)?#\s*(?!fmt:)(.+)$", re.MULTILINE)


class Public(SphinxDirective):
    """A public name with its signature, docstring and, of a class, what it has."""

    required_arguments = 1

    def run(self):
        try:
            text = entry(self.arguments[0])
        except (ModuleNotFoundError, AttributeError) as error:
            raise self.error(f"{self.arguments[0]} is no name of the package: {error}") from error
        return self.parse_text_to_nodes(text)


def find(path: str):
    """The object of a dotted path, such as "nvfp4viz.plots.ceiling_curve"."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def entry(path: str) -> str:
    """MyST of one name."""
    thing = find(path)
    if inspect.isclass(thing):
        body = markdown(inspect.getdoc(thing)) + fields_of(thing) + members(thing)
        made = has_fields(thing) and path != "nvfp4viz.Stats"  # Stats has forty fields; nobody types them
        return block("class", path + (signature(thing) if made else ""), body)
    if callable(thing):
        return block("function", path + signature(thing), markdown(inspect.getdoc(thing)))
    return block("data", path, values(thing))


def block(kind: str, head: str, body: str, fence: str = "`````") -> str:
    return f"{fence}{{py:{kind}}} {head}\n\n{body}\n{fence}\n\n"


def signature(thing) -> str:
    """Names and short defaults; types and shapes stand in the text."""
    parameters = []
    for p in inspect.signature(thing).parameters.values():
        if p.default is not p.empty:
            p = p.replace(default=_Default(p.default))
        parameters.append(p.replace(annotation=p.empty))
    return str(inspect.Signature(parameters))


class _Default:
    def __init__(self, value):
        short = "RECIPES" if value is nvfp4viz.RECIPES else repr(value)
        self.text = short if len(short) < 40 and "<" not in short else "..."

    def __repr__(self):
        return self.text


def members(cls: type) -> str:
    """Public methods and properties that the package documents, those of its bases included."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("nvfp4viz"):
            continue
        for name, raw in vars(base).items():
            if name.startswith("_") or name in found:
                continue
            if isinstance(raw, property) and raw.__doc__:
                found[name] = block("property", name, markdown(inspect.getdoc(raw)), "````")
            elif isinstance(raw, (classmethod, staticmethod)) or inspect.isfunction(raw):
                method = getattr(cls, name)
                if method.__doc__:
                    found[name] = block("method", name + _bound(raw, method), markdown(inspect.getdoc(method)), "````")
            elif type(raw).__name__ == "Share":
                found[name] = block("property", name, markdown(raw.__doc__), "````")
    return "".join(found.values())


def _bound(raw, method) -> str:
    text = signature(method)
    return re.sub(r"^\(self(, )?", "(", text) if inspect.isfunction(raw) else text


def has_fields(cls: type) -> bool:
    return is_dataclass(cls) or hasattr(cls, "_fields")


def fields_of(cls: type) -> str:
    """Fields of a dataclass or named tuple, as its source explains them behind each."""
    found = FIELD.findall(inspect.getsource(cls)) if has_fields(cls) else []
    return "".join(f"- `{name}`: {escaped(text)}\n" for name, text in found) + "\n" * bool(found)


def values(thing) -> str:
    if isinstance(thing, dict):
        pairs = thing.items() if all(isinstance(v, str) or is_dataclass(v) for v in thing.values()) else ()
        short = [(k, v if isinstance(v, str) else repr(v)) for k, v in pairs]
        if all(len(v) < 100 for _, v in short):
            return "".join(f"- `{k}`: {escaped(v) if v == thing[k] else f'`{v}`'}\n" for k, v in short)
        return "By name: " + ", ".join(f"`{k}`" for k in thing) + ".\n"
    return f"`{thing!r}`\n"


# Docstrings as Markdown
def markdown(text: str | None) -> str:
    """A docstring as MyST; what has none says nothing."""
    return "\n\n".join(_paragraph(p) for p in re.split(r"\n[ \t]*\n", text or "")) + "\n\n"


def _paragraph(text: str) -> str:
    lines, out = text.split("\n"), []
    if all(line.startswith("    ") for line in lines):
        return fenced("python", textwrap.dedent("\n".join(lines)))
    while lines:
        line = lines.pop(0)
        part = PARTS.match(line)
        if line.startswith(">>>"):
            example = [line]
            while lines:
                example.append(lines.pop(0))
            out.append("\n" + fenced("pycon", "\n".join(example)))
        elif part and part[1] == "Args" and not line[part.end() :].strip():
            out.append("\n**Arguments**\n")
            while lines and lines[0].startswith("    "):
                out.append(_argument(lines))
            out.append("")
        elif part:
            out.append(f"\n**{'Arguments' if part[1] == 'Args' else part[1]}** {escaped(line[part.end() :])}")
        else:
            out.append(("\n" if line.startswith("Raises ") else "") + escaped(line.strip()))
    return "\n".join(out)


def _argument(lines: list[str]) -> str:
    """An item of a list from a line and those that go on with it."""
    line = lines.pop(0)
    found = ARGUMENT.match(line)
    rest = []
    while lines and lines[0].startswith("     ") and not ARGUMENT.match(lines[0]):
        rest.append(lines.pop(0).strip())
    if not found:
        return "  " + escaped(" ".join([line.strip(), *rest]))
    return f"- `{found[1].strip()}`: " + escaped(" ".join([found[2], *rest]))


def fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def escaped(text: str) -> str:
    """Text whose signs mean themselves, but for `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(p if i % 2 else re.sub(r"([\\*_\[\]<>$#|~{}])", r"\\\1", p) for i, p in enumerate(parts))


def setup(app) -> dict:
    app.add_directive("public", Public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
