"""The picture beside the widget, for where no kernel or no widget is: block scales of A and B.

Drawn with Pillow: Matplotlib took half of the time that a display takes. It has no ground of its own, and its inks can
be read on white and on black.
"""

from __future__ import annotations

import io
import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..analysis import marked
from ..catalog import style
from ..nvfp4 import e4m3_edges
from ..shown import NAMELESS, fixed, printable
from ..stats import Stats

WIDTH, HEIGHT, DENSITY = 720, 416, 2  # CSS pixels, and how many of the picture's own each has
LEFT, RIGHT, MIDDLE, REACH, BAND = 64, 706, 216, 116, 11  # of the plot; REACH of a half, BAND of half the axis between
INK = (118, 118, 118)  # a contrast above 4 on white and on #111
FAINT = (*INK, 64)
EDGES = np.log2(e4m3_edges())  # of the cells of bytes 1 to 126
ZERO_SLOT = 26  # pixels of scale 0, which has no place on a logarithmic axis


def still(tensor: str, a: Stats, b: Stats, versions: dict[str, str]) -> tuple[bytes, dict]:
    """PNG of the block scales of a tensor under A, above, and B, below; with its width, height and alt text.

    How to read it: a bar is one E4M3 value, as high as its share of blocks an octave; solid ones mapped their amax to
    6, pale ones, on top of them, to 4.
    """
    sheet, both, colors = _Sheet(), (a, b), _colors(a, b)
    shares = [_shares(stats) for stats in both]
    axis, most = _Axis(sum(shares)), max(1e-9, *(share.sum(1).max() for share in shares))
    for stats, share, sign, color in zip(both, shares, (-1, 1), colors, strict=True):
        _grid(sheet, sign, most)
        _bars(sheet, axis, sign, share / most, color)
        _ceiling(sheet, axis, sign, stats.recipe.e4m3_max, color)
    for x, name in axis.labels():
        sheet.text(x, MIDDLE + 4, name, size=11, anchor="ms")
    sheet.text(14, 22, _ending(printable(tensor) or NAMELESS, 84), size=13, bold=True)
    named = [f"{side} {_named(stats)}" for side, stats in zip("AB", both, strict=True)]
    for words, color, y in zip(named, colors, (44, HEIGHT - 36), strict=True):
        end = sheet.text(14, y, words[0], color, size=16, bold=True)
        sheet.text(end + 8, y, words[2:])
    engines = "engine " + " and ".join(dict.fromkeys(stats.engine for stats in both))
    made = [engines, *(f"{name} {versions[name]}" for name in ("nvfp4viz", "torch") if versions.get(name))]
    sheet.text(14, HEIGHT - 12, " · ".join(["share of blocks an octave; solid to 6, pale to 4", *made]), size=11)
    alt = f"{printable(tensor) or NAMELESS}: block scales under {named[0]}, above, and {named[1]}, below"
    return sheet.png(), {"width": WIDTH, "height": HEIGHT, "alt": alt}


def _named(stats: Stats) -> str:
    """Recipe, marked where no engine runs it, error, and how many blocks chose 4."""
    name = marked(stats.recipe.name, stats.recipe)
    four = f", {stats.n_four:,} of {stats.blocks:,} blocks chose 4" if stats.recipe.four_over_six else ""
    return f"{name}, {fixed(stats.sqnr_db)} dB{four}"


def _ending(name: str, letters: int) -> str:
    """A name's end, which tells more than its beginning."""
    return name if len(name) <= letters else "…" + name[1 - letters :]


