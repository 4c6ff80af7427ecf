"""Predicted KL divergence by input and recipe, from one forward and a backward pass a batch, all recipes together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..analysis import EXPERT, HEADS, marked
from ..nvfp4 import RECIPES, Recipe, as_recipes
from ..shown import error_text, quantity
from ..shown import table as html_table
from .choose import unwrapped
from .gradients import OUT_OF_MEMORY, Gradients
from .hooks import Observer
from .inputs import eager, logits_of
from .presets import MODES, plan_of
from .routers import Routers
from .swap import Swap, decoded
from .task import Task, describe

HELD = 1 << 30  # bytes of logits kept for the level; beyond, the model runs once more as it is
PART = 0.5  # of the error, at which a model with routers is measured: less is noisier, more is not what one input does


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing each input alone is predicted to do to the output; `a + b` is that of both texts together.

    Gradients see what grows with the square of an error. Tokens that are sent to other experts are more, in proportion
    to the error itself: what was measured beyond the squares is theirs, and every input has of it as its errors reach
    the routers behind it.
    """

    recipes: dict[str, Recipe]  # name -> Recipe
    nats: dict[str, dict[str, float]]  # input -> recipe's name -> KL by gradients, summed over the tokens predicted
    tokens: int  # predicted
    names: dict[str, tuple[str, ...]]  # input -> all layers that read it, itself first
    skipped: dict[str, str] = field(default_factory=dict)  # input -> why nothing is predicted, or only partly
    apart: frozenset[str] = frozenset()  # inputs that do not count in the total
    checked: tuple[float, float] = (0.0, 0.0)  # nats of all inputs together: by gradients, and measured where they were
    part: float = 1.0  # of the first recipe's error, at which that was
    behind: dict[str, float] = field(default_factory=dict)  # input -> share of the routers behind it; {} without any

    @property
    def level(self) -> float:
        """What all inputs together do under the first recipe, over what it is by gradients alone; 1 if not measured."""
        first = next(iter(self.recipes))
        together = self.together(first)
        return self.total(first) * self.tokens / together if together > 0 < self.checked[1] else 1.0

    def kl(self, tensor: str, recipe: str) -> float:
        """Nats a token of quantizing one input."""
        return self._alone(tensor, recipe) / self.tokens if self.tokens else 0.0

    def total(self, recipe: str) -> float:
        """Nats a token of all inputs together, at the level that was measured.

        Without the output head, which is rarely quantized, and what a block of experts is given, which each expert has.
        """
        if not self.tokens:
            return 0.0
        predicted, measured = self.checked
        if self.behind:
            return (self.together(recipe) + self._rerouted(self._before_routers(recipe))) / self.tokens
        return self.together(recipe) * (measured / predicted if predicted > 0 < measured else 1.0) / self.tokens

    def together(self, recipe: str) -> float:
        """Nats of the inputs that count in the total, summed over the tokens, by gradients alone."""
        return sum(self.nats[t][recipe] for t in self._counted())

    def worst(self, recipe: str, n: int = 10) -> list[str]:
        """The inputs of the largest predicted effect."""
        return sorted(self.nats, key=lambda t: -self._alone(t, recipe))[:n]

    def _counted(self) -> list[str]:
        return [t for t in self.nats if t not in self.apart]

    def _alone(self, tensor: str, recipe: str) -> float:
        """Nats of one input, summed over the tokens."""
        squares = self.nats[tensor][recipe]
        return squares + self.behind.get(tensor, 0.0) * self._rerouted(squares)

    def _rerouted(self, squares: float) -> float:
        """Nats that tokens lose by other experts if errors of so many nats by gradients reach all of the routers.

        How many turn over goes with the size of the error there: with the root of what gradients say of it.
        """
        beyond, every = self._rerouting
        return beyond * math.sqrt(squares / every) if every > 0 else 0.0

    @cached_property
    def _rerouting(self) -> tuple[float, float]:
        """Nats beyond the gradients' of all inputs under the first recipe, at its whole error; nats before routers."""
        predicted, measured = self.checked
        first = next(iter(self.recipes))
        every = self._before_routers(first)
        if not (predicted > 0 and every > 0):
            return 0.0, 0.0
        return max(0.0, measured / predicted - 1) * self.part * self.together(first), every

    def _before_routers(self, recipe: str) -> float:
        return sum(self.nats[t][recipe] for t in self._counted() if self.behind.get(t))

    def table(self):
        """A pandas DataFrame, a row an input and recipe, the largest effect first: predicted_kl in nats a token."""
        import pandas as pd

        sums = {r: sum(self._alone(t, r) for t in self._counted()) or 1.0 for r in self.recipes}
        rows = [
            {"tensor": t, "recipe": r, "predicted_kl": self.kl(t, r), "share": self._alone(t, r) / sums[r],
             "layers": ", ".join(self.names[t])}
            for t in self.nats for r in self.recipes
        ]  # fmt: skip
        columns = ["tensor", "recipe", "predicted_kl", "share", "layers"]
        return pd.DataFrame(rows, columns=columns).sort_values("predicted_kl", ascending=False, ignore_index=True)

    def __repr__(self) -> str:
        totals = ", ".join(f"{marked(r, self.recipes[r])} {self.total(r):.4g}" for r in self.recipes)
        level = f"level measured, {self.level:.2f} of the gradients'" if self.checked[1] else "level not measured"
        return (
            f"Sensitivity({quantity(len(self.nats), 'input')}, {quantity(self.tokens, 'token')}; "
            f"predicted KL in nats a token: {totals}; {level})"
        )

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
        if self.part != other.part:
            raise ValueError(f"predictions at {self.part} and {other.part} of the error do not add: two models?")
        nats = {t: dict(row) for t, row in self.nats.items()}
        for tensor, row in other.nats.items():
            mine = nats.setdefault(tensor, dict.fromkeys(self.recipes, 0.0))
            nats[tensor] = {r: mine[r] + value for r, value in row.items()}
        names, skipped = {**other.names, **self.names}, {**other.skipped, **self.skipped}
        checked = tuple(a + b for a, b in zip(self.checked, other.checked, strict=True))
        apart, behind = self.apart | other.apart, {**other.behind, **self.behind}
        tokens = self.tokens + other.tokens
        return Sensitivity(self.recipes, nats, tokens, names, skipped, apart, checked, self.part, behind)


