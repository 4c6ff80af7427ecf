"""Notebooks as pages, and checked against their outputs: names, kernels, Output widgets, formulas, titles, failures."""

import re
import time
import warnings
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbconvert")

from nbclient.output_widget import OutputWidget  # noqa: E402
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output  # noqa: E402

from nvfp4viz.cli import main  # noqa: E402
from nvfp4viz.pages import check_notebooks, export, kernel, running  # noqa: E402
from nvfp4viz.pages.notebooks import VIEW, notebook_page  # noqa: E402
from nvfp4viz.pages.running import targets  # noqa: E402
from nvfp4viz.shown import formula  # noqa: E402


def _notebook(path: Path, *cells, kernel="python3", language="python") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {"name": kernel, "display_name": kernel, "language": language}
    nbformat.write(new_notebook(cells=list(cells), metadata={"kernelspec": spec}), path)
    return path


def test_two_notebooks_of_one_name_are_two_pages(tmp_path):
    files = [tmp_path / "a" / "report.ipynb", tmp_path / "b" / "report.ipynb", tmp_path / "c.ipynb"]
    assert [p.name for p in targets(files, "o").values()] == ["a-report.html", "b-report.html", "c.html"]
    files += [tmp_path / "x" / "a" / "report.ipynb", tmp_path / "c.ipynb"]
    names = [p.name for p in targets(files, "o").values()]
    assert names == ["a-report.html", "b-report.html", "c.html", "a-report-2.html"]


def test_a_reply_that_comes_while_an_output_widget_sends_is_seen(tmp_path, monkeypatch):
    send = OutputWidget.send

    def send_behind_the_reply(widget, *args, **options):
        time.sleep(1)  # the loop stands still: the reply is there before the send, which takes its signal
        return send(widget, *args, **options)

    monkeypatch.setattr(OutputWidget, "send", send_behind_the_reply)
    monkeypatch.setattr(running, "TIMEOUT", 30)
    held = new_code_cell("import ipywidgets\no = ipywidgets.Output()\nwith o:\n    print('kept')")
    path, start = _notebook(tmp_path / "n.ipynb", held), time.monotonic()
    notebook = nbformat.read(path, 4)
    running.execute(notebook, path)
    assert time.monotonic() - start < 25  # unseen, it is found when the cell's time is over
    assert "kept" in str(notebook.metadata["widgets"])


def test_a_kernel_that_is_done_and_does_not_reply_ends_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "REPLY", 2)
    mute = (
        "session = get_ipython().kernel.session\nsend = session.send\n"
        "session.send = lambda to, kind, *a, **k: None if kind == 'execute_reply' else send(to, kind, *a, **k)"
    )
    path = _notebook(tmp_path / "n.ipynb", new_code_cell("1"), new_code_cell(mute))
    with pytest.raises(RuntimeError, match=r"n.ipynb' does not run: the kernel is done with cell 1, but no reply"):
        running.execute(nbformat.read(path, 4), path)


def test_kernel_of_another_machine_output_widget_formula_title_and_a_failure(tmp_path):
    shown = "import nvfp4viz, ipywidgets\nx = nvfp4viz.synthetic('normal', 8, 32)\nw = nvfp4viz.explore({'a': x})\n"
    held = new_code_cell(shown + "o = ipywidgets.Output()\nwith o:\n    print('kept')\n    display(w)\no")
    prose = new_markdown_cell("# A title\n\n$\\frac{a}{b}$, $$E = \\sum_i x_i^2$$ for $5, not `$code$` or $\\nope{x}$")
    figure = new_code_cell("from nvfp4viz import plots\nplots.Picture(plots.clipping_rates(w.stats_a))")
    good = _notebook(tmp_path / "good.ipynb", new_code_cell("1"), prose, held, figure, kernel="conda-env-elsewhere-py")
    held_before = new_output("stream", name="stdout", text="as it was")
    failing = new_code_cell("raise FileNotFoundError('no model at <m>')", execution_count=1, outputs=[held_before])
    bad = _notebook(tmp_path / "bad.ipynb", failing)
    other = _notebook(tmp_path / "other.ipynb", language="R", kernel="ir")
    pages = []
    with pytest.warns(UserWarning, match="kernel 'conda-env-elsewhere-py' is not on this machine"), \
         pytest.raises(RuntimeError, match=r"2 of 3 notebooks do not run.*no model at <m>.*written in R"):  # fmt: skip
        pages.extend(export([bad, other, good], tmp_path / "o"))
    html = (tmp_path / "o" / "good.html").read_text()
    assert sorted(p.name for p in pages) == ["bad.html", "good.html", "other.html"]
    assert 'class="not-run"' not in html
    assert "<title>A title</title>" in html or re.search("<title>A title", html)
    drawn = re.search(r'<div class="drawn">(<svg.*?</svg>)', html, re.S)[1]
    assert "Limits met" in drawn and "var(--ink)" in drawn and "image/png" not in html  # dark and light, sharp in print
    assert "<pre>kept" in html and 'data-sweep="sweep-' in html.replace("'", '"')
    assert 'aria-label="\\frac{a}{b}"' in html and "$\\frac" not in html
    assert 'aria-label="E = \\sum_i x_i^2"' in html and "$code$" in html and "for $5" in html
    assert "<code>\\nope{x}</code>" in html


