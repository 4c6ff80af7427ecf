"""Findings about block scales, shapes, files, and where configuration and tensors disagree."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..nvfp4 import BLOCK, E4M3_MAX
from .findings import Evidence, Finding
from .headers import Entry
from .layout import Matrix
from .scan import FOUR, Scan

CROWDED = {False: 0.02, True: 0.10}  # share of blocks at 448 that is too much; 4over6 saturates some on purpose
SUBNORMAL = 0.001  # share of blocks with fewer than 4 significant bits in their scale that is told
_LINEAR = re.compile(r"(^|.*_)proj(_with_mqa)?$|^w[123]$|^fc[12]$|^linear_fc[12]$|^lm_head$|^out_proj$")
_ROUTERS = ("gate", "router", "shared_expert_gate")


def check_structure(seen: Evidence) -> list[Finding]:
    """Findings about block scales, shapes, orphans and configuration."""
    found = [f for m in seen.layout.matrices.values() for f in _blocks(m, seen.scans[m.name])]
    found += [_unscaled(m) for m in _without_scales(seen)]
    found += [_misfit(name, why) for name, why in seen.layout.misfits.items()]
    found += _counts(seen)
    found += [_orphan(name) for name in seen.layout.orphans]
    found += _config(seen)
    return found


def _blocks(m: Matrix, scan: Scan) -> Iterator[Finding]:
    """Of one matrix's block scales."""
    if m.scales is None:
        return
    name, total = f"{m.name}: block scales", f"of {scan.blocks:,} blocks"
    export = "export the weight again"
    if scan.nan:
        yield Finding("error", "block-scale-nan", name, f"{scan.nan:,} {total}", "block scales are NaN",
                      "the outputs of those rows are NaN", export)  # fmt: skip
    if scan.negative:
        yield Finding("error", "block-scale-negative", name, f"{scan.negative:,} {total}",
                      "block scales are negative: these bytes are no scales of NVFP4",
                      "kernels take them as unsigned or flip the block's sign", f"{export}; is it E4M3?")  # fmt: skip
    n448 = int(scan.histogram[126])
    if scan.at_448 > CROWDED[scan.four_share > FOUR] and n448 >= 4:
        yield Finding("warning", "block-scale-448", name, f"{n448:,} {total} ({scan.at_448:.1%})",
                      f"block scales stand at {E4M3_MAX:g}, E4M3's largest: their values were clipped",
                      "the clipped values decode too small, outliers first",
                      "make the scale of the matrix from its own amax, amax / 2688")  # fmt: skip
    if scan.subnormal > SUBNORMAL:
        yield Finding("warning", "block-scale-subnormal", name, f"{scan.subnormal:.1%} {total}",
                      "block scales are E4M3 subnormals, with fewer than 4 significant bits",
                      "those blocks decode with a coarse scale, up to 33 % off",
                      "a smaller scale of the matrix; one outlier may set it, see --against")  # fmt: skip
    if scan.lost:
        yield Finding("error", "block-scale-zero", name, f"{scan.lost:,} {total}",
                      "block scales are 0 and their codes are not", "those blocks decode to 0", export)  # fmt: skip


def _without_scales(seen: Evidence) -> Iterator[Matrix]:
    """The first matrix of each packed tensor whose block scales are not there, rather than of another shape."""
    done = set()
    for m in seen.layout.matrices.values():
        if m.scales is None and m.tensor not in seen.layout.misfits and m.tensor not in done:
            done.add(m.tensor)
            yield m


def _unscaled(m: Matrix) -> Finding:
    return Finding("error", "block-scales-missing", m.tensor, "", "packed codes without block scales",
                   "SGLang and vLLM keep memory that was never written", "export the weight again")  # fmt: skip


def _misfit(name: str, why: str) -> Finding:
    return Finding("error", "shape", name, "", why, "loading fails, or scales are read for other blocks",
                   f"pad K to a multiple of {BLOCK}, store one scale a block in linear order")  # fmt: skip


def _counts(seen: Evidence) -> Iterator[Finding]:
    """Scales that are neither one, nor one or two an expert."""
    done = set()
    for m in seen.layout.matrices.values():
        experts = m.codes.shape[0] if len(m.codes.shape) == 3 else 1
        for scalar in (m.weight, m.input):
            if scalar and scalar.name not in done and scalar.entry.numel not in (1, experts, 2 * experts):
                done.add(scalar.name)
                yield Finding("error", "shape", scalar.name, str(list(scalar.entry.shape)),
                              f"{scalar.entry.numel} scales for {experts} matrices", "loading fails, or takes one",
                              "one FP32 scale a matrix")  # fmt: skip


def _orphan(name: str) -> Finding:
    return Finding("warning", "orphan-scale", name, "", "a scale of a weight that is not there, or is not packed",
                   "loading fails with an unexpected key, or passes over it",
                   "remove it, or store the weight that it belongs to")  # fmt: skip


def _config(seen: Evidence) -> Iterator[Finding]:
    """Where the configuration says one thing and the tensors another."""
    config, layout = seen.config, seen.layout
    if not config.found:
        return
    wrong = [s for s in config.group_sizes if s != BLOCK]
    if wrong:
        yield Finding("error", "config-disagrees", "group_size", str(wrong[0]), f"NVFP4 has blocks of {BLOCK}",
                      "loading fails, or scales are read for other blocks", f"write {BLOCK}")  # fmt: skip
    divides = {s.divides for m in layout.matrices.values() for s in (m.weight, m.input) if s}
    theirs = {"compressed-tensors": True, "modelopt": False}.get(config.method)
    if theirs is not None and divides and divides != {theirs}:
        yield Finding("error", "config-disagrees", "quant_method", config.method,
                      "tensors have the other convention's names", "loading fails for names that are not there",
                      "convert names and scales together: one is the other's inverse")  # fmt: skip
    for m in layout.matrices.values():
        pattern = config.ignores(m.name)
        if pattern is not None:
            yield Finding("error", "ignored-but-quantized", m.name, pattern, "config leaves it out, the file packs it",
                          "bytes are loaded as a weight of half as many features: loading fails",
                          "take it off the ignore list, or store it unquantized")  # fmt: skip
    for name, entry in layout.plain.items():
        yield from _unlisted(seen, name, entry)
    for pattern in sorted(config.unread):
        yield Finding("note", "pattern-unread", "ignore", pattern[:80], "no regular expression, or too costly a one",
                      "engines may take very long over it", "write module names, or simple patterns")  # fmt: skip


def _unlisted(seen: Evidence, name: str, entry: Entry) -> Iterator[Finding]:
    """A linear layer in high precision that the ignore list does not name."""
    module, _, last = name.rpartition(".")
    leaf = module.rpartition(".")[2]
    linear = entry.dtype in ("BF16", "F16", "F32") and len(entry.shape) == 2 and entry.shape[-1] % BLOCK == 0
    if last != "weight" or not linear or seen.config.quantized or seen.config.ignores(module):
        return
    if _LINEAR.match(leaf):
        head = leaf == "lm_head"
        yield Finding("warning" if head else "error", "neither-ignored-nor-quantized", module, entry.dtype,
                      "the config quantizes it, the file does not",
                      "the engine makes room for packed codes and finds none: loading fails",
                      "add it to the ignore list")  # fmt: skip
    elif leaf in _ROUTERS:
        yield Finding("note", "neither-ignored-nor-quantized", module, entry.dtype,
                      "a router in high precision that the ignore list does not name",
                      "most engines know that routers are not quantized", "add it to the ignore list")  # fmt: skip
