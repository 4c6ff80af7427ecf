"""The report's section on the output: a plan and a drift beside the tensor errors, names of strangers escaped."""

import sys
from pathlib import Path

import pytest

import nvfp4viz
from nvfp4viz.explorer import outputs
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


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_the_explorer_s_tab_shows_the_same(parts, browser, tmp_path, width):
    sweep, plan, drift = parts
    tab = browser.new_page(viewport={"width": width, "height": 900})
    complaints = []
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    tab.goto(nvfp4viz.report(sweep, tmp_path / "r.html", plan=plan, drift=drift).as_uri())
    tab.get_by_role("tab", name="Output").click()
    tab.locator("svg.frontier circle").first.wait_for()
    drawn = tab.eval_on_selector_all("svg.frontier circle", "all => all.map((e) => Number(e.dataset.kl))")
    assert drawn == pytest.approx([p.kl for p in plan.frontier], rel=1e-4)
    assert plan.sentence() in tab.locator(".frontier-words").inner_text()
    ranked = sorted(plan.units, key=lambda u: -u["predicted_kl"])
    tab.locator("svg.ranking text.pick").nth(1).click()
    wanted = set(ranked[1]["matrices"]) & set(sweep.stats)
    tab.wait_for_function("all => all.includes(document.querySelector('.nv4').dataset.tensor)", arg=sorted(wanted))
    rows = tab.locator(".prompt-table tbody tr")
    assert [r.split("\t")[0] for r in rows.all_inner_texts()] == [str(s) for s, _, _ in drift.output.by_sequence()[:5]]
    assert EVIL in rows.first.inner_text() and tab.locator("svg.drift path").count() > 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    assert [v["id"] for v in axe.run(tab).response["violations"] if v["impact"] in ("serious", "critical")] == []
    tab.locator("button.copy").click()
    tab.locator(".copied", has_text="plan=plan, drift=drift").or_(tab.locator(".copied", has_text="copied")).wait_for()
    assert complaints == []
    tab.close()


@pytest.mark.browser
def test_what_was_not_given_is_greyed_and_says_what_it_takes(parts, browser, tmp_path):
    tab = browser.new_page()
    tab.goto(nvfp4viz.report(parts[0], tmp_path / "r.html").as_uri())
    button = tab.get_by_role("tab", name="Output")
    button.wait_for()
    assert "empty" in button.get_attribute("class") and "plan=nvfp4viz.plan" in button.get_attribute("title")
    button.click()
    tab.locator(".nv4[data-view=output]").wait_for()
    assert "Not given" in tab.locator('[data-part="drift"] .why').inner_text()
    assert not tab.locator("svg.drift").is_visible() and not tab.locator("svg.frontier").is_visible()
    tab.close()


def test_explore_takes_them_as_a_report_does(parts):
    sweep, plan, drift = parts
    w = nvfp4viz.explore(sweep, plan=plan, drift=drift, view="output")
    assert w.view == "output" and set(w.output) == {"ranking", "frontier", "drift", "prompts", "missing"}
    assert w.output["missing"] == {}
    w.close()
    assert set(nvfp4viz.explore(sweep).output["missing"]) == {"ranking", "frontier", "drift", "prompts"}
    for wrong in ({"plan": drift}, {"drift": plan}, {"impact": plan}):
        with pytest.raises(TypeError, match=r"= is a \w+: give what nvfp4viz\.\w+\(\.\.\.\) returns"):
            nvfp4viz.explore(sweep, **wrong)


def test_layers_measured_alone_are_ranked_where_no_plan_is(parts):
    model, batches = small_model(), [ids(8, 16)]
    impact = nvfp4viz.impact(model, batches, ["standard", "4/6-mse-256"], per_layer=True)
    shown = outputs(parts[0].stats, impact)
    kl = [row["measured"] for row in shown["ranking"]["rows"]]
    alone = [e.kl for e in impact.effects if e.module and e.recipe == shown["ranking"]["recipe"]]
    assert kl == pytest.approx(sorted(alone, reverse=True), rel=1e-4)
    assert all(row["tensors"] == [row["name"]] for row in shown["ranking"]["rows"] if row["name"] in parts[0].stats)
    difference = impact.difference("standard", "4/6-mse-256")
    assert shown["impact"]["against"]["standard"]["4/6-mse-256"] == f"{difference.percent()}: {difference.enough()}"