def test_formulas_of_outputs_and_of_environments_are_set(tmp_path):
    prose = """\\begin{align}
a &= b \\\\
c &= \\frac{1}{2} \\label{half}
\\end{align}

$$\\begin{aligned} x &= y \\\\ y &= z \\end{aligned}$$ and $\\begin{matrix} 1 \\end{matrix}$"""
    code = """from IPython.display import Latex, Markdown, Math, display
display(Math(r"\\sqrt{2}"), Latex(r"a < b and $\\alpha$"), Markdown(r"**bold** $\\beta$, `$code$`"))"""
    path = _notebook(tmp_path / "n.ipynb", new_markdown_cell(prose), new_code_cell(code))
    html = notebook_page(path).partition("<article")[2].partition("</article>")[0]
    names = re.findall('aria-label="([^"]*)"', html)
    assert names == ["a = b", "c = \\frac{1}{2}", "x = y", "y = z", "\\sqrt{2}", "\\alpha", "\\beta"]
    assert "<code>\\begin{matrix} 1 \\end{matrix}</code>" in html and "a &lt; b and <svg" in html
    assert "<strong>bold</strong>" in html and "<code>$code$</code>" in html and "\\label" not in html


def test_parts_of_a_tab_have_their_titles(tmp_path):
    code = """import ipywidgets
t = ipywidgets.Tab([ipywidgets.HTML("<i>one</i>"), ipywidgets.Label("two")])
t.titles = ["first <b>", "second"]
t"""
    html = notebook_page(_notebook(tmp_path / "n.ipynb", new_code_cell(code)))
    shown = re.findall("<div>(first &lt;b&gt;|<i>one</i>|second|two)</div>", html)
    assert shown == ["first &lt;b&gt;", "<i>one</i>", "second", "two"]


