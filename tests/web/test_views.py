"""The explorer's views in node, on statistics of the bundled activations and of tensors at the edges."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

import nvfp4viz
from nvfp4viz.analysis import finite
from nvfp4viz.explorer import compact, page_catalog, summary
from nvfp4viz.explorer.messages import inspections

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
    file.write_text(json.dumps(finite({"contexts": contexts, "look": look}), allow_nan=False))
    run = subprocess.run(
        ["node", "--test", str(Path(__file__).with_name("views.test.mjs"))],
        env={**os.environ, "NVFP4VIZ_CONTEXT": str(file)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
