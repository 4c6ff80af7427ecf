"""What recording adds to a forward pass on a GPU, in time and memory: `pytest -m bench -s`, or run this file.

A stack of Llama-shaped blocks, randomly initialised: hidden 4096, intermediate 14336, 32 heads of 128 and 8 of keys and
values, bf16, one sequence of 8192 tokens.
"""

import argparse
import statistics

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
