"""A page of HTML that opens offline: its frame, text of strangers made safe, pictures, and nothing from a network."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from ..web import asset, page_module
from .packing import sign, signature


def document(title: str, body: str, *, css: str = "") -> str:
    """The whole page, with the explorer's module, the styles, a policy that forbids any network, and a checksum."""
    script, styles = page_module(), asset("report/report.css") + asset("explorer/explorer.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    return sign(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{signature()}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{styles}{css}</style>\n</head>\n"
        f'<body>\n<main>\n{body}\n</main>\n<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def figure(ax, caption: str) -> str:
    """A matplotlib figure as PNG on a white card, with a caption."""
    from ..plots import Picture

    picture = Picture(ax)
    width, height = (round(v * 4 / 3) for v in picture.size)
    source = base64.b64encode(picture.png).decode()
    return (
        f'<figure class="card"><img src="data:image/png;base64,{source}" width="{width}" height="{height}"'
        f' alt="{text(picture.alt)}"><figcaption>{text(caption)}</figcaption></figure>'
    )


def table(columns: dict[str, tuple[str, str]]) -> str:
    """The frame of a table whose rows the page's script fills in, sorts and filters.

    Args: columns: name in the CSV -> (heading, kind); kinds are those of `SHOW` in report.js.
    """
    head = "".join(
        f'<th scope="col" data-name="{name}" data-kind="{kind}"><button>{text(title)}</button></th>'
        for name, (title, kind) in columns.items()
    )
    return (
        '<div class="tools"><label>Filter <input id="filter" type="search" placeholder="words of a row"></label>'
        '<button id="csv">Download CSV</button><span id="shown" class="note" role="status"></span></div>\n'
        '<div id="results" class="scroll tall" tabindex="0" role="region" aria-label="Results">'
        f"<table><thead><tr>{head}</tr></thead><tbody></tbody></table></div>{NEEDS_SCRIPT}"
    )


NEEDS_SCRIPT = '<noscript><p class="note">This part needs JavaScript, which runs from this file alone.</p></noscript>'


def text(value) -> str:
    """Any text as HTML text: escaped, control characters and bidirectional overrides made visible, bounded."""
    written = str(value)
    if len(written) > 2000:
        written = written[:1000] + f" … ({len(written):,} characters) … " + written[-500:]
    visible = "".join(_VISIBLE.get(ord(c), c) for c in written)
    return escape(visible.encode("utf-8", "backslashreplace").decode())  # half a surrogate pair has no UTF-8


_VISIBLE = {i: chr(0x2400 + i) for i in range(32) if i != 10} | {127: "␡"}
_VISIBLE |= {i: f"[U+{i:04X}]" for i in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
