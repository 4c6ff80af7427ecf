"""A verdict a busy engineer can use: which recipe for this data, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ..nvfp4 import study_only
from .cards import verdict_html
from .coverage import coverage_sentence
from .defaults import STUDY, defaults_at, is_default, roles
from .impact import Impact
from .interval import decibels, judged_by, margin_interval
from .outlook import Outlook, outlook, shortened
from .sweep import Sweep
from .voices import Voices, voices

WORTH_DB = 0.05  # a smaller difference is none for practical purposes
RUNS_MISSING = "saved by a release that did not measure it: sweep again for intervals"
Interval = tuple[float, float] | None  # dB, 95 %; None where tokens are too few


@dataclass(frozen=True)
class Comparison:
    """The named recipe against another one, input by input. dB are positive where the named recipe is better."""

    over: str  # the other recipe's name
    role: str  # what it is: "SGLang's default", "the runner-up", ...
    margin_db: float  # mean over inputs of 10 log10(error of a typical token under the other / under the named)
    interval_db: Interval  # holds with 95 % for all of a verdict's comparisons together
    by_tensor_db: dict[str, float]  # the margin on each input, by its first tensor
    by_tensor_interval_db: dict[str, Interval]
    worth_db: float = WORTH_DB

    @property
    def decided(self) -> bool:
        """Whether the difference is worth having, and there: above the threshold, and the interval excludes zero."""
        there = self.interval_db is not None and (self.interval_db[0] > 0 or self.interval_db[1] < 0)
        return there and abs(self.margin_db) > self.worth_db

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
        sure = [t for t, i in self.by_tensor_interval_db.items() if i is not None and i[1] < 0]
        return sorted(sure, key=self.by_tensor_db.get)

    def numbers(self) -> str:
        """Such as: 0.12 dB, 95 % interval 0.11 to 0.13, surely better on 20 of 21 inputs."""
        sure = "too few tokens for an interval"
        if self.interval_db is not None:
            sure = "95 % interval {} to {}".format(*map(_db, self.interval_db))
        inputs = len(self.by_tensor_db)
        on = f", surely better on {self.wins} of {inputs} inputs" if inputs > 1 and self.interval_db else ""
        return f"{_db(self.margin_db)} dB, {sure}{on}"

    def sentence(self) -> str:
        """Such as: 2.7 % less error of a typical token than SGLang's default, standard (0.12 dB, ...)."""
        other = self.role + (" " if self.role.endswith(" as") else ", ") + self.over
        if self.equal:
            within = f"within {self.worth_db:g} dB"
            return f"no difference for practical purposes ({within}) from {other} ({self.numbers()})"
        if self.interval_db is not None and not self.decided:
            return f"no difference that these tokens can tell from {other} ({self.numbers()})"
        percent = 100 * (1 - 10 ** (-abs(self.margin_db) / 10))
        less = "less" if self.margin_db > 0 else "more"
        return f"{percent:.2g} % {less} error of a typical token than {other} ({self.numbers()})"


