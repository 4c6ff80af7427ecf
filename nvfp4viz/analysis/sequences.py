"""Statistics of a tensor whose sequences are known, so that intervals can be over them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import reduce
from operator import add

from torch import Tensor

from ..engine import analyze_all
from ..nvfp4 import Recipe, Tokens, as_tensor, tensor_scales
from ..stats import Stats

SHORTEST_SEQUENCE = 16  # tokens: shorter ones are steps of decoding, neighbours in a text, and are judged by runs


def with_sequences(x: Tensor) -> Tokens:
    """x [..., T, K] as tokens, each row of leading axes a sequence of T, if that is long enough for one."""
    x = as_tensor(x)
    known = isinstance(x, Tensor) and not x.is_nested and x.ndim > 2 and x.shape[-2] >= SHORTEST_SEQUENCE
    return Tokens.of(x, sequences=(0, x.shape[-2]) if known else None)


def analyze_sequences(
    tokens: Tokens, recipes: Sequence[Recipe], engine: str, lengths: Sequence[int] | None = None
) -> list[Stats]:
    """Statistics of tokens under each recipe.

    lengths: tokens of each sequence; where they do not add up to these tokens, or are too short, they say nothing.
    """
    if lengths is not None and sum(lengths) != tokens.shape[0]:
        warnings.warn(
            f"lengths add up to {sum(lengths):,} tokens, and there are tensors of another number: intervals of these "
            "are over runs of tokens",
            stacklevel=3,
        )
        lengths = None
    if lengths is None or sum(lengths) < SHORTEST_SEQUENCE * len(lengths):
        return analyze_all(tokens, recipes, engine=engine)
    if len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0]:  # alike, but for a shorter last one
        return analyze_all(tokens.x, recipes, engine=engine, first_token=tokens.first, sequences=(0, lengths[0]))
    scales = [None if r.per_token else tensor_scales(tokens.tensor_amax, r)[0] for r in recipes]
    rows, start = [], 0
    for i, n in enumerate(lengths):
        place = {"first_token": tokens.first + start, "sequences": (i * n, n)}
        rows.append(analyze_all(tokens.x[start : start + n], recipes, engine=engine, encode_scales=scales, **place))
        start += n
    return [reduce(add, row) for row in zip(*rows, strict=True)]
