"""NVFP4 and 4over6 on NVIDIA GPUs of compute capability 8.0 or more: the reference's arithmetic in fused kernels.

The kernels are compiled when a kind of recipe and input first runs, in about a second, and kept for later processes.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...nvfp4 import BLOCK, Quantized, Recipe, Tokens, check_finite, tensor_amax, tensor_scales
from ...stats import BINS, LEVELS, RUNS, Stats
from . import nvrtc
from .job import ANALYZE_CTAS, RUN_COLUMNS, Fold, aligned, at, ctas, fold, job, launch, pointer, runs

MIN_CAPABILITY = (8, 0)
_HISTOGRAMS = (256, 256, BINS, BINS)  # scale byte and choice, pairs of codes, block NMSE, token NMSE
_COUNTERS = ("nonzero_elements", "nonzero_blocks", "n_four_saturated", "n_four_saturated_chosen", "n_scale_saturated",
             "n_element_clipped", "n_element_flushed", "not_finite")  # fmt: skip
_SUMS, _MAXIMA = ("err_abs", "x_hat_sq", "x_dot_x_hat"), ("max_error", "x_amax")
_TOTALS = sum(_HISTOGRAMS) + len(_COUNTERS + _SUMS + _MAXIMA)  # float64 numbers, in which counts are exact


def why_not() -> str | None:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        found = nvrtc.capability(torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
        nvrtc.nvrtc()
    except (OSError, RuntimeError) as error:
        return str(error)
    return None if found >= MIN_CAPABILITY else _too_old(found)


def refuses(x: Tensor, recipe: Recipe) -> str | None:
    if x.is_cuda and nvrtc.capability(x.device.index) < MIN_CAPABILITY:
        return _too_old(nvrtc.capability(x.device.index))
    return None


def _too_old(found: tuple[int, int]) -> str:
    return f"the GPU has compute capability {found[0]}.{found[1]}, these kernels need 8.0"


def device(x: Tensor) -> torch.device:
    return x.device if x.is_cuda else torch.device("cuda", torch.cuda.current_device())


def quantize(x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
    """Quantize tokens x [M, K] on a GPU; ValueError where x is not finite, which costs one synchronization."""
    not_finite = torch.zeros(1, dtype=torch.int32, device=x.device)
    quantized = launch_quantize(x, recipe, encode_scale, not_finite)
    if not_finite.item():
        check_finite(x)
    return quantized


def launch_quantize(
    x: Tensor, recipe: Recipe, encode_scale: Tensor | None = None, not_finite: Tensor | None = None
) -> Quantized:
    """`quantize` without a synchronization, for hooks: NaN and Inf only set the int32 `not_finite`, where given."""
    m, k = x.shape
    codes = torch.empty(m, k // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(m, k // BLOCK, dtype=torch.float8_e4m3fn, device=x.device)
    encode, decode = _scales(x, recipe, encode_scale)
    if m:
        x = aligned(x)
        outputs = {"codes": codes.data_ptr(), "scales": scales.data_ptr(), "not_finite": pointer(not_finite)}
        told = job(x, recipe, encode=encode.data_ptr(), decode=decode.data_ptr(), **outputs)
        launch("quantize", ctas(x), told, recipe, x)
    return Quantized(codes, scales, decode, recipe, "cuda", encode)


def _scales(x: Tensor, recipe: Recipe, encode_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Encode and decode scale: float32 [M, 1] for the kernel to fill per token, [1, 1] with their values per tensor."""
    if recipe.per_token:
        both = torch.empty(2, x.shape[0], 1, dtype=torch.float32, device=x.device)
        return both[0], both[1]
    if encode_scale is None:
        return tensor_scales(tensor_amax(x), recipe)
    return encode_scale, torch.div(torch.ones_like(encode_scale), encode_scale)


