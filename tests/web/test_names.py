"""Names of strangers in the page's script, in node."""

import subprocess
from pathlib import Path

import pytest


@pytest.mark.node
def test_names_that_every_object_has():
    run = subprocess.run(
        ["node", "--test", str(Path(__file__).with_name("names.test.mjs"))], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout[-4000:]
