"""How much of a model a recording saw, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping


def coverage_sentence(coverage: Mapping | None) -> str:
    """Of `Sweep.provenance["coverage"]`: "192 of 288 matrices, 97 % of multiply-adds"; "" where there is none."""
    if not isinstance(coverage, Mapping) or not isinstance(coverage.get("share"), (int, float)):
        return ""
    share = 100 * coverage["share"]
    percent = (
        min(99, max(1, round(share))) if 0 < share < 100 else round(share)
    )  # all and none are said of all and none
    return f"{coverage['observed_matrices']} of {coverage['matrices']} matrices, {percent} % of multiply-adds"
