"""How results show themselves: one line in a console, a small table in a notebook; strangers' text, made harmless."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

NAMELESS = "(no name)"  # stands for an empty name
ROWS = 16  # of a table; the rest is counted
LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"  # in the page's ink: light and dark alike
CELL = f"text-align:left;padding:2px 10px 2px 0;border:0;border-bottom:{LINE}"


def number(value) -> str:
    """A number for people; anything else as it is.

    >>> number(1536), number(0.021987), number(True), number("cpu")
    ('1,536', '0.02199', 'yes', 'cpu')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def quantity(n: int, noun: str) -> str:
    """A count of something.

    >>> quantity(1, "token"), quantity(4096, "token")
    ('1 token', '4,096 tokens')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def fixed(value: float, digits: int = 2) -> str:
    """A number with so many decimals, as the pages' script writes it: true signs, no -0, and what is no number.

    >>> fixed(-20.8128, 3), fixed(-1e-9), fixed(float("-inf")), fixed(float("nan"))
    ('−20.813', '0.00', '−∞', '–')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A difference: as `fixed`, with its sign where it reads as more than 0.

    >>> signed(0.11), signed(0.0001), signed(-0.11)
    ('+0.110', '0.000', '−0.110')
    """
    text = fixed(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def percent(share: float) -> str:
    """A share as the pages' script writes it; none that occurs reads as 0.

    >>> percent(0.0), percent(0.00002), percent(0.0123), percent(0.5)
    ('0 %', '0.002 %', '1.23 %', '50.0 %')
    """
    if not 0 < abs(share) < math.inf:
        return f"{fixed(100 * share, 0)} %"
    if abs(share) < 0.00095:
        return f"{short(100 * share, 1)} %"
    return f"{fixed(100 * share, 2 if abs(share) < 0.0995 else 1)} %"


def rounded(share: float) -> str:
    """A share in two digits, which is what a figure has room for.

    >>> rounded(0.0441), rounded(0.997), rounded(0.0)
    ('4.4 %', '100 %', '0 %')
    """
    return f"{short(100 * share, 2)} %"


def change(share: float) -> str:
    """A share by which something changed: as `percent`, with its sign.

    >>> change(0.0123), change(-0.5), change(0.0)
    ('+1.23 %', '−50.0 %', '0 %')
    """
    return f"{'+' * (share > 0)}{percent(share)}"


def short(value: float, digits: int = 4) -> str:
    """A number in so many digits with true signs, as the pages' script writes it; no power of ten where none is needed.

    >>> short(-7.562e-8, 2), short(123.4, 2), short(0.021987)
    ('−7.6×10⁻⁸', '120', '0.02199')
    """
    if not math.isfinite(value):
        return fixed(value)
    value += 0.0  # no -0
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    if value and not -3 <= int(power) <= 5:
        tens = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{float(mantissa):g}×10{tens}".replace("-", "−")
    return f"{float(f'{value:.{digits}g}'):.10g}".replace("-", "−")


def table(title: str, rows: Iterable[Iterable], head: Iterable[str] = (), note: str = "") -> str:
    """A small HTML table in the colours of the page around it; whatever it is given is escaped, and bounded."""
    rows = [list(row) for row in rows]
    lines = ["".join(f'<td style="{CELL}">{_text(value)}</td>' for value in row) for row in rows[:ROWS]]
    if heads := "".join(f'<th style="{CELL}">{_text(name)}</th>' for name in head):
        lines.insert(0, heads)
    more = f"and {len(rows) - ROWS:,} more" if len(rows) > ROWS else ""
    notes = "".join(f"<div>{_text(line, 2000)}</div>" for line in (more, note) if line)
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    look = "border-collapse:collapse;color:inherit;background:none;font-size:inherit"
    return f'<div><div><b>{_text(title, 400)}</b></div><table style="{look}">{body}</table>{notes}</div>'


def _text(value, limit: int = 120) -> str:
    text = printable(number(value))
    return escape(text if len(text) <= limit else text[: limit - 1] + "…")


def error_text(error: Exception, limit: int = 200) -> str:
    """What an error says that may quote a stranger's file: its first line, bounded, nothing that a terminal obeys."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return printable(line[:limit])


def printable(text: str) -> str:
    """A stranger's text for a terminal, which obeys nothing in it: escapes stand for control characters.

    >>> printable("a\\x1b[31m b")
    'a\\\\x1b[31m b'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Card:
    """A result that shows itself; `_card` says what: a title and its numbers by name, the most telling first."""

    def _card(self) -> tuple[str, Mapping[str, object]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, numbers = self._card()
        shown = ", ".join(f"{name} {number(value)}" for name, value in list(numbers.items())[:5])
        return printable(f"{type(self).__name__}({title}: {shown})")

    def _repr_html_(self) -> str:
        title, numbers = self._card()
        return table(f"{type(self).__name__} · {title}", numbers.items())
