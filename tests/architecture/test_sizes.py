"""Nothing grows past what one can hold in the head."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "nvfp4viz"
CORE = ("nvfp4", "stats", "plots", "catalog.py", "files.py", "__init__.py", "engine/base.py", "engine/dispatch.py",
        "engine/reference.py", "activations/load.py", "analysis/sweep.py", "analysis/verdict.py",
        "analysis/provenance.py")  # fmt: skip
CORE_LINES = 3000
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


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of each function of a file of Python or CUDA."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".cu":
        yield from _cuda_functions(text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


# a string, a comment, or a preprocessor's line with those that continue it: braces in them match nothing
NO_CODE = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', re.DOTALL | re.MULTILINE)


def _cuda_functions(text: str) -> Iterator[tuple[str, int]]:
    """A function is a brace behind a parenthesis, in no other function, up to the brace that matches it."""
    code = NO_CODE.sub(lambda m: "\n" * m[0].count("\n"), text)
    depth, start, name, outer = 0, 0, None, 0
    for found in re.finditer(r"[{};]", code):
        if name is None:
            head = code[start : found.start()]
            if found[0] == "{" and re.search(r"\)(\s*const)?\s*$", head):
                name, outer = re.findall(r"(\w+)\(", head)[-1], depth
                first = start + len(head) - len(head.lstrip())
            start = found.end()
        depth += {"{": 1, "}": -1, ";": 0}[found[0]]
        if name is not None and found[0] == "}" and depth == outer:
            yield name, code.count("\n", first, found.end()) + 1
            name, start = None, found.end()
    assert depth == 0, f"{depth} braces are open at the end"


def _code() -> list[Path]:
    return [*_python(PACKAGE), *sorted(PACKAGE.rglob("*.cu"))]


def test_the_reader_of_cuda_sees_functions():
    text = """
#define TWICE(X) { X \\
    X }
struct Pair { int a[2]; __device__ int sum() const { return a[0] + a[1]; } };
constexpr int EMPTY[] = {};
// a comment {
__device__ int add(int (&a)[2],
                   int b) {
    if (b) { b += 1; }
    return printf("{"), a[0] + b;
}
extern "C" __global__ void __launch_bounds__(32) kernel(Job job) {}
"""
    assert list(_cuda_functions(text)) == [("sum", 1), ("add", 5), ("kernel", 1)]
    assert {"analyze.cu", "binding.cu"} <= {p.name for p in _code()}


def test_modules_are_short():
    long = {p.relative_to(PACKAGE).as_posix(): _lines(p) for p in _code() if _lines(p) > MODULE_LINES}
    assert not set(long) - LONG, long


def test_functions_are_short():
    long = {}
    for path in _code():
        for name, lines in _functions(path):
            if lines > FUNCTION_LINES:
                long[f"{path.relative_to(PACKAGE).as_posix()}:{name}"] = lines
    assert not set(long) - LONG, long
    assert len(LONG) <= 3