def analyze(
    x: Tensor, recipes: Sequence[Recipe], encode_scales, first_token: int = 0, sequences: tuple[int, int] | None = None
) -> list[Stats]:
    """Statistics of x [M, K] under each recipe, in one pass a recipe, without storing codes."""
    (m, k), n = x.shape, len(recipes)
    if not m or not n:
        return [Stats(recipe, "cuda", k) for recipe in recipes]
    stats = _unpack(launch_analyze(x, recipes, encode_scales, first_token, sequences), recipes, m, k)
    if stats is None:
        check_finite(x)
    return stats


def fetch(values: Tensor, recipes: Sequence[Recipe], m: int, k: int) -> list[Stats]:
    """Stats of `launch_analyze`'s numbers, or of several calls' that `merge` put together: m tokens of k features."""
    stats = _unpack(values, recipes, m, k)
    if stats is None:
        raise ValueError("x held NaN or Inf in at least one call: FlashInfer's result for them is undefined")
    return stats


def merge(a: Tensor, b: Tensor, n: int) -> Tensor:
    """What `launch_analyze` under n recipes would return for the tokens of two calls, without a synchronization."""
    both, last = a + b, slice(_TOTALS - len(_MAXIMA), _TOTALS)
    largest = [values[: n * _TOTALS].view(n, _TOTALS)[:, last] for values in (a, b)]
    both[: n * _TOTALS].view(n, _TOTALS)[:, last] = torch.maximum(*largest)
    top_a, top_b = a[-2:], b[-2:]  # the largest token's x_sq and index, the first of equal ones
    earlier = (top_b[0] == top_a[0]) & (top_b[1] < top_a[1])
    both[-2:] = torch.where((top_b[0] > top_a[0]) | earlier, top_b, top_a)
    return both


def _unpack(values: Tensor, recipes: Sequence[Recipe], m: int, k: int) -> list[Stats] | None:
    """Stats by recipe from `launch_analyze`'s numbers; None where x is not finite."""
    values, n = values.cpu().numpy(), len(recipes)
    totals, by_token = values[: n * _TOTALS].reshape(n, _TOTALS), values[n * _TOTALS :].reshape(n + 1, RUN_COLUMNS)
    rows = zip(recipes, totals, by_token[:n], strict=True)
    stats = [_stats(recipe, row, own, by_token[n], m, k) for recipe, row, own in rows]
    return None if any(s is None for s in stats) else stats


def launch_analyze(
    x: Tensor, recipes: Sequence[Recipe], encode_scales, first_token: int = 0, sequences: tuple[int, int] | None = None
) -> Tensor:
    """All that `analyze` needs, without a synchronization; x of one token at least.

    Returns: float64, flat: for each recipe its _TOTALS numbers, then for each recipe, and once for all, RUN_COLUMNS
             numbers by token, see `runs` in sums.cu.
    """
    m, n, x = x.shape[0], len(recipes), aligned(x)
    grid = min(ctas(x), ANALYZE_CTAS * nvrtc.multiprocessors(x.device.index))
    totals = torch.empty(n, grid, _TOTALS, dtype=torch.float64, device=x.device)
    tokens = torch.empty(2 * n, m, dtype=torch.float64, device=x.device)  # err_sq and x_sq of each token
    out = torch.empty(n * _TOTALS + (n + 1) * RUN_COLUMNS, dtype=torch.float64, device=x.device)
    amax, amax_known = torch.empty(m, dtype=torch.float32, device=x.device), False
    for i, (recipe, given) in enumerate(zip(recipes, encode_scales, strict=True)):
        told = job(x, recipe, amax=amax.data_ptr(), amax_known=amax_known, totals=at(totals, i * grid * _TOTALS))
        told.err_sq, told.x_sq = at(tokens, 2 * i * m), at(tokens, (2 * i + 1) * m)
        if not recipe.per_token:
            encode, decode = _scales(x, recipe, given)
            told.encode, told.decode = encode.data_ptr(), decode.data_ptr()
        launch("analyze", grid, told, recipe, x)
        amax_known |= recipe.per_token
    fold(Fold(totals, at(out, 0), len(_MAXIMA)))
    runs(tokens, first_token, sequences, at(out, n * _TOTALS))
    return out


