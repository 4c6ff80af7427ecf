"""A figure of matplotlib as a picture: PNG in a notebook, SVG in the ink of a page; and formulas in the same ink."""

from __future__ import annotations

import base64
import io
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from unicodedata import east_asian_width
from urllib.parse import quote

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

from .text import NAMELESS

INK, FAINT, RULE = "#222222", "#6B6B6B", "#D9D9D9"  # what figures are drawn in


def expect(value, kind: type, wanted: str, of: type = object):
    """The value itself; TypeError where it, or a value in it, is of another kind, with what the figure wants."""
    inner = value.values() if isinstance(value, Mapping) else ()
    if not isinstance(value, kind) or not all(isinstance(one, of) for one in inner):
        raise TypeError(f"cannot draw a {type(value).__name__}: this figure takes {wanted}")
    return value


def titles(figure: Figure) -> str:
    """What stands in for a picture where nothing better is given."""
    return " · ".join(t for t in (a.get_title("left") for a in figure.axes) if t) or "figure"


def shorten(name: str, limit: int = 40) -> str:
    """A name as matplotlib draws it in full: no mathematics, no control characters, bounded, in legends too."""
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name) or NAMELESS
    if _width(name) > limit:
        name = _fitting(name, limit / 2 - 1) + "…" + _fitting(name[::-1], limit / 2)[::-1]
    return ("\N{ZERO WIDTH SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")


def _width(text: str) -> int:
    """In letters of a usual width."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _fitting(text: str, room: float) -> str:
    """As much of its beginning as has room."""
    n = 0
    while n < len(text) and _width(text[: n + 1]) <= room:
        n += 1
    return text[:n]


def label_tensors(axis: Axis, places: Sequence[float], names: Sequence[str], limit: int = 40, **look) -> None:
    """Names of tensors as ticks of an axis, shortened; the whole name is in the SVG, for who clicks one."""
    axis.set_ticks(places, [shorten(name, limit) for name in names], **look)
    for label, name in zip(axis.get_ticklabels(), names, strict=True):
        label.set_gid("tensor:" + quote(name, safe="", errors="replace"))


class Picture:
    """A figure for notebooks: SVG that follows light and dark, and PNG on a white card where that may not be shown."""

    def __init__(self, ax: Axes, alt: str = ""):
        figure = expect(ax, Axes, "Axes, as the functions of nvfp4viz.plots return them").figure
        self.axes, self.alt = ax, alt or titles(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        self.png = buffer.getvalue()
        self.size = tuple(round(72 * v) for v in figure.get_size_inches())

    def _repr_mimebundle_(self, include=None, exclude=None):
        size = {"width": round(self.size[0] * 4 / 3), "height": round(self.size[1] * 4 / 3), "alt": self.alt}
        png, alone = (
            base64.b64encode(self.png).decode(),
            standalone(self.axes, f"f{zlib.crc32(self.png):08x}", self.alt),
        )
        return {"image/svg+xml": alone, "image/png": png, "text/plain": self.alt}, {"image/png": size}

    def __repr__(self) -> str:
        return self.alt


def formula(tex: str) -> str | None:
    """A formula as SVG in the colour of the text around it, its TeX for who cannot see it; None where it cannot be set.

    Only matplotlib's part of TeX is known: fractions, roots, sums, Greek, ... but no environments.
    """
    buffer = io.BytesIO()
    try:
        depth = math_to_image(f"${tex}$", buffer, format="svg", dpi=72, prop=FontProperties(size=12))
    except ValueError:
        return None
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    for dead in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<style.*?</style>", r'<g id="patch_1">.*?</g>',
                 r' id="(figure|text|patch)_\d+"', r' style="fill: [^"]*"'):  # fmt: skip
        svg = re.sub(dead, "", svg, flags=re.S)
    place, words = f"vertical-align:{-depth:.1f}px", escape(tex, quote=True)
    look = f'role="img" aria-label="{words}" fill="currentColor" style="{place}"'
    return svg.replace("<svg ", f"<svg {look} ", 1)


# What a page draws in its own ink, so that a figure follows light and dark
_PAGE_INKS = {
    INK: "ink", FAINT: "faint", RULE: "rule",
    "#f[27]f[27]f[27]": "card", "#ffffff": "paper", "#000000": "ink",
}  # fmt: skip


def _written(figure: Figure) -> str:
    """The figure as SVG without its cards, drawn once: `savefig` draws it twice."""
    buffer, before, cards = io.StringIO(), (figure.canvas, figure.dpi), [figure.patch, *(a.patch for a in figure.axes)]
    colors = [card.get_facecolor() for card in cards]
    try:
        for card in cards:
            card.set_facecolor("none")
        with warnings.catch_warnings():  # on letters that Matplotlib's font lacks: the page's reader draws them
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    finally:
        for card, color in zip(cards, colors, strict=True):
            card.set_facecolor(color)
        canvas, figure.dpi = before
        figure.set_canvas(canvas)
    return buffer.getvalue()


def svg(ax: Axes, name: str, alt: str = "") -> str:
    """A figure as an SVG element in HTML: text that can be selected, colours by a page's CSS variables.

    Args: name: stands before all ids in it, which are a page's; alt: what stands in for the picture.
    """
    figure = expect(ax, Axes, "Axes, as the functions of nvfp4viz.plots return them").figure
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        text = _written(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for ink, variable in _PAGE_INKS.items():
        text = re.sub(ink, f"var(--{variable})", text, flags=re.IGNORECASE)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    width, height = (round(96 * v) for v in figure.get_size_inches())
    head = f'<svg role="img" aria-label="{escape(alt or titles(figure))}" width="{width}" height="{height}"'
    return re.sub(r'<svg .*?(viewBox="[^"]*").*?>', rf"{head} \1>", text, count=1, flags=re.DOTALL)


# light and dark, as report.css has them
SCHEME = {
    "ink": ("#1b1b1b", "#e8e8e8"), "faint": ("#5c5c5c", "#a8a8a8"), "rule": ("#dedede", "#383838"),
    "card": ("#f7f7f5", "#202020"), "paper": ("#ffffff", "#161616"),
}  # fmt: skip
GROUND = "light-dark(#ffffff,#111111)"


def standalone(ax: Axes, name: str, alt: str = "") -> str:
    """A figure as an SVG that brings its colours: those of the theme round it, as an image and inside a page alike.

    An image has a color-scheme of its own, which browsers take from the element that shows it, or else from the
    system: so it brings the ground that it can be read on, which is JupyterLab's. Inside a page it inherits; VS Code,
    whose pages have none, says its colours.
    """
    inks = {variable: f"light-dark({light},{dark})" for variable, (light, dark) in SCHEME.items()}
    inks["ink"] = f"var(--vscode-editor-foreground,{inks['ink']})"
    declared = "".join(f"--{variable}:{value};" for variable, value in inks.items())
    ground = f"background:var(--vscode-editor-background,{GROUND})"
    look = f"svg:root{{color-scheme:light dark}}#{name}{{{declared}{ground};max-width:100%;height:auto}}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" id="{name}" '
    start, inner = svg(ax, name, alt).replace("<svg ", head, 1).split(">", 1)
    return f"{start}><style>{look}</style>{inner}"
