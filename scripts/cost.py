"""Fill the tables of docs/cost.md from the shapes and rates below: python scripts/cost.py"""

import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nvfp4viz.stats import Stats

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
TOKENS, GPUS = 1_000_000, 8

# Elements analysed in a second under one 4over6 recipe, statistics included; None: not measured yet.
# On a GPU as tests/benchmarks/test_cuda_speed.py prints it, "cuda analyze 4/6-mse-256", on an H200 on 2026-11-24.
GPU: float | None = 67.1e6 / 0.273e-3
PEAK = 989e12  # dense bf16 FLOP/s of an H200, data sheet
MFU = 0.4  # share of it that a forward pass reaches
BANDWIDTH = 4.8e12  # bytes/s of an H200's memory, data sheet
OPERATIONS = 50  # FP32 an element and recipe: two candidates of 14, statistics 22 (arithmetic.py, measure.py)


@dataclass(frozen=True)
class Input:
    """A tensor that goes into linear layers, analysed once whatever the number of layers that share it."""

    k: int  # features
    layers: int  # layers that have such an input
    shared_by: int = 1  # modules that have it
    split: bool = False  # whether GPUs that split layers share it: by K in row-parallel layers, by expert
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
            Input(7168, 58, 2), Input(2048, 58, split=True),  # the shared expert; the router is left alone
            Input(7168, 58),  # what experts share, once a token before routing
            Input(7168, 58, split=True, per_token=8, copies=256),  # routed experts, gate and up as one
            Input(2048, 58, split=True, per_token=8, copies=256),
        ],
    ),
}  # fmt: skip


def elements(inputs, shares=1) -> float:
    """Elements that one token brings to one GPU; what GPUs share counts by its share."""
    return sum(i.k * i.layers * i.per_token / (shares if i.split else 1) for i in inputs)


def modules(inputs) -> int:
    return sum(i.layers * i.shared_by * i.copies for i in inputs)


def stats_bytes() -> int:
    """Of one module under one recipe, as it travels between ranks."""
    return sum(8 * int(np.prod(f.metadata.get("shape", ()))) for f in fields(Stats) if f.metadata)


def model_rows() -> list[list[str]]:
    rows = [["", *MODELS]]
    for title, cell in {
        "inputs recorded": lambda p, i: f"{modules(i):,}",
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
    rates = {f"if memory were the bound ({BANDWIDTH / 2:.1e} elements/s)": BANDWIDTH / 2}
    if GPU:
        rates[f"as measured ({GPU:.1e} elements/s)"] = GPU
    rows = [["", *rates]]
    for model, (parameters, inputs) in MODELS.items():
        for how, work in (
            ("tokens split", elements(inputs) / GPUS),
            (f"layers split {GPUS} ways", elements(inputs, GPUS)),
        ):
            seconds = [work * TOKENS / rate for rate in rates.values()]
            rows.append([f"{model}, {how}", *(f"{t:.1f} s, {t / forward(parameters):.0%}" for t in seconds)])
    return rows


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
