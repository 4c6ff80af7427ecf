"""Statistics of a tensor whose sequences are known, so that intervals can be over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from torch import Tensor

from ..engine import analyze_all
from ..nvfp4 import Recipe, Tokens, as_tensor, tensor_scales
from ..stats import Stats


def with_sequences(x: Tensor) -> Tokens:
    """x [..., T, K] as tokens, each row of leading axes a sequence of T."""
    x = as_tensor(x)
    known = isinstance(x, Tensor) and not x.is_nested and x.ndim > 2 and x.shape[-2] > 1
    return Tokens.of(x, sequences=(0, x.shape[-2]) if known else None)


def analyze_sequences(
    tokens: Tokens, recipes: Sequence[Recipe], engine: str, lengths: Sequence[int] | None = None
) -> list[Stats]:
    """Statistics of tokens under each recipe.

    lengths: tokens of each sequence, if they add up to these tokens; else they are not of them and say nothing.
    """
    if lengths is None or sum(lengths) != tokens.shape[0]:
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
