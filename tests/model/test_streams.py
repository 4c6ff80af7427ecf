"""Calls collected and analysed together give what calls one by one give, whoever shares them."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

import nvfp4viz
from nvfp4viz.model import streams

RECIPES = ["standard", "4/6-mae-256"]


class Attention(nn.Module):
    """q, k and v have one tensor, unless `odd`: then k has a copy; where `silent`, v is not called."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.odd = self.silent = False

    def forward(self, x):
        k = self.k(x * 2 if self.odd else x)
        return self.o(torch.tanh(self.q(x) + k + (0 if self.silent else self.v(x))))


def recorded(model, calls, rows, monkeypatch, seek=None, mode=torch.no_grad):
    """Statistics with buffers of so many rows; and how often an engine was asked."""
    monkeypatch.setattr(streams, "ROWS", rows)
    asked = []
    with nvfp4viz.record(model, lambda name, _: name in "qkvo", recipes=RECIPES, engine="reference") as recorder:
        analyze = recorder._analyze
        recorder._streams._analyze = lambda x, *rest: asked.append(len(x)) or analyze(x, *rest)
        with mode():
            for i, (n, odd, silent) in enumerate(calls):
                model.odd, model.silent = odd, silent
                if i == seek:
                    recorder.seek(70_000)
                model(torch.randn(n, 32, generator=torch.Generator().manual_seed(i)))
        found = recorder.sweep().stats
        assert all(recorder.sweep().stats[label] == row for label, row in found.items())  # asked twice, the same
    return found, asked


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for label, row in theirs.items():
        for name, stats in row.items():
            for f in fields(stats):
                a, b = getattr(ours[label][name], f.name), getattr(stats, f.name)
                if isinstance(b, np.ndarray | float):
                    np.testing.assert_allclose(a, b, rtol=1e-12, atol=0, err_msg=f"{label}, {name}: {f.name}")
                else:
                    assert a == b, (label, name, f.name)


SHARED = [(n, False, False) for n in (3, 1, 1, 40, 1, 1)]
PARTED = [
    (3, False, False),
    (1, False, False),
    (1, True, False),
    (40, True, False),
    (1, False, False),
    (2, False, True),
]
SILENT = [(5, False, False), (1, False, True), (1, False, False), (50, False, True), (1, False, False)]
FIRST = [(2, True, True), (1, False, False), (60, False, False), (60, True, False)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("calls", [SHARED, PARTED, SILENT, FIRST])
@pytest.mark.parametrize("seek", [None, 3])
def test_collected_calls_equal_calls_one_by_one(calls, seek, mode, monkeypatch):
    model = Attention()
    alone, _ = recorded(model, calls, 0, monkeypatch, seek, mode)
    for rows in (16, 64):
        together, _ = recorded(model, calls, rows, monkeypatch, seek, mode)
        assert_same(together, alone)


def test_rows_of_several_sequences_keep_theirs(monkeypatch):
    """A batch of prompts, then steps of a few tokens each, which go on with the last sequence."""
    model = nn.Sequential(nn.Linear(32, 32))
    found = []
    for rows in (0, 64):
        monkeypatch.setattr(streams, "ROWS", rows)
        with torch.no_grad(), nvfp4viz.record(model, recipes=RECIPES, engine="reference") as recorder:
            for i, shape in enumerate(
                [(2, 40, 32), (1, 30, 32), (1, 1, 32), (1, 3, 32), (2, 20, 32), (2, 1, 32), (1, 15, 32)]
            ):
                model(torch.randn(shape, generator=torch.Generator().manual_seed(i)))
        found.append(recorder.sweep().stats)
    assert_same(*found)
    assert found[0]["0"]["standard"].run_tokens[-1].tolist() == [40, 40, 34, 20, 20 + 2 + 15] + [0] * 11


def test_steps_of_a_few_tokens_are_no_sequences():
    """As one token, or four of them, a call: neighbours of one text, of which runs are judged."""
    for step in (1, 4):
        model = nn.Sequential(nn.Linear(32, 32))
        with torch.no_grad(), nvfp4viz.record(model, recipes=RECIPES) as recorder:
            for i in range(128):
                model(torch.randn((1, step, 32), generator=torch.Generator().manual_seed(i)))
        assert nvfp4viz.recommend(recorder.sweep()).judged_by == f"8 runs of {16 * step} tokens"


def test_decode_asks_an_engine_once_a_buffer_and_shares_it(monkeypatch):
    model, steps = Attention(), [(1, False, False)] * 40
    _, asked = recorded(model, steps, 16, monkeypatch)
    assert sorted(asked) == sorted([16, 16, 8] * 2)  # of q, k and v together, and of o


def test_buffers_are_bounded(monkeypatch):
    monkeypatch.setattr(streams, "BUDGET", 16 * 32 * 4)  # one buffer's
    _, asked = recorded(Attention(), [(1, False, False)] * 16, 16, monkeypatch)
    assert sorted(asked) == [1] * 16 + [16]


def test_a_scale_of_each_calls_own_amax_is_not_shared_between_calls(monkeypatch):
    monkeypatch.setattr(streams, "ROWS", 64)
    model, x = nn.Sequential(nn.Linear(32, 32)), [torch.randn(2, 32), 50 * torch.randn(2, 32)]
    with torch.no_grad(), nvfp4viz.record(model, recipes=["standard-tensor"], engine="reference") as recorder:
        for part in x:
            model(part)
    apart = [nvfp4viz.analyze(part, "standard-tensor", engine="reference") for part in x]
    found = recorder.sweep().stats["0"]["standard-tensor"]
    assert found.err_sq == pytest.approx(sum(s.err_sq for s in apart), rel=1e-12)
