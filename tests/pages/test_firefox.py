"""The main things of a report in Firefox: it draws, chooses, computes and compares, at phones' and desks' widths."""

import importlib.util

import pytest
from firefox import NAMES, Firefox, find_firefox

import nvfp4viz
from nvfp4viz import report, sweep

LACKS = None if find_firefox() else f"none of {', '.join(NAMES)} is on PATH (apt-get install firefox-esr)"
if importlib.util.find_spec("websocket") is None:
    LACKS = "websocket-client is not installed"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(LACKS is not None, reason=f"firefox: {LACKS}")]
NV4 = "document.querySelector('.nv4')"


@pytest.fixture(scope="module")
def page(bundled, tmp_path_factory):
    loaded = nvfp4viz.load(bundled)
    measured = sweep({name: loaded[name] for name in list(loaded)[:4]}, engine="cpu")
    return measured, report(measured, tmp_path_factory.mktemp("firefox") / "r.html")


@pytest.mark.parametrize("width, scheme", [(360, "dark"), (1280, "light")])
def test_a_report_in_firefox(page, width, scheme):
    measured, path = page
    fox = Firefox(width, scheme=scheme)
    try:
        fox.open(path.as_uri())
        fox.until(f"Boolean({NV4}?.dataset.drawn)")
        assert fox.evaluate(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        for view in ("scales", "clipping", "error", "tensors", "microscope", "output", "overview"):
            fox.evaluate(f"document.querySelector('button[data-view={view}]').click()")
            fox.until(f"{NV4}.dataset.view === '{view}'")
            assert fox.evaluate("document.documentElement.scrollWidth") <= width, view
        assert fox.evaluate("document.querySelectorAll('#results tbody tr').length") == 4 * len(measured.recipes)
        wanted = fox.evaluate("document.querySelectorAll('figure.card svg text.pick')[1].textContent.trim()")
        fox.evaluate("document.querySelectorAll('figure.card svg text.pick')[1]"
                     ".dispatchEvent(new MouseEvent('click', { bubbles: true }))")  # fmt: skip
        fox.until(f"{NV4}.dataset.tensor === {wanted!r}")
        drawn = fox.evaluate(
            "[...document.querySelectorAll('svg.error [data-number=sqnr_db]')].map((e) => +e.dataset.value)"
        )
        names = fox.evaluate(f"[{NV4}.dataset.a, {NV4}.dataset.b]")
        assert drawn == [measured.stats[wanted][n].sqnr_db for n in names]
        fox.until("location.hash.includes('recipe_a')")
        assert fox.complaints == []
    finally:
        fox.close()
