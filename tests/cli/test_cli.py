"""The command line: every command, its mistakes, and its exit codes; in this process, and once as a user starts it."""

import fcntl
import importlib
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hostile import STORABLE
from safetensors.torch import save_file

import nvfp4viz
from nvfp4viz import RECIPES, Sweep, synthetic
from nvfp4viz.analysis import Effect, Impact
from nvfp4viz.engine import find_engine
from nvfp4viz.pages import load_report

X = synthetic("lognormal", 20, 64)
MODEL = "model.safetensors"
cli = importlib.import_module("nvfp4viz.cli.main")  # the face has the function of this name
REFERENCE = find_engine("reference")
SWEEP = importlib.import_module("nvfp4viz.analysis.sweep")
FAST = ["--engine", "reference", "-q"]


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({"layers.0.mlp": X, "lm_head": X * 2}, "model.safetensors")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored, whatever main does to it


@pytest.fixture
def run(capsys):
    """Runs a command; its exit code, lines of stdout and stderr."""

    def run_(*arguments) -> tuple[int, str, str]:
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse's way
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return run_


def commands() -> list[str]:
    return next(iter(a.choices for a in cli._parser()._actions if a.dest == "==SUPPRESS==" or a.choices))


@pytest.mark.parametrize("command", ["", *commands()])
def test_every_command_explains_itself(run, command):
    code, out, err = run(*command.split(), "--help")
    assert code == 0 and err == ""
    assert out.startswith(f"usage: nvfp4viz {command}")
    for action in (cli._parser() if not command else commands()[command])._actions:
        assert action.help or action.choices, f"{command} {action.dest} has no help"


def test_the_commands_are_there(run):
    assert {"report", "sweep", "doctor"} <= set(commands())
    assert run("--version")[:2] == (0, f"nvfp4viz {nvfp4viz.__version__}\n")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    save_file({"x": X}, home / "x.safetensors")
    sweep = nvfp4viz.sweep(nvfp4viz.load("~/x.safetensors"), ["standard"])
    sweep.save("~/s.json")
    assert nvfp4viz.report(sweep, "~/r.html") == home / "r.html"
    assert Sweep.load("~/s.json").to_dict() == load_report("~/r.html").to_dict() == sweep.to_dict()


def test_a_report_of_a_file(run):
    code, out, err = run("report", "model.safetensors", *FAST)
    assert (code, out, err) == (0, "report.html\n", "")
    back = load_report("report.html")
    assert back.tensors == ["layers.0.mlp", "lm_head"] and list(back.recipes) == list(RECIPES)
    assert back.engines == ["reference"] and back.provenance["sources"][0]["path"] == "model.safetensors"


def test_the_last_line_is_the_path(run, tmp_path):
    Path("sub").mkdir()
    absolute = tmp_path / "a.html"
    assert (
        run("report", "model.safetensors", "-o", "sub/../sub/r.html", "--recipes", "standard", *FAST)[1]
        == "sub/r.html\n"
    )
    assert run("report", "model.safetensors", "-o", absolute, "--recipes", "standard", *FAST)[1] == f"{absolute}\n"


@pytest.mark.parametrize("name, read", [("t.csv", pd.read_csv), ("t.parquet", pd.read_parquet)])
def test_a_sweep_as_a_table(run, name, read):
    recipes = ["standard", "4/6-mse-256-tensor-fast"]
    code, out, _ = run("sweep", "model.safetensors", "-o", name, "--recipes", *recipes, *FAST)
    assert (code, out) == (0, name + "\n")
    table = read(name)
    assert list(table["recipe"]) == recipes * 2 and set(table["engine"]) == {"reference"}


def test_a_saved_sweep_becomes_a_report_and_a_table(run):
    assert run("sweep", "model.safetensors", "-o", "s.json", *FAST)[0] == 0
    assert run("report", "s.json", "-o", "r.html")[0] == 0
    assert load_report("r.html").stats == Sweep.load("s.json").stats
    assert run("sweep", "s.json", "-o", "t.csv")[0] == 0 and len(pd.read_csv("t.csv")) == 10
    assert "Output not measured" in Path("r.html").read_text()
    runs = np.array([[64, 128, 130, 2.0, 60], [64, 128, 131, 3.0, 61]])
    effects, recipes = [Effect("standard", None, runs, {})], {"standard": RECIPES["standard"]}
    Impact(effects, np.arange(2), recipes, "activations").save("i.json")
    assert run("report", "s.json", "--impact", "i.json", "-o", "m.html")[0] == 0
    assert "Output not measured" not in Path("m.html").read_text()


