"""The words that a reader of a page may not know, each in a sentence: one list for hovering, and for the page's end."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from ..catalog import RATES

WORDS = {
    "NVFP4": "numbers of 4 bits; 16 neighbours share a scale of 8 bits, and each token, or tensor, has one of 32",
    "4over6": "each block maps its largest value to 6 or to 4, whichever makes the smaller error",
    "SQNR": "signal to quantization noise: the energy of the values over that of their errors, in dB; 3 dB more is "
            "half the squared error",
    "NMSE": "the energy of the errors over that of the values; 0 is exact",
    "MAE": "mean absolute error; as an error mode: 4over6 compares sums of |error|",
    "MSE": "mean squared error; as an error mode: 4over6 compares sums of error²",
    "E2M1": "the 4 bits of an element: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives",
    "E4M3": "the 8 bits of a block scale: up to 448, below 2⁻⁶ with fewer bits",
    "ceiling": "the largest block scale that a token's or tensor's largest value is mapped to: 448 or 256",
    "standard": "NVFP4 without 4over6: each block maps its largest value to 6",
    "token": "one row of activations: what the layer gets for one piece of text",
    "typical token": "the mean over tokens of each one's error over its own signal, so that no large token decides",
    "KL": "Kullback-Leibler divergence of the predicted next tokens from those of the model as it is, in nats; 0 is no "
          "change",
    "strict": "FlashInfer's arithmetic that divides; its default, fast, takes the GPU's approximate reciprocal",
    "95 % interval": "where the difference would lie for other parts of the same text, 19 times of 20",
}  # fmt: skip
_KNOWN = "|".join(rf"(?<![\w/-]){re.escape(w)}(?![\w-])" for w in sorted(WORDS, key=len, reverse=True))
_WHOLE = r"(?<![\w.])\d[\d.,]* (?:%|dB)|(?<![\w/.-])(?:standard|4/6-m[as]e)-[a-z0-9.-]*[a-z0-9]"


def explained(text) -> Markup:
    """HTML text, `whole`, with true minus signs, whose words of the list say what they mean, each the first time."""
    seen = set()

    def one(found: re.Match) -> str:
        word = found[0]
        if word not in WORDS:
            return _unbroken(found)
        if word in seen:
            return whole(word)
        seen.add(word)
        return f'<abbr title="{escape(WORDS[word])}">{word}</abbr>'

    return Markup(re.sub(f"{_KNOWN}|{_WHOLE}", one, re.sub(r"(?<=[ (])-(?=\d)", "−", str(text))))


def whole(text) -> Markup:
    """HTML text in which no line ends within a recipe's name, or between a number and its unit."""
    return Markup(re.sub(_WHOLE, _unbroken, str(text)))


def _unbroken(found: re.Match) -> str:
    return f'<span class="whole">{found[0]}</span>'


def glossary() -> dict[str, str]:
    """All words and rates with what they mean."""
    return WORDS | {rate.heading: rate.definition for rate in RATES.values()}
