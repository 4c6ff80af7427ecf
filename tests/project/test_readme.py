"""README for a stranger: short, its links lead somewhere, and what it says to type works as it stands."""

import re
import subprocess
from pathlib import Path

import pytest

import nvfp4viz
from nvfp4viz.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
TYPED = [
    re.sub(r"\s+#.*", "", line) for language, block in BLOCKS if not language for line in block.splitlines() if line
]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").glob("*.md")])


@pytest.fixture
def in_a_copy(tmp_path, monkeypatch):
    """A folder that has data/ as the repository has it, so that nothing is written there."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    for name in nvfp4viz.environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_it_is_read_in_a_minute():
    assert len(TEXT.splitlines()) < 90
    assert len(re.findall(r"<img |!\[", TEXT)) == 1


@pytest.mark.parametrize("line", [line for line in TYPED if line.startswith("make ")])
def test_make_knows_the_target(line):
    done = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [line for line in TYPED if not line.startswith("make ")])
def test_the_command_runs(line, in_a_copy, capsys):
    program, *arguments = line.split()
    assert program == "nvfp4viz"
    try:
        assert main(arguments) == 0
    except SystemExit as end:  # --help
        assert end.code == 0
    assert capsys.readouterr().out


def test_the_python_runs(in_a_copy, capsys):
    (code,) = (block for language, block in BLOCKS if language == "python")
    names: dict = {}
    exec(code, names)  # as a reader would paste it
    assert "dB" in capsys.readouterr().out
    assert (in_a_copy / "report.html").stat().st_size > 100_000
    assert names["q"].codes.shape[0] == names["x"].shape[0]


def test_the_result_that_it_quotes_is_what_comes_out(bundled):
    sentence = nvfp4viz.recommend(nvfp4viz.sweep(nvfp4viz.load(bundled))).sentence()
    quoted = " ".join(re.findall(r"^> (.*)$", TEXT, re.MULTILINE))
    numbers = re.findall(r"\d+\.\d+(?: %| dB)?|4/6-\w+-\d+", quoted)
    assert numbers and [number for number in numbers if number not in sentence] == []


def test_extras_that_it_names_exist():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(\w+)\]['\"`]", TEXT):
        assert re.search(rf"^{extra} = \[$", pyproject, re.MULTILINE), extra


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    local = {(a or b).partition("#")[0] for a, b in targets if not re.match(r"https?:|mailto:|#", a or b)}
    assert [target for target in sorted(local) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_scripts_and_tests_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`(?:python )?((?:scripts|tests|docs|nvfp4viz)/[\w/]+\.(?:py|md|js|cu))", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
