"""The report's section on the output: a plan and a drift beside the tensor errors, names of strangers escaped."""

import sys
from pathlib import Path

import pytest

import nvfp4viz
from nvfp4viz.pages import load_report

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))
from small_model import ids, small_model

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def parts():
    model, batches = small_model(), [ids(8, 16)]
    with nvfp4viz.record(model, recipes=["standard", "4/6-mse-256"]) as recorder:
        model(batches[0])
    plan = nvfp4viz.plan(model, batches, ["standard", "4/6-mse-256"], budget=20)
    return recorder.sweep(), plan, nvfp4viz.drift(model, batches, plan.recipe, decode=lambda t: EVIL)


def test_a_report_shows_plan_and_drift(parts, tmp_path):
    sweep, plan, drift = parts
    path = nvfp4viz.report(sweep, tmp_path / "report.html", plan=plan, drift=drift)
    page = path.read_text(encoding="utf-8")
    section = page[page.index('id="output"') :]
    assert plan.sentence() in section and "times a copy" in section and "H100" in section
    for name in plan.point.kept:
        assert f"{name} (kept)" in section
    assert "Error along the depth" in section and "top tokens are the same" in section
    assert EVIL not in page and "&lt;script&gt;alert(1)" in section
    assert load_report(path).tensors == sweep.tensors


def test_without_them_there_is_no_section(parts, tmp_path):
    assert 'id="output"' not in nvfp4viz.report(parts[0], tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(TypeError, match=r"plan= is a dict: give what nvfp4viz\.plan"):
        nvfp4viz.report(parts[0], tmp_path / "report.html", plan={})


def test_two_recordings_have_no_output(parts, tmp_path):
    x = {"a": ids(4, 16).float(), "b": ids(4, 16).float()}
    drift = nvfp4viz.drift_between(x, {n: 1.1 * t for n, t in x.items()})
    page = nvfp4viz.report(parts[0], tmp_path / "report.html", drift=drift).read_text(encoding="utf-8")
    assert "two recordings" in page and "top tokens" not in page
