"""Blocks of 16 values found by rule: for the microscope, and kept by a sweep where the activations do not travel.

One ranker looks at every block, so a notebook, the explorer and a report show the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..engine import find_engine, given_encode_scale
from ..nvfp4 import BLOCK, Recipe, Tokens, as_recipe, token_amax
from .microscope import finite

RULES = {  # rule -> what it ranks by
    "worst": "largest squared error",
    "gained": "most error saved by mapping to 4",
    "saturated": "candidate for 4 above 448",
    "underflowed": "block scale subnormal or 0",
    "random": "drawn at random",
}
KEPT = 10  # blocks kept of a tensor
PER_RULE = 2


def pick(x: Tensor | Tokens, recipe: Recipe | str, rule: str = "worst", n: int = 12, *, seed: int = 0) -> dict:
    """Blocks that a rule finds among all of x, the most striking first.

    Args:    x: [..., K] activations; rule: one of `RULES`; seed: for "random".
    Returns: {"blocks": [{"token", "block", "value"}, ...], "note": str}; value is what the rule ranks by.
    """
    recipe, tokens = as_recipe(recipe), Tokens.of(x)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: one of {', '.join(map(repr, RULES))}")
    if n < 1:
        raise ValueError(f"n={n}: how many blocks to find, at least 1")
    if not tokens.shape[0]:
        return {"blocks": [], "note": "no tokens"}
    found = _random(tokens, n, seed) if rule == "random" else _ranked(tokens, [recipe], n)[0][rule]
    return _entry(rule, found)


def kept_blocks(x: Tensor | Tokens, recipes: dict[str, Recipe], texts: Sequence[str] = (), seed: int = 0) -> dict:
    """The first blocks of each rule under each recipe, JSON-ready; a small amount of work and of bytes.

    Args: x: [..., K]; recipes: by name; texts: the tokens' strings, where they are known.
    Returns: {"picks": {"recipe|rule": {"blocks": [{"token", "block", "value"}], "note"}}, as `pick` gives,
        "blocks": {"token,block": {"values", "token_amax", "tensor_amax", "token_text"}}}.
    """
    tokens = Tokens.of(x)
    if not tokens.shape[0]:
        return {"picks": {}, "blocks": {}}
    drawn = _random(tokens, PER_RULE, seed)
    rows = [{**row, "random": drawn} for row in _ranked(tokens, list(recipes.values()), PER_RULE)]
    ranked = {(name, rule): row[rule] for name, row in zip(recipes, rows, strict=True) for rule in RULES}
    kept: dict[tuple[int, int], None] = {}
    for nth in range(PER_RULE):  # every rule's first before any rule's second
        for found in ranked.values():
            if nth < len(found) and len(kept) < KEPT:
                kept[found[nth][:2]] = None
    picks = {f"{n}|{rule}": _entry(rule, [f for f in found if f[:2] in kept]) for (n, rule), found in ranked.items()}
    return {"picks": picks, "blocks": _values(tokens, list(kept), texts)}


def _ranked(tokens: Tokens, recipes: list[Recipe], n: int) -> list[dict]:
    """`engine.rank_blocks` with the scales that quantizing would take."""
    from ..engine import rank_blocks

    device = find_engine("cpu").device(tokens.x)
    return rank_blocks(tokens, recipes, [given_encode_scale(tokens, r, None, device) for r in recipes], n)


def _random(tokens: Tokens, n: int, seed: int) -> list[tuple[int, int, float]]:
    """Non-zero blocks drawn at random, the same for a seed; in the order drawn."""
    (m, k), draw = tokens.shape, np.random.default_rng(seed)
    count, found = m * k // BLOCK, {}
    for _ in range(64):  # where nearly all is zero there may be fewer
        for index in draw.integers(0, count, 4 * n).tolist():
            place = index // (k // BLOCK), index % (k // BLOCK)
            if len(found) < n and place not in found and (_block(tokens, *place) != 0).any():
                found[place] = None
        if len(found) == n or len(found) == count:
            break
    return [(*place, 0.0) for place in found]


def _block(tokens: Tokens, token: int, block: int) -> Tensor:
    return tokens.x[token, block * BLOCK : (block + 1) * BLOCK]


def _entry(rule: str, found: list[tuple[int, int, float]]) -> dict:
    blocks = [{"token": t, "block": b, "value": finite(value)} for t, b, value in found]
    return {"blocks": blocks, "note": "" if blocks else f"no such block: {RULES[rule]}"}


def _values(tokens: Tokens, places: list[tuple[int, int]], texts: Sequence[str]) -> dict:
    """What the microscope needs of the blocks at (token, block)."""
    if not places:
        return {}
    token, block = (torch.tensor(at, device=tokens.x.device) for at in zip(*places, strict=True))
    values = tokens.x.unflatten(1, (-1, BLOCK))[token, block].float().tolist()
    amax, of_all = token_amax(tokens.x[token]).flatten().tolist(), tokens.tensor_amax.item()
    return {
        f"{t},{b}": {
            "values": values[i], "token_amax": amax[i], "tensor_amax": of_all,
            "token_text": texts[t] if t < len(texts) else "",
        }
        for i, (t, b) in enumerate(places)
    }  # fmt: skip
