"""nvfp4viz check: exit codes, JUnit XML and Markdown, what is missing, strangers' names; CSV without formulas."""

import argparse
import csv
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hostile import NAMES

from nvfp4viz import Sweep, report, sweep, synthetic
from nvfp4viz.cli import main
from nvfp4viz.cli.check import decibels

X = synthetic("lognormal", 64, 64)
RECIPES = ["standard", "4/6-mae-448"]


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _saved(path, tensors) -> Sweep:
    found = sweep(tensors, RECIPES, engine="reference")
    found.save(path)
    return found


def _spoilt():
    """The same tokens, one value of each block grown, so that the rest is rounded coarsely."""
    y = X.clone()
    y[:, ::16] *= 8
    return y


def test_the_same_passes_and_a_loss_fails(capsys):
    same = _saved("a.json", {"x": X, "y": X})
    _saved("b.json", {"x": X, "y": _spoilt()})
    assert main(["check", "a.json", "a.json"]) == 0 and "All 4 passed" in capsys.readouterr().out
    report(same, "a.html")
    assert main(["check", "a.html", "a.json", "--max-loss", "0"]) == 0
    capsys.readouterr()
    code = main(["check", "a.json", "b.json", "--max-loss", "0.1 dB", "--junit", "j.xml", "--summary", "s.md"])
    out = capsys.readouterr().out
    before, after = same.stats["y"], Sweep.load("b.json").stats["y"]
    lost = [r for r in RECIPES if after[r].token_sqnr_db < before[r].token_sqnr_db - 0.1]
    assert lost and code == 1 and f"{len(lost)} of 4 failed: 2 tensors under 2 recipes" in out
    assert f"  y, {lost[0]}: lost" in out and "allowed are 0.1 dB" in out and "*" not in out
    assert "b.json: engine reference, nvfp4viz" in out and "other activations in 1 tensor, such as y" in out
    text = Path("s.md").read_text()
    assert f"**{len(lost)} of 4 failed**" in text and "| y |" in text and "- b.json: engine reference" in text
    suite = ElementTree.parse("j.xml").getroot()
    assert suite.attrib["tests"] == "4" and suite.attrib["failures"] == str(len(lost))
    assert len(suite.findall("*/failure")) == len(lost) and "engine reference" in suite.find("system-out").text
    assert main(["check", "a.json", "b.json", "--max-loss", "99"]) == 0


def test_a_tensor_that_went_away_fails_with_its_reason(capsys):
    _saved("a.json", {"x": X, "y": X})
    _saved("b.json", {"x": X, "y": X * float("nan")})
    assert main(["check", "a.json", "b.json"]) == 1
    out = capsys.readouterr().out
    assert "2 of 4 failed" in out and "missing in the new sweep: x holds" in out


def test_a_recipe_or_tensor_that_went_away_is_named_and_a_long_list_is_cut(capsys):
    _saved("a.json", {f"t{i}": X for i in range(60)})
    sweep({"t0": X}, ["standard"], engine="reference").save("b.json")
    assert main(["check", "a.json", "b.json", "--junit", "j.xml", "--summary", "s.md"]) == 1
    out, text = capsys.readouterr().out, Path("s.md").read_text()
    assert "119 of 120 failed" in out and "t1, standard: missing in the new sweep: it has no such tensor" in out
    assert out.count("all 60 tensors, 4/6-mae-448: missing in the new sweep") == 1
    assert "10 more" in out and "10 more" in text and text.count("missing in the new sweep") == 50
    reasons = [f.attrib["message"] for f in ElementTree.parse("j.xml").findall("testcase/failure")]
    assert len(reasons) == 119 and sum("it has no recipe 4/6-mae-448" in r for r in reasons) == 60


def test_what_cannot_be_checked_exits_with_2(capsys):
    _saved("a.json", {"x": X})
    _saved("b.json", {"other": X})
    assert main(["check", "a.json", "b.json"]) == 2 and "share no tensor" in capsys.readouterr().err
    assert main(["check", "a.json", "gone.json"]) == 2
    assert main(["check", "a.json", "a.json", "--junit", "a.json"]) == 2 and "is an input" in capsys.readouterr().err
    for text in ("much", "-1", "nan", "1 kg"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no loss in dB"):
            decibels(text)
    assert [decibels(t) for t in ("0.1dB", "0.1 DB", ".5", "2")] == [0.1, 0.1, 0.5, 2.0]


def test_hostile_names_stay_text_in_every_output(capsys):
    _saved("a.json", dict.fromkeys(NAMES.values(), X))
    _saved("b.json", {"x": X, NAMES["script"]: X})
    assert main(["check", "a.json", "b.json", "--junit", "j.xml", "--summary", "s.md"]) == 1
    assert len(ElementTree.parse("j.xml").findall("testcase")) == 2 * len(NAMES)
    text = Path("s.md").read_text()
    assert "\x1b" not in text and "<script" not in text.replace("\\<", "") and "\u202e" not in capsys.readouterr().out
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table and all(line.replace("\\|", "").count("|") == 5 for line in table)


def test_strict_beside_fast_is_told(capsys):
    sweep({"x": X}, ["standard"], engine="reference").save("strict.json")
    sweep({"x": X}, ["standard-fast"], engine="reference").save("fast.json")
    assert main(["check", "strict.json", "fast.json"]) == 0
    said = capsys.readouterr().out
    assert "Other arithmetic: standard in the baseline beside standard-fast in the new one." in said


def test_a_table_starts_no_formula():
    found = sweep(dict.fromkeys(("=1+1", "@a", "-b", "+c", "plain"), X), RECIPES, engine="reference")
    found.save("t.csv")
    with open("t.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert {r["tensor"] for r in rows} == {"'=1+1", "'@a", "'-b", "'+c", "plain"}
    for row in rows[::2]:
        assert float(row["sqnr_db"]) == found.stats[row["tensor"].lstrip("'")]["standard"].sqnr_db
