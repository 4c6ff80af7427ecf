"""What `sensitivity` costs, in plain forward passes of the same model and tokens: five recipes, one thread of a CPU.

    python tests/benchmarks/sensitivity_cost.py [--rounds 5] [--write]

Times are the process's CPU time, each the least of several rounds taken in turn. The toy in data/ is as it is; the two
other models have the shapes of published ones, with random weights, which cost the same. --write puts the table into
docs/verdict.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from tables import Table, put
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

import nvfp4viz
from nvfp4viz.integrations.huggingface import load_model

TOY = Path(__file__).parents[2] / "data" / "toy-qwen3-moe"
SMALL = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip
MIXTURE = Qwen3MoeConfig(
    vocab_size=4096, hidden_size=768, moe_intermediate_size=512, num_hidden_layers=4, num_attention_heads=12,
    num_key_value_heads=4, head_dim=64, num_experts=16, num_experts_per_tok=4,
)  # fmt: skip
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
            start = time.process_time()
            run()
            if turn:  # the first one compiles
                least[way] = min(least[way], time.process_time() - start)
    shown = [name, f"{ids.numel():,}", *(f"{least[w] / least['plain']:.1f}" for w in ("back", "gradients", "level"))]
    print(" | ".join(shown), flush=True)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/verdict.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    toy, _ = load_model(TOY, dtype=torch.float32)
    found = [row("toy mixture, 128 features", toy, 26, 128, given.rounds)]
    for name, config in {"mixture, 768 features": MIXTURE, "SmolLM2-135M's shape": SMALL}.items():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        found.append(row(name, model, 4, 128, given.rounds))
    caption = "Cost in plain forward passes, five recipes, float32, one thread of a CPU:"
    put("verdict.md", "sensitivity_cost", Table(caption, COLUMNS, found), write=given.write)


if __name__ == "__main__":
    main()
