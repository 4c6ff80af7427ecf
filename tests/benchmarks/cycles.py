"""Cycles an element of `analyze` on one core, and how wide its machine code works: `python tests/benchmarks/cycles.py`.

Cycles are counted by a chain of shifts and exclusive ors, each of which waits a cycle for the one before.
"""

import os
import re
import tempfile
import time

os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()  # what comes from a cache has no assembly to look at

import numba
import numpy as np
import torch
from tables import Table, cpu_name, put

from nvfp4viz.engine import analyze_all
from nvfp4viz.engine.cpu import analyze as compiled
from nvfp4viz.nvfp4 import RECIPES

STEPS = 10_000_000
BITS = {"z": 512, "y": 256, "x": 128}


@numba.njit
def chain(value, steps):
    for _ in range(steps):
        value ^= value << 13
        value ^= value >> 7
        value ^= value << 17
    return value


def seconds(work) -> float:
    """The least CPU time of thirty runs."""
    times = []
    for _ in range(30):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def width() -> str:
    """Of the FP32 instructions in the compiled analysis, how many work on vectors, and on how many bits."""
    packed, single, widest = 0, 0, "x"
    for assembly in compiled.analyze.inspect_asm().values():
        for kind, operands in re.findall(r"^\s*v\w*(ps|ss)\s+(.*)$", assembly, re.M):
            packed, single = packed + (kind == "ps"), single + (kind == "ss")
            widest = max([widest, *re.findall(r"%([xyz])mm", operands)])
    return f"{packed:,} of {packed + single:,} FP32 instructions work on vectors, of {BITS[widest]} bits at most"


def main() -> None:
    torch.set_num_threads(1)
    chain(np.uint64(1), 1)
    hertz = 6 * STEPS / seconds(lambda: chain(np.uint64(88172645463325252), STEPS))
    x = torch.randn(2048, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows = []
    for name in ("standard", "4/6-mse-256", "the five default recipes at once"):
        recipes = [RECIPES[name]] if name in RECIPES else list(RECIPES.values())
        analyze_all(x, recipes, engine="cpu")
        took = seconds(lambda recipes=recipes: analyze_all(x, recipes, engine="cpu")) / x.numel()
        rows.append([name, f"{took * 1e9:.1f}", f"{took * hertz:.1f}"])
    caption = f"`analyze` on one core of {cpu_name()}, at {hertz / 1e9:.2f} GHz; {width()}."
    put("speed.md", "cycles", Table(caption, ["", "ns an element", "cycles an element"], rows))


if __name__ == "__main__":
    main()
