"""What stands in the book and elsewhere: README's story on the first page, and the words that pages explain."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

from nvfp4viz.pages.words import glossary

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- README -->"


class Words(SphinxDirective):
    """`{words}`: every word and rate with its sentence, as a glossary."""

    def run(self):
        listed = sorted(glossary().items(), key=lambda item: item[0].lower())
        lines = [f"{word}\n    {meaning[0].upper()}{meaning[1:]}.\n" for word, meaning in listed]
        return self.parse_text_to_nodes("```{glossary}\n" + "\n".join(lines) + "```\n")


def story() -> str:
    """README behind its heading, its links as from docs/, its picture in the theme's light or dark."""
    text = README.read_text(encoding="utf-8").partition("\n")[2]
    text = re.sub(r"\]\((?!https?:|#)", "](../", text)
    return re.sub(r"<picture>.*?</picture>", lambda picture: _both(picture[0]), text, flags=re.DOTALL)


def _both(picture: str) -> str:
    dark, light = re.findall(r'src(?:set)?="([^"]+)"', picture)
    alt = re.search(r'alt="([^"]+)"', picture)[1]
    images = ((light, "only-light"), (dark, "only-dark"))
    return "".join(f'```{{image}} ../{path}\n:class: {name}\n:alt: "{alt}"\n```\n' for path, name in images)


def _fill(app, docname: str, source: list[str]) -> None:
    if docname == "docs/index":
        source[0] = source[0].replace(MARK, story())


def setup(app) -> dict:
    app.add_directive("words", Words)
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
