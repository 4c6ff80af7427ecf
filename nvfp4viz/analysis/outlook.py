"""What is known of the model's output beside the tensors' error: its KL as predicted and as measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..nvfp4 import study_only
from ..shown import quantity
from .impact import Impact
from .sweep import Sweep
from .voices import EXPERT, TOO_FEW, Voices

CLEAR = 0.98  # a predicted KL below this share of another is less


@dataclass(frozen=True)
class Outlook:
    """KL of the output by recipe, nats a token; what was not asked for is empty."""

    predicted: dict[str, float] = field(default_factory=dict)  # recipe -> KL, the sum over inputs
    worst: tuple[str, ...] = ()  # inputs of the largest predicted effect under the named recipe
    measured: dict[str, float] = field(default_factory=dict)  # recipe of the sweep -> KL of the model's output
    better: tuple[str, ...] = ()  # recipes under which the measured KL is surely less than under the named one
    worse: tuple[str, ...] = ()  # ... surely more
    how: str = ""  # how it was measured, and what of it is resolved
    part: str = ""  # "1 of 2 inputs", where only so many have a prediction
    routed: bool = False  # predicted of a mixture of experts: what tokens lose by going to others is not in it

    def rival(self, recipe: str) -> str | None:
        """The recipe under which the output changes less than under the named one; None where there is none."""
        measured = self.measured_against(recipe)
        if measured:
            return measured
        open_ = [n for n in self.predicted if n not in self.worse]  # a measurement overrules a prediction
        least = min(open_, key=self.predicted.get, default=recipe)
        return least if self.predicted.get(least, 0) < CLEAR * self.predicted.get(recipe, 0) else None

    def measured_against(self, recipe: str) -> str | None:
        """The recipe of the least measured KL of those that are surely better than the named one."""
        return min(self.better, key=self.measured.get, default=None)

    def sentence(self, recipe: str) -> str:
        """All of it in plain English; empty where nothing is known."""
        text = []
        if self.predicted:
            more = "; more where tokens go to other experts, which a recording does not predict" if self.routed else ""
            of = f" by {self.part}" if self.part else ""
            text.append(f"Predicted KL of the output{of}: {_by_recipe(self.predicted, recipe)}{more}.")
            text.append(f"Worst layers by predicted effect: {shortened(list(self.worst))}.")
        if self.measured:
            text.append(f"Measured KL of the output: {_by_recipe(self.measured, recipe)}; {self.how}.")
        elif self.how:
            text.append(f"{self.how}.")
        return " ".join(text)


def outlook(sweep: Sweep, found: Voices, best: str, impact: Impact | None) -> Outlook:
    """What a sweep that was recorded with `sensitivity` predicts, and what `impact` measured of the same recipes."""
    predicted, worst, part = _predicted(sweep, found, best)
    known = Outlook(predicted, worst, part=part, routed=any(map(EXPERT.fullmatch, sweep.stats)))
    if impact is None:
        return known
    impact = impact.called_as(sweep.recipes)
    same = [n for n in impact.kl if sweep.recipes.get(n) == impact.recipes[n] and (n == best or _runs(sweep, n))]
    if best not in same:
        return replace(known, how=f"What {best} does to the output was not measured: impact has no such recipe")
    against = {n: impact.difference(best, n, "") for n in same if n != best}
    better = tuple(n for n, d in against.items() if d.finding and d.kl > 0)
    worse = tuple(n for n, d in against.items() if d.finding and d.kl < 0)
    parts = [f"{quantity(impact.tokens, 'token')} ({impact.judged_by})"]
    nearest = min(against, key=lambda n: abs(against[n].kl), default=None)
    shown = [n for n in dict.fromkeys((impact.default, nearest)) if n in against]
    parts += [f"{best} against {n} {against[n].percent()}: {against[n].enough()}" for n in shown]
    measured = {n: impact.kl[n] for n in same}
    return replace(known, measured=measured, better=better, worse=worse, how="; ".join(parts))


def _predicted(sweep: Sweep, found: Voices, best: str) -> tuple[dict[str, float], tuple[str, ...], str]:
    """KL by recipe, summed over the inputs that vote or have too few tokens to; the worst; and which part they are."""
    seen = [t for t in sweep.stats if t in found.weights or found.left_out.get(t) == TOO_FEW]
    known = [t for t in seen if sweep.stats[t][best].kl_tokens]
    if not known:
        return {}, (), ""
    names = [n for n in sweep.recipes if n == best or _runs(sweep, n)]
    kl = {name: sum(sweep.stats[t][name].predicted_kl for t in known) for name in names}
    part = f"{len(known):,} of {quantity(len(seen), 'input')}" if len(known) < len(seen) else ""
    return kl, tuple(sorted(known, key=lambda t: -sweep.stats[t][best].kl)[:10]), part


def _runs(sweep: Sweep, name: str) -> bool:
    """Whether an engine runs the recipe: what is for study only is advised by nobody."""
    return not study_only(sweep.recipes[name])


def _by_recipe(kl: dict[str, float], recipe: str) -> str:
    """Such as: 0.15 nats a token under 4/6-mse-256 (0.16 under standard)."""
    others = ", ".join(f"{v:.3g} under {n}" for n, v in kl.items() if n != recipe)
    return f"{kl[recipe]:.3g} nats a token under {recipe}" + (f" ({others})" if others else "")


def shortened(items: list[str]) -> str:
    """The first three of many, and how many more there are."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
