"""What a newcomer gets wrong, and the way out that the message gives."""

import pytest
import torch
from traitlets import TraitError

import nvfp4viz

X = nvfp4viz.synthetic("normal", 16, 64)
SWEEP = nvfp4viz.sweep(X, ["standard", "4/6-mae-448"], engine="reference")

MISTAKES = {
    "array": (lambda: nvfp4viz.quantize(X.float().numpy(), "standard"), TypeError, "wrap it in torch.as_tensor"),
    "meta": (lambda: nvfp4viz.quantize(X.to("meta"), "standard"), TypeError, "meta device: it has a shape, and no val"),
    "recipe for codes": (lambda: nvfp4viz.measure(X, "standard"), TypeError, "a str: give what quantize returns"),
    "no recipes": (lambda: nvfp4viz.sweep(X, None), TypeError, "recipes is None: give recipes"),
    "list of tensors": (lambda: nvfp4viz.sweep([X]), TypeError, "activations is a list: give one tensor, or a mapping"),
    "nothing": (lambda: nvfp4viz.sweep({}), ValueError, "no tensor could be analysed: there is none"),
    "list of paths": (lambda: nvfp4viz.load(["a.npy"]), TypeError, r"load takes paths, not a list: load\(a, b\)"),
    "activations judged": (lambda: nvfp4viz.recommend({"x": X}), TypeError, "sweep is a dict: give what"),
    "total of no recipe": (lambda: SWEEP.total("4/6"), ValueError, "no recipe '4/6' in the sweep: there is standard"),
    "no model": (lambda: nvfp4viz.record(X).__enter__(), TypeError, "model is a Tensor, not a torch.nn.Module"),
    "odd features": (lambda: nvfp4viz.synthetic("spread", 4, 20), ValueError, "features=20 is not a multiple of 16"),
    "array explored": (lambda: nvfp4viz.explore(X.float().numpy()), TypeError, "cannot explore a ndarray: give a"),
    "misspelt argument": (lambda: nvfp4viz.explore(SWEEP, recipe="standard"), TypeError, "has no argument recipe"),
    "lab's engine": (lambda: nvfp4viz.lab(engine="cpuu"), ValueError, "^unknown engine 'cpuu', did you mean 'cpu'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_gives_the_way_out(mistake):
    call, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        call()


def test_a_widget_that_could_not_be_made_goes_in_silence(capsys, recwarn):
    with pytest.raises(TraitError, match="no tensor 'y'"):
        nvfp4viz.explore({"x": X}, tensor="y")
    assert capsys.readouterr().err == "" and not recwarn.list


def test_results_print_in_a_few_lines():
    assert repr(SWEEP) == "Sweep(1 tensors; recipes standard, 4/6-mae-448; .table() has the numbers)"
    assert len(repr(SWEEP.total("standard"))) < 1000
    assert len(repr(nvfp4viz.choice(X, "4/6-mse-256"))) < 1000


def test_a_model_without_such_modules_names_some_that_it_has():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    with pytest.raises(ValueError, match="fits modules='zzz'; it has, for example, '0'"):
        nvfp4viz.record(model, "zzz").__enter__()


def test_a_report_of_anything_but_a_sweep(tmp_path):
    with pytest.raises(TypeError, match="report takes a Sweep and a path, not a dict"):
        nvfp4viz.report({"a": nvfp4viz.synthetic("normal", 4, 64)}, tmp_path / "a.html")
    assert not list(tmp_path.iterdir())
