"""Figures of plan and drift: their labels and data."""

import types

import numpy as np
import pytest

from nvfp4viz import planning

POINTS = [
    types.SimpleNamespace(bits=b, kl=k, kl_low=k / 2, kl_high=2 * k, other_kl=o, kept=("x",) * n)
    for b, k, o, n in ((4.5, 0.4, 0.5, 0), (6.0, 0.1, 0.2, 1), (16.0, 0.0, 0.0, 3))
]


def test_a_frontier_names_its_knee_and_its_unit():
    ax = planning.frontier(POINTS, 1, "keeping")
    assert ax.get_xlabel() == "bits a weight" and ax.get_ylabel() == "KL, nats a token"
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.4, 0.1, 0.0], [0.5, 0.2, 0.0]]
    assert [t.get_text() for t in ax.texts] == ["knee: 1 kept, 6.00 bits"]
    assert len(ax.get_legend().get_texts()) == 3
    with pytest.raises(ValueError, match="no point to draw"):
        planning.frontier([])


def test_a_frontier_without_intervals_and_other_text_has_one_line():
    bare = [
        types.SimpleNamespace(**vars(p) | {"kl_low": np.nan, "kl_high": np.nan, "other_kl": np.nan}) for p in POINTS
    ]
    ax = planning.frontier(bare)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["KL on the text it was chosen on"]


def test_a_drift_map_leaves_what_is_not_finite_white():
    ax = planning.drift_map(np.array([[30.0, np.inf], [20.0, np.nan]]), ["model.layers.0", "a$b"])
    assert np.isnan(ax.images[0].get_array().filled(np.nan)).sum() == 2 and ax.get_xlabel() == "token"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["layers.0", r"a\$b"]
    with pytest.raises(ValueError, match=r"is not \[layers, tokens\] of 3 layers"):
        planning.drift_map(np.zeros((2, 2)), ["a", "b", "c"])


def test_drift_by_layer_draws_what_was_measured():
    names = [f"layers.{i}" for i in range(60)]
    ax = planning.drift_by_layer(np.arange(60.0), names, floor=np.full(60, 50.0), leaves="layers.0")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["floor: bf16 against fp32", "all before it, too"]
    assert len(ax.get_xticklabels()) <= 24 and "leaves the floor: layers.0" in [t.get_text() for t in ax.texts]
