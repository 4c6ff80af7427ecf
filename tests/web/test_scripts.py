"""Parts of the page's script that need no page, in node."""

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.node
@pytest.mark.parametrize("name", ["names", "cache"])
def test_in_node(name):
    command = ["node", "--test", str(HERE / f"{name}.test.mjs")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout[-4000:]
