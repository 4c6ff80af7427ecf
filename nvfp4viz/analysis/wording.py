"""A verdict in plain English: what to use, by how much it is better, and what these tokens cannot tell."""

from __future__ import annotations

from ..shown import fixed, quantity, short
from .defaults import STUDY, called
from .outlook import shortened
from .voices import EXPERT, TOO_FEW, UNMEASURED

FEW, UNSAVED = "too few tokens", "no interval was saved"  # why a comparison has none
RUNS_MISSING = "saved by a release that did not measure it: sweep again for intervals"


def comparison_numbers(c) -> str:
    """Such as: 0.12 dB, 95 % interval 0.11 to 0.13, surely better on 20 of 21 inputs."""
    sure = "too few tokens for an interval" if c.lacks == FEW else c.lacks
    if c.interval_db is not None:
        sure = "95 % interval {} to {}".format(*map(_db, c.interval_db))
    every = len(c.by_tensor_db)
    on = f", surely better on {c.wins} of {every} {_kinds(c.by_tensor_db)}" if every > 1 and c.interval_db else ""
    return f"{_db(c.margin_db)} dB, {sure}{on}"


def _kinds(tensors) -> str:
    """What a count of tensors counts: experts are told apart from inputs, of which all of a layer are one."""
    experts = sum(EXPERT.fullmatch(t) is not None for t in tensors)
    if not experts:
        return "inputs"
    return "experts" if experts == len(tensors) else "inputs and experts"


def comparison_sentence(c) -> str:
    """Such as: 2.7 % less error of a typical token than SGLang's default, standard (0.12 dB, ...)."""
    other = called(c.role, c.over)
    if c.equal:
        within = f"within {c.worth_db:g} dB"
        return f"no difference for practical purposes ({within}) from {other} ({c.numbers()})"
    if c.interval_db is not None and not c.differs:
        return f"no difference that these tokens can tell from {other} ({c.numbers()})"
    less = "less" if c.margin_db > 0 else "more"
    percent = 100 * abs(1 - 10 ** (-c.margin_db / 10))  # of the other's error
    of = "of a typical token" if c.lacks == FEW else "of whole tensors"
    worth = f", perhaps not worth having (within {c.worth_db:g} dB)" if c.differs and not c.decided else ""
    return f"{short(percent, 2)} % {less} error {of} than {other} ({c.numbers()}){worth}"


def data_of(verdict) -> str:
    """Such as: 21 inputs of 512 tokens, or: 7 inputs of 4 to 16 tokens."""
    fewest = f"{verdict.tokens:,} to " * (verdict.tokens < verdict.most_tokens)
    return f"{quantity(verdict.inputs, 'input')} of {fewest}{quantity(verdict.most_tokens, 'token')}"


def verdict_sentence(verdict) -> str:
    """All of a verdict: what to use, over what, what does as well, and what else is known."""
    data = data_of(verdict)
    if not verdict.comparisons:
        return (
            f"Only {verdict.recipe} was measured: a typical token has an SQNR of {verdict.sqnr_db:.2f} dB on {data}; "
            "nothing to compare it with."
        )
    named = headlined(verdict)
    parts = [f"{_start(verdict, named)}: on {data}, {' and '.join(c.sentence() for c in named)}."]
    parts += [_others(verdict, named), *map(_better_on, (c for c in named if c.role != STUDY)), _ahead(verdict)]
    parts += [verdict.outlook.sentence(verdict.recipe), _remarks(verdict)]
    return " ".join(p for p in parts if p)


def headlined(verdict) -> list:
    """The comparisons that decide a verdict: with the defaults, else with the runner-up."""
    second = [c for c in verdict.comparisons if c.role == "the runner-up"]
    return verdict.defaults or second or list(verdict.comparisons[:1])


def is_decided(verdict) -> bool:
    """Whether the named recipe is better than one of those."""
    return any(c.decided for c in headlined(verdict))


