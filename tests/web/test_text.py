"""Numbers are written alike by Python, where there is no script, and by the page's script."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nvfp4viz.analysis import finite
from nvfp4viz.shown import fixed, percent, short, signed

TEXT = Path(__file__).parents[2] / "nvfp4viz" / "web" / "lib" / "text.js"
WRITE = f"""import {{ fixed, num, percent, short, signed }} from {json.dumps(TEXT.as_uri())};
import fs from "node:fs";
const written = (v) => [fixed(v, 3), fixed(v), signed(v, 3), short(v), short(v, 2), v >= 0 && v <= 1 ? percent(v) : ""];
process.stdout.write(JSON.stringify(JSON.parse(fs.readFileSync(0, "utf8")).map(num).map(written)));"""


@pytest.mark.node
def test_python_and_the_page_write_numbers_alike():
    rng = np.random.default_rng(0)
    drawn = [sign * v for v in np.exp(rng.uniform(-30, 20, 300)).tolist() for sign in (1, -1)]
    values = [0.0, -0.0, 1.0, 0.5, 0.00095, 0.0995, 1e-9, -1e-9, float("inf"), float("-inf"), float("nan"), *drawn]
    run = subprocess.run(["node", "--input-type=module", "-e", WRITE], input=json.dumps(finite(values)),
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stderr
    for v, seen in zip(values, json.loads(run.stdout), strict=True):
        share = percent(v) if 0 <= v <= 1 else ""
        assert seen == [fixed(v, 3), fixed(v), signed(v, 3), short(v), short(v, 2), share], v
