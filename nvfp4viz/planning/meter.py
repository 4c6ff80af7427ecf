"""What parts of a model do to its output when they are quantized: measured, a forward pass a variant, none twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis import coverage_sentence, versions
from ..model import (
    MODES,
    Decoded,
    Fp8,
    Sequences,
    Survey,
    Swap,
    Task,
    check_weights,
    describe,
    eager,
    plan_of,
    quantized_already,
    unwrapped,
)
from ..nvfp4 import Recipe
from .outputs import kl_interval, runs
from .store import Store, fingerprint, text_fingerprint
from .units import Unit, units_of

AS_IS, FP8 = "bf16", "fp8"  # what is kept is not touched, or quantized to FP8
HELD = 1 << 30  # bytes of log-probabilities that are kept; beyond, the model as it is runs again for each variant
ROOM = 1 << 30  # bytes of quantized weights that are kept from pass to pass; beyond, they are made anew


class Meter:
    """Runs variants of a model on one text, and remembers what they did.

    A variant says for each unit in which format it runs: "bf16" (as it is), "fp8", or the name of a recipe. Weights are
    quantized in their place when their product is computed, so a large model is in memory once.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable, recipes: Mapping[str, Recipe], *, quantize: str, modules=None,
        experts: bool = False, engine: str = "auto", resume=None, budget: int | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ):  # fmt: skip
        if unwrapped(model).training:
            raise ValueError("the model is in training mode, where dropout alone changes its output: call model.eval()")
        self.task = Task(model, None, None)
        self.batches = self.task.batches(batches)
        self.scheme = plan_of(model, quantize, modules, None, None)
        if quantize != MODES[0]:
            check_weights(self.scheme, model)
        self.model, self.recipes, self.engine, self.budget = model, dict(recipes), engine, budget
        self.units: list[Unit] = units_of(self.scheme, experts)
        self.skipped: dict[str, str] = {}
        self._plain: dict[str, str] = {}  # weights that stayed as they are, though their inputs did not -> why
        self._progress, self._times = progress, []
        self._used: set[str] = set()
        self._other = 0  # passes that are not variants: the prediction's
        self._weights: tuple[str, Decoded] | None = None  # of the format that ran last
        self.store = Store(resume, self._about(experts, modules))
        self._given = Sequences()
        for batch in self.batches:
            self._given.add(batch, len(batch["input_ids"]))
        self._before = self._as_it_is()

    def _about(self, experts: bool, modules) -> dict:
        """What a file of measurements must agree on."""
        return {
            "model": f"{type(self.model).__name__} {fingerprint(self.model)}", "text": text_fingerprint(self.batches),
            "quantize": self.scheme.quantize, "modules": describe(modules), "experts": experts,
            "engine": self.engine, "nvfp4viz": versions()["versions"].get("nvfp4viz"),
        }  # fmt: skip

    @property
    def provenance(self) -> dict:
        return {
            **versions(), "model": type(self.model).__name__, "quantized": self.scheme.sentence(),
            "coverage": self.coverage, "already": quantized_already(self.model), "passes": self.passes,
            "tokens": sum(int(b["input_ids"].numel()) for b in self.batches), "copies": self._given.copies,
            "skipped": {**self._plain, **self.skipped},
        }  # fmt: skip

    @property
    def seen(self) -> str:
        return coverage_sentence(self.coverage)

    @property
    def passes(self) -> int:
        """Forward passes over the text, those of an earlier run that were taken from its file included."""
        return 1 + self._other + len(self._used)

    @property
    def left(self) -> int:
        """Passes that the budget leaves."""
        return 1 << 30 if self.budget is None else max(0, self.budget - self.passes)

    def spend(self, passes: int) -> None:
        self._other += passes

    def variant(self, recipe: str, kept: Iterable[int] = (), keep: str = AS_IS) -> tuple[str, ...]:
        """All by one recipe but the units of these numbers."""
        kept = set(kept)
        return tuple(keep if i in kept else recipe for i in range(len(self.units)))

    def alone(self, recipe: str, unit: int) -> tuple[str, ...]:
        return tuple(recipe if i == unit else AS_IS for i in range(len(self.units)))

    def kl(self, variant: Sequence[str]) -> float:
        """Nats a token."""
        return kl_interval(self.measure(variant))[0]

    def measure(self, variant: Sequence[str]) -> np.ndarray:
        """Rows as `outputs.runs` makes them, without copies; one forward pass, or none where it was measured before."""
        key = self._key(variant)
        self._used.add(key)
        if key not in self.store:
            start = time.monotonic()
            rows = self._run(variant)
            self.store.put(key, {"runs": rows, "skipped": self.skipped, "plain": self._plain})
            self._times.append(time.monotonic() - start)
        self.skipped.update(self.store[key]["skipped"])
        self._plain.update(self.store[key].get("plain", {}))
        self._say(variant)
        return self._given.once(np.array(self.store[key]["runs"], float))[0]

    def knows(self, variant: Sequence[str]) -> bool:
        """Whether this run has measured it."""
        return self._key(variant) in self._used

    def _key(self, variant: Sequence[str]) -> str:
        """Formats and the numbers of their units: "bf16: 0 3; standard: 1 2"."""
        places: dict[str, list[str]] = {}
        for i, format in enumerate(variant):
            places.setdefault(self.recipes[format].name if format in self.recipes else format, []).append(str(i))
        return "; ".join(f"{name}: {' '.join(at)}" for name, at in sorted(places.items()))

    def _say(self, variant: Sequence[str]) -> None:
        if self._progress is None:
            return
        total = self.budget or self.passes
        text = f"{sum(f == AS_IS for f in variant)} of {len(variant)} kept"
        if self._times and self.budget:
            text += f", at most {_duration(sum(self._times) / len(self._times) * self.left)} left"
        self._progress(min(self.passes, total), total, text)

    def _as_it_is(self) -> list[Tensor] | None:
        """Log-probabilities of each batch, None where they are too large to keep; counts multiply-adds on the way."""
        survey, held, size = Survey(self.scheme, self.model), [], 0
        with torch.no_grad(), eager():
            self.task.check(self.batches[0])
            for i, batch in enumerate(self.batches):
                with survey if i == 0 else contextlib.nullcontext():
                    before = self.task.log_probabilities(self.task.outcomes(batch))
                size += before.numel() * 4
                if size > HELD:
                    held = None
                    break
                held.append(before)
        found = survey.coverage.multiply_adds()
        self.coverage = survey.coverage.to_dict(survey.problems)
        self.multiply_adds = [sum(_taken(found.get(w, []), some) for w, some in u.picked.items()) for u in self.units]
        return held

    def _run(self, variant: Sequence[str]) -> list[list[float]]:
        rows, first = [], 0
        with torch.no_grad(), eager():
            for i, batch in enumerate(self.batches):
                if self._before is None:
                    before = self.task.log_probabilities(self.task.outcomes(batch))
                else:
                    before = self._before[i]
                with self.swapped(variant):
                    rows += runs(before, self.task.outcomes(batch), batch, first)
                first += len(before)
        return rows

    @contextlib.contextmanager
    def swapped(self, variant: Sequence[str]):
        """The model runs as a variant, then as before."""
        with contextlib.ExitStack() as undo:
            for name in dict.fromkeys(variant):
                if name == AS_IS:
                    continue
                picked: dict = {}
                for unit, format in zip(self.units, variant, strict=True):
                    if format == name:
                        for w, some in unit.picked.items():
                            picked[w] = None if some is None else {*(picked.get(w) or ()), *some}
                part, recipe = self.scheme.of(picked), Fp8() if name == FP8 else self.recipes[name]
                weights = None if self.scheme.quantize == MODES[0] else self._decoded(name, recipe)
                undo.enter_context(Swap(part, recipe, weights, self.engine, self.skipped))
                undo.callback(lambda w=weights: self._plain.update(w.kept if w else {}))
            yield

    def _decoded(self, name: str, recipe: Recipe | Fp8) -> Decoded:
        """The weights in a format; those of one format are kept, since passes that follow mostly share it."""
        if self._weights is None or self._weights[0] != name:
            self._weights = None  # let go of those before new ones are made
            of = recipe if isinstance(recipe, Fp8) else self.scheme.recipe_of_weights(recipe)
            self._weights = name, Decoded(self.scheme, of, self.engine, ROOM)
        return self._weights[1]


def _taken(adds: list[int], experts) -> int:
    return sum(adds) if experts is None else sum(adds[e] for e in experts if e < len(adds))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
