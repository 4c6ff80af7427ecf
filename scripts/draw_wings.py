"""Draw docs/pictures/wings.svg: the wings of the package as floors, by who imports whom, read off the source."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nvfp4viz"
SAYS = {
    "files": "whole or not at all", "nvfp4": "the format", "shown": "results in a line",
    "stats": "what quantizing did", "catalog": "names and looks", "engine": "who computes",
    "activations": "where x comes from", "environment": "who reads what",
    "checkpoints": "scales on disk", "analysis": "what it means", "model": "a running model", "plots": "Axes out",
    "integrations": "engines' hooks", "planning": "what to keep", "explorer": "the widget", "web": "the page's script",
    "pages": "offline HTML", "cli": "the commands",
}  # fmt: skip
WIDTH, BOX, HIGH, GAP = 860, 180, 44, 36


def wings() -> dict[str, list[Path]]:
    found = {p.stem: [p] for p in PACKAGE.glob("*.py") if p.name != "__init__.py"}
    found |= {p.parent.name: sorted(p.parent.rglob("*.py")) for p in PACKAGE.glob("*/__init__.py")}
    return found


def uses(files: list[Path], names) -> set[str]:
    """Wings that files import."""
    found = set()
    for path in files:
        depth = len(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == depth:
                modules = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
                found |= {m for m in modules if m in names}
    return found


def draw() -> str:
    parts = wings()
    below = {name: uses(files, parts) - {name} for name, files in parts.items()}
    floor: dict[str, int] = {}

    def height(name: str) -> int:
        floor.setdefault(name, 1 + max((height(b) for b in below[name]), default=-1))
        return floor[name]

    rows: dict[int, list[str]] = {}
    for name in sorted(parts):
        rows.setdefault(height(name), []).append(name)
    top, place, boxes, arrows = max(rows), {}, [], []
    for level, names in rows.items():
        y = 12 + (top - level) * (HIGH + GAP)
        left = (WIDTH - len(names) * BOX - (len(names) - 1) * 16) / 2
        for i, name in enumerate(names):
            x = left + i * (BOX + 16)
            place[name] = x + BOX / 2, y
            lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in parts[name])
            boxes.append(
                f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HIGH}" rx="6"/>'
                f'<text x="{x + BOX / 2:g}" y="{y + 19:g}" class="name">{name}</text>'
                f'<text x="{x + BOX / 2:g}" y="{y + 35:g}">{SAYS.get(name, "")} · {lines:,}</text>'
            )
    for name, used in below.items():
        through = {c for b in used for c in below[b]}  # drawn by the wing between
        for b in sorted(used - through):
            (x0, y0), (x1, y1) = place[name], place[b]
            y0 += HIGH
            arrows.append(f'<path d="M{x0:g} {y0:g}C{x0:g} {y0 + 24:g} {x1:g} {y1 - 24:g} {x1:g} {y1:g}"/>')
    high = 24 + (top + 1) * (HIGH + GAP) - GAP
    style = (
        ":root{color-scheme:light dark}rect{fill:light-dark(#fff,#1b1b1b);stroke:light-dark(#999,#777)}"
        "path{fill:none;stroke:light-dark(#0072B2,#56B4E9);stroke-width:1.2;opacity:.55}"
        "text{font:11px system-ui,sans-serif;text-anchor:middle;fill:light-dark(#555,#bbb)}"
        ".name{font-weight:600;font-size:13px;fill:light-dark(#111,#eee)}"
    )
    title = "Wings of nvfp4viz by floor; a line goes from a wing to one below that it imports"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high:g}" role="img" aria-label="{title}">'
        f"<style>{style}</style>{''.join(arrows)}{''.join(boxes)}</svg>\n"
    )


if __name__ == "__main__":
    (ROOT / "docs/pictures/wings.svg").write_text(draw(), encoding="utf-8")
