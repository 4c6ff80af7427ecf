"""Blocks of 16 values that a sweep keeps, found by rule, so that the microscope works where the activations are not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .arithmetic import block_amax, token_amax
from .formats import as_tokens, blocks, e2m1_decode, flush
from .microscope import RULES, candidates, finite, scales
from .recipe import Recipe
from .stats import MARGIN

POOL = 512  # blocks of largest amax that are looked at closely; of every other kind 16
KEPT = 10  # blocks kept of a tensor
PER_RULE = 2


def keep(x: Tensor, recipes: dict[str, Recipe], texts: Sequence[str] = (), seed: int = 0) -> dict:
    """The first blocks of each rule under each recipe, JSON-ready; a small amount of work and of bytes.

    Args: x: [..., K]; recipes: by name; texts: the tokens' strings, where they are known.
    Returns: {"picks": {"recipe|rule": {"blocks": [{"token", "block", "value"}], "note"}}, as `microscope.pick` gives,
        "blocks": {"token,block": {"values", "token_amax", "tensor_amax", "token_text"}}}.
    """
    x = as_tokens(x)
    if not x.shape[0]:
        return {"picks": {}, "blocks": {}}
    with _one_thread():
        return _keep(x, recipes, texts, seed)


@contextlib.contextmanager
def _one_thread():
    """Threads cost more than they bring in many small operations, tenfold where other programs compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _keep(x: Tensor, recipes: dict[str, Recipe], texts: Sequence[str], seed: int) -> dict:
    bmax, amax = flush(block_amax(x)), flush(token_amax(x))  # [M, K/16], [M, 1]
    pool, drawn = _pool(bmax, amax, seed)
    token, block = pool // bmax.shape[1], pool % bmax.shape[1]
    tile = flush(blocks(x)[token, block].float()).cpu()  # [n, 16]
    largest, amax, places = amax.max().cpu(), amax[token].cpu(), list(zip(token.tolist(), block.tolist(), strict=True))
    ranked = {}
    for name, recipe in recipes.items():
        of = amax if recipe.per_token else largest.expand_as(amax)
        for rule, (value, wanted) in _rank(tile, of, recipe, drawn).items():
            ranked[name, rule] = _found(rule, places, value, wanted)
    kept: dict[tuple[int, int], None] = {}
    for nth in range(PER_RULE):  # every rule's first before any rule's second
        for found in ranked.values():
            if nth < len(found["blocks"]) and len(kept) < KEPT:
                kept[found["blocks"][nth]["token"], found["blocks"][nth]["block"]] = None
    picks = {
        f"{name}|{rule}": {**found, "blocks": [b for b in found["blocks"] if (b["token"], b["block"]) in kept]}
        for (name, rule), found in ranked.items()
    }
    values = {
        f"{t},{b}": {
            "values": tile[places.index((t, b))].tolist(),
            "token_amax": amax[places.index((t, b))].item(),
            "tensor_amax": largest.item(),
            "token_text": texts[t] if t < len(texts) else "",
        }
        for t, b in kept
    }
    return finite({"picks": picks, "blocks": values})


def _pool(bmax: Tensor, amax: Tensor, seed: int) -> tuple[Tensor, int]:
    """Flat indices of the blocks that rules choose from, and how many of the first were drawn at random.

    The candidate scales of a block grow with its amax, per token with its share of the token's; so the extremes of both
    hold what saturates or underflows under any recipe.
    """
    size, share = bmax.flatten(), (bmax / amax.clamp(min=torch.finfo(torch.float32).tiny)).flatten()
    nonzero = (size > 0).nonzero().squeeze(1)
    few = 16
    drawn = nonzero[torch.randperm(len(nonzero), generator=torch.Generator().manual_seed(seed))[:few].to(size.device)]
    extremes = [_first(v[nonzero], n) for v, n in ((size, POOL), (share, few), (-size, few), (-share, few))]
    return torch.cat([drawn, *(nonzero[i] for i in extremes)]), len(drawn)


def _first(value: Tensor, n: int) -> Tensor:
    """Indices of the n largest values, the earlier of equals first."""
    if len(value) > n:
        enough = (value >= value.topk(n).values[-1]).nonzero().squeeze(1)
        return enough[value[enough].argsort(descending=True, stable=True)[:n]]
    return value.argsort(descending=True, stable=True)


