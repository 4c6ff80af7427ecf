"""The doctor: what it prints, its exit code, and that it notices an engine that is wrong."""

import functools
import importlib
import io
import json
import os
import subprocess
import sys

import pytest
import torch

import nvfp4viz
from nvfp4viz import engines
from nvfp4viz.cli import doctor, main
from nvfp4viz.engine import find_engine, golden_cases, recipe_of, result_line, verify
from nvfp4viz.environment import VARIABLES, Settings

FI = "FLASHINFER_NVFP4_4OVER6"
U256, SG = f"{FI}_E4M3_USE_256", "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_mismatch_fails_and_names_both_readings_and_the_fix(clean, capsys):
    clean.setenv(FI, "1")
    clean.setenv(U256, "true")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"error    {U256}=true" in out and f"fix:  {U256}=1" in out and " dB as it is at SGLang's" in out
    assert "SGLang                   on (256)" in out and "FlashInfer               off (448)" in out
    assert out.rstrip().endswith("1 error, 1 warning, 2 notes")
    assert "\033[" not in out and all(len(line) <= 100 for line in out.splitlines())


def test_as_a_program():
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES} | {FI: "1", U256: "true"}
    call = [sys.executable, "-c", "from nvfp4viz.cli import main; raise SystemExit(main(['doctor']))"]
    assert subprocess.run(call, env=env, capture_output=True).returncode == 1
    assert subprocess.run(call, env=env | {U256: "1"}, capture_output=True).returncode == 0


def test_nothing_to_mend(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "sets none of the NVFP4 variables: FlashInfer runs standard-fast" in out and "Nothing to mend." in out
    assert f"python              {sys.version.split()[0]}" in out
    for row in engines():
        assert row["name"] in out


def test_files(tmp_path, capsys):
    (tmp_path / "compose.yaml").write_text(
        f"services:\n  good:\n    environment: [{FI}=1, {SG}=1]\n  bad:\n    environment: [{FI}=true]\n"
    )
    (tmp_path / "run.sh").write_text(f"export {FI}=$X\n")
    call = ["doctor", "--env-file", str(tmp_path / "compose.yaml"), "--env-file", str(tmp_path / "run.sh")]
    assert main([*call, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [e["name"] for e in report["environments"]] == [
        "compose.yaml: service good", "compose.yaml: service bad", "run.sh",
    ]  # fmt: skip
    severities = [[f["severity"] for f in e["findings"]] for e in report["environments"]]
    assert severities[0] == ["note", "note"] and severities[1][0] == "error" and "warning" in severities[2]
    assert report["ok"] is False and report["versions"]["torch"] == torch.__version__
    assert report["environments"][0]["recipes"]["sglang"] == "4/6-mae-448-fast"
    fc1 = report["environments"][0]["ways"][0]["sites"][0]
    assert (fc1["program"], fc1["site"], fc1["recipe"]) == ("sglang", "fc1", "4/6-mae-448-fast") and fc1["sqnr_db"] > 20
    assert main(call) == 1
    assert "not settled by this text: only known when the shell runs" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process(capsys):
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env={U256: "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        process.stdout.readline()
        assert main(["doctor", "--pid", str(process.pid)]) == 0
        process.communicate(b"\n")
    assert "a ceiling without 4over6 is ignored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--env-file", "/nowhere/.env"], "No such file"), (["--pid", "999999999"], "there is no process 999999999")],
)
def test_what_cannot_be_read_is_a_mistake_of_the_caller(arguments, message, capsys):
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_colour_is_for_terminals(clean):
    report = doctor.examine([Settings("x", {U256: "1"})])
    assert "\033[33mwarning\033[0m" in "\n".join(doctor.report_lines(report, 80, color=True))
    assert "\033[" not in "\n".join(doctor.report_lines(report, 80))
    assert all(
        len(line) <= 70 for line in doctor.report_lines(report, 60)
    )  # a variable's name and value are not broken

    class Terminal:
        def isatty(self):
            return True

        def write(self, text):
            return len(text)

        def flush(self):
            pass

    clean.setattr(sys, "stdout", Terminal())
    clean.setenv("TERM", "xterm")
    clean.delenv("NO_COLOR", raising=False)
    assert doctor._terminal()[1]
    clean.setenv("NO_COLOR", "1")
    assert not doctor._terminal()[1]


