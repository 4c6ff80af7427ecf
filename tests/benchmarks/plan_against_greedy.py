"""Is a plan under a budget as good as a full greedy search, and what ranks layers: Fisher, output error, or SQNR?

    python tests/benchmarks/plan_against_greedy.py MODEL TEXT [--tokens 4096] [--length 128] [--budgets 40 200]
        [--most 12] [--write SECTION]

MODEL is a folder of Hugging Face or a .gguf file. The first half of the tokens chooses, the second half judges: both
searches keep units one by one in bf16, and the KL of their sets of the same size is measured on both halves. --write
puts the tables into that section of docs/plan.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from tables import Table, put

from nvfp4viz.integrations.huggingface import batches, load_model
from nvfp4viz.nvfp4 import as_recipes
from nvfp4viz.planning import drift, layer_effects, plan
from nvfp4viz.planning.meter import Meter
from nvfp4viz.planning.predict import rank_correlation, share_found


def greedy(meter: Meter, recipe: str, most: int) -> list[frozenset[int]]:
    """At each step every unit is tried."""
    kept, sets = frozenset(), []
    for _ in range(most):
        others = set(range(len(meter.units))) - kept
        kept |= {min(others, key=lambda u: meter.kl(meter.variant(recipe, kept | {u})))}
        sets.append(kept)
    return sets


def ranks(model, chosen, recipe: str, resume) -> Table:
    """How well what is cheap ranks units by the KL that they make alone, measured of all."""
    found = layer_effects(model, chosen, recipe, budget=None, resume=resume)
    followed = drift(model, chosen, recipe, floor=False)
    at = {name: i for i, name in enumerate(followed.layers)}
    meter = Meter(model, chosen, as_recipes([recipe]), quantize="all-linear")
    error, sqnr, alone, fisher = [], [], [], []
    for unit, row in zip(meter.units, found.rows, strict=True):
        layers = [m for m in (*unit.matrices, unit.name) if m in at]
        if layers:
            noise = sum(followed.local[at[m]].sum() for m in layers)
            signal = sum(followed.signal[at[m]].sum() for m in layers)
            error.append(noise)
            sqnr.append(noise / signal)
            alone.append(row["alone_kl"])
            fisher.append(row["predicted_kl"])
    guesses = (
        ("Fisher-weighted input error", fisher),
        ("output error, its power", error),
        ("SQNR of the output", sqnr),
    )
    rows = [[name, f"{rank_correlation(g, alone):.2f}", f"{share_found(g, alone):.0%}"] for name, g in guesses]
    caption = f"How well predictions rank its {len(alone)} units by the KL that each makes alone:"
    return Table(caption, ["prediction", "Spearman", "of the ten worst, found"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    for name, default in (("tokens", 4096), ("length", 128), ("most", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budgets", type=int, nargs="+", default=[40, 200])
    parser.add_argument("--recipe", default="4/6-mse-448")
    parser.add_argument("--resume", metavar="FILE", help="measurements, kept between runs")
    parser.add_argument("--write", metavar="SECTION", help="put the tables there, in docs/plan.md")
    given = parser.parse_args()
    model, tokenizer = load_model(given.model, dtype=torch.float32)
    text = Path(given.text).read_text(encoding="utf-8", errors="replace")
    size = max(1, min(32, given.tokens // given.length))  # so that each half has a batch of its own
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = [b.to(model.device) for b in batches(tokenizer, text, 2 * given.tokens, given.length, size=size)]
    chosen, other = found[: len(found) // 2], found[len(found) // 2 :]
    on, judge = (Meter(model, b, as_recipes([given.recipe]), quantize="all-linear", resume=r)
                 for b, r in ((chosen, given.resume), (other, None)))  # fmt: skip
    full = greedy(on, given.recipe, min(given.most, len(on.units) - 1))
    took = on.passes
    print(f"full greedy search: {took:,} passes", flush=True)
    planned = {b: plan(model, chosen, [given.recipe], price="layers", budget=b, resume=given.resume)
               for b in given.budgets}  # fmt: skip
    rows = _compared(on, judge, given.recipe, full, planned)
    columns = ["kept", "full search: KL on other text"]
    for b in planned:
        columns += [f"plan, {b} passes: text chosen on", f"{b} passes: other text"]
    what = f"{len(on.units)} units, {given.tokens:,} tokens to choose on and as many others to judge by"
    caption = f"`{given.recipe}`, {what}; full greedy search takes {took:,} passes."
    put("plan.md", given.write or "", Table(caption, columns, rows),
        ranks(model, chosen, given.recipe, given.resume), write=bool(given.write))  # fmt: skip


def _compared(on: Meter, judge: Meter, recipe: str, full: list[frozenset[int]], planned: dict) -> list[list[str]]:
    """A row a size: KL of the full greedy search's set on other text, and each plan's over it on both texts."""
    number = {u.name: i for i, u in enumerate(judge.units)}
    rows = []
    for kept in full:
        row = [f"{len(kept)}", f"{judge.kl(judge.variant(recipe, kept)):.5f}"]
        for found in planned.values():
            mine = next(({number[n] for n in p.kept} for p in found.frontier if len(p.kept) == len(kept)), None)
            for meter in (on, judge):
                kl = [meter.kl(meter.variant(recipe, s)) for s in (mine, kept)] if mine else None
                row.append(f"{kl[0] / kl[1]:.2f}" if kl else "")
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
