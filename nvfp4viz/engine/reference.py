"""The engine "reference": the specification itself, in plain torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nvfp4 import Quantized, Recipe, Tokens, reference_quantize
from .base import Unfused


class Reference(Unfused):
    """Slow, and readable; runs anywhere and takes any input."""

    name = "reference"

    def why_not(self) -> str | None:
        return None  # torch alone

    def refuses(self, x: Tensor, recipe: Recipe) -> str | None:
        return None

    def device(self, x: Tensor) -> torch.device:
        return x.device

    def quantize(self, tokens: Tokens, recipe: Recipe, encode_scale: Tensor | None = None) -> Quantized:
        return reference_quantize(tokens, recipe, encode_scale)


ENGINE = Reference()
