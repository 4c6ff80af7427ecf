"""`impact` as served: presets against module surgery on a trained mixture of experts; what it refuses and says."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import nvfp4viz
from nvfp4viz.model.impact import NothingQuantizedError

transformers = pytest.importorskip("transformers")
TOY = Path(__file__).parents[2] / "data" / "toy-qwen3-moe"
fused = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5,
    reason="experts are one module, with a choice of kernels, since transformers 5",
)
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints" / "data"
RECIPE = "4/6-mse-256"
ONLINE = "4/6-mse-448-tensor-fast"


@pytest.fixture(scope="module")
def toy():
    return transformers.AutoModelForCausalLM.from_pretrained(TOY, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def text():
    data = (TOY.parent / "alice.txt").read_bytes()
    return torch.tensor(list(data[:1536])).reshape(6, 256)


def through(x, recipe, amax=None):
    scale = None if amax is None else nvfp4viz.Recipe.parse(recipe).e4m3_max * 6 / amax
    return nvfp4viz.quantize(x, recipe, encode_scale=scale).dequantize().reshape(x.shape)


class Experts(nn.Module):
    """A block of experts written by hand: an expert at a time, its tokens picked, both inputs and weights quantized."""

    def __init__(self, block, inputs, weights):
        super().__init__()
        self.block, self.inputs = block, inputs
        up, down = block.gate_up_proj.detach(), block.down_proj.detach()
        if weights:
            up, down = (torch.stack([through(e, weights) for e in w]) for w in (up, down))
        self.up, self.down = up, down

    def forward(self, x, chosen, scores):
        served = through(x, self.inputs)
        out = torch.zeros_like(x)
        for e in range(len(self.up)):
            token, place = (chosen == e).nonzero(as_tuple=True)
            if len(token):
                gate, up = linear(served[token], self.up[e]).chunk(2, -1)
                hidden = through(self.block.act_fn(gate) * up, self.inputs)
                out.index_add_(0, token, linear(hidden, self.down[e]) * scores[token, place, None])
        return out


class Dense(nn.Module):
    def __init__(self, layer, inputs, weight):
        super().__init__()
        self.weight, self.inputs = weight, inputs
        assert layer.bias is None

    def forward(self, x):
        return linear(through(x, self.inputs), self.weight)


def operated(model, inputs, *, experts, attention=False):
    """A copy with parts exchanged; experts, attention: the weights' recipe, None for plain ones, False: left alone."""
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        if experts is not False:
            layer.mlp.experts = Experts(layer.mlp.experts, inputs, experts)
        if attention is False:
            continue
        attn = layer.self_attn
        names = ("q_proj", "k_proj", "v_proj")
        amax = max(getattr(attn, n).weight.abs().max().item() for n in names)
        for name in (*names, "o_proj"):
            weight = getattr(attn, name).weight.detach()
            if attention:
                weight = through(weight, attention, amax if name in names else None)
            setattr(attn, name, Dense(getattr(attn, name), inputs, weight))
    return model


def effect(before, after, batches):
    with torch.no_grad():
        p, q = (torch.cat([torch.log_softmax(m(b).logits[:, :-1].double(), -1).flatten(0, 1) for b in batches])
                for m in (before, after))  # fmt: skip
    targets = torch.cat([b[:, 1:].flatten() for b in batches])
    return nn.functional.nll_loss(q, targets).exp().item(), (p.exp() * (p - q)).sum(-1).mean().item()


@fused
@pytest.mark.parametrize("how", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"quantize": "sglang-nvfp4-online"}, {"experts": ONLINE}),
        ({"quantize": "all-linear"}, {"experts": f"{RECIPE}-tensor", "attention": f"{RECIPE}-tensor"}),
        ({"quantize": "all-linear", "weights": "standard"}, dict.fromkeys(("experts", "attention"), "standard-tensor")),
        ({"quantize": "activations"}, {"experts": None, "attention": None}),
        ({"quantize": "activations", "modules": "*.experts.*"}, {"experts": None}),
    ],
)
def test_it_equals_module_surgery(toy, text, given, parts, how):
    if how != "grouped_mm" and given != {"quantize": "sglang-nvfp4-online"}:
        pytest.skip("one preset shows that implementations agree")
    toy.set_experts_implementation(how)
    batches = [text[:4], text[4:]]
    found = nvfp4viz.impact(toy, batches, [RECIPE], **given)
    perplexity, kl = effect(toy, operated(toy, RECIPE, **parts), batches)
    row = found.table().iloc[1]
    assert not found.skipped and row["kl"] > 0.001
    assert row["perplexity"] == pytest.approx(perplexity, rel=1e-3)
    assert row["kl"] == pytest.approx(kl, rel=2e-2)  # a router that is almost undecided may turn round


