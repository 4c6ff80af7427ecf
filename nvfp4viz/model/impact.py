"""Does the model's output change? Quantize what goes into its layers, and compare with the model as it is."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ..analysis import coverage_sentence, poisson_weights, versions
from ..nvfp4 import RECIPES, Recipe, as_recipe
from ..shown import table as html_table
from .choose import describe
from .inputs import eager
from .presets import MODES, Plan, check_weights, plan_of, quantized_already
from .swap import Decoded, Outputs, Swap
from .task import Survey, Task

MIN_RUNS = 8  # fewer give no interval


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
    quantize: str  # a mode or a preset
    skipped: dict[str, str] = field(default_factory=dict)  # layer -> why it was not quantized
    provenance: dict = field(default_factory=dict)

    @property
    def coverage(self) -> str:
        """Of the model's products, the share that ran quantized: "192 of 288 matrices, 97 % of multiply-adds"."""
        return coverage_sentence(self.provenance.get("coverage"))

    def __repr__(self) -> str:
        skipped = f"; {len(self.skipped)} not quantized, see .skipped" if self.skipped else ""
        said = f"{self.provenance.get('quantized', self.quantize)}: {self.coverage}"
        return f"Impact({len(self.effects)} effects of {said}{skipped}; .table() has the numbers)"

    def _repr_html_(self) -> str:
        names = ["recipe", "module", "perplexity", "kl", "kl_low", "kl_high", "top1_agreement"]
        rows = self.table()[names].to_numpy(object).tolist()
        return html_table("Impact · KL in nats a token", rows, names, repr(self))

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
        already = self.provenance.get("already")
        name = f"as loaded ({already})" if already else "unquantized"
        return Effect(name, None, np.stack([tokens, before, before, 0 * tokens, tokens], 1), {})

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


class NothingQuantizedError(ValueError):
    """Not one product ran quantized: a table of zeros would say that quantizing does no harm."""


def impact(
    model: nn.Module, batches: Iterable, recipes=RECIPES, *, quantize: str = "activations", weights=None,
    checkpoint=None, modules=None, per_layer=False, forward: Callable | None = None, loss: Callable | None = None,
    engine: str = "auto", progress: Callable[[int, int, str], None] | None = None,
) -> Impact:  # fmt: skip
    """Quantize inputs (and weights) of a model's matrices, a recipe at a time, and measure what it does to the output.

    Args:
        model:      a causal language model in evaluation mode: token ids -> logits [B, T, V], or an object with them.
        batches:    token ids, int [B, T], or the model's keyword arguments with `input_ids` (and `attention_mask`).
        recipes:    as for `sweep`; None or "identity" among them changes nothing, and must show no difference.
        quantize:   "activations"; "activations+weights": weights by the same recipe, one scale a tensor; "all-linear":
                    and q, k, v and gate, up share a scale; "sglang-nvfp4-online": experts alone, weights by
                    4/6-mse-448-tensor-fast; "checkpoint": what `checkpoint`, a path, quantizes, with its scales.
        weights:    a recipe of the weights' own.
        modules:    as for `record`; by default not the layer that makes the logits, as usual.
        per_layer:  quantize each layer alone, too: layers x recipes more passes.
        forward:    (model, batch) -> logits [..., C] of what is no causal language model.
        loss:       (logits, batch) -> the loss of each [...]; without it there is no perplexity.
    Returns: Impact; `.table()` has perplexity, KL in nats and top-1 agreement, with 95 % intervals.
    Raises ValueError for a model in training mode or no causal one, batches without a token to predict, layers or
    weights that cannot be quantized; NothingQuantizedError, one too, where no product ran quantized.

    Decoded values are rounded to the layer's dtype, which in bf16 adds about 1/3000 of NVFP4's error power. Memory: for
    one batch the logits in fp32 and all chosen layers' outputs, and with weights the chosen weights once more.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout alone changes its output: call model.eval()")
    task = Task(model, forward, loss)
    batches = task.batches(batches)
    named = _recipes(recipes)
    plan = plan_of(model, quantize, modules, weights, checkpoint)
    if plan.quantize != MODES[0]:
        check_weights(plan, model)
    with torch.no_grad(), eager():
        task.check(batches[0])
        coverage, *found = _measure(task, batches, plan, named, per_layer, engine, progress)
    about = {**versions(), "model": type(model).__name__, "modules": describe(modules), "coverage": coverage,
             "layers": [w.name for w in plan.choice.observed], "quantized": plan.sentence(),
             "already": quantized_already(model)}  # fmt: skip
    return Impact(*found, about)


def _measure(task: Task, batches, plan: Plan, recipes: dict, per_layer: bool, engine: str, progress):
    """The coverage, effects, the mode's name, and what was skipped."""
    chosen = list(plan.choice.observed)
    todo = [(name, r, None) for name, r in recipes.items()]
    todo += [(name, r, w) for w in chosen for name, r, _ in list(todo) if per_layer]
    # with weights a recipe at a time, so that only its weights are kept
    groups = [todo] if plan.quantize == MODES[0] else [[v for v in todo if v[0] == n] for n in {v[0]: 0 for v in todo}]
    runs, layers, ran = defaultdict(list), defaultdict(lambda: defaultdict(list)), set()
    skipped, kept, coverage, done = {}, {}, None, 0
    for group in groups:
        recipe = group[0][1]
        made = Decoded(plan, plan.recipe_of_weights(recipe), engine) if recipe and plan.quantize != MODES[0] else None
        for batch in batches:
            survey = Survey(plan, task.model) if coverage is None else contextlib.nullcontext()
            with Outputs().watching(outputs_of(chosen)) as original, survey:
                before = task.log_probabilities(task.outcomes(batch))
            coverage = coverage or survey.coverage.to_dict(survey.problems)
            for name, recipe, only in group:
                if progress:
                    progress(done, len(batches) * len(todo), f"{name} {only.name if only else ''}".strip())
                some, swap = outputs_of([only] if only else chosen), Swap(plan, recipe, made, engine, skipped, only)
                with swap, Outputs(original).watching(some) as changed:
                    after = task.outcomes(batch)
                runs[name, only] += task.compare(before, after, batch)
                for module, sums in changed.sums.items():
                    layers[name, only][module] += sums
                ran |= {(name, label) for label in swap.ran}
                done += 1
        kept |= made.kept if made else {}
    _check_ran(plan, recipes, ran, skipped)
    effects = [
        Effect(name, only.name if only else None, np.array(runs[name, only]),
               {module: np.array(sums) for module, sums in layers[name, only].items()})
        for name, _, only in todo
    ]  # fmt: skip
    return coverage, effects, plan.quantize, {**kept, **skipped}


def outputs_of(weights) -> dict[str, nn.Module]:
    """Modules whose output shows a weight's effect, by name: a linear layer, or the block that owns it."""
    return {w.name if w.is_called else w.name.rpartition(".")[0] or w.name: w.module for w in weights}


def _check_ran(plan: Plan, recipes: dict, ran: set, skipped: dict) -> None:
    """NothingQuantizedError where nothing ran; what was not called is in `skipped`."""
    real = [name for name, r in recipes.items() if r is not None]
    for w in plan.choice.observed:
        if real and not any((name, w.name) in ran for name in real):
            skipped.setdefault(w.name, "it took part in no product that was seen")
    for name in real:
        if not any(recipe == name for recipe, _ in ran):
            why = "; ".join(f"{n}: {text}" for n, text in list(skipped.items())[:3])
            raise NothingQuantizedError(f"nothing ran quantized under {name}: {why}")


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
