"""Does the model's output change? Quantize what goes into its layers, and compare with the model as it is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis import versions
from ..nvfp4 import RECIPES, Recipe, as_recipe
from ..stats import poisson_weights
from .choose import choose_modules, describe
from .swap import RUN, Outputs, decoded_weights, swapped
from .weights import is_linear

MIN_RUNS = 8  # fewer give no interval
CHUNK = 128  # tokens whose probabilities are compared at a time
MODES = ("activations", "activations+weights")


@dataclass(frozen=True, eq=False)
class Effect:
    """What quantizing some layers by one recipe did to the model's output."""

    recipe: str
    module: str | None  # the only layer quantized; None: all that were chosen
    runs: np.ndarray  # float64 [n, 5], by run: tokens; summed loss before, loss after, KL (in nats), top-1 agreement
    layers: dict[str, np.ndarray]  # layer -> float64 [n, 2], by run: squared change of its output, squared output

    def measures(self) -> dict[str, np.ndarray]:
        """By name: the value, then that of 200 bootstrap replicates."""
        tokens, before, after, kl, same = _replicates(self.runs).T
        perplexity, change = np.exp(after / tokens), np.exp(after / tokens) - np.exp(before / tokens)
        return {
            "perplexity": perplexity,
            "perplexity_change": change,
            "kl": kl / tokens,
            "top1_agreement": same / tokens,
        }


@dataclass(frozen=True, eq=False)
class Impact:
    """Effects by recipe and layer, against the model as it is. Intervals: 95 %, over runs of 64 neighbouring tokens."""

    effects: list[Effect]
    quantize: str  # "activations" or "activations+weights"
    skipped: dict[str, str] = field(default_factory=dict)  # layer -> why it was not quantized
    provenance: dict = field(default_factory=dict)

    def table(self):
        """A pandas DataFrame, a row an effect: perplexity and its change, KL (nats a token), top-1 agreement."""
        return self._frame([
            {"recipe": e.recipe, "module": e.module or "all", "tokens": int(e.runs[:, 0].sum())}
            | _columns(e.measures(), len(e.runs))
            for e in [self._unquantized(), *self.effects]
        ])  # fmt: skip

    def layers(self):
        """A pandas DataFrame, a row an effect and layer: the relative error of the layer's output, |y - y0| / |y0|."""
        return self._frame([
            {"recipe": e.recipe, "quantized": e.module or "all", "module": name}
            | _columns({"output_error": _relative(_replicates(runs))}, len(runs))
            for e in self.effects
            for name, runs in e.layers.items()
        ])  # fmt: skip

    def _unquantized(self) -> Effect:
        tokens, before, *_ = self.effects[0].runs.T
        return Effect("unquantized", None, np.stack([tokens, before, before, 0 * tokens, tokens], 1), {})

    @staticmethod
    def _frame(rows: list[dict]):
        import pandas as pd

        return pd.DataFrame(rows)


def _replicates(runs: np.ndarray) -> np.ndarray:
    """Sums over all runs, then over those of each bootstrap replicate: [201, columns]."""
    weights = poisson_weights(0, len(runs)).T.double().numpy()  # [200, n]
    weights = weights[weights.any(1)]  # of few runs, some draw none
    return np.concatenate([runs.sum(0, keepdims=True), weights @ runs])


def _relative(sums: np.ndarray) -> np.ndarray:
    return np.sqrt(np.divide(sums[:, 0], sums[:, 1], where=sums[:, 1] > 0, out=np.zeros(len(sums))))


def _columns(measures: dict[str, np.ndarray], runs: int) -> dict[str, float]:
    columns = {}
    for name, values in measures.items():
        low, high = np.quantile(values[1:], [0.025, 0.975]) if runs >= MIN_RUNS else (math.nan, math.nan)
        columns |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return columns


