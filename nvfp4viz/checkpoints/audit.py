"""`checkpoint(path)`: a quantized checkpoint opened, its scales read and judged, its weights left where they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..nvfp4 import Recipe
from ..shown import quantity
from ..shown import table as html_table
from .config import Config, read_config
from .findings import FULL, SEVERITIES, Evidence, Finding, check_scales
from .folder import check_there, instead, list_files, open_files, outside, twice, unconfigured, unlike, unread
from .headers import Entry, leaves, read_header
from .layout import Layout, Matrix, arrange, fused
from .scan import FOUR, Scan, decode, multiplier, row_chunks, scan, value
from .structure import check_structure

FORMAT = "nvfp4viz-checkpoint-1"
ROWS = 1 << 22  # elements decoded at a time


class Checkpoint:
    """An NVFP4 checkpoint: its matrices, what their scales tell, and what is wrong with them.

    `.findings` is a list of Finding, errors first; `.table()` has a row a matrix; `.scales` the scales as decoding
    multiplies; `.weights` decodes a matrix when it is asked for. Made by `checkpoint(path)`.
    """

    def __init__(self, path: Path, entries: dict[str, Entry], config: Config, files: list[dict], early: list[Finding]):
        self.path, self.config, self.files = path, config, files
        self.layout: Layout = arrange(entries)
        if not self.layout.matrices:
            raise ValueError(f"no NVFP4 weight in {str(path)!r}: {instead(entries)}")
        self._early = early
        self.scans: dict[str, Scan] = {}

    def scan(self, progress: Callable[[int, int, str], None] | None = None) -> Checkpoint:
        """Read all scales, and some codes of each matrix; done by `checkpoint(path)`."""
        matrices = self.layout.matrices
        for done, (name, m) in enumerate(matrices.items()):
            if progress:
                progress(done, len(matrices), name)
            self.scans[name] = scan(m)
        if progress:
            progress(len(matrices), len(matrices), "")
        return self

    @property
    def matrices(self) -> dict[str, Matrix]:
        return self.layout.matrices

    @property
    def convention(self) -> str:
        """How its scales of matrices and inputs are stored: "multipliers", "divisors", or both."""
        kinds = {s.divides for m in self.matrices.values() for s in (m.weight, m.input) if s}
        words = [word for divides, word in ((False, "multipliers"), (True, "divisors")) if divides in kinds]
        return " and ".join(words) or "no scale but those of blocks"

    @cached_property
    def stored(self) -> dict[str, dict[str, float | None]]:
        """Scales as they are stored: "weight" and "input" -> module -> number, None where there is none."""
        rows = self.matrices.items()
        return {"weight": {n: value(m.weight) for n, m in rows}, "input": {n: value(m.input) for n, m in rows}}

    @cached_property
    def scales(self) -> dict[str, dict[str, float | None]]:
        """Module -> {"weight", "input"}: what decoding multiplies with, whatever the convention; None where absent.

        An input's is that of `Recipe(per_token=False)`'s decode scale: encode_scale = 1 / it, amax = 2688 * it.
        """
        weight, inputs = self.stored["weight"], self.stored["input"]
        return {
            n: {"weight": multiplier(m.weight, weight[n]), "input": multiplier(m.input, inputs[n])}
            for n, m in self.matrices.items()
        }

    @property
    def ignored(self) -> list[str]:
        """Modules, as patterns of the config, that stay in high precision."""
        return list(self.config.ignore)

    @cached_property
    def findings(self) -> list[Finding]:
        """What is wrong, errors first, then by layer."""
        multipliers = {w: {n: s[w] for n, s in self.scales.items()} for w in ("weight", "input")}
        seen = Evidence(self.layout, self.config, self.scans, self.stored, multipliers)
        found = self._early + check_structure(seen) + check_scales(seen)
        return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), f.code))

    def findings_of(self, module: str) -> list[Finding]:
        """The findings about one matrix: about itself, its tensors, or a fused group that it is in."""
        m = self.matrices[module]
        names = {module, m.tensor, m.kind, *(s.name for s in (m.weight, m.input) if s and s.entry.numel == 1)}
        names |= {f"{s.name}[{s.index}]" for s in (m.weight, m.input) if s}
        return [f for n in names for f in self._by_name.get(n, ())] + [
            f for f in self._by_name.get(m.parent, ()) if m.leaf in f.tensor.partition(": ")[2].split(" and ")
        ]

    @cached_property
    def _by_name(self) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for f in self.findings:
            found.setdefault(f.tensor.partition(": ")[0], []).append(f)
        return found

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(f.severity == "error" for f in self.findings)

    @cached_property
    def made_with(self) -> dict[str, str]:
        """Module -> the recipe that its codes tell, such as "standard, 448" or "4over6, 256"."""
        shared = {}
        for group in fused(self.matrices):
            shared |= dict.fromkeys((m.name for m in group), max(self.scans[m.name].largest for m in group))
        return {n: _recipe(s, shared.get(n, s.largest)) for n, s in self.scans.items()}

    @property
    def recipe(self) -> Recipe:
        """The recipe that most of its matrices were made with, as far as their codes tell; one scale a matrix."""
        made = Counter(self.made_with.values()).most_common(1)[0][0]
        four = made.startswith("4over6")
        ceiling = 256.0 if made.endswith(" 256") else 448.0
        return Recipe(ceiling, four_over_six=four, err_mode="MSE" if four else "MAE", per_token=False)

    def by_layer(self, values: Mapping[str, float], worst: Callable = max) -> dict[str, dict[int, float]]:
        """Numbers of modules as kind -> layer -> number, the worst of experts and of what has no layer (-1)."""
        found: dict[str, dict[int, list[float]]] = {}
        for name, v in values.items():
            m = self.matrices[name]
            found.setdefault(m.kind, {}).setdefault(-1 if m.layer is None else m.layer, []).append(v)
        return {kind: {layer: worst(v) for layer, v in sorted(row.items())} for kind, row in found.items()}

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Module -> decoded weight, float32 [N, K], read when it is asked for."""
        return Weights(self.matrices)

    def table(self):
        """A pandas DataFrame with a row a matrix."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict]:
        """The rows of the table as plain dictionaries."""
        return [self._row(n) for n in self.matrices]

    def _row(self, name: str) -> dict:
        m, s, scale = self.matrices[name], self.scans[name], self.scales[name]
        return {
            "module": name, "layer": m.layer, "kind": m.kind, "expert": m.expert, "rows": len(m.rows),
            "features": m.features, "weight_scale": scale["weight"], "input_scale": scale["input"],
            "input_amax": None if scale["input"] is None else scale["input"] * FULL, "blocks": s.blocks,
            "largest_block_scale": s.largest, "at_448": s.at_448, "scale_subnormal": s.subnormal, "scale_zero": s.zero,
            "four_share": s.four_share, "made_with": self.made_with[name], "expected_nmse": s.nmse,
            "findings": len(self.findings_of(name)),
        }  # fmt: skip

    def to_dict(self) -> dict:
        """All of it as plain data, for JSON: NaN and infinity as text."""
        rows = [{k: _plain(v) for k, v in row.items()} for row in self.rows()]
        return {
            "format": FORMAT, "path": str(self.path), "files": self.files, "producer": self.config.producer,
            "algorithm": self.config.algorithm, "convention": self.convention, "ignored": self.ignored, "ok": self.ok,
            "findings": [f.to_dict() for f in self.findings], "matrices": rows,
        }  # fmt: skip

    def __repr__(self) -> str:
        kinds = Counter(f.severity for f in self.findings)
        found = ", ".join(quantity(kinds[s], s) for s in SEVERITIES if kinds[s]) or "no finding"
        made = Counter(self.made_with.values()).most_common(1)[0][0]
        by = f" by {self.config.producer}" if self.config.producer else ""
        return (
            f"Checkpoint({self.path.name!r}: {len(self.matrices):,} NVFP4 matrices{by}, {made}; scales are "
            f"{self.convention}; {found}; .findings says what, .table() has the numbers)"
        )

    def _repr_html_(self) -> str:
        rows = [[f.severity, f.code, f.tensor, f.value] for f in self.findings]
        return html_table("Checkpoint", rows, ("severity", "finding", "where", "seen") if rows else (), repr(self))


class Weights(Mapping):
    """Module -> decoded weight [N, K], each read when it is asked for."""

    def __init__(self, matrices: dict[str, Matrix]):
        self._matrices = {n: m for n, m in matrices.items() if m.scales is not None}
        self.sources: list[dict] = []

    def __getitem__(self, name: str) -> Tensor:
        m = self._matrices[name]
        return torch.cat([decode(m, first, stop) for first, stop in row_chunks(m, ROWS)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)


def checkpoint(path: str | os.PathLike, *, progress: Callable[[int, int, str], None] | None = None) -> Checkpoint:
    """Open an NVFP4 checkpoint and judge its scales.

    Args:
        path:     a folder of .safetensors files with its config, or one file: ModelOpt's, compressed-tensors' or
                  SGLang's names, experts by name or in stacks.
        progress: called with matrices done, matrices in all and the name of the next.
    Returns: Checkpoint. Block scales are read whole, 16 kB of codes a matrix, no weight; memory stays at some 10 MB.
    A shard that is missing or damaged is a finding, and the others are judged. Raises FileNotFoundError, TypeError for
    what is no path, ValueError of one line for files of which none can be read or that hold no NVFP4 weight.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"checkpoint takes a path, not a {type(path).__name__}: a checkpoint's folder, or a file of it")
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    files, listed = list_files(path)
    entries, findings, lost = _entries(path, files, listed)
    findings += [outside(file) for file in files if leaves(file, folder)]
    findings += unlike(listed, entries, lost)
    config, _ = read_config(folder)
    if path.is_dir() and not config.found:
        findings.append(unconfigured(folder))
    sources = [{"path": str(f), "bytes": f.stat().st_size} for f in files if f.name not in lost]
    return Checkpoint(path, entries, config, sources, findings).scan(progress)


