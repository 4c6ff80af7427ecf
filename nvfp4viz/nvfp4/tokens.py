"""Activations as tokens: checked, viewed as rows, blocks and tiles, with their largest magnitudes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, singledispatch

import torch
from torch import Tensor

BLOCK = 16  # neighbours along K that share one E4M3 scale


def blocks(x: Tensor) -> Tensor:
    """A view of [..., K] as [..., K/16, 16]."""
    return x.unflatten(-1, (-1, BLOCK))


def tiles(m: int, k: int, limit: int = 1 << 21):
    """Row and column ranges that cover [m, k], each at most `limit` elements: the reference's 0.4 GiB."""
    columns = min(k, limit)
    rows = max(1, limit // columns)
    for i in range(0, m, rows):
        for j in range(0, k, columns):
            yield slice(i, min(i + rows, m)), slice(j, min(j + columns, k))


def as_tokens(x: Tensor) -> Tensor:
    """x, or whatever `as_tensor` takes, checked and viewed as tokens: [..., K] to [M, K]; copied where strides need it.

    Raises TypeError or ValueError where x is no floating-point tensor of features in whole blocks.
    """
    x = as_tensor(x)
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}, not a torch.Tensor: {_way_out(x)}")
    if x.is_nested:
        raise TypeError("x is a nested tensor, with rows of their own lengths: concatenate them, torch.cat(x.unbind())")
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(f"x has dtype {x.dtype}: activations are bfloat16, float16 or float32; {_conversion(x.dtype)}")
    if x.is_meta:
        raise TypeError("x is on the meta device: it has a shape, and no values to quantize")
    if x.layout != torch.strided:
        raise TypeError(f"x is stored as {x.layout}: convert it with x.to_dense()")
    if x.ndim == 0:
        raise ValueError("x is a single number (0-d): quantization needs features along its last axis, [..., K]")
    k = x.shape[-1]
    if k == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no features (K=0) to quantize")
    if k % BLOCK:
        way_out = f"pad, or slice x[..., :{k - k % BLOCK}]" if k > BLOCK else f"pad x to {BLOCK} features"
        raise ValueError(f"K={k} is not a multiple of {BLOCK}: NVFP4 scales blocks of {BLOCK} features; {way_out}")
    return x.detach().reshape(-1, k)


@singledispatch
def as_tensor(x):
    """Anything as it is: who knows another kind of activations registers it, as `activations` does arrays and paths."""
    return x


def _way_out(x) -> str:
    """What to do with something that is no tensor."""
    if isinstance(x, Mapping):
        return f"sweep takes a mapping of tensors; here give one of them, x[{next(iter(x), 'name')!r}]"
    return "give a tensor or a NumPy array, as torch.as_tensor(x) makes of numbers"


def _conversion(dtype: torch.dtype) -> str:
    if str(dtype).startswith("torch.float8"):
        return "FP8 is quantized already: decode it first, x.float() times its scale"
    if "float4" in str(dtype):
        return "it is quantized already: Quantized.from_flashinfer(x.view(torch.uint8), scales, decode_scale, recipe)"
    sure = "" if dtype == torch.float64 else ", if these are activations at all"
    return f"convert with x.to(torch.float32), an array with x.astype('float32'){sure}"


def check_finite(x: Tensor) -> None:
    """Raise ValueError with the number and first place of NaN and Inf in x [M, K], K a multiple of 16."""
    low, high = torch.aminmax(x) if x.numel() else (x.new_zeros(()), x.new_zeros(()))
    if torch.isfinite(low) & torch.isfinite(high):  # a NaN anywhere makes both NaN
        return
    parts = x.split(1024)  # masks of all of x might not fit
    nan, inf = (sum(int(kind(part).sum()) for part in parts) for kind in (torch.isnan, torch.isinf))
    at = next(i for i, part in enumerate(parts) if not part.isfinite().all())
    row, column = (~parts[at].isfinite()).nonzero()[0].tolist()
    raise ValueError(
        f"x holds {nan} NaN and {inf} Inf, the first at x[{1024 * at + row}, {column}]: FlashInfer's result for them "
        "is undefined; find their source, or drop those tokens with x[x.isfinite().all(-1)]"
    )


@dataclass(frozen=True, eq=False)
class Tokens:
    """Activations as tokens, checked once: whoever is handed Tokens checks nothing again."""

    x: Tensor  # [M, K] bf16, fp16 or fp32, K a multiple of 16
    first: int = 0  # index of its first token in a longer stream
    sequences: tuple[int, int] | None = None  # (at, length): token t is of sequence (at + t) // length; None: unknown

    @classmethod
    def of(cls, x: Tensor | Tokens, first: int = 0, sequences: tuple[int, int] | None = None) -> Tokens:
        """x [..., K] as tokens, or x itself where it is that already. TypeError or ValueError as in `as_tokens`."""
        if isinstance(x, Tokens):
            return x
        if sequences is not None and (sequences[0] < 0 or sequences[1] < 1):
            raise ValueError(f"sequences={sequences}: expected (at, length), at least (0, 1)")
        return cls(as_tokens(x), first, sequences)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, K)"""
        return tuple(self.x.shape)

    @cached_property
    def amax(self) -> Tensor:
        """Largest magnitude of each token: float32 [M, 1]. ValueError where a value is NaN or infinite."""
        amax = token_amax(self.x)
        if not amax.isfinite().all():
            check_finite(self.x)
        return amax

    @cached_property
    def tensor_amax(self) -> Tensor:
        """Largest magnitude of all: float32, 0-d; 0 where there is no token."""
        return self.amax.amax() if "amax" in self.__dict__ and self.x.shape[0] else tensor_amax(self.x)

    def to(self, device: torch.device) -> Tokens:
        return self if self.x.device == device else Tokens(self.x.to(device), self.first, self.sequences)

    def rows(self, start: int, stop: int) -> Tokens:
        """The tokens start..stop, without a copy."""
        sequences = self.sequences and (self.sequences[0] + start, self.sequences[1])
        return Tokens(self.x[start:stop], self.first + start, sequences)

    def chunks(self, elements: int) -> Iterator[Tokens]:
        """All tokens in order, some at a time: as many as have that many elements, at least one."""
        step = max(1, elements // self.x.shape[1])
        for i in range(0, self.x.shape[0], step):
            yield self.rows(i, i + step)


def token_amax(x: Tensor) -> Tensor:
    """Largest magnitude of each row of x [M, K]: float32 [M, 1], without a copy of x."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    return torch.maximum(-low, high).abs().float()  # [M, 1]; abs, since the maximum of zeros may be -0


def tensor_amax(x: Tensor) -> Tensor:
    """Largest magnitude in x [M, K]: float32, 0-d; 0 where x is empty. On CPUs ten times as fast as by rows."""
    if not x.numel():
        return torch.zeros((), device=x.device)
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high).abs().float()
