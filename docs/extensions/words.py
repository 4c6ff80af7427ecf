"""What stands in the book and elsewhere: README's story on the first page, and the words that pages explain."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

from nvfp4viz.pages.words import glossary

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- README -->"
BOOK = {  # words of these pages that reports do without
    "amax": "the largest magnitude, max |x|, of a block, a token or a tensor",
    "block": "16 neighbouring values of a token, which share one E4M3 scale",
    "candidate": "one way to scale a block: its largest value to 6, or under 4over6 to 4",
    "decode scale": "what multiplies elements and block scales when decoding; the encode scale is its reciprocal",
    "engine": "who computes: FlashInfer, or a kernel or program here that is meant to give the same bits",
    "fc1, fc2": "the inputs of the two products of an expert: the hidden state (gate and up), and what goes into down",
    "fp16 scores": "FlashInfer's quicker way to compare the two candidates of a block, in scaled units",
    "frontier": "sets of layers kept in higher precision, from none to all, each with its measured effect and price",
    "golden outputs": "stored codes and scales that FlashInfer's kernels returned, against which engines are checked",
    "headroom": "the largest value that a static scale takes over the largest that was seen; below 1 it clips",
    "knee": "the point of a frontier behind which keeping more layers brings less",
    "per token, per tensor": "whether the FP32 scale is one for each row, made as it arrives, or one for all rows",
    "recipe": "all that decides how a tensor is quantized: 4over6 or not, ceiling, error mode, scales, arithmetic",
    "spared": "kept in bf16 while everything else is quantized",
    "static scale": "an FP32 scale for the whole tensor that was calibrated beforehand",
    "subnormal": "of a block scale: below 2⁻⁶, where E4M3 has fewer than 4 significant bits",
    "top-1 agreement": "how often the most likely next token stays the same",
    "unit": "what an engine runs in one precision: q, k and v together, or all experts of a layer",
}


class Words(SphinxDirective):
    """`{words}`: every word and rate with its sentence, as a glossary."""

    def run(self):
        listed = sorted((glossary() | BOOK).items(), key=lambda item: item[0].lower())
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
