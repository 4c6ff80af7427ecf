"""Explorers beside each other, and cells that run again, in a real JupyterLab."""

import pytest
from test_explorer_browser import Lab, idle

CELLS = [
    "import ipywidgets, nvfp4viz\nsmall = {'x': nvfp4viz.synthetic('normal', 32, 64)}\n"
    "ipywidgets.HBox([nvfp4viz.explore(small), nvfp4viz.explore(small)])",
    "r = nvfp4viz.explore(small)\nr",
    "e = [nvfp4viz.explore(small) for _ in range(3)]\n"
    "ipywidgets.HBox([ipywidgets.VBox(e[:1]), ipywidgets.Box(e[1:2]), ipywidgets.Label('beside'), e[2]])",
    "print('open', sum(type(w).__name__ == 'Explorer' for w in ipywidgets.Widget.widgets.values()))",
]


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path, CELLS)
    yield lab
    lab.close()


@pytest.mark.browser
def test_explorers_share_a_row_and_a_cell_run_again_leaves_one(lab, browser):
    page = lab.open(browser)
    lab.run(page, 0)
    page.locator(".nv4").nth(1).locator("svg.scales").wait_for(timeout=60_000)
    first, second = (page.locator(".nv4").nth(i).bounding_box() for i in range(2))
    assert abs(first["width"] - second["width"]) < 2 and first["width"] > 300
    assert second["x"] >= first["x"] + first["width"] - 1
    for _ in range(3):
        lab.run(page, 1)
        idle(page)
    page.locator(".nv4").nth(2).locator("svg.scales").wait_for(timeout=60_000)
    assert page.locator(".nv4").nth(2).bounding_box()["width"] > 600
    lab.run(page, 2)  # in boxes of a row, which ask how wide what they hold would be
    page.locator(".nv4").nth(5).locator("svg.scales").wait_for(timeout=60_000)
    assert all(page.locator(".nv4").nth(i).bounding_box()["width"] > 150 for i in (3, 4, 5))
    lab.run(page, 3)
    page.get_by_text("open 6").wait_for(timeout=30_000)
    assert page.errors == []
    page.close()
