"""Pages in a real browser, opened from disk with no network: every control works, and numbers are the library's."""

import csv
import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hostile import NAMES

import nvfp4viz
from nvfp4viz import RECIPES, Recipe, report, sweep, synthetic
from nvfp4viz.analysis import Sweep, pairs, recommend
from nvfp4viz.explorer import compact
from nvfp4viz.pages import compare, packing
from nvfp4viz.pages import notebooks as export
from nvfp4viz.pages.document import document
from nvfp4viz.pages.report import COLUMNS

X = synthetic("lognormal", 24, 64)
HOSTILE = {kind: NAMES[kind] for kind in ("script", "attribute", "comment", "entity", "nul", "rtl", "long", "prototype",
                                          "formula", "empty")}  # fmt: skip


@pytest.fixture(scope="module")
def measured(bundled) -> Sweep:
    return sweep(nvfp4viz.load(bundled), engine="cpu")


@pytest.fixture
def opened(browser):
    """Opens a file; fails in the end where a page asked for anything or complained."""
    context = browser.new_context(offline=True, accept_downloads=True, viewport={"width": 1200, "height": 900})
    requests, complaints, files = [], [], []

    def open_(path, ready="[data-drawn]"):
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("request", lambda r: requests.append(r.url))
        tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: complaints.append(str(e)))
        files.append(path.as_uri())
        tab.goto(path.as_uri())
        tab.locator(ready).first.wait_for()
        return tab

    yield open_
    context.close()
    assert [u for u in requests if not u.startswith(("data:", "blob:"))] == files
    assert complaints == []


def settle(tab, **expected):
    """Wait until the explorer has drawn what is expected of its data attributes."""
    for name, value in expected.items():
        tab.wait_for_function("([n, v]) => document.querySelector('.nv4').dataset[n] === v", arg=[name, value])


def column(tab, name: str) -> list[str]:
    i = list(COLUMNS).index(name)
    return tab.eval_on_selector_all("#results tbody tr", f"rows => rows.map(r => r.cells[{i}].textContent)")


def drawn_scales(tab, side: str) -> dict:
    bars = tab.locator(f'svg.scales path[data-scales][data-side="{side}"]').get_attribute("data-scales")
    return {byte: [six, four] for byte, six, four in json.loads(bars)}


