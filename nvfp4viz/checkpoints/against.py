"""A checkpoint's weights beside those they were made from: their error, and what each recipe would have left."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..engine import analyze_all
from ..nvfp4 import E2M1_MAX, Quantized, Recipe
from ..shown import printable
from ..stats import Stats, measure
from .audit import Checkpoint
from .findings import COSTLY_DB, Finding
from .folder import open_files
from .headers import Entry
from .layout import Matrix, fused
from .scan import read_rows, row_chunks

STORED = "checkpoint"  # what stands in the file, beside the recipes
BEST = "best scales"  # of all E4M3 block scales: the least error with the checkpoint's scale of the matrix
RECIPES = {  # of weights: one scale a matrix, as checkpoints store them
    r.name.removesuffix("-tensor"): r
    for r in (
        Recipe(448, per_token=False),
        Recipe(448, four_over_six=True, err_mode="MSE", per_token=False),
        Recipe(256, four_over_six=True, err_mode="MSE", per_token=False),
    )
}
ELEMENTS = 1 << 22  # at a time
FAR_DB = 6.0  # below what quantizing leaves: half of the error's amplitude is something else


@dataclass(frozen=True)
class Comparison:
    """Weights of a checkpoint against their original."""

    stats: dict[str, dict[str, Stats]]  # module -> "checkpoint" or a recipe's name -> Stats
    best: dict[str, float]  # module -> NMSE with the best of all E4M3 scales; without numba there is none
    unmatched: dict[str, str]  # module -> why it was not compared
    sources: list[dict] = field(default_factory=list)  # the original's files

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Name -> recipe, the checkpoint's own as its codes tell it first."""
        first = next(iter(self.stats.values()), {})
        return {name: s.recipe for name, s in first.items()}

    def sqnr_db(self, module: str) -> dict[str, float]:
        """Signal to noise of one matrix: as stored, under each recipe, and with the best of all E4M3 scales."""
        row = {name: s.sqnr_db for name, s in self.stats[module].items()}
        return row | ({BEST: _db(self.best[module])} if module in self.best else {})

    def pooled_db(self, modules: Iterable[str], recipe: str) -> float:
        """Signal to noise of several matrices together under one recipe, as stored or at best."""
        rows = [(self.stats[n], self.best.get(n, 0.0)) for n in modules]
        signal = sum(s[STORED].x_sq for s, _ in rows)
        noise = sum(best * s[STORED].x_sq if recipe == BEST else s[recipe].err_sq for s, best in rows)
        return _db(noise / signal if signal else 0.0)

    def table(self):
        """A pandas DataFrame with a row a matrix: SQNR in dB as stored, under each recipe and at best."""
        import pandas as pd

        return pd.DataFrame([{"module": name} | self.sqnr_db(name) for name in self.stats])

    def to_dict(self) -> dict:
        rows = [{"module": n} | {k: _finite(v) for k, v in self.sqnr_db(n).items()} for n in self.stats]
        found = [f.to_dict() for f in self.findings]
        return {"sqnr_db": rows, "unmatched": self.unmatched, "sources": self.sources, "findings": found}

    @property
    def findings(self) -> list[Finding]:
        """Matrices that decode further from the original than quantizing it leaves."""
        found = []
        for name in self.stats:
            db = self.sqnr_db(name)
            least = min(v for k, v in db.items() if k not in (STORED, BEST))
            if least - db[STORED] >= COSTLY_DB:
                found.append(_far(name, db[STORED], least))
        return found

    def __repr__(self) -> str:
        left = f", {len(self.unmatched)} not compared" if self.unmatched else ""
        return f"Comparison({len(self.stats)} matrices{left}; .table() has SQNR in dB)"


