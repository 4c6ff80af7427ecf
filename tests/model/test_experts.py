"""Experts as they run, in the families of transformers that we know: what is seen, by which name, and what is not."""

import pytest
import torch
from families import FAMILIES, ROUTED, call, ids, tiny, transformers
from test_capture import assert_same

import nvfp4viz
from nvfp4viz.engine import find_engine

V5 = int(transformers.__version__.split(".")[0]) >= 5
needs_fused = pytest.mark.skipif(not V5, reason="experts are modules of their own before transformers 5")
RECIPES = ["standard", "4/6-mse-256"]


def recorded(model, *batches, recipes=RECIPES, modules=None, **more):
    with nvfp4viz.record(model, modules, recipes) as recorder:
        for x in batches:
            call(model, x, **more)
    return recorder.sweep()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_multiply_add_is_observed_or_listed_with_a_reason(name):
    model = tiny(name)
    before = call(model, ids(2, 13)).logits
    with nvfp4viz.record(model, recipes=["standard"]) as recorder:
        after = call(model, ids(2, 13)).logits
    assert torch.equal(before, after) and not recorder.problems
    coverage = recorder.sweep().provenance["coverage"]
    if name != "llama4":  # there every expert computes all tokens, most of them as zeros
        assert coverage["multiply_adds"] == counted_below(model, ids(2, 13))
    lost = coverage["unobserved"]
    assert coverage["share"] + sum(u["share"] or 0 for u in lost.values()) == pytest.approx(1)
    told = ("router", "outputs", "convolution", "element by element")
    assert all(any(word in u["why"] for word in told) for u in lost.values()), lost


