"""What a recipe costs in dB: on the bundled activations, from a table that scripts/environment_costs.py made."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Costs(NamedTuple):
    """SQNR of recipes, and what they were measured on."""

    sqnr_db: Mapping[str, float]  # short name of a recipe -> dB
    where: str  # data, engine and version, in words


@functools.cache
def bundled() -> Costs:
    """Every recipe that a site can run, on the activations that come with the repository."""
    table = json.loads(Path(__file__).with_name("costs.json").read_text(encoding="utf-8"))
    return Costs(table["sqnr_db"], f"{table['data']}, engine {table['engine']}, nvfp4viz {table['version']}")


def phrase(costs: Mapping[str, str], table: Costs) -> str:
    """`21.41 dB as it is, 23.13 dB with 256 on both sides`; empty where the table lacks the recipes."""
    known = {name: why for name, why in costs.items() if name in table.sqnr_db}
    bare = ("as it is", "after")
    words = [
        f"{table.sqnr_db[name]:.2f} dB {why if why.startswith(bare) else 'with ' + why}" for name, why in known.items()
    ]
    return ", ".join(words) if len(words) > 1 else ""
