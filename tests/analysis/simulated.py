"""Simulated tokens with known truth: their errors go together in runs, as passages of a text do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nvfp4viz import RECIPES
from nvfp4viz.stats import LEVELS, RUNS, SHORTEST, Stats

DB = 10 / math.log(10)


@dataclass(frozen=True)
class Text:
    """What is drawn: natural logarithms of each token's error, as standard deviations."""

    tokens: int
    run: int  # tokens that go together; the first and last run are cut anywhere
    inputs: int = 1
    recipes: int = 5
    passage: float = 0.5  # of a run under all recipes
    own: float = 0.3  # of a run under one recipe, half of its variance the same in all inputs
    token: float = 0.15  # of a token under one recipe
    gain_db: float = 0.0  # by which the last recipe is better

    @property
    def names(self) -> list[str]:
        return list(RECIPES)[: self.recipes]

    def errors(self, rng: np.random.Generator) -> np.ndarray:
        """float32 [inputs, recipes, tokens]: err_t / x_t of each token."""
        start, count = rng.integers(self.run), -(-self.tokens // self.run) + 1
        size, normal = (self.inputs, self.recipes, count), lambda s: rng.standard_normal(s, np.float32)
        alike = normal((1, *size[1:]))
        own = (alike + normal(size)) / np.float32(math.sqrt(2)) if self.inputs > 1 else alike
        passages = self.passage * normal((self.inputs, 1, count)) + self.own * own
        logs = np.repeat(passages, self.run, 2)[..., start : start + self.tokens]
        logs = logs + np.float32(self.token) * normal(logs.shape)
        logs[:, -1] -= self.gain_db / DB
        return 0.01 * np.exp(logs)

    def draws(self, n: int, seed: int = 0) -> Iterator[list[dict[str, Stats]]]:
        """n times the statistics of each input, by recipe."""
        rng = np.random.default_rng((seed, self.tokens, self.run, self.inputs, self.recipes))
        for _ in range(n):
            sums, tokens = by_run(self.errors(rng)), by_run(np.ones(self.tokens)).astype(np.int64)
            yield [{name: self._stats(name, tokens, one) for name, one in zip(self.names, row, strict=True)}
                   for row in sums]  # fmt: skip

    def _stats(self, name: str, tokens: np.ndarray, sums: np.ndarray) -> Stats:
        n = self.tokens
        return Stats(RECIPES[name], "made", 64, tokens=n, elements=64 * n, nonzero_elements=64 * n, x_amax=1.0,
                     x_sq=float(n), err_sq=float(sums[0].sum()), run_tokens=tokens, run_nmse=sums)  # fmt: skip


def by_run(values: np.ndarray) -> np.ndarray:
    """float64 [..., LEVELS + 1, RUNS]: what `run_sums` makes of tokens [..., T], all there, T a multiple of 4."""
    lead = values.shape[:-1]
    found = np.zeros((*lead, LEVELS + 1, RUNS))
    runs = values.reshape(*lead, -1, 1 << SHORTEST).sum(-1, dtype=np.float64)
    for level in range(LEVELS):
        padded = np.concatenate([runs, np.zeros((*lead, -runs.shape[-1] % RUNS))], -1)
        found[..., level, :] = padded.reshape(*lead, -1, RUNS).sum(-2)
        runs = padded.reshape(*lead, -1, 2).sum(-1)
    return found