@fused
def test_it_says_what_is_quantized(toy, text):
    online = nvfp4viz.impact(toy, [text[:1]], ["standard"], quantize="sglang-nvfp4-online")
    assert "64 matrices; weights by 4/6-mse-448-tensor-fast" in repr(online) and "% of multiply-adds" in repr(online)
    coverage = online.provenance["coverage"]
    assert 0.3 < coverage["share"] < 0.7
    assert "experts only" in coverage["unobserved"]["model.layers.0.self_attn.q_proj"]["why"]
    assert "router" in coverage["unobserved"]["model.layers.0.mlp.gate"]["why"]
    every = nvfp4viz.impact(toy, [text[:1]], ["standard"], quantize="all-linear")
    coverage = every.provenance["coverage"]
    assert coverage["share"] > 0.9 and "output layer" in str(coverage["unobserved"])


@fused
def test_a_part_of_the_experts_can_be_quantized(toy, text):
    toy.set_experts_implementation("grouped_mm")
    all_of, one = (nvfp4viz.impact(toy, [text[:2]], ["standard"], modules=m).table()["kl"][1]
                   for m in ("*.experts.*", "*.3.mlp.experts.0.*"))  # fmt: skip
    none = nvfp4viz.impact(toy, [text[:2]], ["standard"], modules="*.3.mlp.experts.3.*")  # is routed next to nothing
    assert 0 < one < all_of and none.table()["kl"][1] < one


@fused
def test_each_layer_alone(toy, text):
    modules = ["*.0.mlp.experts.*", "*.1.self_attn.o_proj"]
    found = nvfp4viz.impact(toy, [text[:2]], ["standard"], modules=modules, per_layer=True)
    assert list(found.table()["module"]) == [
        "all", "all", "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj",
        "model.layers.1.self_attn.o_proj"]  # fmt: skip
    assert (found.layers()["output_error"] > 0).all()


@fused
def test_per_tensor_recipes_scale_what_is_routed_together_and_implementations_agree(toy, text):
    kl = []
    for how in ("eager", "grouped_mm", "batched_mm"):
        toy.set_experts_implementation(how)
        kl.append(nvfp4viz.impact(toy, [text[:2]], ["standard-tensor"], modules="*.experts.*").table()["kl"][1])
    assert kl == pytest.approx([kl[0]] * 3, rel=1e-2)


def test_a_compiled_model_is_measured_as_written(toy, text):
    plain = nvfp4viz.impact(toy, [text[:1]], ["standard"]).table()["kl"][1]
    compiled = nvfp4viz.impact(torch.compile(toy, backend="eager"), [text[:1]], ["standard"]).table()["kl"][1]
    assert compiled == pytest.approx(plain, rel=1e-3) and compiled > 0


def test_where_nothing_ran_quantized_it_is_an_error():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.odd, self.out = nn.Embedding(30, 24), nn.Linear(24, 24), nn.Linear(24, 30)

        def forward(self, input_ids):
            return self.out(self.odd(self.embed(input_ids)))

    model = Narrow().eval()
    with pytest.raises(NothingQuantizedError, match=r"nothing ran quantized under standard: odd: K=24"):
        nvfp4viz.impact(model, [torch.randint(0, 30, (2, 9))], ["standard"], modules="odd")


def test_a_weight_that_cannot_be_quantized_keeps_its_activations_quantized(toy, text):
    model = copy.deepcopy(toy)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[0, 0] = torch.nan
    module = "model.layers.0.self_attn.o_proj"
    found = nvfp4viz.impact(toy, [text[:1]], ["standard"], modules=module, quantize="activations+weights")
    assert not found.skipped
    from nvfp4viz.model.presets import plan_of
    from nvfp4viz.model.swap import Decoded, Swap

    plan = plan_of(model, "activations+weights", module, None, None)
    decoded = Decoded(plan, nvfp4viz.Recipe(per_token=False), "auto")
    skipped = {}
    with torch.no_grad(), Swap(plan, nvfp4viz.Recipe(), decoded, "auto", skipped) as swap:
        model(text[:1])
    assert "NaN" in decoded.kept[module] and not skipped and swap.ran[module] == 1


