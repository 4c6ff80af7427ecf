"""The doctor's report in lines, for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from ..environment import PROGRAMS, SEVERITIES

COLORS = {"error": "31;1", "warning": "33", "note": "36", "yes": "32", "fix": "32", "bold": "1", "dim": "2"}


def printable(line: str) -> str:
    """Control characters and broken bytes of a stranger's file spelt out; our own colours stay."""
    return re.sub(
        r"(?!\033\[[\d;]+m)[\x00-\x1f\x7f-\x9f\xa0\u200b-\u200f\u2028-\u202e\ud800-\udfff\ufeff]",
        lambda m: repr(m[0])[1:-1],
        line,
    )


class _Page:
    def __init__(self, width: int, color: bool):
        self.width, self.color = width, color

    def paint(self, words: str, style: str) -> str:
        return f"\033[{COLORS[style]}m{words}\033[0m" if self.color and words else words

    def wrapped(self, words: str, indent: int, first: str = "") -> Iterator[str]:
        """Lines under a hanging indent; `first` stands in it."""
        lines = textwrap.wrap(words, max(24, self.width - indent), break_long_words=False, break_on_hyphens=False) or [
            ""
        ]
        yield (first + " " * max(0, indent - _length(first)) + lines[0]).rstrip()
        yield from (" " * indent + line for line in lines[1:])

    def rows(self, pairs: Iterable[tuple[str, str]], indent: int = 2) -> Iterator[str]:
        pairs = list(pairs)
        column = max((len(a) for a, _ in pairs), default=0)
        for a, b in pairs:
            yield from self.wrapped(b, indent + column + 2, " " * indent + a)


def _length(words: str) -> int:
    return len(re.sub(r"\033\[[\d;]+m", "", words))


def report_lines(report: dict, width: int = 88, color: bool = False) -> Iterator[str]:
    """The report: the machine, where it was asked for, then each environment, then one line that sums up."""
    page = _Page(width, color)
    if "versions" in report:
        yield from _machine(report, page)
        yield ""
    printed: set[tuple] = set()
    for i, environment in enumerate(report["environments"]):
        yield from ([""] if i else [])
        yield from _environment(environment, page, printed)
    yield ""
    yield from _sum(report, page)


def _machine(report: dict, page: _Page) -> Iterator[str]:
    gpu = [("gpu", f"{g['name']}, compute capability {g['capability']}") for g in report["gpus"]]
    yield "Versions"
    yield from page.rows([*report["versions"].items(), *(gpu or [("gpu", "none that torch can use")])])
    yield from ("", "Engines")
    for row in report["engines"]:
        mark = page.paint("yes", "yes") if row["available"] else "no "
        yield from page.wrapped(row["why_not"] or "", 29, f"  {row['name']:20}  {mark}")


def _environment(e: dict, page: _Page, printed: set[tuple]) -> Iterator[str]:
    yield from (page.paint(line, "bold") for line in textwrap.wrap(e["name"], page.width, break_long_words=False))
    yield from _variables(e, page)
    yield from _runs(e, page)
    for group, f in _grouped(e["findings"]):
        if f["severity"] == "note" and not any(v in f["message"] for v in ("only named", "in a comment")):
            if (f["variable"], f["message"]) in printed:
                continue  # said of an environment before
            printed.add((f["variable"], f["message"]))
        yield from _finding(group, f, page)


def _variables(e: dict, page: _Page) -> Iterator[str]:
    """What is set, with its line; "?" marks what the text does not settle."""
    names = {**e["variables"], **{n: v["written"] for n, v in e["unsettled"].items()}}
    rows = []
    for name, value in sorted(names.items(), key=lambda pair: e["lines"].get(pair[0], 0)):
        shown = "(the caller's)" if value == name else f"{value!r}" if value != value.strip() or not value else value
        rows.append((name, shown + ("  ?" if name in e["unsettled"] else ""), e["lines"].get(name)))
    column = max((len(n) for n, *_ in rows), default=0)
    values = min(max((len(v) for _, v, _ in rows), default=0), 24)
    for name, value, line in rows:
        where = page.paint(f"  line {line}", "dim") if line else ""
        yield f"  {name.ljust(column)}  {value.ljust(values) if where else value}{where}".rstrip()


def _runs(e: dict, page: _Page) -> Iterator[str]:
    if not (e["variables"] or e["unsettled"] or e["program"] or e["findings"]):
        first = next(s for s in e["ways"][0]["sites"] if s["program"] == "flashinfer")
        yield from page.wrapped(f"sets none of the NVFP4 variables: FlashInfer runs {first['recipe']}", 2, "  ")
    elif len(e["ways"]) > 1:
        yield from _by_way(e, page)
    else:
        if not e["settled"]:
            yield "  not settled; if nothing else sets the variables, this runs"
        sites = [s for s in e["ways"][0]["sites"] if s["recipe"] or s["error"]]
        yield from _sites([(_label(s), s) for s in sites], page)


