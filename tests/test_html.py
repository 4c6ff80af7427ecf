"""The report: what it says, that it needs no network, that hostile names stay text, and that it reads back."""

import base64
import errno
import gzip
import hashlib
import html
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from nvfp4viz import RECIPES, Recipe, load, report, sweep, synthetic
from nvfp4viz.html import load_report, render
from nvfp4viz.sweep import COLUMNS, Sweep
from nvfp4viz.verdict import recommend

X = synthetic("lognormal", 24, 64)
HOSTILE = {
    "script": "</script><img src=x onerror=window.pwned=1>",
    "attribute": '"\'><svg onload=window.pwned=1> onmouseover=window.pwned=1 x="',
    "comment": "<!--<script>window.pwned=1//",
    "entity": "&lt;b&gt; &amp;amp; &#x3c;",
    "nul": "layer\x00\x1b[31m\x7f",
    "rtl": "\u202egnp.\u202d \u2066x\u2069 \u200f\u061c",
    "long": "n" * 10_000,
    "surrogate": "\ud800half",
    "newline": "two\nlines\r\ttab",
    "math": "$\\frac{1}{",
    "formula": '=HYPERLINK("http://example.com")',
    "empty": "",
}


@pytest.fixture(scope="module")
def measured() -> Sweep:
    return sweep({"layers.0.mlp": X, "layers.1.mlp": synthetic("spikes", 20, 32), "bad": X[:, :5]}, engine="reference")


@pytest.fixture(scope="module")
def page(measured) -> str:
    return render(measured)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of each kind of element."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, text):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(text)


def test_it_says_the_verdict_and_what_ran(page, measured):
    texts = Tags(page).texts
    assert html.escape(recommend(measured).sentence()) in page
    assert "2 tensors" in page and "up to 24 tokens" in page and "5 recipes" in page and "engine reference" in page
    assert "1 tensors could not be analysed" in page and "K=5 is not a multiple of 16" in page
    assert texts["h1"] == ["NVFP4 activation quantization"]
    assert texts["h2"] == ["Why", "What to set", "Every tensor, every recipe", "Provenance"]
    assert "FLASHINFER_NVFP4_4OVER6=" in page


def test_the_table_holds_every_number(page, measured):
    rows = re.findall(r"<tr><td title.*?</tr>", page, re.DOTALL)
    assert len(rows) == 2 * len(RECIPES)
    for row, (_, wanted) in zip(rows, measured.table().iterrows(), strict=True):
        values = re.findall(r'<td data-value="([^"]*)">', row)
        assert [float(v) for v in values] == [wanted[c] for c in COLUMNS]
        assert f">{wanted['tensor']}</td>" in row and f'data-value="{wanted["recipe"]}"' in row


def test_nothing_is_fetched_and_only_its_own_script_runs(page):
    tags = Tags(page).tags
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video")
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = (a["content"] for t, a in tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert not re.search(r"""(?:https?:)?//[a-z]""", re.sub(r"//.*", "", re.sub(r'"[A-Za-z0-9+/=]{200,}"', "", page)))


def test_images_say_what_they_show(page):
    images = [a for t, a in Tags(page).tags if t == "img"]
    assert len(images) == 3
    for image in images:
        assert image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 10
        assert int(image["width"]) > 100 and int(image["height"]) > 100
        assert base64.b64decode(image["src"].split(",")[1]).startswith(b"\x89PNG")


def test_provenance_names_files_recipes_and_versions(tmp_path):
    np.save(tmp_path / "layer.npy", X.float().numpy())
    found = load(tmp_path / "layer.npy")
    page = render(sweep(found, ["4/6-mse-256-tensor"], engine="reference"))
    assert found.sources[0]["sha256"] in page and str(tmp_path / "layer.npy") in page
    assert f"<dt>torch</dt><dd>{torch.__version__}</dd>" in page and "per_token=False" in page


def test_a_report_reads_back_as_the_same_sweep(measured, tmp_path):
    path = report(measured, tmp_path / "r.html")
    assert path == tmp_path / "r.html"
    back = load_report(path)
    assert (back.stats, back.recipes, back.provenance, back.skipped) == (
        measured.stats, measured.recipes, measured.provenance, measured.skipped,
    )  # fmt: skip
    assert render(back) == render(measured) == path.read_text(encoding="utf-8")  # reproducible, too


def test_truncated_edited_and_foreign_files_are_refused(page, tmp_path):
    path = tmp_path / "r.html"
    data = page.index('id="sweep"')
    middle = page.index(">", data) + 1000
    other = "A" if page[middle] != "A" else "B"
    for text, message in {
        page[: data - 100]: "holds no sweep: not a report of nvfp4viz, or truncated",
        page[:middle]: "holds no sweep",
        page[:middle] + other + page[middle + 1 :]: "does not match its checksum: truncated or edited",
        page[:middle] + page[middle + 4 :]: "does not match its checksum",
        "": "holds no sweep",
        "<html></html>": "holds no sweep",
    }.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message) as raised:
            load_report(path)
        assert str(path) in str(raised.value)
    path.write_bytes(os.urandom(1000))
    with pytest.raises(ValueError, match="holds no sweep"):
        load_report(path)