def test_padding_on_the_left_predicts_nothing(toy, text):
    x, mask = text[:2, :64].clone(), torch.ones(2, 64, dtype=torch.long)
    mask[0, :20] = 0
    table = nvfp4viz.impact(toy, [{"input_ids": x, "attention_mask": mask}], ["standard"]).table()
    assert set(table["tokens"]) == {63 + 43}


def test_bert_gets_an_error_and_what_is_no_language_model_its_own_loss():
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    x = torch.randint(0, 64, (4, 12))
    with pytest.raises(ValueError, match="BertForMaskedLM looks at tokens to come"):
        nvfp4viz.impact(transformers.BertForMaskedLM(config).eval(), [x], ["standard"])
    model = transformers.BertForSequenceClassification(config).eval()
    with pytest.raises(ValueError, match=r"not logits \[B, T, V\]"):
        nvfp4viz.impact(model, [x], ["standard"])
    labels = torch.tensor([0, 1, 1, 0])
    found = nvfp4viz.impact(
        model, [(x, labels)], ["standard"], forward=lambda m, batch: m(batch[0]).logits,
        loss=lambda logits, batch: nn.functional.cross_entropy(logits.reshape(-1, 2), batch[1], reduction="none"),
    )  # fmt: skip
    row = found.table().iloc[0]
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(x).logits, labels)
    assert row["tokens"] == 4 and row["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)
    assert found.table()["kl"][1] > 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"quantize": "nvfp4"}, "neither"),
        ({"quantize": "checkpoint"}, "go together"),
        ({"weights": "standard"}, "leaves no weight"),
        ({"quantize": "sglang-nvfp4-online", "modules": "*.q_proj"}, "experts only"),
        ({"loss": print}, "without forward="),
    ],
)
def test_mistakes_of_the_caller(toy, text, given, why):
    with pytest.raises(ValueError, match=why):
        nvfp4viz.impact(toy, [text[:1]], ["standard"], **given)


def test_weights_that_are_not_here_are_one_clear_error_before_any_pass(toy, text):
    model = copy.deepcopy(toy)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    o_proj = model.model.layers[2].self_attn.o_proj
    o_proj.weight = nn.Parameter(o_proj.weight.to("meta"))
    with pytest.raises(ValueError, match=r"2\.self_attn\.o_proj: its weight is on the meta device: it is offloaded"):
        nvfp4viz.impact(model, [text[:1]], ["standard"], quantize="all-linear")
    o_proj.weight = nn.Parameter(torch.empty(0))
    with pytest.raises(ValueError, match="it is sharded"):
        nvfp4viz.impact(model, [text[:1]], ["standard"], quantize="activations+weights")
    assert not calls


def test_a_model_that_is_quantized_already_is_not_called_unquantized(toy, text):
    model = copy.deepcopy(toy)
    model.config.quantization_config = {"quant_method": "compressed-tensors"}
    table = nvfp4viz.impact(model, [text[:1]], ["standard"]).table()
    assert table["recipe"][0] == "as loaded (compressed-tensors)"
    with pytest.raises(ValueError, match="quantized already, by compressed-tensors"):
        nvfp4viz.impact(model, [text[:1]], ["standard"], quantize="all-linear")


