"""Pages at the widths of phones and desks, light and dark, without JavaScript too; and what a page computes alone."""

import re
from dataclasses import replace

import pytest

import nvfp4viz
from nvfp4viz import report, sweep
from nvfp4viz.analysis import inspect_block
from nvfp4viz.pages import compare

pytestmark = pytest.mark.browser
WIDTHS = (360, 390, 768, 1280)
WIDER = """() => [...document.querySelectorAll('body *')].filter((e) => e.getClientRects().length
    && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, .tall, svg, pre')
    && getComputedStyle(e).position !== 'absolute').map((e) => `${e.tagName}.${e.className}`)"""


@pytest.fixture(scope="module")
def page(bundled, tmp_path_factory):
    loaded = nvfp4viz.load(bundled)
    measured = sweep({name: loaded[name] for name in list(loaded)[:6]}, engine="cpu")
    return measured, report(measured, tmp_path_factory.mktemp("widths") / "r.html")


@pytest.fixture
def opened(browser, page):
    contexts = []

    def open_(**options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.complaints = []
        tab.on("console", lambda m: tab.complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: tab.complaints.append(str(e)))
        tab.url_of_report = page[1].as_uri()
        tab.goto(tab.url_of_report)
        if options.get("java_script_enabled", True):
            tab.locator("[data-drawn]").first.wait_for()
        return tab

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(opened, width, scheme):
    tab = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for view in ("overview", "scales", "clipping", "error", "tensors", "microscope", "output"):
        tab.locator(f'button[data-view="{view}"]').click()
        tab.wait_for_function("v => document.querySelector('.nv4').dataset.view === v", arg=view)
        assert tab.evaluate(WIDER) == [], view
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_that_is_read_from_the_right(opened, width):
    """As a browser's translation into Arabic or Hebrew makes it: nothing leaves the window, no letter its picture."""
    tab = opened(viewport={"width": width, "height": 800})
    outside = """() => [...document.querySelectorAll('main figure.card svg text')].filter((e) => {
        const [text, picture] = [e.getBoundingClientRect(), e.closest('svg').getBoundingClientRect()];
        return text.left < picture.left - 2 || text.right > picture.right + 2;
    }).map((e) => e.textContent)"""
    before = tab.evaluate(outside)  # what a picture clips
    tab.evaluate("document.documentElement.dir = 'rtl'")
    assert tab.evaluate(outside) == before
    assert tab.evaluate("document.documentElement.scrollWidth") <= width and tab.evaluate(WIDER) == []


def test_letters_of_figures_can_be_read_on_a_phone(opened):
    tab = opened(viewport={"width": 360, "height": 800})
    heights = tab.eval_on_selector_all(
        "figure.card svg text", "all => all.map((e) => e.getBoundingClientRect().height)"
    )
    assert min(heights) > 7  # px, of a line: smaller letters were blurs
    assert tab.locator("figure.card figcaption").first.evaluate("e => e.getBoundingClientRect().right") <= 360


def test_a_tensor_is_chosen_everywhere_and_stays_in_the_address(opened, page):
    measured, _ = page
    tab = opened(viewport={"width": 1280, "height": 900})
    wanted = measured.tensors[3]
    tab.locator("figure.card svg text.pick", has_text=wanted).click()
    tab.wait_for_function("t => document.querySelector('.nv4').dataset.tensor === t", arg=wanted)
    assert tab.locator("#results tr.here").count() == len(measured.recipes)
    row = tab.locator("#results tbody tr").first
    other = row.locator("td").first.get_attribute("title")
    row.click()
    tab.wait_for_function("t => document.querySelector('.nv4').dataset.tensor === t", arg=other)
    worst = tab.locator(".worst tr[data-place]").first
    worst.hover()
    name = worst.locator("th").inner_text()
    assert tab.locator("figure.card svg text.pointed").all_text_contents() == [name]
    assert tab.locator("#results tr.pointed").count() == len(measured.recipes)
    assert name in tab.locator("svg.strip .cursor").text_content()
    strip = tab.locator("svg.strip")
    strip.scroll_into_view_if_needed()
    strip.hover(position={"x": strip.bounding_box()["width"] - 14, "y": 20})  # the last tensor
    assert tab.locator("figure.card svg text.pointed").all_text_contents() == [measured.tensors[-1]]
    strip.hover(position={"x": 2, "y": 2})
    tab.locator("h1").hover()
    assert tab.locator(".pointed").count() == 0
    tab.locator("button[data-view=microscope]").click()
    tab.locator(".nv4[data-view=microscope][data-block]").wait_for()
    worst.click()  # and the microscope shows a block of that tensor, not one that it has not
    tab.wait_for_function("t => document.querySelector('.nv4').dataset.tensor === t", arg=name)
    tab.wait_for_function("() => document.querySelector('.nv4').dataset.state === 'ready'")
    assert tab.locator("svg.microscope:visible").count() == 1 and tab.locator(".notice").inner_text() == ""
    tab.locator("button[data-view=overview]").click()
    tab.get_by_role("tab", name="Error").click()
    tab.wait_for_function("() => location.hash.includes('view=error')")
    again = tab.context.new_page()
    again.goto(tab.url)
    again.locator(".nv4[data-view=error]").wait_for()
    assert again.locator(".nv4").get_attribute("data-tensor") == name
    assert tab.complaints == []


def test_names_that_a_figure_shows_the_ends_of_choose_their_tensor(browser, tmp_path):
    names = [
        f'language_model.model.layers.{i}.block_sparse_moe.experts.{e}.<w>&"%é_proj' for i in (0, 1) for e in (3, 13)
    ]
    x = nvfp4viz.synthetic("lognormal", 16, 64)
    tab = browser.new_page()
    tab.goto(report(sweep(dict.fromkeys(names, x), ["standard", "4/6-mae-448"]), tmp_path / "r.html").as_uri())
    tab.locator("[data-drawn]").first.wait_for()
    labels = tab.locator("figure.card svg text.pick")
    assert labels.count() == 4 and all("…" in text for text in labels.all_text_contents())
    for i in range(4):
        labels.nth(i).click()
        tab.wait_for_function("t => document.querySelector('.nv4').dataset.tensor === t", arg=names[::-1][i])
    tab.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_is_no_wider_than_the_window(browser, page, tmp_path, width):
    measured, path = page
    few = replace(measured, records=dict(list(measured.records.items())[1:]))
    context = browser.new_context(viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.goto(compare(measured, few, tmp_path / "c.html", ("a" * 90, "b.json"), author="A. Person").as_uri())
    tab.locator("#results td").first.wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width and tab.evaluate(WIDER) == []
    assert "A. Person" in tab.locator("header").inner_text()
    tab.locator("#reports").set_input_files([path, path])
    tab.locator("#compared h3").first.wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width and tab.evaluate(WIDER) == []
    context.close()


def test_tensors_have_one_order(opened):
    tab = opened(viewport={"width": 1280, "height": 900})
    listed = tab.eval_on_selector_all("select.tensor option", "all => all.map((e) => e.value)")
    rows = tab.eval_on_selector_all("#results tbody tr", "all => all.map((e) => e.cells[0].title)")
    figure = tab.eval_on_selector_all("figure.card svg text.pick", "all => all.map((e) => e.textContent.trim())")
    plain = re.findall(r'<td class="text">([^<]*)</td><td class="text">standard', tab.content())
    assert list(dict.fromkeys(rows)) == figure[::-1] == plain == listed != sorted(listed)


@pytest.mark.parametrize("width", WIDTHS)
def test_without_javascript_the_numbers_are_there(opened, page, width):
    tab = opened(viewport={"width": width, "height": 800}, java_script_enabled=False)
    rows = tab.locator("table.plain tbody tr")
    assert rows.count() == 30 and rows.first.is_visible()
    assert not tab.locator("#results").is_visible() and not tab.locator(".tools").is_visible()
    assert tab.locator("h1").is_visible() and tab.locator("figure.card").count() == 3


def test_the_microscope_computes_without_a_kernel(opened, page):
    measured, _ = page
    tab = opened(viewport={"width": 1200, "height": 900})
    grey = tab.locator('[data-dial="b"][data-setting="per_token"][value="false"]')
    assert grey.get_attribute("aria-disabled") == "true"
    assert "nothing is recorded under" in grey.locator("xpath=..").get_attribute("title")
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator("svg.microscope circle").first.wait_for()
    assert grey.get_attribute("aria-disabled") == "false"
    tab.locator('[data-slider="b"]').focus()
    for _ in range(3):
        tab.keyboard.press("ArrowLeft")
    tab.locator(".name.b.study").wait_for()
    name = tab.locator(".name.b").inner_text().split()[0]
    at = tab.locator(".nv4").get_attribute("data-block") or ""
    token, block = map(int, at.split(","))
    tensor = tab.locator("select.tensor").input_value()
    kept = measured.blocks[tensor]["blocks"][f"{token},{block}"]
    wanted = inspect_block(kept["values"], kept["token_amax"], name)
    label = tab.locator('svg.microscope text[data-side="b"][data-choice]')
    assert label.get_attribute("data-choice") == str(wanted["choice"])
    assert label.get_attribute("data-byte") == str(wanted["byte"])
    score = tab.locator('svg.microscope text[data-side="b"][data-score]').first
    assert float(score.get_attribute("data-score")) == wanted["candidates"][0]["score"]
    took = tab.evaluate("""async () => {
        const slider = document.querySelector('.value-slider'), times = [];
        for (let i = 1; i <= 40; i++) {
            const start = performance.now();
            slider.value = (i / 40) * slider.max;
            slider.dispatchEvent(new Event('input', { bubbles: true }));
            await new Promise((done) => setTimeout(done));
            times.push(performance.now() - start);
        }
        return times.sort((p, q) => p - q)[20];
    }""")
    print(f"\na changed value is drawn after {took:.1f} ms")
    assert "stored" in tab.locator(".value-now").inner_text()
    tab.get_by_role("tab", name="Overview").click()
    tab.locator(".notice", has_text="is not recorded in this page: back to").wait_for()
    assert tab.complaints == []


def test_a_page_that_opens_at_the_microscope_knows_what_is_recorded(opened):
    tab = opened(viewport={"width": 1200, "height": 900})
    tab.goto("about:blank")
    tab.goto(tab.url_of_report + "#view=microscope")
    tab.locator("svg.microscope circle").first.wait_for()
    tab.locator(".nv4 .verdict", has_text="dB").wait_for()
    assert tab.locator("svg.strip").is_visible()


def test_a_block_is_played_and_a_cell_of_the_map_chosen(opened, page):
    tab = opened(viewport={"width": 1200, "height": 900})
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator("svg.microscope .fall").first.wait_for()
    tab.get_by_role("button", name="next step").click()
    tab.locator('svg.microscope[data-stage="1"]').wait_for()
    assert not tab.locator("svg.microscope .fall").first.is_visible()
    tab.get_by_role("button", name="step before").click()
    assert tab.locator("svg.microscope .fall").first.is_visible()
    assert re.search("won most at column|tie goes to 6", tab.locator(".stages").inner_text())
    tab.get_by_role("tab", name="All tensors").click()
    cells = tab.locator("svg.heat rect.cell")
    assert cells.count() == 6
    wanted = cells.nth(4).get_attribute("data-tensor")
    box = cells.nth(4).bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_function("t => document.querySelector('.nv4').dataset.tensor === t", arg=wanted)
    tab.get_by_label("find").fill("mlp")
    tab.wait_for_function("() => document.querySelectorAll('svg.heat rect.cell').length < 6")
    names = [cell.get_attribute("data-tensor") for cell in cells.all()]
    assert set(names) == {t for t in page[0].tensors if "mlp" in t} | {wanted}
    marks = tab.locator('svg.tensors g[data-lane="sqnr_db"][data-side="a"]')
    assert {mark.get_attribute("data-tensor") for mark in marks.all()} == set(names)
    tab.get_by_label("find").fill("")
    tab.wait_for_function("() => document.querySelectorAll('svg.heat rect.cell').length === 6")
    tab.get_by_role("radiogroup", name="shown by colour").get_by_text("B − A").click()
    assert "B − A" in tab.locator("svg.heat").text_content()
    assert tab.complaints == []
