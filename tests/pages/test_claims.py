"""What pages say: nothing false of 4, recipes that nobody runs marked, and only what is comparable compared."""

import html
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvfp4viz import Recipe, report, sweep, synthetic
from nvfp4viz.analysis import Sweep, obstacles, pairs, sentence
from nvfp4viz.nvfp4 import study_only
from nvfp4viz.pages.comparison import render as compared
from nvfp4viz.pages.report import SHORT, render
from nvfp4viz.pages.words import WORDS, explained

X = synthetic("lognormal", 64, 64)


@pytest.fixture(scope="module")
def measured() -> Sweep:
    return sweep({"layers.0.mlp": X, "layers.1.mlp": X * 2 + 1}, engine="cpu")


def written(page: str) -> str:
    """What stands on a page without its script and pictures."""
    return html.unescape(re.sub(r"<(script|style|svg).*?</\1>", "", page, flags=re.S))


def test_a_saturated_four_competes(measured):
    page = html.unescape(render(measured))
    assert "the 4 saturates at 448" in page and "competes" in page
    assert not re.search(r"cannot choose 4|could not be had|cannot be had|does not fit", page)


@pytest.mark.parametrize(
    "recipe, why",
    [
        (Recipe(), ""),
        (Recipe(256, four_over_six=True), ""),
        (Recipe(256), "448 without 4over6: to study only"),
        (Recipe(300, four_over_six=True), "448 and 256: to study only"),
        (Recipe(265, four_over_six=True), "did you mean 256?"),
        (Recipe(440), "did you mean 448?"),
        (Recipe(256, four_over_six=True, scored_as=448), "scored for 448: a fault"),
    ],
)
def test_ceilings_that_nobody_has_are_named(recipe, why):
    assert (study_only(recipe) == "") == (why == "") and why in study_only(recipe)


def test_recipes_to_study_are_marked_in_the_report():
    page = render(sweep({"x": X}, ["standard", "4/6-mse-256", "4/6-mae-265"], engine="cpu"))
    assert page.count("did you mean 256?") >= 2  # in the table of margins, and in the list of recipes


def test_without_a_script_there_is_a_table(measured):
    found = re.search(r'<noscript><div class="scroll"[^>]*><table class="plain">(.*?)</table>', render(measured), re.S)
    plain = found[1]
    rows = re.findall(r"<tr( class=\"best\")?><td", plain)
    assert len(rows) == 10 and len([r for r in rows if r]) >= 2
    assert plain.count("<td") == 10 * (2 + len(SHORT))
    for row in measured.stats.values():
        for stats in row.values():
            assert f"<td>{stats.sqnr_db:.3f}</td>" in plain


def test_the_head_says_what_when_and_by_whom(measured):
    page = render(measured, "A. <b>Reviewer</b>")
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC · A\. &lt;b&gt;Reviewer&lt;/b&gt;", page)
    title = re.search("<title>(.*?)</title>", page)[1]
    assert title.startswith("NVFP4 report: layers.0.mlp, 2 tensors: ")
    assert "What was not measured" in page and "not of the model&#x27;s output" in page
    worst = re.search(r'class="worst".*?<tbody>(.*?)</tbody>', page, re.S)[1]
    assert len(re.findall(r"<tr\b", worst)) == 2


def test_words_are_explained_once_each():
    said = explained("SQNR and SQNR, 4over6; 4over6-like, MSE")
    assert said.count("<abbr") == 3 and said.count("SQNR") >= 2
    assert all(len(meaning) > 20 for meaning in WORDS.values())
    head = explained("2.6 % less than standard-tensor-fast, 4/6-mae-448 (0.11 dB, 95 % interval) in a-4/6-mae-448")
    assert re.findall('<span class="whole">(.*?)</span>', head) == [
        "2.6 %",
        "standard-tensor-fast",
        "4/6-mae-448",
        "0.11 dB",
    ]
    assert "<span" not in re.sub("<span class=.whole.>[^<]*</span>", "", head) and "95 % interval</abbr>" in head


def test_other_data_are_not_compared_as_if_they_were_the_same(measured):
    other = sweep({"layers.0.mlp": X[:32], "layers.1.mlp": torch.flip(X, [0]) * 3, "more": X}, engine="cpu")
    found = pairs(measured, other)
    assert sentence(found).startswith("A and B saw different activations: in 2 of 2 tensors")
    lines = " ".join(obstacles(measured, other, found))
    assert "Only in B: 1 of its 3 tensors, such as more." in lines
    assert "64 in A, 32 in B" in lines and "Other values in 1 tensor of" in lines
    page = html.unescape(compared(measured, other))
    assert "Other values in 1 tensor of" in page and "no interval" in page
    assert "Yes: the same tensors and recipes" in compared(measured, measured)


def test_one_outlier_does_not_make_the_headline(measured):
    worse = []
    for i, p in enumerate(pairs(measured, measured)):  # a little better everywhere, but for one that is lost
        factor = 0.99 if i else 1e6
        worse.append(replace(p, b=replace(p.b, err_sq=p.b.err_sq * factor, run_nmse=p.b.run_nmse * factor)))
    said = sentence(worse)
    assert said.startswith("A typical token is 0.044 dB better in B, in the median: of 10 pairs"), said
    assert "9 are better, 1 worse and 0 identical to the bit" in said
    assert "most lost layers.0.mlp under standard" in said