@pytest.mark.parametrize("made_by", ["modelopt", "compressed-tensors"])
@pytest.mark.parametrize("family", ["llama", "qwen3-moe"])
def test_a_checkpoint_gives_its_modules_weights_and_scales(family, made_by):
    stored = CHECKPOINTS / f"{family}-{made_by}"
    plain = CHECKPOINTS / f"{family}-bf16"
    if not stored.is_dir() or not plain.is_dir():
        pytest.skip(f"no checkpoint {stored.name} here")
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    x = torch.randint(0, model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    found = nvfp4viz.impact(model, [x], ["standard-tensor"], quantize="checkpoint", checkpoint=stored)
    checkpoint = nvfp4viz.checkpoint(stored)
    other = copy.deepcopy(model)
    for name, module in other.named_modules():  # of the dense layers; experts by hand below
        if isinstance(module, nn.Linear) and name in checkpoint.matrices:
            scale = checkpoint.scales[name]["input"]

            def forward(x, weight=checkpoint.weights[name], scale=scale, bias=module.bias):
                q = nvfp4viz.quantize(x, "standard-tensor", encode_scale=None if scale is None else 1 / scale)
                return linear(q.dequantize().reshape(x.shape), weight, bias)

            module.forward = forward
    if family == "llama":
        assert found.table()["kl"][1] == pytest.approx(effect(model, other, [x])[1], rel=1e-3)
    assert found.table()["kl"][1] > 0 and "as the checkpoint has them" in repr(found)


@fused
def test_the_command_runs_presets_and_says_what_is_quantized(tmp_path, capsys):
    from nvfp4viz.cli.main import main

    given = ["impact", str(TOY), str(TOY.parent / "alice.txt"), "--tokens", "200", "--length", "100", "-q"]
    given += ["--recipes", "standard"]
    assert main([*given, "--quantize", "sglang-nvfp4-online"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("inputs and weights of 64 matrices; weights by 4/6-mse-448-tensor-fast")
    assert "% of multiply-adds" in printed.splitlines()[0] and "unquantized" in printed
    assert main([*given, "--weight-recipe", "standard"]) == 2
    assert "leaves no weight" in capsys.readouterr().err


def test_where_all_is_skipped_the_command_ends_with_1(monkeypatch, tmp_path, capsys):
    from nvfp4viz.cli.main import main
    from nvfp4viz.integrations import huggingface

    def nothing(*_, **__):
        raise NothingQuantizedError("nothing ran quantized under standard: odd: K=24")

    monkeypatch.setattr(huggingface, "impact", nothing)
    given = ["impact", str(TOY), str(TOY.parent / "alice.txt"), "--tokens", "20", "--length", "10", "-q"]
    assert main(given) == 1 and "nothing ran quantized" in capsys.readouterr().err


def test_a_vision_language_model_is_loaded_and_its_language_part_measured(tmp_path):
    from nvfp4viz.integrations.huggingface import load_model

    text = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "pad_token_id": 0,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(TOY).save_pretrained(tmp_path)
    model, tokenizer = load_model(tmp_path)
    ids = torch.tensor(tokenizer("A vision-language model").input_ids)[None]
    found = nvfp4viz.impact(model, [ids], ["standard"])
    assert found.table()["kl"][1] > 0
    assert all("vision" in n or "multi_modal" in n for n in found.skipped)


def test_recorders_sweeps_and_verdicts_say_the_coverage(toy, text):
    with nvfp4viz.record(toy, "*.experts.*", ["standard", RECIPE]) as recorder, torch.no_grad():
        toy(text[:2])
    sweep = recorder.sweep()
    said = "% of multiply-adds"
    assert said in repr(recorder) and said in repr(sweep) and said in nvfp4viz.recommend(sweep).sentence()


@fused
def test_a_prediction_holds_before_and_behind_routers(toy, text):
    """Errors before a router also send tokens to other experts, which no gradient sees (docs/verdict.md)."""
    toy.set_experts_implementation("grouped_mm")
    found = nvfp4viz.sensitivity(toy, [text], [RECIPE], draws=4)
    plain = nvfp4viz.sensitivity(toy, [text], [RECIPE], draws=4, level=False)  # the same gradients

    def of(pattern):
        """Measured KL of the inputs that fit, one at a time, and what is predicted with and without routing."""
        layers = {n: readers for n, readers in found.names.items() if re.fullmatch(pattern, n) and n not in found.apart}
        measured = sum(
            nvfp4viz.impact(toy, [text], [RECIPE], modules=list(readers)).table()["kl"].iloc[-1]
            for readers in layers.values()
        )
        return [sum(f.kl(n, RECIPE) for n in layers) / measured for f in (found, plain)]

    behind, same = of(r".*\.3\.mlp\.experts\..*down_proj")
    assert behind == same == pytest.approx(1, abs=0.15)
    before, lower = of(r".*self_attn.*")
    assert lower < 0.55 and lower + 0.15 < before < 1.3  # of so few tokens, few turn over
    assert found.total(RECIPE) > 1.05 * plain.total(RECIPE) and found.total(RECIPE) < sum(
        found.kl(n, RECIPE) for n in found.nats if n not in found.apart
    )
