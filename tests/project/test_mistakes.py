"""What a newcomer gets wrong, and the way out that the message gives."""

import warnings

import numpy as np
import pytest
import torch
from traitlets import TraitError

import nvfp4viz
from nvfp4viz import plots
from nvfp4viz.analysis import attribute_all, block_at, inspect_block

X = nvfp4viz.synthetic("normal", 16, 64)
IDS = torch.zeros(2, 4, dtype=torch.int64)
MODEL = torch.nn.Sequential(torch.nn.Embedding(8, 16), torch.nn.Linear(16, 8)).eval()
SWEEP = nvfp4viz.sweep(X, ["standard", "4/6-mae-448"], engine="reference")

FP4 = torch.zeros(4, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
with warnings.catch_warnings(action="ignore"):
    NESTED = torch.nested.nested_tensor([torch.randn(3, 64), torch.randn(5, 64)])

MISTAKES = {
    "numbers": (lambda: nvfp4viz.quantize([[1.0] * 16], "standard"), TypeError, "a list, not a torch.*as_tensor"),
    "mapping for one": (lambda: nvfp4viz.analyze({"q": X}, "standard"), TypeError, r"sweep takes a mapping.*x\['q'\]"),
    "no such path": (lambda: nvfp4viz.quantize("x.npy", "standard"), FileNotFoundError, "x.npy"),
    "name for a model": (lambda: nvfp4viz.record("m").__enter__(), TypeError, "model is a str.*give the loaded model"),
    "batches for names": (lambda: nvfp4viz.record(MODEL, [IDS]), TypeError, "modules holds a Tensor.*name patterns"),
    "one-word texts": (lambda: nvfp4viz.impact(MODEL, [IDS[:, :1]]), ValueError, "no token is predicted.*T at"),
    "texts for tokens": (lambda: nvfp4viz.impact(MODEL, ["one"]), TypeError, "batch is a str.*token ids"),
    "fp8 to explore": (lambda: nvfp4viz.sweep(X.to(torch.float8_e4m3fn)), ValueError, "FP8 is quantized already"),
    "no CUDA": (lambda: nvfp4viz.explore(X, engine="cuda"), RuntimeError, "engine 'cuda' cannot run here"),
    "path and sweep swapped": (lambda: nvfp4viz.report("a.html", SWEEP), TypeError, "path is a Sweep.*in this order"),
    "fp8": (lambda: nvfp4viz.analyze(X.to(torch.float8_e4m3fn), "standard"), TypeError, "FP8 is quantized already"),
    "packed": (lambda: nvfp4viz.analyze(FP4, "standard"), TypeError, "Quantized.from_flashinfer"),
    "doubles": (lambda: nvfp4viz.analyze(X.double(), "standard"), TypeError, r"convert with x.to"),
    "nested": (lambda: nvfp4viz.analyze(NESTED, "standard"), TypeError, "nested tensor.*torch.cat"),
    "no such numbers": (lambda: nvfp4viz.analyze(np.zeros((4, 16), "V2"), "standard"), TypeError, "ml_dtypes.bfloat16"),
    "meta": (lambda: nvfp4viz.quantize(X.to("meta"), "standard"), TypeError, "meta device: it has a shape, and no val"),
    "recipe for codes": (lambda: nvfp4viz.measure(X, "standard"), TypeError, "a str: give what quantize returns"),
    "no recipes": (lambda: nvfp4viz.sweep(X, None), TypeError, "recipes is None: give recipes"),
    "list of tensors": (lambda: nvfp4viz.sweep([X]), TypeError, "activations is a list: give one tensor or array"),
    "nothing": (lambda: nvfp4viz.sweep({}), ValueError, "no tensor could be analysed: there is none"),
    "list of paths": (lambda: nvfp4viz.load(["a.npy"]), TypeError, r"load takes paths, not a list: load\(a, b\)"),
    "activations judged": (lambda: nvfp4viz.recommend({"x": X}), TypeError, "sweep is a dict: give what"),
    "total of no recipe": (lambda: SWEEP.total("4/6"), ValueError, "no recipe '4/6' in the sweep: there is standard"),
    "no model": (lambda: nvfp4viz.record(X).__enter__(), TypeError, "model is a Tensor, not a torch.nn.Module"),
    "odd features": (lambda: nvfp4viz.synthetic("spread", 4, 20), ValueError, "features=20 is not a multiple of 16"),
    "engine that cannot run": (lambda: nvfp4viz.explore(X, engine="flashinfer"), RuntimeError, "cannot run here"),
    "engine that cannot sweep": (lambda: nvfp4viz.sweep(X, engine="flashinfer"), RuntimeError, "cannot run here"),
    "misspelt argument": (lambda: nvfp4viz.explore(SWEEP, recipe="standard"), TypeError, "has no argument recipe"),
    "doubles of NumPy": (lambda: nvfp4viz.analyze(np.zeros((4, 16)), "standard"), TypeError, r"x\.astype\('float32'\)"),
    "a sweep for a report": (lambda: nvfp4viz.load_report(SWEEP), TypeError, "takes a report's path, not a Sweep"),
    "several recipes": (lambda: nvfp4viz.analyze(X, ["standard"]), ValueError, "unknown recipe of type list: the"),
    "engine in capitals": (lambda: nvfp4viz.sweep(X, engine="CPU"), ValueError, "'CPU', did you mean 'cpu'"),
    "tokens below 0": (lambda: nvfp4viz.synthetic("normal", -1), ValueError, "tokens=-1 is negative"),
    "a seed of letters": (lambda: nvfp4viz.synthetic("normal", seed="a"), TypeError, "seed='a' is no whole number"),
    "one ceiling": (lambda: nvfp4viz.ceiling_dial(X, values=448), TypeError, "values=448: give ceilings in"),
    "no ceiling": (lambda: nvfp4viz.ceiling_dial(X, values=()), ValueError, "give ceilings in"),
    "one factor": (lambda: nvfp4viz.static_scale_curve(X, factors=2), TypeError, "factors=2: give positive numbers"),
    "a factor of 0": (lambda: nvfp4viz.static_scale_curve(X, factors=(0,)), ValueError, "give positive numbers"),
    "one batch": (lambda: nvfp4viz.impact(MODEL, IDS), TypeError, r"one batch: give a list of batches, \[batches\]"),
    "model and batches swapped": (lambda: nvfp4viz.impact([IDS], MODEL), TypeError, "model is a list, not a torch"),
    "tensors for recordings": (lambda: nvfp4viz.drift_between([X], [X]), TypeError, "a list: give one tensor or array"),
    "other shapes": (lambda: nvfp4viz.drift_between({0: X}, {0: X[:3]}), ValueError, r"0: it is \[16, 64\] in one"),
    "all tensors' statistics": (lambda: plots.nmse_distribution(SWEEP.stats), TypeError, "such as sweep.stats"),
    "a sweep for pairs": (lambda: plots.gains(SWEEP), TypeError, "a list of pairs"),
    "a tensor for a block": (lambda: plots.block_close_up(X), TypeError, "inspect_block returns"),
    "a tensor to inspect": (lambda: inspect_block(X, 1.0, "standard"), ValueError, r"not of shape \[16, 64\]"),
    "letters to inspect": (lambda: inspect_block(["a"] * 16, 1.0, "standard"), ValueError, "16 finite numbers"),
    "amax below 0": (lambda: inspect_block([1.0] * 16, -1.0, "standard"), ValueError, "amax=-1.0 is not a finite magn"),
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
    assert repr(SWEEP) == "Sweep(1 tensor; recipes standard, 4/6-mae-448; .table() has the numbers)"
    assert len(repr(SWEEP.total("standard"))) < 1000
    assert len(repr(nvfp4viz.choice(X, "4/6-mse-256"))) < 1000


def test_a_model_without_such_modules_names_some_that_it_has():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    with pytest.raises(ValueError, match="fits modules='zzz'; it has, for example, '0'"):
        nvfp4viz.record(model, "zzz").__enter__()


def test_a_report_of_what_is_no_activations_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match="activations is a list: give one tensor"):
        nvfp4viz.report([1, 2], tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_arrays_paths_and_numbered_layers_are_taken_everywhere(tmp_path):
    array = X.float().numpy()
    one = nvfp4viz.analyze(X.float(), "4/6-mae-448", engine="reference")
    assert nvfp4viz.analyze(array, "4/6-mae-448", engine="reference") == one
    np.save(tmp_path / "x.npy", array)
    for source in ({0: array}, array, tmp_path / "x.npy", str(tmp_path / "x.npy"), {0: X.float()}):
        (row,) = nvfp4viz.sweep(source, ["4/6-mae-448"], engine="reference").stats.values()
        assert row["4/6-mae-448"] == one
        widget = nvfp4viz.explore(source, ["4/6-mae-448"], engine="reference").wait(60)
        assert widget.stats_a == one
        widget.close()
    q = nvfp4viz.quantize(array, "standard")
    assert nvfp4viz.measure(array, q) == nvfp4viz.measure(X.float(), q)
    for source in (array, tmp_path / "x.npy", str(tmp_path / "x.npy")):
        for function in ONE_TENSOR:
            assert function(source) == function(X.float())
        assert nvfp4viz.quantize(source, "standard").codes.equal(q.codes) and nvfp4viz.measure(source, q)
        nvfp4viz.report(source, tmp_path / "r.html")
        assert nvfp4viz.load_report(tmp_path / "r.html").stats
    nvfp4viz.sweep({3: array}).save(tmp_path / "s.json")
    nvfp4viz.report(tmp_path / "s.json", tmp_path / "r.html")
    assert nvfp4viz.load_report(tmp_path / "r.html").tensors == ["3"]


ONE_TENSOR = (
    lambda x: nvfp4viz.analyze(x, "4/6-mae-448", engine="reference"),
    lambda x: nvfp4viz.attribute(x, "4/6-mae-448"),
    lambda x: nvfp4viz.choice(x, "4/6-mae-448"),
    lambda x: nvfp4viz.agreement(x, "4/6-mae-448", "4/6-mse-448"),
    lambda x: nvfp4viz.ceiling_dial(x, values=(448,)),
    lambda x: nvfp4viz.static_scale_curve(x, factors=(1, 2)),
)


def test_results_are_no_activations_and_the_message_says_who_reads_them(tmp_path):
    nvfp4viz.report(SWEEP, tmp_path / "r.html")
    SWEEP.save(tmp_path / "s.json")
    with pytest.raises(ValueError, match=r"nvfp4viz.load_report\(path\) returns the Sweep"):
        nvfp4viz.explore(tmp_path / "r.html")
    with pytest.raises(ValueError, match=r"nvfp4viz.Sweep.load\(path\) returns the Sweep"):
        nvfp4viz.sweep(tmp_path / "s.json")
    with pytest.raises(ValueError, match=r"no JSON as save writes it.*nvfp4viz.load_report\(path\) returns the Sweep"):
        nvfp4viz.Sweep.load(tmp_path / "r.html")
    np.save(tmp_path / "x.npy", X.float().numpy())
    with pytest.raises(ValueError, match=r"cannot read the sweep .*x\.npy': it is no JSON as save writes it"):
        nvfp4viz.Sweep.load(tmp_path / "x.npy")
    nvfp4viz.report(SWEEP, tmp_path / "r.html", author=7)


def test_recipes_by_name_and_recordings_by_path_are_taken(tmp_path):
    assert block_at(X, 1, 2, "standard") == block_at(X, 1, 2, nvfp4viz.Recipe())
    assert attribute_all(X, ["standard"]) == [nvfp4viz.attribute(X, "standard")]
    np.save(tmp_path / "x.npy", X.float().numpy())
    assert nvfp4viz.drift_between(tmp_path / "x.npy", str(tmp_path / "x.npy")).layers == ["x"]
    assert nvfp4viz.drift_between({0: X}, {"0": X}).layers == ["0"]


def test_a_file_of_several_tensors_is_not_one(tmp_path):
    np.savez(tmp_path / "x.npz", a=X.float().numpy(), b=X.float().numpy())
    with pytest.raises(ValueError, match=r"x.npz' holds 2 tensors: give one, load\(path\)\['a'\]"):
        nvfp4viz.analyze(tmp_path / "x.npz", "standard")


def test_one_odd_tensor_costs_only_itself():
    found = nvfp4viz.sweep({"a": X, "ragged": NESTED, 7: X.bool(), "none": None}, ["standard"], engine="reference")
    assert found.tensors == ["a"] and set(found.skipped) == {"ragged", "7", "none"}
    assert "nested" in found.skipped["ragged"] and "NoneType" in found.skipped["none"]


def test_what_a_file_holds_besides_is_skipped_by_name(tmp_path):
    torch.save({"x": X, "ids": torch.arange(3), "w": X.to(torch.float8_e4m3fn)}, tmp_path / "x.pt")
    found = nvfp4viz.sweep(tmp_path / "x.pt", ["standard"], engine="reference")
    assert found.tensors == ["x"] and set(found.skipped) == {"ids", "w"} and "FP8" in found.skipped["w"]
