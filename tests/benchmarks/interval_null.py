"""How often is "Use" said where nothing is better, and where something is? Simulated tokens whose truth is known.

    python tests/benchmarks/interval_null.py [--draws 1000] [--only power] [--write]     half an hour on one core

Recipes are alike, and errors of tokens go together in runs, as passages of a text do: of 1,000 draws at most 50 may say
"Use". Then one recipe is 0.2 dB better, with a scatter as that of real tokens. --write puts both tables into
docs/verdict.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tables import Table, put

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from simulated import Text

from nvfp4viz import RECIPES, Sweep, recommend
from nvfp4viz.analysis import DEFAULTS, Comparison, margin_interval
from nvfp4viz.stats import Stats

TOKENS, RUNS, INPUTS = (256, 512, 1024, 4096), (1, 4, 16, 64, 128), (1, 4, 16, 105)
GAIN_DB, POWER_RUNS, SCATTER = 0.2, 16, {"passage": 0.5, "own": 0.05, "token": 0.05}  # 0.4 dB a token between two
CHECKED = 2  # draws of each cell that the whole verdict is asked, too


def says_use(rows: list[dict[str, Stats]]) -> bool:
    """What `recommend(...).sentence()` begins with, from the comparisons that it is about."""
    names = list(rows[0])
    best = max(names, key=lambda n: np.mean([row[n].token_sqnr_db for row in rows]))
    defaults = [n for n in names if RECIPES[n] in [_like(d) for d in DEFAULTS.values()] and n != best]
    return any(_comparison(rows, best, other).decided for other in defaults)


def _comparison(rows: list[dict[str, Stats]], best: str, other: str) -> Comparison:
    margin, interval = margin_interval(*([row[n] for row in rows] for n in (best, other)), comparisons=len(rows[0]) - 1)
    return Comparison(other, "a default", margin, interval, {}, {})


def _like(recipe):
    """A default as it was measured: per token, in strict arithmetic."""
    return type(recipe).parse(recipe.name.replace("-tensor", "").replace("-fast", ""))


def rate(text: Text, draws: int) -> float:
    """Share of draws that say "Use"; the whole verdict says the same in the first of them."""
    said = 0
    for i, rows in enumerate(text.draws(draws)):
        use = says_use(rows)
        if i < CHECKED:
            named = {str(k): row for k, row in enumerate(rows)}
            whole = recommend(Sweep.of(named, {n: RECIPES[n] for n in text.names}))
            assert whole.sentence().startswith("Use") == use, whole.sentence()
        said += use
    return said / draws


def null(draws: int) -> tuple[Table, float]:
    """How often "Use" is said where recipes are alike, and the largest of these rates."""
    rows, worst = [], 0.0
    for tokens in TOKENS:
        for inputs in INPUTS:
            rates = [rate(Text(tokens, run, inputs), draws) for run in RUNS]
            worst = max(worst, *rates)
            rows.append([f"{tokens:,}", str(inputs), *(f"{r:.1%}" for r in rates)])
            print(" | ".join(rows[-1]), flush=True)
    caption = f'"Use" said where five recipes are alike, of {draws:,} draws:'
    return Table(caption, ["tokens", "inputs", *(f"runs of {run}" for run in RUNS)], rows), worst


def power(draws: int) -> Table:
    """How often "Use" is said where one recipe is better."""
    rows = []
    for tokens in TOKENS:
        rates = [rate(Text(tokens, POWER_RUNS, i, gain_db=GAIN_DB, **SCATTER), draws) for i in INPUTS]
        rows.append([f"{tokens:,}", *(f"{r:.0%}" for r in rates)])
        print(" | ".join(rows[-1]), flush=True)
    caption = (
        f'"Use" said where one of five recipes is {GAIN_DB:g} dB better, of {draws:,} draws in runs of {POWER_RUNS} '
        "tokens, with a scatter between two recipes of 0.4 dB a token, a little more than real tokens have:"
    )
    return Table(caption, ["tokens", *(f"{i} input{'s' if i > 1 else ''}" for i in INPUTS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1000, help="of each cell (default 1000)")
    parser.add_argument("--only", choices=("null", "power"), help="one of the two tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/verdict.md")
    given, worst = parser.parse_args(), 0.0
    if given.only != "power":
        table, worst = null(given.draws)
        put("verdict.md", "interval_null", table, write=given.write)
    if given.only != "null":
        put("verdict.md", "interval_power", power(given.draws), write=given.write)
    sys.exit(f"{worst:.1%} of draws say Use where nothing is better" if worst > 0.05 else 0)


if __name__ == "__main__":
    main()
