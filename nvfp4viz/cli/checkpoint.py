"""`nvfp4viz checkpoint DIR`: whether a quantized checkpoint's scales are right, and whether they fit one's traffic."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ..checkpoints import (
    BEST,
    SEVERITIES,
    STORED,
    Checkpoint,
    Comparison,
    Finding,
    Fit,
    Traffic,
    against,
    checkpoint,
    fit,
)
from ..files import check_target
from ..shown import printable as _printable
from ..shown import quantity
from .sweep import progress_bar

COLORS = {"error": "31", "warning": "33", "note": "36", "title": "1", "fine": "32"}
SHOWN = 3  # tensors of one finding that are named
INPUTS = 15  # inputs that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="folder of a quantized model, or one .safetensors file of it")
    parser.add_argument(
        "--against", metavar="DIR",
        help="the model that it was made from: how far its weights are off, and what each recipe would have left",
    )  # fmt: skip
    parser.add_argument(
        "--activations", nargs="+", metavar="FILE",
        help="recorded activations, or a saved sweep: what clips under the checkpoint's input scales, room left",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE", help="also write a page that opens offline, .html")
    parser.add_argument("--author", metavar="NAME", help="who made the page: stands beside its date")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar; findings only")
    parser.epilog = "Exit code: 0 well, 1 a finding is an error, 2 it could not run."


def run(arguments: argparse.Namespace) -> int:
    """Print what is found; 1 where a finding is an error, else 0."""
    if arguments.output:
        check_target(arguments.output)  # said before the work, not after it
    activations = _activations(arguments.activations) if arguments.activations else None
    with progress_bar(arguments.quiet or arguments.json) as progress:
        found = checkpoint(arguments.path, progress=progress)
        weights = against(found, arguments.against, progress=progress) if arguments.against else None
        traffic = fit(found, activations, progress=progress) if activations is not None else None
    more = [part for part in (weights, traffic) if part is not None]
    all_findings = sorted(
        (f for part in (found, *more) for f in part.findings), key=lambda f: (SEVERITIES.index(f.severity), f.code)
    )
    ok = not any(f.severity == "error" for f in all_findings)
    if arguments.json:
        values = found.to_dict() | {"ok": ok}
        values |= {name: part.to_dict() for name, part in (("against", weights), ("activations", traffic)) if part}
        print(json.dumps(values, indent=2, allow_nan=False))
    else:
        screen = Screen()
        lines = [] if arguments.quiet else [*report_lines(found, screen)]
        lines += [] if arguments.quiet or not weights else weights_text(found, weights, screen)
        lines += [] if arguments.quiet or not traffic else traffic_text(traffic, screen)
        print("\n".join([*lines, *findings(all_findings, screen)]))
    if arguments.output:
        from ..pages import report_checkpoint

        written = report_checkpoint(found, arguments.output, weights, traffic, author=arguments.author)
        print(written, file=sys.stderr if arguments.json else sys.stdout)
    return 0 if ok else 1


def _activations(files: list[str]):
    """Activations of files, or one saved sweep."""
    from ..activations import load
    from ..analysis import Sweep, is_saved

    saved = [f for f in files if is_saved(f)]
    if saved and len(files) > 1:
        raise ValueError(f"{saved[0]!r} is a saved sweep: give it alone")
    return Sweep.load(saved[0]) if saved else load(*files)


class Screen:
    """Width and colours of the terminal, and names of strangers as it may show them."""

    def __init__(self, width: int | None = None, color: bool | None = None):
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self.color = not plain if color is None else color
        self.width = width or max(60, min(110, shutil.get_terminal_size((100, 24)).columns))

    def paint(self, words: str, color: str) -> str:
        return f"\033[{COLORS[color]}m{words}\033[0m" if self.color else words

    def wrap(self, words: str, indent: int, first: str = "") -> list[str]:
        """Lines of a paragraph, the first behind `first` in the indentation."""
        lines = textwrap.wrap(printable(words), max(30, self.width - indent), break_long_words=False) or [""]
        return [first.ljust(indent) + lines[0], *(" " * indent + line for line in lines[1:])]


def printable(name: str, limit: int = 200) -> str:
    """A stranger's words with nothing that a terminal obeys, and not without end."""
    words = name if len(name) <= limit else name[: limit // 2 - 1] + "…" + name[-limit // 2 :]
    return _printable(words)


def report_lines(found: Checkpoint, screen: Screen) -> Iterator[str]:
    """All that is said of a checkpoint, in lines."""
    yield screen.paint(f"Checkpoint {printable(str(found.path))}", "title")
    yield from (line for label, words in _summary(found) for line in screen.wrap(words, 14, f"  {label}"))
    yield ""
    yield screen.paint("Block scales, by kind of matrix", "title")
    yield from _kinds(found)
    if any(f.severity != "note" for f in found.findings):
        yield from _map(found, screen)
    yield ""


def _summary(found: Checkpoint) -> Iterator[tuple[str, str]]:
    config = found.config
    if config.found:
        yield "made by", " ".join(filter(None, (config.producer or config.method, config.algorithm)))
    elements = sum(len(m.rows) * m.features for m in found.matrices.values())
    experts = {m.expert for m in found.matrices.values()} - {None}
    layers = {m.layer for m in found.matrices.values()} - {None}
    where = f" in {_many(len(layers), 'layer')}" if layers else ""
    where += f", {_many(len(experts), 'expert')} each" if experts else ""
    yield "quantized", f"{_many(len(found.matrices), 'matrix')}{where}; {_count(elements)} weights"
    kept = {n.removesuffix(".weight"): e.dtype for n, e in found.layout.plain.items() if len(e.shape) > 1}
    high = [n for n, dtype in kept.items() if dtype in ("BF16", "F16", "F32", "F64")]
    if high:
        yield "kept", f"{len(high)} in high precision: {_some(high)}"
    for dtype in sorted(set(kept.values()) - {"BF16", "F16", "F32", "F64"}):
        others = [n for n in kept if kept[n] == dtype]
        yield "other", f"{len(others)} as {dtype}, not NVFP4 and not looked at: {_some(others)}"
    inputs = sum(m.input is not None for m in found.matrices.values())
    yield "scales", f"stored as {found.convention}; {_inputs(inputs, len(found.matrices))}"


def _inputs(there: int, of: int) -> str:
    if not there:
        return "none for inputs: engines take them per token, or leave inputs in high precision"
    return f"inputs have a static one {'each' if there == of else f'in {there:,} of {of:,} matrices'}"


def _many(number: int, what: str) -> str:
    plural = "matrices" if what == "matrix" else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _count(number: float) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def _some(names: list[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(printable, names[:shown])) + more


def _kinds(found: Checkpoint) -> Iterator[str]:
    """A row a kind of matrix: what it was made with, and the shares of block scales at E4M3's ends."""
    kinds = defaultdict(list)
    for name, m in found.matrices.items():
        kinds[m.kind].append(name)
    rows = [("kind", "matrices", "made with", "largest", "at 448", "subnormal", "zero")]
    for kind, names in kinds.items():
        scans = [found.scans[n] for n in names]
        total = max(1, sum(s.blocks for s in scans))
        made = sorted({found.made_with[n] for n in names}, key=len)
        shares = [sum(int(s.histogram[a:b].sum()) for s in scans) / total for a, b in ((126, 127), (1, 8), (0, 1))]
        largest = max(s.largest for s in scans)
        rows.append((printable(kind), f"{len(names):,}", made[0] if len(made) == 1 else f"{len(made)} kinds",
                     f"{largest:g}", *map(_percent, shares)))  # fmt: skip
    yield from columns(rows, left=(0, 2))


def weights_text(found: Checkpoint, compared: Comparison, screen: Screen) -> Iterator[str]:
    """Signal to noise of the weights by kind, as stored and as each recipe would have left it."""
    yield screen.paint("Weights against the original: signal to noise in dB", "title")
    kinds = defaultdict(list)
    for name in compared.stats:
        kinds[found.matrices[name].kind].append(name)
    names = list(next(iter(compared.stats.values())))
    best = [BEST] if compared.best else []
    rows = [("kind", "matrices", *(n if n != STORED else "as stored" for n in names), *best, "worst as stored")]
    for kind, modules in kinds.items():
        pooled = [compared.pooled_db(modules, n) for n in (*names, *best)]
        worst = min(modules, key=lambda n: compared.stats[n][STORED].sqnr_db)
        m = found.matrices[worst]
        where = ", ".join(f"{w} {n}" for w, n in (("layer", m.layer), ("expert", m.expert)) if n is not None)
        low = f"{compared.stats[worst][STORED].sqnr_db:.2f}" + (f" ({where})" if where else "")
        rows.append((printable(kind), f"{len(modules):,}", *(f"{db:.2f}" for db in pooled), low))
    yield from columns(rows)
    yield from _left_out(compared.unmatched, "of the matrices", screen)
    yield ""


def traffic_text(traffic: Traffic, screen: Screen) -> Iterator[str]:
    """The inputs that lose most to the checkpoint's scales, or have least headroom."""
    yield screen.paint("Activations under the checkpoint's input scales", "title")
    yield from screen.wrap("headroom: how many times the largest value seen fits before it clips. static, best static, "
                           "per token: signal to noise of a typical token in dB, standard NVFP4", 2)  # fmt: skip
    rows = [("input", "headroom", "saturated", "clipped", "subnormal", "static", "best static", "per token")]
    ordered = sorted(traffic.rows, key=lambda r: (-(r.loss_db or 0), r.headroom))
    for r in ordered[:INPUTS]:
        shares = [_percent(getattr(r.static, n)) if r.static else "–"
                  for n in ("scale_saturated", "element_clipped", "scale_subnormal")]  # fmt: skip
        sqnr = ["–" if s is None else f"{s.token_sqnr_db:.2f}" for s in (r.static, r.best, r.per_token)]
        rows.append((printable(_input_name(r, traffic)), f"{r.headroom:.3g}", *shares, *sqnr))
    yield from columns(rows)
    if len(ordered) > INPUTS:
        yield f"  and {len(ordered) - INPUTS:,} more that lose less; --json has all"
    yield from _left_out(traffic.unmatched, "of the tensors", screen)
    yield ""


def _input_name(row: Fit, traffic: Traffic) -> str:
    """The tensor's name, with the module's where one tensor feeds several."""
    several = sum(r.tensor == row.tensor for r in traffic.rows) > 1
    name = f"{row.tensor} → {row.modules[0]}" if several else row.tensor
    return name if len(name) <= 48 else "…" + name[-47:]


def _left_out(unmatched: dict[str, str], what: str, screen: Screen) -> Iterator[str]:
    if unmatched:
        name, why = next(iter(unmatched.items()))
        yield from screen.wrap(f"not compared, {len(unmatched):,} {what}: {name}: {why}", 2)


def _percent(share: float) -> str:
    return "0" if not share else f"{share:.2%}" if share >= 0.0001 else "< 0.01%"


def columns(rows: Iterable[tuple[str, ...]], left: tuple[int, ...] = (0,), indent: int = 2) -> Iterator[str]:
    """A table: the columns `left` aligned there, numbers right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield (" " * indent + "  ".join(cells)).rstrip()


def _map(found: Checkpoint, screen: Screen) -> Iterator[str]:
    """Kinds of matrices by layers, with a letter where a finding is."""
    layers = sorted({m.layer for m in found.matrices.values()} - {None})
    if len(layers) < 2:
        return
    worst: dict[tuple, int] = {}
    for name in found.matrices:
        for f in found.findings_of(name):
            m = found.matrices[name]
            at = (m.kind, m.layer)
            worst[at] = min(worst.get(at, 9), SEVERITIES.index(f.severity))
    kinds = list(dict.fromkeys(kind for kind, _ in worst))
    if not kinds:
        return
    width = max(len(printable(k)) for k in kinds)
    each = max(1, -(-len(layers) // max(10, screen.width - width - 6)))  # layers a letter
    yield from ("", screen.paint(f"Findings by layer, {layers[0]} to {layers[-1]}", "title")
                + (f", {each} layers a letter" if each > 1 else ""))  # fmt: skip
    for kind in kinds:
        row = ""
        for i in range(0, len(layers), each):
            at = min((worst.get((kind, la), 9) for la in layers[i : i + each]), default=9)
            row += screen.paint("EWn"[at], SEVERITIES[at]) if at < 9 else "·"
        yield f"  {printable(kind).ljust(width)}  {row}"


def findings(found: list[Finding], screen: Screen) -> Iterator[str]:
    """Findings in lines, those of one kind together, and how many there are."""
    groups: dict[tuple, list[Finding]] = defaultdict(list)
    for f in found:
        groups[f.severity, f.code].append(f)
    if groups:
        yield screen.paint("Findings", "title")
    for (severity, code), group in groups.items():
        many = f", {len(group):,} times" if len(group) > 1 else ""
        yield f"  {screen.paint(severity.ljust(7), severity)}  {code.replace('-', ' ')}{many}"
        for f in group[:SHOWN]:
            yield f"           {printable(f.tensor)}" + (f"  {printable(f.value, 60)}" if f.value else "")
        if len(group) > SHOWN:
            yield f"           and {len(group) - SHOWN:,} more; --json has all"
        first = group[0]
        for label, words in (("", first.message), ("then:", first.engine), ("fix:", first.fix)):
            yield from screen.wrap(words, 17 if label else 11, " " * 11 + label)
        yield ""
    counts = [sum(f.severity == s for f in found) for s in SEVERITIES]
    words = [quantity(n, s) for n, s in zip(counts, SEVERITIES, strict=True) if n]
    yield ", ".join(words) if words else screen.paint("Nothing to mend.", "fine")
