"""A figure of matplotlib as a picture: PNG in a notebook, SVG in the ink of a page; and formulas in the same ink."""

from __future__ import annotations

import base64
import io
import re
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

INK, FAINT, RULE = "#222222", "#6B6B6B", "#D9D9D9"  # what figures are drawn in


def expect(value, kind: type, wanted: str):
    """The value itself; TypeError where it is of another kind, with what the figure wants."""
    if not isinstance(value, kind):
        raise TypeError(f"cannot draw a {type(value).__name__}: this figure takes {wanted}")
    return value


def titles(figure: Figure) -> str:
    """What stands in for a picture where nothing better is given."""
    return " · ".join(t for t in (a.get_title("left") for a in figure.axes) if t) or "figure"


class Picture:
    """A figure as PNG for notebooks, on a white card, with a text that stands in for it."""

    def __init__(self, ax: Axes, alt: str = ""):
        figure = expect(ax, Axes, "Axes, as the functions of nvfp4viz.plots return them").figure
        self.axes, self.alt = ax, alt or titles(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        self.png = buffer.getvalue()
        self.size = tuple(round(72 * v) for v in figure.get_size_inches())

    def _repr_mimebundle_(self, include=None, exclude=None):
        size = {"width": round(self.size[0] * 4 / 3), "height": round(self.size[1] * 4 / 3), "alt": self.alt}
        return {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}, {"image/png": size}

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
