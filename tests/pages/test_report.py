"""The report: what it says, that it needs no network, that hostile names stay text, and that it reads back.

browser/test_report_browser.py opens it.
"""

import base64
import errno
import gzip
import hashlib
import html
import json
import os
import re
import time
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hostile import NAMES as HOSTILE

from nvfp4viz import RECIPES, Recipe, load, report, sweep, synthetic
from nvfp4viz.analysis import Effect, Impact, Sweep, block_at, inspect_block, is_decided, kept_blocks, pick, recommend
from nvfp4viz.analysis import block_inspections as inspections
from nvfp4viz.analysis.picks import KEPT
from nvfp4viz.catalog import COLUMNS, RATES
from nvfp4viz.pages import load_report, packing, words
from nvfp4viz.pages.report import render
from nvfp4viz.shown import percent
from nvfp4viz.web import page_module

X = synthetic("lognormal", 24, 64)


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
        self.feed(re.sub(r'<span class="whole">(.*?)</span>', r"\1", page))  # where no line ends

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
    first, rest = recommend(measured).sentence().split(": ", 1)
    said = re.search(r'<p class="verdict">(.*?)</p>', page)[1]
    assert html.unescape(re.sub("<[^>]*>", "", said)) == rest and '<abbr title="' in said
    assert "2 tensors" in page and "up to 24 tokens" in page and "5 recipes" in page and "engine reference" in page
    assert "1 tensor could not be analysed" in page and "K=5 is not a multiple of 16" in page
    assert texts["h1"] == [first]
    output, set_, *others = texts["h2"]
    verdict = recommend(measured)
    assert output == "What the model's output feels"
    assert set_ == f"What {'to set for' if is_decided(verdict) else 'would set'} {verdict.recipe}"
    assert others == [
        "Where it hurts most", "Why", "Look for yourself", "Every tensor, every recipe", "Compare", "Words",
        "Provenance",
    ]  # fmt: skip
    for c in recommend(measured).comparisons:
        interval = "{:.3f} to {:.3f}".format(*c.interval_db) if c.interval_db else "too few tokens"
        assert f"{c.margin_db:+.3f} dB" in page and interval in page
    assert "FLASHINFER_NVFP4_4OVER6=" in page


def test_the_table_has_every_column(page):
    assert [a["data-name"] for t, a in Tags(page).tags if t == "th" and "data-name" in a] == [
        "tensor", "recipe", "engine", "tokens", "features", *dict.fromkeys(n for n in html_columns() if n in COLUMNS),
    ]  # fmt: skip


def html_columns() -> list[str]:
    from nvfp4viz.pages.report import COLUMNS as SHOWN

    assert set(SHOWN) >= set(COLUMNS)
    return list(SHOWN)


