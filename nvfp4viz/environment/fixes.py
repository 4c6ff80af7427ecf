"""Findings with fixes that agree: after all of them the doctor has nothing against the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from .finding import SEVERITIES, Context, Finding, as_text
from .findings import of_use, of_values
from .programs import PROGRAMS, SITES, guess, sites
from .site_findings import of_sites

ROUNDS = 40


def check(
    env: Mapping[str, str] | None = None, program: str = "", arguments: Mapping[str, str] | None = None
) -> list[Finding]:
    """Findings about an environment (this process's where it is None), errors first.

    Args:
        program:   the one that gets it, "sglang", "vllm", "transformer-engine" or "miles"; all where it is empty.
        arguments: the flags of its command line that matter, as for `sites`.
    >>> [f.severity for f in check({"FLASHINFER_NVFP4_4OVER6": "true"})]
    ['error', 'warning']
    """
    env = dict(os.environ if env is None else env)
    return agreed(env, Context(guess(env, program), dict(arguments or {})))


def found_in(env: Mapping[str, str], context: Context) -> list[Finding]:
    """Findings, errors first, each with its own proposal; `agreed` makes the proposals fit together."""
    found = [f for part in (of_values, of_sites, of_use) for f in part(env, context)]
    if context.program in ("sglang", "vllm") and context.arguments.get("quantization"):
        run = [s for s in sites(env, context.program, context.arguments) if s.recipe or s.error]
        if not run:  # nothing here is NVFP4, so nothing comes out wrong
            found = [replace(f, severity="warning") if f.severity == "error" else f for f in found]
    return sorted(found, key=lambda f: SEVERITIES.index(f.severity))


def repaired(env: Mapping[str, str], context: Context) -> dict[str, str]:
    """The environment after the fixes, one after another, worst first, until none is left."""
    now, seen = dict(env), []
    for _ in range(ROUNDS):
        open_ = [f for f in found_in(now, context) if f.severity != "note" and f.changes]
        step = next((f for f in open_ if apply(now, f.changes) not in seen), None)
        if step is None:
            break
        seen.append(dict(now))
        now = apply(now, step.changes)
    return now


def apply(env: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """An environment with changes made."""
    return {n: v for n, v in {**env, **changes}.items() if v is not None}


def agreed(env: dict[str, str], context: Context) -> list[Finding]:
    """Findings whose fixes are taken from one repaired environment, so that no two undo each other."""
    found, end = found_in(env, context), None
    result: list[Finding] = []
    fixed: set[str] = set()
    for finding in found:
        if finding.severity == "note" or not finding.changes:
            result.append(finding)
            continue
        end = repaired(env, context) if end is None else end
        changes = {n: end.get(n) for n in finding.changes if end.get(n) != env.get(n)}
        fixed |= set(changes)
        words = finding.fix if changes == finding.changes else as_text(changes)
        result.append(replace(finding, changes=changes, fix=words))
    if end is None:
        return result
    result = [_priced(f, env, end, context) for f in result]
    more = {n: end.get(n) for n in {**env, **end} if end.get(n) != env.get(n) and n not in fixed}
    first = next((i for i, f in enumerate(result) if f.changes and f.severity != "note"), None)
    if more and first is not None:
        changes = {**result[first].changes, **more}
        result[first] = replace(result[first], changes=changes, fix=as_text(changes))
    return result


def _priced(finding: Finding, env: Mapping[str, str], end: Mapping[str, str], context: Context) -> Finding:
    """An error with the recipes before and after all fixes, where the program quantizes activations first."""
    if finding.severity != "error" or finding.costs or context.program not in ("", "sglang", "vllm"):
        return finding
    program = context.program or "sglang"
    before, after = (
        next((s.recipe for s in sites(e, program, context.arguments) if s.site == "fc1"), None) for e in (env, end)
    )
    if before is None or after is None or before == after:
        return finding
    where = f"at {PROGRAMS[program]}'s {SITES['fc1']}"
    return replace(finding, costs={before.name: f"as it is {where}", after.name: "after the fixes"})