def _rank(tile: Tensor, amax: Tensor, recipe: Recipe, drawn: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By rule: what it ranks the blocks of the pool by, float64, and which it admits."""
    encode, decode = scales(amax, recipe) if recipe.per_token else scales(amax[:1], recipe)
    tried = candidates(tile, encode.expand_as(amax), amax, recipe)
    six, four = tried[0], tried[-1]
    won = four.score < six.score  # [n, 1]; a tie goes to 6
    codes = torch.where(won, four.codes, six.codes)
    byte = torch.where(won, four.block_scale.view(torch.uint8), six.block_scale.view(torch.uint8))
    scale = torch.where(won, four.block_scale.float(), six.block_scale.float())
    error = (e2m1_decode(codes) * scale * decode).double() - tile.double()
    saved, h4, place = (six.score - four.score).double().squeeze(1), four.h.double().squeeze(1), torch.arange(len(tile))
    both = torch.full_like(place, recipe.four_over_six, dtype=torch.bool)
    return {
        "worst": (error.square().sum(1), place >= 0),
        "gained": (saved, both & (saved > 0)),
        "saturated": (h4, both & (h4 > 448 * MARGIN)),
        "underflowed": (-byte.double().squeeze(1), byte.squeeze(1) < 8),
        "random": (-place.double(), place < drawn),
    }


def _found(rule: str, places: list[tuple[int, int]], value: Tensor, wanted: Tensor) -> dict:
    """The PER_RULE first blocks as `microscope.pick` gives them."""
    first: dict[tuple[int, int], float] = {}
    for i in torch.where(wanted, value, -torch.inf).argsort(descending=True, stable=True)[: int(wanted.sum())].tolist():
        if len(first) < PER_RULE:
            first.setdefault(places[i], 0.0 if rule == "random" else value[i].item())
    among = f", found among the {POOL} of largest amax" if rule in ("worst", "gained") else ""
    return {
        "blocks": [{"token": t, "block": b, "value": v} for (t, b), v in first.items()],
        "note": f"kept by the sweep{among}" if first else f"no such block was kept: {RULES[rule]}",
    }


def inspections(kept: dict, recipes: dict[str, Recipe]) -> list[dict[str, list]]:
    """Each kept block of a tensor under each recipe, as short as `report.js` can unfold to `microscope.inspect_block`.

    Returns: of each block, recipe's name -> [encode_scale, decode_scale, [h, byte, score, codes] for 6, and the same
        for 4 under 4over6]; codes are 16 hexadecimal digits.
    """
    if not kept:
        return []
    x = flush(torch.tensor([b["values"] for b in kept.values()], dtype=torch.float32))  # [n, 16]
    rows: list[dict[str, list]] = [{} for _ in kept]
    with _one_thread():
        _inspect(x, kept, recipes, rows)
    return rows


def _inspect(x: Tensor, kept: dict, recipes: dict[str, Recipe], rows: list[dict[str, list]]) -> None:
    for name, recipe in recipes.items():
        of = "token_amax" if recipe.per_token else "tensor_amax"
        amax = torch.tensor([[float(b[of])] for b in kept.values()], dtype=torch.float32)  # [n, 1]
        encode, decode = scales(amax, recipe) if recipe.per_token else _each(amax, recipe)
        tried = candidates(x, encode, flush(amax), recipe)
        for i, row in enumerate(rows):
            row[name] = [_short(encode[i]), _short(decode[i])] + [
                [_short(c.h[i]), int(c.block_scale[i].view(torch.uint8)), _short(c.score[i]),
                 "".join(f"{code:x}" for code in c.codes[i].tolist())]
                for c in tried
            ]  # fmt: skip


def _each(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    pairs = [scales(a, recipe) for a in amax]
    return torch.cat([e.reshape(1, 1) for e, _ in pairs]), torch.cat([d.reshape(1, 1) for _, d in pairs])


def _short(value: Tensor) -> float | str:
    """A float32 as the shortest decimal number that rounds to it."""
    number = value.item()
    return float(str(value.cpu().numpy().reshape(-1)[0])) if math.isfinite(number) else str(number)
