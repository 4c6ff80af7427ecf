"""Whether the engines of this machine return what FlashInfer's kernels returned, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch

from .dispatch import quantize
from .golden import Golden, golden_cases

EXACT = ("cpu", "reference")  # engines whose fast arithmetic does not depend on the GPU


def verify(rows: Iterable[dict], cases: Iterable[Golden] | None = None) -> Iterator[dict]:
    """One result an engine: blocks compared and different, in strict and in fast arithmetic, and where first."""
    cases = list(golden_cases() if cases is None else cases)
    for row in rows:
        result = {"engine": row["name"], "cases": 0, "refused": 0, "first": None, "error": None}
        result |= {math: {"blocks": 0, "differ": 0, "decoded": 0} for math in ("strict", "fast")}
        for case in cases:
            try:
                _compare(case, result)
            except ValueError:
                result["refused"] += 1
            except Exception as error:  # an engine that fails is a finding, and the others still run
                result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} in {case.name}"
                break
        wrong = result["strict"]["decoded"] + result["fast"]["differ"] * (row["name"] in EXACT)
        yield result | {"ok": not wrong and result["error"] is None and result["cases"] > 0}


def _compare(case: Golden, result: dict) -> None:
    q = quantize(case.x, case.recipe, engine=result["engine"], encode_scale=case.encode_scale)
    decode = q.decode_scale if case.decode is None else case.decode
    wanted = dataclasses.replace(
        q, codes=case.codes, block_scales=case.scales.view(torch.float8_e4m3fn), decode_scale=decode
    )
    differ = (q.codes != wanted.codes).unflatten(-1, (-1, 8)).any(-1)  # [M, K/16]
    differ |= q.block_scales.view(torch.uint8) != case.scales
    differ |= q.decode_scale.view(torch.int32) != decode.view(torch.int32)
    same = torch.isclose(q.dequantize(), wanted.dequantize(), rtol=0, atol=0, equal_nan=True)
    counts = result["fast" if case.recipe.fast_math else "strict"]
    counts["blocks"] += differ.numel()
    counts["differ"] += int(differ.sum())
    counts["decoded"] += int((~same).unflatten(-1, (-1, 16)).any(-1).sum())
    result["cases"] += 1
    if result["first"] is None and differ.any():
        token, block = differ.nonzero()[0].tolist()
        result["first"] = f"{case.name}, token {token}, block {block}"


def result_line(r: dict) -> str:
    """A result of `verify` in one line."""
    if r["error"]:
        return r["error"]
    refused = f" ({r['refused']:,} it does not take)" if r["refused"] else ""
    if r["first"] is None:
        blocks = r["strict"]["blocks"] + r["fast"]["blocks"]
        return f"bit-exact: {r['cases']:,} cases, {blocks:,} blocks{refused}"
    parts = [
        f"{math} {c['differ']:,} of {c['blocks']:,} blocks differ, {c['decoded']:,} in value"
        for math, c in ((math, r[math]) for math in ("strict", "fast"))
        if c["blocks"]
    ]
    return f"{'; '.join(parts)}{refused}; first in {r['first']}"
