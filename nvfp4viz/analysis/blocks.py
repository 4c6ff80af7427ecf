"""Blocks of 16 values that a sweep keeps, found by rule, so that the microscope works where the activations are not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..nvfp4 import Recipe, as_tokens, block_amax, blocks, e2m1_decode, flush, token_amax
from ..stats import MARGIN
from .microscope import RULES, candidates, finite, scales

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
    one = amax[:1] if len(amax) else amax.new_zeros(1, 1)  # an all-zero tensor has no blocks to choose from
    encode, decode = scales(amax if recipe.per_token else one, recipe)
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


def block_inspections(kept: dict, recipes: dict[str, Recipe]) -> list[dict[str, list]]:
    """Each kept block of a tensor under each recipe, as short as `report.js` can unfold to `microscope.inspect_block`.

    Args:    kept: "token,block" -> values and amax, as `keep` gives them.
    Returns: of each block, recipe's name -> [amax, encode_scale, decode_scale, choice, [h, byte, saturated, score,
        codes] for 6, and the same for 4 under 4over6]; codes are 16 hexadecimal digits.
    """
    rows: list[dict[str, list]] = [{} for _ in kept]
    if kept:
        x = flush(torch.tensor([b["values"] for b in kept.values()], dtype=torch.float32))  # [n, 16]
        with _one_thread():
            for name, recipe in recipes.items():
                for row, one in zip(rows, _inspect(x, list(kept.values()), recipe), strict=True):
                    row[name] = one
    return rows


def _inspect(x: Tensor, kept: list[dict], recipe: Recipe) -> Iterator[list]:
    amax = torch.tensor([[float(b["token_amax" if recipe.per_token else "tensor_amax"])] for b in kept])  # [n, 1]
    encode, decode = scales(amax, recipe) if recipe.per_token else _each(amax, recipe)
    tried = candidates(x, encode, flush(amax), recipe)
    codes = [c.codes.tolist() for c in tried]
    byte = [c.block_scale.view(torch.uint8).flatten().tolist() for c in tried]
    short = [[_short(v) for v in (amax, encode, decode)]] + [[_short(v) for v in (c.h, c.score)] for c in tried]
    won = tried[-1].score < tried[0].score  # [n, 1]; a tie goes to 6
    for i in range(len(kept)):
        one = [column[i] for column in short[0]] + [4 if won[i] and byte[-1][i] != byte[0][i] else 6]
        for c, (h, score) in enumerate(short[1:]):
            saturated = int(tried[c].h[i].item() > 448 * MARGIN)
            one.append([h[i], byte[c][i], saturated, score[i], "".join(f"{code:x}" for code in codes[c][i])])
        yield one


def _each(amax: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    pairs = [scales(a, recipe) for a in amax]
    return torch.cat([e.reshape(1, 1) for e, _ in pairs]), torch.cat([d.reshape(1, 1) for _, d in pairs])


def _short(values: Tensor) -> list[float | str]:
    """Float32 as the shortest decimal numbers that round to them."""
    return finite([float(str(v)) for v in values.flatten().numpy()])
