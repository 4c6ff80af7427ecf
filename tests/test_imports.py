"""Imports point one way, read off the source; heavy packages stay where they belong and come in only when asked for."""

import ast
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nvfp4viz"
MODULES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): p
    for p in sorted(PACKAGE.rglob("*.py"))
}  # "" is the package itself
SPINE = ("formats", "recipe", "arithmetic", "quantized", "stats", "engines", "sweep", "plots", "html", "cli")
BACK = {("recipe", "environment")}  # Recipe's own conveniences, imported when they are called
LONGEST = 600  # lines, where the aim is 250: more is two modules

# package -> who may import it, at the top or inside a function
HOMES = {
    "matplotlib": {m for m in MODULES if m.startswith("plots")},
    "ipywidgets": {"explorer", "laboratory", "export"},  # export collects a notebook's widgets
    "anywidget": {"explorer", "laboratory"},
    "numba": {"engines.cpu", "engines.cpu_kernels", "engines.cpu_errors"},
    "flashinfer": {"engines.flashinfer", "engines.flashinfer_portable", "envrecipes"},  # envrecipes makes its config
    "cuda": {"engines.nvrtc"},
    "triton": set(),
    "IPython": {"explorer", "laboratory"},
}
LATE = (
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "IPython",
    "flashinfer",
    "transformers",
    "pandas",
    "triton",
    "jupyterlab",
)


@cache
def _imports(name: str) -> frozenset[str]:
    """What a module imports, lazily too: modules of ours as "stats", others as "/torch"."""
    package = [part for part in name.split(".") if part]
    package = package if MODULES[name].name == "__init__.py" else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {"/" + alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add("/" + node.module)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            target = ".".join(start)
            inner = {f"{target}.{alias.name}".lstrip(".") for alias in node.names} & set(MODULES)
            found |= inner or {target}
    found = {f.removeprefix("/nvfp4viz").lstrip(".") if f.startswith("/nvfp4viz") else f for f in found}
    return frozenset(found - {"", name})  # of the package itself, modules take __version__


def _ours(name: str) -> set[str]:
    return {i for i in _imports(name) if not i.startswith("/")} - {b for a, b in BACK if a == name}


@cache
def _reach(name: str) -> frozenset[str]:
    """All modules of ours that a module needs, also through others."""
    seen, todo = set(), [name]
    while todo:
        for inner in _ours(todo.pop()) - seen:
            seen.add(inner)
            todo.append(inner)
    return frozenset(seen)


def test_the_reader_of_imports_sees_them():
    assert {"formats", "recipe"} <= _ours("arithmetic") and "/torch" in _imports("formats")
    assert "stats" in _ours("engines") and "quantized" in _ours("engines.reference")
    assert "html" in _ours("cli") and "plots" in _ours("html")  # one is inside a function
    assert {"recipe", "stats"} <= _reach("html")
    assert set(SPINE) <= set(MODULES) and {a for pair in BACK for a in pair} <= set(MODULES)


def test_every_import_of_ours_exists():
    assert {(name, i) for name in MODULES for i in _ours(name) if i not in MODULES} == set()


def test_no_imports_go_round_in_a_circle():
    package = {"engines"}  # what `engines/__init__.py` chooses among imports nothing from it
    circles = {m for m in MODULES if m and m in _reach(m)} - package
    assert not circles


@pytest.mark.parametrize("low", range(len(SPINE) - 1))
def test_imports_point_down_the_spine(low):
    above = set(SPINE[low + 1 :])
    assert not _reach(SPINE[low]) & above, f"{SPINE[low]} needs what is built on it"


@pytest.mark.parametrize("package", HOMES)
def test_packages_stay_at_home(package):
    users = {m for m in MODULES if any(i == f"/{package}" or i.startswith(f"/{package}.") for i in _imports(m))}
    assert users <= HOMES[package]


def _python(program: str) -> str:
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_the_package_brings_in_nothing_heavy():
    loaded = _python(f"""
        import sys, nvfp4viz
        print(*[m for m in {LATE!r} if m in sys.modules])
    """)
    assert loaded == ""


def test_the_package_works_without_flashinfer_jupyter_and_matplotlib():
    """As on macOS, or in a training container."""
    result = _python(f"""
        import sys
        for name in {LATE!r}:
            sys.modules[name] = None  # import raises ImportError
        import torch, nvfp4viz
        x = torch.ones(4, 32)
        q = nvfp4viz.quantize(x, "4/6-mse-256", engine="reference")
        s = nvfp4viz.sweep(x, engine="reference")
        assert nvfp4viz.measure(x, q).nmse == 0
        print(s.tensors, any(e["name"] == "reference" and e["available"] for e in nvfp4viz.engines()))
    """)
    assert result == "['activations'] True"


def test_every_public_name_is_there():
    import nvfp4viz

    assert all(hasattr(nvfp4viz, name) for name in nvfp4viz.__all__)
    assert set(nvfp4viz.__all__) <= set(dir(nvfp4viz))
    with pytest.raises(AttributeError, match=r"module 'nvfp4viz' has no attribute 'quantise'"):
        nvfp4viz.quantise  # noqa: B018


def test_modules_stay_readable_in_one_sitting(capsys):
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    total = sum(lines.values())
    with capsys.disabled():
        longest = ", ".join(f"{name} {lines[name]}" for name in sorted(lines, key=lines.get)[:-4:-1])
        print(f"\nnvfp4viz: {total:,} lines of Python in {len(lines)} modules, the longest {longest}")
    assert not {name: n for name, n in lines.items() if n > LONGEST}
