"""`drift`: error power by layer and token, against plain formulas; two recordings; and the change of the output."""

import numpy as np
import pytest
import torch
from small_model import ids, small_model

import nvfp4viz
from nvfp4viz.planning import Drift

BATCHES = [ids(2, 10), ids(1, 7, seed=2)]


@pytest.fixture(scope="module")
def found():
    return nvfp4viz.drift(small_model(), BATCHES, "standard", decode=lambda t: "".join(chr(97 + i % 26) for i in t))


def test_layers_stand_in_the_order_of_calls(found):
    assert found.layers[:4] == [f"model.layers.0.self_attn.{n}_proj" for n in "qkvo"]
    assert found.layers[7] == "model.layers.0" and len(found.layers) == 16 and found.signal.shape == (16, 27)
    assert list(found.table()) == ["layer", "local_db", "cumulative_db", "floor_db"]


def test_the_first_layer_has_no_error_but_its_own(found):
    assert np.allclose(found.local[0], found.cumulative[0], rtol=1e-5)
    later = found.layers.index("model.layers.1.mlp.down_proj")
    assert found.by_layer("local")[later] > found.by_layer()[later]
    assert np.isnan(found.local[7]).all()  # a whole block


def test_local_is_the_layer_quantized_alone(found):
    model, at = small_model(), "model.layers.1.mlp.down_proj"
    layer, seen = model.get_submodule(at), []
    layer.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in BATCHES:
            model(batch)
        x = torch.cat([s.flatten(0, 1) for s in seen])
        x_hat = nvfp4viz.quantize(x, "standard").dequantize()
        w_hat = nvfp4viz.quantize(layer.weight, "standard-tensor").dequantize()
        error = (x_hat @ w_hat.T - x @ layer.weight.T).double().square().sum(-1)
    assert np.allclose(found.local[found.layers.index(at)], error.numpy(), rtol=1e-3)


def test_kept_layers_add_no_error():
    kept = ["model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.o_proj"]
    found = nvfp4viz.drift(small_model(), BATCHES, "standard", kept=kept, floor=False)
    assert (found.cumulative[:4] == 0).all() and np.isinf(found.by_layer()[:4]).all() and not found.floor.size
    assert (found.cumulative[4:] > 0).all() and found.leaves is None
    with pytest.raises(ValueError, match=r"kept=\['nothing'\] are no units"):
        nvfp4viz.drift(small_model(), BATCHES, kept=["nothing"])


def test_the_floor_of_bf16_is_left_at_the_first_quantized_layer(found):
    assert found.leaves == found.layers[0] and (found.by_layer("floor") > 35).all()
    same = nvfp4viz.drift(small_model().bfloat16(), BATCHES, "standard")
    assert np.allclose(same.by_layer("floor"), found.by_layer("floor"), atol=5) and same.leaves == same.layers[0]


def test_the_model_is_as_before():
    model = small_model()
    own = {n: (p.clone(), p.dtype) for n, p in model.named_parameters()}
    nvfp4viz.drift(model, BATCHES, "standard")
    assert all(torch.equal(p, own[n][0]) and p.dtype == own[n][1] for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_output_changes_as_impact_says(found):
    table = nvfp4viz.impact(small_model(), BATCHES, ["standard"], quantize="all-linear").table()
    change = found.output
    assert change.kl.mean() == pytest.approx(table["kl"].iloc[-1], rel=1e-4) and change.kl.size == 2 * 9 + 6
    assert change.same.mean() == pytest.approx(table["top1_agreement"].iloc[-1])
    assert list(change.percentiles()) == [50, 90, 99, 99.9, 100] and change.percentiles()[100] == change.kl.max()
    assert [row[:2] for row in change.by_position()] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 8)]
    assert {row[0] for row in change.by_sequence()} == {0, 1, 2} and "top tokens differ" in repr(change)


def test_flips_have_their_text():
    model = small_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.02)  # so that tops are close
    decode = lambda t: "".join(chr(97 + i % 26) for i in t)  # noqa: E731
    change = nvfp4viz.drift(model, BATCHES, "standard", floor=False, decode=decode).output
    assert len(change.flips) == (~change.same).sum() > 0
    flip = change.flips[0]
    row = [*BATCHES[0], *BATCHES[1]][flip.sequence].tolist()
    assert flip.context == "".join(chr(97 + i % 26) for i in row[: flip.position + 1])
    assert flip.came == chr(97 + row[flip.position + 1] % 26) and flip.before and flip.after
    assert [f.kl for f in change.flips] == sorted((f.kl for f in change.flips), reverse=True)
    assert change.table()["context"].iloc[0] == flip.context


def test_two_recordings(tmp_path):
    torch.manual_seed(0)
    a = {"l0": torch.randn(5, 32), "l1": torch.randn(5, 32), "other": torch.randn(4, 32), "mine": torch.randn(5, 16)}
    b = {"l0": a["l0"].bfloat16(), "l1": a["l1"] * 1.1, "other": torch.randn(4, 32), "l1 too": torch.randn(5, 16)}
    found = nvfp4viz.drift_between(a, b)
    assert isinstance(found, Drift) and found.layers == ["l0", "l1"]
    assert found.by_layer()[0] > 45 and found.by_layer()[1] == pytest.approx(20) and found.leaves is None
    assert found.skipped == {
        "l1 too": "it is in the second recording only", "mine": "it is in the first recording only",
        "other": "it has 4 tokens, l0 has 5",
    }  # fmt: skip
    assert found.sqnr()[1] == pytest.approx(np.full(5, 20), abs=1e-4)
    with pytest.raises(ValueError, match="no layer in common"):
        nvfp4viz.drift_between({"a": a["l0"]}, {"b": a["l0"]})
