"""Sweeps: every tensor under every recipe, what is skipped, the table, saving, loading and adding."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nvfp4viz import RECIPES, Recipe, Stats, Sweep, analyze, load, sweep, synthetic

COLUMNS = ["tensor", "recipe", "engine", "tokens", "features", "sqnr_db", "nmse", "mse", "mae", "max_error", "cosine",
           "four_rate", "four_saturated", "scale_saturated", "element_clipped", "scale_subnormal", "scale_zero",
           "element_flushed"]  # fmt: skip
X = synthetic("lognormal", 8, 64)


def _sweep(activations, recipes=RECIPES, **more) -> Sweep:
    return sweep(activations, recipes, engine="reference", **more)


@pytest.fixture(scope="module")
def two() -> Sweep:
    return _sweep({"layers.0.mlp": X, "layers.1.mlp": synthetic("spikes", 4, 32)})


def test_a_row_a_tensor_and_recipe_in_their_order(two):
    table = two.table()
    assert list(table.columns)[: len(COLUMNS)] == COLUMNS
    assert list(table["tensor"]) == ["layers.0.mlp"] * 5 + ["layers.1.mlp"] * 5
    assert list(table["recipe"]) == [*RECIPES, *RECIPES]
    assert set(table["engine"]) == {"reference"} and two.engines == ["reference"]
    assert list(table["tokens"]) == [8] * 5 + [4] * 5 and list(table["features"]) == [64] * 5 + [32] * 5
    for _, row in table.iterrows():
        stats = two.stats[row["tensor"]][row["recipe"]]
        assert all(row[c] == getattr(stats, c) for c in COLUMNS[5:])
    assert two.stats["layers.0.mlp"]["4/6-mse-256"] == analyze(X, "4/6-mse-256", engine="reference")


def test_the_total_is_of_all_tensors(two):
    total = two.total("standard")
    assert total.tokens == 12 and total.elements == 8 * 64 + 4 * 32 and total.features == 0


def test_a_tensor_alone_and_recipes_by_name():
    s = _sweep(X, ["4/6-mae-320", "standard-tensor"])
    assert s.tensors == ["activations"] and list(s.recipes) == ["4/6-mae-320", "standard-tensor"]
    assert _sweep(X, {"mine": Recipe()}).stats["activations"]["mine"].recipe == Recipe()
    assert list(_sweep(X, "standard").recipes) == ["standard"]


def test_what_cannot_be_quantized_is_skipped_with_the_reason():
    bad = X.clone()
    bad[2, 3] = float("nan")
    s = _sweep({"good": X, "nan": bad, "odd": X[:, :30], "int": X.int(), "numpy": X.float().numpy(), "none": None,
                "empty": X[:0], "sparse": X.to_sparse(), 7: X})  # fmt: skip
    assert s.tensors == ["7", "empty", "good", "numpy"]
    assert list(s.skipped) == ["nan", "odd", "int", "none", "sparse"]
    assert "1 NaN and 0 Inf, the first at x[2, 3]" in s.skipped["nan"]
    assert "K=30" in s.skipped["odd"] and "int32" in s.skipped["int"] and "a NoneType" in s.skipped["none"]
    json.dumps(s.to_dict(), allow_nan=False)


@pytest.mark.parametrize("activations", [{}, {"a": X[:, :30]}])
def test_a_sweep_of_nothing_is_an_error(activations):
    with pytest.raises(ValueError, match=r"no tensor could be analysed"):
        _sweep(activations)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"activations": [X]}, TypeError, "activations is a list: give one tensor or array"),
        ({"activations": None}, TypeError, "activations is a NoneType"),
        ({"activations": X, "recipes": []}, ValueError, "no recipe given: the named ones are standard"),
        ({"activations": X, "recipes": ["4/6-mse-226x"]}, ValueError, "unknown recipe '4/6-mse-226x', did you mean"),
        ({"activations": X, "engine": "cpuu"}, ValueError, r"unknown engine 'cpuu', did you mean 'cpu'"),
        ({"activations": {}, "engine": "cpuu"}, ValueError, r"unknown engine 'cpuu'"),
    ],
)
def test_mistakes_of_the_caller_are_said_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        sweep(**arguments)


def test_progress_counts_up_to_the_end():
    seen = []
    _sweep({"a": X, "b": X[:, :30], 3: X}, progress=lambda *now: seen.append(now))
    assert seen == [(0, 3, "a"), (1, 3, "b"), (2, 3, "3"), (3, 3, "")]


def test_an_interrupt_keeps_what_is_done():
    class Interrupted(dict):
        def __getitem__(self, name):
            if name == "b":
                raise KeyboardInterrupt
            return super().__getitem__(name)

    with pytest.warns(UserWarning, match="interrupted: 1 of 3 tensors"):
        s = _sweep(Interrupted(a=X, b=X, c=X))
    assert s.tensors == ["a"] and s.provenance["interrupted"]
    assert not _sweep(X).provenance["interrupted"]


def test_provenance_repeats_the_run(tmp_path):
    np.save(tmp_path / "x.npy", X.float().numpy())
    s = _sweep(load(tmp_path / "x.npy"), "standard")
    assert s.provenance["versions"]["torch"] == torch.__version__
    assert {"nvfp4viz", "python", "platform", "numpy", "flashinfer-python"} <= set(s.provenance["versions"])
    (source,) = s.provenance["sources"]
    assert source["path"] == str(tmp_path / "x.npy") and len(source["sha256"]) == 64
    assert isinstance(s.provenance["command"], list)


def test_json_gives_the_same_sweep_back(two, tmp_path):
    s = _sweep({"zeros": torch.zeros(4, 16), "nan": X * torch.nan, "largest": torch.full((20, 16), 3.38e38).bfloat16(),
                "</script>\x00\u202e\ud800": X}, ["standard", "4/6-mae-250"])  # fmt: skip
    for one in (two, s):
        one.save(tmp_path / "s.json")
        back = Sweep.load(str(tmp_path / "s.json"))
        assert (back.stats, back.recipes, back.provenance, back.skipped) == (
            one.stats, one.recipes, one.provenance, one.skipped,
        )  # fmt: skip
        assert list(back.recipes) == list(one.recipes) and back.tensors == one.tensors
    assert s.stats["zeros"]["standard"].sqnr_db == math.inf


@pytest.mark.parametrize("suffix, read", [(".csv", pd.read_csv), (".parquet", pd.read_parquet), (".CSV", pd.read_csv)])
def test_tables_are_saved_to_the_last_digit(two, tmp_path, suffix, read):
    path = tmp_path / f"t{suffix}"
    two.save(path)
    pd.testing.assert_frame_equal(read(path), two.table(), check_exact=False, rtol=1e-15, check_dtype=False)


def test_infinite_values_survive_in_tables(tmp_path):
    s = _sweep(torch.zeros(2, 16), "standard")
    for name, read in (("t.csv", pd.read_csv), ("t.parquet", pd.read_parquet)):
        s.save(tmp_path / name)
        assert read(tmp_path / name)["sqnr_db"][0] == math.inf


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.json.gz"])
def test_other_formats_are_refused(two, tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot save as .*use .json \(everything\), .csv or .parquet"):
        two.save(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["t.json", "t.csv", "t.parquet"])
def test_nothing_half_written_stays(two, tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text("old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=f"cannot write '.*{name}': No space left on device; nothing was changed"):
        two.save(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == [name]
    with pytest.raises(FileNotFoundError, match=r"folder '.*none' does not exist"):
        two.save(tmp_path / "none" / name)


def _edited(two, edit) -> str:
    values = two.to_dict()
    edit(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda v: v.update(format="nvfp4viz-sweep-0"), "format is 'nvfp4viz-sweep-0', expected"),
        (lambda v: v.pop("stats"), "'stats'"),
        (lambda v: v["stats"]["layers.0.mlp"].pop("standard"), "'layers.0.mlp' has statistics of"),
        (lambda v: v["stats"]["layers.0.mlp"]["standard"].pop("n_four"), "n_four"),
        (lambda v: v["stats"].update(a=[1]), "'a' has statistics of|list"),
        (lambda v: v["recipes"]["standard"].update(e4m3_max=500), "e4m3_max=500"),
        (lambda v: v.update(stats=None), "None"),
    ],
)
def test_what_was_edited_out_of_shape_is_refused(two, tmp_path, edit, message):
    path = tmp_path / "s.json"
    path.write_text(_edited(two, edit))
    with pytest.raises(ValueError, match=r"cannot read the sweep '.*s\.json': ") as raised:
        Sweep.load(path)
    assert any(m in str(raised.value) for m in message.split("|"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\xff\x00", '{"format": 1}'])
def test_what_is_no_sweep_is_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"cannot read the sweep '.*s\.json'"):
        Sweep.load(path)
    path.write_text(json.dumps(_sweep(X, "standard").to_dict())[:-100])
    with pytest.raises(ValueError, match="cannot read the sweep"):
        Sweep.load(path)


def test_sweeps_add(two):
    other = _sweep({"layers.1.mlp": synthetic("spikes", 6, 32), "layers.2.mlp": X, "odd": X[:, :5]})
    both = two + other
    assert both.tensors == ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"]
    assert both.stats["layers.1.mlp"]["standard"].tokens == 10
    added = two.stats["layers.1.mlp"]["4/6-mae-256"] + other.stats["layers.1.mlp"]["4/6-mae-256"]
    assert both.stats["layers.1.mlp"]["4/6-mae-256"] == added
    assert both.skipped == other.skipped and list(both.recipes) == list(RECIPES)
    assert two.stats["layers.1.mlp"]["standard"].tokens == 4  # the parts stay


def test_sweeps_of_sources_name_all_of_them(tmp_path):
    parts = []
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", X.float().numpy())
        parts.append(_sweep(load(tmp_path / f"{name}.npy"), "standard"))
    both = parts[0] + parts[1]
    assert [Path(s["path"]).name for s in both.provenance["sources"]] == ["a.npy", "b.npy"]
    assert both.tensors == ["a", "b"]


def test_only_sweeps_of_the_same_recipes_add(two):
    with pytest.raises(ValueError, match=r"different recipes do not add"):
        two + _sweep(X, "standard")
    with pytest.raises(TypeError):
        two + 1


def test_a_sweep_reads_each_tensor_once_and_lets_it_go():
    class Counting(dict):
        reads = 0

        def __getitem__(self, name):
            Counting.reads += 1
            return super().__getitem__(name)

    s = _sweep(Counting(a=X, b=X))
    assert Counting.reads == 2
    assert all(isinstance(v, Stats) for row in s.stats.values() for v in row.values())


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1 << 70, math.nan, None, "", [], {}, "[" * 9], ids=str)
@pytest.mark.parametrize("field", ["tokens", "code_histogram", "features"])
def test_a_sweep_with_what_is_no_count_is_refused(two, field, value, tmp_path):
    values = two.to_dict()
    row = values["stats"]["layers.0.mlp"]["standard"]
    row[field] = [value, *row[field][1:]] if isinstance(row[field], list) else value
    (tmp_path / "s.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"^cannot read the sweep .*s\.json'"):
        Sweep.load(tmp_path / "s.json")


def test_a_sweep_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "s.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"^cannot read the sweep .*s\.json'"):
        Sweep.load(tmp_path / "s.json")


@pytest.mark.parametrize(
    "place, value",
    [
        (["provenance"], 3), (["provenance", "sources"], 1), (["provenance", "sources"], [{"path": 1}]),
        (["provenance", "versions"], []), (["provenance", "command"], "x"), (["skipped"], []), (["skipped"], {"a": 1}),
        (["blocks"], {"other": {"picks": {}, "blocks": {}}}), (["blocks", "layers.0.mlp"], {}), (["blocks"], 1),
        (["blocks", "layers.0.mlp", "blocks"], {"0,0": {"values": [1], "token_amax": 1, "tensor_amax": 1}}),
        (["blocks", "layers.0.mlp", "blocks"], {"0,0": {"values": ["1"] * 16, "token_amax": 1, "tensor_amax": 1}}),
        (["attributions"], {"layers.0.mlp": {}}), (["stats", "layers.0.mlp"], {}), (["recipes"], {}),
    ],
    ids=str,
)  # fmt: skip
def test_a_sweep_whose_parts_do_not_fit_is_refused(two, place, value, tmp_path):
    values = json.loads(json.dumps(two.to_dict()))
    node = values
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    (tmp_path / "s.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"^cannot read the sweep .*s\.json'"):
        Sweep.load(tmp_path / "s.json")


def test_tensors_are_listed_by_layer_and_in_the_order_of_the_computation():
    """In tables, figures and pages alike: a reader looks for a tensor where the one before stood."""
    names = ["h.0.q_proj", "h.0.o_proj", "h.0.gate_up", "h.0.down", "h.2.down", "h.10.down", "lm_head"]
    s = _sweep(dict.fromkeys(sorted(names), X), ["standard"])
    assert s.tensors == names and list(s.table()["tensor"]) == names
    assert Sweep.from_dict(s.to_dict()).tensors == names and (s + s).tensors == names
