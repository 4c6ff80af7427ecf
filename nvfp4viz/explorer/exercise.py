"""Exercises of notebooks: an answer is checked before it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real


def check_answer(answer, solution: Callable, *, tolerance: float = 0.02, show: bool = False) -> None:
    """Print whether an answer is right; the true one only where it is, or where `show` asks for it.

    Args:
        answer:    a number, a text, a set, or a sequence of those; None: not tried yet.
        solution:  returns the true answer; called where an answer is given or asked for, so that it is never stale.
        tolerance: of numbers, relative.

    >>> check_answer(0.4, lambda: 0.5)
    Not yet: too small.
    >>> check_answer(0.5, lambda: 0.5)
    Right: 0.5
    """
    if answer is None and not show:
        print("No answer yet: put yours in place of None, and run this cell; show=True tells.")
        return
    truth = solution()
    if show:
        print(f"The answer: {_written(truth)}")
    else:
        wrong = _difference(answer, truth, tolerance)
        print(f"Not yet: {wrong}." if wrong else f"Right: {_written(truth)}")


def _difference(answer, truth, tolerance: float) -> str:
    """What is wrong with an answer, "" where nothing is."""
    if isinstance(truth, (list, tuple)):
        if not isinstance(answer, (list, tuple)) or len(answer) != len(truth):
            return f"it has {len(truth)} parts"
        parts = (_difference(a, t, tolerance) for a, t in zip(answer, truth, strict=True))
        return next((f"part {i}: {wrong}" for i, wrong in enumerate(parts, 1) if wrong), "")
    if isinstance(truth, (set, frozenset)):
        given = {_plain(a) for a in answer} if isinstance(answer, (set, frozenset, list, tuple)) else {_plain(answer)}
        return "" if given == {_plain(t) for t in truth} else "some are missing, or too many"
    if isinstance(truth, Real) and not isinstance(truth, bool):
        if not isinstance(answer, Real) or isinstance(answer, bool):
            return "it is a number"
        if math.isclose(answer, truth, rel_tol=tolerance):
            return ""
        return "too small" if answer < truth else "too large"
    return "" if _plain(answer) == _plain(truth) else "it is another"


def _plain(value):
    return value.strip().casefold() if isinstance(value, str) else value


def _written(truth) -> str:
    if isinstance(truth, (list, tuple)):
        return ", ".join(map(_written, truth))
    if isinstance(truth, (set, frozenset)):
        return ", ".join(sorted(map(_written, truth)))
    return f"{truth:.4g}" if isinstance(truth, Real) and not isinstance(truth, bool) else str(truth)