def test_what_is_drawn_is_what_the_library_computed(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"))
    verdict = recommend(measured)
    said = [tab.locator(selector).text_content() for selector in ("h1", "header .verdict")]
    assert ": ".join(said) == verdict.sentence()
    settle(tab, b=verdict.recipe, a=verdict.comparisons[0].over)
    for tensor, a, b in (
        ("lm_head", "standard", "4/6-mse-256"),
        ("model.layers.7.mlp.down_proj", "4/6-mse-448", "4/6-mae-256"),
    ):
        tab.locator("select.tensor").select_option(tensor)
        for side, name in (("a", a), ("b", b)):
            recipe = RECIPES[name]
            for setting, value in (
                ("four_over_six", recipe.four_over_six),
                ("e4m3_max", recipe.e4m3_max),
                ("err_mode", recipe.err_mode),
            ):
                if recipe.four_over_six or setting == "four_over_six":
                    text = (
                        str(value).lower()
                        if isinstance(value, bool)
                        else f"{value:g}"
                        if isinstance(value, float)
                        else value
                    )
                    tab.locator(f'[data-dial="{side}"][data-setting="{setting}"][value="{text}"]').click(force=True)
        settle(tab, tensor=tensor, a=a, b=b)
        for side, name in (("a", a), ("b", b)):
            stats = measured.stats[tensor][name]
            used = np.flatnonzero(stats.scale_histogram.sum(1))
            assert drawn_scales(tab, side) == {int(i): stats.scale_histogram[i].tolist() for i in used}
            numbers = dict(
                tab.eval_on_selector_all(
                    f'svg.error [data-side="{side}"][data-number]',
                    "t => t.map((e) => [e.dataset.number, Number(e.dataset.value)])",
                )
            )
            assert numbers == {n: getattr(stats, n) for n in ("sqnr_db", "nmse", "mse", "mae", "max_error", "cosine")}
            rates = dict(
                tab.eval_on_selector_all(
                    f'svg.clipping [data-side="{side}"]',
                    "t => t.map(({ dataset: d }) => [d.rate, [d.value, d.count, d.of].map(Number)])",
                )
            )
            assert rates == compact(stats)["rates"]


def test_the_microscope_shows_the_kept_blocks_as_inspect_block_does(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"))
    tab.get_by_role("tab", name="Microscope").click()
    tensor = "model.layers.7.self_attn.o_proj"
    tab.locator("select.tensor").select_option(tensor)
    kept, seen = measured.blocks[tensor], 0
    for rule in ("worst", "gained", "saturated", "random", "underflowed"):
        tab.locator('[data-trait="rule"]').select_option(rule)
        for under, name in (("a", "4/6-mae-448"), ("b", "4/6-mse-256")):
            tab.locator(f'[data-trait="under"][value="{under}"]').click(force=True)
            picks = kept["picks"][f"{name}|{rule}"]
            if not picks["blocks"]:
                tab.locator(".picked", has_text="no such block").wait_for()
                continue
            at = picks["blocks"][0]
            tab.locator(".where", has_text=f"token {at['token']} ").or_(
                tab.locator(".where", has_text=f"token {at['token']},")
            ).wait_for()
            stored = kept["blocks"][f"{at['token']},{at['block']}"]
            for side, recipe in (("a", "4/6-mae-448"), ("b", "4/6-mse-256")):
                wanted = nvfp4viz.analysis.inspect_block(stored["values"], stored["token_amax"], recipe)
                label = tab.locator(f'svg.microscope text[data-side="{side}"][data-choice]')
                assert label.get_attribute("data-choice") == str(wanted["choice"]) and label.get_attribute(
                    "data-byte"
                ) == str(wanted["byte"])
                for c in wanted["candidates"]:
                    falls = tab.locator(f'svg.microscope path[data-side="{side}"][data-to="{c["to"]}"]')
                    assert [float(v) for v in falls.get_attribute("data-decoded").split()] == c["decoded"]
                    score = tab.locator(f'svg.microscope text[data-side="{side}"][data-to="{c["to"]}"][data-score]')
                    assert float(score.get_attribute("data-score")) == c["score"]
                    seen += 1
    assert seen >= 20


def test_keys_and_clicks_choose_a_value_in_the_microscope(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"))
    tab.get_by_role("tab", name="Microscope").click()
    picture, chosen = tab.locator("svg.microscope"), tab.locator("svg.microscope circle.chosen")
    assert chosen.first.get_attribute("data-column") == "0"
    picture.focus()
    for key, column in [("ArrowRight", 1), ("End", 15), ("ArrowRight", 15), ("ArrowUp", 14), ("Home", 0)]:
        tab.keyboard.press(key)
        tab.locator(f'svg.microscope circle.chosen[data-column="{column}"]').first.wait_for()
        assert chosen.count() == 2
    tab.locator('svg.microscope text[data-row="B decoded"][data-column="6"]').click()
    tab.locator('svg.microscope circle.chosen[data-column="6"]').first.wait_for()
    values = tab.eval_on_selector_all(
        'svg.microscope text[data-row="value"]', "all => all.map((e) => Number(e.dataset.value))"
    )
    largest = max(range(16), key=lambda t: abs(values[t]))  # it stands alone
    tab.locator(f'svg.microscope circle[data-column="{largest}"]').first.click()
    tab.locator(f'svg.microscope circle.chosen[data-column="{largest}"]').first.wait_for()
    assert tab.locator(".value-name").inner_text().startswith("value ")


def test_what_needs_a_kernel_says_so(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"))
    notice = tab.locator(".nv4 .notice")
    assert not notice.is_visible()
    tab.locator('[data-dial="a"][data-setting="per_token"][value="false"]').click(force=True)
    tab.locator(".nv4 .notice", has_text="needs a notebook").first.wait_for()
    tab.locator('[data-dial="a"][data-setting="err_mode"][value="MSE"]').click(force=True)
    settle(tab, a="4/6-mse-448")
    assert not notice.is_visible()  # the next control works again
    tab.locator('[data-slider="b"]').focus()
    tab.keyboard.press("ArrowLeft")
    tab.locator(".nv4 .notice", has_text="needs a notebook").first.wait_for()
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator(".at-token").fill("3")
    tab.locator(".at-token").press("Enter")
    tab.locator(".nv4 .notice", has_text="needs a notebook").first.wait_for()


def test_a_recipe_of_the_page_s_own_is_shown_on_every_tensor(opened, tmp_path):
    """Statistics of it are not asked for: "that needs a notebook" stood beside a block that was there."""
    tensors = {"layers.0.x": X, "layers.1.x": X * 2 + 1, "zeros": torch.zeros(8, 32)}
    tab = opened(report(sweep(tensors, engine="reference"), tmp_path / "r.html"))
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator('[data-slider="b"]').focus()
    tab.keyboard.press("ArrowLeft")
    tab.locator(".nv4 .verdict", has_text="Not measured").wait_for()
    for tensor in ("layers.1.x", "layers.0.x"):
        tab.locator("select.tensor").select_option(tensor)
        settle(tab, tensor=tensor)
        tab.locator("svg.microscope circle").first.wait_for()
        assert not tab.locator(".nv4 .notice").inner_text()
    tab.locator("select.tensor").select_option("zeros")
    tab.locator(".picked", has_text="this file holds none of its blocks").wait_for()
    assert not tab.locator("svg.microscope").is_visible() and not tab.locator(".nv4 .notice").inner_text()


def test_what_reads_as_no_difference_is_no_win(opened, tmp_path):
    """Fast arithmetic moves an SQNR by some 1e-8 dB, which was counted as a win."""
    tensors = {f"layers.{i}.x": X * (i + 1) + i for i in range(3)}
    found = sweep(tensors, ["4/6-mae-448", "4/6-mae-448-fast"], engine="reference")
    changed = {t: row["4/6-mae-448"].sqnr_db - row["4/6-mae-448-fast"].sqnr_db for t, row in found.stats.items()}
    assert any(changed.values()) and all(abs(v) < 0.0005 for v in changed.values())
    tab = opened(report(found, tmp_path / "r.html"))
    for tensor in tensors:  # with all of its statistics in the page
        tab.locator("select.tensor").select_option(tensor)
        settle(tab, tensor=tensor)
    assert "of 3 tensors B wins 0, A 0, 3 alike" in tab.locator(".nv4 .verdict").inner_text()


def test_keys_reach_every_view(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"))
    tab.get_by_role("tab", name="Overview").focus()
    for view in ("scales", "clipping", "error", "tensors", "microscope", "output"):
        tab.keyboard.press("ArrowRight")
        settle(tab, view=view)
        assert tab.locator("figure:visible svg:visible").count() >= 1
    tab.locator("svg.strip").focus()
    tab.keyboard.press("End")
    settle(tab, tensor="lm_head")


def test_a_reviewer_sorts_filters_and_takes_the_numbers_away(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"), "#results td")
    assert tab.locator("#shown").inner_text() == "105 of 105 rows"
    tab.get_by_role("button", name="SQNR (dB)").click()
    values = [float(v) for v in column(tab, "sqnr_db")]
    assert len(values) == 100 and values == sorted(values)  # the rest comes when one scrolls there
    tab.locator("#results").evaluate("box => box.scrollTo(0, box.scrollHeight)")
    tab.locator("#results tbody tr").nth(104).wait_for()
    assert tab.locator("th[aria-sort=ascending]").inner_text().strip().startswith("SQNR")
    tab.get_by_role("button", name="SQNR (dB)").click()
    assert float(column(tab, "sqnr_db")[0]) == round(
        max(s.sqnr_db for r in measured.stats.values() for s in r.values()), 3
    )
    tab.locator("#filter").fill("LM_HEAD 256")
    assert tab.locator("#shown").inner_text() == "2 of 105 rows"
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download CSV").click()
    with open(download.value.path(), encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == list(COLUMNS)
    wanted = measured.table().set_index(["tensor", "recipe"])
    for row in rows:
        one = wanted.loc[row.pop("tensor"), row.pop("recipe")]
        assert row.pop("engine") == one["engine"]
        assert {k: float(v) for k, v in row.items()} == {k: float(one[k]) for k in row}
    tab.locator("#filter").fill("nothing like it")
    assert tab.locator("#shown").inner_text() == "0 of 105 rows"


def test_hostile_names_do_nothing(opened, tmp_path):
    tensors = dict.fromkeys(HOSTILE.values(), X) | {"<b onclick=window.pwned=1>skipped</b>": X[:, :5]}
    found = sweep(
        tensors, {HOSTILE["script"]: Recipe(), "__proto__": Recipe(256, four_over_six=True)}, engine="reference"
    )
    found.provenance["sources"] = [{"path": n, "sha256": n, "metadata": {n: n, "model": n}} for n in HOSTILE.values()]
    tab = opened(report(found, tmp_path / "r.html"))
    names = [compactly(n) or "(no name)" for n in HOSTILE.values()]
    for i in range(tab.locator("select.tensor option").count()):
        tab.locator("select.tensor").select_option(index=i)
        tab.wait_for_function("i => document.querySelector('select.tensor').selectedIndex === i", arg=i)
    tab.locator("select.tensor").select_option(index=0)
    for view in ("tensors", "microscope", "overview"):
        tab.locator(f'[data-view="{view}"]').click()
        settle(tab, view=view)
        tab.locator(f"svg.{'strip' if view == 'overview' else view}").hover()
    assert tab.locator("#shown").inner_text() == f"{2 * len(HOSTILE)} of {2 * len(HOSTILE)} rows"
    tab.locator("#filter").fill("img")
    assert set(column(tab, "tensor")) <= set(names) and HOSTILE["script"] in column(tab, "tensor")
    assert tab.evaluate("window.pwned") is None and tab.locator("main figure.card > svg").count() == 3
    assert tab.evaluate("({}).recipes") is None
    listed = tab.eval_on_selector_all("select.tensor option", "all => all.map((e) => e.textContent)")
    for name in (HOSTILE["script"], HOSTILE["comment"], HOSTILE["entity"], HOSTILE["attribute"]):
        assert any(shown.startswith(f"{name} · ") for shown in listed), listed
    tab.set_viewport_size({"width": 700, "height": 900})
    tab.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")  # long names make no wide page


def compactly(name: str) -> str:
    return "".join(
        "\ufffd" if ord(c) < 32 or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" else c for c in name
    )


def test_infinities_and_zeros(opened, tmp_path):
    found = sweep({"zeros": torch.zeros(20, 16), "x": X[:, :16]}, ["standard"], engine="reference")
    tab = opened(report(found, tmp_path / "r.html"), "#results td")
    tab.get_by_role("button", name="SQNR (dB)").click()
    assert column(tab, "tensor") == ["x", "zeros"] and column(tab, "sqnr_db")[1] == "∞"


def test_data_that_was_damaged_is_not_drawn(browser, measured, tmp_path):
    path = report(measured, tmp_path / "r.html")
    page = path.read_text()
    middle = page.index('id="sweep"') + 5000
    path.write_text(page[:middle] + ("A" if page[middle] != "A" else "B") + page[middle + 1 :])
    tab = browser.new_page()
    tab.goto(path.as_uri())
    tab.get_by_text("The data in this file cannot be read").wait_for()
    assert tab.locator("h1").is_visible() and tab.locator("main figure.card > svg").count() == 3
    tab.close()


@pytest.mark.alone
def test_five_hundred_tensors_open_quickly(browser, measured, tmp_path):
    rows, kept, rng = list(measured.stats.values()), list(measured.blocks.values()), np.random.default_rng(0)
    noise = [rng.uniform(0.9, 1.1, 16) for _ in range(500)]
    stats = {
        f"model.layers.{i // 7}.part{i % 7}": {
            n: replace(s, run_nmse=s.run_nmse * noise[i]) for n, s in rows[i % 21].items()
        }
        for i in range(500)
    }
    blocks = {t: kept[i % 21] for i, t in enumerate(stats)}
    big = Sweep.of(stats, measured.recipes, measured.provenance, measured.skipped, blocks=blocks)
    path = report(big, tmp_path / "r.html")
    assert path.stat().st_size < 500 * 20_000
    took = []
    for _ in range(5):  # the best of them, since other programs may run
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(path.as_uri())
        tab.locator("[data-drawn]").wait_for()
        tab.locator("#results td").first.wait_for()
        took.append(time.perf_counter() - start)
        assert tab.locator("#shown").inner_text() == "2,500 of 2,500 rows"
        assert tab.locator("#results tbody tr").count() == 100
        tab.close()
        if took[-1] < 2:
            break
    assert min(took) < 2, took


CHANGES = """async () => {
    const [slider, svg] = ['.value-slider', 'svg.microscope'].map((one) => document.querySelector(one));
    const [low, high] = [Number(slider.min), Number(slider.max)], took = Array(50).fill(Infinity);
    for (let round = 0; round < 8; round++) for (let i = 0; i < 50; i++) {
        const drawn = new Promise((done) => new MutationObserver((_, watch) => (watch.disconnect(), done()))
            .observe(svg, {subtree: true, attributes: true, childList: true, characterData: true}));
        const start = performance.now();
        slider.value = low + ((high - low) * ((7 * i) % 50)) / 50;
        slider.dispatchEvent(new InputEvent('input', {bubbles: true}));
        await drawn;
        svg.getBoundingClientRect();  // lay it out, too
        took[i] = Math.min(took[i], performance.now() - start);
        await new Promise(requestAnimationFrame);
    }
    took.sort((p, q) => p - q);
    return [took[25], took[45]];
}"""


@pytest.mark.bench
def test_a_change_under_the_microscope_takes_under_5_ms(opened, measured, tmp_path):
    """Script, style and layout of each of 50 values, the least of eight rounds, since other programs may run."""
    tab = opened(report(measured, tmp_path / "r.html"))
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator("svg.microscope circle").first.wait_for()
    half, most = tab.evaluate(CHANGES)
    print(f"\na change under the microscope, without a kernel: {half:.1f} ms; nine of ten under {most:.1f} ms")
    assert half < 5


TOUCHED = """async () => {
    const [slider, root] = ['.value-slider', '.nv4'].map((one) => document.querySelector(one)), seen = [];
    const watch = new MutationObserver((records) => seen.push(...records));
    const move = async (value) => {
        slider.value = value;
        slider.dispatchEvent(new InputEvent('input', {bubbles: true}));
        for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
    };
    await move(Number(slider.max) / 200);
    watch.observe(root, {subtree: true, attributes: true, childList: true, characterData: true});
    await move(Number(slider.max) / 400);
    return seen.map((r) => `${r.target.nodeName} ${r.attributeName ?? r.type}`);
}"""


def test_a_small_change_under_the_microscope_touches_only_what_it_changes(opened, measured, tmp_path):
    """One value of 16: no element comes or goes, and of some 400 texts and shapes only a few are written."""
    tab = opened(report(measured, tmp_path / "r.html"))
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator("svg.microscope circle").first.wait_for()
    touched = tab.evaluate(TOUCHED)
    assert 3 < len(touched) < 60 and not [one for one in touched if one.endswith("childList")], touched


def test_a_tensor_without_a_name_is_not_each_text_of_the_figures(opened, tmp_path):
    tab = opened(report(sweep({"": X, "x": X}, engine="reference"), tmp_path / "r.html"))
    assert tab.locator("#results tr.here").count() == len(RECIPES)
    assert tab.locator("figure.card svg text").count() > 30
    assert tab.locator("figure.card svg text:is(.pick, .here)").count() <= 2  # the two names


def test_names_within_a_comparison_s_words_are_no_chips(opened, measured, tmp_path):
    tab = opened(report(measured, tmp_path / "r.html"))
    names = tab.locator(".margins th .whole")
    assert names.count() and names.first.evaluate("e => getComputedStyle(e).display") == "inline"


def test_printing(browser, measured, tmp_path):
    """Every row is printed, below the headings on each page; what only works on a screen is not."""
    tab = browser.new_page()
    tab.goto(report(measured, tmp_path / "r.html").as_uri())
    tab.locator("[data-drawn]").wait_for()
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("#results tbody tr").count() == 105 and tab.locator("#results th button").count() == 0
    assert not tab.locator("#explorer").is_visible() and not tab.locator("#filter").is_visible()
    for selector in ("figure.card", "#results tr", ".margins", ".worst .scroll", "thead", "header"):
        assert tab.locator(selector).first.evaluate("e => getComputedStyle(e).breakInside") == "avoid"
    bottom = tab.locator("header").evaluate("e => e.getBoundingClientRect().bottom")
    assert bottom < 900  # A4 without its margins, in CSS pixels: 1010
    tab.set_viewport_size({"width": 690, "height": 1010})
    for table in (".worst table", ".margins"):
        assert tab.locator(table).evaluate("e => e.getBoundingClientRect().right") <= 690
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("#results th button").count() == len(COLUMNS)
    assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["report", "comparison", "notebook"])
def test_no_serious_barrier(browser, measured, tmp_path, which, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    path = tmp_path / "r.html"
    if which == "report":
        report(measured, path)
    elif which == "comparison":
        compare(measured, sweep(dict.fromkeys(measured.tensors[:3], X), engine="reference"), path)
    else:
        path.write_text(explorers_page(measured))
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    tab.goto(path.as_uri())
    tab.locator("#results td" if which == "comparison" else "[data-drawn]").first.wait_for()
    for view in () if which == "comparison" else ("microscope", "tensors", "output", "overview"):
        tab.locator(f'[data-view="{view}"]').first.click()
        settle(tab, view=view)
        violations = axe.run(tab).response["violations"]
        assert [
            (v["id"], [n["html"][:120] for n in v["nodes"]])
            for v in violations
            if v["impact"] in ("serious", "critical")
        ] == []
    violations = axe.run(tab).response["violations"]
    assert [
        (v["id"], [n["html"][:120] for n in v["nodes"]]) for v in violations if v["impact"] in ("serious", "critical")
    ] == []
    context.close()


def explorers_page(measured) -> str:
    shown = json.dumps({"recipe_a": "standard", "recipe_b": "4/6-mse-256"}).replace('"', "&quot;")
    return document(
        "notebook",
        f'<h1>x</h1><div data-sweep="sweep" data-shown="{shown}"></div>{packing.script(packing.page_data(measured))}',
    )


def test_a_comparison_shows_what_got_worse(opened, measured, tmp_path):
    other = {"lm_head": X.roll(3, 1), "only here": X}  # other blocks
    fast = sweep(other, [f"{n}-fast" for n in RECIPES], engine="reference")
    strict = sweep({"lm_head": X, "not there": X}, engine="reference")
    tab = opened(
        compare(strict, fast, tmp_path / "c.html", ("a.json", "<img src=x onerror=window.pwned=1>")), "#results td"
    )
    found = {p.recipe: p for p in pairs(strict, fast)}
    assert tab.locator("#shown").inner_text() == "5 of 5 rows" and set(found) == set(RECIPES)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    for row in rows:
        pair = found[row["recipe"]]
        assert float(row["gain_db"]) == pair.gain_db and float(row["b_sqnr_db"]) == pair.b.sqnr_db
        assert (row["same"] == "yes") == pair.identical
    worse, better = ([p for p in found.values() if p.change == change] for change in ("worse", "better"))
    assert worse or better
    for title, listed in (("What got worse", worse), ("What got better", better)):
        assert tab.locator("section", has_text=title).locator("ol.worse li").count() == len(listed)
    assert tab.evaluate("window.pwned") is None
    same = opened(compare(strict, strict, tmp_path / "s.html"), "#results td")
    assert same.locator("h1").inner_text() == "No difference" and same.get_by_text("Nothing.").count() == 2


RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
DROP = """async (files) => {
    const dropped = new DataTransfer();
    for (const [name, text] of files) dropped.items.add(new File([text], name));
    document.body.dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: dropped }));
}"""


def test_reports_that_are_dropped_on_a_page_are_compared(opened, tmp_path):
    tensors = {"lm_head": X, "<img src=x onerror=window.pwned=1>": synthetic("spikes", 24, 64)}
    own = sweep(tensors, engine="reference")
    report(own, tmp_path / "own.html")
    other = report(
        sweep({"lm_head": X.roll(3, 1) * 1.5}, engine="reference"), tmp_path / "<img src=x onerror=window.pwned=1>.html"
    )
    fast = report(sweep(tensors, [f"{n}-fast" for n in RECIPES], engine="reference"), tmp_path / "fast.html")
    tab = opened(tmp_path / "own.html")
    result = tab.locator("#compared")
    tab.locator("#reports").set_input_files(other)
    result.get_by_text("Only in A: 1 of its 2 tensors").wait_for()
    assert "Other values in 1 tensor of" in result.inner_text() and "different activations" in result.inner_text()
    gains = sorted(p.gain_db for p in pairs(own, nvfp4viz.load_report(other)))
    worse, better = [g for g in gains if g < 0], [g for g in gains if g > 0]
    assert (worse or better) and f"{len(better)} are better, {len(worse)} worse" in result.inner_text()
    shown = [e.inner_text() for e in result.locator("ol.worse li:first-child b").all()]
    said = [float(v.removesuffix(" dB").replace("\u2212", "-").replace("×10", "e").translate(RAISED)) for v in shown]
    assert said == pytest.approx([*worse[:1], *better[-1:]], rel=0.06)
    tab.evaluate(DROP, [["fast.html", fast.read_text()]])
    result.get_by_text("No difference in the median").wait_for()
    changes = [p.change for p in pairs(own, nvfp4viz.load_report(fast))]
    assert f"{changes.count('alike')} alike to 0.001 dB" in result.inner_text()
    assert result.locator("ol.worse li").count() == changes.count("better") + changes.count("worse") < len(changes)
    tab.evaluate(DROP, [["a.html", ""], ["b.html", ""], ["c.html", ""]])
    result.get_by_text("3 files: two are compared").wait_for()
    tab.evaluate(DROP, [["notes.html", "<p>no report</p>"]])
    result.get_by_text("notes.html is no report").wait_for()
    assert tab.evaluate("window.pwned") is None
    page = opened(compare(own, own, tmp_path / "c.html"), "#results td")
    page.evaluate(DROP, [["own.html", (tmp_path / "own.html").read_text()]])
    page.locator("#compared").get_by_text("one report alone").wait_for()
    page.evaluate(DROP, [["a.html", fast.read_text()], ["b.html", fast.read_text()]])
    page.locator("#compared").get_by_text("No difference: all 10 pairs").wait_for()


def test_notebooks_live_on_as_pages(opened, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbconvert")
    cells = [
        nbformat.v4.new_markdown_cell("# A page\n\nof *prose*"),
        nbformat.v4.new_code_cell("import nvfp4viz\nnvfp4viz.lab()"),
        nbformat.v4.new_code_cell("import ipywidgets\nipywidgets.IntSlider(description='tokens')"),
        nbformat.v4.new_code_cell(
            "x = nvfp4viz.synthetic('lognormal', 32, 64)\n"
            "nvfp4viz.explore({'x': x}, recipe_a='4/6-mse-300', view='microscope')"
        ),
        nbformat.v4.new_code_cell("print('the end')"),
    ]
    path = tmp_path / "lab.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (page,) = export.export([path], tmp_path / "out")
    tab = opened(page)
    assert tab.locator("h1").inner_text() == "A page" and tab.get_by_text("the end", exact=True).is_visible()
    assert tab.locator(".nv4").count() == 2
    notes = " ".join(tab.locator(".kernel").all_inner_texts())
    assert "strength" in notes and "IntSlider" in notes and "needs a running kernel" in notes
    second = tab.locator(".nv4").nth(1)
    assert second.get_attribute("data-a") == "4/6-mse-300" and second.get_attribute("data-view") == "microscope"
    second.locator("svg.microscope circle").first.wait_for()
    settle(tab, tensor="crowded ×1")
    tab.locator("select.tensor").first.select_option(index=1)
    tab.locator(".nv4:not([data-tensor='crowded ×1'])").first.wait_for()
    tab.locator('[data-dial="a"][data-setting="fast_math"][value="true"]').first.click(force=True)
    tab.locator(".nv4 .notice", has_text="needs a notebook").first.wait_for()


def test_what_is_no_notebook_or_does_not_run_is_named(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    (tmp_path / "x.ipynb").write_text("{")
    with pytest.raises(ValueError, match=r"x\.ipynb' is no notebook"):
        list(export.export([tmp_path / "x.ipynb"], tmp_path))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), tmp_path / "y.ipynb")
    with pytest.raises(RuntimeError, match=r"y\.ipynb' does not run: ZeroDivisionError: division by zero"):
        list(export.export([tmp_path / "y.ipynb"], tmp_path))
    with pytest.raises(ValueError, match="no notebook: name one"):
        list(export.export([], tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ipynb", "y.html", "y.ipynb"]
    assert "division by zero" in (tmp_path / "y.html").read_text()  # its page says why
