"""A long day in one process: a thousand turns of the explorer and a thousand analyses leave memory where it was.

`make soak`; prints the memory curve. The statistics of a new recipe stay, 10 kB each, so that going back is free.
"""

import gc
import itertools
import resource
import time
from pathlib import Path

import pytest
import torch

from nvfp4viz import analyze, synthetic
from nvfp4viz.explorer import explore
from nvfp4viz.explorer.widget import VIEWS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
]
TURNS, WARM, EVERY = 1000, 100, 50
GROWTH = 30  # MB
RECIPES = ("standard", "4/6-mae-448", "4/6-mse-448", "4/6-mae-256", "4/6-mse-256", "4/6-mse-448-tensor-fast")


def _resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _soak(turn, capsys, what: str) -> None:
    """Turn after turn; prints the curve, fails where memory grows after the warm-up."""
    curve, start = {}, time.monotonic()
    for i in range(TURNS):
        turn(i)
        if (i + 1) % EVERY == 0:
            gc.collect()
            curve[i + 1] = _resident()
    base = curve[WARM]
    with capsys.disabled():
        print(f"\n{what}: {TURNS} in {time.monotonic() - start:.0f} s; {base:.0f} MB after {WARM}, then MB more:")
        print("  " + "  ".join(f"{n}: {mb - base:+.1f}" for n, mb in curve.items() if n > WARM))
    assert max(curve[n] for n in curve if n > WARM) - base < GROWTH


def test_a_thousand_updates_of_the_explorer(capsys):
    kinds = ("normal", "lognormal", "outlier channels", "spikes", "spread", "crowded")
    data = {f"layers.{i}.mlp": synthetic(kind, 64, 512, seed=i) for i, kind in enumerate(kinds)}
    widget = explore(data, engine="cpu").wait()
    sent = []
    widget.send = lambda content, buffers=None: sent.append(content["kind"])
    views, rules = itertools.cycle(VIEWS), itertools.cycle(("gained", "worst", "random"))

    def turn(i: int) -> None:
        widget.tensor = list(data)[i % len(kinds)]
        widget.view = next(views)
        widget.recipe_a = RECIPES[i % len(RECIPES)]
        # every second one is new: it is quantized now
        widget.recipe_b = f"4/6-mae-{200 + i // 5}.5" if i % 4 < 2 else RECIPES[(i + 1) % len(RECIPES)]
        assert widget.stats_a.recipe.name == widget.recipe_a and widget.stats_b.recipe.name == widget.recipe_b
        if i % 3 == 0:  # as the page asks
            ask = {"want": "picks", "tensor": widget.tensor, "recipe": widget.recipe_b, "rule": next(rules), "id": i}
            widget._handle_custom_msg(ask, [])
        if i % 5 == 0:
            settings = {"e4m3_max": 100.0 + i, "four_over_six": True} if i < 340 else {}
            widget._handle_custom_msg({"want": "recipe", "settings": settings, "side": "a", "id": i}, [])
        if i % 100 == 99:  # a cell that is run again
            explore({"x": data[widget.tensor]}, engine="cpu").wait().close()
        del sent[:-1]

    try:
        _soak(turn, capsys, "explorer updates")
    finally:
        widget.close()


def test_a_thousand_analyses(capsys):
    tensors = [synthetic("lognormal", 256, 512 + 16 * i, seed=i) for i in range(8)]
    tensors += [x.float() for x in tensors[:2]] + [torch.randn(3, 5, 128), tensors[0][::2]]
    first = [analyze(x, RECIPES[i % len(RECIPES)], engine="cpu") for i, x in enumerate(tensors)]

    def turn(i: int) -> None:
        n = i % len(tensors)
        assert analyze(tensors[n], RECIPES[n % len(RECIPES)], engine="cpu") == first[n]

    _soak(turn, capsys, "analyze calls")
