"""nvfp4viz checkpoint, as a user types it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4viz.checkpoints import checkpoint
from nvfp4viz.cli import main
from nvfp4viz.cli.checkpoint import Screen, columns, findings, printable, report_lines

DATA = Path(__file__).parents[1] / "checkpoints" / "data"


def test_a_good_checkpoint_is_0_and_says_what_it_is(capsys):
    assert main(["checkpoint", str(DATA / "qwen3-moe-modelopt")]) == 0
    out, err = capsys.readouterr()
    assert not err and "made by     modelopt 0.47.0 NVFP4" in out and "56 matrices in 2 layers, 8 experts each" in out
    assert "Nothing to mend." in out and "stored as multipliers; inputs have a static one each" in out
    row = next(line for line in out.splitlines() if line.strip().startswith("mlp.experts.*.down_proj"))
    assert row.split()[1:5] == ["16", "standard,", "448", "448"]


@pytest.fixture
def spoilt(tmp_path):
    tensors = load_file(DATA / "llama-modelopt" / "model.safetensors")
    for layer in range(3):
        tensors[f"model.layers.{layer}.mlp.down_proj.input_scale"] = torch.tensor(0.0)
    tensors["model.layers.1.self_attn.q_proj.input_scale"] *= 3
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_findings_are_grouped_and_an_error_is_1(spoilt, capsys):
    assert main(["checkpoint", str(spoilt)]) == 1
    out = capsys.readouterr().out
    assert "error    scale zero, 3 times" in out and "warning  fused inputs differ\n" in out
    assert "fix:  calibrate again" in out and "3 errors, 1 warning" in out
    assert "  mlp.down_proj     EEE" in out and "  self_attn.q_proj  ·W·" in out


def test_a_warning_is_0(tmp_path):
    tensors = load_file(DATA / "llama-modelopt" / "model.safetensors")
    tensors["model.layers.1.self_attn.q_proj.input_scale"] *= 3
    save_file(tensors, tmp_path / "model.safetensors")
    assert main(["checkpoint", "-q", str(tmp_path / "model.safetensors")]) == 0


def test_json_is_all_and_only_json(spoilt, capsys):
    assert main(["checkpoint", "--json", str(spoilt)]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert not err and not found["ok"] and len(found["matrices"]) == 21
    assert [f["code"] for f in found["findings"]] == ["scale-zero"] * 3 + ["fused-inputs-differ"]
    assert set(found["findings"][0]) == {"severity", "code", "tensor", "value", "message", "engine", "fix"}


def test_quiet_is_findings_alone(spoilt, capsys):
    main(["checkpoint", "-q", str(spoilt)])
    assert capsys.readouterr().out.startswith("Findings\n")


@pytest.mark.parametrize("width", [60, 80, 110])
def test_lines_stay_within_the_terminal(spoilt, width):
    screen, found = Screen(width, color=False), checkpoint(spoilt)
    lines = [*report_lines(found, screen), *findings(found.findings, screen)]
    assert max(map(len, lines[1:])) <= max(width, 90)  # a table is as wide as its columns, the title as its path
    prose = [line for line in lines if "then:" in line or "fix:" in line]
    assert prose and max(map(len, prose)) <= width


def test_colours_are_on_severities_alone():
    assert list(findings([], Screen(80, color=True))) == ["\033[32mNothing to mend.\033[0m"]


def test_what_cannot_be_read_is_2(capsys):
    assert main(["checkpoint", "/nowhere"]) == 2
    assert "no file or folder '/nowhere'" in capsys.readouterr().err


def test_long_names_keep_both_ends():
    assert len(printable("a" * 500 + "z")) == 200 and printable("a" * 500 + "z").endswith("az")
    assert list(columns([("a", "b"), ("ccc", "d")])) == ["  a    b", "  ccc  d"]