def against(
    checkpoint: Checkpoint,
    original: str | os.PathLike,
    *,
    recipes: dict[str, Recipe] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Compare a checkpoint's weights with the folder or file that they were quantized from.

    Fused matrices are quantized with one scale, as engines need it. Rows are read and quantized some at a time.
    Raises ValueError where the original cannot be read or has none of the weights.
    """
    recipes = RECIPES if recipes is None else recipes
    path = Path(original).expanduser()
    entries, files = open_files(path)
    sources = {n: _source(m, entries) for n, m in checkpoint.matrices.items()}
    stats, best, unmatched = {}, {}, {n: why for n, why in sources.items() if isinstance(why, str)}
    amax = _amax(checkpoint, {n: s for n, s in sources.items() if n not in unmatched})
    for done, (name, m) in enumerate(checkpoint.matrices.items()):
        if progress:
            progress(done, len(sources), name)
        if name in unmatched:
            continue
        try:
            stats[name], best_sq = _compare(checkpoint, m, sources[name], amax[name], recipes)
        except ValueError as error:
            unmatched[name] = str(error)
            continue
        if best_sq is not None:
            total = stats[name][STORED].x_sq
            best[name] = best_sq / total if total else 0.0
    if not stats:
        why = printable(next(iter(unmatched.values()))[:600])
        raise ValueError(f"no weight of {str(checkpoint.path)!r} can be compared with {str(path)!r}: {why}")
    return Comparison(stats, best, unmatched, files)


def _compare(checkpoint: Checkpoint, m: Matrix, source: Source, amax: float, recipes: dict[str, Recipe]):
    """Statistics by recipe of one matrix, and the least squared error that block scales can reach."""
    pre = None if m.pre_quant is None else m.pre_quant.read().float().flatten()
    full = [r.e4m3_max * E2M1_MAX / amax if amax else 1.0 for r in recipes.values()]
    parts, best_sq = [], 0.0
    for first, stop in row_chunks(m, ELEMENTS):
        x = source.read(first, stop)
        x = x if pre is None else x.float() / pre
        q = stored_rows(checkpoint, m, first, stop)
        stored = measure(x, q, first_token=first)
        rest = analyze_all(x, list(recipes.values()), encode_scales=full, first_token=first)
        parts.append([stored, *rest])
        best_sq = _best(x, float(q.decode_scale), best_sq)
    return dict(zip((STORED, *recipes), (reduce(add, s) for s in zip(*parts, strict=True)), strict=True)), best_sq


def stored_rows(checkpoint: Checkpoint, m: Matrix, first: int, stop: int) -> Quantized:
    """Rows of a matrix as they stand in the file; ValueError where their scale decodes nothing."""
    decode = checkpoint.scales[m.name]["weight"]
    decode = 1.0 if decode is None else decode
    if not math.isfinite(decode) or decode <= 0:
        raise ValueError(f"its scale is {decode}: nothing can be decoded")
    codes, scales = read_rows(m, first, stop)
    return Quantized(codes, scales, torch.tensor([[decode]]), checkpoint.recipe, "checkpoint")


def _best(x: Tensor, decode: float, so_far: float | None) -> float | None:
    """Squared error of these rows with the best E4M3 scale of each block, added up; None without numba."""
    if so_far is None:
        return None
    try:
        from ..engine import block_errors  # imports numba
    except ImportError:
        return None
    prepared = block_errors.prepare(x)
    encode = np.full(x.shape[0], 1.0 / decode)
    return so_far + float(block_errors.every_scale_errors(prepared, encode, prepared.energy).sum())


@dataclass(frozen=True)
class Source:
    """Rows of an original weight."""

    entry: Entry
    start: int  # row of the entry that is the matrix's first
    count: int

    def read(self, first: int, stop: int) -> Tensor:
        x = self.entry.read(self.start + first, self.start + stop)
        return x.float() if x.dtype == torch.float64 else x


def _source(m: Matrix, entries: dict[str, Entry]) -> Source | str:
    """Where the original of a matrix stands, or why there is none: by its name, or in a stack of experts."""
    named = entries.get(m.name + ".weight") or entries.get(m.tensor)
    n, rows = len(m.rows), m.rows.start
    if named is not None and named.shape == (n, m.features):
        return Source(named, 0, n)
    if named is not None and len(named.shape) == 3 and named.shape[-1] == m.features and named.rows == m.codes.rows:
        return Source(named, rows, n)
    above, expert = m.parent.rpartition(".")[0], m.expert  # model.layers.0.mlp.experts
    for leaf, (part, parts) in _STACKED.get(m.leaf, {}).items():
        stack = entries.get(f"{above}.{leaf}") or entries.get(f"{above}.{leaf}.weight")
        fits = stack is not None and stack.shape[1:] == (n * parts, m.features)
        if fits and expert is not None and expert < stack.shape[0]:
            return Source(stack, (expert * parts + part) * n, n)
    if named is None:
        return f"the original has no {m.name}.weight"
    return f"the original is {list(named.shape)}, the checkpoint's [{n}, {m.features}]"


_STACKED = {  # transformers >= 5 keeps gate and up in one stack of experts
    "gate_proj": {"gate_up_proj": (0, 2)}, "up_proj": {"gate_up_proj": (1, 2), "up_proj": (0, 1)},
    "w1": {"gate_up_proj": (0, 2)}, "w3": {"gate_up_proj": (1, 2)},
    "down_proj": {"down_proj": (0, 1)}, "w2": {"down_proj": (0, 1)},
}  # fmt: skip


def _amax(checkpoint: Checkpoint, sources: dict[str, Source]) -> dict[str, float]:
    """The largest magnitude of each original, of a fused group that of all its matrices."""
    found = {}
    for name, source in sources.items():
        m = checkpoint.matrices[name]
        chunks = (source.read(first, stop) for first, stop in row_chunks(m, ELEMENTS))
        pre = 1.0 if m.pre_quant is None else m.pre_quant.read().float().flatten()
        found[name] = max((float((x.float() / pre).abs().max()) for x in chunks if x.numel()), default=0.0)
    for group in fused(checkpoint.matrices):
        together = [m.name for m in group if m.name in found]
        for name in together:
            found[name] = max(found[n] for n in together)
    return found


def _far(name: str, stored: float, least: float) -> Finding:
    return Finding(
        "error" if least - stored >= FAR_DB else "warning", "far-from-original", name, f"{stored:.4g} dB",
        f"quantizing the original leaves {least:.4g} dB", "it computes with the weights as they are stored",
        "is it the same model and revision? else export the weight again",
    )  # fmt: skip


def _db(nmse: float) -> float:
    return -10 * math.log10(nmse) if nmse else math.inf


def _finite(number: float):
    return number if math.isfinite(number) else str(number)