def _entries(path: Path, files: list[Path], listed: dict[str, str]) -> tuple[dict[str, Entry], list[Finding], set[str]]:
    """Tensors by name, what is wrong with the files, and the names of those that could not be read."""
    entries: dict[str, Entry] = {}
    findings, lost, first = [], set(), None
    for file in files:
        try:
            if not file.is_file():
                raise FileNotFoundError("the index lists it, the folder lacks it")
            found, _ = read_header(file)
        except (ValueError, OSError) as error:
            findings.append(unread(file, listed, str(error)))
            lost.add(file.name)
            first = first or error
            continue
        for name in found.keys() & entries.keys():
            findings.append(twice(name, entries[name].path, file))
        entries |= found
    if first is not None and not entries:
        check_there(path, files)
        raise first
    return entries, findings, lost


def _recipe(s: Scan, largest: float) -> str:
    """What the codes and the largest block scale of a fused group tell."""
    if not s.largest_code.sum():
        return "unknown"
    if s.four_share + s.six_share < 0.9:
        return "searched scales"  # largest codes of all sizes: not from amax
    four = s.four_share > FOUR
    # under a ceiling of 256, a block that maps its amax to 4 has a scale of up to 384
    ceiling = "448" if largest > 400 else "256" if 240 <= largest <= (384 if four else 272) else None
    return f"{'4over6' if four else 'standard'}, " + (ceiling or f"largest block scale {largest:g}")


def _plain(v):
    return str(v) if isinstance(v, float) and not abs(v) < float("inf") else v


def scales(path: str | os.PathLike) -> dict[str, dict[str, float | None]]:
    """Module -> {"weight", "input"}: the decode multipliers of a checkpoint; of headers and scales alone.

    None where the checkpoint has none. A static input's encode scale is the inverse of its multiplier.
    """
    return _unscanned(path).scales


def ignored(path: str | os.PathLike) -> list[str]:
    """Patterns of the modules that a checkpoint leaves in high precision, from its configuration."""
    return _unscanned(path).ignored


def _unscanned(path: str | os.PathLike) -> Checkpoint:
    path = Path(path).expanduser()
    config, _ = read_config(path if path.is_dir() else path.parent)
    return Checkpoint(path, open_files(path)[0], config, [], [])