def test_strangers_bytes_do_not_reach_the_terminal(tmp_path, capsys):
    (tmp_path / ".env").write_text(f"{FI}=\x1b]0;title\x07\x1b[2J\n")
    assert main(["doctor", "--env-file", str(tmp_path / ".env")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b]0;title\x07\x1b[2J" in out
    assert doctor.printable("a\udcffb") == r"a\udcffb"


# --- golden cases


@functools.cache
def _all():
    return list(golden_cases())


def test_golden_cases_are_complete():
    cases = _all()
    assert len(cases) == 1134 and len({c.name for c in cases}) == 1134
    assert len({c.recipe for c in cases}) == 36  # 9 recipes, strict and fast, per token and per tensor
    for c in cases:
        m, k = c.x.shape
        assert c.codes.shape == (m, k // 2) and c.scales.shape == (m, k // 16) and c.recipe == recipe_of(c.name)
        assert (c.encode_scale is None) == c.recipe.per_token == (c.decode is not None)


def _few():
    return [c for c in _all() if c.name.startswith(("zeros.bf16", "spike.fp16"))]


def test_verify_says_bit_exact():
    (result,) = verify([{"name": "reference"}], _few())
    assert result["ok"] and result["cases"] == 108 and result["first"] is None
    assert result_line(result) == "bit-exact: 108 cases, 55,296 blocks"


def test_verify_counts_blocks_that_differ_and_says_where_first(clean):
    def wrong(tokens, recipe, encode_scale):
        q = right(tokens, recipe, encode_scale)
        q.codes[3, 16] ^= 1  # token 3, block 2
        return q

    right = find_engine("reference").quantize
    clean.setattr(find_engine("reference"), "quantize", wrong)
    (result,) = verify([{"name": "reference"}], _few())
    assert not result["ok"] and result["strict"]["differ"] == result["fast"]["differ"] == 54
    assert "54 of 27,648 blocks differ" in result_line(result) and ", token 3, block 2" in result_line(result)


def test_verify_goes_on_after_an_engine_that_fails(clean, capsys):
    def broken(*_):
        raise OSError("no compiler")

    clean.setattr(find_engine("reference"), "quantize", broken)
    clean.setattr(importlib.import_module("nvfp4viz.engine.verify"), "golden_cases", lambda: iter(_few()[:4]))
    assert main(["doctor", "--verify"]) == 1
    out = capsys.readouterr().out
    assert "reference            OSError: no compiler in spike.fp16/" in out
    assert "cpu                  bit-exact: 4 cases, 2,048 blocks" in out


def test_verify_in_json(clean, capsys):
    clean.setattr(importlib.import_module("nvfp4viz.engine.verify"), "golden_cases", lambda: iter(_few()[:4]))
    assert main(["doctor", "--verify", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {r["engine"] for r in report["verify"]} == {r["name"] for r in engines() if r["available"]}
    assert all(r["ok"] for r in report["verify"])


# --- where settings come from


class _Input:
    def __init__(self, text):
        self.buffer = io.BytesIO(text.encode())


def test_what_other_tools_print(clean, capsys):
    clean.setattr(sys, "stdin", _Input(f"PATH=/bin\nHOME=/root\n{FI}=1\n{U256}=true\n{SG}=1\n"))
    assert main(["doctor", "-"]) == 1
    assert f"{U256}=true, line 4" in capsys.readouterr().out
    inspect = [
        {"Id": "x", "Config": {"Env": [f"{FI}=1", f"{U256}=1"], "Cmd": ["vllm", "serve", "/m"]}, "HostConfig": {}}
    ]
    clean.setattr(sys, "stdin", _Input(json.dumps(inspect, indent=2)))
    assert main(["doctor", "-"]) == 1
    assert "vLLM, the scale" in capsys.readouterr().out


def test_a_command_line_for_settings_without_one(clean, tmp_path, capsys):
    (tmp_path / ".env").write_text(f"{FI}=1\n{U256}=1\n")
    assert main(["doctor", str(tmp_path / ".env")]) == 0  # which program it is for is not known
    assert "if this starts vLLM" in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", str(tmp_path / ".env"), "--command", "vllm serve /m --quantization nvfp4_per_token"]) == 1
    assert "mismatch" in capsys.readouterr().out
    clean.setenv(FI, "1")
    clean.setenv(U256, "1")
    assert main(["doctor", "--command", "vllm serve /m --quantization nvfp4_per_token"]) == 1


def test_costs_on_activations_of_ones_own(clean, tmp_path, capsys):
    torch.save({"a": torch.randn(32, 256, generator=torch.Generator().manual_seed(1))}, tmp_path / "a.pt")
    (tmp_path / "run.sh").write_text(f"{FI}=1 {U256}=1 vllm serve /m --quantization nvfp4_per_token\n")
    assert main(["doctor", str(tmp_path / "run.sh"), "--activations", str(tmp_path / "a.pt")]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "dB as it is" in out and "a.pt, engine" in out and "smollm2" not in out


@pytest.mark.parametrize("name", ["certificate.txt", "certificate.json"])
def test_a_certificate_says_card_driver_engines_cases_and_versions(clean, tmp_path, name):
    clean.setattr(importlib.import_module("nvfp4viz.engine.verify"), "golden_cases", lambda: iter(_few()[:4]))
    assert main(["doctor", "--verify", "--certificate", str(tmp_path / name)]) == 0
    text = (tmp_path / name).read_text()
    for word in ("bit-exact: 4 cases", nvfp4viz.__version__, torch.__version__, "flashinfer", "sm_90a"):
        assert word in text
    if not torch.cuda.is_available():
        assert "nothing here was run on a GPU" in text or json.loads(text)["gpus"] == []
    if name.endswith(".json"):
        values = json.loads(text)
        assert values["ok"] is True
        assert {e["engine"]: e["ran"] for e in values["engines"]} == {r["name"]: r["available"] for r in engines()}
    else:
        assert len(text.splitlines()) < 20


def test_a_certificate_of_a_wrong_engine_says_not_right(clean, tmp_path):
    few = [c._replace(codes=c.codes ^ 1) for c in _few()[:1]]
    clean.setattr(importlib.import_module("nvfp4viz.engine.verify"), "golden_cases", lambda: iter(few))
    assert main(["doctor", "--verify", "--certificate", str(tmp_path / "c.txt")]) == 1
    assert "NOT RIGHT" in (tmp_path / "c.txt").read_text()


def test_a_certificate_needs_verify(tmp_path, capsys):
    assert main(["doctor", "--certificate", str(tmp_path / "c.txt")]) == 2
    assert "give both" in capsys.readouterr().err