def _stats(
    recipe: Recipe, totals: np.ndarray, by_token: np.ndarray, tokens: np.ndarray, m: int, k: int
) -> Stats | None:
    """Stats from `launch_analyze`'s numbers; None where x is not finite."""
    *histograms, rest = np.split(totals, np.cumsum(_HISTOGRAMS))
    fields = dict(zip(_COUNTERS + _SUMS + _MAXIMA, rest.tolist(), strict=True))
    fields |= {name: int(fields[name]) for name in _COUNTERS}
    if fields.pop("not_finite"):
        return None
    if np.isnan(fields["err_abs"]):
        fields["max_error"] = np.nan  # which a maximum drops
    scales, pairs, block_nmse, token_nmse = (histogram.astype(np.int64) for histogram in histograms)
    scales, pairs = scales.reshape(128, 2)[:127], pairs.reshape(16, 16)  # [byte, choice], [odd column, even column]
    blocks = m * k // BLOCK
    zero_blocks = blocks - fields["nonzero_blocks"]  # all of byte 0
    return Stats(
        recipe, "cuda", k, tokens=m, elements=m * k, blocks=blocks,
        n_four=int(scales[:, 1].sum()),
        n_scale_subnormal=int(scales[1:8].sum()),
        n_scale_zero=int(scales[0].sum()) - zero_blocks,
        err_sq=float(by_token[-2]), x_sq=float(by_token[-1]),
        top_token_x_sq=float(tokens[-2]), top_token=int(tokens[-1]),
        scale_histogram=scales.copy(), code_histogram=pairs.sum(0) + pairs.sum(1),
        token_histogram=token_nmse, block_histogram=block_nmse,
        run_tokens=tokens[:-2].astype(np.int64).reshape(LEVELS + 1, RUNS),
        run_nmse=by_token[:-2].reshape(LEVELS + 1, RUNS).copy(),
        **fields,
    )  # fmt: skip


@dataclass(frozen=True)
class Launched:
    """Statistics of calls that a GPU still works on: float64 numbers by number of features, with the tokens behind."""

    recipes: Sequence[Recipe]
    values: dict  # features -> (what `launch_analyze` returned, tokens)

    def __add__(self, other: Launched) -> Launched:
        both = dict(self.values)
        for k, (values, tokens) in other.values.items():
            if k in both:
                values, tokens = merge(both[k][0], values, len(self.recipes)), tokens + both[k][1]
            both[k] = values, tokens
        return Launched(self.recipes, both)

    def copy(self) -> Launched:
        return self  # sums are new tensors

    def fetch(self) -> list[Stats]:
        rows = [fetch(values, self.recipes, tokens, k) for k, (values, tokens) in self.values.items()]
        return [functools.reduce(operator.add, row) for row in zip(*rows, strict=True)]


class Cuda:
    """The engine "cuda"."""

    name = "cuda"
    why_not, refuses, device = staticmethod(why_not), staticmethod(refuses), staticmethod(device)

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        return quantize(tokens.x, recipe, encode_scale)

    def analyze(self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence) -> list[Stats]:
        return analyze(tokens.x, recipes, encode_scales, tokens.first, tokens.sequences)

    def launch(
        self, tokens: Tokens, recipes: Sequence[Recipe], encode_scales: Sequence, into: Launched | None = None
    ) -> Launched:
        """Statistics of one token at least, without a synchronization."""
        values = launch_analyze(tokens.x, recipes, encode_scales, tokens.first, tokens.sequences)
        found = Launched(recipes, {tokens.shape[1]: (values, tokens.shape[0])})
        return found if into is None else into + found


ENGINE = Cuda()
