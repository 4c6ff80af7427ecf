"""One block of 16 values seen closely: where each lands under 6 and under 4, and who wins.

The arithmetic is that of `arithmetic` and of the reference engine, so what is shown is what the kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..nvfp4 import (
    BLOCK,
    E4M3_MAX,
    MARGIN,
    Candidate,
    Recipe,
    Tokens,
    as_recipe,
    candidates,
    e2m1_decode,
    flush,
    quantize_blocks,
    scales_of,
    scores,
    takes_four,
    tensor_amax,
)


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
    try:
        x = flush(torch.as_tensor(values, dtype=torch.float32))
    except (TypeError, ValueError):
        x = torch.empty(0)
    if x.shape != (BLOCK,) or not x.isfinite().all():
        shape = list(getattr(values, "shape", ()))
        seen = f"of shape {shape}" if shape else repr(values)[:200]
        raise ValueError(f"a block is {BLOCK} finite numbers, not {seen}")
    if not (isinstance(amax, (int, float)) and math.isfinite(amax) and amax >= 0):
        raise ValueError(f"amax={amax!r} is not a finite magnitude")
    amax = torch.maximum(torch.tensor([float(amax)]), x.abs().amax().reshape(1))  # [1]
    encode, decode = (s.reshape(1) for s in scales_of(amax.reshape(1, 1), recipe))
    codes, block_scale = quantize_blocks(x, encode, flush(amax), recipe)
    byte = int(block_scale.view(torch.uint8))
    candidate = candidates(x, encode, recipe)
    score = scores(candidate, x, encode, flush(amax), recipe)
    tried = [_described(c, s, x, decode) for c, s in zip(candidate, score, strict=True)]
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


def _described(c: Candidate, score: Tensor, x: Tensor, decode: Tensor) -> dict:
    """A candidate for the block x [16], for `inspect_block`."""
    step = c.block_scale.float() * decode
    decoded = e2m1_decode(c.codes) * c.block_scale.float() * decode
    errors = decoded.double() - x.double()
    return {
        "to": c.to,
        "h": c.h.item(),
        "byte": int(c.block_scale.view(torch.uint8)),
        "block_scale": c.block_scale.float().item(),
        "saturated": c.h.item() > E4M3_MAX * MARGIN,
        "step": step.item(),
        "scaled": c.scaled.tolist(),
        "codes": c.codes.tolist(),
        "elements": e2m1_decode(c.codes).tolist(),
        "decoded": decoded.tolist(),
        "errors": errors.tolist(),
        "score": score.item(),
        "squared_error": float((errors * errors).sum()),
    }


def block_at(x: Tensor, token: int, block: int, recipe: Recipe | str) -> tuple[list[float], float]:
    """The 16 values of a block, and the amax that `inspect_block` takes with it. ValueError where there is none."""
    tokens = Tokens.of(x)
    m, n = tokens.shape[0], tokens.shape[1] // BLOCK
    if not (0 <= token < m and 0 <= block < n):
        there = f"tokens 0 to {m - 1} and blocks 0 to {n - 1} in each" if m else "no tokens"
        raise ValueError(f"no block ({token}, {block}): this tensor has {there}")
    amax = tensor_amax(tokens.x[token]).item() if as_recipe(recipe).per_token else tokens.tensor_amax.item()
    return tokens.x[token, block * BLOCK : (block + 1) * BLOCK].float().tolist(), amax


def block_inspections(kept: dict, recipes: dict[str, Recipe]) -> list[dict[str, list]]:
    """Each kept block of a tensor under each recipe, as short as `report.js` can unfold to `microscope.inspect_block`.

    Args:    kept: "token,block" -> values and amax, as `keep` gives them.
    Returns: of each block, recipe's name -> [amax, encode_scale, decode_scale, choice, [h, byte, saturated, score,
        codes] for 6, and the same for 4 under 4over6]; codes are 16 hexadecimal digits.
    """
    rows: list[dict[str, list]] = [{} for _ in kept]
    if kept:
        x = flush(torch.tensor([b["values"] for b in kept.values()], dtype=torch.float32))  # [n, 16]
        for name, recipe in recipes.items():
            for row, one in zip(rows, _inspect(x, list(kept.values()), recipe), strict=True):
                row[name] = one
    return rows


_HEX = bytes.maketrans(bytes(range(16)), b"0123456789abcdef")


def _inspect(x: Tensor, kept: list[dict], recipe: Recipe) -> Iterator[list]:
    amax = torch.tensor([[float(b["token_amax" if recipe.per_token else "tensor_amax"])] for b in kept])  # [n, 1]
    encode, decode = scales_of(amax, recipe) if recipe.per_token else _each(amax, recipe)
    tried = candidates(x, encode, recipe)
    score = scores(tried, x, encode, flush(amax), recipe)
    codes = [[bytes(row).translate(_HEX).decode() for row in c.codes.numpy()] for c in tried]
    saturated = [(c.h > E4M3_MAX * MARGIN).flatten().int().tolist() for c in tried]
    byte = [c.block_scale.view(torch.uint8).flatten().tolist() for c in tried]
    short = [[_short(v) for v in (amax, encode, decode)]]
    short += [[_short(v) for v in (c.h, s)] for c, s in zip(tried, score, strict=True)]
    won = takes_four(score[0], score[-1]).flatten().tolist()
    for i in range(len(kept)):
        one = [column[i] for column in short[0]] + [4 if won[i] and byte[-1][i] != byte[0][i] else 6]
        for c, (h, score) in enumerate(short[1:]):
            one.append([h[i], byte[c][i], saturated[c][i], score[i], codes[c][i]])
        yield one


def _each(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    pairs = [scales_of(a, recipe) for a in amax]
    return torch.cat([e.reshape(1, 1) for e, _ in pairs]), torch.cat([d.reshape(1, 1) for _, d in pairs])


def _short(values: Tensor) -> list[float | str]:
    """Float32 as the shortest decimal numbers that round to them."""
    return finite(values.flatten().numpy().astype(str).astype(float).tolist())


def finite(value):
    """The same with floats that JSON lacks as strings, also within lists and dicts."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
