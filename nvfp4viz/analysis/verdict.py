"""A verdict a busy engineer can use: which recipe for this data, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from ..nvfp4 import Recipe
from .sweep import Sweep

CAP_DB = 120.0  # a tensor that one recipe stores exactly has this SQNR, not infinity: FP32 itself ends near 140
MIN_TOKENS = 16  # redrawing fewer tokens says nothing about others
DEFAULTS = {
    "FlashInfer's 4over6 default": Recipe(448, four_over_six=True, err_mode="MAE"),
    "SGLang's default without 4over6": Recipe(448),
}


@dataclass(frozen=True)
class Comparison:
    """The named recipe against another one, tensor by tensor. dB are positive where the named recipe is better."""

    over: str  # the other recipe's name
    role: str  # what it is: "FlashInfer's 4over6 default", "the runner-up", ...
    margin_db: float  # mean over tensors of 10 log10(NMSE of the other / NMSE of the named)
    interval_db: tuple[float, float] | None  # 95 % of 200 redraws of tokens; None where tokens are too few
    by_tensor_db: dict[str, float]  # the margin on each tensor

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval_db is not None and (self.interval_db[0] > 0 or self.interval_db[1] < 0)

    @property
    def wins(self) -> int:
        """Tensors on which the named recipe is better."""
        return sum(db > 0 for db in self.by_tensor_db.values())

    @property
    def disagree(self) -> list[str]:
        """Tensors on which the other is better, the clearest first."""
        return sorted((t for t, db in self.by_tensor_db.items() if db < 0), key=self.by_tensor_db.get)

    def sentence(self) -> str:
        """Such as: 2.7 % less squared error than SGLang's default, standard (0.12 dB, ...)."""
        if self.interval_db is None:
            sure = f"fewer than {MIN_TOKENS} tokens, too few for an interval"
        else:
            sure = "95 % interval over tokens {} to {}".format(*map(_db, self.interval_db))
            sure += "" if self.decided else ", which covers zero"
        percent = 100 * (1 - 10 ** (-abs(self.margin_db) / 10))
        what = f"{percent:.2g} % {'less' if self.margin_db > 0 else 'more'} squared error than"
        if self.interval_db is not None and not self.decided:
            what = "no difference worth having from"
        on = f", better on {self.wins} of {len(self.by_tensor_db)} tensors" if len(self.by_tensor_db) > 1 else ""
        return f"{what} {self.role}, {self.over} ({_db(self.margin_db)} dB, {sure}{on})"


@dataclass(frozen=True)
class Verdict:
    """The recipe of the highest SQNR, averaged in dB over tensors, and what it gains over the defaults.

    A mean over tensors in dB weighs every tensor alike; summed squared errors would be decided by the tensor of the
    largest activations. The interval is over tokens, drawn anew together in all tensors and recipes; it says nothing
    about other tensors or other text, and takes the named recipe as given although the same data named it.
    """

    recipe: str  # name of the recipe for this data
    sqnr_db: float  # its mean SQNR over tensors, each capped at +-120
    tokens: int  # of the tensor that has fewest
    tensors: int  # those with a signal
    comparisons: tuple[Comparison, ...]  # over the defaults and the runner-up, as far as in the sweep
    best_by_tensor: dict[str, str]  # each tensor's own best recipe
    best_share: float  # share of the redraws of tokens in which the named recipe is the best

    def over(self, role: str) -> Comparison | None:
        """The comparison whose role starts so, such as "FlashInfer" or "the runner-up"; None where there is none."""
        return next((c for c in self.comparisons if c.role.startswith(role)), None)

    def sentence(self) -> str:
        """The verdict in plain English."""
        data = f"{_count(self.tensors, 'tensor')} of {_count(self.tokens, 'token')}"
        defaults = [c for c in self.comparisons if c.role in DEFAULTS]
        runner_up = self.over("the runner-up")
        if not self.comparisons:
            return f"Only {self.recipe} was measured: SQNR {self.sqnr_db:.2f} dB on {data}; nothing to compare it with."
        said = defaults or [runner_up]
        start = "Use {}" if any(c.decided for c in said) else "Keep what you have; {} is ahead by a hair"
        if all(c.interval_db is None for c in said):
            start = "Too few tokens to decide; {} is ahead on these"
        text = f"{start.format(self.recipe)}: on {data}, {' and '.join(c.sentence() for c in said)}."
        if defaults and runner_up and runner_up.over not in [c.over for c in defaults] and not runner_up.decided:
            text += f" {runner_up.over} does as well ({_db(-runner_up.margin_db)} dB)."
        for c in said:
            if c.disagree:
                shown = ", ".join(f"{t} ({_db(-c.by_tensor_db[t])} dB)" for t in c.disagree[:3])
                more = f" and {len(c.disagree) - 3} more" if len(c.disagree) > 3 else ""
                text += f" {c.over} is better on {shown}{more}."
        return text

    def to_dict(self) -> dict:
        return asdict(self) | {"sentence": self.sentence()}


