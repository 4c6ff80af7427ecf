"""What "copy as Python" gives is a program: it runs, and shows what the page showed."""

import ast
import contextlib
import io

import pytest
import torch
from safetensors.torch import save_file

import nvfp4viz
from nvfp4viz import Recipe, report, sweep
from nvfp4viz.explorer import Explorer

pytestmark = pytest.mark.browser
HOSTILE = 'm.layers.3."x\\" + quit() #\u2028 \U0001f600'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp('a "quoted" folder')
    g = torch.Generator().manual_seed(3)
    x = torch.randn(48, 64, generator=g) * torch.logspace(-1, 1, 64)
    save_file({"h.0.q_proj": x, HOSTILE: x.flip(1).contiguous()}, folder / "x.safetensors")
    recipes = {"mine": Recipe(), "4/6-mae-256": Recipe(256, four_over_six=True)}
    return report(sweep(folder / "x.safetensors", recipes, engine="reference"), folder / "r.html")


@pytest.fixture
def copied(browser, page):
    """Opens the page at an address, does something there, and gives what is copied and the tab."""
    context = browser.new_context(offline=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])

    def copy(address: str = "", do=lambda tab: None):
        tab = context.new_page()
        tab.goto(page.as_uri() + address)
        tab.locator(".nv4[data-state=ready]").wait_for()
        do(tab)
        tab.locator("button.copy").click()
        tab.locator(".copied", has_text="copied").wait_for()
        return tab.evaluate("navigator.clipboard.readText()"), tab

    yield copy
    context.close()


def run(code: str) -> tuple[Explorer, str]:
    """The widget that the last line gives, and what was printed before."""
    lines, printed = ast.parse(code).body, io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = {}
        exec(compile(ast.Module(lines[:-1], []), "<copied>", "exec"), names)
        widget = eval(compile(ast.Expression(lines[-1].value), "<copied>", "eval"), names)
    return widget, printed.getvalue()


def choose(what: str, value: str):
    return lambda tab: tab.locator(f'[role=radiogroup][aria-label="{what}"]').get_by_text(value, exact=True).click()


STATES = {
    "as it opens": ("", lambda tab: None),
    "another view": ("", lambda tab: tab.locator("[data-view=tensors]").click()),
    "scales": ("#view=scales&scale=log&span=full&sort=gain", lambda tab: None),
    "a hostile name": ("", lambda tab: tab.locator("select.tensor").select_option(HOSTILE)),
    "a block": ("#view=microscope&block=7,2", lambda tab: None),
    "a recipe of the page's own": ("#view=microscope", choose("B: FP32 scale per", "tensor")),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_what_is_copied_runs_and_shows_the_same(copied, state):
    code, tab = copied(*STATES[state])
    widget, _ = run(code)
    shown = tab.locator(".nv4").evaluate("root => ({...root.dataset})")
    assert [widget.tensor, widget.view] == [shown["tensor"], shown["view"]]
    assert widget.recipe_a == {"mine": "standard"}.get(shown["a"], shown["a"]) and widget.recipe_b == shown["b"]
    assert widget.live and widget.stats_a.tokens == 48
    if "block" in shown and shown["view"] == "microscope":
        assert widget.block == [int(v) for v in shown["block"].split(",")]
    widget.close()
    tab.close()


def test_a_changed_value_is_copied_too(copied):
    def drag(tab):
        tab.locator(".value-slider").evaluate(
            "at => { at.value = 2.5; at.dispatchEvent(new Event('input', {bubbles: true})) }"
        )
        tab.locator("button.reset:enabled").wait_for()

    code, tab = copied("#view=microscope", drag)
    widget, printed = run(code)
    a, b = map(ast.literal_eval, printed.splitlines())
    assert a["values"][0] == pytest.approx(2.5, rel=0.01) and a["recipe"] == "standard" and b["recipe"] == "4/6-mae-256"
    scores = tab.locator('svg.microscope text[data-side="b"][data-score]').evaluate_all(
        "all => all.map((e) => e.dataset.score)"
    )
    assert [float(s) for s in scores] == [c["score"] for c in b["candidates"]]
    widget.close()


def test_an_address_opens_what_was_seen_recipes_of_the_page_too(copied):
    code, tab = copied("#view=microscope", choose("B: FP32 scale per", "tensor"))
    tab.wait_for_function("() => location.hash.includes('256-tensor')")
    address = tab.evaluate("location.hash")
    again, other = copied(address)
    assert again == code and other.evaluate("location.hash") == address
    assert other.locator(".name.b").inner_text() == "4/6-mae-256-tensor"
    assert (
        "256-tensor" in other.locator("footer").inner_text() and "this page's" in other.locator("footer").inner_text()
    )
    _, plain = copied("#view=scales&recipe_b=4%2F6-mae-256-tensor")  # of which nothing is recorded
    plain.wait_for_function("() => !location.hash.includes('tensor&') && location.hash.includes('recipe_b')")
    assert plain.locator(".name.b").inner_text() == "4/6-mae-256"


def test_of_a_checkpoint_the_call_opens_the_checkpoint():
    from pathlib import Path

    folder = Path(__file__).parents[1] / "checkpoints" / "data" / "llama-modelopt"
    widget = nvfp4viz.explore(nvfp4viz.checkpoint(folder))
    assert widget.catalog["origin"] == {"checkpoint": [str(folder)]}
    widget.close()
