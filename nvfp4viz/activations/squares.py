"""Squares of gradients that `capture` keeps beside activations, told apart from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

SQUARES = ".gradient_squares"  # behind a tensor's name: squares of its gradients, as `capture` keeps them


@dataclass(frozen=True)
class GradientSquares:
    """Squares of gradients of a sample of a tensor's tokens."""

    read: Callable[[], Tensor]  # [..., K], of the tensor's shape
    seen: int  # tokens of which the stored ones are a uniform sample
    predicted: int  # tokens that the model predicted meanwhile


def take_squares(
    readers: dict, new: list[str], metadata: Mapping, squares: dict[str, GradientSquares], left_out: dict
) -> None:
    """Take squares of gradients of one file from its activations; those without their counts are left out."""
    for name in [n for n in new if n.endswith(SQUARES) and n.removesuffix(SQUARES) in readers]:
        tensor, read = name.removesuffix(SQUARES), readers.pop(name)
        try:
            seen = json.loads(metadata["tokens_seen"])[tensor.rpartition("/")[2]]
            predicted = json.loads(metadata["predicted_tokens"])
            if not (type(seen) is type(predicted) is int and seen > 0 and predicted > 0):
                raise ValueError
        except (KeyError, ValueError, TypeError, RecursionError):  # metadata of strangers
            left_out[name] = "squares of gradients without the numbers of tokens that `capture` writes beside them"
        else:
            squares[tensor] = GradientSquares(read, seen, predicted)
