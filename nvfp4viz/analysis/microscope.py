"""One block of 16 values seen closely: where each lands under 6 and under 4, and who wins; and rules to find blocks.

The arithmetic is that of `arithmetic` and of the reference engine, so what is shown is what the kernels do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nvfp4 import (
    BLOCK,
    Recipe,
    as_recipe,
    as_tokens,
    block_candidates,
    blocks,
    candidate_error,
    e2m1_decode,
    e2m1_encode,
    e4m3_encode,
    flush,
    output_scale,
    quantize_blocks,
    tensor_amax,
    tensor_scales,
    token_amax,
    token_scales,
)
from ..stats import MARGIN

SAMPLE = 1 << 19  # elements that a rule looks at; a larger tensor is seen through some of its tokens

RULES = {  # rule -> what it ranks by
    "worst": "largest squared error",
    "gained": "most error saved by mapping to 4",
    "saturated": "candidate for 4 above 448",
    "underflowed": "block scale subnormal or 0",
    "random": "drawn at random",
}


@dataclass(frozen=True)
class Candidate:
    """What one candidate scale makes of blocks: the amax goes to `to`."""

    to: int  # 6 or 4
    h: Tensor  # float32 [..., 1], the scale before E4M3 rounds it
    block_scale: Tensor  # float8_e4m3fn [..., 1]
    scaled: Tensor  # float32 [..., 16], what E2M1 rounds
    codes: Tensor  # uint8 [..., 16]
    score: Tensor  # float32 [..., 1], the error that the recipe compares


def candidates(x: Tensor, encode: Tensor, amax: Tensor, recipe: Recipe) -> list[Candidate]:
    """The scales that a recipe tries: 6, and 4 under 4over6. Arguments as in `reference.quantize_blocks`."""
    bmax = x.abs().amax(-1, keepdim=True)
    tried = []
    for to, h in zip((6, 4) if recipe.four_over_six else (6,), block_candidates(bmax, encode, recipe), strict=False):
        block_scale = e4m3_encode(h)
        scaled = flush(x * output_scale(block_scale.float(), bmax, encode, recipe))
        codes = e2m1_encode(scaled)
        score = candidate_error(x, codes, block_scale.float(), encode, amax, recipe)
        tried.append(Candidate(to, h, block_scale, scaled, codes, score))
    return tried


def scales(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Encode and decode scale, float32 [M, 1] or [1, 1], from amax [M, 1] of tokens, or [1, 1] of the tensor."""
    return token_scales(amax, recipe) if recipe.per_token else tensor_scales(amax, recipe)


def inspect_block(values, amax: float, recipe: Recipe | str) -> dict:
    """One block under one recipe, JSON-ready.

    Args:
        values: 16 numbers.
        amax:   largest magnitude of the block's token (per tensor: of the tensor); at least the block's own is taken.
    Returns: dict with recipe, amax, encode_scale, decode_scale, values, choice (6 or 4), byte and codes as quantized,
        and candidates: a list of dicts (to, h, byte, block_scale, saturated, step, scaled, codes, elements, decoded,
        errors, score, squared_error); `step` is what an element of 1 decodes to. Not finite numbers are strings.

    >>> inspect_block([6.0, 3.0] + [0.0] * 14, 6.0, "4/6-mse-256")["choice"]
    6
    """
    recipe = as_recipe(recipe)
    x = flush(torch.as_tensor(values, dtype=torch.float32))
    if x.shape != (BLOCK,) or not x.isfinite().all():
        raise ValueError(f"a block is {BLOCK} finite numbers, not {values!r}")
    if not (isinstance(amax, (int, float)) and math.isfinite(amax)):
        raise ValueError(f"amax={amax!r} is not a finite number")
    amax = torch.maximum(torch.tensor([abs(float(amax))]), x.abs().amax().reshape(1))  # [1]
    encode, decode = (s.reshape(1) for s in scales(amax.reshape(1, 1), recipe))
    codes, block_scale = quantize_blocks(x, encode, flush(amax), recipe)
    byte = int(block_scale.view(torch.uint8))
    tried = []
    for c in candidates(x, encode, flush(amax), recipe):
        step = c.block_scale.float() * decode
        decoded = e2m1_decode(c.codes) * c.block_scale.float() * decode
        errors = decoded.double() - x.double()
        tried.append({
            "to": c.to,
            "h": c.h.item(),
            "byte": int(c.block_scale.view(torch.uint8)),
            "block_scale": c.block_scale.float().item(),
            "saturated": c.h.item() > 448 * MARGIN,
            "step": step.item(),
            "scaled": c.scaled.tolist(),
            "codes": c.codes.tolist(),
            "elements": e2m1_decode(c.codes).tolist(),
            "decoded": decoded.tolist(),
            "errors": errors.tolist(),
            "score": c.score.item(),
            "squared_error": float((errors * errors).sum()),
        })  # fmt: skip
    four = len(tried) == 2 and byte == tried[1]["byte"] != tried[0]["byte"]
    return finite({
        "recipe": recipe.name,
        "err_mode": recipe.err_mode,
        "values": x.tolist(),
        "amax": amax.item(),
        "encode_scale": encode.item(),
        "decode_scale": decode.item(),
        "choice": 4 if four else 6,
        "byte": byte,
        "codes": codes.tolist(),
        "candidates": tried,
    })  # fmt: skip


