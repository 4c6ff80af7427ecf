"""What is declared in several places says one thing, and what is built holds everything it needs."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nvfp4viz

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs and brings it there

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"pytorch": "torch", "python-build": "build"}


def ranges(requirements: list[str]) -> dict[str, str]:
    """Canonical name -> what restricts it: its range and, after a semicolon, its marker."""
    parsed = [Requirement(text) for text in requirements]
    return {canonicalize_name(r.name): f"{r.specifier}; {r.marker}" if r.marker else str(r.specifier) for r in parsed}


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_version_is_written_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "nvfp4viz.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", nvfp4viz.__version__)


def test_environment_yml_matches_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["name"] == "nvfp4viz"
    assert conda["channels"] == ["conda-forge"]

    *packages, by_pip = conda["dependencies"]
    declared = ranges(packages + by_pip["pip"][:-1])
    declared = {CONDA_NAMES.get(name, name): restriction for name, restriction in declared.items()}
    assert by_pip["pip"][-1] == "-e ."
    assert declared.pop("python") == PROJECT["requires-python"]
    assert declared.pop("pip") == ""
    assert declared == ranges(PROJECT["dependencies"] + EXTRAS["lab"] + EXTRAS["test"])


def test_constraints_pin_every_direct_dependency_within_its_range():
    pinned = {canonicalize_name(pin.name): pin for pin in pins()}
    direct = [Requirement(text) for texts in (PROJECT["dependencies"], *EXTRAS.values()) for text in texts]
    assert {canonicalize_name(r.name) for r in direct} <= pinned.keys()
    for requirement in direct:
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert pin.version in requirement.specifier, f"{pin} is outside {requirement}"


def test_constraints_hold_on_any_platform():
    """A local version such as +cpu exists on one index only; a URL or a path on one machine only."""
    for pin in pins():
        assert pin.url is None
        assert re.fullmatch(r"==[0-9a-z.]+", str(pin.specifier)), pin


def test_wheel_holds_every_file_of_the_package(tmp_path):
    source = tmp_path / "source"  # a copy, because setuptools builds in place
    shutil.copytree(ROOT / "nvfp4viz", source / "nvfp4viz", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"nvfp4viz-{nvfp4viz.__version__}-")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("nvfp4viz/")}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nvfp4viz").rglob("*") if path.is_file()}
    assert packed == {name for name in expected if "__pycache__" not in name}


@pytest.mark.parametrize("module", ["flashinfer", "numba", "ipywidgets", "matplotlib", "IPython"])
def test_import_is_light(module):
    """Reading stored activations on a server needs neither a compiler nor a plotting library nor Jupyter."""
    code = f"import sys, nvfp4viz; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, f"import nvfp4viz imports {module}"
