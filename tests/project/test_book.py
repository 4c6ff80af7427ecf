"""The book builds without a warning, and its pages work offline: no request, no error, formulas set, explorers move."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("sphinx", "furo", "myst_nb") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the book needs {', '.join(MISSING)}: make book installs them")


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The folder of the book, built anew with warnings as errors."""
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", ROOT / "docs"]
    done = subprocess.run(
        [*command, "-d", folder / "read", ROOT, folder / "book"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "book"


@pytest.fixture(scope="module")
def walked(book, browser):
    """Every page opened once: path -> {"requests", "errors", "title"}; all but files are refused."""
    context = browser.new_context(color_scheme="dark")
    page, found = context.new_page(), {}
    seen: dict[str, list] = {"requests": [], "errors": []}
    page.on("console", lambda message: seen["errors"].append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.on("request", lambda request: seen["requests"].append(request.url))
    context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    for path in sorted(book.rglob("*.html")):
        if "_static" in path.parts or path == book / "index.html":
            continue
        seen["requests"], seen["errors"] = [], []
        page.goto(path.as_uri())
        if page.locator("[data-sweep]").count():
            page.locator(".nv4 svg:visible").first.wait_for()
        found[path.relative_to(book).as_posix()] = {
            "requests": [url for url in seen["requests"] if not url.startswith(("file:", "data:"))],
            "errors": seen["errors"],
            "title": page.title(),
        }
    context.close()
    return found


def test_no_page_asks_a_network_or_errs(walked):
    assert {path: page for path, page in walked.items() if page["requests"] or page["errors"]} == {}


def test_every_notebook_and_document_is_a_page(walked):
    notebooks = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    documents = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert notebooks | documents <= set(walked)
    assert all(page["title"].strip() for page in walked.values())


def test_an_explorer_of_a_notebook_moves(book, browser):
    page = browser.new_page()
    page.goto((book / "notebooks/02_448_or_256.html").as_uri())
    explorer = page.locator(".nv4").first
    explorer.locator("svg:visible").first.wait_for()
    before = explorer.inner_text()
    explorer.get_by_role("tab", name="Clipping").click()
    assert explorer.inner_text() != before
    choice = explorer.locator("select").first
    other = choice.locator("option").nth(3).get_attribute("value")
    choice.select_option(other)
    page.wait_for_function("name => document.querySelector('.nv4').innerText.includes(name)", arg=other)
    explorer.get_by_role("tab", name="Microscope").click()
    explorer.locator("svg:visible").last.wait_for()
    assert "That needs a notebook" not in explorer.inner_text()
    page.close()


def test_the_book_is_searchable_and_links_out_are_listed(book, browser):
    page = browser.new_page()
    page.goto((book / "search.html").as_uri() + "?q=ceiling_dial")
    page.locator("#search-results li").first.wait_for()
    assert "nvfp4viz" in page.locator("#search-results").inner_text()
    page.close()
    listed = (book / "external-links.txt").read_text().splitlines()
    assert listed and all(line.startswith("http") for line in listed)


def test_formulas_are_set_without_a_script(book):
    html = (book / "docs/numerics.html").read_text()
    assert html.count("<math") > 20
    assert "mathjax.js" not in html and "MathJax" not in html


def test_the_first_page_leads_to_the_book(book, browser):
    page = browser.new_page()
    page.goto((book / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    page.close()
