"""A verdict a busy engineer can use: which recipe for this data, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from numbers import Real

from ..nvfp4 import study_only
from .cards import verdict_html
from .coverage import coverage_sentence
from .defaults import STUDY, defaults_at, is_default, roles
from .impact import Impact
from .interval import decibels, judged_by, margin_interval
from .outlook import Outlook, outlook
from .sweep import Sweep
from .voices import Voices, voices
from .wording import FEW, RUNS_MISSING, UNSAVED, comparison_numbers, comparison_sentence, data_of, verdict_sentence

WORTH_DB = 0.05  # a smaller difference is none for practical purposes
Interval = tuple[float, float] | None  # dB, 95 %; None where tokens are too few


@dataclass(frozen=True)
class Comparison:
    """The named recipe against another one, input by input. dB are positive where the named recipe is better."""

    over: str  # the other recipe's name
    role: str  # what it is: "SGLang's default", "the runner-up", ...
    margin_db: float  # mean over inputs of 10 log10(error of a typical token under the other / under the named)
    interval_db: Interval  # holds with 95 % for all of a verdict's comparisons together
    by_tensor_db: dict[str, float]  # the margin on each input, by its first tensor
    by_tensor_interval_db: dict[str, Interval]  # of each of them; None where it has too few tokens
    worth_db: float = WORTH_DB  # a smaller difference is none for practical purposes
    lacks: str = FEW  # why there is no interval, where there is none

    @property
    def differs(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval_db is not None and (self.interval_db[0] > 0 or self.interval_db[1] < 0)

    @property
    def decided(self) -> bool:
        """Whether the difference is worth having, and there: above the threshold, and the interval excludes zero."""
        return self.differs and abs(self.margin_db) > self.worth_db

    @property
    def equal(self) -> bool:
        """Whether the whole interval is within the threshold: for practical purposes there is no difference."""
        return self.interval_db is not None and max(map(abs, self.interval_db)) <= self.worth_db

    @property
    def wins(self) -> int:
        """Inputs on which the named recipe is surely better."""
        return sum(i is not None and i[0] > 0 for i in self.by_tensor_interval_db.values())

    @property
    def disagree(self) -> list[str]:
        """Inputs on which the other is surely better, the clearest first."""
        sure = (t for t, i in self.by_tensor_interval_db.items() if i is not None and i[1] < 0)
        return sorted(sure, key=self.by_tensor_db.get)

    def numbers(self) -> str:
        """Such as: 0.12 dB, 95 % interval 0.11 to 0.13, surely better on 20 of 21 inputs."""
        return comparison_numbers(self)

    def sentence(self) -> str:
        """Such as: 2.7 % less error of a typical token than SGLang's default, standard (0.12 dB, ...)."""
        return comparison_sentence(self)


@dataclass(frozen=True, repr=False)
class Verdict:
    """The recipe under which a typical token has the least error, averaged in dB over inputs, and what it gains.

    A mean over inputs in dB weighs every input alike, and a mean over tokens of err_t / x_t every token; sums of
    squared errors would be decided by the largest tensor, and in it by one token. Intervals are over runs of tokens or
    over sequences, the same in all inputs and recipes: they speak for the rest of the same text, not for another one.
    """

    recipe: str  # name of the recipe for this data
    sqnr_db: float  # its SQNR of a typical token, mean over inputs, each capped at +-120
    tokens: int  # of the input that has fewest; a layer's experts have theirs together
    most_tokens: int  # of the input that has most
    inputs: int  # that vote; tensors of the same input are one, experts of a layer too
    judged_by: str  # "8 runs of 64 tokens": what the intervals are over
    comparisons: tuple[Comparison, ...]  # over the defaults, the runner-up and all others
    left_out: dict[str, str] = field(default_factory=dict)  # tensor -> why it has no vote
    towers: dict[str, tuple[int, float]] = field(default_factory=dict)  # tensor -> token of a fifth of its signal
    coverage: str = ""  # of a recorded model: "192 of 288 matrices, 97 % of multiply-adds"
    outlook: Outlook = Outlook()  # what is predicted and measured of the model's output
    study: str = ""  # why no engine runs the named recipe; only where none runs any that was measured

    def __repr__(self) -> str:
        study = " (study only)"
        compared = ", ".join(f"{c.over}{study * (c.role == STUDY)} {c.margin_db:+.3f} dB" for c in self.comparisons[:4])
        over = f"; over {compared}" if compared else ""
        return f"Verdict({self.recipe}{study * bool(self.study)} on {data_of(self)}{over}; .sentence() says it all)"

    def _repr_html_(self) -> str:
        return verdict_html(self)

    @property
    def contradicted(self) -> str | None:
        """The recipe under which the output changes less, as measured, else as predicted; None where there is none."""
        return self.outlook.rival(self.recipe)

    def over(self, role: str) -> Comparison | None:
        """The comparison whose role starts so, such as "FlashInfer" or "the runner-up"; None where there is none."""
        return next((c for c in self.comparisons if c.role.startswith(role)), None)

    @property
    def defaults(self) -> list[Comparison]:
        return [c for c in self.comparisons if is_default(c.role)]

    def sentence(self) -> str:
        """The verdict in plain English."""
        return verdict_sentence(self)

    def to_dict(self) -> dict:
        return asdict(self) | {"sentence": self.sentence()}