def impact(
    model: nn.Module,
    batches: Iterable,
    recipes=RECIPES,
    *,
    quantize: str = "activations",
    modules=None,
    per_layer: bool = False,
    engine: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> Impact:
    """Quantize the inputs (and weights) of linear layers, one recipe at a time, and measure what it does to the output.

    Args:
        model:     a causal language model in evaluation mode: token ids -> logits [B, T, V], or an object with them.
        batches:   token ids, int [B, T], or the model's keyword arguments with `input_ids` (and `attention_mask`).
        recipes:   as for `sweep`; None or "identity" among them changes nothing, and must show no difference.
        quantize:  "activations", or "activations+weights": weights by the same recipe with one scale a tensor.
        modules:   as for `record`; None: all linear layers but the one that makes the logits, as usual.
        per_layer: quantize each layer alone, too: layers x recipes more passes.
    Returns: Impact; `.table()` has perplexity, KL in nats and top-1 agreement, with 95 % intervals.
    Raises ValueError for a model in training mode, batches without a token to predict, or layers that do not fit.

    Decoded values are rounded to the layer's dtype, which in bf16 adds about 1/3000 of NVFP4's error power. Memory: for
    one batch the logits in fp32 and all chosen layers' outputs, and with weights the chosen weights once more.
    """
    if quantize not in MODES:
        raise ValueError(f"quantize={quantize!r} is neither {MODES[0]!r} nor {MODES[1]!r}")
    if model.training:
        raise ValueError("the model is in training mode, where dropout alone changes its output: call model.eval()")
    batches = [b if isinstance(b, dict) else {"input_ids": b} for b in batches]
    if not batches or min(b["input_ids"].shape[-1] for b in batches) < 2:
        raise ValueError("no token is predicted: batches are token ids, int [B, T], with T at least 2")
    chosen = _chosen(model, modules)
    plan = [(name, r, None) for name, r in _recipes(recipes).items()]
    plan += [(name, r, layer) for layer in chosen for name, r, _ in list(plan) if per_layer]
    # with weights a recipe at a time, so that only its weights are kept
    groups = [plan] if quantize == MODES[0] else [[v for v in plan if v[0] == n] for n in {v[0]: 0 for v in plan}]
    runs, layers, skipped = defaultdict(list), defaultdict(lambda: defaultdict(list)), {}
    done, total = 0, len(batches) * len(plan)
    with torch.no_grad():
        for group in groups:
            weights = decoded_weights(chosen, group[0][1], engine, skipped) if quantize == MODES[1] else {}
            for batch in batches:
                with Outputs().watching(chosen) as original:
                    before = _log_probabilities(_logits(model, batch), batch)
                for name, recipe, layer in group:
                    if progress:
                        progress(done, total, f"{name} {layer or ''}".strip())
                    some = {layer: chosen[layer]} if layer else chosen
                    with swapped(some, recipe, weights, engine, skipped), Outputs(original).watching(some) as changed:
                        logits = _logits(model, batch)
                    runs[name, layer] += _compare(before, logits, batch)
                    for module, sums in changed.sums.items():
                        layers[name, layer][module] += sums
                    done += 1
    effects = [
        Effect(name, layer, np.array(runs[name, layer]),
               {module: np.array(sums) for module, sums in layers[name, layer].items()})
        for name, _, layer in plan
    ]  # fmt: skip
    about = {**versions(), "model": type(model).__name__, "modules": describe(modules), "layers": list(chosen)}
    return Impact(effects, quantize, skipped, about)


def _recipes(recipes) -> dict[str, Recipe | None]:
    """Recipes by name; None for one that changes nothing."""
    if recipes is None or isinstance(recipes, (Recipe, str)):
        recipes = [recipes]
    named = recipes.items() if hasattr(recipes, "items") else [(None, r) for r in recipes]
    found = {}
    for name, r in named:
        r = None if r is None or r == "identity" else as_recipe(r)
        found[name or (r.name if r else "identity")] = r
    if not found:
        raise ValueError(f"no recipe given: the named ones are {', '.join(RECIPES)}")
    return found


def _chosen(model: nn.Module, modules) -> dict[str, nn.Module]:
    chosen = choose_modules(model, modules)
    if modules is None:
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        chosen = {n: m for n, m in chosen.items() if m is not head and n.rpartition(".")[2] != "lm_head"}
    linear = {n: m for n, m in chosen.items() if is_linear(m)}
    if not linear:
        why = f"{', '.join(chosen)}, which are not linear" if chosen else "only the output layer"
        raise ValueError(f"modules={describe(modules)} gives {why}: choose linear layers")
    return linear


def _logits(model: nn.Module, batch: dict) -> Tensor:
    given = dict(batch)
    out = model(given.pop("input_ids"), **given)
    return out if isinstance(out, Tensor) else out.logits


def _targets(batch: dict) -> tuple[Tensor, Tensor]:
    """The next token of each position, and whether it counts: both [B, T-1]."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    return ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool) if mask is None else mask[:, 1:].bool()


def _log_probabilities(logits: Tensor, batch: dict) -> Tensor:
    """float32 [B, T-1, V] of the tokens that follow."""
    return torch.log_softmax(logits[:, :-1].float(), -1)


def _compare(before: Tensor, logits: Tensor, batch: dict) -> Iterator[list[float]]:
    """For each run of tokens: their number, loss before and after, KL and agreement, summed."""
    targets, counts = _targets(batch)
    for b in range(before.shape[0]):
        columns = []
        for i in range(0, before.shape[1], CHUNK):
            p, q = before[b, i : i + CHUNK], torch.log_softmax(logits[b, :-1][i : i + CHUNK].float(), -1)  # [c, V]
            target = targets[b, i : i + CHUNK, None].to(p.device)
            kl = (p.exp() * (p - q)).sum(-1, dtype=torch.float64)
            same = (p.argmax(-1) == q.argmax(-1)).double()
            loss = [-x.gather(-1, target).squeeze(-1).double() for x in (p, q)]
            valid = counts[b, i : i + CHUNK, None].to(p.device)
            columns.append(torch.stack([torch.ones_like(kl), *loss, kl, same], 1).where(valid, 0.0))
        for run in torch.cat(columns).split(RUN):
            if run[:, 0].any():
                yield run.sum(0).tolist()
