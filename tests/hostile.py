"""Names that strangers' files may carry, and that must stay text wherever they are shown, drawn, saved or printed."""

NAMES = {
    "script": "</script><img src=x onerror=window.pwned=1>",
    "attribute": '"\'><svg onload=window.pwned=1> onmouseover=window.pwned=1 x="',
    "comment": "<!--<script>window.pwned=1//",
    "entity": "&lt;b&gt; &amp;amp; &#x3c;",
    "nul": "layer\x00\x1b[31m\x7f",
    "rtl": "\u202egnp.\u202d \u2066x\u2069 \u200f\u061c",
    "long": "n" * 10_000,
    "surrogate": "\ud800half",
    "newline": "two\nlines\r\ttab",
    "math": "$\\frac{1}{",
    "dollars": "a$b$",
    "formula": '=HYPERLINK("http://example.com")',
    "sum": "=1+1",
    "prototype": "__proto__",
    "hidden": "_hidden",
    "digits": "layers.٣.日本",
    "blank": " ",
    "empty": "",
}
STORABLE = {kind: name for kind, name in NAMES.items() if kind not in ("surrogate", "empty")}  # by every file format