def _colors(a: Stats, b: Stats) -> list[tuple[int, int, int]]:
    """Those of the recipes; of one colour, as variants of a recipe are, B takes a shade of its own."""
    first, second = (ImageColor.getrgb(style(stats.recipe)["color"]) for stats in (a, b))
    return [first, tuple((2 * v + 3 * 190) // 5 for v in second) if first == second else second]


def _shares(stats: Stats) -> np.ndarray:
    """[127, 2]: of all blocks, an octave, by scale byte and by choice; scale 0 lies in no octave."""
    octaves = np.concatenate([[1], np.diff(EDGES)])
    return stats.scale_histogram / max(stats.blocks, 1) / octaves[:, None]


class _Axis:
    """Where scales stand: on a logarithmic axis that begins below the smallest in use, 0 in a slot before it."""

    def __init__(self, shares: np.ndarray):
        used = np.flatnonzero(shares.sum(1))
        lowest = max(1, *used[used > 0][:1]) if (used > 0).any() else 1
        self.zero = bool(used[:1].size and used[0] == 0)
        self.start = LEFT + ZERO_SLOT * self.zero
        self.low, self.high = math.floor(EDGES[lowest - 1]) - 0.1, EDGES[-1] + 0.1

    def at(self, log2: float) -> float:
        return self.start + (log2 - self.low) / (self.high - self.low) * (RIGHT - self.start)

    def cell(self, byte: int) -> tuple[float, float]:
        if not byte:
            return LEFT + 4, self.start - 8
        return self.at(EDGES[byte - 1]), self.at(EDGES[byte])

    def labels(self):
        """Powers of two, every second one where there is little room, and 0."""
        powers = range(math.ceil(self.low), 9)
        for power in powers:
            if len(powers) <= 13 or power % 2:
                yield self.at(power), f"{2.0**power:g}" if power >= -3 else f"2{str(power).translate(RAISED)}"
        if self.zero:
            yield LEFT + ZERO_SLOT / 2 - 2, "0"


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _grid(sheet: _Sheet, sign: int, most: float) -> None:
    """The axis of one half, and a line at each of some round shares."""
    base = MIDDLE + sign * BAND
    power = 10.0 ** math.floor(math.log10(most))
    step = next(m * power for m in (0.2, 0.5, 1.0, 2.0, 5.0) if most < 4 * m * power)
    for share in np.arange(0, most, step):
        y = base + sign * REACH * share / most
        sheet.line((LEFT, y), (RIGHT, y), FAINT if share else INK)
        sheet.text(LEFT - 7, y + 4, f"{100 * share:.3g} %", size=11, anchor="rs")


def _bars(sheet: _Sheet, axis: _Axis, sign: int, heights: np.ndarray, color) -> None:
    base = MIDDLE + sign * BAND
    for byte in np.flatnonzero(heights.sum(1)):
        (left, right), (six, four) = axis.cell(byte), REACH * heights[byte]
        sheet.bar(left + 0.5, right - 0.5, base, base + sign * six, color)
        sheet.bar(left + 0.5, right - 0.5, base + sign * six, base + sign * (six + four), (*color, 125))


def _ceiling(sheet: _Sheet, axis: _Axis, sign: int, ceiling: float, color) -> None:
    x, end = axis.at(math.log2(ceiling)), MIDDLE + sign * (BAND + REACH + 12)
    if x < LEFT:
        return
    sheet.line((x, MIDDLE + sign * BAND), (x, end), color)
    left = x > LEFT + 90  # of the line is room for the words
    at, anchor = (x - 6, "rs") if left else (x + 6, "ls")
    sheet.text(at, end + 8 * (sign < 0), f"ceiling {ceiling:g}", color, size=11, anchor=anchor)


class _Sheet:
    """A picture without a ground; its measures are CSS pixels."""

    def __init__(self):
        self.image = Image.new("RGBA", (DENSITY * WIDTH, DENSITY * HEIGHT), (*INK, 0))
        self._draw = ImageDraw.Draw(self.image)

    def line(self, start: tuple, end: tuple, color) -> None:
        self._draw.line([tuple(round(DENSITY * v) for v in point) for point in (start, end)], color, DENSITY)

    def bar(self, left: float, right: float, base: float, end: float, color) -> None:
        low, high = sorted((round(DENSITY * base), round(DENSITY * end)))
        first = round(DENSITY * left)
        if high > low:
            self._draw.rectangle((first, low, max(first, round(DENSITY * right) - 1), high - 1), color)

    def text(
        self, x: float, y: float, words: str, color=INK, *, size: int = 12, bold: bool = False, anchor="ls"
    ) -> float:
        """Words on a base line, where the anchor says; returns where words that begin at x end."""
        font = _font(DENSITY * size, bold)
        self._draw.text((DENSITY * x, DENSITY * y), words, color, font, anchor)
        return x + font.getlength(words) / DENSITY

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, "png")
        return buffer.getvalue()


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    found = find_spec("matplotlib")  # for its fonts, and not imported
    if found is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(found.origin).parent / f"mpl-data/fonts/ttf/DejaVuSans{'-Bold' * bold}.ttf", size)