def test_several_files_and_folders(run):
    Path("f").mkdir()
    np.save("f/a.npy", X.float().numpy())
    torch.save({"b": X}, "f/b.pt")
    assert run("sweep", "model.safetensors", "f", "-o", "s.json", "--recipes", "standard", *FAST)[0] == 0
    assert set(Sweep.load("s.json").tensors) == {"layers.0.mlp", "lm_head", "a", "b"}


def test_what_was_skipped_is_said(run):
    bad = X.clone()
    bad[1, 2] = float("inf")
    save_file({"good": X, "bad": bad}, "x.safetensors")
    code, out, err = run("sweep", "x.safetensors", "-o", "s.json", "--recipes", "standard", *FAST)
    assert (code, out) == (0, "s.json\n")
    assert err.startswith("nvfp4viz: skipped bad: x holds 0 NaN and 1 Inf, the first at x[1, 2]")


def test_progress_goes_to_stderr_where_that_is_a_terminal(run, monkeypatch):
    arguments = ["sweep", "model.safetensors", "-o", "s.json", "--recipes", "standard", "--engine", "reference"]
    assert run(*arguments) == (0, "s.json\n", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run(*arguments)
    assert (code, out) == (0, "s.json\n") and "tensor" in err
    assert run(*arguments, "--quiet")[2] == ""


def test_a_list_of_shards_is_no_saved_sweep(run):
    Path("m.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head": "model.safetensors"}}))
    code, out, err = run("sweep", "m.safetensors.index.json", "-o", "s.json", "--recipes", "standard", *FAST)
    assert (code, out, err) == (0, "s.json\n", "")


MISTAKES = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["reprot"], "invalid choice: 'reprot'"),
    "unknown option": (["report", "--color"], "unrecognized arguments: --color"),
    "no output": (["sweep", MODEL], "required: -o/--output"),
    "missing file": (["report", "none.npy"], "no file or folder 'none.npy'"),
    "missing sweep": (["report", "none.json"], "'none.json': No such file or directory"),
    "unknown suffix": (["report", "notes.txt"], "cannot read 'notes.txt': known formats are .safetensors"),
    "damaged file": (["report", "bad.npy"], "cannot read 'bad.npy': truncated or damaged"),
    "no sweep": (["report", "bad.json"], "cannot read the sweep 'bad.json'"),
    "unknown recipe": (["report", MODEL, "--recipes", "standart"], "'standart', did you mean 'standard'"),
    "ceiling": (["report", MODEL, "--recipes", "4/6-mae-500"], "e4m3_max=500.0 is no number in (0, 448]"),
    "unknown engine": (["report", MODEL, "--engine", "cpuu"], "unknown engine 'cpuu', did you mean 'cpu'"),
    "missing folder": (["report", MODEL, "-o", "none/r.html"], "folder 'none' does not exist: create it"),
    "output is a folder": (["report", MODEL, "-o", "."], "'.' is a folder: give the name of a file"),
    "output is a device": (["report", MODEL, "-o", "pipe"], "'pipe' is a device or a pipe"),
    "output is the input": (["report", MODEL, "-o", MODEL], "'model.safetensors' is an input"),
    "output format": (["sweep", MODEL, "-o", "t.xlsx"], "cannot save as 't.xlsx': use .json (everything)"),
    "file among recipes": (["report", "--recipes", "standard", MODEL], "is a file, not a recipe: name the files"),
    "sweep among files": (["report", MODEL, "s.json"], "'s.json' is a saved sweep: give it alone"),
    "recipes of a sweep": (["report", "s.json", "--recipes", "standard"], "a saved sweep is measured already"),
    "no impact": (["report", "s.json", "--impact", "bad.json"], "cannot read the impact 'bad.json'"),
    "nothing to analyse": (["report", "odd.npy"], "no tensor could be analysed: odd: K=5 is not a multiple of 16"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, mistake, monkeypatch):
    Path("notes.txt").write_text("x")
    Path("bad.npy").write_text("x")
    Path("bad.json").write_text("{")
    Path("s.json").write_text("{}")
    np.save("odd.npy", np.ones((2, 5), np.float32))
    before = {p: p.read_bytes() for p in Path().iterdir()}
    os.mkfifo("pipe")
    started, record = [], SWEEP._record
    monkeypatch.setattr(SWEEP, "_record", lambda *a: started.append(a) or record(*a))
    arguments, message = MISTAKES[mistake]
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and message in err
    assert err.splitlines()[-1].startswith("nvfp4viz") and ": error: " in err.splitlines()[-1]
    assert "Traceback" not in err
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    os.unlink("pipe")
    assert {p: p.read_bytes() for p in Path().iterdir()} == before
    assert bool(started) == (mistake == "nothing to analyse")  # all else is said before the work