def _label(site: dict) -> str:
    return f"{PROGRAMS[site['program']]}, {site['place']}"


def _by_way(e: dict, page: _Page) -> Iterator[str]:
    """One site under each of the values that the text leaves open."""
    rows, place = [], ""
    for way in e["ways"]:
        sites = [s for s in way["sites"] if s["recipe"] or s["error"]]
        if sites:
            place = place or _label(sites[0])
            rows.append((f"if {way['given']}", sites[0]))
    yield f"  not settled{': ' + place if place else ''}"
    yield from _sites(rows, page, 4)
    if e["more_ways"]:
        yield f"    and {e['more_ways']} more ways"


def _sites(rows: list[tuple[str, dict]], page: _Page, indent: int = 2) -> Iterator[str]:
    parts = [(name, *_recipe(s, page)) for name, s in rows]
    column = max((len(name) for name, *_ in parts), default=0)
    recipes = max((len(recipe) for _, recipe, _ in parts), default=0)
    wide = max((indent + column + 2 + recipes + _length(rest) for _, _, rest in parts), default=0)
    for name, recipe, rest in parts:
        if wide <= page.width:
            yield f"{' ' * indent}{name.ljust(column)}  {recipe.ljust(recipes)}{rest}".rstrip()
        else:
            yield from page.wrapped(name, indent + 2, " " * indent)
            yield f"{' ' * (indent + 4)}{recipe}{rest}".rstrip()


def _recipe(site: dict, page: _Page) -> tuple[str, str]:
    db = page.paint(f"  {site['sqnr_db']:.2f} dB", "dim") if site["sqnr_db"] is not None else ""
    return site["recipe"] or "raises an error", db + (page.paint("  mismatch", "error") if site["mismatch"] else "")


def _grouped(findings: list[dict]) -> Iterator[tuple[list[dict], dict]]:
    """Findings that say the same of several variables, together."""
    groups: dict[tuple, list[dict]] = {}
    for f in findings:
        plain = not f["readings"] and not f["fix"]
        groups.setdefault((f["severity"], f["message"]) if plain else (id(f),), []).append(f)
    return ((group, group[0]) for group in groups.values())


_SOURCES = ("source", ".", "env_file", "envFrom", "extends", "EnvironmentFile", "--env-file", "branches", "CR LF", "")


def _head(f: dict, page: _Page) -> str:
    if f["variable"] in _SOURCES:
        head = f["value"] or f["variable"]
    elif f["value"] is None:
        head = f["variable"] + ("" if f["line"] else ", not set")
    else:
        value = f["value"]
        head = f"{f['variable']}={value!r}" if value != value.strip() else f"{f['variable']}={value}"
    return head + (page.paint(f", line {f['line']}", "dim") if f["line"] else "")


def _readings(readings: dict[str, str]) -> dict[str, str]:
    """FlashInfer once, where its Python, its C++ and its CuTe-DSL kernels agree."""
    kernels = [c for c in ("FlashInfer Python", "FlashInfer C++ (CUDA)", "FlashInfer CuTe-DSL") if c in readings]
    if len(kernels) < 3 or len({readings[c] for c in kernels}) > 1:
        return readings
    return {"FlashInfer": readings[kernels[0]], **{c: r for c, r in readings.items() if c not in kernels}}


def _finding(group: list[dict], f: dict, page: _Page) -> Iterator[str]:
    indent = 11
    if f["severity"] == "note":
        heads = ", ".join(_head(one, page) for one in group)
        yield from page.wrapped(f"{heads}: {f['message']}", indent, "  " + page.paint("note", "note"))
        return
    yield ""
    yield from page.wrapped(_head(f, page), indent, "  " + page.paint(f["severity"], f["severity"]))
    for one in group[1:]:
        yield from page.wrapped(_head(one, page), indent)
    yield from page.wrapped(f["message"], indent)
    yield from page.rows(_readings(f["readings"]).items(), indent + 2)
    if f.get("cost"):
        yield from page.wrapped(f["cost"], indent + 6, " " * indent + "cost:")
    if f["fix"]:
        yield from page.wrapped(f["fix"], indent + 6, " " * indent + page.paint("fix:", "fix"))


def _sum(report: dict, page: _Page) -> Iterator[str]:
    found = [f["severity"] for e in report["environments"] for f in e["findings"]]
    counts = [f"{found.count(s)} {s}{'s' if found.count(s) > 1 else ''}" for s in SEVERITIES if s in found]
    anything = any(e["variables"] or e["unsettled"] or not e["settled"] for e in report["environments"])
    if any(
        s["sqnr_db"] is not None for e in report["environments"] if e["findings"] for w in e["ways"] for s in w["sites"]
    ):
        yield from page.wrapped(f"dB: SQNR on {report['costs_on']}.", 0)
    yield ", ".join(counts) if counts else "Every setting is read as it is written." if anything else "Nothing to mend."
