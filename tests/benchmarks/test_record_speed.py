"""What recording adds to a forward pass on a GPU, in time and memory: `pytest -m bench -s`, or run this file.

A stack of Llama-shaped blocks, randomly initialised: hidden 4096, intermediate 14336, 32 heads of 128 and 8 of keys and
values, bf16, one sequence of 8192 tokens.
"""

import argparse
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nvfp4viz

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, TOKENS, BLOCKS = 4096, 14336, 32, 8, 8192, 4


class Block(nn.Module):
    def __init__(self, hidden=HIDDEN, intermediate=INTERMEDIATE, heads=HEADS, kv_heads=KV_HEADS):
        super().__init__()
        self.heads, self.kv_heads, size = heads, kv_heads, hidden // heads
        linear = lambda a, b: nn.Linear(a, b, bias=False)  # noqa: E731
        self.q_proj, self.o_proj = linear(hidden, hidden), linear(hidden, hidden)
        self.k_proj, self.v_proj = linear(hidden, kv_heads * size), linear(hidden, kv_heads * size)
        self.gate_proj, self.up_proj = linear(hidden, intermediate), linear(hidden, intermediate)
        self.down_proj = linear(intermediate, hidden)
        self.norm1, self.norm2 = nn.RMSNorm(hidden), nn.RMSNorm(hidden)

    def forward(self, x):  # [B, T, hidden]
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (n, -1)).transpose(1, 2) for p, n in (
            (self.q_proj, self.heads), (self.k_proj, self.kv_heads), (self.v_proj, self.kv_heads)))  # fmt: skip
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o_proj(h.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


def stack(blocks=BLOCKS, device="cuda", **shape) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        return nn.Sequential(*(Block(**shape) for _ in range(blocks))).to(torch.bfloat16).eval()


def time_and_memory(model, x, recipes, repeat: int) -> tuple[float, float]:
    """Median milliseconds of a forward pass, to the end of its work on the GPU, and its peak memory in MB."""
    times = []
    with torch.no_grad(), nvfp4viz.record(model, recipes=recipes) if recipes else torch.no_grad():
        for _ in range(3):
            model(x)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(repeat):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            model(x)
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop))
        return statistics.median(times), torch.cuda.max_memory_allocated() / 2**20