def test_nothing_is_fetched_and_only_its_own_script_runs(page):
    tags = Tags(page).tags
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video")
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = (a["content"] for t, a in tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    scripts = re.findall(r"<script type=.module.>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and scripts[0] == page_module()
    assert policy == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    assert not re.search(r"""(?:https?:)?//[a-z]""", re.sub(r"//.*", "", re.sub(r'"[A-Za-z0-9+/=]{200,}"', "", page)))


def test_figures_say_what_they_show_in_the_page_s_ink(page, measured):
    figures = [a for t, a in Tags(page).tags if t == "svg" and a.get("role") == "img"]
    gains, scales, limits = (a["aria-label"] for a in figures)
    best = recommend(measured).recipe
    gained = [row[best].sqnr_db - row["standard"].sqnr_db for row in measured.stats.values()]
    assert f"{best} over standard from {min(gained):.2f} to {max(gained):.2f} dB" in gains
    four = measured.total("4/6-mse-256").four_rate
    assert f"4/6-mse-256 {percent(four)}" in scales and all(rate.heading in limits for rate in RATES.values())
    drawn = "".join(re.findall(r"<figure class=\"card\"[^>]*>.*?</figure>", page, re.S))
    assert "var(--ink)" in drawn and "#222222" not in drawn and "<text" in drawn  # text stays text, black stays ink
    ids = re.findall(r' id="([^"]*)"', drawn)
    assert len(ids) == len(set(ids)) and all(i.startswith("figure") for i in ids)
    for name in re.findall(r'(?:href="#|url\(#)([^")]*)', drawn):
        assert name in ids


def test_provenance_names_files_recipes_and_versions(tmp_path):
    np.save(tmp_path / "layer.npy", X.float().numpy())
    found = load(tmp_path / "layer.npy")
    page = render(sweep(found, ["4/6-mse-256-tensor"], engine="reference"))
    assert found.sources[0]["sha256"] in page and str(tmp_path / "layer.npy") in page
    assert f"<dt>torch</dt><dd>{torch.__version__}</dd>" in page and "per_token=False" in page


class Noon(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 25, 12, tzinfo=tz)


def test_a_report_reads_back_as_the_same_sweep(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("nvfp4viz.pages.document.datetime", Noon)  # a minute may end between two renderings
    path = report(measured, tmp_path / "r.html")
    assert path == tmp_path / "r.html"
    back = load_report(path)
    assert back == measured and back.blocks and back.to_dict() == measured.to_dict()
    assert render(back) == render(measured) == path.read_text(encoding="utf-8")  # reproducible, too


def test_truncated_edited_and_foreign_files_are_refused(page, tmp_path):
    path = tmp_path / "r.html"
    data = page.index('id="sweep"')
    middle = page.index(">", data) + 1000
    other = "A" if page[middle] != "A" else "B"
    for text, message in {
        page[: data - 100]: "does not match its checksum: truncated, edited",
        page[:middle]: "does not match its checksum",
        page[:middle] + other + page[middle + 1 :]: "does not match its checksum",
        page[:middle] + page[middle + 4 :]: "does not match its checksum",
        page.replace("Provenance", "provenance"): "does not match its checksum",
        page.replace("\n", "\r\n"): "",
        "": "it is no report",
        "<html></html>": "it is no report",
    }.items():
        path.write_text(text, encoding="utf-8", newline="")
        if not message:  # a mail program's line ends change nothing
            assert load_report(path).stats
            continue
        with pytest.raises(ValueError, match=message) as raised:
            load_report(path)
        assert str(path) in str(raised.value)
    path.write_bytes(os.urandom(1000))
    with pytest.raises(ValueError, match="it is no report"):
        load_report(path)


def test_a_report_of_another_version_is_refused(tmp_path):
    for packed, message in {
        packing.script({"format": "nvfp4viz-report-9"}): r"format 'nvfp4viz-report-9', expected",
        packing.script({"format": packing.FORMAT}): r"its data is not of this version of nvfp4viz: KeyError",
        packing.script([], "rows"): "it holds no sweep: a comparison, or notebooks",
    }.items():
        (tmp_path / "r.html").write_text(packing.sign(packing.signature() + packed), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_report(tmp_path / "r.html")


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(b"[" + b" " * (40 << 20) + b"]"),
        gzip.compress(b"[" * 100_000),
        gzip.compress(b"[1, 2]")[:-9],
        b"\x1f\x8b\x08" + b"\xff" * 40,
        b"no gzip",
    ],
    ids=["a bomb", "nested", "cut", "damaged", "no gzip"],
)
def test_data_that_is_no_sweep_is_one_clear_error(packed, tmp_path):
    block = f'<script type="application/gzip" id="sweep">{base64.b64encode(packed).decode()}</script>'
    (tmp_path / "r.html").write_text(packing.sign(packing.signature() + block), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^cannot read the report '.*r\.html': .+$"):
        load_report(tmp_path / "r.html")


@pytest.mark.parametrize("value", [float("inf"), 1 << 80, None, "x"])
def test_a_report_with_what_is_no_count_is_refused(measured, value, tmp_path):
    packed = packing.page_data(measured)
    packed["stats"]["layers.0.mlp"]["standard"] |= {"tokens": value, "codes": [0, value]}
    (tmp_path / "r.html").write_text(packing.sign(packing.signature() + _block(packed)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^cannot read the report '.*r\.html'"):
        load_report(tmp_path / "r.html")


def _block(value) -> str:
    """`packing.script`, with infinities too."""
    packed = base64.b64encode(gzip.compress(json.dumps(value).encode())).decode()
    return f'<script type="application/gzip" id="sweep">{packed}</script>'


@pytest.mark.alone
def test_size_growth_and_time(bundled):
    found = sweep(load(bundled), engine="cpu")
    seconds = []
    for _ in range(3):  # the best: a busy machine shares its caches, too
        start = time.process_time()
        assert len(render(found)) < 1_500_000
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2
    half = replace(found, records=dict(list(found.records.items())[:11]))
    packed = [len(packing.script(packing.page_data(s))) for s in (found, half)]
    assert (packed[0] - packed[1]) / 10 < 20_000


def test_the_kept_blocks_are_what_the_microscope_finds(bundled):
    x = load(bundled)["model.layers.7.self_attn.o_proj"]
    kept = kept_blocks(x, RECIPES)
    for key, found in kept["picks"].items():
        name, rule = key.split("|")
        place = found["blocks"][:1]
        if rule == "worst" and place:
            assert place == pick(x, name, rule, 1)["blocks"]
        for b in place:
            values, amax = block_at(x, b["token"], b["block"], RECIPES[name])
            stored = kept["blocks"][f"{b['token']},{b['block']}"]
            assert stored["values"] == values and stored["token_amax"] == amax
    assert 4 <= len(kept["blocks"]) <= KEPT
    assert {key.split("|")[1] for key, found in kept["picks"].items() if found["blocks"]} >= {
        "worst", "gained", "saturated", "random",
    }  # fmt: skip


@pytest.mark.parametrize("x", [torch.zeros(4, 32), X[:0], torch.eye(16) * 1e-30, X.half()], ids=str)
def test_blocks_are_kept_of_any_tensor(x):
    recipes = RECIPES | {n: Recipe.parse(n) for n in ("4/6-mae-448-tensor", "4/6-mse-256-fast", "standard-tensor")}
    kept = kept_blocks(x, recipes)
    seen = inspections(kept["blocks"], recipes)
    for (place, stored), row in zip(kept["blocks"].items(), seen, strict=True):
        token, block = map(int, place.split(","))
        for name, (amax, encode, decode, choice, *tried) in row.items():
            _, of = block_at(x, token, block, recipes[name])
            wanted = inspect_block(stored["values"], of, recipes[name])
            assert np.float32(amax) == np.float32(wanted["amax"]) and choice == wanted["choice"]
            assert np.float32(encode) == np.float32(wanted["encode_scale"])
            assert np.float32(decode) == np.float32(wanted["decode_scale"])
            for (h, byte, saturated, score, codes), c in zip(tried, wanted["candidates"], strict=True):
                assert (np.float32(h), byte, bool(saturated)) == (np.float32(c["h"]), c["byte"], c["saturated"])
                assert np.float32(score) == np.float32(c["score"]) and [int(d, 16) for d in codes] == c["codes"]


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
    assert "b" not in names and [t for t, _ in tags].count("script") == 2
    assert [a.get("role") for t, a in tags if t == "svg"] == ["img"] * 3  # the figures, none of a name's
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
        ({"x": X[:1]}, ["standard-tensor-fast", "4/6-mse-256-fp16err-tensor-fast"], "too few tokens for an interval"),
    ],
    ids=["zeros", "one recipe", "odd ceilings", "infinite", "one token"],
)
def test_every_sweep_makes_a_report(tensors, recipes, says, tmp_path):
    path = report(sweep(tensors, recipes, engine="reference"), tmp_path / "r.html")
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert says in page.replace('</h1>\n<p class="verdict">', ": ")
    cells = Tags(page).texts.get("td", [])
    assert not {"nan", "inf", "-inf"} & {cell.strip() for cell in cells} and load_report(path).stats


def test_a_recipe_that_no_engine_runs_is_marked_in_every_table():
    names = ["standard", "standard-256", "4/6-mae-300", "4/6-mae-448"]
    page = render(sweep({"x": X}, names, engine="reference"))
    worst, plain = (
        page[page.index('class="worst"') : page.index("What was not measured")],
        page[page.index("<noscript><div") :],
    )
    for name, marked in zip(names, (False, True, True, False), strict=True):
        for table in (worst, plain):
            beside = re.search(rf">{re.escape(name)}( <em class=\"study\" title=\"[^\"]+\">study only</em>)?<", table)
            assert bool(beside[1]) == marked, (name, beside)


def test_a_printed_page_has_a_title_a_date_and_its_maker_above():
    found = sweep({"x": X}, ["standard"], engine="reference")
    found.provenance["sources"] = [{"path": "x", "sha256": "x", "metadata": {"model": 'm</style>"} body{\\'}}]
    page = render(found, "A. Person")
    heads = page[page.index("<style>") : page.index("</style>")]
    left, right = re.findall(r'@top-(?:left|right) \{ content: "([^"]*)"', heads)
    plain = [re.sub(r"\\([0-9a-f]+) ", lambda m: chr(int(m[1], 16)), text) for text in (left, right)]
    assert plain[0].startswith('NVFP4 report: m</style>"} body{\\, 1 tensor')
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC · A\. Person", plain[1])
    assert "counter(page)" in heads


# what the output feels


def _with_kl(sweep, kl):
    """The sweep as if it had been recorded with `sensitivity`: these nats by recipe, on every tensor."""
    stats = {
        t: {n: replace(s, kl=kl[n] * 100, kl_tokens=100) for n, s in row.items()} for t, row in sweep.stats.items()
    }
    return Sweep.of(stats, sweep.recipes, sweep.provenance, sweep.skipped)


def _measured_kl(kl):
    """An Impact of 20 sequences with this KL by recipe."""
    tokens, scatter = np.full(20, 64.0), 1 + 0.01 * np.random.default_rng(0).normal(size=20)
    effects = [
        Effect(n, None, np.stack([tokens, tokens, tokens, 64 * v * scatter, tokens], 1), {}) for n, v in kl.items()
    ]
    return Impact(
        effects, np.arange(20), {n: RECIPES[n] for n in kl}, "activations", provenance={"quantized": "inputs"}
    )


def test_the_head_says_that_the_output_was_not_measured(page):
    assert "Output not measured: nvfp4viz impact MODEL TEXT -o impact.json" in page
    assert "Worst layers by predicted effect" not in page


def test_the_head_joins_tensor_error_predicted_and_measured_kl(measured, tmp_path):
    best = recommend(measured).recipe
    kl = {n: 0.1 if n == best else 0.2 for n in measured.recipes}
    predicted = render(_with_kl(measured, kl))
    standard = recommend(measured).over("SGLang").margin_db
    assert standard > 0 and f"<td>{standard:+.3f}</td><td>0.4</td>" in predicted
    assert "predicted KL, nats a token" in predicted and "Output not measured" in predicted
    assert "Worst layers by predicted effect" in predicted and "measured KL (95 % interval)" not in predicted
    impact = _measured_kl(kl)
    both = report(_with_kl(measured, kl), tmp_path / "r.html", impact=impact).read_text()
    assert "measured KL (95 % interval)" in both and "Output not measured" not in both
    assert "0.0998 (0.0994 to 0.1)" in both
    assert "Measured: inputs; 20 sequences." in both
    assert "+100 % (95 % interval +" in re.sub("<[^>]*>", "", both)
    assert load_report(tmp_path / "r.html").stats.keys() == measured.stats.keys()


def test_a_measured_recipe_counts_whatever_it_is_called(measured):
    """A disagreement does not get lost since impact, or the sweep, has a name of its own for a recipe."""
    best = recommend(measured).recipe
    found = _measured_kl({best: 0.2, "standard": 0.1})
    mine = Impact([replace(e, recipe=f"my {e.recipe}") for e in found.effects], found.sequences,
                  {f"my {n}": r for n, r in found.recipes.items()}, "activations")  # fmt: skip
    verdict = recommend(measured, impact=mine)
    assert verdict.contradicted == "standard" == recommend(measured, impact=found).contradicted
    assert verdict.outlook == recommend(measured, impact=found).outlook
    page = render(measured, impact=mine)
    assert "the measured output standard" in page and "-50 % (95 %" in re.sub("<[^>]*>", "", page).replace("−", "-")
    other = {best: found.recipes["standard"], "s": found.recipes[best]}  # each is called as the sweep calls the other
    swapped = Impact([replace(e, recipe=n) for e, n in zip(found.effects, ("s", best), strict=True)],
                     found.sequences, other, "activations")  # fmt: skip
    assert recommend(measured, impact=swapped).outlook == verdict.outlook


def test_an_impact_without_the_named_recipe_says_so_where_the_output_stands(measured):
    page = render(measured, impact=_measured_kl({"standard": 0.1}))
    best = recommend(measured).recipe
    assert f'<p class="note">What {best} does to the output was not measured: impact has no such recipe.</p>' in page


def test_a_prediction_of_some_inputs_says_of_how_many(measured):
    kl = _with_kl(measured, dict.fromkeys(measured.recipes, 0.1))
    one = measured.tensors[0]
    part = Sweep.of(measured.stats | {one: kl.stats[one]}, measured.recipes)
    inputs = recommend(measured).inputs
    assert f"Predicted KL of the output by 1 of {inputs} inputs: " in recommend(part).sentence()
    assert f"predicted KL of 1 of {inputs} inputs, nats a token" in render(part)
    assert "output by" not in recommend(kl).sentence()


def test_a_measurement_overrules_only_the_predictions_that_it_is_about(measured):
    """Of two recipes that are predicted to do less harm one was measured to do more; the other stands."""
    best = recommend(measured).recipe
    open_ = next(n for n in measured.recipes if n not in (best, "standard"))
    kl = dict.fromkeys(measured.recipes, 0.2) | {"standard": 0.05, open_: 0.1}
    verdict = recommend(_with_kl(measured, kl), impact=_measured_kl({best: 0.1, "standard": 0.2}))
    assert verdict.contradicted == open_


def test_where_the_output_disagrees_nothing_is_recommended_on_tensor_error_alone(measured):
    best = recommend(measured).recipe
    other = next(n for n in measured.recipes if n != best)
    kl = {n: 0.1 if n == other else 0.2 for n in measured.recipes}
    predicted = Tags(render(_with_kl(measured, kl))).texts
    assert not predicted["h1"][0].startswith("Use")
    assert any("tensor error and the predicted KL of the output disagree" in t for t in predicted["p"])
    assert not any("FLASHINFER" in t for t in predicted.get("pre", ()))
    found = Tags(render(measured, impact=_measured_kl(kl))).texts
    assert found["h1"] == [f"Tensor error favours {best}, the measured output {other}"]
    assert f"What to set for {other}" in found["h2"]


def test_all_that_the_advised_variables_change_is_said(page, measured):
    from nvfp4viz.analysis import changes

    best = measured.recipes[recommend(measured).recipe]
    said = changes(Recipe.parse("standard-tensor-fast"), best)
    assert said[:2] == ["one scale a token instead of a tensor", "strict arithmetic instead of the fast one"]
    assert "standard-tensor-fast, this changes: " + "; ".join(said) in html.unescape(page)
    assert changes(best, best) == []


def test_what_these_tokens_cannot_tell_is_no_advice(tmp_path):
    """The settings are there for who wants them; a heading that says to set them would be advice."""
    few = sweep({"a": X[:4], "b": X}, ["standard", "4/6-mse-256"], engine="reference")
    verdict = recommend(few)
    assert not is_decided(verdict) and verdict.sentence().startswith("Too few tokens")
    assert f"on 2 inputs of 4 to {len(X)} tokens" in verdict.sentence()
    page = report(few, tmp_path / "few.html").read_text(encoding="utf-8")
    assert "What to set for" not in page and "What would set" in page


def test_no_line_of_a_heading_ends_within_a_recipe(tmp_path):
    page = report(sweep(X, engine="reference"), tmp_path / "r.html").read_text(encoding="utf-8")
    heading = re.search(r"<h1.*?</h1>", page)[0]
    assert re.search(r'<span class="whole">4/6-m[as]e-(448|256)</span>', heading)


def test_a_tensor_without_a_name_can_be_seen(tmp_path):
    page = report(sweep({"": X, "b": X}, engine="reference"), tmp_path / "r.html").read_text(encoding="utf-8")
    assert '<th scope="row">(no name)</th>' in page and '<td class="text">(no name)</td>' in page


def test_signs_of_numbers_are_minus_signs():
    assert words.explained("interval -0.95 to 2 (-1 dB) 4/6-mae-448 --impact").count("−") == 2
