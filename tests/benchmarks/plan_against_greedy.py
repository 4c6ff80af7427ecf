"""Is a plan under a budget as good as a full greedy search, and what ranks layers: Fisher, output error, or SQNR?

    python tests/benchmarks/plan_against_greedy.py MODEL TEXT [--tokens 2048] [--length 128] [--budget 200] [--most 6]

MODEL is a folder of Hugging Face or a .gguf file. The first half of the tokens chooses, the second half judges: both
searches keep units one by one in bf16, and the KL of their sets of the same size is measured on the second half.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from nvfp4viz.integrations.huggingface import batches, load_model
from nvfp4viz.nvfp4 import as_recipes
from nvfp4viz.planning import drift, layer_effects, plan
from nvfp4viz.planning.meter import Meter
from nvfp4viz.planning.outputs import kl_interval
from nvfp4viz.planning.predict import rank_correlation, share_found


def greedy(meter: Meter, recipe: str, most: int) -> list[frozenset[int]]:
    """At each step every unit is tried."""
    kept, sets = frozenset(), []
    for _ in range(most):
        others = set(range(len(meter.units))) - kept
        kept |= {min(others, key=lambda u: meter.kl(meter.variant(recipe, kept | {u})))}
        sets.append(kept)
    return sets


def ranks(model, chosen, recipe: str, resume) -> None:
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
    print(f"\n{len(alone)} units; the KL of each alone was measured in {found.provenance['passes']} passes\n")
    print("| prediction | Spearman | of the ten worst, found |\n| --- | --- | --- |")
    for name, guess in (("Fisher-weighted input error", fisher), ("output error, its power", error),
                        ("SQNR of the output", sqnr)):  # fmt: skip
        print(f"| {name} | {rank_correlation(guess, alone):.2f} | {share_found(guess, alone):.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    for name, default in (("tokens", 2048), ("length", 128), ("budget", 200), ("most", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recipe", default="4/6-mse-448")
    parser.add_argument("--resume", metavar="FILE", help="measurements, kept between runs")
    given = parser.parse_args()
    model, tokenizer = load_model(given.model, dtype=torch.float32)
    text = Path(given.text).read_text(encoding="utf-8")
    size = max(1, min(8, given.tokens // given.length))  # so that each half has a batch of its own
    found = batches(tokenizer, text, 2 * given.tokens, given.length, size=size)
    chosen, other = found[: len(found) // 2], found[len(found) // 2 :]
    start, recipe = time.monotonic(), given.recipe
    planned = plan(model, chosen, [recipe], price="layers", budget=given.budget, resume=given.resume)
    sets = {len(p.kept): p.kept for p in planned.frontier}
    print(f"plan: {planned.provenance['passes']} passes, {time.monotonic() - start:.0f} s; {len(planned.units)} units")
    on, judge = (Meter(model, b, as_recipes([recipe]), quantize="all-linear", resume=r)
                 for b, r in ((chosen, given.resume), (other, None)))  # fmt: skip
    full = greedy(on, recipe, min(given.most, len(on.units) - 1))
    print(f"full greedy search: {on.passes} passes, {time.monotonic() - start:.0f} s in all\n")
    number = {u.name: i for i, u in enumerate(judge.units)}
    print("| kept | KL on other text, plan | full greedy | plan / greedy |\n| --- | --- | --- | --- |")
    for kept in full:
        if len(kept) in sets:
            mine = [number[name] for name in sets[len(kept)]]
            a, b = (kl_interval(judge.measure(judge.variant(recipe, s)))[0] for s in (mine, kept))
            print(f"| {len(kept)} | {a:.5f} | {b:.5f} | {a / b:.3f} |", flush=True)
    ranks(model, chosen, recipe, given.resume)


if __name__ == "__main__":
    sys.exit(main())
