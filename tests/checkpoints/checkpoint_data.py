"""Checkpoints of real tools, and spoiled copies of them."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent / "data"
TOOLS = ("llama-modelopt", "llama-compressed-tensors", "qwen3-moe-modelopt", "qwen3-moe-compressed-tensors")


def spoil(name: str, folder: Path, change=None, config=None) -> Path:
    """A copy of a checkpoint; `change` is given its tensors, `config` its config.json and hf_quant_config.json."""
    copy = Path(shutil.copytree(DATA / name, folder / "spoiled", dirs_exist_ok=True))
    if change:
        tensors = load_file(copy / "model.safetensors")
        change(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, copy / "model.safetensors")
    for file in ("config.json", "hf_quant_config.json"):
        if config and (copy / file).exists():
            values = json.loads((copy / file).read_text())
            config(values)
            (copy / file).write_text(json.dumps(values))
    return copy
