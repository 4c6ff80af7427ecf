"""Statistics that lie on a GPU: what `finish` adds to, and how they become Stats."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Recipe
from ...stats import LEVELS, RUNS, Stats
from .launching import aligned, analysis
from .plan import COLUMN, COUNTERS, HISTOGRAMS, OWN_COUNTS, RECIPE_COUNTS, RECIPE_SUMS, SUMS, Plan, plans

MOST = 1 << 32  # elements of a launch, whose counts are 32-bit integers
_NO_SEQUENCES = 0, 0


class Launched:
    """Statistics of calls that a GPU still works on, by segment; rows with NaN or Inf are counted apart.

    By number of features and device: float64 [segments, plan.state] of each plan.
    """

    left_out = 0

    def __init__(self, recipes: Sequence[Recipe], segments: int = 1, first: int = 0):
        self.recipes, self.segments, self._next = tuple(recipes), segments, first
        self.plans = plans(self.recipes)
        self.states: dict[tuple[int, torch.device], list[Tensor]] = {}
        self._runs: dict[tuple, list[tuple]] = {}  # by dtype, too

    def add(
        self, x: Tensor, encode_scales: Sequence, first: int, sequences=None, offsets: Tensor | None = None
    ) -> None:
        """Add one call's rows x [M, K], M at least 1, without waiting.

        Args:
            encode_scales: of each recipe, encode and decode scale float32 [1, 1], None per token.
            first:         index of the first token; -1: each segment goes on where it is.
            offsets:       int32 [segments + 1] on x's device.
        """
        x, (m, k), at = aligned(x), x.shape, sequences or _NO_SEQUENCES
        kind = x.dtype, k, x.device
        runs = self._runs.get(kind)
        if runs is None:
            runs = self._runs[kind] = self._begun(*kind)
        step = m if m * k < MOST or offsets is not None else MOST // k
        for run, scaled, state in runs:
            scales = [(i, encode_scales[which]) for i, which in scaled]
            if step == m:
                run(x, state, (first, *at), offsets, scales)
                continue
            for start in range(0, m, step):
                index = first if first < 0 else first + start
                run(x[start : start + step], state, (index, at[0] + start, at[1]), offsets, scales)

    def _begun(self, dtype: torch.dtype, k: int, device: torch.device) -> list[tuple]:
        """What runs each plan on such tensors, its per-tensor recipes by place there and in all, and its state."""
        if (k, device) not in self.states:
            with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
                self.states[k, device] = [
                    torch.zeros(self.segments, plan.state, dtype=torch.float64, device=device) for plan, _ in self.plans
                ]
            for state in self.states[k, device] if self._next else ():
                state[:, -1] = self._next
        recipes = self.recipes
        return [
            (analysis(plan, dtype, k, device).run, [p for p in enumerate(which) if not recipes[p[1]].per_token], state)
            for (plan, which), state in zip(self.plans, self.states[k, device], strict=True)
        ]

    def seek(self, token: int) -> None:
        """The next row of every segment is row `token` of its stream."""
        self._next = token
        for states in self.states.values():
            for state in states:
                state[:, -1] = token

    def __add__(self, other: Launched) -> Launched:
        both = self.copy()
        for key, states in other.states.items():
            mine = both.states.get(key)
            if mine is None:
                both.states[key] = [s.clone() for s in states]
                continue
            for (plan, _), a, b in zip(self.plans, mine, states, strict=True):
                _merge(plan, a, b)
        return both

    def copy(self) -> Launched:
        other = Launched.__new__(Launched)  # layers that share inputs ask at each call
        other.__dict__.update(self.__dict__)
        other.states = {key: [s.clone() for s in states] for key, states in self.states.items()}
        other._runs = {}
        return other

    def fetch_all(self) -> list[tuple[list[Stats], int]]:
        """Of each segment, one Stats a recipe, and how many rows NaN or Inf kept out of it; waits."""
        parts = [_unpack(self.plans, states, k, len(self.recipes)) for (k, _), states in self.states.items()]
        if not parts:
            return [([Stats(r, "cuda", 0) for r in self.recipes], 0)] * self.segments
        return [_added(segment) for segment in zip(*parts, strict=True)]

    def fetch(self) -> list[Stats]:
        stats, left_out = self.fetch_all()[0]
        self.left_out = left_out
        if left_out and not all(r.per_token for r in self.recipes):
            raise ValueError("x held NaN or Inf in at least one call: FlashInfer's result for them is undefined")
        return stats


def _added(parts) -> tuple[list[Stats], int]:
    """Statistics of one segment under several numbers of features, and their rows left out, together."""
    stats = zip(*(stats for stats, _ in parts), strict=True)
    return [functools.reduce(operator.add, row) for row in stats], sum(left_out for _, left_out in parts)


def _merge(plan: Plan, a: Tensor, b: Tensor) -> None:
    """Add the state b of later or other calls to a."""
    n, sums = len(plan.recipes), plan.columns + len(plan.recipes) * RECIPE_SUMS
    top = plan.columns + plan.values + n * COLUMN + COLUMN - 2
    maxima = torch.maximum(a[:, sums : plan.columns + plan.values], b[:, sums : plan.columns + plan.values])
    (of_a, at_a), (of_b, at_b) = a[:, top : top + 2].clone().T, b[:, top : top + 2].T
    takes_b = (of_b > of_a) | ((of_b == of_a) & (at_b > 0) & (at_b < at_a))
    index = torch.maximum(a[:, -1], b[:, -1])
    a += b
    a[:, sums : plan.columns + plan.values], a[:, -1] = maxima, index
    a[:, top], a[:, top + 1] = torch.where(takes_b, of_b, of_a), torch.where(takes_b, at_b, at_a)


def _unpack(parts, states: Sequence[Tensor], k: int, n: int) -> list[tuple[list[Stats], int]]:
    """Of each segment, Stats by recipe in the caller's order and the rows left out."""
    arrays = [state.cpu().numpy() for state in states]
    found = []
    for segment in zip(*arrays, strict=True):
        stats, left_out = [None] * n, 0
        for (plan, which), numbers in zip(parts, segment, strict=True):
            mine, left_out = _stats(plan, numbers, k)
            for i, s in zip(which, mine, strict=True):
                stats[i] = s
        found.append((stats, left_out))
    return found


