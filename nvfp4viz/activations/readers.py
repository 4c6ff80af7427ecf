"""Which files of a folder hold activations, and the files that inference engines write one a step.

SGLang's dumper writes {dir}/{experiment}/{tags}.pt, each {"value": tensor, "meta": {...}}; its
`--debug-tensor-dump-output-folder` writes {dir}/TP0_PP0_Rank0_pid1/Pass00000.pt, each a dict of module outputs. The
steps of one tensor are joined along its tokens. Checked against sglang 0.5.23.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..files import said

INDEX = ".safetensors.index.json"  # Hugging Face's list of shards


def expand(path: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files to read: of a folder, of a list of shards, or the file itself.

    A folder without such a file stands for all in the folders below it. Files come in natural order (step 2 before 10);
    hidden ones, which a writer may have left unfinished, are passed over.
    """
    if path.name.endswith(INDEX):
        return _shards(path)
    if path.is_dir():
        indices = sorted(path.glob("*" + INDEX))
        for index in indices:
            _shards(index)  # all there
        found = _wanted(path.iterdir(), suffixes) or _wanted(path.rglob("*"), suffixes)
        if not found:
            raise ValueError(f"folder {str(path)!r} holds no {', '.join(suffixes)} file")
        return found
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot read {str(path)!r}: known formats are {', '.join(suffixes)}")
    return [path]


def _wanted(paths: Iterable[Path], suffixes) -> list[Path]:
    found = [p for p in paths if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()]
    return sorted(found, key=lambda p: natural(str(p)))


def natural(name: str) -> tuple:
    """Sorts layers.2 before layers.10, and what is in no layer (lm_head) last."""
    parts = re.split(r"(\d+)", name)
    return len(parts) == 1, [(0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        shards = [index.parent / name for name in names]
        missing = [s.name[:100] for s in shards if not s.is_file()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        why = f"{type(error).__name__}: {said(error)}"
        raise ValueError(f"cannot read {str(index)!r}: not a list of shards ({why})") from error
    if missing:
        names = ", ".join(missing[:5] if all(m.isprintable() for m in missing) else map(repr, missing[:5]))
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(f"{str(index)!r} lists {names}{more}, which the folder lacks: copy all shards")
    return shards


class Steps:
    """Reads one tensor that was written in several files, its tokens one after another: [tokens, K]."""

    def __init__(self, *reads):
        self.reads = list(reads)

    def __call__(self) -> Tensor:
        parts = [read() for read in self.reads]
        if len({p.shape[-1] for p in parts}) > 1:
            raise ValueError(f"its features differ between steps: {sorted({p.shape[-1] for p in parts})}")
        return torch.cat([p.flatten(0, -2) if p.ndim > 1 else p[None] for p in parts])


def sglang(path: Path, value) -> dict[str, Tensor] | None:
    """Tensors by name of a file that SGLang's dumper or tensor dump wrote; None where it is another file."""
    if isinstance(value, dict) and set(value) == {"value", "meta"} and isinstance(value["meta"], dict):
        meta = value["meta"]
        name = str(meta.get("name", path.stem)).removeprefix("non_intrusive__")
        found, rank = {name: value["value"]}, meta.get("rank", 0)
    elif isinstance(value, dict) and re.fullmatch(r"Pass\d+\.pt", path.name):
        found, rank = {}, int((re.search(r"_Rank(\d+)_", path.parent.name) or [0, 0])[1])
        for name, tensors in value.items():
            several = isinstance(tensors, (list, tuple))
            found |= {f"{name}.{i}": t for i, t in enumerate(tensors)} if several else {str(name): tensors}
    else:
        return None
    return {f"{name} [rank {rank}]" if rank else name: t for name, t in found.items() if isinstance(t, Tensor)}
