"""Who computes: engines by name, and what they share."""

import importlib

from . import cpu, cuda, flashinfer, reference
from .base import Engine, Pending, Ready
from .cpu.engine import run_tasks
from .dispatch import analyze, analyze_all, choose, engines, find_engine, given_encode_scale, quantize, usable_engine
from .golden import Golden, golden_cases, recipe_of
from .verify import verdict, verify

_COMPILED = {"block_errors": "errors", "rank_blocks": "ranking"}  # these come with numba, at first use


def __getattr__(name):
    if name not in _COMPILED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".cpu.{_COMPILED[name]}", __name__)
    return module.ranked if name == "rank_blocks" else module
