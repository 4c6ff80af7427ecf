"""Statistics of one tensor under one recipe: exact counts and float64 sums, so that parts add up to the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..nvfp4 import (
    BLOCK,
    E2M1_MAX,
    E4M3_MAX,
    MARGIN,
    Quantized,
    Recipe,
    Tokens,
    block_candidates,
    blocks,
    e4m3_encode,
    flush,
    output_scale,
    token_amax,
    token_scales,
    unpack,
)
from ..shown import percent
from .additive import Additive, Share, largest, of_largest, plain, rate, summed, summed_array
from .runs import LEVELS, RUNS, run_sums, top_of

BINS = 256  # of NMSE, eight an octave, from 2^-24 to 2^8
MANTISSA_SHIFT = 49  # leaves exponent and three bits of a float64's mantissa


@dataclass(frozen=True, eq=False, repr=False)
class Stats(Additive):
    """What quantizing one tensor by one recipe did. `a + b` is the statistics of both tokens together."""

    _noun = "statistics"
    recipe: Recipe  # the one that it was quantized by
    engine: str  # the engine that quantized
    features: int  # K; 0 where tensors of different K were added
    tokens: int = summed()  # M
    elements: int = summed()  # M * K
    nonzero_elements: int = summed()  # elements of x that are not 0
    blocks: int = summed()  # M * K/16
    nonzero_blocks: int = summed()  # blocks with an element that is not 0
    n_four: int = summed()  # blocks that chose 4: their byte is e4m3(h4) and not e4m3(h6)
    n_four_saturated: int = summed()  # blocks whose 4 candidate exceeds 448
    n_four_saturated_chosen: int = summed()  # of these, blocks that chose 4 all the same
    n_scale_saturated: int = summed()  # blocks whose chosen candidate exceeds 448 before rounding
    n_scale_subnormal: int = summed()  # blocks of byte 1..7
    n_scale_zero: int = summed()  # non-zero blocks of byte 0
    n_element_clipped: int = summed()  # elements scaled above 6, in blocks of a scale that is not 0
    n_element_flushed: int = summed()  # non-zero elements decoded to 0
    err_sq: float = summed(0.0)  # sum of (x_hat - x)^2, in the unit of x, squared
    err_abs: float = summed(0.0)  # sum of |x_hat - x|
    x_sq: float = summed(0.0)  # sum of x^2
    x_hat_sq: float = summed(0.0)  # sum of x_hat^2
    x_dot_x_hat: float = summed(0.0)  # sum of x * x_hat
    max_error: float = largest()  # largest |x_hat - x|
    x_amax: float = largest()  # largest |x|
    scale_histogram: np.ndarray = summed_array(127, 2)  # all blocks, by scale byte and by choice: 6, 4
    code_histogram: np.ndarray = summed_array(16)  # elements by E2M1 code
    token_histogram: np.ndarray = summed_array(BINS)  # non-zero tokens by NMSE, see `nmse_bins`
    block_histogram: np.ndarray = summed_array(BINS)  # non-zero blocks by NMSE
    run_tokens: np.ndarray = summed_array(LEVELS + 1, RUNS)  # non-zero tokens by run, see `run_sums`; last by sequence
    run_nmse: np.ndarray = summed_array(LEVELS + 1, RUNS, dtype=np.float64)  # their summed NMSE, err_t / x_t
    kl: float = summed(0.0)  # predicted KL of the model's output, in nats, summed over the tokens predicted
    kl_tokens: int = summed()  # those tokens, of the whole model; 0 where no sensitivity was asked for
    top_token_x_sq: float = largest()  # x^2 summed over the token that has most, to 32 bits
    top_token: int = of_largest("top_token_x_sq")  # its index in the stream

    four_rate = Share("n_four", "blocks that map their amax to 4")
    four_saturated = Share("n_four_saturated", "blocks whose candidate for 4 exceeds 448")
    four_saturated_chosen = Share("n_four_saturated_chosen", "blocks that chose 4 although its scale saturates")
    # their own scale does where a static one met a larger activation, or 4 was chosen although it saturates
    scale_saturated = Share("n_scale_saturated", "blocks whose own scale exceeds 448")
    scale_subnormal = Share("n_scale_subnormal", "blocks with a scale below 2⁻⁶, of fewer than 4 bits")
    scale_zero = Share("n_scale_zero", "blocks whose scale rounds to 0: 16 values lost")
    element_clipped = Share("n_element_clipped", "elements scaled above 6, the largest E2M1", "elements")
    element_flushed = Share("n_element_flushed", "non-zero elements that decode to 0", "nonzero_elements")

    def _card(self):
        rates = ("four_rate", "four_saturated", "scale_saturated", "element_clipped", "scale_subnormal", "scale_zero")
        return f"{self.recipe.name}, engine {self.engine}", {
            "SQNR (dB)": self.sqnr_db, "tokens": self.tokens, "features": self.features, "NMSE": self.nmse,
            "max error": self.max_error, "MAE": self.mae, "cosine": self.cosine,
            **{name.replace("_", " "): percent(getattr(self, name)) for name in rates},
        }  # fmt: skip

    @property
    def mse(self) -> float:
        """Mean squared error, in the unit of x, squared."""
        return rate(self.err_sq, self.elements)

    @property
    def mae(self) -> float:
        """Mean absolute error, in the unit of x."""
        return rate(self.err_abs, self.elements)

    @property
    def nmse(self) -> float:
        """Squared error over the squared signal; 0 for an all-zero tensor."""
        return rate(self.err_sq, self.x_sq)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, 10 log10(1/nmse), in dB; infinity without error."""
        return -10 * math.log10(self.nmse) if self.nmse else math.inf

    @property
    def cosine(self) -> float:
        """Cosine between x and x_hat; 1 for an all-zero tensor, 0 where only one of them is zero."""
        if not self.x_sq and not self.x_hat_sq:
            return 1.0
        return rate(self.x_dot_x_hat, math.sqrt(self.x_sq) * math.sqrt(self.x_hat_sq))

    @property
    def token_nmse(self) -> float:
        """NMSE of a typical token: the mean of err_t / x_t over tokens with a signal, each counting alike.

        Of statistics that a release without it saved, the whole tensor's.
        """
        return self.nmse if self.runs_missing else rate(self.run_nmse[0].sum(), self.run_tokens[0].sum())

    @property
    def token_sqnr_db(self) -> float:
        """10 log10(1/token_nmse), in dB; infinity without error."""
        return -10 * math.log10(self.token_nmse) if self.token_nmse else math.inf

    @property
    def predicted_kl(self) -> float:
        """KL, in nats a token, that quantizing this input alone is predicted to make; NaN where not asked for."""
        return self.kl / self.kl_tokens if self.kl_tokens else math.nan

    @property
    def runs_missing(self) -> bool:
        """Whether release 0.1.0 saved this, or a part of it, which did not measure by token and run."""
        return bool(self.run_tokens[0].sum() < self.token_histogram.sum())

    def _shared(self, other: Stats) -> dict:
        if self.recipe != other.recipe:
            raise ValueError(f"statistics of {self.recipe.name} and {other.recipe.name} do not add: one recipe a sum")
        engines = {*self.engine.split(" + "), *other.engine.split(" + ")}
        features = self.features if self.features == other.features else 0
        return {"recipe": self.recipe, "engine": " + ".join(sorted(engines)), "features": features}

    @classmethod
    def from_dict(cls, values: dict) -> Stats:
        """The inverse of `to_dict`, of earlier releases too: what they did not measure is 0, see `runs_missing`."""
        if isinstance(values, dict) and not values.keys() >= _NEW:
            values = {name: value for name, value in values.items() if name not in _FORMER}
            values = {f.name: plain(getattr(cls(None, "", 0), f.name)) for f in fields(cls) if f.name in _NEW} | values
        return super().from_dict(values)


