"""Notebook 06 runs a real model, whose weights are not in this repository."""

import importlib.util
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[1] / ".cache/smollm2/SmolLM2-135M-Instruct.gguf"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name, there in (
        ("the model (make model fetches it)", MODEL.exists()),
        ("transformers", importlib.util.find_spec("transformers")),
        ("gguf", importlib.util.find_spec("gguf")),
    ) if not there]  # fmt: skip
    if missing:
        reason = f"notebook 06 needs {' and '.join(missing)}"
        for item in items:
            if item.path.name.startswith("06_"):
                item.add_marker(pytest.mark.skip(reason=reason))
