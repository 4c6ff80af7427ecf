"""The page of a checkpoint, and a checkpoint where activations are shown."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nvfp4viz
from nvfp4viz.checkpoints import against, fit
from nvfp4viz.cli import main
from nvfp4viz.explorer.weights import weights_sweep
from nvfp4viz.pages import report_checkpoint
from nvfp4viz.planning import layer_map
from nvfp4viz.shown import layer_order

DATA = Path(__file__).parents[1] / "checkpoints" / "data"
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def dense():
    return nvfp4viz.checkpoint(DATA / "llama-modelopt")


def test_the_page_has_findings_maps_and_every_matrix(tmp_path, dense):
    s = dense.scales[DOWN]["input"]
    x = torch.randn(32, 128, generator=torch.Generator().manual_seed(1)) * s * 2688
    traffic = fit(dense, {DOWN: x})
    page = report_checkpoint(dense, tmp_path / "c.html", against(dense, DATA / "llama-bf16"), traffic).read_text()
    assert "<h1>1 error</h1>" in page and "error: input clips" in page and "gains" in page
    assert page.count('<figure class="card"') == 4 and "Weights against the original" in page
    assert "as stored (dB)" in page and "headroom" in page and DOWN in page


def test_report_takes_a_checkpoint(tmp_path, dense):
    page = nvfp4viz.report(dense, tmp_path / "c.html", author="A. Uthor").read_text()
    assert "<h1>Nothing to mend</h1>" in page and "by modelopt 0.47.0" in page
    assert f"nvfp4viz {nvfp4viz.__version__}" in page and page.count("UTC · A. Uthor") == 1  # and on paper:
    assert "@top-right" in page
    assert list(dense.matrices) == layer_order(dense.matrices)
    with pytest.raises(TypeError, match="report takes a Sweep"):
        nvfp4viz.report(3, tmp_path / "c.html")


def test_names_of_strangers_are_text(tmp_path):
    evil = "model.layers.0.<img src=x onerror=alert(1)>.down_proj"
    tensors = load_file(DATA / "llama-modelopt" / "model.safetensors")
    renamed = {k.replace("model.layers.0.mlp.down_proj", evil): v for k, v in tensors.items()}
    renamed[f"{evil}.input_scale"] = torch.tensor(-1.0)
    save_file(renamed, tmp_path / "x.safetensors")
    page = report_checkpoint(nvfp4viz.checkpoint(tmp_path / "x.safetensors"), tmp_path / "c.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_the_command_line_writes_it(tmp_path, capsys):
    assert main(["checkpoint", str(DATA / "llama-modelopt"), "-o", str(tmp_path / "c.html")]) == 0
    assert capsys.readouterr().out.endswith("c.html\n") and (tmp_path / "c.html").exists()
    assert main(["checkpoint", str(DATA / "llama-modelopt"), "-o", str(tmp_path / "no" / "c.html")]) == 2


def test_weights_as_a_sweep(tmp_path, dense):
    stored = weights_sweep(dense)
    assert list(stored.recipes) == ["standard-tensor"] and stored.engines == ["checkpoint"]
    bytes_ = load_file(DATA / "llama-modelopt" / "model.safetensors")[f"{DOWN}.weight_scale"].view(torch.uint8)
    histogram = stored.stats[DOWN]["standard-tensor"].scale_histogram.sum(1)
    assert histogram.tolist() == torch.bincount(bytes_.flatten().long(), minlength=127).tolist()
    compared = against(dense, DATA / "llama-bf16")
    sweep = weights_sweep(dense, compared)
    assert list(sweep.recipes) == ["standard-tensor", "4/6-mse-448-tensor", "4/6-mse-256-tensor"]
    assert sweep.stats[DOWN]["standard-tensor"].sqnr_db == compared.sqnr_db(DOWN)["checkpoint"]
    sweep.save(tmp_path / "s.json")
    assert nvfp4viz.Sweep.load(tmp_path / "s.json").stats[DOWN].keys() == sweep.stats[DOWN].keys()
    nvfp4viz.report(sweep, tmp_path / "s.html")


def test_a_matrix_that_decodes_nothing_is_skipped(tmp_path):
    tensors = load_file(DATA / "llama-modelopt" / "model.safetensors")
    tensors[f"{DOWN}.weight_scale_2"] = torch.tensor(0.0)
    save_file(tensors, tmp_path / "x.safetensors")
    sweep = weights_sweep(nvfp4viz.checkpoint(tmp_path / "x.safetensors"))
    assert sweep.skipped == {DOWN: "its scale is 0.0: nothing can be decoded"} and len(sweep.stats) == 20


def test_the_explorer_shows_weights_as_they_are_stored(dense):
    widget = nvfp4viz.explore(dense)
    try:
        assert widget.recipe_a == "standard-tensor" and widget.tensor in dense.matrices
    finally:
        widget.close()


def test_a_map_has_a_cell_a_kind_and_layer(dense):
    values = dense.by_layer({n: s.at_448 for n, s in dense.scans.items()})
    ax = layer_map(values, "share", "Block scales at 448")
    drawn = ax.images[0].get_array()
    assert drawn.shape == (7, 3) and [t.get_text() for t in ax.get_yticklabels()] == list(values)
    assert float(drawn[0, 1]) == values["mlp.down_proj"][1] == dense.scans[DOWN].at_448
    assert ax.get_xlabel() == "layer" and ax.get_title("left") == "Block scales at 448"
    with pytest.raises(ValueError, match="nothing to map"):
        layer_map({}, "share")
    layer_map({"$a_b": {-1: 0.0, 3: 2.0}}, "x", log=True).figure.canvas.draw()  # zeros stay white
