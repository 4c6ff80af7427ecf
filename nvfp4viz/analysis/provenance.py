"""Where a sweep comes from: versions, the command, its files; and a stranger's word on that, checked."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys

from ..nvfp4 import BLOCK


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


def token_texts(sources: list[dict]) -> list[str]:
    """The tokens' strings, where the only file of activations tells them."""
    try:
        texts = json.loads(sources[0]["metadata"].get("token_strings", "[]")) if len(sources) == 1 else []
    except ValueError:  # metadata of strangers
        return []
    return [str(t) for t in texts] if isinstance(texts, list) else []


def check_provenance(provenance: dict) -> None:
    """ValueError, KeyError or TypeError where it is not what a sweep writes."""
    sources, versions = provenance.get("sources", []), provenance.get("versions", {})
    if not isinstance(sources, list) or not isinstance(versions, dict) or not isinstance(
        provenance.get("command", []), list
    ):
        raise ValueError("its provenance has no list of sources, map of versions or list of words")
    for source in sources:
        named = isinstance(source["path"] + source["sha256"], str)
        if not named or not isinstance(source.get("metadata", {}), dict):
            raise ValueError("its provenance names sources that are no files")


def check_blocks(kept: dict) -> None:
    """ValueError, KeyError or TypeError where kept blocks are not what `picks.keep` gives."""
    dict(kept["picks"])
    for block in kept["blocks"].values():
        if len([float(v) for v in (*block["values"], block["token_amax"], block["tensor_amax"])]) != BLOCK + 2:
            raise ValueError(f"a block of it has {len(block['values'])} values, not {BLOCK}")
        if not all(isinstance(v, (int, float)) for v in block["values"]):
            raise ValueError("a block of it has values that are no numbers")
