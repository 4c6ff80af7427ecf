"""The format NVFP4 and its arithmetic in torch; knows nothing else of this package."""

from .arithmetic import (
    FLT_MAX,
    Candidate,
    block_candidates,
    caller_scale,
    candidate_error,
    candidates,
    output_scale,
    rcp_approx,
    rcp_table,
    scales_of,
    scores,
    takes_four,
    tensor_scales,
    token_scales,
    with_decode_scale,
)
from .e2m1 import E2M1_MAGNITUDES, E2M1_MAX, decode_packed, e2m1_decode, e2m1_encode, pack, unpack
from .e4m3 import E4M3_MAX, E4M3_VALUES, FLT_MIN, FOUR_LIMIT, MARGIN, e4m3_edges, e4m3_encode, flush
from .quantized import Quantized, unswizzle
from .recipe import RECIPES, Recipe, as_recipe, as_recipes, some_recipes, study_only
from .reference import quantize_blocks, reference_quantize
from .tokens import BLOCK, Tokens, as_tensor, as_tokens, blocks, check_finite, tensor_amax, tiles, token_amax