def _stats(plan: Plan, numbers: np.ndarray, k: int) -> tuple[list[Stats], int]:
    """Stats by recipe of one segment, and the rows left out."""
    n = len(plan.recipes)
    counts, sums, by_token, (rows, _) = np.split(numbers, np.cumsum((plan.columns, plan.values, (n + 1) * COLUMN)))
    nonzero, nonzero_blocks, left_out = map(int, counts[-OWN_COUNTS:])
    m, tokens = int(rows) - left_out, by_token.reshape(n + 1, COLUMN)
    place = {"tokens": m, "elements": m * k, "blocks": m * k // BLOCK}
    place |= {"nonzero_elements": nonzero, "nonzero_blocks": nonzero_blocks, "x_amax": float(sums[-1])}
    place |= {"top_token_x_sq": float(tokens[n, -2]), "top_token": int(tokens[n, -1]) - 1}
    place["run_tokens"] = tokens[n, :-2].astype(np.int64).reshape(LEVELS + 1, RUNS)
    return [
        _recipe_stats(
            recipe, k, place, counts[i * RECIPE_COUNTS : (i + 1) * RECIPE_COUNTS],
            sums[i * RECIPE_SUMS : (i + 1) * RECIPE_SUMS], float(sums[n * RECIPE_SUMS + i]), tokens[i],
        )
        for i, recipe in enumerate(plan.recipes)
    ], left_out  # fmt: skip


def _recipe_stats(recipe: Recipe, k: int, place: dict, counts, sums, max_error: float, by_token) -> Stats:
    *histograms, counters = np.split(counts.astype(np.int64), np.cumsum(HISTOGRAMS))
    scales, pairs, block_nmse, token_nmse = histograms
    scales, pairs = scales.reshape(128, 2)[:127], pairs.reshape(16, 16)  # [byte, choice], [odd column, even column]
    fields = dict(zip(SUMS, sums.tolist(), strict=True)) | dict(zip(COUNTERS, counters.tolist(), strict=True))
    zero_blocks = place["blocks"] - place["nonzero_blocks"]  # all of byte 0
    return Stats(
        recipe, "cuda", k, **{name: v.copy() if isinstance(v, np.ndarray) else v for name, v in place.items()},
        n_four=int(scales[:, 1].sum()),
        n_scale_subnormal=int(scales[1:8].sum()),
        n_scale_zero=int(scales[0].sum()) - zero_blocks,
        max_error=np.nan if np.isnan(fields["err_abs"]) else max_error,  # a maximum drops NaN
        err_sq=float(by_token[-2]), x_sq=float(by_token[-1]),
        scale_histogram=scales.copy(), code_histogram=pairs.sum(0) + pairs.sum(1),
        token_histogram=token_nmse.copy(), block_histogram=block_nmse.copy(),
        run_nmse=by_token[:-2].reshape(LEVELS + 1, RUNS).copy(),
        **fields,
    )  # fmt: skip
