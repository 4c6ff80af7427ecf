"""What `sensitivity` costs, in plain forward passes of the same model and tokens, five recipes.

    python tests/benchmarks/sensitivity_cost.py [--rounds 5] [--write]

On a CPU with one thread: the process's CPU time of the toy in data/ and of two shapes of published models; on a GPU
the time of a few layers of two larger ones, in bfloat16. Weights are random but for the toy's, which costs the same.
Each is the least of several rounds taken in turn. --write puts the table into docs/verdict.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from tables import Table, cpu_name, put
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

import nvfp4viz
from nvfp4viz.integrations.huggingface import load_model

TOY = Path(__file__).parents[2] / "data" / "toy-qwen3-moe"
CPU = {
    "SmolLM2-135M's shape": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "mixture, 768 features": Qwen3MoeConfig(
        vocab_size=4096, hidden_size=768, moe_intermediate_size=512, num_hidden_layers=4, num_attention_heads=12,
        num_key_value_heads=4, head_dim=64, num_experts=16, num_experts_per_tok=4,
    ),
}  # fmt: skip
GPU = {
    "Llama 8B's shape, 8 layers": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=8, num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "Qwen3-30B-A3B's shape, 6 layers": Qwen3MoeConfig(
        vocab_size=32000, hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=6, num_attention_heads=32,
        num_key_value_heads=4, head_dim=128, num_experts=128, num_experts_per_tok=8,
    ),
    "SmolLM2-135M's shape": CPU["SmolLM2-135M's shape"],
}  # fmt: skip
COLUMNS = ["model", "tokens", "forward and backward", "`sensitivity(level=False)`", "`sensitivity`"]


def there_and_back(model, ids) -> None:
    """A forward and a backward pass to the embeddings, which nobody can do without."""
    hook = model.get_input_embeddings().register_forward_hook(lambda module, args, out: out.detach().requires_grad_())
    out = model(ids).logits
    out.backward(torch.ones_like(out))
    hook.remove()


def row(name: str, model, batch: int, length: int, rounds: int) -> list[str]:
    model.eval().requires_grad_(False)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)

    def plain() -> None:
        with torch.no_grad():
            model(ids)

    ways = {
        "plain": plain,
        "back": lambda: there_and_back(model, ids),
        "gradients": lambda: nvfp4viz.sensitivity(model, [ids], level=False),
        "level": lambda: nvfp4viz.sensitivity(model, [ids]),
    }
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for way, run in ways.items():
            spent = seconds(run, model.device)
            if turn:  # the first one compiles
                least[way] = min(least[way], spent)
    shown = [name, f"{ids.numel():,}", *(f"{least[w] / least['plain']:.1f}" for w in ("back", "gradients", "level"))]
    print(" | ".join(shown), flush=True)
    return shown


def seconds(run, device: torch.device) -> float:
    """Of the GPU and whoever keeps it busy, or of the CPU, whatever else that does."""
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def on_cpu(rounds: int) -> Table:
    torch.set_num_threads(1)
    toy, _ = load_model(TOY, dtype=torch.float32)
    found = [row("toy mixture, 128 features", toy, 26, 128, rounds)]
    for name, config in CPU.items():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        found.append(row(name, model, 4, 128, rounds))
    return Table(f"Cost in plain forward passes, five recipes, float32, one thread ({cpu_name()}):", COLUMNS, found)


def on_gpu(rounds: int) -> Table:
    found = []
    for name, config in GPU.items():
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        found.append(row(name, model, 8, 512, rounds))
    machine = torch.cuda.get_device_name()
    return Table(f"Cost in plain forward passes, five recipes, bfloat16 ({machine}):", COLUMNS, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/verdict.md")
    given = parser.parse_args()
    if torch.cuda.is_available():
        put("verdict.md", "sensitivity_cost_gpu", on_gpu(given.rounds), write=given.write)
    else:
        put("verdict.md", "sensitivity_cost", on_cpu(given.rounds), write=given.write)


if __name__ == "__main__":
    main()
