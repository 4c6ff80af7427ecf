"""The formulas of a notebook, set without a script: in its prose, and in what its cells display."""

from __future__ import annotations

import re
from html import escape

from ..shown import formula

# Code, which is left alone; a formula that stands alone, in dollars or an environment; one in a line, whose dollar
# opens where no blank follows, and closes where none precedes and no digit follows
MATH = re.compile(
    r"(`+)[\s\S]*?\1|\$\$([\s\S]+?)\$\$|\\begin\{((?:equation|align|gather)\*?)\}([\s\S]+?)\\end\{\3\}"
    r"|(?<![\\$])\$(?=\S)([^$`\n]+?)(?<=\S)\$(?!\d)"
)
ROW = re.compile(r"\\\\(?:\[[^\]]*\])?")  # between the rows of an environment
# What says how rows stand, or how large: each is set by itself
LAYOUT = re.compile(
    r"\\(?:begin|end)\{(?:aligned|split|gathered)\}|\\(?:label|tag)\{[^}]*\}|\\(?:nonumber|displaystyle)\b|&"
)
BETTER = ("text/html", "image/png", "image/svg+xml")  # than TeX, where an output has it


def set_aside(notebook) -> dict[str, str]:
    """Put a mark in place of each formula of the prose and of outputs; returns mark -> HTML that needs no script."""
    found: dict[str, str] = {}

    def mark(match: re.Match) -> str:
        alone = match[2] or match[4]
        tex = alone or match[5]
        if tex is None:  # code
            return match[0]
        name = f"nvfp4vizFormula{len(found)}e"
        found[name] = f'<span class="formula">{_set(tex)}</span>' if alone else _set(tex)
        return name

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = MATH.sub(mark, cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = MATH.sub(mark, data["text/markdown"])
            if "text/latex" in data and not any(kind in data for kind in BETTER):
                data["text/html"] = f"<p>{escape(MATH.sub(mark, data['text/latex']))}</p>"
    return found


def _set(tex: str) -> str:
    """TeX as SVG, a line a row; as code where a part of it cannot be set."""
    rows = [" ".join(LAYOUT.sub(" ", row).split()) for row in ROW.split(tex)]
    lines = [formula(row) for row in rows if row]
    return "<br>".join(lines) if lines and None not in lines else f"<code>{escape(tex)}</code>"
