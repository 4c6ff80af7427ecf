"""The best recipe of each family of layers, and what it gains over one recipe for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..nvfp4 import study_only
from .meter import Meter
from .outputs import kl_interval

WHO = (
    "Engines that read FLASHINFER_NVFP4_* run one recipe in a process; a caller of FlashInfer sets nvfp4_4over6= for "
    "each product, and a checkpoint's weights may differ by layer."
)


def by_family(meter: Meter, predicted: Mapping[str, Sequence[float]], best: str) -> dict:
    """The recipe of least predicted KL that an engine runs for each family, measured together.

    Returns: {"recipes": family -> recipe, "kl", "kl_low", "kl_high": of both together, "gain", "gain_low",
        "gain_high": by how much `best` for all is worse, paired by token, "who": who can run it}.
    """
    totals: dict[str, dict[str, float]] = {}
    for name, by_unit in predicted.items():
        for unit, value in zip(meter.units, by_unit, strict=True):
            family = totals.setdefault(unit.family, {})
            family[name] = family.get(name, 0.0) + value
    run = [n for n in predicted if n == best or not study_only(meter.recipes[n])]
    chosen = {family: min(run, key=row.get) for family, row in totals.items()}
    rows = meter.measure([chosen[u.family] for u in meter.units])
    one = meter.measure(meter.variant(best))
    found = dict(zip(("kl", "kl_low", "kl_high"), kl_interval(rows), strict=True))
    gain = dict(zip(("gain", "gain_low", "gain_high"), kl_interval(rows, one), strict=True))
    return {"recipes": chosen, **found, **gain, "who": WHO}
