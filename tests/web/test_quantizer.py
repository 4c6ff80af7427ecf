"""The page's quantizer in node: every strict golden case, and the blocks that `inspect_block` shows."""

import json
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from nvfp4viz import Recipe
from nvfp4viz.analysis import inspect_block
from nvfp4viz.engine import golden_cases
from nvfp4viz.nvfp4 import FLT_MAX

HERE = Path(__file__).parent
SETTINGS = [
    Recipe(), Recipe(448, four_over_six=True), Recipe(256, four_over_six=True, err_mode="MSE"),
    Recipe(160, four_over_six=True), Recipe(0.013671875, four_over_six=True), Recipe(320), Recipe(448, per_token=False),
    Recipe(256, four_over_six=True, per_token=False), Recipe(256, four_over_six=True, err_use_fast_math=True),
    Recipe(448, four_over_six=True, scored_as=256, err_mode="MSE"),
]  # fmt: skip


def packed(cases) -> bytes:
    """Cases as golden.mjs reads them."""
    head, parts, at = [], [], 0

    def put(tensor) -> int:
        nonlocal at
        data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        parts.append(data)
        at += len(data)
        return at - len(data)

    for c in cases:
        head.append({
            "name": c.name, "settings": c.recipe.to_dict(), "m": c.x.shape[0], "k": c.x.shape[1],
            "encode_scale": None if c.encode_scale is None else c.encode_scale.item(),
            "x": put(c.x.float()), "codes": put(c.codes), "scales": put(c.scales),
            "decode": None if c.decode is None else put(c.decode.float()),
        })  # fmt: skip
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + b"".join(parts)


def node(script: str, *arguments) -> dict:
    command = ["node", str(HERE / script), *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.node
def test_every_strict_golden_case(tmp_path):
    strict = [c for c in golden_cases() if not c.recipe.fast_math]
    (tmp_path / "golden").write_bytes(packed(strict))
    found = node("golden.mjs", tmp_path / "golden")
    print(f"\n{found['cases']} strict golden cases, {found['blocks']:,} blocks in node")
    assert found["cases"] == len(strict) > 500
    assert (found["codes"], found["scales"], found["decode"], found["first"]) == (0, 0, 0, None)


@pytest.mark.node
def test_a_changed_case_is_noticed(tmp_path):
    case = next(c for c in golden_cases() if not c.recipe.fast_math and c.recipe.four_over_six)
    changed = case.codes.clone()
    changed[0, 0] ^= 1
    (tmp_path / "golden").write_bytes(packed([case._replace(codes=changed)]))
    assert node("golden.mjs", tmp_path / "golden")["codes"] == 1


@pytest.mark.node
def test_a_block_is_seen_as_python_sees_it(tmp_path):
    g = torch.Generator().manual_seed(1)
    rows = [torch.randn(16, generator=g) * 10.0**e for e in (-38, -30, -3, 0, 4, 30)]
    rows += [torch.zeros(16), -torch.zeros(16), torch.full((16,), FLT_MAX), torch.arange(16) - 7.5]
    rows += [torch.eye(16)[3] * 1e-39]
    asked = [{"values": r.tolist(), "amax": a, "settings": s.to_dict(), "name": s.name}
             for r in rows for s in SETTINGS for a in (0.0, r.abs().max().item() * 30)]  # fmt: skip
    asked = [a for a in asked if a["amax"] < FLT_MAX]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    seen = node("inspect.mjs", tmp_path / "asked.json")
    for question, answer in zip(asked, seen, strict=True):
        wanted = inspect_block(question["values"], question["amax"], Recipe.from_dict(question["settings"]))
        for key in ("recipe", "amax", "encode_scale", "decode_scale", "choice", "byte", "codes", "values"):
            assert answer[key] == wanted[key], (question, key)
        for one, other in zip(answer["candidates"], wanted["candidates"], strict=True):
            assert one == {k: v for k, v in other.items() if k in one}, question
            assert {"to", "h", "byte", "saturated", "step", "codes", "decoded", "errors", "score"} <= set(one)
