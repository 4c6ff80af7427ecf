"""Products however they are written: attention's own weights, einsum, parameters by hand, adapters, other threads."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nvfp4viz


def tokens(n=24, k=64, seed=1):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


def recorded(model, *args, modules=None, **kwargs):
    with nvfp4viz.record(model, modules, ["standard"]) as recorder, torch.no_grad():
        model(*args, **kwargs)
    return recorder.sweep()


class ByHand(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.w, self.write = nn.Parameter(torch.randn(64, 32) / 8), write

    def forward(self, x):
        return self.write(x, self.w)


WAYS = {
    "matmul": lambda x, w: x @ w,
    "linear": lambda x, w: nn.functional.linear(x, w.t()),
    "linear by name": lambda x, w: nn.functional.linear(input=x, weight=w.t()),
    "mm": lambda x, w: torch.mm(x, w),
    "addmm": lambda x, w: torch.addmm(torch.zeros(32), x, w),
    "from the left": lambda x, w: (w.t() @ x.t()).t(),
    "rmatmul": lambda x, w: torch.Tensor.__rmatmul__(w, x),
    "a cast": lambda x, w: x.double() @ w.double(),
    "a scaled weight": lambda x, w: x @ (w * 2.0),
    "einsum": lambda x, w: torch.einsum("tk,kn->tn", x, w),
    "einsum, weight first": lambda x, w: torch.einsum("kn,tk->nt", w, x),
    "a batch": lambda x, w: (x.reshape(4, 6, 64) @ w).flatten(0, 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_used_by_hand_is_recorded_and_can_be_swapped(way):
    model, x = ByHand(WAYS[way]), tokens()
    sweep = recorded(model, x)
    stats = sweep.stats["w"]["standard"]
    assert stats.tokens == 24 and stats.features == 64
    assert stats.nmse == pytest.approx(nvfp4viz.analyze(x, "standard").nmse, rel=1e-6)
    assert sweep.provenance["coverage"]["multiply_adds"] == 24 * 64 * 32 and sweep.provenance["coverage"]["share"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_swapped_it_equals_the_product_of_decoded_operands(way):
    from nvfp4viz.model.presets import plan_of
    from nvfp4viz.model.swap import Decoded, Swap

    model, x, recipe = ByHand(WAYS[way]), tokens(), nvfp4viz.Recipe()
    plan = plan_of(model, "activations+weights", None, None, None)
    weights = Decoded(plan, plan.recipe_of_weights(recipe), "auto")
    with torch.no_grad(), Swap(plan, recipe, weights, "auto", {}) as swap:
        got = model(x)
    w = nvfp4viz.quantize(model.w.detach().t().contiguous(), "standard-tensor").dequantize().t()
    expected = model.write(nvfp4viz.quantize(x, recipe).dequantize(), w)  # a scale of 2 changes no code
    assert swap.ran["w"] == 1
    assert torch.allclose(got.float(), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_multihead_attention_shows_its_own_weights(context):
    attention = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    x, other = tokens(12).reshape(2, 6, 64), tokens(10, seed=2).reshape(2, 5, 64)
    with context():
        before = attention(x, x, x)[0]
        with nvfp4viz.record(attention, recipes=["standard"]) as recorder:
            after = attention(x, x, x)[0]
    assert torch.allclose(before, after, atol=1e-5)
    sweep = recorder.sweep()
    assert set(sweep.tensors) == {"in_proj", "out_proj"} and sweep.stats["in_proj"]["standard"].tokens == 12
    crossed = recorded(attention, x, other, other)
    counts = {t: row["standard"].tokens for t, row in crossed.stats.items()}
    assert counts == {"in_proj [0:64]": 12, "in_proj [64:192]": 10, "out_proj": 12}


def test_an_adapted_layer_is_recorded_once_and_its_adapters_are_named():
    class Lora(nn.Module):  # as PEFT's lora.Linear is built
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.lora_A = nn.ModuleDict({"default": nn.Linear(64, 16, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(16, 64, bias=False)})

        @property
        def weight(self):
            return self.base_layer.weight

        def forward(self, x):
            return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    class LoraLinear(Lora):
        pass

    model = nn.ModuleDict({"q_proj": LoraLinear(nn.Linear(64, 64))})
    model.forward = lambda x: model["q_proj"](x)
    sweep = recorded(model, tokens())
    assert sweep.tensors == ["q_proj"] and sweep.stats["q_proj"]["standard"].tokens == 24
    assert "adapter" in sweep.provenance["coverage"]["unobserved"]["q_proj.lora_A.default"]["why"]


def test_convolutions_are_refused_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), nn.Linear(16, 32))
    x = torch.randn(2, 3, 16, 16)
    sweep = recorded(model, x)
    lost = sweep.provenance["coverage"]["unobserved"]
    assert sweep.tensors == ["2"] and "no rows of features" in lost["0"]["why"] and 0 < lost["0"]["share"] < 1
    with pytest.raises(ValueError, match="means '0', a convolution"):
        nvfp4viz.record(model, "0").__enter__()


def test_a_recomputed_layer_counts_once_also_where_it_is_used_by_hand():
    model, x = ByHand(WAYS["matmul"]), tokens().requires_grad_()
    for reentrant in (False, True):
        with nvfp4viz.record(model, recipes=["standard"]) as recorder:
            checkpoint(model, x, use_reentrant=reentrant).sum().backward()
        sweep = recorder.sweep()
        assert sweep.stats["w"]["standard"].tokens == 24
        assert sweep.provenance["coverage"]["multiply_adds"] == 24 * 64 * 32


def test_other_threads_are_seen():
    model = ByHand(WAYS["matmul"])
    with nvfp4viz.record(model, recipes=["standard"]) as recorder:
        threads = [threading.Thread(target=lambda i=i: model(tokens(seed=i))) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert recorder.sweep().stats["w"]["standard"].tokens == 96


def test_under_autocast_it_is_recorded_in_the_dtype_it_computes_in():
    model, x = ByHand(WAYS["matmul"]), tokens()
    with nvfp4viz.record(model, recipes=["standard"]) as recorder, torch.autocast("cpu", torch.bfloat16):
        model(x)
    expected = nvfp4viz.analyze(x.bfloat16(), "standard")
    assert recorder.sweep().stats["w"]["standard"].err_sq == pytest.approx(expected.err_sq, rel=1e-12)


def test_what_is_in_no_product_that_is_read_is_named():
    model = nn.LSTM(64, 64)
    linear = nn.Linear(64, 64)
    both = nn.ModuleDict({"rnn": model, "out": linear})
    both.forward = lambda x: linear(model(x)[0])
    lost = recorded(both, tokens().reshape(6, 4, 64)).provenance["coverage"]["unobserved"]
    assert "taken by lstm in a way that this package does not read" in lost["rnn.weight_ih_l0"]["why"]
