"""Figures and a saved notebook in JupyterLab: dark and light, untrusted and trusted, without a cell run."""

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import nbformat
import pytest
from test_explorer_browser import Lab

from nvfp4viz.pages import running

pytestmark = pytest.mark.browser
VIEW = "application/vnd.jupyter.widget-view+json"
CELLS = [
    "import nvfp4viz\nfrom nvfp4viz import plots\nx = nvfp4viz.synthetic('lognormal', 64, 256)\n"
    "s = nvfp4viz.analyze(x, '4/6-mae-448')",
    "plots.Picture(plots.clipping_rates(s))",
    "nvfp4viz.explore({'x': x}, engine='reference')",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The notebook as Restart & Run All leaves it, on a machine that trusts nothing of it."""
    path = tmp_path_factory.mktemp("saved") / "explore.ipynb"
    cells = [nbformat.v4.new_code_cell(code) for code in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    running.execute(notebook, path)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(params=["JupyterLab Light", "JupyterLab Dark"])
def lab(request, tmp_path, saved):
    lab = Lab(tmp_path, [], request.param)
    lab.dark = "Dark" in request.param
    (tmp_path / "explore.ipynb").write_bytes(saved.read_bytes())
    yield lab
    lab.close()


def corner(locator) -> int:
    """How bright the upper left corner of what is shown is, 0 to 255."""
    image = pytest.importorskip("PIL.Image")
    return image.open(io.BytesIO(locator.screenshot())).convert("L").getpixel((3, 3))


def test_a_saved_notebook_shows_pictures_untrusted_and_lives_trusted(lab, browser):
    page = lab.open(browser)
    pictures = page.locator('.jp-OutputArea-output img[src^="data:image/png"]')
    pictures.nth(1).wait_for()
    text = page.locator(".jp-Notebook").inner_text()
    assert pictures.count() == 2 and "untrusted" not in text and "Error displaying widget" not in text
    page.close()
    trusted = subprocess.run([sys.executable, "-m", "jupyter", "trust", "explore.ipynb"], cwd=lab.folder,
                             env=lab.env, capture_output=True, text=True)  # fmt: skip
    assert trusted.returncode == 0, trusted.stderr
    page = lab.open(browser)
    figure = page.locator('.jp-OutputArea-output img[src^="data:image/svg+xml"]')
    figure.wait_for()
    assert (corner(figure) < 60) == lab.dark  # no white card in the dark
    page.emulate_media(color_scheme="light" if lab.dark else "dark")
    assert (corner(figure) < 60) == lab.dark  # JupyterLab's theme, not the system's
    page.locator(".nv4[data-state=ready][data-drawn]").wait_for()  # from the state that the file holds
    assert page.locator("svg.scales path[data-scales]").count() == 2
    page.close()


def displays(saved) -> list:
    """The data of each output that is a widget."""
    outputs = [o for c in nbformat.read(saved, 4).cells if c.cell_type == "code" for o in c.outputs]
    return [o.data for o in outputs if VIEW in getattr(o, "data", {})]


def test_who_has_no_widgets_is_left_with_the_picture(saved):
    """GitHub shows the richest that it knows, and knows no widget's view."""
    (data,) = displays(saved)
    assert set(data) == {VIEW, "image/png", "text/plain"}


def test_nbconvert_writes_the_picture_where_it_is_told_to_prefer_it(saved, tmp_path, browser):
    documented = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^jupyter (nbconvert .*) notebook\.ipynb$", documented, re.MULTILINE)
    words = [*shlex.split(command), "--output-dir", str(tmp_path), str(saved)]
    subprocess.run([sys.executable, "-m", "jupyter", *words], check=True, capture_output=True, timeout=120)
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((tmp_path / "explore.html").as_uri(), wait_until="domcontentloaded")
    picture = page.locator('.jp-OutputArea-output img[src^="data:image/png"]')
    picture.wait_for()
    assert picture.evaluate("img => img.complete && img.naturalWidth > 300")
    assert page.locator(f'script[type="{VIEW}"]').count() == 0  # nothing that waits for a network in vain
    context.close()


def test_a_figure_is_readable_on_a_page_without_a_theme(saved, browser):
    (cell,) = [c for c in nbformat.read(saved, 4).cells if "plots.Picture(" in c.source]
    svg = cell.outputs[0].data["image/svg+xml"]
    page = browser.new_page(color_scheme="dark")
    page.set_content(f'<body style="background:white"><img src="data:image/svg+xml,{quote(svg)}">')
    assert corner(page.locator("img")) < 60  # light ink in the dark, on a dark ground
    page.close()
