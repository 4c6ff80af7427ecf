"""Whatever the width, no text of the explorer leaves its picture or lies on another, and nothing scrolls sideways."""

import json

import pytest
import torch

import nvfp4viz
from nvfp4viz import report, sweep

VIEWS = ("overview", "scales", "clipping", "error", "tensors", "microscope", "output")
WIDTHS = (
    332,
    414,
    464,
    620,
    850,
    1200,
)  # of a phone; what JupyterLab's side bar leaves of 1280 px at 150 %, and of 900 px; and more

# Texts of each picture that stick out of it by more than 1 px, or share more than 2 px both ways.
TROUBLE = """() => {
    const found = [], root = document.querySelector('.nv4');
    const shown = (e) => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
    for (const svg of root.querySelectorAll('svg')) {
        if (!shown(svg)) continue;
        const box = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll('text')].filter((e) => e.textContent && shown(e));
        const boxes = texts.map((e) => e.getBoundingClientRect());
        boxes.forEach((a, i) => {
            const out = Math.max(box.left - a.left, a.right - box.right, box.top - a.top, a.bottom - box.bottom);
            if (out > 1) found.push(`${svg.classList[0]}: "${texts[i].textContent}" sticks out by ${out.toFixed(1)}`);
            boxes.slice(0, i).forEach((b, j) => {
                const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (wide > 2 && high > 2) {
                    found.push(`${svg.classList[0]}: "${texts[i].textContent}" on "${texts[j].textContent}"`);
                }
            });
        });
    }
    for (const part of [root, ...root.querySelectorAll('figure, .top, .bench, .tabs, .dials')]) {
        if (shown(part) && part.scrollWidth > part.clientWidth + 1 && part.tagName !== 'TABLE') {
            found.push(`${part.className || part.tagName} is ${part.scrollWidth} wide in ${part.clientWidth}`);
        }
    }
    return found;
}"""


@pytest.fixture(scope="module")
def pages(bundled, tmp_path_factory):
    """Reports of the bundled activations, of numbers that take much room, and of constants with odd names."""
    x = nvfp4viz.load(bundled)
    wide = {
        "x" * 60: nvfp4viz.synthetic("lognormal", 512, 1024) * 1e-30,
        "model.layers.11.mlp.down_proj": -nvfp4viz.synthetic("normal", 64, 256).float() * 1e4,
    }
    odd = {
        "層" * 60: torch.full((32, 64), 0.37),  # one scale, and no error under some recipes
        "m" * 60: torch.zeros(8, 64),
        "one token": nvfp4viz.synthetic("normal", 1, 64),
    }
    folder = tmp_path_factory.mktemp("layout")
    return {
        "bundled": report(sweep(x, attribution=True), folder / "a.html"),
        "wide numbers": report(sweep(wide, attribution=True), folder / "b.html"),
        "odd": report(sweep(odd), folder / "c.html"),
    }


def trouble_at(browser, path, width: int, direction: str = "ltr") -> dict:
    """View -> what sticks out or overlaps, in an explorer so wide on a page that is read in a direction."""
    tab = browser.new_page(viewport={"width": 1400, "height": 1200})
    tab.goto(path.as_uri())
    tab.locator(".nv4[data-drawn]").wait_for()
    tab.evaluate("direction => { document.documentElement.dir = direction; }", direction)
    tab.locator(".nv4").evaluate("(e, w) => { e.parentElement.style.width = `${w}px`; }", width)
    tab.wait_for_timeout(100)
    trouble = {}
    for view in VIEWS:
        tab.locator(f".nv4 button[data-view={view}]").click()
        tab.wait_for_function("v => document.querySelector('.nv4').dataset.view === v", arg=view)
        tab.wait_for_timeout(50)
        if found := tab.evaluate(TROUBLE):
            trouble[view] = found
    tab.close()
    return trouble


def in_words(trouble: dict) -> str:
    return json.dumps(trouble, indent=1, ensure_ascii=False)


@pytest.mark.parametrize("which", ["bundled", "wide numbers", "odd"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_or_overlaps(browser, pages, which, width):
    trouble = trouble_at(browser, pages[which], width)
    assert not trouble, in_words(trouble)


def test_a_page_that_is_read_from_the_right(browser, pages):
    trouble = trouble_at(browser, pages["bundled"], 850, "rtl")
    assert not trouble, in_words(trouble)
