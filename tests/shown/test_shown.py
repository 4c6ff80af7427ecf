"""How results show themselves: one line, and a small table in the colours of the page, with every name escaped."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import torch
from hostile import NAMES

import nvfp4viz
from nvfp4viz.analysis import Sweep
from nvfp4viz.shown import ROWS, error_text, number, percent, shorten, svg, table
from nvfp4viz.shown.pictures import SCHEME
from nvfp4viz.web import asset

X = nvfp4viz.synthetic("lognormal", 64, 64)
SWEEP = nvfp4viz.sweep({"a": X, "b": X * 2}, engine="reference")


def _recorder():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    with nvfp4viz.record(model, recipes=["standard"], engine="reference") as recorder, torch.no_grad():
        model(X.float())
    return recorder


def _model():
    torch.manual_seed(0)
    linear = [torch.nn.Linear(32, 32) for _ in range(2)]
    return torch.nn.Sequential(torch.nn.Embedding(32, 32), *linear).eval(), [torch.arange(64).reshape(2, 32) % 32]


RESULTS = {
    "Impact": lambda: nvfp4viz.impact(*_model(), ["standard", "4/6-mse-256"]),
    "Sensitivity": lambda: nvfp4viz.sensitivity(*_model(), ["standard", "4/6-mse-256"]),
    "Sweep": lambda: SWEEP,
    "Stats": lambda: SWEEP.total("4/6-mae-448"),
    "Verdict": lambda: nvfp4viz.recommend(SWEEP),
    "Attribution": lambda: nvfp4viz.attribute(X, "4/6-mae-448"),
    "Choice": lambda: nvfp4viz.choice(X, "4/6-mse-256"),
    "Agreement": lambda: nvfp4viz.agreement(X, "4/6-mse-256", "4/6-mae-256"),
    "CeilingDial": lambda: nvfp4viz.ceiling_dial(X, values=(448, 256)),
    "StaticCurve": lambda: nvfp4viz.static_scale_curve(X, factors=(0.5, 1, 2)),
    "Recorder": _recorder,
    "Checkpoint": lambda: nvfp4viz.checkpoint("tests/checkpoints/data/qwen3-moe-modelopt"),
}


class Reader(HTMLParser):
    """Tags that were opened and not closed, and the words."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.words, self.tags = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("name", RESULTS)
def test_a_line_and_a_small_table(name):
    result = RESULTS[name]()
    line, html = repr(result), result._repr_html_()
    assert line.startswith(f"{name}(") and "\n" not in line and len(line) < 450 and "array(" not in line
    read = Reader(html)
    assert not read.open and read.words[0].startswith(name) and len(html) < 12_000
    assert set(read.tags) <= {"div", "b", "table", "tr", "td", "th"}
    assert "color:inherit" in html and not re.search(r"#[0-9a-f]{3,6}\b|rgb\(|white|black", html)  # light and dark


def test_numbers_of_a_table_are_those_of_the_result():
    stats = SWEEP.total("4/6-mae-448")
    words = Reader(stats._repr_html_()).words
    assert number(stats.sqnr_db) in words and percent(stats.four_rate) in words and "reference" in words[0]
    verdict = nvfp4viz.recommend(SWEEP)
    words = Reader(verdict._repr_html_()).words
    assert verdict.recipe in words[0] and f"{verdict.comparisons[0].margin_db:+.3f}" in words
    assert verdict.sentence() in words[-1]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_hostile_names_stay_text(name):
    found = Sweep.of({name: SWEEP.stats["a"]}, SWEEP.recipes)
    verdict = nvfp4viz.recommend(found)
    for html in (found._repr_html_(), verdict._repr_html_(), table(name, [[name, name]], [name], name)):
        read = Reader(html)
        assert not read.open and set(read.tags) <= {"div", "b", "table", "tr", "td", "th"}
        assert all(c.isprintable() for c in html)


def test_long_tables_are_cut_and_say_so():
    read = Reader(table("t", [[i, "x"] for i in range(ROWS + 30)], ["n", ""]))
    assert read.tags.count("tr") == ROWS + 1 and "and 30 more" in read.words


def test_a_figure_in_a_notebook_brings_its_colours_and_a_picture_for_where_svg_is_not_shown():
    ax = nvfp4viz.plots.error_by_tensor(SWEEP)
    data, about = nvfp4viz.plots.Picture(ax, "<words>")._repr_mimebundle_()
    svg, name = data["image/svg+xml"], re.search(r'id="(f[0-9a-f]{8})"', data["image/svg+xml"])[1]
    ET.fromstring(svg)
    assert set(data) == {"image/svg+xml", "image/png", "text/plain"} and about["image/png"]["alt"] == "<words>"
    assert 'aria-label="&lt;words&gt;"' in svg and f'id="{name}-tensor:a"' in svg
    style = re.search("<style>(.*?)</style>", svg)[1]
    css = asset("report/report.css")
    for variable, (light, dark) in SCHEME.items():
        assert f"light-dark({light},{dark})" in style and f"--{variable}: light-dark({light}, {dark});" in css
    assert set(re.findall(r"var\(--([a-z]+)\)", svg)) <= set(SCHEME)
    assert not re.search(r"(fill|stroke): #(fff|222|000)", svg)  # nothing stays white, or black
    same = nvfp4viz.plots.Picture(nvfp4viz.plots.error_by_tensor(SWEEP), "<words>")._repr_mimebundle_()[0]
    assert same["image/svg+xml"] == svg


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m\u202e", "", "x" * 9999])
def test_what_an_error_says_is_one_printable_line(text):
    line = error_text(ValueError(text))
    assert line and line.isprintable() and len(line) < 1000


def test_a_name_of_wide_letters_leaves_room_for_its_figure(recwarn):
    assert shorten("x" * 40) == "x" * 40 and shorten("x" * 50) == "x" * 19 + "…" + "x" * 20
    assert shorten("層" * 20) == "層" * 20 and shorten("層" * 50) == "層" * 9 + "…" + "層" * 10
    wide = nvfp4viz.sweep(
        {"層" * 60: nvfp4viz.synthetic("normal", 8, 64), "m" * 60: nvfp4viz.synthetic("normal", 8, 64)}
    )
    assert "<svg" in svg(nvfp4viz.plots.error_by_tensor(wide), "f")
    assert not [str(w.message) for w in recwarn if "constrained_layout" in str(w.message) or "Glyph" in str(w.message)]
