"""What quantization leaves of a tensor: packed codes, block scales and FP32 decode scales."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .e2m1 import decode_packed
from .recipe import Recipe, as_recipe
from .tokens import BLOCK, blocks


@dataclass(frozen=True)
class Quantized:
    """An NVFP4 tensor of M tokens and K features, scales in linear layout; made by `quantize`, read by `dequantize`."""

    codes: Tensor  # uint8 [M, K/2], even column in the low nibble
    block_scales: Tensor  # torch.float8_e4m3fn [M, K/16]
    decode_scale: Tensor  # float32 [M, 1] per token, [1, 1] per tensor
    recipe: Recipe  # what made it
    engine: str  # the engine that ran, such as "cpu" or "flashinfer"
    encode_scale: Tensor | None = field(default=None, repr=False)  # like decode_scale; what multiplied x

    @property
    def shape(self) -> tuple[int, int]:
        """(M, K) of the tensor that was quantized."""
        return self.codes.shape[0], 2 * self.codes.shape[1]

    def rows(self, start: int, stop: int) -> Quantized:
        """The tokens start..stop, without a copy."""
        tensors = {name: getattr(self, name) for name in ("codes", "block_scales", "decode_scale", "encode_scale")}
        parts = {n: t[start:stop] for n, t in tensors.items() if t is not None and len(t) == self.shape[0]}
        return replace(self, **parts)

    def dequantize(self) -> Tensor:
        """The decoded tensor, float32 [M, K]: E2M1 value * block scale (exact) * decode scale (rounded once)."""
        scaled = blocks(decode_packed(self.codes)).mul_(self.block_scales.float().unsqueeze(-1))  # [M, K/16, 16]
        return scaled.mul_(self.decode_scale.unsqueeze(-1)).flatten(-2)

    @classmethod
    def from_flashinfer(
        cls, codes: Tensor, scales: Tensor, decode_scale, recipe: Recipe, layout: str = "linear", *, engine="flashinfer"
    ) -> Quantized:
        """Wrap what FlashInfer, or a serving engine through it, returned.

        Args:
            codes:        uint8 [M, K/2].
            scales:       block scales as bytes or float8, M * K/16 of them (`layout="linear"`), or padded and swizzled
                          in tiles of 128 x 4 or 8 x 4 (`"128x4"`, `"8x4"`).
            decode_scale: per token float32 [M], per tensor one number: the reciprocal of the encode scale passed in.
            recipe:       the recipe that made them.
        Raises ValueError where sizes do not fit together.
        """
        if codes.ndim != 2 or codes.dtype != torch.uint8 or codes.shape[1] % (BLOCK // 2):
            raise ValueError(
                f"codes are {codes.dtype} {tuple(codes.shape)}: expected uint8 [M, K/2] with K a multiple of {BLOCK}"
            )
        if scales.dtype not in (torch.uint8, torch.int8, torch.float8_e4m3fn):
            raise ValueError(f"scales are {scales.dtype}: expected E4M3 as uint8 bytes or float8_e4m3fn")
        recipe = as_recipe(recipe)
        m, n = codes.shape[0], codes.shape[1] * 2 // BLOCK
        flat = scales.to(codes.device).view(torch.uint8).flatten()
        linear = unswizzle(flat, m, n, layout).contiguous().view(torch.float8_e4m3fn)
        decode = torch.as_tensor(decode_scale, dtype=torch.float32, device=codes.device).reshape(-1, 1)
        wanted = m if recipe.per_token else 1
        if decode.shape[0] != wanted:
            raise ValueError(f"{decode.shape[0]} decode scales for {wanted}: recipe {recipe.name} over {m} tokens")
        if not (decode.isfinite() & (decode >= 0)).all():
            raise ValueError("decode_scale holds NaN, Inf or a negative number: it is the reciprocal of encode")
        return cls(codes, linear, decode, recipe, engine)


def unswizzle(scales: Tensor, m: int, n: int, layout: str) -> Tensor:
    """Block scales in linear layout, [m, n], from the flat bytes of FlashInfer's layouts.

    Tiles of 128 rows x 4 scales store row r at (r % 32) * 4 + r // 32, tiles of 8 x 4 plainly; rows and scales are
    padded to whole tiles.

    >>> unswizzle(torch.arange(8 * 4), 2, 3, "8x4").tolist()
    [[0, 1, 2], [4, 5, 6]]
    """
    rows, columns = {"linear": (1, 1), "128x4": (128, 4), "8x4": (8, 4)}.get(layout, (0, 0))
    if not rows:
        raise ValueError(f'layout={layout!r} is not one of "linear", "128x4", "8x4"')
    tiles_m, tiles_n = -(-m // rows), -(-n // columns)
    if scales.numel() != tiles_m * tiles_n * rows * columns:
        raise ValueError(
            f"{scales.numel()} block scales: layout {layout} of {m} tokens and {n} blocks a token"
            f" has {tiles_m * tiles_n * rows * columns}"
        )
    near = min(rows, 32)  # rows next to each other in memory
    tiled = scales.reshape(tiles_m, tiles_n, near, rows // near, columns).permute(0, 3, 2, 1, 4)
    return tiled.reshape(tiles_m * rows, tiles_n * columns)[:m, :n]
