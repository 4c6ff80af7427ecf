"""Tables of speeds, printed and kept in docs/ with the machine, the date and the versions."""

import datetime
import os
import platform
import re
from pathlib import Path

import torch

DOCS = Path(__file__).parents[2] / "docs"


def cpu_name() -> str:
    """Model and cores of this machine's CPU."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def publish(file: str, machine: str, conditions: str, columns: list[str], rows: list[list[str]], notes=()) -> None:
    """Print a table and write it to docs/`file`."""
    table = [columns, ["---"] * len(columns), *rows]
    lines = [f"## {machine}, {datetime.date.today()}", "", f"{conditions} PyTorch {torch.__version__}.", ""]
    lines += ["| " + " | ".join(row) + " |" for row in table]
    for note in notes:
        lines += ["", note]
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    (DOCS / file).write_text("<!-- Written by `make bench`. -->\n" + text, encoding="utf-8")
