"""Predicted KL against its definition worked out by hand, and against what quantizing does to the output."""

import gc
import math
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import nvfp4viz
from nvfp4viz import RECIPES, impact, quantize, record, sensitivity
from nvfp4viz.engine import feel, weighted_errors
from nvfp4viz.model import Sensitivity
from nvfp4viz.model.gradients import _drawn
from nvfp4viz.nvfp4 import Tokens

V, K = 29, 64


class Model(nn.Module):
    """Embedding, two residual layers whose three projections share an input, and logits."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(V, K)
        self.q, self.k, self.up, self.down = (nn.Linear(K, K, bias=False) for _ in range(4))
        self.lm_head = nn.Linear(K, V, bias=False)
        self.norm = nn.LayerNorm(K)
        self.eval()

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        h = self.norm(x)
        x = x + torch.tanh(self.q(h)) * self.k(h)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return 3 * self.lm_head(self.norm(x))


def ids(batch=2, tokens=48, seed=1):
    return torch.randint(0, V, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def by_hand(model, batch, recipe, name):
    """1/2 E sum g^2 delta^2 with the expectation over labels in full, a token and a label at a time."""
    kept = {}
    module = getattr(model, name)

    def hook(_, args):
        kept["x"] = args[0].detach().requires_grad_()
        return (kept["x"],)

    handle = module.register_forward_pre_hook(hook)
    logits = model(batch)
    handle.remove()
    x = kept["x"]
    delta_sq = (quantize(x.detach(), recipe, engine="reference").dequantize().reshape(x.shape) - x.detach()).square()
    log_p = torch.log_softmax(logits[:, :-1], -1)
    total = 0.0
    for b in range(batch.shape[0]):
        for t in range(batch.shape[1] - 1):
            for label in range(V):
                (g,) = torch.autograd.grad(log_p[b, t, label], x, retain_graph=True)
                total += log_p[b, t, label].exp().item() * (g.square() * delta_sq).sum().item() / 2
    return total / log_p[..., 0].numel()


def test_it_is_half_the_expected_squared_gradient_times_squared_error():
    model, batch = Model(), ids(1, 9)
    found = sensitivity(model, [batch], ["4/6-mse-256"], draws=400, engine="reference")
    for name in ("up", "down"):  # read by one layer each
        assert found.kl(name, "4/6-mse-256") == pytest.approx(by_hand(model, batch, "4/6-mse-256", name), rel=0.1)


def test_the_level_is_what_all_inputs_together_were_measured_to_do():
    model, batches = Model(), [ids(2, 9), ids(1, 12)]
    whole = impact(model, batches, ["standard"]).table()["kl"].iloc[-1]
    found = sensitivity(model, batches, ["standard", "4/6-mse-256"])
    plain = sensitivity(model, batches, ["standard", "4/6-mse-256"], level=False)
    assert found.total("standard") == pytest.approx(whole, rel=1e-6) and found.level != 1 == plain.level
    assert found.total("4/6-mse-256") == pytest.approx(found.level * plain.total("4/6-mse-256"))
    assert found.nats == plain.nats
    assert "level measured" in repr(found) and "level not measured" in repr(plain)
    a, b = (sensitivity(model, [one], ["standard"]) for one in batches)
    both = a + b  # a level each, weighed by what was predicted there
    assert both.total("standard") == pytest.approx(sum(s.total("standard") * s.tokens for s in (a, b)) / both.tokens)


def test_the_level_does_not_depend_on_what_is_kept_in_memory(monkeypatch):
    model, batches = Model(), [ids(2, 9), ids(1, 12)]
    found = sensitivity(model, batches, ["standard"])
    monkeypatch.setattr(sys.modules[sensitivity.__module__], "HELD", 0)
    assert sensitivity(model, batches, ["standard"]).checked == pytest.approx(found.checked)


def test_a_level_that_cannot_be_measured_is_said_and_loses_nothing():
    model = Model()
    found = sensitivity(model, [ids()], ["standard"], modules=["lm_head"])  # in no total
    assert found.level == 1 and "was not measured: no input counts in the total" in found.skipped["level"]
    assert found.kl("lm_head", "standard") > 0


def test_an_input_that_layers_share_is_one():
    found = sensitivity(Model(), [ids()])
    assert found.names["q"] == ("q", "k") and set(found.nats) == {"q", "up", "down", "lm_head"}
    assert found.total("standard") == pytest.approx(
        found.level * sum(found.kl(n, "standard") for n in ("q", "up", "down"))
    )
    table = found.table()
    assert len(table) == 4 * len(RECIPES) and table["predicted_kl"].is_monotonic_decreasing
    assert found.worst("standard", 1) == [table["tensor"][0]]


def test_the_level_and_the_order_are_those_of_the_measured_kl():
    model, batches = Model(), [ids(4, 64, s) for s in range(6)]
    found = sensitivity(model, batches, ["standard", "4/6-mse-256"], draws=4)
    measured = {}
    for name, layers in found.names.items():
        if name != "lm_head":
            table = impact(model, batches, ["4/6-mse-256"], modules=list(layers)).table()
            measured[name] = float(table["kl"][1])
            assert found.kl(name, "4/6-mse-256") == pytest.approx(measured[name], rel=0.15)
    assert sorted(measured, key=measured.get) == sorted(measured, key=lambda n: found.kl(n, "4/6-mse-256"))
    whole = float(impact(model, batches, ["4/6-mse-256"]).table()["kl"][1])
    assert found.total("4/6-mse-256") == pytest.approx(whole, rel=0.15)


class Routed(nn.Module):
    """Two blocks of two experts each, of which a token has one; experts are layers, or one parameter."""

    def __init__(self, fused=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(V, K), nn.LayerNorm(K)
        self.mix = nn.ModuleList(nn.Linear(K, K, bias=False) for _ in range(2))
        self.blocks = nn.ModuleList(Block(fused) for _ in range(2))
        self.lm_head = nn.Linear(K, V, bias=False)
        self.eval()

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for mix, block in zip(self.mix, self.blocks, strict=True):
            x = x + mix(self.norm(x))
            x = x + block(self.norm(x))
        return 3 * self.lm_head(self.norm(x))


class Block(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.gate, self.shared_expert = nn.Linear(K, 2, bias=False), nn.Linear(K, K, bias=False)
        self.experts = Stack() if fused else nn.ModuleList(Expert() for _ in range(2))

    def forward(self, x):
        rows, out = x.reshape(-1, K), self.shared_expert(x).reshape(-1, K)
        picked = self.gate(rows).argmax(-1)
        for e, expert in enumerate(self.experts if isinstance(self.experts, nn.ModuleList) else self.experts.each()):
            mine = (picked == e).nonzero().flatten()
            out = out.index_add(0, mine, expert(rows[mine]))
        return out.reshape(x.shape)


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj = nn.Linear(K, K, bias=False)

    def forward(self, x):
        return self.up_proj(x)


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj = nn.Parameter(torch.stack([nn.Linear(K, K, bias=False).weight.detach() for _ in range(2)]))

    def each(self):
        return [lambda x, e=e: nn.functional.linear(x, self.up_proj[e]) for e in range(2)]


@pytest.mark.parametrize("fused", [False, True])
def test_inputs_know_the_routers_behind_them(fused):
    found = sensitivity(Routed(fused), [ids(4, 64)], ["standard", "4/6-mse-256"])
    experts = {b: [f"blocks.{b}.experts.{e}.up_proj" for e in range(2)] for b in range(2)}
    want = {"mix.0": 1, "mix.1": 0.5, "blocks.0.shared_expert": 0.5, "blocks.1.shared_expert": 0, "lm_head": 0}
    want |= dict.fromkeys(experts[0], 0.5) | dict.fromkeys(experts[1], 0)
    assert {n: found.behind[n] for n in want} == want
    assert found.part == 0.5 and found.checked[1] > found.checked[0]
    assert found.kl("mix.0", "standard") > found.nats["mix.0"]["standard"] / found.tokens
    assert found.kl("lm_head", "standard") == found.nats["lm_head"]["standard"] / found.tokens
    table = found.table().set_index(["tensor", "recipe"])
    assert table.loc[("mix.0", "standard"), "predicted_kl"] == found.kl("mix.0", "standard")
    dense = sensitivity(Model(), [ids()], ["standard"])
    assert dense.part == 1 and not dense.behind


def test_what_routers_add_is_split_by_the_size_of_errors_and_adds_over_batches():
    """By hand: 16 nats by other experts, 4 of them at a quarter of the error, where gradients say 1 + 1/16."""
    nats = {"first": {"a": 4.0, "b": 1.0}, "second": {"a": 12.0, "b": 3.0}, "last": {"a": 1.0, "b": 1.0}}
    behind = {"first": 1.0, "second": 0.5, "last": 0.0}
    names = {n: (n,) for n in nats}
    recipes = {"a": RECIPES["4/6-mse-256"], "b": RECIPES["4/6-mse-448"]}
    found = Sensitivity(recipes, nats, 1, names, checked=(17 / 16, 4 + 17 / 16), part=0.25, behind=behind)
    assert found.total("a") == pytest.approx(17 + 16)  # what is beyond the squares grows with the error: four times 4
    assert found.total("b") == pytest.approx(5 + 8)  # a quarter of the squares before routers, half of the error
    assert found.kl("first", "a") == pytest.approx(4 + 16 * math.sqrt(4 / 16))
    assert found.kl("second", "a") == pytest.approx(12 + 16 * math.sqrt(12 / 16) / 2)
    assert found.kl("last", "a") == 1 and found.worst("a") == ["second", "first", "last"]
    both = found + found
    assert both.kl("first", "b") == pytest.approx(found.kl("first", "b")) and both.total("b") == found.total("b")
    unmeasured = replace(found, checked=(0.0, 0.0))
    assert unmeasured.kl("first", "a") == 4 and unmeasured.total("a") == 17
    assert (found + unmeasured).total("a") == pytest.approx(found.total("a"))  # the rate that was seen holds for all
    assert replace(found, checked=(17 / 16, 1.0)).total("a") == 17  # by chance less than gradients say
    with pytest.raises(ValueError, match="do not add"):
        found + replace(found, part=1.0)


def test_a_gradient_is_of_the_layers_that_are_quantized_alone():
    """A router and a residual path read the same tensor as `up`; quantizing its input leaves theirs as it is."""

    class Beside(Model):
        def forward(self, input_ids):
            h = self.norm(self.embed(input_ids))
            return 3 * self.lm_head(self.norm(torch.relu(self.up(h)) + 3 * h))

    model, batches = Beside(), [ids(8, 64, s) for s in range(3)]
    measured = impact(model, batches, ["standard"], modules=["up"]).table()["kl"][1]
    for modules in (None, "up"):
        found = sensitivity(model, batches, ["standard"], modules=modules, draws=4)
        assert found.kl("up", "standard") == pytest.approx(measured, rel=0.25)


def test_batches_add_and_a_seed_repeats():
    model, a, b = Model(), ids(2, 32, 1), ids(3, 20, 2)
    first, second = sensitivity(model, [a], seed=3), sensitivity(model, [b], seed=3)
    both = first + second
    assert both.tokens == 2 * 31 + 3 * 19
    assert both.nats["up"]["standard"] == pytest.approx(first.nats["up"]["standard"] + second.nats["up"]["standard"])
    assert sensitivity(model, [a], seed=3).nats == first.nats != sensitivity(model, [a], seed=4).nats
    with pytest.raises(ValueError, match="do not add"):
        first + sensitivity(model, [a], ["standard"])


def test_no_tensor_of_a_call_outlives_it():
    model, seen = Model(), []
    for layer in (model.q, model.up, model.lm_head):
        layer.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    gc.disable()  # which would find what holds itself, long after a GPU is full
    try:
        sensitivity(model, [ids()], ["standard"], level=False)
        assert len(seen) == 3 and not any(x() is not None for x in seen)
    finally:
        gc.enable()


def test_padding_has_no_say():
    model, batch = Model(), ids(2, 40)
    mask = torch.ones_like(batch)
    mask[1, 25:] = 0
    padded = sensitivity(model, [{"input_ids": batch, "attention_mask": mask}])
    assert padded.tokens == 39 + 24


@pytest.mark.parametrize("named", [True, False])
def test_padding_before_a_sequence_has_no_say(named):
    model, batch = Model(), ids(2, 40)
    mask = torch.ones_like(batch)
    mask[1, :25] = 0
    args, kwargs = ((batch,), {"attention_mask": mask}) if named else ((batch, mask), {})
    with torch.no_grad(), record(model, sensitivity=True, recipes=["standard"]) as recorder:
        model(*args, **kwargs)
    assert recorder.gradients.tokens == 39 + 14  # a token of padding predicts nothing
    if named:
        batches = [{"input_ids": batch, "attention_mask": mask}]
        assert sensitivity(model, batches).tokens == 39 + 14 == impact(model, batches, ["standard"]).tokens


@pytest.mark.parametrize("grad", [True, False])
def test_recording_predicts_in_passing(grad):
    model, batch = Model(), ids()
    want = sensitivity(model, [batch], seed=5)
    with torch.set_grad_enabled(grad), record(model, sensitivity=True, seed=5) as recorder:
        out = model(batch)
        assert torch.is_grad_enabled() == grad
    plain = Model()(batch)
    torch.testing.assert_close(out.detach(), plain.detach())
    found = recorder.sweep()
    table = found.table().set_index(["tensor", "recipe"])["predicted_kl"]
    for name, layers in want.names.items():
        for layer in layers:
            for recipe in RECIPES:
                assert table[layer, recipe] == pytest.approx(want.kl(name, recipe), rel=1e-9)
    again = nvfp4viz.Sweep.from_dict(found.to_dict())
    assert again.stats["up"]["standard"].predicted_kl == found.stats["up"]["standard"].predicted_kl
    assert (found + found).stats["up"]["standard"].predicted_kl == found.stats["up"]["standard"].predicted_kl
    assert all(p.requires_grad for p in model.parameters()) and "predicted" in found.provenance["sensitivity"]
    with record(model) as recorder:
        model(batch)
    assert "predicted_kl" not in recorder.sweep().table()


class Remembering(Model):
    """Adds what it was given before to what it is given now, as a cache of keys does."""

    def forward(self, input_ids, cache):
        x = self.norm(self.embed(input_ids))
        cache.layers.append(self.k(x))
        logits = self.lm_head(sum(y.mean(1, keepdim=True) for y in cache.layers) + x)
        return SimpleNamespace(logits=logits, cache=cache)


@pytest.mark.parametrize("grad", [True, False])
def test_what_a_call_returns_or_keeps_has_no_graph(grad):
    model, batch, cache = Remembering(), ids(1, 6), SimpleNamespace(layers=[])
    with torch.set_grad_enabled(grad), record(model, "k", ["standard"], sensitivity=True) as recorder:
        first = model(batch, cache)
        second = model(batch, cache=cache)  # reads what the first call kept
    want = SimpleNamespace(layers=[])
    with torch.no_grad():
        model(batch, want)
        torch.testing.assert_close(second.logits, model(batch, want).logits)
    assert not first.logits.requires_grad and first.cache is cache and not any(y.requires_grad for y in cache.layers)
    second.logits.numpy()
    assert recorder.gradients.tokens == 10 and recorder.sweep().stats["k"]["standard"].predicted_kl > 0


@pytest.mark.parametrize("how", ["autocast", "float64"])
def test_inputs_that_are_cast_are_predicted_all_the_same(how):
    want = sensitivity(Model(), [ids()], ["standard"])
    model = Model().double() if how == "float64" else Model()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = sensitivity(model, [ids()], ["standard"])
    assert {n: found.names[n] for n in want.names} == want.names
    for name in want.nats:
        assert found.kl(name, "standard") == pytest.approx(want.kl(name, "standard"), rel=0.3)


def test_a_backward_pass_that_fails_breaks_no_call():
    class Overwriting(Model):
        def forward(self, input_ids):
            gate = torch.sigmoid(self.up(self.embed(input_ids)))
            return self.lm_head(gate.mul_(2) + self.q(gate))  # sigmoid's backward pass needs what was overwritten

    model, batch = Overwriting(), ids()
    with torch.no_grad(), record(model, "up", ["standard"], sensitivity=True) as recorder:
        model(batch)
    found = recorder.sweep()
    assert found.provenance["sensitivity"].startswith("the backward pass fails: one of the variables needed")
    assert "up" in found.stats and "predicted_kl" not in found.table()
    with pytest.raises(RuntimeError, match="the backward pass fails"):
        sensitivity(model, [batch])
    broken = Model()
    broken.lm_head.weight.data[0, 0] = math.nan
    with torch.no_grad(), record(broken, "up", ["standard"], sensitivity=True) as recorder:
        broken(batch)
    assert recorder.sweep().provenance["sensitivity"] == "the backward pass fails: the logits hold NaN or Inf"


@pytest.mark.parametrize("routed", [False, True])
def test_a_verdict_says_what_a_recording_does_not_predict(routed):
    model = Routed() if routed else Model()
    with torch.no_grad(), record(model, sensitivity=True) as recorder:
        model(ids(4, 64))
    said = nvfp4viz.recommend(recorder.sweep()).sentence()
    assert "Predicted KL of the output" in said and ("more where tokens go to other experts" in said) == routed


def test_what_has_no_gradient_is_said():
    model, batch = Model(), ids()
    with torch.inference_mode(), record(model, sensitivity=True) as recorder:
        model(batch)
    assert "inference_mode" in recorder.sweep().provenance["sensitivity"]
    with pytest.raises(ValueError, match="training mode"):
        sensitivity(Model().train(), [batch])
    with pytest.raises(TypeError, match="not a torch"):
        sensitivity("model", [batch])
    with pytest.raises(ValueError, match="0 batches"):
        sensitivity(model, [])
    with pytest.raises(TypeError, match=r"a batch is a tensor \[48\]: give token ids, int \[B, T\]"):
        sensitivity(model, batch)  # not in a list: its rows are taken for batches

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.up = nn.Embedding(V, K), nn.Linear(K, V)

        def forward(self, input_ids):
            return self.up(self.embed(input_ids).detach())  # as in a kernel without a backward pass

    with pytest.raises(RuntimeError, match=r"no gradient reaches the model.s output"):
        sensitivity(Packed().eval(), [batch])


@pytest.mark.parametrize("recipe", [*RECIPES, "standard-tensor-fast", "4/6-mse-256-fp16err-tensor"])
def test_weighted_errors_are_those_of_the_reference(recipe):
    x = nvfp4viz.synthetic("spikes", 37, 96)
    weight = torch.rand(37, 96, generator=torch.Generator().manual_seed(0)) ** 8
    recipe = nvfp4viz.Recipe.parse(recipe)
    error = quantize(x, recipe, engine="reference").dequantize().double() - x.double()
    want = (error.square() * weight.double()).sum(-1)
    np.testing.assert_allclose(weighted_errors(Tokens.of(x), weight, [recipe])[0], want, rtol=1e-9)
    np.testing.assert_allclose(feel(Tokens.of(x), weight, [recipe], "reference")[0], want, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 16), (37, 96), (130, 2064)])
def test_recipes_weigh_together_as_each_does_alone(shape, dtype):
    """They share candidates; blocks far from ordinary take another way, and so do per-tensor scales."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, generator=g) * 10.0 ** torch.randint(-30, 30, (shape[0], 1), generator=g)
    x[::5] = 0
    x = x.clamp(-6e4, 6e4).to(dtype)
    weight = torch.rand(*shape, generator=g) ** 8
    names = [*RECIPES, "standard-tensor-fast", "4/6-mae-448-fast", "4/6-mse-256-fp16err-tensor", "standard-256"]
    recipes = list(map(nvfp4viz.Recipe.parse, names))
    together = weighted_errors(Tokens.of(x), weight, recipes)
    for recipe, row in zip(recipes, together, strict=True):
        error = quantize(x, recipe, engine="reference").dequantize().double() - x.double()
        np.testing.assert_allclose(row, (error.square() * weight.double()).sum(-1), rtol=1e-12)
        assert torch.equal(row, weighted_errors(Tokens.of(x), weight, [recipe])[0])