def recommend(sweep: Sweep) -> Verdict:
    """The recipe for this data: of `sweep(activations)`, or of `Recorder.sweep()`.

    Reading it: `.sentence()` says it all; `.comparisons` hold the numbers, in dB.
    Raises ValueError where no tensor of the sweep has a signal, TypeError for what is no Sweep.
    """
    if not isinstance(sweep, Sweep):
        raise TypeError(f"sweep is a {type(sweep).__name__}: give what nvfp4viz.sweep(activations) returns")
    names = list(sweep.recipes)
    tensors = [t for t, row in sweep.stats.items() if all(0 < row[n].x_sq < np.inf for n in names)]
    if not tensors:
        raise ValueError("no tensor has a non-zero value: there is nothing to recommend a recipe for")
    nmse = np.array([[sweep.stats[t][n].nmse for n in names] for t in tensors])  # [T, R]
    level = _sqnr_db(nmse)
    draws = np.array([[sweep.stats[t][n].bootstrap_nmse for n in names] for t in tensors])  # [T, R, 200]
    drawn = np.array([sweep.stats[t][names[0]].bootstrap_x_sq > 0 for t in tensors])  # [T, 200]
    redrawn = _mean_drawn(_sqnr_db(draws), drawn)  # [R, redraws]
    order = np.argsort(-level.mean(0), kind="stable")  # best first, ties in the order of recipes
    best = int(order[0])
    tokens = min(sweep.stats[t][names[best]].tokens for t in tensors)

    def compare(other: int, role: str) -> Comparison:
        redraws = redrawn[best] - redrawn[other]
        enough = tokens >= MIN_TOKENS and len(redraws)
        interval = tuple(np.quantile(redraws, [0.025, 0.975]).tolist()) if enough else None
        margins = level[:, best] - level[:, other]  # [T]
        by_tensor = dict(zip(tensors, margins.tolist(), strict=True))
        return Comparison(names[other], role, float(margins.mean()), interval, by_tensor)

    found = {role: _find(sweep.recipes, names[best], default) for role, default in DEFAULTS.items()}
    roles = {role: names.index(name) for role, name in found.items() if name not in (None, names[best])}
    if len(order) > 1:
        roles["the runner-up"] = int(order[1])
    return Verdict(
        recipe=names[best],
        sqnr_db=float(level[:, best].mean()),
        tokens=tokens,
        tensors=len(tensors),
        comparisons=tuple(compare(other, role) for role, other in roles.items()),
        best_by_tensor={t: names[int(i)] for t, i in zip(tensors, level.argmax(1), strict=True)},
        best_share=float((redrawn.argmax(0) == best).mean()) if redrawn.shape[1] else 0.0,
    )


def _find(recipes: dict[str, Recipe], best: str, default: Recipe) -> str | None:
    """The name of a default: with the best recipe's granularity and arithmetic if that was measured, else plain."""
    like = replace(default, per_token=recipes[best].per_token, fast_math=recipes[best].fast_math)
    return next((name for wanted in (like, default) for name, r in recipes.items() if r == wanted), None)


def _sqnr_db(nmse: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.clip(-10 * np.log10(nmse), -CAP_DB, CAP_DB)


def _mean_drawn(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Mean over the tensors of which a redraw drew a token: [T, R, 200] to [R, redraws that drew any]."""
    any_drawn = drawn.any(0)
    weights = drawn[:, None, any_drawn]
    return (values[..., any_drawn] * weights).sum(0) / weights.sum(0)


def _db(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