class Below(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts multiply-adds with weights in another way than the package: at torch's dispatcher, from shapes."""

    def __init__(self, model):
        super().__init__()
        self.storages = {p.untyped_storage()._cdata for p in model.parameters() if p.ndim > 1}
        self.kept, self.total = [], 0

    def _is_weight(self, t):
        return isinstance(t, torch.Tensor) and t.ndim > 1 and t.untyped_storage()._cdata in self.storages

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name, tensors = func.__name__.partition(".")[0], [a for a in args if isinstance(a, torch.Tensor)]
        weights = [t for t in tensors if self._is_weight(t)]
        if weights and name in ("mm", "addmm", "bmm"):
            a, b = tensors[-2:]
            self.total += a.numel() * b.shape[-1]
        elif weights and name in ("_grouped_mm", "grouped_mm_fallback"):
            self.total += args[0].numel() * args[1].shape[-1]
        elif weights and name == "convolution":
            self.total += out.numel() * args[1].numel() // args[1].shape[0]
        elif weights and name in ("index", "_to_copy", "clone", "mul", "_unsafe_view") and out.ndim > 1:
            self.kept.append(out)  # so that its storage is not another's
            self.storages.add(out.untyped_storage()._cdata)
        return out


def counted_below(model, x) -> int:
    with Below(model) as below:
        call(model, x)
    return below.total


@needs_fused
@pytest.mark.parametrize("name", ROUTED)
def test_all_implementations_of_experts_give_the_same(name):
    sweeps = {}
    for how in ("eager", "grouped_mm", "batched_mm"):
        model = tiny(name)
        try:
            model.set_experts_implementation(how)
        except (ValueError, AttributeError) as error:
            assert how != "eager", error
            continue
        sweeps[how] = recorded(model, ids(2, 13), ids(1, 9, seed=2))
    first = sweeps["eager"]
    stacks = first.provenance["experts"]
    assert stacks and all(sum(n) for n in stacks.values())
    for sweep in sweeps.values():
        assert sweep.provenance["experts"] == stacks
        assert sweep.provenance["coverage"]["multiply_adds"] == first.provenance["coverage"]["multiply_adds"]
        assert set(sweep.tensors) == set(first.tensors)
        for tensor in first.tensors:
            a, b = (s.stats[tensor]["standard"] for s in (sweep, first))
            assert a.tokens == b.tokens and a.x_sq == pytest.approx(b.x_sq, rel=1e-5)
            if tensor.endswith("gate_up_proj") and ".0." in tensor:
                assert a.x_amax == pytest.approx(b.x_amax, rel=1e-6)
            assert a.nmse == pytest.approx(b.nmse, rel=2e-2)  # products of other shapes round otherwise


@needs_fused
def test_the_rows_of_an_expert_are_those_routed_to_it():
    model, x = tiny("qwen3_moe"), ids(2, 13)
    seen = {}
    experts = model.model.layers[1].mlp.experts
    handle = experts.register_forward_pre_hook(lambda m, args: seen.update(x=args[0], chosen=args[1]))
    sweep = recorded(model, x, recipes=["standard"])
    handle.remove()
    for e in range(4):
        rows = seen["x"][(seen["chosen"] == e).any(-1)]
        gate, up = torch.nn.functional.linear(rows, experts.gate_up_proj[e]).chunk(2, -1)
        hidden = (experts.act_fn(gate) * up).detach()
        name = f"model.layers.1.mlp.experts.{e}"
        assert sweep.stats[f"{name}.gate_up_proj"]["standard"].tokens == len(rows)
        for got, x_of in (("gate_up_proj", rows), ("down_proj", hidden)):
            stats, expected = sweep.stats[f"{name}.{got}"]["standard"], nvfp4viz.analyze(x_of, "standard")
            assert stats.tokens == len(rows) and stats.nmse == pytest.approx(expected.nmse, rel=1e-3)
    served = sweep.stats["model.layers.1.mlp.experts"]["standard"]
    assert_same(served, nvfp4viz.analyze(seen["x"], "standard"))


@needs_fused
def test_patterns_find_experts_by_the_names_of_a_checkpoint():
    model, x = tiny("qwen3_moe"), ids(2, 13)

    def found(pattern):
        return set(recorded(model, x, recipes=["standard"], modules=pattern).tensors)

    layers, experts = range(2), range(4)
    down = {f"model.layers.{i}.mlp.experts.{e}.down_proj" for i in layers for e in experts}
    fc1 = {f"model.layers.{i}.mlp.experts.{e}.gate_up_proj" for i in layers for e in experts}
    assert found("*.down_proj") == down and found("*.experts.*") == down | fc1
    assert found("*.up_proj") == found("*.gate_proj") == fc1
    assert found("*.0.mlp.experts.2.*") == {n for n in down | fc1 if n.startswith("model.layers.0.mlp.experts.2.")}
    assert found("*.mlp.experts") == {f"model.layers.{i}.mlp.experts" for i in layers}
    assert found("*experts*") == down | fc1 | found("*.mlp.experts")
    with pytest.raises(ValueError, match=r"no module .*experts\.0\.down_proj"):
        found("*.experts.*.dwn_proj")


@needs_fused
def test_what_was_not_asked_for_is_in_the_coverage():
    sweep = recorded(tiny("qwen3_moe"), ids(2, 13), modules="*.experts.*.down_proj")
    coverage = sweep.provenance["coverage"]
    assert coverage["observed_matrices"] == 8 and coverage["matrices"] == 27 and 0.1 < coverage["share"] < 0.3
    why = coverage["unobserved"]["model.layers.0.mlp.experts.gate_up_proj"]["why"]
    assert why == "not among modules='*.experts.*.down_proj'"


@needs_fused
def test_layers_add_all_experts_up():
    model = tiny("qwen3_moe")
    with nvfp4viz.record(model, recipes=RECIPES) as recorder:
        call(model, ids(2, 13))
    each, layers = recorder.sweep(), recorder.layers()
    name = "model.layers.0.mlp.experts"
    parts = [each.stats[f"{name}.{e}.down_proj"]["standard"] for e in range(4)]
    total = layers.stats[f"{name}.down_proj"]["standard"]
    assert_same(total, sum(parts[1:], parts[0]))
    assert total.tokens == 2 * 26 and layers.stats[name]["standard"].tokens == 26
    assert not any(".experts.0." in t for t in layers.tensors)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "llama4", "mixtral", "llama", "gpt2"])
