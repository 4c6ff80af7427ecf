"""Train data/toy-qwen3-moe: a byte-level mixture of experts, small enough for tests and notebook 08.

    make model      # fetches the text, Alice's Adventures in Wonderland (1865, public domain)
    python scripts/train_toy_moe.py .cache/smollm2/alice.txt data/toy-qwen3-moe

The architecture is Qwen3-MoE's as transformers has it, experts fused; a token is a byte. The opening that
data/alice.txt holds is left out of training, so that text is new to the model. About ten minutes on one core.
"""

import argparse
import json
import math
from pathlib import Path

import torch

LAST_HELD_OUT = "nice grand words to say.)"  # ends data/alice.txt
LENGTH, BATCH, PEAK_RATE, WARM_UP = 128, 16, 4e-3, 50


def config():
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(
        vocab_size=256, hidden_size=128, moe_intermediate_size=64, num_hidden_layers=4, num_experts=8,
        num_experts_per_tok=2, norm_topk_prob=True, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=2048, tie_word_embeddings=True, router_aux_loss_coef=0.003, bos_token_id=None,
        eos_token_id=None, pad_token_id=None, intermediate_size=64,
    )  # fmt: skip


def training_bytes(path: Path) -> torch.Tensor:
    """int64 [bytes] of the text behind the held-out opening."""
    text = path.read_text(encoding="utf-8")
    _, found, rest = text.partition(LAST_HELD_OUT)
    if not found:
        raise SystemExit(f"{path} is not the text that `make model` writes: {LAST_HELD_OUT!r} is missing")
    return torch.frombuffer(bytearray(rest.encode()), dtype=torch.uint8).long()


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP))))


def train(model, data: torch.Tensor, steps: int, generator: torch.Generator) -> None:
    decay = [p for p in model.parameters() if p.ndim > 1]
    other = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        starts = torch.randint(0, len(data) - LENGTH, (BATCH,), generator=generator)
        ids = torch.stack([data[s : s + LENGTH] for s in starts.tolist()])  # [BATCH, LENGTH]
        loss = model(ids, labels=ids, output_router_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item() / math.log(2):.3f} bits a byte, router's loss included", flush=True)


def tokenizer():
    """A byte is a token and its value the id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's letters for bytes
    hidden = [b for b in range(256) if b not in visible]
    letters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    bytes_only = Tokenizer(models.BPE(vocab={letters[b]: b for b in range(256)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    from transformers import Qwen3MoeForCausalLM

    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    train(model, training_bytes(arguments.text), arguments.steps, torch.Generator().manual_seed(0))
    model.to(torch.bfloat16).save_pretrained(arguments.folder)
    tokenizer().save_pretrained(arguments.folder)
    for_transformers_4(arguments.folder)


def for_transformers_4(folder: Path) -> None:
    """Names that transformers 4 reads too: it knows neither num_local_experts nor the newer class of tokenizers."""
    for file, change in (("config.json", {"num_experts": 8}),
                         ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})):  # fmt: skip
        values = json.loads((folder / file).read_text()) | change
        (folder / file).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
