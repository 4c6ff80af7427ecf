"""Sweeps and verdicts as small tables for notebooks."""

from __future__ import annotations

from ..nvfp4 import study_only
from ..shown import fixed, percent, quantity, signed, table

RATES = ("four_rate", "four_saturated")


def sweep_html(sweep) -> str:
    """A row a recipe: the mean SQNR over tensors, and the rates that explain it."""
    rows = [[name, *_means(sweep, name), study_only(r)] for name, r in sweep.recipes.items() if sweep.records]
    head = ("recipe", "mean SQNR (dB)", "chose 4", "4 saturates", "")
    title = f"Sweep · {quantity(len(sweep.records), 'tensor')} · engine {', '.join(sweep.engines)}"
    return table(title, rows, head, repr(sweep))


def _means(sweep, recipe: str) -> tuple[float, str, str]:
    row = [s[recipe] for s in sweep.stats.values()]
    level, four, saturated = (sum(getattr(s, n) for s in row) / len(row) for n in ("sqnr_db", *RATES))
    return level, percent(four), percent(saturated)


def verdict_html(verdict) -> str:
    """The sentence, and a row a comparison."""
    rows = [[c.role, c.over, signed(c.margin_db), _interval(c), f"{c.wins} of {len(c.by_tensor_db)}"]
            for c in verdict.comparisons]  # fmt: skip
    head = ("against", "recipe", "gain (dB)", "95 % interval", "surely better on")
    return table(f"Verdict · {verdict.recipe}", rows, head if rows else (), verdict.sentence())


def _interval(comparison) -> str:
    return " to ".join(fixed(v, 3) for v in comparison.interval_db) if comparison.interval_db else comparison.lacks
