"""Tables of speeds, printed and kept in docs/ with the machine, the date and the versions."""

import datetime
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import torch

DOCS = Path(__file__).parents[2] / "docs"


@dataclass
class Table:
    caption: str  # what was measured, and how
    columns: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        table = [self.columns, ["---"] * len(self.columns), *self.rows]
        return [self.caption, "", *("| " + " | ".join(row) + " |" for row in table), "",
                *(line for note in self.notes for line in (note, ""))]  # fmt: skip


def cpu_name() -> str:
    """Model and cores of this machine's CPU."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def publish(file: str, machine: str, *tables: Table) -> None:
    """Print tables and write them to docs/`file`."""
    lines = [f"# {machine}, {datetime.date.today()}", "", f"PyTorch {torch.__version__}.", ""]
    text = "\n".join([*lines, *(line for t in tables for line in t.lines())]).rstrip() + "\n"
    print("\n" + text)
    (DOCS / file).write_text("<!-- Written by `make bench`. -->\n" + text, encoding="utf-8")


def put(file: str, name: str, *tables: Table, write: bool = True) -> None:
    """Print tables; if `write`, put them into docs/`file`, between the comments <!-- name --> and <!-- /name -->."""
    text = "\n".join(line for t in tables for line in t.lines()).rstrip()
    print("\n" + text)
    if not write:
        return
    page = (DOCS / file).read_text(encoding="utf-8")
    before, opening, rest = page.partition(f"<!-- {name} -->")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not opening or not closing:
        raise ValueError(f"docs/{file} has no place for {name}: write <!-- {name} --> and <!-- /{name} --> into it")
    (DOCS / file).write_text(f"{before}{opening}\n{text}\n{closing}{after}", encoding="utf-8")
