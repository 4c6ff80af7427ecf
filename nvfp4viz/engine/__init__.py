"""Who computes: engines by name, and what they share."""

import importlib

from . import cpu, cuda, flashinfer, reference
from .cpu import engine as cpu_engine
from .cpu.engine import run_tasks
from .dispatch import analyze, analyze_all, choose, engine_module, engines, given_encode_scale, quantize
from .golden import Golden, golden_cases, recipe_of
from .verify import verdict, verify


def __getattr__(name):
    if name == "block_errors":  # squared errors of blocks, compiled: comes with numba, at first use
        return importlib.import_module(".cpu.errors", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
