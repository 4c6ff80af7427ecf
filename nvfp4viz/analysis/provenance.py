"""Where a result comes from: versions of what decides the numbers, and the command."""

from __future__ import annotations

import importlib.metadata
import platform
import sys


def versions() -> dict:
    """Versions of what decides the numbers, for provenance."""
    from .. import __version__

    found = {"nvfp4viz": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "numpy", "numba", "flashinfer-python"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return {"versions": found, "command": sys.argv[:]}
