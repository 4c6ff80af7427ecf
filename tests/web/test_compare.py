"""Two reports compared by the page's script: the same pairs, numbers and warnings as in Python."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvfp4viz import sweep, synthetic
from nvfp4viz.analysis import Sweep, finite, middle, obstacles, pairs, sentence
from nvfp4viz.nvfp4 import study_only
from nvfp4viz.pages import packing

LOGNORMAL, SPIKES = synthetic("lognormal", 96, 64), synthetic("spikes", 96, 64)

ZEROS = torch.zeros(96, 64)


@pytest.mark.node
def test_the_page_compares_as_python_does():
    names = ["standard", "4/6-mae-448", "4/6-mse-256"]
    strict = sweep({"a": LOGNORMAL, "constructor": SPIKES}, names, engine="reference")
    fast = sweep({"a": LOGNORMAL, "constructor": SPIKES}, [f"{n}-fast" for n in names], engine="reference")
    short = sweep({"a": LOGNORMAL[:40], "only here": SPIKES, "odd": SPIKES[:, :5]}, names, engine="reference")
    other = sweep({"a": LOGNORMAL * 1.01, "constructor": SPIKES}, names, engine="cpu")
    zeros = sweep({"a": ZEROS, "constructor": SPIKES}, {"mine": names[0], "studied": "4/6-mae-300"}, engine="cpu")
    skipped = replace(strict, skipped={str(i): "no float" for i in range(5)})
    old = Sweep.of({t: {n: replace(s, run_tokens=0 * s.run_tokens, run_nmse=0 * s.run_nmse) for n, s in row.items()}
                    for t, row in strict.stats.items()}, strict.recipes)  # fmt: skip
    cases = [(strict, strict), (strict, fast), (strict, short), (short, strict), (strict, other), (zeros, strict),
             (strict, zeros), (skipped, fast), (zeros, zeros), (old, strict), (other, old), (old, old)]  # fmt: skip
    packed = json.dumps(finite([[packing.page_data(one) for one in case] for case in cases]), allow_nan=False)
    run = subprocess.run(["node", str(Path(__file__).with_name("compare.mjs"))], input=packed, capture_output=True,
                         text=True, timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stderr
    for (a, b), seen in zip(cases, json.loads(run.stdout), strict=True):
        wanted = pairs(a, b)
        assert [(p["tensor"], p["recipe"]) for p in seen["pairs"]] == [(p.tensor, p.recipe) for p in wanted]
        for one, p in zip(seen["pairs"], wanted, strict=True):
            assert float(one["gain"]) == pytest.approx(p.gain_db, rel=1e-9, abs=1e-12)
            assert (one["sameInput"], one["change"]) == (p.same_input, p.change)
            assert bool(one["study"]) == bool(study_only(p.a.recipe))
        assert seen["obstacles"] == obstacles(a, b, wanted)
        assert float(seen["median"]) == pytest.approx(middle([p.gain_db for p in wanted]), abs=1e-12)
        assert seen["sentence"].rstrip(".") == sentence(wanted).partition("; most")[0].rstrip(".")