def test_recording_equals_capturing_and_then_sweeping(name, tmp_path):
    model, batches = tiny(name), (ids(2, 13), ids(3, 7, seed=5))
    path = tmp_path / "a.safetensors"
    with nvfp4viz.capture(model, path=path):
        for x in batches:
            call(model, x)
    stored, direct = nvfp4viz.sweep(nvfp4viz.load(path), RECIPES), recorded(model, *batches)
    assert set(stored.tensors) == set(direct.tensors)
    for tensor in direct.tensors:
        for recipe in RECIPES:
            assert_same(direct.stats[tensor][recipe], stored.stats[tensor][recipe])


@needs_fused
@pytest.mark.parametrize("how", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_padding_is_left_out_of_experts_too(name, side, how):
    """Two texts padded to one length give the counts of each text alone."""
    model = tiny(name)
    model.set_experts_implementation(how)
    texts = ids(1, 13), ids(1, 8, seed=3)
    x, mask = torch.full((2, 13), 7), torch.zeros(2, 13, dtype=torch.long)
    for i, text in enumerate(texts):
        where = slice(0, text.shape[1]) if side == "right" else slice(13 - text.shape[1], 13)
        x[i, where], mask[i, where] = text[0], 1
    padded = recorded(model, x, attention_mask=mask, recipes=["standard"])
    alone = recorded(model, *texts, recipes=["standard"])
    counts = {t: row["standard"].tokens for t, row in padded.stats.items()}
    assert counts == {t: row["standard"].tokens for t, row in alone.stats.items()}
    for tensor in alone.tensors:
        a, b = (s.stats[tensor]["standard"].x_sq for s in (padded, alone))
        assert a == pytest.approx(b, rel=1e-3), tensor
    assert padded.provenance["left_out"]["padding"] and not padded.provenance["left_out"]["unknown"]


def test_tokens_that_count_can_be_told():
    model, x = tiny("llama"), ids(2, 13)
    counts = torch.zeros(2, 13, dtype=torch.bool)
    counts[:, 4:9] = True
    for told in (counts, lambda args, kwargs: counts):
        with nvfp4viz.record(model, "*.q_proj", ["standard"], tokens=told) as recorder:
            call(model, x)
        assert recorder.sweep().stats["model.layers.0.self_attn.q_proj"]["standard"].tokens == 10


def test_a_cache_holds_the_tokens_before_and_the_mask_is_longer_than_the_ids():
    model, x = tiny("llama"), ids(2, 9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    with nvfp4viz.record(model, "*.q_proj", ["standard"]) as recorder, torch.no_grad():
        out = model(x[:, :8], attention_mask=mask[:, :8], use_cache=True)
        model(x[:, 8:], attention_mask=mask, past_key_values=out.past_key_values)
    assert recorder.sweep().stats["model.layers.0.self_attn.q_proj"]["standard"].tokens == 16 - 3 + 2


def test_routers_and_gates_are_taken_only_where_they_are_asked_for():
    for name in ("qwen3_next", "llama4", "minimax", "qwen3_moe"):
        model = tiny(name)
        tensors = recorded(model, ids(2, 13), recipes=["standard"]).tensors
        assert not [t for t in tensors if t.endswith(("mlp.gate", "router", "_gate", "in_proj_ba"))]
    asked = recorded(tiny("llama4"), ids(2, 13), recipes=["standard"], modules="*.router").tensors
    assert asked == [f"model.layers.{i}.feed_forward.router" for i in range(2)]


@pytest.mark.gpu
@needs_fused
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_on_a_gpu_one_launch_for_all_experts_equals_one_for_each(name, monkeypatch):
    model = tiny(name, num_hidden_layers=1).cuda().bfloat16()
    model.set_experts_implementation("grouped_mm")
    batches = [ids(2, 13).cuda(), ids(3, 40).cuda()]
    together = recorded(model, *batches, recipes=nvfp4viz.RECIPES)
    monkeypatch.setattr(type(find_engine("cuda")), "leaves_out", False)  # then each expert is launched by itself
    apart = recorded(model, *batches, recipes=nvfp4viz.RECIPES)
    assert together.tensors == apart.tensors and any(".experts." in t for t in apart.tensors)
    assert together.provenance["experts"] == apart.provenance["experts"]
    for tensor in apart.tensors:
        for recipe in nvfp4viz.RECIPES:
            assert_same(together.stats[tensor][recipe], apart.stats[tensor][recipe])
