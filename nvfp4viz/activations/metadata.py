"""What the metadata of files tells of their tokens: a stranger's word, which is taken only where it has the form."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np


def sequence_lengths(given: Iterable[int] | None, sources: list[dict]) -> tuple[int, ...] | None:
    """Tokens of each sequence; ValueError where what was told are no lengths. A stranger's metadata is not trusted."""
    if given is not None:
        lengths = tuple(given)
        if not lengths or not all(isinstance(n, (int, np.integer)) and n > 0 for n in lengths):
            raise ValueError(f"lengths={lengths[:5]}: expected the tokens of each sequence, whole numbers above 0")
        return tuple(map(int, lengths))
    found = {str(source["metadata"].get("sequence_lengths")) for source in sources}
    try:
        (text,) = found  # files of one capture say the same
        lengths = json.loads(text)
    except ValueError:
        return None
    known = isinstance(lengths, list) and lengths and all(type(n) is int and n > 0 for n in lengths)
    return tuple(lengths) if known else None


def token_texts(sources: list[dict]) -> list[str]:
    """The tokens' strings, where the only file of activations tells them."""
    try:
        texts = json.loads(sources[0]["metadata"].get("token_strings", "[]")) if len(sources) == 1 else []
    except ValueError:  # metadata of strangers
        return []
    return [str(t) for t in texts] if isinstance(texts, list) else []