@dataclass(frozen=True, repr=False)
class Verdict:
    """The recipe under which a typical token has the least error, averaged in dB over inputs, and what it gains.

    A mean over inputs in dB weighs every input alike, and a mean over tokens of err_t / x_t every token; sums of
    squared errors would be decided by the largest tensor, and in it by one token. Intervals are over runs of tokens or
    over sequences, the same in all inputs and recipes: they speak for the rest of the same text, not for another one.
    """

    recipe: str  # name of the recipe for this data
    sqnr_db: float  # its SQNR of a typical token, mean over inputs, each capped at +-120
    tokens: int  # of the input that has fewest
    inputs: int  # that vote; tensors of the same input are one, experts of a layer too
    judged_by: str  # "8 runs of 64 tokens": what the intervals are over
    comparisons: tuple[Comparison, ...]  # over the defaults, the runner-up and all others
    best_by_tensor: dict[str, str]  # each input's own best recipe
    left_out: dict[str, str] = field(default_factory=dict)  # tensor -> why it has no vote
    towers: dict[str, tuple[int, float]] = field(default_factory=dict)  # tensor -> token of a fifth of its signal
    coverage: str = ""  # of a recorded model: "192 of 288 matrices, 97 % of multiply-adds"

    outlook: Outlook = Outlook()  # what is predicted and measured of the model's output
    study: str = ""  # why no engine runs the named recipe; only where none runs any that was measured

    def __repr__(self) -> str:
        compared = ", ".join(f"{c.over} {c.margin_db:+.3f} dB" for c in self.comparisons[:4])
        data = f"{_count(self.inputs, 'input')} of {_count(self.tokens, 'token')}"
        return f"Verdict({self.recipe} on {data}{'; over ' if compared else ''}{compared}; .sentence() says it all)"

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

    @property
    def _to_study(self) -> list[Comparison]:
        """Over recipes that no engine runs, which no headline names."""
        return [c for c in self.comparisons if c.role == STUDY]

    def sentence(self) -> str:
        """The verdict in plain English."""
        data = f"{_count(self.inputs, 'input')} of {_count(self.tokens, 'token')}"
        if not self.comparisons:
            return (
                f"Only {self.recipe} was measured: a typical token has an SQNR of {self.sqnr_db:.2f} dB on {data}; "
                "nothing to compare it with."
            )
        said = self.defaults or [c for c in self.comparisons if c.role == "the runner-up"] or list(self.comparisons[:1])
        parts = [f"{self._start(said)}: on {data}, {' and '.join(c.sentence() for c in said)}."]
        known = self.outlook.sentence(self.recipe)
        parts += [self._others(said), *map(_better_on, said), self._ahead(), known, self._remarks()]
        return " ".join(p for p in parts if p)

    def _start(self, said: list[Comparison]) -> str:
        if self.study:
            return f"No engine runs a recipe measured here; of those to study, {self.recipe} has the least error"
        if all(c.role == STUDY for c in said):
            return f"Only {self.recipe} was measured of the recipes that an engine runs"
        if self.contradicted and self.outlook.measured_against(self.recipe):
            return f"Tensor error favours {self.recipe}, the measured output {self.contradicted}"
        if self.contradicted:
            favours = f"tensor error favours {self.recipe}, the predicted KL {self.contradicted}"
            return f"Measure before you choose; {favours}"
        if all(c.interval_db is None for c in said):
            return f"Too few tokens to decide; {self.recipe} is ahead on these"
        if any(c.decided for c in said):
            return f"Use {self.recipe}"
        names = " and ".join([self.recipe, *(c.over for c in said)])
        if all(c.equal for c in said):
            return f"Keep what you have; {names} are equal for practical purposes (within {said[0].worth_db:g} dB)"
        return f"Keep what you have; these tokens cannot tell {names} apart"

    def _others(self, said: list[Comparison]) -> str:
        """The family of the named recipe: those that do as well, and those that might."""
        told = {s.over for s in [*said, *self._to_study]}
        rest = [c for c in self.comparisons if c.over not in told and c.interval_db is not None]
        equal, open_ = [c.over for c in rest if c.equal], [c.over for c in rest if not c.equal and not c.decided]
        worth = self.comparisons[0].worth_db
        text = [f"{_listed(equal)} {_do(equal)} as well for practical purposes (within {worth:g} dB)."] if equal else []
        text += [f"Whether {_listed(open_)} {_do(open_)} as well, these tokens cannot tell."] if open_ else []
        return " ".join(text)

    def _ahead(self) -> str:
        """Recipes that no engine runs, where they have less error."""
        ahead = [f"{c.over} ({_db(-c.margin_db)} dB)" for c in self._to_study if c.margin_db < 0 and not self.study]
        return f"Less error, but no engine runs it: {shortened(ahead)}." if ahead else ""

    def _remarks(self) -> str:
        text = [f"{self.recipe}: {self.study}."] if self.study else []
        if self.judged_by == RUNS_MISSING:
            text.append("Errors are of whole tensors, that of a typical token was " + RUNS_MISSING + ".")
        few = [t for t, why in self.left_out.items() if "too few" in why]
        if few:
            text.append(f"Without a vote for too few tokens: {shortened(few)}.")
        if self.towers:
            shown = [f"{t} (token {at}, {100 * s:.0f} %)" for t, (at, s) in self.towers.items()]
            text.append(f"One token holds over a fifth of the signal of {shortened(shown)}.")
        if self.coverage:
            text.append(f"Of the model, {self.coverage} were seen.")
        return " ".join(text)

    def to_dict(self) -> dict:
        return asdict(self) | {"sentence": self.sentence()}


