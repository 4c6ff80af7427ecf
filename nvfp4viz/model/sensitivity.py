"""Predicted KL divergence by input and recipe, from one forward and a backward pass a batch, all recipes together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from ..analysis import EXPERT, HEADS
from ..nvfp4 import RECIPES, Recipe, as_recipes
from ..shown import table as html_table
from .choose import unwrapped
from .gradients import OUT_OF_MEMORY, Gradients
from .hooks import Observer


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing each input alone is predicted to do to the output; `a + b` is that of both texts together."""

    recipes: dict[str, Recipe]  # name -> Recipe
    nats: dict[str, dict[str, float]]  # input -> recipe's name -> KL, summed over the tokens predicted
    tokens: int  # predicted
    names: dict[str, tuple[str, ...]]  # input -> all layers that read it, itself first
    skipped: dict[str, str] = field(default_factory=dict)  # input -> why nothing is predicted, or only partly
    apart: frozenset[str] = frozenset()  # inputs that do not count in the total

    def kl(self, tensor: str, recipe: str) -> float:
        """Nats a token."""
        return self.nats[tensor][recipe] / self.tokens if self.tokens else 0.0

    def total(self, recipe: str) -> float:
        """Nats a token of all inputs together, as if their effects added up.

        Without the output head, which is rarely quantized, and what a block of experts is given, which each expert has.
        """
        return sum(self.kl(tensor, recipe) for tensor in self.nats if tensor not in self.apart)

    def worst(self, recipe: str, n: int = 10) -> list[str]:
        """The inputs of the largest predicted effect."""
        return sorted(self.nats, key=lambda t: -self.nats[t][recipe])[:n]

    def table(self):
        """A pandas DataFrame, a row an input and recipe, the largest effect first: predicted_kl in nats a token."""
        import pandas as pd

        rows = [
            {"tensor": t, "recipe": r, "predicted_kl": self.kl(t, r), "share": self.kl(t, r) / (self.total(r) or 1.0),
             "layers": ", ".join(self.names[t])}
            for t in self.nats for r in self.recipes
        ]  # fmt: skip
        columns = ["tensor", "recipe", "predicted_kl", "share", "layers"]
        return pd.DataFrame(rows, columns=columns).sort_values("predicted_kl", ascending=False, ignore_index=True)

    def __repr__(self) -> str:
        totals = ", ".join(f"{r} {self.total(r):.4g}" for r in self.recipes)
        return f"Sensitivity({len(self.nats)} inputs, {self.tokens:,} tokens; predicted KL in nats a token: {totals})"

    def _repr_html_(self) -> str:
        first = next(iter(self.recipes))
        rows = [[t, *(self.kl(t, r) for r in self.recipes)] for t in self.worst(first)]
        title = "Sensitivity · predicted KL in nats a token, the worst inputs"
        return html_table(title, rows, ["input", *self.recipes], repr(self))

    def __add__(self, other: Sensitivity) -> Sensitivity:
        if not isinstance(other, Sensitivity):
            return NotImplemented
        if self.recipes != other.recipes:
            raise ValueError(f"predictions under {list(self.recipes)} and {list(other.recipes)} do not add")
        nats = {t: dict(row) for t, row in self.nats.items()}
        for tensor, row in other.nats.items():
            mine = nats.setdefault(tensor, dict.fromkeys(self.recipes, 0.0))
            nats[tensor] = {r: mine[r] + value for r, value in row.items()}
        names, skipped = {**other.names, **self.names}, {**other.skipped, **self.skipped}
        return Sensitivity(self.recipes, nats, self.tokens + other.tokens, names, skipped, self.apart | other.apart)


class Watcher(Observer):
    """Hands inputs to `Gradients` and keeps nothing else."""

    def __init__(self, model, modules, gradients: Gradients):
        super().__init__(model, modules)
        self.gradients = gradients

    def _attach(self, model, choice) -> None:
        super()._attach(model, choice)
        self._undo.enter_context(self.gradients.attached(model))

    def take(self, seen) -> None:
        self.gradients.watch(seen)


def sensitivity(
    model: nn.Module,
    batches: Iterable,
    recipes=RECIPES,
    *,
    modules=None,
    draws: int = 1,
    seed: int = 0,
    engine: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Predict what quantizing each input does to the model's output: KL in nats a token, 1/2 sum of g^2 delta^2.

    g is the gradient of an input for tokens drawn from the model's own predictions, delta the error of a recipe. Summed
    over inputs it predicts the level of the whole model; `impact` measures it, at a pass a recipe and layer. Where
    routers choose experts, that choice is held as it is: what tokens lose by going to another expert comes on top.

    Args:
        model:   a causal language model in evaluation mode, as for `impact`; parameters get no gradients.
        batches: token ids, int [B, T], or the model's keyword arguments.
        recipes: as for `sweep`.
        modules: as for `record`.
        draws:   backward passes a batch; more batches say more than more draws.
        seed:    of the tokens drawn.
    Returns: Sensitivity; `.table()` has the inputs, the largest effect first.
    Raises ValueError for a model in training mode, RuntimeError where no backward pass is possible or it does not fit.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if model.training:
        raise ValueError("the model is in training mode, where dropout alone changes its output: call model.eval()")
    named, batches = as_recipes(recipes), list(batches)
    if not named or not batches:
        raise ValueError(f"{len(named)} recipes and {len(batches)} batches: at least one of both")
    gradients = Gradients(list(named.values()), draws, seed, engine)
    with Watcher(model, modules, gradients) as watcher:
        _run(model, batches, gradients, progress)
    if not gradients.sums:
        why = "; ".join(f"{n}: {text}" for n, text in list(watcher.remarks().items())[:5])
        raise RuntimeError(f"no gradient reached an input of {type(unwrapped(model)).__name__}: {why}")
    nats = {label: dict(zip(named, values, strict=True)) for label, values in gradients.sums.items()}
    blocks = {e[1] for e in map(EXPERT.fullmatch, nats) if e}
    apart = frozenset(t for t in nats if t in blocks or t.rpartition(".")[2] in HEADS)
    return Sensitivity(named, nats, gradients.tokens, gradients.names, watcher.remarks(), apart)


def _run(model: nn.Module, batches: list, gradients: Gradients, progress) -> None:
    """Every batch through the model, whose hooks gather; RuntimeError where that is impossible or does not fit."""
    for done, batch in enumerate(batches):
        if progress:
            progress(done, len(batches), "")
        given = dict(batch) if isinstance(batch, dict) else {"input_ids": batch}
        try:
            model(given.pop("input_ids"), **given) if "input_ids" in given else model(**given)
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(OUT_OF_MEMORY) from error
        if gradients.problem:
            raise RuntimeError(gradients.problem)
