"""The KL that a sweep predicts from squares of gradients which were captured beside the activations."""

from __future__ import annotations

from dataclasses import replace

from ..engine import feel
from ..nvfp4 import Tokens
from ..stats import Stats


def with_predicted_kl(stats: dict[str, Stats], tokens: Tokens, gradients, engine: str) -> dict[str, Stats]:
    """Statistics with the KL of the output that these tokens' errors are predicted to make, 1/2 sum of g^2 delta^2.

    gradients: `GradientSquares` of some tokens, which stand for all that were seen. ValueError where they do not fit.
    """
    squares = Tokens.of(gradients.read()).x
    if squares.shape != tokens.x.shape or not bool((squares >= 0).all()):
        raise ValueError(
            f"its squares of gradients are {list(squares.shape)}, or some are negative: expected {list(tokens.x.shape)}"
        )
    recipes = [s.recipe for s in stats.values()]
    scale = gradients.seen / tokens.shape[0] / 2
    nats = (scale * feel(tokens, squares.float().to(tokens.x.device), recipes, engine).sum(1)).tolist()
    return {
        name: replace(s, kl=kl, kl_tokens=gradients.predicted)
        for (name, s), kl in zip(stats.items(), nats, strict=True)
    }