def test_the_page_of_a_notebook_that_does_not_run_says_why_and_shows_what_it_holds(tmp_path, capsys):
    view = {VIEW: {"model_id": "gone"}, "image/png": "iVBORw0KGgo=", "text/plain": "Explorer(x)"}
    shown = new_output("display_data", data=view, metadata={"image/png": {"alt": "Explorer(x): scales of x"}})
    svg = {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>", "text/plain": "A <figure>"}
    cells = [
        new_code_cell("1", execution_count=1, outputs=[shown, new_output("display_data", data=svg)]),
        new_code_cell("raise OSError('no <b>model</b> here')", execution_count=2,
                      outputs=[new_output("stream", name="stdout", text="kept 42")]),
    ]  # fmt: skip
    path = _notebook(tmp_path / "n.ipynb", *cells)
    before = path.read_bytes()
    assert main(["notebooks", "--html", str(tmp_path / "o"), str(path)]) != 0
    html = (tmp_path / "o" / "n.html").read_text()
    assert "was not run for this page" in html and "no &lt;b&gt;model&lt;/b&gt; here" in html
    assert 'alt="Explorer(x): scales of x"' in html and 'alt="A &lt;figure&gt;"' in html
    assert "No description" not in html and "data:image/svg+xml;base64," in html
    assert "kept 42" in html and "data:image/png;base64,iVBORw0KGgo=" in html
    assert "no <b>model</b> here" in capsys.readouterr().err and path.read_bytes() == before


@pytest.mark.parametrize("there", [True, False])
def test_without_its_data_run_all_keeps_the_stored_results(tmp_path, there):
    needs = tmp_path / "model"
    if there:
        needs.touch()
    png = {"image/png": "iVBORw0KGgo=", "text/plain": "A figure"}
    cells = [
        new_code_cell("a = 1", execution_count=1),
        new_code_cell(f"from nvfp4viz.explorer import or_stored\nok = or_stored('n.ipynb', needs={str(needs)!r})"),
        new_code_cell("%%capture --no-stdout\nprint('computed', a)", outputs=[
            new_output("stream", name="stdout", text="stored 7\n"), new_output("execute_result", data=png)]),
        new_code_cell("print('mine', a, ok)"),
    ]  # fmt: skip
    path = _notebook(tmp_path / "n.ipynb", *cells[:3])
    notebook = nbformat.read(path, 4)
    notebook.cells.append(cells[3])  # written since the file was saved
    running.execute(notebook, path)
    texts = ["".join(str(o.get("text", "")) + str(o.get("data", "")) for o in c.outputs) for c in notebook.cells]
    if there:
        assert texts == ["", "", "computed 1\n", "mine 1 True\n"]
    else:
        assert "There is no" in texts[1] and texts[3] == "mine 1 False\n"
        assert texts[2].startswith("stored 7\n") and "iVBORw0KGgo=" in texts[2] and "computed" not in texts[2]


def test_a_notebook_that_says_something_else_is_told(tmp_path, capsys):
    def ran(text, source="print(1 + 1)"):
        return new_code_cell(source, execution_count=1, outputs=[new_output("stream", name="stdout", text=text)])

    changing = ran("0x7f0011223344 took 3 ms\n", "print('0x1f00aa223344 took 8 ms')")
    same = _notebook(tmp_path / "same.ipynb", ran("2\n"), changing)
    other = _notebook(tmp_path / "other.ipynb", ran("3\n"))
    empty = _notebook(tmp_path / "empty.ipynb", new_code_cell("1"))
    found = dict(check_notebooks([same, other, empty, tmp_path / "none.ipynb"]))
    assert found[same] == [] and "cell 1: stored '3" in found[other][0] and "now '2" in found[other][0]
    assert "holds no outputs" in found[empty][0] and "none.ipynb" in found[tmp_path / "none.ipynb"][0]
    with warnings.catch_warnings():
        assert main(["notebooks", "--check", str(same)]) == 0 and main(["notebooks", "--check", str(other)]) == 1
    out = capsys.readouterr().out
    assert f"{same}: as stored" in out and "now '2" in out


def test_a_formula_follows_the_text_s_colour_and_has_words():
    svg = formula("x < \\alpha")
    assert svg.startswith("<svg ") and 'aria-label="x &lt; \\alpha"' in svg and 'fill="currentColor"' in svg
    assert "<style" not in svg and "fill:" not in svg and formula("\\begin{align}x\\end{align}") is None


def test_what_is_no_notebook_costs_no_other_its_page(tmp_path):
    (tmp_path / "bad.ipynb").write_text("{nope")
    nbformat.write(new_notebook(cells=[new_markdown_cell("# kept")]), tmp_path / "good.ipynb")
    found = export([tmp_path / "bad.ipynb", tmp_path / "none.ipynb", tmp_path / "good.ipynb"], tmp_path / "out")
    assert next(found).name == "good.html" and "kept" in (tmp_path / "out" / "good.html").read_text()
    with pytest.raises(RuntimeError, match=r"2 of 3 notebooks do not run.*bad\.ipynb.*none\.ipynb"):
        next(found)


def test_a_folded_cell_is_folded_on_the_page(tmp_path):
    """The page says that the folded cell is the solution: it must not stand open above the question."""
    solution = new_code_cell("def solution():\n    return '<7>'", execution_count=1)
    solution.metadata["jupyter"] = {"source_hidden": True}
    page = notebook_page(_notebook(tmp_path / "n.ipynb", solution), why_not="a test")
    (folded,) = re.findall(r"<details>.*?</details>", page, re.S)
    assert folded.startswith("<details><summary>Solution</summary>")
    assert re.sub("<[^>]*>", "", folded).count("solution():") == 1 and "&lt;7&gt;" in folded


@pytest.mark.browser
def test_a_table_of_prose_and_the_picture_of_an_explorer_fit_a_phone(tmp_path, browser):
    words = "which question a notebook answers, at some length, " * 2
    table = new_markdown_cell(f"# T\n\n| notebook | question | after |\n| --- | --- | --- |\n| 01 | {words} | 02 |")
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    view = {VIEW: {"model_id": "gone"}, "image/png": png, "text/plain": "Explorer(x)"}
    shown = new_code_cell("1", execution_count=1, outputs=[new_output("display_data", data=view)])
    page = tmp_path / "n.html"
    page.write_text(notebook_page(_notebook(tmp_path / "n.ipynb", table, shown), why_not="a test"), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    grounds = """img => { const found = [];
        for (let e = img; e; e = e.parentElement) found.push(getComputedStyle(e).backgroundColor);
        return found; }"""
    assert "rgb(255, 255, 255)" not in tab.locator("img").evaluate(grounds)  # it is made for light and dark
    tab.close()


def test_a_kernel_says_nothing_beside_what_is_asked_for(tmp_path, capfd):
    """It would warn, in lines a notebook, of a connection that it has with this process alone."""
    path = _notebook(tmp_path / "n.ipynb", new_code_cell("1"))
    assert main(["notebooks", "--html", str(tmp_path / "o"), str(path), "-q"]) == 0
    assert capfd.readouterr().err == ""
