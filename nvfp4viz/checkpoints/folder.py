"""Which files a checkpoint is made of, and what is wrong with them before a tensor is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from ..activations import INDEX, natural
from ..nvfp4 import BLOCK
from ..shown import quantity
from .findings import Finding
from .headers import Entry, read_header, read_json


def list_files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The .safetensors files of a checkpoint, and what its index says of tensors and files, which may be missing."""
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}")
    if path.is_file() and path.name.endswith(INDEX):
        return _listed(path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"cannot read {str(path)!r}: a checkpoint is a folder of .safetensors files, or one file")
        return [path], {}
    indices = sorted(path.glob("*" + INDEX))
    if indices:
        return _listed(indices[0])
    found = [p for p in path.glob("*.safetensors") if p.is_file() and not p.name.startswith(".")]
    if not found:
        raise ValueError(f"folder {str(path)!r} holds no .safetensors file")
    return sorted(found, key=lambda p: natural(p.name)), {}


def _listed(index: Path) -> tuple[list[Path], dict[str, str]]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        raise ValueError(f"cannot read {str(index)!r}: not a list of shards, it has no weight_map of names")
    names = sorted(set(listed.values()), key=natural)
    away = next((n for n in names if Path(n).name != n or n in ("", ".", "..")), None)
    if away is not None:
        raise ValueError(f"{str(index)!r} lists {away[:100]!r}, which is not a file of its folder")
    return [index.parent / n for n in names], listed


def check_there(path: Path, files: list[Path]) -> None:
    """FileNotFoundError where a file that the index lists is missing."""
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        some = ", ".join(repr(n[:100]) for n in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise FileNotFoundError(f"the index of {str(path)!r} lists {some}{more}, which it lacks: copy all shards")


def unread(file: Path, listed: dict[str, str], why: str) -> Finding:
    """A shard that is missing or damaged, with what the index lists in it."""
    n = sum(name == file.name for name in listed.values())
    seen = f"{quantity(n, 'tensor')} listed" if n else ""
    return Finding("error", "shard-unread", file.name, seen, why,
                   "loading fails; what stands in it was not judged", "copy or download that file again")  # fmt: skip


def unlike(listed: dict[str, str], entries: dict[str, Entry], lost: Collection[str]) -> Iterator[Finding]:
    """Tensors that an index lists and its shards lack, or keep elsewhere; not those of files that are lost."""
    for name, file in listed.items():
        if file in lost:
            continue
        there = entries[name].path.name if name in entries else None
        if there != file:
            yield Finding("error", "index-disagrees", name, file, f"the index lists it in {file}, "
                          + (f"it is in {there}" if there else "no file has it"),
                          "loading fails, or leaves the parameter unwritten", "write the index anew")  # fmt: skip


def twice(name: str, first: Path, second: Path) -> Finding:
    return Finding("warning", "twice", name, f"{first.name}, {second.name}", "two files hold it",
                   "the file that is read last wins", "remove one")  # fmt: skip


def outside(file: Path) -> Finding:
    return Finding("warning", "link-outside", file.name, os.path.realpath(file), "a link to a file outside the folder",
                   "the link is followed; what it points to may change", "copy the file")  # fmt: skip


def unconfigured(folder: Path) -> Finding:
    return Finding("warning", "config-missing", folder.name, "", "no quantization_config in config.json, "
                   "no hf_quant_config.json", "packed bytes are taken for weights, or --quantization must be given",
                   "copy the tool's config.json beside the weights")  # fmt: skip


def instead(entries: dict[str, Entry]) -> str:
    types = Counter(e.dtype for e in entries.values())
    seen = ", ".join(f"{n} {t}" for t, n in types.most_common(4)) or "none"
    return f"NVFP4 packs two codes a byte (U8) with E4M3 scales for {BLOCK} of them; its tensors are {seen}"


def open_files(path: Path) -> tuple[dict[str, Entry], list[dict]]:
    """Tensors by name of a folder or file of safetensors, and its files; errors as `checkpoint` raises them."""
    files, entries = list_files(path)[0], {}
    check_there(path, files)
    for file in files:
        entries |= read_header(file)[0]
    return entries, [{"path": str(f), "bytes": f.stat().st_size} for f in files]
