"""Fill the tables of docs/cost.md from the shapes and rates below: python docs/cost.py"""

import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nvfp4viz.stats import Stats

PAGE = Path(__file__).with_name("cost.md")
TOKENS, GPUS = 1_000_000, 8

# Elements analysed in a second under one 4over6 recipe, statistics and bootstrap included; None: not measured yet.
CPU_CORE = 1.35e8  # one core, one recipe, SmolLM2-135M's layers at 512 tokens (2026-11, numba 0.68)
CPU_CORE_FIVE = 2.5e8  # the same, five recipes, in elements x recipes
GPU = None  # one GPU: tests/benchmarks/test_cuda_speed.py, "cuda analyze 4/6-mse-256"
GPU_NAME = "one H200"
PEAK = 989e12  # dense bf16 FLOP/s of an H200, data sheet
MFU = 0.4  # share of it that a forward pass reaches
BANDWIDTH = 4.8e12  # bytes/s of an H200's memory, data sheet
OPERATIONS = 50  # FP32 an element and recipe: two candidates of 14, statistics 22 (nvfp4viz/arithmetic.py, stats.py)


@dataclass(frozen=True)
class Input:
    """A tensor that goes into linear layers, analysed once whatever the number of layers that share it."""

    k: int  # features
    layers: int  # layers that have such an input
    shared_by: int = 1  # modules recorded from it
    split: bool = False  # whether tensor parallelism splits K over the GPUs
    per_token: int = 1  # times each token passes, such as the experts it is routed to
    copies: int = 1  # modules of the kind in a layer, such as experts


MODELS = {
    "70B dense (Llama 3 shape)": (
        70.6e9,
        [Input(8192, 80, 3), Input(8192, 80, split=True), Input(8192, 80, 2), Input(28672, 80, split=True)],
    ),
    "600B mixture of experts (DeepSeek V3 shape)": (
        37e9,
        [
            Input(7168, 61, 2), Input(1536, 61), Input(512, 61), Input(16384, 61, split=True),  # attention
            Input(7168, 3, 2), Input(18432, 3, split=True),  # dense layers
            Input(7168, 58, 3), Input(2048, 58, split=True),  # router and the shared expert
            Input(7168, 58, 2, per_token=8, copies=256), Input(2048, 58, per_token=8, copies=256),  # routed experts
        ],
    ),
}  # fmt: skip


def elements(inputs, tensor_parallel=1) -> float:
    """Elements that one token brings to one GPU; K that is split over GPUs counts by its share."""
    return sum(i.k * i.layers * i.per_token / (tensor_parallel if i.split else 1) for i in inputs)


def modules(inputs) -> int:
    return sum(i.layers * i.shared_by * i.copies for i in inputs)


def stats_bytes() -> int:
    """Of one module under one recipe, as it travels between ranks."""
    return sum(8 * int(np.prod(f.metadata.get("shape", ()))) for f in fields(Stats) if f.metadata)


def model_rows() -> list[list[str]]:
    rows = [["", *MODELS]]
    for title, cell in {
        "modules recorded": lambda p, i: f"{modules(i):,}",
        "elements a token": lambda p, i: f"{elements(i) / 1e6:.2f} million",
        "storing the activations, bf16": lambda p, i: f"{elements(i) * 2 * TOKENS / 1e12:.1f} TB",
        "recording keeps, one recipe": lambda p, i: f"{modules(i) * stats_bytes() / 1e6:,.0f} MB",
        "recording reads, one recipe": lambda p, i: f"{elements(i) * 2 * TOKENS / 1e12:.1f} TB",
        "recording computes, one recipe": lambda p, i: f"{elements(i) * OPERATIONS * TOKENS:.1e} FP32 operations",
        "the forward pass computes": lambda p, i: f"{2 * p * TOKENS:.1e} bf16 FLOP",
        f"forward pass on {GPUS} GPUs": lambda p, i: f"{forward(p):.0f} s",
    }.items():
        rows.append([title, *(cell(p, i) for p, i in MODELS.values())])
    return rows


def forward(parameters: float) -> float:
    return 2 * parameters * TOKENS / (GPUS * PEAK * MFU)


def time_rows() -> list[list[str]]:
    rows = [["rate, elements/s", *(f"{m}: {how}" for m in MODELS for how in ("tokens split", f"K split over {GPUS}"))]]
    rates = {f"bound by memory, {GPU_NAME}: {BANDWIDTH / 2:.1e}": BANDWIDTH / 2}
    if GPU:
        rates[f"measured, {GPU_NAME}: {GPU:.1e}"] = GPU
    rates[f"measured, one CPU core: {CPU_CORE:.1e}"] = CPU_CORE
    for title, rate in rates.items():
        cells = []
        for parameters, inputs in MODELS.values():
            for work in (elements(inputs) / GPUS, elements(inputs, GPUS)):
                seconds = work * TOKENS / rate
                cells.append(f"{_duration(seconds)} ({seconds / forward(parameters):.1%})")
        rows.append([title, *cells])
    return rows


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds:.1f} s"


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in {"models": model_rows(), "times": time_rows()}.items():
        marked = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marked, lambda m, rows=rows: m[1] + markdown(rows) + "\n" + m[2], text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
