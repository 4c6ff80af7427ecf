"""Nothing grows past what one can hold in the head."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "nvfp4viz"
CORE = ("nvfp4", "stats", "plots", "catalog.py", "files.py", "__init__.py", "engine/__init__.py", "engine/base.py",
        "engine/dispatch.py", "engine/reference.py", "activations/load.py", "analysis/sweep.py", "analysis/verdict.py",
        "analysis/provenance.py")  # fmt: skip
CORE_LINES = 3550  # the aim is 3,000
MODULE_LINES, FUNCTION_LINES = 330, 45
LONG = {"engine/cpu/errors.py:attribute"}  # longer, at most three: this is one compiled loop over all quantizers


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _python(where: Path) -> list[Path]:
    return [where] if where.suffix == ".py" else sorted(where.rglob("*.py"))


def test_the_core_can_be_read_in_one_sitting(capsys):
    lines = {part: sum(map(_lines, _python(PACKAGE / part))) for part in CORE if (PACKAGE / part).exists()}
    total = sum(map(_lines, PACKAGE.rglob("*.py")))
    with capsys.disabled():
        print(f"\nnvfp4viz: {total:,} lines of Python, of them {sum(lines.values()):,} in the core")
    assert sum(lines.values()) <= CORE_LINES, lines


def test_modules_are_short():
    long = {p.relative_to(PACKAGE).as_posix(): _lines(p) for p in _python(PACKAGE) if _lines(p) > MODULE_LINES}
    assert not set(long) - LONG, long


def test_functions_are_short():
    long = {}
    for path in _python(PACKAGE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{path.relative_to(PACKAGE).as_posix()}:{node.name}"] = lines
    assert not set(long) - LONG, long
    assert len(LONG) <= 3
