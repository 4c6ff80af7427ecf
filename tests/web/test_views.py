"""The explorer's views in node, on statistics of the bundled activations and of tensors at the edges."""

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import nvfp4viz
from nvfp4viz.analysis import finite
from nvfp4viz.explorer import compact, outputs, page_catalog, summary
from nvfp4viz.explorer.messages import inspections
from nvfp4viz.planning import Drift, LayerPlan, OutputChange, Point

PAIR = ("4/6-mae-448", "4/6-mae-256")


def context(activations: dict, tensor: str, recipes=PAIR, attribution=None) -> dict:
    """What a view is given, but for its functions."""
    done = nvfp4viz.sweep(activations, recipes, engine="cpu")
    catalog = page_catalog(done.tensors, done.recipes.values())
    entries = {r["name"]: r for r in catalog["recipes"]}
    row = {
        n: compact(s, **({"attribution": attribution} if attribution else {})) for n, s in done.stats[tensor].items()
    }
    sides = [{"side": s, "name": n, "entry": entries[n], "stats": row[n]} for s, n in zip("ab", recipes, strict=True)]
    numbers = {t: {n: summary(s) for n, s in done.stats[t].items()} for t in done.tensors}
    order = [t["name"] for t in catalog["tensors"]]
    return {"catalog": catalog, "sides": sides, "tensor": tensor, "order": order, "summary": numbers}


def outputs_of(tensors: list[str]) -> dict:
    """What is given of a model's output: a plan with a drift, and two recordings whose second layer is all zeros."""
    units = [{"name": t, "matrices": [t], "predicted_kl": 0.1 * (i + 1), "spared_kl": (0.02, math.nan)[i % 2]}
             for i, t in enumerate(tensors)]  # fmt: skip
    units.append({"name": "nowhere", "matrices": ["nowhere"], "predicted_kl": 0.05, "spared_kl": -0.01})
    points = [Point((), 0.3, 0.2, 0.4, 0.3, 4.5, 0.9, 0.35), Point((tensors[0],), 0.1, 0.05, 0.2, 0.1, 7, 0.5, 0.2),
              Point(tuple(tensors), 0.0, math.nan, math.nan, 0.0, 16, 0.0, 0.0)]  # fmt: skip
    about = {"quantized": "inputs", "passes": 9, "tokens": 64, "versions": {"nvfp4viz": "1", "torch": "2"}}
    plan = LayerPlan("4/6-mae-448", "bf16", "bits", "inputs", units, points, 1, [], {}, {}, about)
    signal, error = np.ones((3, 600)), np.geomspace(1e-4, 1e-1, 1800).reshape(3, 600)
    change = OutputChange(np.array([0.5, 0.1, 0.2]), np.array([True, False, True]), np.array([0, 1, 1]), np.arange(3),
                          starts=["calm", "<b>changed"], tokens_given=3)  # fmt: skip
    followed = Drift([*"abc"], signal, error, 0.5 * error, 0.01 * error, change, provenance={"recipe": "4/6-mae-448"})
    silent = Drift(["a", "b"], np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.1, 0.1], [0.0, 0.0]]))
    return {"all": outputs(tensors, plan=plan, drift=followed), "recordings": outputs(tensors, drift=silent)}


@pytest.mark.node
def test_the_views_in_node(bundled, tmp_path):
    loaded = nvfp4viz.load(bundled)
    real = {name: loaded[name] for name in list(loaded)[:4]}
    tensor = next(iter(real))
    edges = {"zeros": torch.zeros(4, 32), "one": torch.ones(1, 16), "tiny": torch.full((2, 32), 1e-38),
             "huge": torch.full((2, 32), 3e38), "empty rows": torch.eye(16)}  # fmt: skip
    contexts = {
        "real": context(real, tensor),
        "attributed": context(real, tensor, attribution={"E2M1": 0.9, "x": -0.1}),
    }
    contexts |= {name: context({name: x}, name, ("standard", "4/6-mse-256")) for name, x in edges.items()}
    look = {"token": 3, "block": 2, "token_text": " a", **inspections(real[tensor], 3, 2, PAIR)}
    file = tmp_path / "context.json"
    given = {"contexts": contexts, "look": look, "outputs": outputs_of(list(real))}
    file.write_text(json.dumps(finite(given), allow_nan=False))
    run = subprocess.run(
        ["node", "--test", str(Path(__file__).with_name("views.test.mjs"))],
        env={**os.environ, "NVFP4VIZ_CONTEXT": str(file)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
