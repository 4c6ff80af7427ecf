"""Does the model's output change? Quantize what goes into its layers, and compare with the model as it is."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..analysis import AS_THEY_ARE, Effect, Impact, versions
from ..nvfp4 import RECIPES, Recipe, as_recipe
from .choose import describe, unwrapped
from .copies import Sequences
from .inputs import eager
from .outputs import Outputs
from .presets import MODES, Plan, check_weights, plan_of, quantized_already
from .swap import Decoded, Swap, one_ulp
from .task import Survey, Task

CONTROLS = (240, 288)  # ceilings under which SQNR is about that of 256
FLOOR = "floor: one unit in the last place of {dtype} in 1 % of an input"


class NothingQuantizedError(ValueError):
    """Not one product ran quantized: a table of zeros would say that quantizing does no harm."""


def impact(
    model: nn.Module, batches: Iterable, recipes=RECIPES, *, quantize: str = "activations", weights=None,
    checkpoint=None, modules=None, per_layer=False, controls=False, forward: Callable | None = None,
    loss: Callable | None = None, engine: str = "auto", progress: Callable[[int, int, str], None] | None = None,
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
        per_layer:  quantize each layer alone, too: layers x recipes more passes. Load the model in float32 for that: in
                    bfloat16 its own rounding changes the output by as much as most layers, which a row then shows.
        controls:   also the ceilings 240 and 288, whose SQNR is about that of 256: a difference between recipes that is
                    no larger than theirs is no finding.
        forward:    (model, batch) -> logits [..., C] of what is no causal language model.
        loss:       (logits, batch) -> the loss of each [...]; without it there is no perplexity.
    Returns: Impact; `.table()` has perplexity, KL in nats and top-1 agreement, and paired differences between recipes,
    with 95 % intervals over sequences, the rows of batches, without copies; `.sentence()` says if that was enough.
    Raises ValueError for a model in training mode or no causal one, batches without a token to predict, layers or
    weights that cannot be quantized; NothingQuantizedError, one too, where no product ran quantized.

    Decoded values are rounded to the layer's dtype, which in bf16 adds about 1/3000 of NVFP4's error power. Memory: for
    one batch the logits in fp32 and all chosen layers' outputs, and with weights the chosen weights once more.
    """
    if unwrapped(model).training:
        raise ValueError("the model is in training mode, where dropout alone changes its output: call model.eval()")
    task, named = Task(model, forward, loss), _recipes(recipes)
    batches, extra = task.batches(batches), _controls(named) if controls else {}
    named |= extra
    plan = plan_of(model, quantize, modules, weights, checkpoint)
    if plan.quantize != MODES[0]:
        check_weights(plan, model)
    with torch.no_grad(), eager():
        task.check(batches[0])
        coverage, effects, runs, copies, skipped = _measure(task, batches, plan, named, per_layer, engine, progress)
    about = {**versions(), "model": type(model).__name__, "modules": describe(modules), "coverage": coverage,
             "layers": [w.name for w in plan.choice.observed], "quantized": plan.sentence(),
             "already": quantized_already(model)}  # fmt: skip
    return Impact(effects, runs, named, plan.quantize, tuple(extra), skipped, about, copies)


def _measure(task: Task, batches, plan: Plan, recipes: dict, per_layer: bool, engine: str, progress):
    """The coverage, effects, the sequence of each run, how many copies were left out, and what was skipped."""
    chosen = list(plan.choice.observed)
    todo = [(name, r, None) for name, r in recipes.items()]
    todo += [(name, r, w) for w in chosen for name, r, _ in list(todo) if per_layer]
    todo += _floor(task.model, chosen) if per_layer else []
    # with weights a recipe at a time, so that only its weights are kept
    groups = [todo] if plan.quantize == MODES[0] else [[v for v in todo if v[0] == n] for n in {v[0]: 0 for v in todo}]
    runs, layers, ran = defaultdict(list), defaultdict(lambda: defaultdict(list)), set()
    skipped, kept, coverage, done = {}, {}, None, 0
    for group in groups:
        recipe = group[0][1]
        made = None
        if isinstance(recipe, Recipe) and plan.quantize != MODES[0]:
            made = Decoded(plan, plan.recipe_of_weights(recipe), engine)
        given = Sequences()
        for batch in batches:
            survey = Survey(plan, task.model) if coverage is None else contextlib.nullcontext()
            with Outputs().watching(outputs_of(chosen)) as original, survey:
                before, counts = task.before(batch)
            coverage = coverage or survey.coverage.to_dict(survey.problems)
            for name, recipe, only in group:
                if progress:
                    progress(done, len(batches) * len(todo), f"{name} {only.name if only else ''}".strip())
                some, swap = outputs_of([only] if only else chosen), Swap(plan, recipe, made, engine, skipped, only)
                with swap, Outputs(original, len(given), counts).watching(some) as changed:
                    after = task.outcomes(batch)
                runs[name, only] += task.by_run(before, after, batch, len(given))
                for module, sums in changed.sums.items():
                    layers[name, only][module] += sums
                ran |= {(name, label) for label in swap.ran}
                done += 1
            given.add(batch, len(before))
        kept |= made.kept if made else {}
    _check_ran(plan, recipes, ran, skipped)
    table = {key: given.once(np.array(rows)) for key, rows in runs.items()}  # [n, 6]: the sequence comes first
    effects = [
        Effect(name, only.name if only else None, table[name, only][0][:, 1:],
               {module: given.once(np.array(sums))[0] for module, sums in layers[name, only].items()},
               _of_weights(plan, recipe))
        for name, recipe, only in todo
    ]  # fmt: skip
    rows, copies = next(iter(table.values()))
    return coverage, effects, rows[:, 0].astype(np.int64), copies, {**kept, **skipped}


def _of_weights(plan: Plan, recipe) -> str:
    """What the weights were quantized by beside a recipe of activations, in a word."""
    if not isinstance(recipe, Recipe) or plan.quantize == MODES[0]:
        return AS_THEY_ARE
    return "the checkpoint's" if plan.checkpoint is not None else plan.recipe_of_weights(recipe).name


def _floor(model: nn.Module, chosen: list) -> list[tuple]:
    """A pass in which one layer's input moves by as little as its dtype can; none in float32, where that is nothing."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32, torch.float64}
    named = ", ".join(sorted(str(k).removeprefix("torch.") for k in kinds))
    return [(FLOOR.format(dtype=named), one_ulp, chosen[0])] if kinds else []


def _controls(recipes: dict[str, Recipe | None]) -> dict[str, Recipe]:
    """The control ceilings of a recipe that is measured, rather of MSE; ValueError where none has 4over6."""
    like = [r for r in recipes.values() if r is not None and r.four_over_six]
    if not like:
        raise ValueError(f"controls=True needs a recipe with 4over6 to differ from: there is {', '.join(recipes)}")
    one = next((r for r in like if r.err_mode == "MSE"), like[0])
    return {r.name: r for r in (replace(one, e4m3_max=c, scored_as=None) for c in CONTROLS)}


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