def test_a_full_disk_is_one_line(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = run("report", "model.safetensors", "--recipes", "standard", *FAST)
    assert (
        code == 2
        and err == "nvfp4viz: error: cannot write 'report.html': No space left on device; nothing was changed\n"
    )
    assert sorted(os.listdir()) == ["model.safetensors"]


def test_the_bundled_data_are_the_default(run, bundled, monkeypatch):
    read = []
    monkeypatch.setattr("nvfp4viz.activations.load", lambda *paths: read.extend(paths) or {"x": X})
    assert run("sweep", "-o", "s.json", "--recipes", "standard", *FAST)[0] == 0
    assert [p.resolve() for p in read] == [bundled]
    monkeypatch.setattr("nvfp4viz.cli.sweep.BUNDLED", "none.safetensors")
    code, _, err = run("sweep", "-o", "s.json")
    assert code == 2 and "no FILE given, and the bundled activations are not installed" in err


@pytest.mark.parametrize("what", [["--check"], ["--html", "pages"]])
def test_no_notebook_at_all_is_a_mistake_and_no_success(run, what):
    code, _, err = run("notebooks", *what)
    assert code == 2 and "no NOTEBOOK given" in err and not Path("pages").exists()


def test_an_interrupt_writes_what_is_done(run, monkeypatch):
    done = []

    def analyze(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    real = REFERENCE.analyze
    monkeypatch.setattr(REFERENCE, "analyze", analyze)
    code, out, err = run("sweep", "model.safetensors", "-o", "s.json", "--recipes", "standard", *FAST)
    assert code == 130 and out == "s.json\n" and "interrupted: 1 of 2 tensors were analysed" in err
    assert Sweep.load("s.json").tensors == ["layers.0.mlp"]


def _start(*arguments, **more) -> subprocess.Popen:
    root = Path(nvfp4viz.__file__).parents[1]
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-m", "nvfp4viz.cli", *arguments], text=True, env=env, **more)


def test_as_a_user_starts_it():
    process = _start("report", "model.safetensors", "--recipes", "standard", "4/6-mse-256", *FAST)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "report.html\n", "")
    assert re.search(r"<p class=\"?verdict", Path("report.html").read_text(encoding="utf-8"))
    assert load_report("report.html").provenance["command"][1:3] == ["report", "model.safetensors"]


def test_a_kill_leaves_the_old_report():
    Path("report.html").write_text("old")
    save_file({f"x{i}": synthetic("normal", 512, 1024, seed=i) for i in range(40)}, "large.safetensors")
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = _start("report", "large.safetensors", "--engine", "reference", stderr=end)
    try:
        assert os.read(terminal, 1)  # the bar shows: it computes
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)
    assert process.returncode == -signal.SIGKILL
    assert Path("report.html").read_text() == "old"


def test_doctor_tells_of_every_engine(run):
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert code in (0, 1)
    assert all(row["name"] in json.dumps(found) for row in nvfp4viz.engines())


def test_a_console_that_is_not_utf_8_costs_no_result(tmp_path):
    save_file({"层": X}, tmp_path / "x.safetensors")
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "nvfp4viz.cli", "sweep", "x.safetensors", "--engine", "reference"]
    command += ["-o", "层.json"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and r"\u5c42.json" in run.stdout and (tmp_path / "层.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_a_reader_that_has_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = _start("doctor", "--json", stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (141, "")


def test_hostile_names_are_printed_as_text(run, capsys):
    save_file({name: torch.ones(4, 5) for name in STORABLE.values()} | {"good": X}, "x.safetensors")
    code, _, err = run("sweep", "x.safetensors", "-o", "s.json", "--recipes", "standard", *FAST)
    assert code == 0 and err.count("nvfp4viz: skipped") == len(STORABLE)
    assert "\x1b" not in err and "\u202e" not in err  # a terminal obeys nothing of a file
