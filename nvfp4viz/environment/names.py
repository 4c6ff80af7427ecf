"""Which names of variables matter, and which known name a near miss means."""

from __future__ import annotations

import difflib
import functools
import re

from .rules import VARIABLES

ELSEWHERE = {  # real variables of other programs, or of other purpose, that look like ours
    "NVTE_NVFP4_DISABLE_RHT", "NVTE_NVFP4_DISABLE_STOCHASTIC_ROUNDING", "NVTE_NVFP4_DISABLE_2D_QUANTIZATION",
    "SGLANG_FLASHINFER_CUTEDSL_NVFP4_W4A16", "SGLANG_MOE_NVFP4_DISPATCH", "SGLANG_FP4_IGNORED_LAYERS",
}  # fmt: skip
ONCE = {"SGLANG_FLASHINFER_PER_TOKEN_NVFP4_MOE": "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION"}  # before its release


@functools.lru_cache(4096)
def near_miss(name: str) -> str | None:
    """The known variable that a name which nobody reads was meant to be.

    >>> near_miss("FLASHINFERENCE_NVFP4_4OVER6")
    'FLASHINFER_NVFP4_4OVER6'
    """
    if name in VARIABLES or name in ELSEWHERE or len(name) > 80:
        return None
    spelt = re.sub(r"(?:FOUR|4)_?OVER_?(?:SIX|6)", "4OVER6", name.upper())
    near = difflib.get_close_matches(spelt, VARIABLES, n=1, cutoff=0.86)
    return ONCE.get(name) or (near[0] if near else None)


def meant(name: str) -> str | None:
    """The known variable behind a name: itself, or what it nearly is."""
    return name if name in VARIABLES else near_miss(name)
