"""Who computes: engines by name, and what they share."""

import importlib

from . import cpu, cuda, flashinfer, reference
from .base import Engine, Pending, Ready
from .cpu.engine import run_tasks
from .dispatch import analyze, analyze_all, choose, engines, find_engine, given_encode_scale, quantize, usable_engine
from .feel import feel
from .golden import Golden, golden_cases, recipe_of
from .verify import result_line, verify

_COMPILED = {  # these come with numba, at first use
    "block_errors": ("errors", ""),
    "rank_blocks": ("ranking", "ranked"),
    "weighted_errors": ("weighted", "weighted_errors"),
}


def __getattr__(name):
    if name not in _COMPILED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _COMPILED[name]
    module = importlib.import_module(f".cpu.{module}", __name__)
    return getattr(module, attribute) if attribute else module