def test_labels_are_drawn_by_their_probability():
    p = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    label = _drawn(p.cumsum(0).expand(20_000, -1).contiguous(), torch.Generator().manual_seed(0))
    share = torch.bincount(label.flatten(), minlength=6) / len(label)
    assert share[p == 0].sum() == 0 and torch.allclose(share, p, atol=0.01)


def test_a_gradient_that_overflows_is_said_and_breaks_no_call(tmp_path):
    class Steep(Model):
        def forward(self, input_ids):
            x = self.q(self.embed(input_ids))
            if x.requires_grad:
                x.register_hook(lambda g: 1e30 * g)  # whose square is no float32
            return self.lm_head(x)

    model, batch = Steep(), ids()
    with torch.no_grad(), record(model, sensitivity=True) as recorder:
        model(batch)
    assert recorder.sweep().provenance["sensitivity"] == "the backward pass fails: a gradient is NaN or infinite"
    with torch.no_grad(), nvfp4viz.capture(model, path=tmp_path / "a.safetensors", sensitivity=True):
        model(batch)
    assert "q" in (kept := nvfp4viz.load(tmp_path / "a.safetensors")) and "q" not in kept.squares


def test_a_capture_of_squared_gradients_lets_a_later_sweep_predict(tmp_path):
    model, batch = Model(), ids()
    want = sensitivity(model, [batch], seed=5)
    with torch.no_grad(), nvfp4viz.capture(model, path=tmp_path / "a.safetensors", seed=5, sensitivity=True):
        model(batch)
    kept = nvfp4viz.load(tmp_path / "a.safetensors")
    assert set(kept) == {"q", "k", "up", "down", "lm_head"} == set(kept.squares) and not kept.left_out
    found = nvfp4viz.sweep(kept)
    table = found.table().set_index(["tensor", "recipe"])["predicted_kl"]
    for name, layers in want.names.items():
        for layer in layers:
            for recipe in RECIPES:
                assert table[layer, recipe] == pytest.approx(want.kl(name, recipe), rel=3e-3)  # squares are bfloat16
    plain = nvfp4viz.sweep({name: kept[name] for name in kept})
    assert not plain.predicted and found.predicted
    assert found.stats["up"]["standard"].err_sq == plain.stats["up"]["standard"].err_sq


