"""The order in which names of tensors are listed, whatever lists them: tables, figures, pages, files read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable


def layer(name: str) -> int | None:
    """The layer's number in a tensor's name, None where it has none.

    >>> layer("model.layers.7.mlp.down_proj"), layer("blk_3"), layer("layer12"), layer("lm_head"), layer("scaled x1.5")
    (7, 3, 12, None, None)
    """
    found = re.search(r"(?<=[A-Za-z][._/\[])\d+|(?<=layer)\d+", name)
    return int(found[0]) if found else None


def layer_order(names: Iterable[str]) -> list[str]:
    """Names by layer, and within a layer in the order of the computation where the usual words tell it.

    >>> layer_order(["lm_head", "h.1.down", "h.0.o_proj", "h.0.q_proj", "embed"])
    ['embed', 'h.0.q_proj', 'h.0.o_proj', 'h.1.down', 'lm_head']
    """

    def key(name: str):
        n = layer(name)
        place = -1 if "embed" in name else math.inf if n is None else n
        flow = next((i for i, word in enumerate(_FLOW) if word in name), len(_FLOW))
        return place, flow, [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]

    return sorted(names, key=key)


_FLOW = ("q_proj", "k_proj", "v_proj", "qkv", "o_proj", "gate", "up_proj", "down")
