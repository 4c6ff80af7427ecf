"""Does the predicted KL find the inputs that matter? Each input quantized alone, in float32, against its prediction.

    python tests/benchmarks/sensitivity_against_measured.py [--tokens 8192] [--small 256] [--write]

Always the toy mixture in data/ on its short text, every expert apart; after `make model` on --tokens of a longer text,
too, and SmolLM2-135M on --small tokens (a pass an input: minutes; 0 leaves it out). In a mixture of experts each input
is measured a second time with every token's experts held, as gradients alone see it. --write puts the table into
docs/verdict.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tables import Table, put

import nvfp4viz
from nvfp4viz.integrations.huggingface import batches, load_model
from nvfp4viz.model import Swap, plan_of
from nvfp4viz.planning.predict import rank_correlation, share_found

ROOT = Path(__file__).parents[2]
TOY, SMALL = ROOT / "data" / "toy-qwen3-moe", ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.gguf"
TEXT, LONG = ROOT / "data" / "alice.txt", SMALL.with_name("alice.txt")
LEVEL = "standard"  # the recipe by which the level is measured; another one is predicted
COLUMNS = [
    "model", "experts of a token", "inputs", "Spearman", "of the ten worst, found",
    "KL of the ten predicted / of the ten worst", "sum of predictions / of measurements",
    "whole model, predicted / measured", "by gradients alone",
]  # fmt: skip


class Routing:
    """Remembers which experts each token had, and holds them; of transformers' routers, which return them last."""

    def __init__(self, model):
        self.kept: dict[str, list[torch.Tensor]] = {}
        self.hold, self.calls = False, {}
        routers = {n: m for n, m in model.named_modules() if type(m).__name__.endswith("TopKRouter")}
        for name, router in routers.items():
            router.register_forward_hook(lambda module, args, out, name=name: self._seen(name, out))
        self.routed = bool(routers)

    def start(self, hold: bool) -> None:
        self.hold, self.calls = hold, dict.fromkeys(self.kept, 0)

    def _seen(self, name: str, out):
        logits, _, experts = out
        if name not in self.calls:  # the model as it is
            self.kept.setdefault(name, []).append(experts)
            return None
        at = self.calls[name]
        self.calls[name] += 1
        if not self.hold:
            return None
        experts = self.kept[name][at]
        scores = torch.softmax(logits.float(), -1).gather(-1, experts)
        return logits, (scores / scores.sum(-1, keepdim=True)).to(logits.dtype), experts


def rows(name: str, path: Path, text: str, tokens: int, length: int, recipe: str) -> list[list[str]]:
    """A row for what is measured as it runs, and one with experts held where there are experts."""
    model, tokenizer = load_model(path, dtype=torch.float32)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = batches(tokenizer, text, tokens, length, size=max(1, 4096 // length))
    given = [ids.to(model.device) for ids in found]
    name += f", {sum(ids.numel() for ids in given):,} tokens"
    found = nvfp4viz.sensitivity(model, given, [LEVEL, recipe])
    inputs = {n: layers for n, layers in found.names.items() if n not in found.apart}
    total, alone = found.total(recipe), found.together(recipe) / found.tokens
    routing, shown = Routing(model), []
    before = _log_probabilities(model, given)

    def kl(modules) -> float:
        plan = plan_of(model, "activations", modules, None, None)
        with Swap(plan, nvfp4viz.RECIPES[recipe], None, "auto", {}):
            after = _log_probabilities(model, given)
        changes = [(p.exp() * (p - q)).sum(-1).flatten() for p, q in zip(before, after, strict=True)]
        return float(torch.cat(changes).mean())

    for hold in (False, True)[: 1 + routing.routed]:
        guess = [found.nats[n][recipe] / found.tokens if hold else found.kl(n, recipe) for n in inputs]
        predicted, measured = (alone if hold else total), []
        for modules in (*map(list, inputs.values()), None):
            routing.start(hold)
            measured.append(kl(modules))
        *single, whole = measured
        how = "" if not routing.routed else "held" if hold else "as they come"
        shown.append([name, how, str(len(inputs)), f"{rank_correlation(guess, single):.3f}",
                      f"{10 * share_found(guess, single):.0f}",
                      f"{_of_ten(guess, single) / _of_ten(single, single):.2f}",
                      f"{sum(guess) / sum(single):.2f}", f"{predicted:.4f} / {whole:.4f} = {predicted / whole:.2f}",
                      f"{alone / whole:.2f}"])  # fmt: skip
        print(" | ".join(shown[-1]), flush=True)
    return shown


def _of_ten(by: list[float], values: list[float]) -> float:
    """The sum of the ten values that are the largest of another list."""
    return sum(values[i] for i in sorted(range(len(by)), key=lambda i: -by[i])[:10])


@torch.no_grad()
def _log_probabilities(model, given) -> list[torch.Tensor]:
    """float64 [B, T-1, V] of each batch."""
    return [torch.log_softmax(model(b).logits[:, :-1].double(), -1) for b in given]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=8192, help="that the toy mixture reads of it (default 8192)")
    parser.add_argument("--small", type=int, default=256, help="that SmolLM2-135M reads (default 256)")
    parser.add_argument("--recipe", default="4/6-mse-256")
    parser.add_argument("--write", action="store_true", help="put the table into docs/verdict.md")
    given = parser.parse_args()
    short = TEXT.read_text(encoding="utf-8")
    found = rows("toy mixture", TOY, short, 3328, 128, given.recipe)
    if LONG.exists():
        text = LONG.read_text(encoding="utf-8")
        found += rows("toy mixture, other text", TOY, text[len(short) :], given.tokens, 128, given.recipe)
        if given.small:
            found += rows("SmolLM2-135M", SMALL, text, given.small, 128, given.recipe)
    caption = f"`{given.recipe}`, float32, each input quantized alone, one draw of labels a token; level of `{LEVEL}`:"
    put("verdict.md", "sensitivity_against_measured", Table(caption, COLUMNS, found), write=given.write)


if __name__ == "__main__":
    main()