def measure(repeat: int = 20, tokens: int = TOKENS, blocks: int = BLOCKS) -> dict[str, tuple[float, float]]:
    model, x = stack(blocks), torch.randn(1, tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    recipes = {"plain": None, "one recipe": ["4/6-mse-256"], "five recipes": nvfp4viz.RECIPES, "plain again": None}
    return {name: time_and_memory(model, x, r, repeat) for name, r in recipes.items()}


def table(found: dict[str, tuple[float, float]]) -> str:
    ms0, mb0 = found["plain"]
    rows = [f"{n:14} {ms:9.2f} ms {ms / ms0:6.2f} x {mb - mb0:+9.1f} MB" for n, (ms, mb) in found.items()]
    return "\n".join([f"{torch.cuda.get_device_name()}, torch {torch.__version__}", *rows])


class Expert(nn.Module):
    def __init__(self, hidden, intermediate):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(nn.Module):
    """Experts as linear layers of their own, each called with the rows routed to it."""

    def __init__(self, hidden=2048, intermediate=1024, experts=64, each=4):
        super().__init__()
        self.router, self.each = nn.Linear(hidden, experts, bias=False), each
        self.experts = nn.ModuleList(Expert(hidden, intermediate) for _ in range(experts))

    def forward(self, x):  # [T, hidden]
        weights, chosen = torch.softmax(self.router(x).float(), -1).topk(self.each, -1)
        order, out, start = chosen.flatten().argsort(stable=True), torch.zeros_like(x), 0
        for e, end in enumerate(chosen.flatten().bincount(minlength=len(self.experts)).cumsum(0).tolist()):
            if end > start:
                rows = order[start:end] // self.each
                scale = weights.flatten()[order[start:end]].to(x.dtype).unsqueeze(1)
                out.index_add_(0, rows, self.experts[e](x[rows]) * scale)
            start = end
        return out


def fused(hidden=2048, intermediate=1024, experts=64, each=4) -> nn.Module:
    """The same as one block of transformers with its experts in 3-D parameters (grouped_mm)."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=hidden, moe_intermediate_size=intermediate, num_experts=experts, num_experts_per_tok=each,
        norm_topk_prob=True, experts_implementation="grouped_mm",
    )  # fmt: skip
    block = Qwen3MoeSparseMoeBlock(config)
    for p in block.parameters():
        nn.init.normal_(p, std=0.02)
    return block


def mixtures(tokens=(512, 16384), repeat: int = 5, rounds: int = 9) -> dict[tuple[str, int, str], float]:
    """(experts, tokens, recipes) -> wall time as a ratio to the plain pass, on a GPU: the median of rounds in turn.

    Python decides where a pass is short, and hosts of GPUs are busy with others: each round compares what was at once.
    """
    found, makers = {}, {"separate": Mixture, "fused": fused}
    for name, make in makers.items():
        try:
            with torch.device("cuda"):
                block = make().to(torch.bfloat16).eval()
        except ImportError as error:
            print(f"{name} experts are not measured: {error}")
            continue
        for n in tokens:
            x = torch.randn((n, 2048) if name == "separate" else (1, n, 2048), device="cuda", dtype=torch.bfloat16)
            ratios = {"one": [], "five": []}
            for _ in range(rounds):
                plain = wall(lambda: block(x), repeat)  # noqa: B023
                for label, recipes in (("one", ["4/6-mse-256"]), ("five", nvfp4viz.RECIPES)):
                    with nvfp4viz.record(block, recipes=recipes):
                        ratios[label].append(wall(lambda: block(x), repeat) / plain)  # noqa: B023
            found |= {(name, n, label): statistics.median(values) for label, values in ratios.items()}
    return found


def wall(work, repeat: int) -> float:
    """Median seconds of a call, to the end of its work on the GPU where there is one."""
    times = []
    with torch.no_grad():
        for i in range(repeat + 3):
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= 3:
                times.append(time.perf_counter() - start)
    return statistics.median(times)


def cpu_ratios(what: str, blocks: int = 30, prefill: int = 256, steps: int = 20) -> dict[str, float]:
    """Recording a stack of SmolLM2-135M's shape on this CPU: recipes -> time as a ratio to the plain pass."""
    model = stack(blocks, "cpu", hidden=576, intermediate=1536, heads=9, kv_heads=3).float()
    x = torch.randn(1, prefill if what == "prefill" else 1, 576)
    plain, found = [], {"one": [], "five": []}
    for _ in range(3):  # in turn, so that a busy machine slows all alike
        plain.append(wall(lambda: model(x), 3 if what == "prefill" else steps))
        for label, recipes in (("one recipe", ["4/6-mse-256"]), ("five recipes", nvfp4viz.RECIPES)):
            with nvfp4viz.record(model, recipes=recipes, engine="cpu"):
                found[label.split()[0]].append(wall(lambda: model(x), 3 if what == "prefill" else steps))
    return {f"{n} recipe{'s' * (n == 'five')}": min(times) / min(plain) for n, times in found.items()}


@pytest.mark.bench
@pytest.mark.gpu
def test_recording_a_mixture():
    found = mixtures()
    print("\n" + "\n".join(f"{name} experts, {n:,} tokens, {r}: {v:.2f}" for (name, n, r), v in found.items()))
    assert found and all(ratio < 40 for ratio in found.values())


@pytest.mark.bench
@pytest.mark.gpu
def test_recording_adds_a_quarter_for_one_recipe_and_doubles_for_five():
    found = measure()
    print("\n" + table(found))
    (plain, memory), (one, one_mb), (five, five_mb), _ = found.values()
    assert one <= 1.25 * plain and five <= 2 * plain
    assert max(one_mb, five_mb) - memory <= 200


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("repeat", 20), ("tokens", TOKENS), ("blocks", BLOCKS)):
        parser.add_argument(f"--{name}", type=int, default=default)
    print(table(measure(**vars(parser.parse_args()))))