def recommend(
    sweep: Sweep, *, impact: Impact | None = None, worth_db: float = WORTH_DB, head: bool = False,
    program: str = "sglang", site: str | None = None,
) -> Verdict:  # fmt: skip
    """The recipe for this data: of `sweep(activations)`, or of `Recorder.sweep()`.

    Args:
        impact:   what was measured of the model's output; where it, or a KL predicted in the sweep, speaks for another
                  recipe than the tensors' error, the verdict says so and does not say Use.
        worth_db: a difference of fewer dB is none for practical purposes; 0 or more.
        program, site: whose default it is compared with, by the doctor's names: "vllm", "dense"; or its first site's.
        head:     whether the output head is quantized, and so has a vote.
    Reading it: `.sentence()` says it all; `.comparisons` hold the numbers, in dB.
    Raises ValueError where no tensor of the sweep has a signal, TypeError for what is no Sweep.
    """
    if not isinstance(sweep, Sweep):
        raise TypeError(f"sweep is a {type(sweep).__name__}: give what nvfp4viz.sweep(activations) returns")
    if impact is not None and not isinstance(impact, Impact):
        raise TypeError(f"impact is a {type(impact).__name__}: give what nvfp4viz.impact(model, batches) returns")
    if not isinstance(worth_db, Real) or not worth_db >= 0:
        raise ValueError(f"worth_db={worth_db!r}: a difference in dB, 0 or more, that is worth having")
    names, found = list(sweep.recipes), voices(sweep, head)
    tensors = list(found.weights)
    if not tensors:
        raise ValueError("no tensor has a non-zero value: there is nothing to recommend a recipe for")
    level = {n: sum(w * -decibels(sweep.stats[t][n].token_nmse) for t, w in found.weights.items()) for n in names}
    shortest = min((sweep.stats[t][names[0]] for t in tensors), key=lambda s: s.tokens)
    order = sorted(names, key=lambda n: (bool(study_only(sweep.recipes[n])), -level[n]))  # what an engine runs, first
    best, compared = order[0], roles(sweep.recipes, order, defaults_at(program, site))
    return Verdict(
        recipe=best,
        sqnr_db=level[best],
        tokens=min(found.tokens(sweep)),
        most_tokens=max(found.tokens(sweep)),
        inputs=found.inputs,
        judged_by=RUNS_MISSING if shortest.runs_missing else judged_by(shortest.run_tokens),
        comparisons=tuple(_compare(sweep, found, best, other, role, worth_db) for role, other in compared),
        left_out=found.left_out,
        towers=found.towers,
        coverage=coverage_sentence(sweep.provenance.get("coverage")),
        outlook=outlook(sweep, found, best, impact),
        study=study_only(sweep.recipes[best]),
    )


def _compare(sweep: Sweep, found: Voices, best: str, other: str, role: str, worth_db: float) -> Comparison:
    a, b = ([sweep.stats[t][name] for t in found.weights] for name in (best, other))
    margin, interval = margin_interval(a, b, list(found.weights.values()), comparisons=len(sweep.recipes) - 1)
    each = {t: margin_interval([x], [y]) for t, x, y in zip(found.weights, a, b, strict=True)}
    margins, intervals = ({t: e[i] for t, e in each.items()} for i in (0, 1))
    return Comparison(other, role, margin, interval, margins, intervals, worth_db, (FEW, UNSAVED)[a[0].runs_missing])