def recommend(
    sweep: Sweep, *, impact: Impact | None = None, worth_db: float = WORTH_DB, head: bool = False,
    program: str = "sglang", site: str = "fc1",
) -> Verdict:  # fmt: skip
    """The recipe for this data: of `sweep(activations)`, or of `Recorder.sweep()`.

    Args:
        impact:   what was measured of the model's output; where it, or a KL predicted in the sweep, speaks for another
                  recipe than the tensors' error, the verdict says so and does not say Use.
        worth_db: a difference of fewer dB is none for practical purposes.
        program, site: whose default it is compared with, as `nvfp4viz doctor` calls them: "vllm", "dense".
        head:     whether the output head is quantized, and so has a vote.
    Reading it: `.sentence()` says it all; `.comparisons` hold the numbers, in dB.
    Raises ValueError where no tensor of the sweep has a signal, TypeError for what is no Sweep.
    """
    if not isinstance(sweep, Sweep):
        raise TypeError(f"sweep is a {type(sweep).__name__}: give what nvfp4viz.sweep(activations) returns")
    if impact is not None and not isinstance(impact, Impact):
        raise TypeError(f"impact is a {type(impact).__name__}: give what nvfp4viz.impact(model, batches) returns")
    names, found = list(sweep.recipes), voices(sweep, head)
    tensors = list(found.weights)
    if not tensors:
        raise ValueError("no tensor has a non-zero value: there is nothing to recommend a recipe for")
    level = {n: _mean(found, {t: -decibels(sweep.stats[t][n].token_nmse) for t in tensors}) for n in names}
    shortest = min((sweep.stats[t][names[0]] for t in tensors), key=lambda s: s.tokens)
    runs = [n for n in names if not study_only(sweep.recipes[n])]
    order = sorted(names, key=lambda n: (n not in runs, -level[n]))  # best first of what an engine runs, then the rest
    best, compared = order[0], roles(sweep.recipes, order, defaults_at(program, site))
    return Verdict(
        recipe=best,
        sqnr_db=level[best],
        tokens=shortest.tokens,
        inputs=found.inputs,
        judged_by=RUNS_MISSING if shortest.runs_missing else judged_by(shortest.run_tokens),
        comparisons=tuple(_compare(sweep, found, best, other, role, worth_db) for role, other in compared),
        best_by_tensor={t: min(runs or names, key=lambda n: sweep.stats[t][n].token_nmse) for t in tensors},
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
    return Comparison(other, role, margin, interval, margins, intervals, worth_db)


def _mean(found: Voices, values: dict[str, float]) -> float:
    return sum(w * values[t] for t, w in found.weights.items())


def _better_on(c: Comparison) -> str:
    shown = [f"{t} ({_db(-c.by_tensor_db[t])} dB)" for t in c.disagree]
    return f"{c.over} is surely better on {shortened(shown)}." if shown else ""


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _do(names: list[str]) -> str:
    return "do" if len(names) > 1 else "does"


def _db(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