def test_a_report_of_another_version_is_refused(page, tmp_path):
    packed = base64.b64encode(gzip.compress(json.dumps({"format": "nvfp4viz-sweep-9"}).encode()))
    data = f'id="sweep" data-sha256="{hashlib.sha256(packed).hexdigest()}">{packed.decode()}</script>'
    (tmp_path / "r.html").write_text(f'<script type="application/gzip" {data}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"format is 'nvfp4viz-sweep-9', expected"):
        load_report(tmp_path / "r.html")


@pytest.fixture(scope="module")
def hostile() -> Sweep:
    tensors = dict.fromkeys(HOSTILE.values(), X) | {"<b>skipped</b>": X[:, :5]}
    return sweep(
        tensors, {HOSTILE["script"]: Recipe(), "4/6-mae-256": Recipe(256, four_over_six=True)}, engine="reference"
    )


def test_hostile_names_stay_text(hostile, tmp_path):
    hostile.provenance["sources"] = [{"path": n, "sha256": n, "metadata": {n: n}} for n in HOSTILE.values()]
    hostile.provenance["command"] = list(HOSTILE.values())
    path = report(hostile, tmp_path / "r.html")
    page = path.read_text(encoding="utf-8")
    tags = Tags(page).tags
    names = {t for t, _ in tags}
    assert "svg" not in names and "b" not in names and [t for t, _ in tags].count("script") == 2
    assert all(a["src"].startswith("data:") for t, a in tags if t == "img")
    assert not [n for _, a in tags for n in a if n.startswith("on")]
    forbidden = {chr(i) for i in range(32)} - {"\n"} | {
        "\x7f",
        *map(chr, range(0x202A, 0x202F)),
        *"\u200f\u061c\u2066\u2069",
    }
    assert not forbidden & set(page)
    assert "␀" in page and "[U+202E]" in page and "\\ud800half" in page
    longest = max(len(text) for texts in Tags(page).texts.items() if texts[0] != "script" for text in texts[1]
                  if texts[0] not in ("style", "pre"))  # fmt: skip
    assert longest < 8000  # the command line holds twelve names
    assert "(10,000 characters)" in page
    back = load_report(path)
    assert back.stats == hostile.stats and list(back.recipes) == list(hostile.recipes)


def test_a_failure_leaves_the_old_report(measured, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"folder '.*none' does not exist: create it"):
        report(measured, tmp_path / "none" / "r.html")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match=r"cannot write '.*r\.html': No space left on device; nothing was changed"):
        report(measured, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["r.html"]


def test_an_empty_sweep_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the sweep has no statistics"):
        report(Sweep({}, dict(RECIPES)), tmp_path / "r.html")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "tensors, recipes, says",
    [
        ({"zeros": torch.zeros(4, 16), "empty": X[:0]}, RECIPES, "No verdict: no tensor has a non-zero value"),
        ({"x": X}, ["standard"], "Only standard was measured"),
        ({"x": X, "zeros": torch.zeros(4, 16)}, ["4/6-mae-320", "4/6-mse-320-tensor"], "know the ceiling 448"),
        ({"large": torch.full((20, 16), 3.38e38).bfloat16()}, ["standard", "4/6-mae-250"], "standard"),
        ({"x": X[:1]}, ["standard-tensor-fast", "4/6-mse-256-fp16err-tensor-fast"], "fewer than 16 tokens"),
    ],
    ids=["zeros", "one recipe", "odd ceilings", "infinite", "one token"],
)
def test_every_sweep_makes_a_report(tensors, recipes, says, tmp_path):
    path = report(sweep(tensors, recipes, engine="reference"), tmp_path / "r.html")
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert says in page
    assert " nan" not in Tags(page).texts.get("td", []) and load_report(path).stats


