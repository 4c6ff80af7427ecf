"""The format NVFP4 and its arithmetic in torch; knows nothing else of this package."""

from .arithmetic import (
    FLT_MAX,
    block_candidates,
    caller_scale,
    candidate_error,
    output_scale,
    rcp_approx,
    rcp_table,
    tensor_scales,
    token_scales,
)
from .e2m1 import E2M1_MAGNITUDES, decode_packed, e2m1_decode, e2m1_encode, pack, unpack
from .e4m3 import FLT_MIN, e4m3_encode, flush
from .quantized import Quantized, unswizzle
from .recipe import E2M1_MAX, E4M3_MAX, RECIPES, Recipe, as_recipe, as_recipes
from .reference import quantize_blocks, reference_quantize
from .tokens import BLOCK, as_tokens, block_amax, blocks, check_finite, tensor_amax, tiles, token_amax