class Watcher(Observer):
    """Hands inputs to `Gradients` and keeps nothing else."""

    def __init__(self, model, modules, gradients: Gradients):
        super().__init__(model, modules)
        self.gradients, self.routers = gradients, Routers()

    def _attach(self, model, choice) -> None:
        self._undo.enter_context(self.routers.watching(model, choice.weights))
        super()._attach(model, choice)
        self._undo.enter_context(self.gradients.attached(model, choice))

    def take(self, seen) -> None:
        if self.gradients.watch(seen):
            self.routers.saw([seen.name] if seen.labels is None else seen.labels)


def sensitivity(
    model: nn.Module,
    batches: Iterable,
    recipes=RECIPES,
    *,
    modules=None,
    draws: int = 1,
    level: bool = True,
    seed: int = 0,
    engine: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Predict what quantizing each input does to the model's output: KL in nats a token, 1/2 sum of g^2 delta^2.

    g is the gradient of an input for tokens drawn from the model's own predictions, delta the error of a recipe. One
    more pass measures all inputs together under the first recipe, and totals are at the level of that. A gradient does
    not see what tokens lose by being routed to another expert: of a model with routers, that pass runs at half of
    the errors and says how much that is, in total and, by the routers behind it, of each input. `impact` measures
    inputs one by one, at a pass a recipe and layer.

    Args:
        model:   a causal language model in evaluation mode, as for `impact`; parameters get no gradients.
        batches: token ids, int [B, T], or the model's keyword arguments.
        recipes: as for `sweep`.
        modules: as for `record`.
        draws:   backward passes a batch; more batches say more than more draws.
        level:   measure the level; without it, predictions are too low where errors reroute tokens.
        seed:    of the tokens drawn.
    Returns: Sensitivity; `.table()` has the inputs, the largest effect first.
    Raises ValueError for a model in training mode, RuntimeError where no backward pass is possible or it does not fit.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if model.training:
        raise ValueError("the model is in training mode, where dropout alone changes its output: call model.eval()")
    named, batches = as_recipes(recipes), _checked(batches)
    if not named or not batches:
        raise ValueError(f"{len(named)} recipes and {len(batches)} batches: at least one of both")
    found, before = _predicted(model, batches, named, modules, Gradients(list(named.values()), draws, seed, engine),
                               HELD if level else 0, progress)  # fmt: skip
    return _at_level(found, model, batches, before, modules, engine) if level else found


def _checked(batches: Iterable) -> list:
    """The batches as a list; TypeError for what is none."""
    found = list(batches)
    for batch in found:
        if not isinstance(batch, Mapping) and not (isinstance(batch, Tensor) and batch.ndim > 1):
            raise TypeError(
                f"a batch is {describe(batch)}: give token ids, int [B, T], as a tokenizer makes of text, or a dict of "
                "the model's arguments"
            )
    return found


def _predicted(model, batches: list, named: dict, modules, gradients: Gradients, room: int, progress):
    """Without a level, and the logits of the first batches, as many as there is room for."""
    with Watcher(model, modules, gradients) as watcher:
        before = _run(model, batches, gradients, room, progress)
    if not gradients.sums:
        why = "; ".join(f"{n}: {text}" for n, text in list(watcher.remarks().items())[:5])
        raise RuntimeError(f"no gradient reached an input of {type(unwrapped(model)).__name__}: {why}")
    nats = {label: dict(zip(named, values, strict=True)) for label, values in gradients.sums.items()}
    blocks = {e[1] for e in map(EXPERT.fullmatch, nats) if e}
    apart = frozenset(t for t in nats if t in blocks or t.rpartition(".")[2] in HEADS)
    behind = {t: share for t, share in watcher.routers.behind().items() if t in nats}
    part = PART if behind else 1.0
    found = Sensitivity(
        named, nats, gradients.tokens, gradients.names, watcher.remarks(), apart, part=part, behind=behind
    )
    return found, before


def _run(model: nn.Module, batches: list, gradients: Gradients, room: int, progress) -> list[Tensor]:
    """Every batch through the model, whose hooks gather; the logits of the first ones, as many as there is room for.

    Raises RuntimeError where that is impossible or does not fit.
    """
    kept = []
    for done, batch in enumerate(batches):
        if progress:
            progress(done, len(batches), "")
        given = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
        try:
            out = model(given.pop("input_ids"), **given) if "input_ids" in given else model(**given)
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(OUT_OF_MEMORY) from error
        if gradients.problem:
            raise RuntimeError(gradients.problem)
        logits = logits_of(out).detach()
        room -= logits.nbytes
        if room >= 0:
            kept.append(logits)
    return kept


def _at_level(found: Sensitivity, model, batches: list, before: list[Tensor], modules, engine: str) -> Sensitivity:
    """With the KL of all inputs together, measured under part of the first recipe's error; or why it was not."""
    name, recipe = next(iter(found.recipes.items()))
    predicted = found.part**2 * found.together(name)
    try:
        if not predicted:
            raise ValueError("no input counts in the total")
        task = Task(model, None, None)
        batches = task.batches(batches)
        plan = plan_of(model, MODES[0], modules, None, None)
        plan = plan.of({w: taken for w, taken in plan.choice.observed.items() if not w.head})
        changed = recipe if found.part == 1 else lambda x: decoded(x, recipe, engine).lerp_(x, 1 - found.part)
        measured = 0.0
        with torch.no_grad(), eager():
            for i, batch in enumerate(batches):
                p = task.log_probabilities(before[i] if i < len(before) else task.outcomes(batch))
                with Swap(plan, changed, None, engine, {}):
                    measured += task.nats(p, task.outcomes(batch), batch)
    except (TypeError, ValueError, torch.cuda.OutOfMemoryError) as error:
        why = f"the level of the predictions was not measured: {error_text(error)}"
        return replace(found, skipped={**found.skipped, "level": why})
    return replace(found, checked=(predicted, measured))
