"""Measurements in a file: written whole after each pass, and taken up where an interrupted run left them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import check_target, replacing
from ..shown import error_text

FORMAT = "nvfp4viz measurements 1"
SAMPLE = 64  # elements of each parameter that its fingerprint looks at


class Store:
    """Key -> rows of numbers, exact to the bit; in memory only where there is no path.

    about: what was measured, by name. A file about something else is refused, with the first name that differs.
    """

    def __init__(self, path, about: Mapping[str, object]):
        self.path, self.about = path and Path(path).expanduser(), json.loads(json.dumps(about))
        self.rows: dict[str, object] = {}
        if self.path is None:
            return
        check_target(self.path)
        if self.path.exists():
            self.rows = self._read()

    def _read(self) -> dict:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            known = found["format"] == FORMAT and isinstance(found["rows"], dict) and isinstance(found["about"], dict)
        except (ValueError, KeyError, TypeError) as error:
            known, found = False, error_text(error)
        if not known:
            raise ValueError(f"{str(self.path)!r} holds no measurements of this package: give another path to resume")
        for name, value in self.about.items():
            if found["about"].get(name) != value:
                raise ValueError(
                    f"{str(self.path)!r} was measured with {name} {found['about'].get(name)!r}, this run has "
                    f"{value!r}: give another path to resume, or remove the file"
                )
        return found["rows"]

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, key: str):
        return self.rows[key]

    def put(self, key: str, rows) -> None:
        self.rows[key] = rows
        if self.path is not None:
            text = json.dumps({"format": FORMAT, "about": self.about, "rows": self.rows})
            with replacing(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")


def fingerprint(model: nn.Module) -> str:
    """A checksum of names, shapes and some elements of each parameter."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, p in model.named_parameters():
        digest.update(f"{name} {tuple(p.shape)} {p.dtype}".encode())
        if p.numel() and not p.is_meta:
            flat = p.detach().reshape(-1)
            digest.update(flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def text_fingerprint(batches) -> str:
    """A checksum of all that the model is given."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(f"{tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().to(torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]