def test_a_sample_of_tokens_stands_for_all_and_a_model_without_gradients_is_captured_all_the_same(tmp_path):
    model, batch = Model(), ids(16, 64)
    want = sensitivity(model, [batch], seed=5)
    with (
        torch.no_grad(),
        nvfp4viz.capture(model, path=tmp_path / "a.safetensors", tokens=512, seed=5, sensitivity=True),
    ):
        model(batch)
    found = nvfp4viz.sweep(nvfp4viz.load(tmp_path / "a.safetensors"))
    for name in ("q", "up", "down"):
        assert found.stats[name]["standard"].predicted_kl == pytest.approx(want.kl(name, "standard"), rel=0.2)
    with torch.inference_mode(), nvfp4viz.capture(model, path=tmp_path / "b.safetensors", sensitivity=True):
        model(batch)
    kept = nvfp4viz.load(tmp_path / "b.safetensors")
    assert set(kept) == {"q", "k", "up", "down", "lm_head"} and not kept.squares
    assert "inference_mode" in kept.sources[0]["metadata"]["sensitivity"]


def test_squares_without_their_counts_are_left_out(tmp_path):
    from safetensors.torch import save_file

    x = nvfp4viz.synthetic("normal", 32, 64)
    for metadata in (
        {},
        {"tokens_seen": "[", "predicted_tokens": "3"},
        {"tokens_seen": '{"a": -1}', "predicted_tokens": "3"},
    ):
        save_file({"a": x, "a.gradient_squares": x.square()}, tmp_path / "a.safetensors", metadata)
        kept = nvfp4viz.load(tmp_path / "a.safetensors")
        assert list(kept) == ["a"] and "without the numbers" in kept.left_out["a.gradient_squares"]
