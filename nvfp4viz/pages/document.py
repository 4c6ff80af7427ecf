"""A page of HTML that opens offline: its frame, text of strangers made safe, pictures, and nothing from a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import datetime, timezone
from functools import cache
from html import escape
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..files import replacing
from ..shown import NAMELESS, quantity
from ..web import asset, page_module
from .packing import sign, signature
from .words import explained, whole

HEAD = 90  # characters of a title that a printed page has room for


def document(title: str, body: str, *, css: str = "", printed: str = "") -> str:
    """The whole page, with its script, the styles, a policy that forbids any network, and a checksum.

    Args: printed: stands at the head of every printed page, right of the title.
    """
    script = page_module()
    styles = asset("report/report.css") + asset("explorer/explorer.css") + css + _page_heads(title, printed)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    whole = {"script": Markup(script), "styles": Markup(styles), "signature": Markup(signature()), "body": Markup(body)}
    return sign(str(fill("document.html", title=title, policy=Markup(policy), **whole)))


def _page_heads(left: str, right: str) -> str:
    """CSS that prints two texts above every page; whatever they hold is a string there."""

    def box(place: str, text: str) -> str:
        shown = "".join(c if c.isalnum() and c.isascii() else f"\\{ord(c):x} " for c in str(text)[:HEAD])
        look = "font: 8pt system-ui, sans-serif; color: #5c5c5c"
        return f'  @{place} {{ content: "{shown}"; {look}; }}\n'

    return f"@page {{\n{box('top-left', left)}{box('top-right', right)}}}\n"


def fill(template: str, **values) -> Markup:
    """A template of this folder with its values; all but Markup is shown as `visible` makes it."""
    return Markup(_templates().get_template(template).render(**values))


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nvfp4viz.pages"), autoescape=True, finalize=visible,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    environment.filters["explained"] = lambda text: explained(visible(text))
    environment.filters["whole"] = lambda text: whole(visible(text))
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["tensor"] = lambda name: name or NAMELESS
    environment.filters["tensors"] = lambda n: quantity(n, "tensor")
    environment.filters["json"] = json.dumps
    return environment


def written(author: str | None) -> str:
    """When a page was written, and by whom where that was said."""
    return " · ".join([f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC", *([str(author)] if author else [])])


def write(page: str, path: str | os.PathLike) -> Path:
    """Write a page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path).expanduser()


def visible(value) -> Markup:
    """Any text as HTML text: escaped, control characters and bidirectional overrides made visible, bounded."""
    if isinstance(value, Markup):
        return value
    written = str(value)
    if len(written) > 2000:
        written = written[:1000] + f" … ({len(written):,} characters) … " + written[-500:]
    seen = "".join(_VISIBLE.get(ord(c), c) for c in written)
    return Markup(escape(seen.encode("utf-8", "backslashreplace").decode()))  # half a surrogate pair has no UTF-8


_VISIBLE = {i: chr(0x2400 + i) for i in range(32) if i != 10} | {127: "␡"}
_VISIBLE |= {i: f"[U+{i:04X}]" for i in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def picture(ax, caption: str, name: str = "figure", seen: str = "") -> dict:
    """A matplotlib figure as a template shows it: SVG in the page's ink with ids of its own, and a caption.

    seen: what there is to see, which stands behind its title for who does not see it.
    """
    from ..shown import svg, titles

    alt = f"{titles(ax.figure)}: {seen}" if seen else ""
    return {"svg": Markup(svg(ax, name, alt)), "caption": caption}
