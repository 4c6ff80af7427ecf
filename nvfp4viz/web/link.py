"""The files of this folder as text, and its modules linked into one, since no page can import another beside it."""

from __future__ import annotations

import base64
import gzip
import posixpath
import re
from functools import cache
from importlib import resources

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*? ?|class |const |let )(\w+))", re.MULTILINE)
_DEFAULT = re.compile(r"^export default (.+);$", re.MULTILINE)


def asset(name: str) -> str:
    """A text file of nvfp4viz/web."""
    return resources.files("nvfp4viz").joinpath("web", *name.split("/")).read_text(encoding="utf-8")


@cache
def link(entry: str, read=asset) -> str:
    """An ES module and all that it imports as one: each keeps its private names in a function of its own.

    Args: entry: path of a module in this folder, whose default export, if any, is the whole's; read: path -> text.
    Understood are `import { a, b } from "./c.js";`, and `export` in front of a declaration. Raises ValueError for any
    other import or export, and where modules import each other in a circle.
    """
    linked: dict[str, str] = {}

    def visit(path: str, importers: tuple[str, ...]) -> str:
        if path in importers:
            raise ValueError(f"modules import each other in a circle: {' -> '.join([*importers, path])}")
        if path not in linked:
            inside = (*importers, path)
            text = _IMPORT.sub(lambda m: f"const {{{m[1]}}} = {visit(_beside(path, m[2]), inside)};", read(path))
            names = _EXPORT.findall(text)
            text = _EXPORT.sub("", text)
            text, defaults = (text, 0) if importers else _DEFAULT.subn(r"const default_ = \1;", text)
            if left := re.search(r"^(?:import|export)\b.*", text, re.MULTILINE):
                raise ValueError(f"{path}: the linker does not know {left[0]!r}")
            exports = ", ".join(names + ["default_"] * defaults)
            linked[path] = f"// {path}\nconst {_name(path)} = (() => {{\n{text}return {{ {exports} }};\n}})();\n"
        return _name(path)

    last = visit(entry, ())
    default = f"export default {last}.default_;\n" if "default_" in linked[entry] else ""
    return "".join(linked.values()) + default


def _beside(path: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def _name(path: str) -> str:
    """A variable that no module can hide by one of its own."""
    return "$" + re.sub(r"\W", "$", path.removesuffix(".js"))


def explorer_module() -> str:
    """What anywidget runs."""
    return link("explorer/widget.js")


def page_module() -> str:
    """What a page that opens offline runs."""
    return link("report/report.js")


def inflating(module: str) -> str:
    """A module with the default export of another, which it holds compressed: a saved notebook keeps it."""
    packed = base64.b64encode(gzip.compress(module.encode(), 9, mtime=0)).decode()
    return (
        f'const packed = Uint8Array.from(atob("{packed}"), (c) => c.charCodeAt(0));\n'
        'const source = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));\n'
        'const blob = new Blob([await new Response(source).text()], { type: "text/javascript" });\n'
        "const url = URL.createObjectURL(blob);\n"
        "const whole = await import(/* webpackIgnore: true */ url);\n"
        "URL.revokeObjectURL(url);\n"
        "export default whole.default;\n"
    )
