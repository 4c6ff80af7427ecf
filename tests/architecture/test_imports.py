"""Imports point one way and enter a wing through its face; heavy packages stay where they belong and come late."""

import ast
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "nvfp4viz"
MODULES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): p
    for p in sorted(PACKAGE.rglob("*.py"))
}  # "" is the package itself
FLOORS = (  # a wing imports from floors below its own
    {"files", "nvfp4", "shown", "web"}, {"stats", "activations", "environment"}, {"catalog", "engine"},
    {"checkpoints", "analysis"}, {"model", "plots"}, {"planning", "integrations"}, {"explorer"}, {"pages"}, {"cli"},
)  # fmt: skip
FLAT = {"", "files", "catalog"}  # modules that belong to no wing
FACE_LINES = 40

# package -> modules that may import it, at the top or inside a function
HOMES = {
    "matplotlib": {m for m in MODULES if m.startswith("plots")} | {"shown.pictures", "planning.figures"},
    "PIL": {"explorer.still"},
    "ipywidgets": {"explorer.widget", "explorer.laboratory", "pages.running"},  # collects a notebook's widgets
    "anywidget": {"explorer.widget", "explorer.laboratory"},
    "numba": {m for m in MODULES if m.startswith("engine.cpu")},
    "flashinfer": {"engine.flashinfer.engine", "engine.flashinfer.portable", "environment.recipes"},  # makes its config
    "cuda": {"engine.cuda.nvrtc"},
    "triton": set(),
    "IPython": {"explorer.widget", "explorer.laboratory", "explorer.stored"},
}
LATE = ("matplotlib", "PIL", "ipywidgets", "anywidget", "IPython", "flashinfer", "transformers", "pandas", "triton",
        "jupyterlab")  # fmt: skip


@cache
def _imports(name: str) -> frozenset[tuple[str, str]]:
    """What a module imports, lazily too, as (module or package, name): of ours ("stats.measure", "Stats"), of others
    ("/torch", ...)."""
    package = [part for part in name.split(".") if part]
    package = package if MODULES[name].name == "__init__.py" else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {("/" + alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {("/" + node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            for alias in node.names:
                inner, within = ".".join([*start, alias.name]), ".".join(start)
                module = inner in MODULES and alias.name not in _handed_on(within)
                found.add((inner, "") if module else (within, alias.name))
    return frozenset(found)


@cache
def _handed_on(face: str) -> frozenset[str]:
    """Names that a wing's face takes from its modules; a function hides the module of its name."""
    if MODULES[face].name != "__init__.py":
        return frozenset()
    nodes = [n for n in ast.parse(MODULES[face].read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom)]
    return frozenset(a.asname or a.name for n in nodes if n.module for a in n.names)


def _ours(name: str) -> set[str]:
    return {target for target, _ in _imports(name) if not target.startswith("/")} - {"", name}


def _wing(name: str) -> str:
    return name.split(".")[0]


def _upward() -> set[tuple[str, str]]:
    """Imports from a floor to the same floor's other wing, or to a higher one."""
    floor = {wing: i for i, wings in enumerate(FLOORS) for wing in wings}
    pairs = {(m, t) for m in MODULES if m for t in _ours(m) if _wing(m) != _wing(t)}
    return {(m, t) for m, t in pairs if floor[_wing(t)] >= floor[_wing(m)]}


def _past_the_face() -> set[tuple[str, str]]:
    return {(m, t) for m in MODULES if m for t in _ours(m) if _wing(m) != _wing(t) and "." in t}


def test_the_reader_of_imports_sees_them():
    assert {"nvfp4", "stats.additive"} <= _ours("stats.measure") and ("/torch", "") in _imports("nvfp4.e2m1")
    assert "engine" in _ours("analysis.sweep") and ("nvfp4", "Quantized") in _imports("stats.measure")
    assert "engine.cpu.analyze" in _ours("engine.cpu.engine")  # inside a function


def test_every_wing_has_a_floor_and_every_module_a_wing():
    assert {_wing(m) for m in MODULES if m} == set().union(*FLOORS)
    assert {m for m in MODULES if "." not in m and MODULES[m].name != "__init__.py"} | {""} == FLAT


def test_every_import_of_ours_exists():
    assert {(name, i) for name in MODULES for i in _ours(name) if i not in MODULES} == set()


def test_imports_point_down():
    assert _upward() == set()


def test_a_wing_is_entered_through_its_face():
    assert _past_the_face() == set()


def test_no_module_needs_itself():
    def reach(name):
        seen, todo = set(), [name]
        while todo:
            for inner in _ours(todo.pop()) - seen:
                if _wing(inner) == _wing(name) and MODULES[inner].name != "__init__.py":
                    seen.add(inner)
                    todo.append(inner)
        return seen

    assert {m for m in MODULES if m in reach(m)} == set()


def test_faces_only_hand_names_on():
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name:
            text = path.read_text(encoding="utf-8")
            assert len(text.splitlines()) < FACE_LINES, f"{name}: a face is short"
            defined = [n.name for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
            assert set(defined) <= {"__getattr__", "__dir__"}, f"{name}: a face defines nothing"


@pytest.mark.parametrize("package", HOMES)
def test_packages_stay_at_home(package):
    users = {m for m in MODULES if any(i == f"/{package}" or i.startswith(f"/{package}.") for i, _ in _imports(m))}
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


def test_every_subpackage_can_be_reached_by_attribute():
    """A function of the same name would hide it, as `nvfp4viz.engines` once did."""
    folders = [m for m in MODULES if m and MODULES[m].name == "__init__.py"]
    _python(f"""
        import types, nvfp4viz
        for folder in {folders!r} + ["engine.reference"]:
            found = nvfp4viz
            for part in folder.split("."):
                found = getattr(found, part)
            assert isinstance(found, types.ModuleType) and found.__name__ == "nvfp4viz." + folder, folder
    """)