_FORMER = {"bootstrap_err_sq", "bootstrap_x_sq"}  # fields of the first release, which the runs replace
_NEW = {"run_tokens", "run_nmse", "top_token_x_sq", "top_token", "n_four_saturated_chosen", "kl", "kl_tokens"}


def nmse_bins() -> np.ndarray:
    """The BINS + 1 edges of the NMSE histograms; the first also holds smaller ratios (0 too), the last larger."""
    eighths = np.arange(BINS + 1)
    return np.ldexp(1 + eighths % 8 / 8, eighths // 8 - 24)


def nmse_bin(ratio: Tensor) -> Tensor:
    """The bin of each ratio, float64 in and int64 out: exponent and three bits of its mantissa, so exact everywhere."""
    return ((ratio.view(torch.int64) >> MANTISSA_SHIFT) - ((1023 - 24) << 3)).clamp(0, BINS - 1)


def measure(
    x: Tensor, quantized: Quantized, *, first_token: int = 0, sequences: tuple[int, int] | None = None
) -> Stats:
    """Statistics of a quantized tensor against its original.

    Args:
        x:           [..., K] as it was quantized.
        quantized:   from any engine, or `Quantized.from_flashinfer`.
        first_token: index of x's first token in a longer stream, for runs of neighbours.
        sequences:   (at, length): x's token t belongs to sequence (at + t) // length of the stream; None if unknown.
    Returns: Stats; errors are in the unit of x, or relative.
    Raises ValueError where shapes differ, x is not finite or a block scale is NaN or negative, TypeError for what is no
    tensor or no Quantized.
    """
    if not isinstance(quantized, Quantized):
        raise TypeError(
            f"quantized is a {type(quantized).__name__}: give what quantize returns, or use analyze(x, recipe)"
        )
    tokens = Tokens.of(x, first_token, sequences)
    if tokens.shape != quantized.shape:
        raise ValueError(
            f"x is {tokens.shape}, quantized was {quantized.shape}: measure a tensor against its own codes"
        )
    _ = tokens.amax  # refuses what is not finite
    if bad := int((quantized.block_scales.view(torch.uint8) > 126).sum()):
        raise ValueError(
            f"{bad} block scales are NaN or negative: these bytes are no NVFP4 scales, is the layout right?"
        )
    total, start = Stats(quantized.recipe, quantized.engine, tokens.shape[1]), 0
    for part in tokens.chunks(1 << 19):
        total += _measure_rows(part, quantized.rows(start, start + part.shape[0]))
        start += part.shape[0]
    return total


def _measure_rows(tokens: Tokens, quantized: Quantized) -> Stats:
    recipe, x, (m, k) = quantized.recipe, tokens.x, tokens.shape
    raw = blocks(x.float().contiguous())  # [m, n, 16]; sums of one order, whatever the layout
    element, block = raw != 0, (raw != 0).any(-1)  # [m, n, 16], [m, n]
    encode = encode_scale_of(x, quantized).unsqueeze(-1)  # [m or 1, 1, 1]
    bmax = flush(raw.abs().amax(-1, keepdim=True))  # [m, n, 1]
    h6, h4 = block_candidates(bmax, encode, recipe)
    byte = quantized.block_scales.view(torch.uint8)  # [m, n]
    byte6, byte4 = (e4m3_encode(h.squeeze(-1)).view(torch.uint8) for h in (h6, h4))
    four = (byte == byte4) & (byte != byte6) & recipe.four_over_six
    chosen = torch.where(four, h4.squeeze(-1), h6.squeeze(-1))
    scaled = flush(flush(raw) * output_scale(quantized.block_scales.float().unsqueeze(-1), bmax, encode, recipe))
    clipped = (scaled.abs() > E2M1_MAX * MARGIN) & (byte != 0).unsqueeze(-1)

    x_hat = blocks(quantized.dequantize()).double()
    raw = raw.double()
    err = x_hat - raw
    err_sq, x_sq = _column_sum(err * err), _column_sum(raw * raw)  # [m, n]
    token_err, token_x = err_sq.sum(-1), x_sq.sum(-1)  # [m]
    return Stats(
        recipe=recipe,
        engine=quantized.engine,
        features=k,
        tokens=m,
        elements=m * k,
        nonzero_elements=int(element.sum()),
        blocks=m * k // BLOCK,
        nonzero_blocks=int(block.sum()),
        **_block_counts(block, four, byte, h4.squeeze(-1), chosen, recipe),
        n_element_clipped=int(clipped.sum()),
        n_element_flushed=int(((x_hat == 0) & element).sum()),
        err_sq=float(token_err.sum()),
        err_abs=float(err.abs().sum()),
        x_sq=float(token_x.sum()),
        x_hat_sq=float((x_hat * x_hat).sum()),
        x_dot_x_hat=float((raw * x_hat).sum()),
        max_error=float(err.abs().max()),
        x_amax=float(raw.abs().max()),
        scale_histogram=_counts(byte.long() * 2 + four, 254).reshape(127, 2),
        code_histogram=_counts(unpack(quantized.codes), 16),
        token_histogram=_nmse_histogram(token_err, token_x),
        block_histogram=_nmse_histogram(err_sq, x_sq),
        **by_token(token_err.cpu().numpy(), token_x.cpu().numpy(), tokens.first, tokens.sequences),
    )


def _block_counts(block: Tensor, four: Tensor, byte: Tensor, h4: Tensor, chosen: Tensor, recipe: Recipe) -> dict:
    """Counts over non-zero blocks, from [m, n]: those, where 4 was chosen, bytes, and scales before rounding."""
    saturates = (h4 > E4M3_MAX * MARGIN) & block
    return {
        "n_four": int((four & block).sum()),
        "n_four_saturated": int(saturates.sum()) if recipe.four_over_six else 0,
        "n_four_saturated_chosen": int((saturates & four).sum()),
        "n_scale_saturated": int(((chosen > E4M3_MAX * MARGIN) & block).sum()),
        "n_scale_subnormal": int(((byte >= 1) & (byte <= 7) & block).sum()),
        "n_scale_zero": int(((byte == 0) & block).sum()),
    }


def by_token(err_sq: np.ndarray, x_sq: np.ndarray, first_token: int, sequences: tuple[int, int] | None) -> dict:
    """The fields of Stats that speak of single tokens and their runs, from float64 [M] each."""
    there = x_sq > 0
    nmse = np.divide(err_sq, x_sq, where=there, out=np.zeros_like(x_sq))
    tokens, sums = run_sums(nmse, there, first_token, sequences)
    most, top = top_of(x_sq) if len(x_sq) else (0.0, -1)
    place = {"top_token_x_sq": most, "top_token": first_token + top if top >= 0 else -1}
    return {"run_tokens": tokens, "run_nmse": sums, **place}


def encode_scale_of(x: Tensor, quantized: Quantized) -> Tensor:
    """The encode scale that multiplied x, [m or 1, 1]; worked out from x where the engine did not keep it."""
    if quantized.encode_scale is not None:
        return quantized.encode_scale
    decode, recipe = quantized.decode_scale, quantized.recipe
    inverse = torch.div(torch.ones_like(decode), decode)
    if not recipe.per_token:
        return inverse
    encode, expected = token_scales(token_amax(x), recipe)
    return torch.where(expected == decode, encode, inverse)


def _column_sum(values: Tensor) -> Tensor:
    """Sum over the last axis in column order, so that every engine has the same bits."""
    total = values[..., 0].clone()
    for column in range(1, values.shape[-1]):
        total += values[..., column]
    return total


def _counts(indices: Tensor, n: int) -> np.ndarray:
    return torch.bincount(indices.flatten(), minlength=n).cpu().numpy()


def _nmse_histogram(err_sq: Tensor, x_sq: Tensor) -> np.ndarray:
    there = x_sq > 0
    return _counts(nmse_bin(err_sq[there] / x_sq[there]), BINS)