# in a browser, as a reviewer opens it


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report from a file; fails where the page asks for anything or complains."""
    context = browser.new_context(offline=True, accept_downloads=True)
    requests, complaints = [], []

    def open_(one: Sweep):
        tab = context.new_page()
        tab.on("request", lambda r: requests.append(r.url))
        tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: complaints.append(str(e)))
        tab.goto(report(one, tmp_path / "r.html").as_uri())
        return tab

    yield open_
    context.close()
    assert [u for u in requests if not u.startswith(("file:", "data:", "blob:"))] == []
    assert len([u for u in requests if u.startswith("file:")]) == 1
    assert complaints == []


def _column(tab, i: int) -> list[str]:
    return tab.eval_on_selector_all(
        "#results tbody tr:not([hidden])",
        f"rows => rows.map(r => r.cells[{i}].dataset.value ?? r.cells[{i}].textContent)",
    )


def test_a_reviewer_sorts_filters_and_takes_the_numbers_away(opened, measured):
    tab = opened(measured)
    assert tab.locator(".verdict").inner_text() == recommend(measured).sentence()
    assert tab.locator("img").evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 100)")
    assert tab.locator("#shown").inner_text() == "10 of 10 rows"

    tab.get_by_role("button", name="SQNR (dB)").click()
    values = [float(v) for v in _column(tab, 5)]
    assert len(values) == 10 and values == sorted(values)
    assert tab.locator("th[aria-sort=ascending]").inner_text().strip() == "SQNR (dB)"
    tab.get_by_role("button", name="SQNR (dB)").click()
    assert [float(v) for v in _column(tab, 5)] == values[::-1]
    tab.get_by_role("button", name="tensor", exact=True).click()
    assert tab.locator("th[aria-sort]").count() == 1
    assert _column(tab, 0) == ["layers.0.mlp"] * 5 + ["layers.1.mlp"] * 5

    tab.locator("#filter").fill("LAYERS.1 256")
    assert tab.locator("#shown").inner_text() == "2 of 10 rows"
    assert set(_column(tab, 1)) == {"4/6-mae-256", "4/6-mse-256"} and set(_column(tab, 0)) == {"layers.1.mlp"}
    with tab.expect_download() as download:
        tab.locator("#csv").click()
    with open(download.value.path(), encoding="utf-8", newline="") as f:
        lines = f.read().split("\r\n")
    assert len(lines) == 3 and lines[0].startswith('"tensor","recipe","engine","tokens","features","sqnr_db"')
    cells = {line.split(",")[1].strip('"'): line.split(",")[5].strip('"') for line in lines[1:]}
    assert {n: float(v) for n, v in cells.items()} == {
        n: measured.stats["layers.1.mlp"][n].sqnr_db for n in ("4/6-mae-256", "4/6-mse-256")
    }
    tab.locator("#filter").fill("nothing like it")
    assert tab.locator("#shown").inner_text() == "0 of 10 rows"


def test_hostile_names_do_nothing_in_a_browser(opened, hostile):
    tab = opened(hostile)
    tab.get_by_role("button", name="tensor", exact=True).click()
    tab.locator("#filter").fill("img")
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("img").count() == 3
    assert HOSTILE["script"] in _column(tab, 0)
    tab.locator("#filter").fill("")
    tab.set_viewport_size({"width": 700, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # long names make no wide page


def test_infinities_sort_as_numbers(opened):
    tab = opened(sweep({"zeros": torch.zeros(20, 16), "x": X[:, :16]}, ["standard"], engine="reference"))
    tab.get_by_role("button", name="SQNR (dB)").click()
    assert _column(tab, 0) == ["x", "zeros"]
    assert tab.locator("td", has_text="∞").count() == 1


def test_its_table_can_be_reached_by_keyboard(opened, measured):
    tab = opened(measured)
    tab.locator("#filter").focus()
    for _ in range(3):
        tab.keyboard.press("Tab")
    for _ in range(10):
        if tab.evaluate("document.activeElement.textContent") == "SQNR (dB)":
            break
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.locator("th[aria-sort=ascending]").inner_text().strip() == "SQNR (dB)"
