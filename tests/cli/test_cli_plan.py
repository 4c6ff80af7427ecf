"""The command `nvfp4viz plan` on the toy mixture: the frontier, a file, and what an engine reads."""

import json

import pytest

from nvfp4viz.cli import main
from nvfp4viz.planning import LayerPlan

transformers = pytest.importorskip("transformers")


def test_it_prints_the_frontier_and_writes_the_plan(tmp_path, capsys, pytestconfig):
    data, out = pytestconfig.rootpath / "data", tmp_path / "plan.json"
    common = [str(data / "toy-qwen3-moe"), str(data / "alice.txt"), "--tokens", "64", "--length", "32", "-q",
              "--quantize", "sglang-nvfp4-online", "--recipes", "standard", "--budget", "12"]  # fmt: skip
    resume = ["--resume", str(tmp_path / "measured.json"), "-o", str(out)]
    assert main(["plan", *common, *resume, "--export", "sglang"]) == 0
    printed = capsys.readouterr().out
    found = LayerPlan.load(out)
    assert [u["name"] for u in found.units] == [f"model.layers.{i}.mlp.experts" for i in range(4)]
    assert "<- knee" in printed and found.sentence() in printed and "times a copy (NVIDIA H100" in printed
    exported = json.loads(printed[printed.rindex("{") :])
    assert exported == {"SGLANG_FP4_IGNORED_LAYERS": ",".join(found.point.kept)}
    assert main(["plan", *common, *resume, "--export", "transformers"]) == 0  # measured already
    assert "modules_to_not_convert" in capsys.readouterr().out


def test_mistakes_are_said_before_the_model_is_loaded(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_bytes(b"\xff\xfe\x00")
    assert main(["plan", "nowhere", str(text)]) == 2 and "is no UTF-8 text" in capsys.readouterr().err
    text.write_text("some text")
    assert main(["plan", "nowhere", str(text), "--recipes", "4/6"]) == 2 and "4/6" in capsys.readouterr().err
    assert main(["plan", "nowhere", str(text), "-o", str(tmp_path)]) == 2 and "is a folder" in capsys.readouterr().err
    assert main(["plan", "nowhere", str(text)]) == 2 and "no model at 'nowhere'" in capsys.readouterr().err
