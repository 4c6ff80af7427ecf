"""The explorer in a real JupyterLab, driven by a real browser: what is drawn is what the library computes."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import nvfp4viz
from nvfp4viz.analysis import attribute, block_at, inspect_block, pick
from nvfp4viz.explorer import compact

ROOT = Path(__file__).parents[2]
CELLS = [
    "import nvfp4viz, time",
    "data = nvfp4viz.load({data!r})\nw = nvfp4viz.explore(data)\nw",
    "end = time.time() + 60  # busy until the page turns the last dial\n"
    "while w.scale == 'linear' and time.time() < end:\n"
    "    nvfp4viz.analyze(data['lm_head'], 'standard')",
    "print('state', w.tensor, w.recipe_a, w.recipe_b, w.view, w.block)",
    """x = nvfp4viz.sweep({{'x': nvfp4viz.synthetic('lognormal', 64, 256)}}).stats['x']
many = {{f'model.layers.{{i}}.mlp.down_proj': x for i in range(500)}}
v = nvfp4viz.explore(nvfp4viz.Sweep.of(many, nvfp4viz.RECIPES))
v""",
]
TIMER = """root => {
    window.took = [];
    let start = null;
    const go = () => { start ??= performance.now(); };
    for (const event of ['keydown', 'click', 'input']) root.addEventListener(event, go, true);
    new MutationObserver(() => {
        root.getBoundingClientRect();  // lay it out, too
        if (start !== null && root.dataset.state === 'ready') took.push(performance.now() - start);
        start = null;
    }).observe(root, {attributeFilter: ['data-drawn']});
}"""


FOCUSED = """() => { const at = document.activeElement, d = at.dataset;
    return (d.dial ?? '') + (d.setting ?? d.slider ?? d.view ?? d.trait ?? at.classList[0]) }"""
BLOCK = """() => {
    const root = document.querySelector('.nv4');
    const all = (query) => [...root.querySelectorAll('svg.microscope ' + query)].map((e) => ({...e.dataset}));
    return {choices: all('[data-choice]'), scores: all('[data-score]'),
        falls: all('[data-decoded]'), ...root.dataset};
}"""


class Lab:
    """A JupyterLab on localhost with its own configuration, and a notebook of a few cells."""

    def __init__(self, folder: Path, cells, theme: str = "JupyterLab Light"):
        self.folder = folder
        notebook = {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"c{i}",
                    "execution_count": None,
                    "metadata": {},
                    "outputs": [],
                    "source": c,
                }
                for i, c in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (folder / "explore.ipynb").write_text(json.dumps(notebook))
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "share",
                  "IPYTHONDIR": "ipython", "JUPYTERLAB_SETTINGS_DIR": "settings",
                  "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
        env = os.environ | {name: str(folder / place) for name, place in places.items()}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # or the kernel compiles what it imports, each time
        self.env = env
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--port=0",
            "--IdentityProvider.token=t",
        ]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=self.log, stderr=self.log)
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        for _ in range(600):
            for file in (self.folder / "runtime").glob("jpserver-*.json"):
                try:
                    url = json.loads(file.read_text())["url"]
                    urllib.request.urlopen(url + "api?token=t", timeout=2).close()
                    return url
                except (OSError, ValueError):
                    pass
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        raise TimeoutError("JupyterLab did not start")

    def open(self, browser, **options):
        """A page with the notebook open and its kernel idle."""
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 1600}, **options})
        page.set_default_timeout(60_000)  # compiling may come first
        page.errors = []
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.goto(f"{self.url}lab/tree/explore.ipynb?token=t&reset")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
        return page

    def run(self, page, *cells: int):
        """Run cells with Shift-Enter, without waiting."""
        for cell in cells:
            page.locator(".jp-Cell").nth(cell).locator(".jp-InputPrompt").click()
            page.keyboard.press("Shift+Enter")

    def close(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


@pytest.fixture(scope="module")
def data(bundled):
    return nvfp4viz.load(bundled)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, bundled):
    lab = Lab(tmp_path_factory.mktemp("lab"), [cell.format(data=str(bundled)) for cell in CELLS])
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def page(lab, browser):
    page = lab.open(browser)
    lab.run(page, 0)
    idle(page)
    start = time.perf_counter()
    lab.run(page, 1)
    page.locator(".nv4[data-drawn]").wait_for(timeout=60_000)
    page.first_paint = time.perf_counter() - start
    settle(page)
    yield page
    page.close()


def idle(page):
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)


def settle(page, root=".nv4"):
    """Wait until the page shows what its state says and all tensors are analysed."""
    page.wait_for_function(
        """selector => { const root = document.querySelector(selector);
            return root.dataset.state === 'ready' && !root.querySelector('.progress').textContent }""",
        arg=root, timeout=60_000,
    )  # fmt: skip


def until(page, **wanted):
    """Wait until this is drawn."""
    page.wait_for_function(
        """wanted => { const root = document.querySelector('.nv4');
            const as_wanted = Object.entries(wanted).every(([k, v]) => root.dataset[k] === v);
            return root.dataset.state === 'ready' && as_wanted; }""",
        arg=wanted,
    )  # fmt: skip


def drawn(page) -> dict:
    """What the SVG holds: tensor, recipes, and for each side block scales, rates and numbers."""
    return page.evaluate("""() => {
        const root = document.querySelector('.nv4'), found = {...root.dataset, sides: {}};
        for (const side of ['a', 'b']) {
            const mine = (e) => e.dataset.side === side;
            const all = (query) => [...root.querySelectorAll(query)].filter(mine).map((e) => e.dataset);
            found.sides[side] = {
                scales: JSON.parse(all('svg.scales path[data-scales]')[0].scales),
                rates: Object.fromEntries(all('[data-rate]').map((d) => [d.rate, [+d.value, +d.count, +d.of]])),
                numbers: Object.fromEntries(all('[data-number]').map((d) => [d.number, +d.value])),
                tokens: JSON.parse(all('svg.error path[data-field=token_nmse]')[0].counts),
            };
        }
        return found;
    }""")


def check(page, data):
    """What is drawn is what `analyze` computes; returns it."""
    seen = drawn(page)
    for side, recipe in (("a", seen["a"]), ("b", seen["b"])):
        stats = nvfp4viz.analyze(data[seen["tensor"]], recipe)
        wanted, found = compact(stats), seen["sides"][side]
        histogram = [[i, six, four] for i, (six, four) in enumerate(stats.scale_histogram.tolist()) if six or four]
        assert found["scales"] == histogram
        assert found["rates"] == wanted["rates"]
        assert found["numbers"] == {name: wanted[name] for name in found["numbers"]} and len(found["numbers"]) == 6
        assert found["tokens"] == wanted["token_nmse"]
    return seen


@pytest.mark.browser
class TestInJupyterLab:
    def test_it_draws_what_the_library_computes(self, page, data):
        print(f"\nfirst paint {page.first_paint:.2f} s after running the cell")
        seen = check(page, data)
        assert (seen["a"], seen["b"]) == ("4/6-mae-448", "4/6-mae-256")
        assert "B − A" in page.locator("svg.strip").text_content()

    def test_clicks_change_tensor_recipe_and_ceiling(self, page, data):
        page.locator("select.tensor").select_option("lm_head")
        until(page, tensor="lm_head")
        check(page, data)
        box = page.locator("svg.strip").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 20)
        page.wait_for_function("() => document.querySelector('.nv4').dataset.tensor.includes('.15.')")
        check(page, data)
        dials = page.locator(".dials")
        dials.get_by_role("radiogroup", name="B: error mode").get_by_text("MSE").click()
        until(page, b="4/6-mse-256")
        dials.get_by_role("radiogroup", name="A: kind").get_by_text("standard").click()
        until(page, a="standard")
        check(page, data)
        dials.get_by_role("radiogroup", name="A: arithmetic").get_by_text("fast").click()
        dials.get_by_role("radiogroup", name="B: FP32 scale per").get_by_text("tensor").click()
        until(page, a="standard-fast", b="4/6-mse-256-tensor")
        check(page, data)
        slider = page.get_by_label("B: ceiling, any E4M3 value")
        box = slider.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
        page.wait_for_function("() => document.querySelector('.nv4').dataset.b !== '4/6-mse-256-tensor'")
        settle(page)
        assert check(page, data)["b"] != "4/6-mse-256-tensor"

    def test_the_microscope_shows_the_library_s_block(self, page, data):
        for side, ceiling, mode in (("A", "448", "MAE"), ("B", "256", "MSE")):
            for dial, value in [("kind", "4over6"), ("ceiling", ceiling), ("error mode", mode),
                                ("FP32 scale per", "token"), ("arithmetic", "strict")]:  # fmt: skip
                group = page.get_by_role("radiogroup", name=f"{side}: {dial}")
                group.get_by_text(value, exact=True).click()
        until(page, a="4/6-mae-448", b="4/6-mse-256")
        page.get_by_role("tab", name="Microscope").click()
        page.get_by_label("blocks with").select_option("saturated")
        page.get_by_role("radiogroup", name="recipe that ranks").get_by_text("A").click()
        page.wait_for_function("() => /^1 of/.test(document.querySelector('.nv4 .picked').textContent)")
        page.get_by_role("button", name="next block").click()
        seen = page.evaluate(BLOCK)
        second = pick(data[seen["tensor"]], seen["a"], "saturated")["blocks"][1]
        until(page, block=f"{second['token']},{second['block']}")
        self.check_block(page, data)
        page.locator("input.at-token").fill("7")
        page.locator("input.at-column").fill("33")
        page.keyboard.press("Tab")
        until(page, block="7,2")
        self.check_block(page, data)
        page.locator("input.at-token").fill("100000")
        page.keyboard.press("Enter")
        page.locator(".nv4 .notice", has_text="no block (100000, 2)").wait_for()
        assert not page.locator("svg.microscope, .stages, .value-slider").locator("visible=true").count()
        page.locator("input.at-token").fill("9")
        page.keyboard.press("Enter")
        until(page, block="9,2")
        assert page.locator("svg.microscope").is_visible() and not page.locator(".nv4 .notice").inner_text()
        self.check_block(page, data)
        page.locator(".value-slider").focus()
        score = page.evaluate(BLOCK)["scores"][0]["score"]
        page.keyboard.press("End")  # one value grows beyond its token's largest, and the block decides anew
        page.wait_for_function("score => !document.querySelector(`.nv4 svg [data-score='${score}']`)", arg=score)
        assert "stored" in page.locator(".value-now").inner_text()
        page.get_by_role("button", name="as stored").click()
        page.get_by_role("tab", name="Overview").click()

    def check_block(self, page, data):
        seen = page.evaluate(BLOCK)
        token, block = map(int, seen["block"].split(","))
        for side in "ab":
            recipe = nvfp4viz.Recipe.parse(seen[side])
            wanted = inspect_block(*block_at(data[seen["tensor"]], token, block, recipe), recipe)
            choice = next(c for c in seen["choices"] if c["side"] == side)
            assert (int(choice["choice"]), int(choice["byte"])) == (wanted["choice"], wanted["byte"])
            for candidate in wanted["candidates"]:
                mine = [s for s in seen["scores"] if s["side"] == side and s["to"] == str(candidate["to"])]
                assert [float(s["score"]) for s in mine] == [candidate["score"]]
                (falls,) = [f for f in seen["falls"] if f["side"] == side and f["to"] == str(candidate["to"])]
                assert [float(v) for v in falls["decoded"].split()] == candidate["decoded"]

    def test_the_error_is_attributed(self, page, data):
        page.get_by_role("tab", name="Error").click()
        page.locator("svg.error [data-attribution]").first.wait_for()
        found = page.evaluate(
            "[...document.querySelectorAll('svg.error [data-attribution]')].map((e) => ({...e.dataset}))"
        )
        for side in "ab":
            shares = attribute(data[drawn(page)["tensor"]], drawn(page)[side]).shares()
            assert {f["attribution"]: float(f["value"]) for f in found if f["side"] == side} == shares
        page.get_by_role("tab", name="Overview").click()

    def test_the_keyboard_alone_is_enough(self, page, data):
        page.locator("select.tensor").focus()
        order = []
        for _ in range(40):
            order.append(page.evaluate(FOCUSED))
            page.keyboard.press("Tab")
            if order[-1] == "error":
                break
        assert order == [
            "tensor", "filter", "sort",
            "afour_over_six", "ae4m3_max", "a", "aerr_mode", "aerr_use_fast_math", "aper_token", "afast_math",
            "bfour_over_six", "be4m3_max", "b", "berr_mode", "berr_use_fast_math", "bper_token", "bfast_math",
            "strip", "overview", "scale", "span", "scales", "clipping", "error",
        ]  # fmt: skip
        page.locator("select.tensor").focus()
        for _ in range(5):
            page.keyboard.press("Tab")
        page.keyboard.press("ArrowLeft")  # A's ceiling, a notch below 448
        until(page, a="4/6-mae-416")
        for _ in range(12):
            page.keyboard.press("Tab")
        before = drawn(page)["tensor"]
        page.keyboard.press("Home")
        until(page, tensor="model.layers.0.self_attn.q_proj")
        page.keyboard.press("ArrowRight")
        until(page, tensor="model.layers.0.self_attn.o_proj")
        assert before != check(page, data)["tensor"]
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")  # the next view, and back
        page.wait_for_function("() => document.querySelector('.nv4').dataset.view === 'scales'")
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("() => document.querySelector('.nv4').dataset.view === 'overview'")
        for _ in range(3):
            page.keyboard.press("Tab")
        page.keyboard.press("Home")  # block scales: the lowest that occurs
        lowest = check(page, data)["sides"]["a"]["scales"][0]
        assert re.search(r"byte 0x[0-9A-F]{2}", page.locator(".nv4 .announced").inner_text())
        assert page.locator(".nv4 svg.scales .tip text").first.is_visible() and lowest
        page.keyboard.press("Escape")
        assert page.locator(".nv4 svg.scales .tip").count() == 0

    @pytest.mark.alone
    def test_200_changes_beside_a_running_cell(self, page, lab, data):
        lab.run(page, 2)
        running = page.locator(".jp-Cell").nth(2).get_by_text("[*]:")
        running.wait_for()
        slider = page.get_by_label("B: ceiling, any E4M3 value")
        for i in range(100):
            slider.focus()
            page.keyboard.press("ArrowLeft" if i % 10 < 5 else "ArrowRight")
            page.locator("svg.strip").focus()
            page.keyboard.press("ArrowRight" if i < 60 else "ArrowLeft")
        assert running.count(), "the cell ended before the changes"
        page.get_by_role("radiogroup", name="count axis").get_by_text("log").click()
        settle(page)
        page.wait_for_timeout(300)
        seen = check(page, data)
        idle(page)
        lab.run(page, 3)
        printed = page.locator(".jp-Cell").nth(3).locator(".jp-OutputArea-output").get_by_text("state")
        printed.wait_for()
        assert printed.inner_text().split()[1:4] == [seen["tensor"], seen["a"], seen["b"]]
        check(page, data)

    def latencies(self, page, lab) -> dict:
        """Medians of 20 actions, key pressed to picture drawn, in ms; ten actions a second, faster than a hand's."""
        found = {}

        def press(key):
            page.keyboard.press(key)

        def measure(name, root, focus, keys, act=press):
            page.locator(root).last.evaluate(TIMER)
            page.locator(root).last.locator(focus).focus()
            for i in range(20):
                n = page.evaluate("took.length")
                act(keys[i % len(keys)])
                page.wait_for_function("n => took.length > n", arg=n)
                page.wait_for_timeout(100)
            took = page.evaluate("took")
            found[name] = statistics.median(took[:20])

        page.locator("select.tensor").first.focus()
        page.locator(".nv4 svg.strip").first.focus()
        page.keyboard.press("Home")
        settle(page)
        for dial, value in [
            ("A: ceiling", "448"),
            ("B: ceiling", "256"),
            ("A: FP32 scale per", "token"),
            ("B: error mode", "MSE"),
        ]:
            page.get_by_role("radiogroup", name=dial).first.get_by_text(value, exact=True).click()
        until(page, a="4/6-mae-448", b="4/6-mse-256")
        measure("in the page", ".nv4", "svg.strip", ["ArrowRight"] * 19 + ["Home"])
        page.get_by_role("radiogroup", name="A: FP32 scale per").get_by_text("tensor").click()
        settle(page)
        measure("with a new analyze", ".nv4", "input[data-slider=a]", ["ArrowLeft"])
        lab.run(page, 4)
        page.locator(".nv4").nth(1).locator("path[data-scales]").first.wait_for(timeout=60_000)
        page.locator(".nv4 svg.strip").last.focus()
        page.keyboard.press("End")
        page.wait_for_timeout(500)
        measure("beyond what the page holds, 500 tensors", ".nv4", "svg.strip", ["ArrowLeft"])
        click = self.click_from_the_end(page)
        measure("through the kernel, 500 tensors", ".nv4", "svg.strip", range(0, 240, 12), click)
        page.keyboard.press("Home")
        page.wait_for_timeout(500)
        measure("in the page, 500 tensors", ".nv4", "svg.strip", ["ArrowRight"])
        return found

    def click_from_the_end(self, page):
        """Clicks on the strip, so many tensors before the last but 20: where neither page nor neighbours have been."""
        script = """(strip, at) => {
            const box = strip.getBoundingClientRect(), [left, right] = [128, 12], margins = left + right;
            const clientX = box.left + left + (at + 0.5) * (box.width - margins) / 500;
            strip.dispatchEvent(new MouseEvent('click', {clientX, clientY: box.top + 20, bubbles: true}));
        }"""
        return lambda before: page.locator(".nv4 svg.strip").last.evaluate(script, 480 - before)

    def test_latency_is_printed(self, page, lab):
        for name, ms in self.latencies(page, lab).items():
            print(f"\n{name}: {ms:.1f} ms", end="")
            page.latency = {**getattr(page, "latency", {}), name: ms}
        print()

    def test_the_console_stays_clean(self, page):
        assert page.errors == []


@pytest.mark.browser
@pytest.mark.bench
def test_latency_limits(page, lab):
    took = TestInJupyterLab().latencies(page, lab)
    print(page.first_paint, took)
    assert page.first_paint <= 2
    assert took["in the page"] <= 15 and took["in the page, 500 tensors"] <= 15
    assert took["beyond what the page holds, 500 tensors"] <= 15
    assert took["through the kernel, 500 tensors"] <= 50
    assert took["with a new analyze"] <= 150
