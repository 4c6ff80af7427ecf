"""Sequences of stored activations: from the shape, from `lengths`, or from a file's metadata."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from nvfp4viz import RECIPES, analyze, load, recommend, sweep, synthetic
from nvfp4viz.stats import LEVELS

LENGTHS = [30, 50, 20, 40, 35, 45, 25, 55]


def _row(found, tensor="x"):
    return found.stats[tensor]["4/6-mse-256"].run_tokens[LEVELS]


@pytest.fixture
def path(tmp_path):
    x = synthetic("lognormal", 300, 64)
    metadata = {"sequence_lengths": json.dumps(LENGTHS)}
    save_file({"x": x, "other": x[:77].clone()}, tmp_path / "x.safetensors", metadata)
    save_file({"x": x}, tmp_path / "plain.safetensors")
    return tmp_path


def test_a_tensor_of_three_axes_has_its_sequences():
    x = synthetic("lognormal", 300, 64)
    found = sweep(x.reshape(10, 30, 64), engine="cpu", blocks=False)
    assert _row(found, "activations").tolist() == [30] * 10 + [0] * 6
    assert recommend(found).judged_by == "10 sequences"
    assert not _row(sweep(x, engine="cpu", blocks=False), "activations").any()


def test_lengths_are_told_or_in_the_metadata(path):
    told, read = load(path / "plain.safetensors", lengths=LENGTHS), load(path / "x.safetensors")
    assert told.lengths == read.lengths == tuple(LENGTHS) and load(path / "plain.safetensors").lengths is None
    for activations in (told, read):
        found = sweep(activations, engine="cpu", blocks=False)
        assert _row(found).tolist() == LENGTHS + [0] * 8
    assert not _row(found, "other").any()  # 77 tokens are not these
    whole = analyze(synthetic("lognormal", 300, 64), "4/6-mse-256", engine="cpu")
    ours = found.stats["x"]["4/6-mse-256"]
    assert np.array_equal(ours.run_tokens[:LEVELS], whole.run_tokens[:LEVELS]) and ours.n_four == whole.n_four
    assert ours.run_nmse[0] == pytest.approx(whole.run_nmse[0], rel=1e-12)


def test_a_scale_of_the_whole_tensor_is_kept_over_its_sequences(path):
    x = synthetic("spikes", 300, 64)
    save_file({"x": x}, path / "spikes.safetensors")
    told = load(path / "spikes.safetensors", lengths=LENGTHS)
    found = sweep(told, ["4/6-mse-256-tensor"], engine="cpu", blocks=False)
    whole = analyze(x, "4/6-mse-256-tensor", engine="cpu")
    assert np.array_equal(found.stats["x"]["4/6-mse-256-tensor"].scale_histogram, whole.scale_histogram)


@pytest.mark.parametrize("bad", [[], [3, 0], [1.5], ["a"]])
def test_what_are_no_lengths_is_said(path, bad):
    with pytest.raises(ValueError, match="expected the tokens of each sequence"):
        load(path / "plain.safetensors", lengths=bad)


@pytest.mark.parametrize("metadata", ["no json", "[1, -2]", "{}", "[[1]]", "[]", "[true]"])
def test_a_strangers_metadata_is_not_trusted(tmp_path, metadata):
    save_file({"x": synthetic("normal", 4, 64)}, tmp_path / "x.safetensors", {"sequence_lengths": metadata})
    assert load(tmp_path / "x.safetensors").lengths is None


def test_every_column_of_a_typical_token_is_in_the_table():
    table = sweep(synthetic("normal", 32, 64), engine="cpu", blocks=False).table()
    assert list(table["recipe"]) == list(RECIPES)
    assert (10 ** (-table["token_sqnr_db"] / 10)).tolist() == pytest.approx(table["token_nmse"].tolist())
