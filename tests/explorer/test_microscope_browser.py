"""The microscope in JupyterLab: beside an error stands no block, and after it the next one; a kernel may die."""

import pytest
from test_explorer_browser import Lab, settle

CELLS = [
    "import nvfp4viz, os, torch\n"
    "x = {'x': nvfp4viz.synthetic('normal', 32, 64), 'small': nvfp4viz.synthetic('normal', 2, 16),\n"
    "     'zeros': torch.zeros(4, 32), 'odd': torch.ones(4, 20)}\n"
    "nvfp4viz.explore(x, engine='reference', tensor='x', view='microscope')",
    "os.kill(os.getpid(), 9)",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("microscope"), CELLS)
    yield lab
    lab.close()


@pytest.fixture
def page(lab, browser):
    page = lab.open(browser)
    lab.run(page, 0)
    page.locator("svg.microscope circle").first.wait_for(timeout=60_000)
    settle(page)
    yield page
    page.close()


def enter(page, field: str, text: str) -> None:
    page.locator(f"input.{field}").fill(text)
    page.keyboard.press("Enter")


def shown(page) -> str:
    """The block that is drawn, once it is."""
    page.locator("svg.microscope").wait_for()
    return page.locator(".nv4").get_attribute("data-block")


def said(page, text: str) -> None:
    """This stands under the dials, and no block beside it."""
    page.locator(".nv4 .notice", has_text=text).wait_for()
    assert no_block(page)


def no_block(page) -> bool:
    return not page.locator("svg.microscope, .stages, .value-bench, .nv4 .where").locator("visible=true").count()


@pytest.mark.browser
def test_what_is_typed_names_a_block_or_says_why_not(page):
    whole = "both are whole numbers from 0"
    for text, why in [("-1", whole), ("1.5", whole), ("", whole), ("32", "tokens 0 to 31 and blocks 0 to 3")]:
        enter(page, "at-token", "3")
        page.locator('.nv4[data-block^="3,"]').wait_for()
        assert shown(page).startswith("3,") and not page.locator(".nv4 .notice").inner_text()
        enter(page, "at-token", text)
        said(page, why)
    page.get_by_role("button", name="next block").click()  # what stands in the field is not entered again
    assert int(shown(page).split(",")[0]) < 32 and not page.locator(".nv4 .notice").inner_text()
    page.get_by_label("blocks with").select_option("worst")
    enter(page, "at-token", "30")
    page.locator('.nv4[data-block^="30,"]').wait_for()
    page.locator("select.tensor").select_option("small")
    page.get_by_text("1 of 2", exact=True).wait_for()
    page.get_by_role("button", name="next block").click()
    page.get_by_text("2 of 2", exact=True).wait_for()
    assert shown(page) in ("0,0", "1,0") and not page.locator(".nv4 .notice").inner_text()


@pytest.mark.browser
def test_a_tensor_without_a_block_shows_no_other_s(page):
    page.locator("select.tensor").select_option("zeros")
    page.locator(".nv4 .picked", has_text="no such block").wait_for()
    assert no_block(page) and not page.locator(".nv4 .notice").inner_text()
    page.locator("select.tensor").select_option("odd")
    said(page, "odd was skipped: K=20 is not a multiple of 16")
    for part in (".verdict", "footer"):  # they are of the tensor before
        assert not page.locator(f".nv4 {part}").is_visible()
    page.locator("select.tensor").select_option("x")
    shown(page)


@pytest.mark.browser
def test_a_kernel_that_died_is_told_and_breaks_nothing(page, lab):
    lab.run(page, 1)
    page.locator(".jp-Dialog button").first.click()
    enter(page, "at-token", "9")
    said(page, "No kernel answers")
    page.locator("select.tensor").select_option("small")
    page.locator(".nv4 .picked", has_text="no answer").wait_for()
    said(page, "No kernel answers")
    page.get_by_role("tab", name="Overview").click()  # its statistics are in the page
    page.locator('.nv4[data-tensor="small"][data-view="overview"]').wait_for()
    assert page.locator(".nv4 svg.scales").is_visible()
    assert not [text for text in page.errors if "send" in text]