def _start(verdict, named: list) -> str:
    if verdict.study:
        return f"No engine runs a recipe measured here; of those to study, {verdict.recipe} has the least error"
    if all(c.role == STUDY for c in named):
        return f"Only {verdict.recipe} was measured of the recipes that an engine runs"
    if verdict.contradicted and verdict.outlook.measured_against(verdict.recipe):
        return f"Tensor error favours {verdict.recipe}, the measured output {verdict.contradicted}"
    if verdict.contradicted:
        favours = f"tensor error favours {verdict.recipe}, the predicted KL {verdict.contradicted}"
        return f"Measure before you choose; {favours}"
    if all(c.interval_db is None for c in named):
        why = "Too few tokens to decide" if named[0].lacks == FEW else "Undecided, since no interval was saved"
        return f"{why}; {verdict.recipe} is ahead on these"
    if is_decided(verdict):
        return f"Use {verdict.recipe}"
    names = " and ".join([verdict.recipe, *(c.over for c in named)])
    if all(c.equal for c in named):
        return f"Keep what you have; {names} are equal for practical purposes (within {named[0].worth_db:g} dB)"
    if any(c.differs for c in named):
        than = " and ".join(c.over for c in named)
        by = f"by more than {named[0].worth_db:g} dB"
        return f"Keep what you have; whether {verdict.recipe} is better than {than} {by}, these tokens cannot tell"
    return f"Keep what you have; these tokens cannot tell {names} apart"


def _others(verdict, named: list) -> str:
    """The family of the named recipe: those that do as well, and those that might."""
    headlined = {c.over for c in named}
    rest = [c for c in verdict.comparisons if c.over not in headlined and c.role != STUDY and c.interval_db is not None]
    equal, open_ = [c.over for c in rest if c.equal], [c.over for c in rest if not c.equal and not c.decided]
    worth = verdict.comparisons[0].worth_db
    text = [f"{_listed(equal)} {_do(equal)} as well for practical purposes (within {worth:g} dB)."] if equal else []
    text += [f"Whether {_listed(open_)} {_do(open_)} as well, these tokens cannot tell."] if open_ else []
    return " ".join(text)


def _better_on(c) -> str:
    shown = [f"{t} ({_db(-c.by_tensor_db[t])} dB)" for t in c.disagree]
    return f"{c.over} is surely better on {shortened(shown)}." if shown else ""


def _ahead(verdict) -> str:
    """Recipes that no engine runs, where they have less error; no headline names them."""
    ahead = [c for c in verdict.comparisons if c.role == STUDY and c.margin_db < 0 and not verdict.study]
    shown = [f"{c.over} ({_db(-c.margin_db)} dB)" for c in ahead]
    return f"Less error, but no engine runs it: {shortened(shown)}." if shown else ""


def _remarks(verdict) -> str:
    text = [f"{verdict.recipe}: {verdict.study}."] if verdict.study else []
    if verdict.judged_by == RUNS_MISSING:
        text.append("Errors are of whole tensors, that of a typical token was " + RUNS_MISSING + ".")
    few = [t for t, why in verdict.left_out.items() if why == TOO_FEW]
    if few:
        text.append(f"Without a vote for too few tokens: {shortened(few)}.")
    old = [t for t, why in verdict.left_out.items() if why == UNMEASURED]
    if old:
        text.append(f"Without a vote, since a release that measured no single tokens saved them: {shortened(old)}.")
    if verdict.towers:
        shown = [f"{t} (token {at}, {100 * s:.0f} %)" for t, (at, s) in verdict.towers.items()]
        text.append(f"One token holds over a fifth of the signal of {shortened(shown)}.")
    if verdict.coverage:
        text.append(f"Of the model, {verdict.coverage} were seen.")
    return " ".join(text)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _do(names: list[str]) -> str:
    return "do" if len(names) > 1 else "does"


def _db(value: float) -> str:
    return fixed(value, 3 if abs(value) < 0.1 else 2)