def block_at(x: Tensor, token: int, block: int, recipe: Recipe) -> tuple[list[float], float]:
    """The 16 values of a block, and the amax that `inspect_block` takes with it. ValueError where there is none."""
    x = as_tokens(x)
    m, n = x.shape[0], x.shape[1] // BLOCK
    if not (0 <= token < m and 0 <= block < n):
        raise ValueError(
            f"no block ({token}, {block}): this tensor has tokens 0 to {m - 1} and blocks 0 to {n - 1} in each"
        )
    amax = tensor_amax(x[token : token + 1] if recipe.per_token else x).item()
    return x[token, block * BLOCK : (block + 1) * BLOCK].float().tolist(), amax


def pick(
    x: Tensor, recipe: Recipe | str, rule: str = "worst", n: int = 12, *, seed: int = 0, limit: int = SAMPLE
) -> dict:
    """Blocks that a rule finds, the most striking first.

    Args:
        x:     [..., K] activations.
        rule:  one of `RULES`.
        limit: elements looked at; of a larger tensor, tokens drawn with `seed`, and `note` says so.
    Returns: {"blocks": [{"token", "block", "value"}, ...], "note": str}; value is what the rule ranks by.
    """
    recipe, x = as_recipe(recipe), as_tokens(x)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: one of {', '.join(map(repr, RULES))}")
    m, k = x.shape
    g = torch.Generator().manual_seed(seed)
    seen = max(1, limit // k)
    tokens = torch.randperm(m, generator=g)[:seen].sort().values if m > seen else torch.arange(m)
    note = f"among {seen:,} of {m:,} tokens, drawn with seed {seed}" if m > seen else ""
    if not m:
        return {"blocks": [], "note": "no tokens"}
    rows = x[tokens.to(x.device)].cpu()
    value, wanted = _rank(rows, x, recipe, rule, g)  # [m, k/16] each
    order = (
        torch.where(wanted, value, -torch.inf)
        .flatten()
        .argsort(descending=True, stable=True)[: min(n, int(wanted.sum()))]
    )
    per_token = k // BLOCK
    found = [{"token": int(tokens[i // per_token]), "block": i % per_token, "value": value.flatten()[i].item()}
             for i in order.tolist()]  # fmt: skip
    return {
        "blocks": finite(found),
        "note": note if found else "; ".join(filter(None, [f"no such block: {RULES[rule]}", note])),
    }


def _rank(rows: Tensor, x: Tensor, recipe: Recipe, rule: str, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the rule ranks blocks by, float64, and which it admits."""
    tile = flush(blocks(rows.float()))  # [m, n, 16]
    nonzero = (tile != 0).any(-1)
    if rule == "random":
        return torch.rand(nonzero.shape, generator=g, dtype=torch.float64), nonzero
    amax = flush(token_amax(rows)) if recipe.per_token else flush(tensor_amax(x).reshape(1, 1).cpu())
    encode, decode = (s.unsqueeze(-1) for s in scales(amax, recipe))
    if rule == "worst":
        codes, scale = quantize_blocks(tile, encode, amax.unsqueeze(-1), recipe)
        decoded = e2m1_decode(codes) * scale.float() * decode
        return (decoded.double() - tile.double()).square().sum(-1), nonzero
    if rule == "underflowed":
        byte = quantize_blocks(tile, encode, amax.unsqueeze(-1), recipe)[1].view(torch.uint8).squeeze(-1)
        return -byte.double(), nonzero & (byte < 8)
    if not recipe.four_over_six:
        return torch.zeros(nonzero.shape, dtype=torch.float64), torch.zeros_like(nonzero)
    six, four = candidates(tile, encode, amax.unsqueeze(-1), recipe)
    if rule == "saturated":
        return four.h.squeeze(-1).double(), nonzero & (four.h.squeeze(-1) > 448 * MARGIN)
    saved = (six.score - four.score).squeeze(-1).double()
    return saved, nonzero & (saved > 0)


def finite(value):
    """The same with floats that JSON lacks as strings, also within lists and dicts."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