def test_what_reads_as_no_difference_is_none():
    """Fast against strict arithmetic moves an SQNR by some 1e-8 dB, which is neither better nor worse."""
    strict = sweep({"x": X, "y": X * 2 + 1}, ["standard", "4/6-mae-448"], engine="cpu")
    fast = sweep({"x": X, "y": X * 2 + 1}, ["standard-fast", "4/6-mae-448-fast"], engine="cpu")
    found = pairs(strict, fast)
    assert all(0 < abs(p.gain_db) < 1e-5 for p in found)
    said = sentence(found)
    assert said.startswith("No difference in the median: of 4 pairs ")
    assert "0 are better, 0 worse, 4 alike to 0.001 dB" in said
    assert "most" not in said
    page = written(compared(strict, fast))
    assert page.count("<p>Nothing.</p>") == 2  # neither got worse nor better
    assert "Other arithmetic: standard in A beside standard-fast in B" in page


def test_recipes_that_only_one_side_has_are_named():
    strict = sweep({"x": X}, ["standard", "standard-fast", "4/6-mae-448"], engine="cpu")
    other = sweep({"x": X}, {"plain": Recipe(), "mine": Recipe(300, four_over_six=True)}, engine="cpu")
    found = pairs(strict, other)
    assert [p.recipe for p in found] == ["standard"]  # not the fast one, too, beside the same other
    lines = obstacles(strict, other, found)
    assert lines == ["Measured in A alone: standard-fast, 4/6-mae-448.", "Measured in B alone: mine."]
    with pytest.raises(ValueError, match=r"share no tensor and recipe.*measure both under the same recipes"):
        pairs(strict, sweep({"x": X}, ["4/6-mse-256"], engine="cpu"))


def test_what_was_skipped_beyond_three_is_counted(measured):
    many = replace(measured, skipped={str(i): "no float" for i in range(5)})
    assert obstacles(many, measured, pairs(many, measured))[-1] == "Skipped in A, too: 2 more tensors."


def test_a_pair_without_error_weighs_in_the_median():
    """Two of three tensors lose all they had: that the third gains a little is no headline."""
    before = sweep({"a": X * 0, "b": X * 0, "c": X}, ["standard"], engine="cpu")
    after = sweep({"a": X, "b": X, "c": X}, ["standard"], engine="cpu")
    said = [replace(p, a=replace(p.a, x_sq=p.b.x_sq, x_amax=p.b.x_amax)) for p in pairs(before, after)]
    said[2] = replace(said[2], b=replace(said[2].b, run_nmse=said[2].b.run_nmse * 0.99))
    text = sentence(said)
    assert text.startswith("A typical token is ∞ dB worse in B, in the median"), text
    assert "−∞ dB (without error on one side)" in text
    page = written(compared(before, after))
    assert "∞ to 2" in page and not re.search(r"\b(?:inf|nan)\b", page)


def test_a_comparison_marks_recipes_to_study():
    both = [sweep({"x": x}, {"mine": Recipe(300, four_over_six=True)}, engine="cpu") for x in (X, X * 1.5 + 1)]
    page = written(compared(*both))
    assert page.count('class="study"') == 2  # in the table by recipe, and in the list of what changed


def test_whose_bits_were_compared_is_said_wherever_bits_are_claimed():
    """Stock kernels on Blackwell and the CuTe-DSL backend were read: nothing may be claimed of all engines."""
    root = Path(__file__).parents[2]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert not re.search(r"(?i)\b(all|every) engines? (gives?|has|have|equals?|are|is) ", text), page
        assert not re.search(r"bits? of a Blackwell", text), page
    for page in ("README.md", "docs/engines.md"):
        text = " ".join((root / page).read_text(encoding="utf-8").split())
        assert re.search("stock kernels on Blackwell and its CuTe-DSL backend were read, not run", text), page


def test_two_reports_are_compared_from_the_command_line(measured, tmp_path):
    a, b = report(measured, tmp_path / "a.html"), report(measured, tmp_path / "b.html")
    command = [sys.executable, "-m", "nvfp4viz.cli", "report", str(a), str(b), "-o", str(tmp_path / "c.html")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "No difference" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_what_the_first_release_saved_is_compared_by_whole_tensors(measured):
    """It measured no single tokens: an error of a typical token on one side alone would be a difference of its own."""
    old = {t: {n: replace(s, run_tokens=0 * s.run_tokens, run_nmse=0 * s.run_nmse) for n, s in row.items()}
           for t, row in measured.stats.items()}  # fmt: skip
    old = Sweep.of(old, measured.recipes)
    for a, b in ((old, measured), (measured, old), (old, old)):
        found = pairs(a, b)
        assert {p.gain_db for p in found} == {0.0} and {p.interval_db for p in found} == {None}
        assert any(text.startswith("Errors are of whole tensors, without intervals") for text in obstacles(a, b, found))
    assert not any("whole tensors" in text for text in obstacles(measured, measured, pairs(measured, measured)))
