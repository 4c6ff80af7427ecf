"""`nvfp4viz lab`: notebooks and what they read, copied beside each other; what a user changed stays."""

import sys
from pathlib import Path

import pytest

from nvfp4viz.cli import lab, main

ROOT = Path(__file__).parents[2]


def test_it_copies_once_and_keeps_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "--copy"]) == 0
    copied = {p.name for p in (tmp_path / "nvfp4viz-notebooks/notebooks").iterdir()}
    assert copied == {p.name for p in (ROOT / "notebooks").glob("*.ipynb")}
    mine = tmp_path / "nvfp4viz-notebooks/notebooks" / sorted(copied)[0]
    mine.write_text("changed")
    (tmp_path / "nvfp4viz-notebooks/data/alice.txt").unlink()
    capsys.readouterr()
    assert main(["lab", "--copy"]) == 0
    assert "1 files copied" in capsys.readouterr().out
    assert mine.read_text() == "changed"
    assert not list(tmp_path.rglob("*.part"))


def test_it_starts_jupyterlab_on_the_copy(tmp_path, monkeypatch):
    pytest.importorskip("jupyterlab")
    called = []
    monkeypatch.setattr(lab.subprocess, "call", lambda command: called.append(command) or 7)
    assert main(["lab", str(tmp_path / "here")]) == 7
    assert called == [[sys.executable, "-m", "jupyter", "lab", str(tmp_path / "here/notebooks")]]


def test_without_jupyterlab_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: None)
    assert main(["lab", str(tmp_path / "here")]) == 2
    assert "pip install 'nvfp4viz[lab]'" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()


def test_an_installation_without_notebooks_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab.importlib.metadata, "files", lambda name: [])
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "a/b/c.py"))
    assert main(["lab", "--copy", str(tmp_path / "here")]) == 2
    assert "holds no notebooks" in capsys.readouterr().err
