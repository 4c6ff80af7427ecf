"""Which files are meant by a path: itself, those of a folder, the shards of a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ..shown import error_text
from .readers import FORMATS

INDEX = ".safetensors.index.json"  # Hugging Face's list of shards

RESULTS = {  # what may have been meant
    ".html": "; of a report, nvfp4viz.load_report(path) returns the Sweep",
    ".json": "; of a saved sweep, nvfp4viz.Sweep.load(path) returns the Sweep",
}


def files_of(path: Path) -> Iterable[tuple[Path, bool]]:
    """The files to read, of a folder, of a list of shards, or the file itself, and whether somebody named them.

    A folder without such a file stands for all in the folders below it. Files come in natural order (step 2 before 10);
    hidden ones, which a writer may have left unfinished, are passed over.
    """
    if path.name.endswith(INDEX):
        return [(shard, True) for shard in _shards(path)]
    if path.is_dir():
        shards = {shard for index in sorted(path.glob("*" + INDEX)) for shard in _shards(index)}  # all there
        found = _wanted(path.iterdir()) or _wanted(path.rglob("*"))
        if not found:
            raise ValueError(f"folder {str(path)!r} holds no {', '.join(FORMATS)} file")
        return [(file, file in shards) for file in found]
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}")
    if path.suffix.lower() not in FORMATS:
        result = RESULTS.get(path.suffix.lower(), "")
        raise ValueError(f"cannot read {str(path)!r}: known formats are {', '.join(FORMATS)}{result}")
    return [(path, True)]


def _wanted(paths: Iterable[Path]) -> list[Path]:
    found = [p for p in paths if p.suffix.lower() in FORMATS and not p.name.startswith(".") and p.is_file()]
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
        why = f"{type(error).__name__}: {error_text(error)}"
        raise ValueError(f"cannot read {str(index)!r}: not a list of shards ({why})") from error
    if missing:
        names = ", ".join(missing[:5] if all(m.isprintable() for m in missing) else map(repr, missing[:5]))
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(f"{str(index)!r} lists {names}{more}, which the folder lacks: copy all shards")
    return shards
