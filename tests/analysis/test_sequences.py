"""Sequences of stored activations: from the shape, from `lengths`, or from a file's metadata."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nvfp4viz import RECIPES, analyze, load, recommend, sweep, synthetic
from nvfp4viz.analysis import margin_interval
from nvfp4viz.analysis.sequences import SHORTEST_SEQUENCE, analyze_sequences, with_sequences
from nvfp4viz.engine import analyze_all
from nvfp4viz.nvfp4 import Tokens
from nvfp4viz.stats import LEVELS

LENGTHS = [30, 50, 20, 40, 35, 45, 25, 55]

PAIR = [RECIPES["4/6-mse-256"], RECIPES["standard"]]


def _row(found, tensor="x"):
    return found.stats[tensor]["4/6-mse-256"].run_tokens[LEVELS]


@pytest.fixture
def path(tmp_path):
    x = synthetic("lognormal", sum(LENGTHS), 64)
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
        with warnings.catch_warnings(record=True) as said:
            found = sweep(activations, engine="cpu", blocks=False)
        others = "lengths add up to 300 tokens, and there are tensors of another number: intervals of these"
        assert len(said) == len(activations) - 1 and all(str(w.message).startswith(others) for w in said)
        assert _row(found).tolist() == LENGTHS + [0] * 8
    assert not _row(found, "other").any()  # 77 tokens are not these
    whole = analyze(synthetic("lognormal", sum(LENGTHS), 64), "4/6-mse-256", engine="cpu")
    ours = found.stats["x"]["4/6-mse-256"]
    assert np.array_equal(ours.run_tokens[:LEVELS], whole.run_tokens[:LEVELS]) and ours.n_four == whole.n_four
    assert ours.run_nmse[0] == pytest.approx(whole.run_nmse[0], rel=1e-12)


def test_a_scale_of_the_whole_tensor_is_kept_over_its_sequences(path):
    x = synthetic("spikes", sum(LENGTHS), 64)
    save_file({"x": x}, path / "spikes.safetensors")
    told = load(path / "spikes.safetensors", lengths=LENGTHS)
    found = sweep(told, ["4/6-mse-256-tensor"], engine="cpu", blocks=False)
    whole = analyze(x, "4/6-mse-256-tensor", engine="cpu")
    assert np.array_equal(found.stats["x"]["4/6-mse-256-tensor"].scale_histogram, whole.scale_histogram)


def _passages(rng, n, first=0):
    """float32 [n, 64]: a text whose passages of 64 tokens are alike in themselves, and unlike each other."""
    sigma = np.repeat(rng.uniform(0.1, 2.0, -(-(n + first) // 64)), 64)[first : first + n, None]
    return torch.as_tensor(np.exp(sigma * rng.standard_normal((n, 64))), dtype=torch.float32)


@pytest.mark.parametrize("length", [1, 4, 16, 64, 127])
def test_neighbours_in_a_text_are_no_sequences(length):
    """Told as sequences of some tokens, or in a third axis, a text gets intervals no narrower than by its runs."""
    rng, held, texts = np.random.default_rng(0), 0, 200
    truth = margin_interval(*([s] for s in analyze_all(_passages(rng, 256000), PAIR, engine="cpu")))[0]
    for _ in range(texts):
        n = 1016 // length * length
        x = _passages(rng, n, int(rng.integers(64)))
        rows = analyze_sequences(Tokens.of(x), PAIR, "cpu", [length] * (n // length))
        axes = analyze_sequences(with_sequences(x.reshape(-1, length, 64)), PAIR, "cpu")
        plain = analyze_all(x, PAIR, engine="cpu")
        assert rows == axes and (rows == plain) == (length < SHORTEST_SEQUENCE)
        low, high = margin_interval(*([s] for s in rows))[1]
        held += low <= truth <= high
    assert held >= 0.95 * texts


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
