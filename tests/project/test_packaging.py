"""What is declared in several places says one thing, and what is built holds everything it needs."""

import os
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
FOLDERS = ("notebooks", "data", "tests/checkpoints/data")  # `nvfp4viz lab` copies them from the wheel
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


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nvfp4viz.__version__
    assert re.search(rf"^## {re.escape(nvfp4viz.__version__)} ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built of a copy, because setuptools builds in place."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("nvfp4viz", *FOLDERS):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_holds_every_file_of_the_package(wheel):
    assert wheel.name.startswith(f"nvfp4viz-{nvfp4viz.__version__}-")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("nvfp4viz/")}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nvfp4viz").rglob("*") if path.is_file()}
    assert packed == {name for name in expected if "__pycache__" not in name}


def test_wheel_holds_what_notebooks_need(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name.partition("/share/nvfp4viz/")[2] for name in names if "/share/nvfp4viz/" in name}
    paths = (path for name in FOLDERS for path in (ROOT / name).rglob("*"))
    expected = {p.relative_to(ROOT).as_posix() for p in paths if p.is_file() and p.suffix not in (".pyc", ".part")}
    assert packed == {name for name in expected if "/." not in name}


def test_twine_takes_the_wheel(wheel):
    pytest.importorskip("twine", reason="twine is not installed (make dist installs it)")
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def works_alone(python: Path, folder: Path) -> None:
    """The installed wheel, not this repository, runs its commands and copies its notebooks."""

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=folder, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(python.parents[1]) in run("-c", "import nvfp4viz; print(nvfp4viz.__file__)")
    assert run("-m", "nvfp4viz.cli", "--version").strip() == f"nvfp4viz {nvfp4viz.__version__}"
    run("-m", "nvfp4viz.cli", "lab", "--copy", "mine")
    copied = {path.name for path in (folder / "mine/notebooks").iterdir()}
    assert copied == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    run("-m", "nvfp4viz.cli", "sweep", "-o", "sweep.csv", "--recipes", "standard", "-q")  # of the wheel's own data
    assert (folder / "sweep.csv").stat().st_size


def test_the_wheel_works_alone_in_a_fresh_environment(wheel, tmp_path):
    """Its dependencies are those of the environment that runs the tests: a torch more would be gigabytes."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = (tmp_path / "venv/lib").glob("python3*/site-packages")
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "theirs.pth").write_text("\n".join(theirs) + "\n")
    works_alone(python, tmp_path)


def other_pythons() -> list[str]:
    """The oldest and the newest supported Python on PATH, but for the one that runs."""
    found = [shutil.which(f"python3.{minor}") for minor in range(10, 15) if minor != sys.version_info.minor]
    there = [path for path in found if path]
    return [there[0], there[-1]] if there else [""]


@pytest.mark.slow
@pytest.mark.parametrize("python", dict.fromkeys(other_pythons()))
def test_the_wheel_installs_on_the_oldest_and_newest_python(wheel, tmp_path, python):
    if not python:
        pytest.skip("no Python from 3.10 to 3.14 is on PATH beside the one that runs")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    fresh = tmp_path / "venv/bin/python"
    subprocess.run([fresh, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel], check=True)
    works_alone(fresh, tmp_path)


@pytest.mark.parametrize("module", ["flashinfer", "numba", "ipywidgets", "matplotlib", "IPython"])
def test_import_is_light(module):
    """Reading stored activations on a server needs neither a compiler nor a plotting library nor Jupyter."""
    code = f"import sys, nvfp4viz; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, f"import nvfp4viz imports {module}"
