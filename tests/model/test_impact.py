"""`impact`: against itself, against plain formulas, and without a trace left in the model."""

import argparse
import types

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import nvfp4viz
from nvfp4viz.model import impact
from nvfp4viz.model.swap import decoded

V = 50
PAIR = ["standard", "4/6-mse-256"]


class Model(nn.Module):
    """A language model in small: tied embedding, two blocks whose two layers share an input, logits in an object."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(V, 64)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({n: nn.Linear(64, 64) for n in ("gate", "up", "down")}) for _ in range(2)
        )
        self.lm_head = nn.Linear(64, V, bias=False)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.lm_head.weight = self.embed.weight

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = x + block["down"](torch.sigmoid(block["gate"](x)) * block["up"](x))
        return types.SimpleNamespace(logits=self.lm_head(x))


@pytest.fixture
def model():
    return Model().eval()


def ids(*shape, seed=1):
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))


def by_hand(model, batches, recipe, names=None, weights=False):
    """Perplexity, KL and agreement with inputs quantized by wrapping forward, one batch after another."""
    layers = {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and n != "lm_head" and (not names or n in names)
    }
    before = [model(b).logits for b in batches]
    for layer in layers.values():
        weight = layer.weight
        if weights:
            weight = nvfp4viz.quantize(weight, f"{recipe}-tensor").dequantize()

        def forward(x, layer=layer, weight=weight):
            x_hat = nvfp4viz.quantize(x, recipe).dequantize().reshape(x.shape)
            return nn.functional.linear(x_hat, weight, layer.bias)

        layer.forward = forward
    after = [model(b).logits for b in batches]
    for layer in layers.values():
        del layer.forward
    p, q = (torch.cat([torch.log_softmax(x[:, :-1].double(), -1).flatten(0, 1) for x in xs]) for xs in (before, after))
    targets = torch.cat([b[:, 1:].flatten() for b in batches])
    loss = torch.nn.functional.nll_loss(q, targets)
    return (
        loss.exp().item(),
        (p.exp() * (p - q)).sum(-1).mean().item(),
        (p.argmax(-1) == q.argmax(-1)).double().mean().item(),
    )


@pytest.mark.parametrize("quantize", ["activations", "activations+weights"])
def test_it_equals_quantizing_by_hand(model, quantize):
    batches = [ids(3, 200), ids(1, 37, seed=2)]
    found = impact(model, batches, ["standard", "4/6-mse-256"], quantize=quantize)
    table = found.table().set_index("recipe")
    assert list(table.index) == ["unquantized", "standard", "4/6-mse-256"] and set(table["module"]) == {"all"}
    with torch.no_grad():
        for recipe in ("standard", "4/6-mse-256"):
            perplexity, kl, same = by_hand(model, batches, recipe, weights="+" in quantize)
            row = table.loc[recipe]
            assert row["tokens"] == 3 * 199 + 36
            assert row["perplexity"] == pytest.approx(perplexity, rel=1e-5)
            assert row["kl"] == pytest.approx(kl, rel=1e-2, abs=1e-6)
            assert row["top1_agreement"] == pytest.approx(same, abs=1e-12) and 0 < row["kl"] < 1
            change = row["perplexity"] - table.loc["unquantized", "perplexity"]
            assert row["perplexity_change"] == pytest.approx(change, rel=1e-9)


@pytest.mark.parametrize("quantize", ["activations", "activations+weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recipe_that_changes_nothing_shows_exactly_nothing(model, quantize, dtype):
    found = impact(model.to(dtype), [ids(2, 300)], [None, "identity"], quantize=quantize, per_layer=True)
    table = found.table()
    table = table[~table.recipe.str.startswith("floor")]  # of bfloat16 itself
    for column in ("perplexity_change", "kl"):
        for end in ("", "_low", "_high"):
            assert (table[column + end] == 0).all()
    assert (table["top1_agreement"] == 1).all() and table["perplexity"].nunique() == 1
    layers = found.layers()
    assert (layers["output_error"][~layers.recipe.str.startswith("floor")] == 0).all()


def test_one_layer_at_a_time(model):
    found = impact(model, [ids(2, 100)], ["standard"], modules="blocks.*", per_layer=True)
    table = found.table().set_index("module")
    assert len(table) == 2 + 6
    with torch.no_grad():
        for name in ("blocks.0.gate", "blocks.1.down"):
            assert table.loc[name, "perplexity"] == pytest.approx(
                by_hand(model, [ids(2, 100)], "standard", {name})[0], rel=1e-5
            )
    layers = found.layers()
    alone = layers[layers.quantized != "all"]
    assert list(alone.quantized) == list(alone.module) and len(layers) == 12


def test_the_error_of_a_layer_is_relative_to_its_output(model):
    x, layer, seen = ids(2, 400), model.blocks[0]["gate"], []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    found = impact(model, [x], ["4/6-mae-448"], modules="blocks.0.gate").layers()
    handle.remove()
    with torch.no_grad():
        y0, y = layer(seen[0]), layer(decoded(seen[0], nvfp4viz.Recipe.parse("4/6-mae-448"), "auto"))
    assert found["output_error"].item() == pytest.approx(((y - y0).norm() / y0.norm()).item(), rel=1e-5)
    assert found["output_error_low"].item() < found["output_error"].item() < found["output_error_high"].item()


def test_the_model_is_left_as_it_was_even_by_an_error(model):
    before = dict(model.named_parameters())
    values = {n: p.clone() for n, p in before.items()}
    impact(model, [ids(2, 64)], quantize="activations+weights")

    def stop(done, total, what):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        impact(model, [ids(2, 64)], quantize="activations+weights", progress=stop)
    assert all(p is before[n] and torch.equal(p, values[n]) for n, p in model.named_parameters())
    assert model.lm_head.weight is model.embed.weight
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_quantizing_a_tied_output_layer_leaves_the_embedding(model):
    x, seen = ids(2, 64), []
    model.embed.register_forward_hook(lambda module, args, out: seen.append(out))
    impact(model, [x], ["standard"], modules="lm_head", quantize="activations+weights")
    assert all(torch.equal(out, seen[0]) for out in seen) and len(seen) == 2


def test_masked_tokens_do_not_count(model):
    x, mask = ids(2, 80), torch.ones(2, 80, dtype=torch.long)
    mask[1, 40:] = 0
    found = impact(model, [{"input_ids": x, "attention_mask": mask}], ["standard"]).table()
    assert set(found["tokens"]) == {79 + 39}


def test_intervals_hold_the_value_and_are_missing_where_tokens_are_few(model):
    row = impact(model, [ids(4, 400)], ["standard"]).table().iloc[1]
    for name in ("perplexity", "perplexity_change", "kl", "top1_agreement"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert row["perplexity_low"] < row["perplexity_high"]
    few = impact(model, [ids(1, 100)], ["standard"]).table().iloc[1]
    assert np.isnan(few["perplexity_low"]) and np.isfinite(few["perplexity"])


def test_rows_of_batches_are_sequences_and_a_single_one_falls_back_to_runs_and_says_so(model):
    several = impact(model, [ids(3, 70), ids(2, 40, seed=2)], ["standard"])
    assert several.sequences.tolist() == [0, 0, 1, 1, 2, 2, 3, 4] and several.judged_by == "5 sequences"
    (effect,) = several.effects
    assert effect.layers and all(v[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 4] for v in effect.layers.values())
    assert "(5 sequences)" in repr(several) and set(several.table()["sequences"]) == {5}
    one = impact(model, [ids(1, 700)], ["standard"])
    assert "one sequence is all there is; widened by 1.64" in one.judged_by and one.judged_by in one.sentence()


def test_copies_of_a_sequence_are_one_draw(model, tmp_path):
    """What comes again, in its batch, in another one or with padding, narrows no interval and is said."""
    one = {"input_ids": ids(2, 70), "attention_mask": torch.ones(2, 70, dtype=torch.long)}
    padded = {k: nn.functional.pad(v, (9, 0)) for k, v in one.items()}  # on the left
    twice = torch.cat([one["input_ids"]] * 2).int()  # without a mask, by another dtype
    once = impact(model, [one], PAIR, per_layer=True)
    again = impact(model, [one, padded, twice], PAIR, per_layer=True)
    assert (once.copies, again.copies) == (0, 6)
    assert again.judged_by == "2 sequences; 6 copied sequences left out"
    assert again.judged_by in again.sentence() and again.judged_by in repr(again)
    pd.testing.assert_frame_equal(again.table(), once.table())
    pd.testing.assert_frame_equal(again.layers(), once.layers())
    again.save(tmp_path / "i.json")
    read = type(again).load(tmp_path / "i.json")
    assert read.sentence() == again.sentence()
    pd.testing.assert_frame_equal(read.table(), again.table())


def test_copies_of_the_only_sequence_resolve_nothing(model):
    """Its runs are judged; the same of a forward, in whatever its tensors come."""
    one, copies = (impact(model, [ids(1, 700)] * n, PAIR) for n in (1, 8))
    assert copies.judged_by == f"{one.judged_by}; 7 copied sequences left out"
    a, b = (found.difference(*PAIR) for found in (one, copies))
    assert b.interval == pytest.approx(a.interval, rel=1e-6)
    short = impact(model, [ids(1, 64).repeat(8, 1)], PAIR)
    assert short.judged_by == "too few tokens; 7 copied sequences left out"
    assert "too few tokens for an interval" in short.sentence() and not short.difference(*PAIR).resolved

    def forward(model, batch):
        return model(batch["x"][0] if isinstance(batch, dict) else batch.ids).logits

    nested = [{"x": [ids(2, 64), np.ones(2)], "scale": 2.0}, {"x": [ids(2, 64).flip(0), np.ones(2)], "scale": 2.0}]
    assert impact(model, nested, PAIR, forward=forward).copies == 2
    nested[1]["scale"] = 3.0
    assert impact(model, nested, PAIR, forward=forward).copies == 0
    odd = {"x": [ids(2, 64)], "sparse": torch.eye(3).to_sparse(), "complex": torch.ones(2, dtype=torch.complex64)}
    assert impact(model, [odd, odd], PAIR, forward=forward).copies == 0  # who knows what a sparse tensor's rows are
    assert impact(model, [{**odd, "sparse": None}] * 2, PAIR, forward=forward).copies == 2
    unknown = [types.SimpleNamespace(ids=ids(1, 64)) for _ in range(8)]  # nobody can tell; but all of them are alike
    found = impact(model, unknown, PAIR, forward=forward)
    assert (found.copies, found.judged_by) == (0, "too few tokens")


def test_sequences_that_share_a_beginning_or_padding_alone_are_no_copies(model):
    x = ids(3, 80)
    x[1, :79] = x[0, :79]
    mask = torch.ones_like(x)
    mask[2, 40:] = 0
    cut = {"input_ids": x[2:, :40]}  # the third as it counts
    found = impact(model, [{"input_ids": x, "attention_mask": mask}, cut], PAIR)
    assert found.copies == 1 and found.judged_by.startswith("3 sequences")


def test_padding_has_no_part_in_the_error_of_a_layers_output(model):
    x = ids(2, 80)
    mask = torch.ones_like(x)
    mask[1, 40:] = 0
    padded = impact(model, [{"input_ids": x, "attention_mask": mask}], ["standard"]).layers()
    apart = impact(model, [x[:1], x[1:, :40]], ["standard"]).layers()
    assert len(padded) > 2
    pd.testing.assert_frame_equal(padded, apart, rtol=1e-5)


def test_control_ceilings_and_the_floor_of_bf16(model):
    found = impact(model.bfloat16(), [ids(4, 64)], ["4/6-mse-256", "standard"], controls=True, modules="*.gate",
                   per_layer=True)  # fmt: skip
    assert found.controls == ("4/6-mse-240", "4/6-mse-288") and set(found.whole) == {"4/6-mse-256", "standard"}
    table = found.table()
    kl = table[table.module == "all"].set_index("recipe")["kl"]
    alike = kl[["4/6-mse-240", "4/6-mse-256", "4/6-mse-288"]]
    assert found.spread == pytest.approx(alike.max() - alike.min()) and "Control ceilings" in found.sentence()
    floor = table[table.recipe.str.startswith("floor: one unit in the last place of bfloat16")]
    assert floor["module"].tolist() == ["blocks.0.gate"] and 0 < floor["kl"].item() < kl["standard"]
    exact = impact(model.float(), [ids(1, 64)], ["standard"], modules="*.gate", per_layer=True).table()
    assert not exact.recipe.str.startswith("floor").any()
    with pytest.raises(ValueError, match="controls=True needs a recipe with 4over6"):
        impact(model, [ids(1, 64)], ["standard"], controls=True)


def test_the_recipe_of_weights_is_named_apart(model):
    found = impact(model, [ids(1, 64)], ["standard", None], quantize="activations+weights", weights="4/6-mse-448")
    assert found.table()["weights"].tolist() == ["as they are", "4/6-mse-448-tensor", "as they are"]
    same = impact(model, [ids(1, 64)], ["4/6-mae-256"], quantize="activations+weights").table()
    assert same["weights"].tolist() == ["as they are", "4/6-mae-256-tensor"]


def test_a_layer_that_cannot_be_quantized_is_named_and_runs_as_it_is(model):
    model.blocks[1]["up"] = nn.Sequential(nn.Linear(64, 24), nn.Linear(24, 64))
    found = impact(model, [ids(2, 64)], ["standard"])
    assert list(found.skipped) == ["blocks.1.up.1"] and "K=24" in found.skipped["blocks.1.up.1"]


def test_per_tensor_and_keyword_inputs_and_progress(model):
    calls = []
    gate = model.blocks[0]["gate"]
    inner = gate.forward
    gate.forward = lambda input: inner(input)
    model.blocks[0]["gate"].register_forward_pre_hook(
        lambda m, a, k: ((), {"input": a[0]}) if a else None, with_kwargs=True
    )
    found = impact(model, [ids(1, 64)] * 2, ["standard-tensor"], progress=lambda *a: calls.append(a))
    assert not found.skipped and found.layers()["output_error"].min() > 0
    assert calls == [(0, 2, "standard-tensor"), (1, 2, "standard-tensor")]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"quantize": "weights"}, "neither"),
        ({"batches": []}, "no token is predicted"),
        ({"batches": [ids(2, 1)]}, "no token is predicted"),
        ({"modules": "embed"}, "embed, which are not linear"),
        ({"modules": "*.q_proj"}, "no module of Model"),
        ({"recipes": []}, "no recipe given"),
        ({"recipes": ["standrad"]}, "unknown recipe"),
    ],
)
def test_mistakes_of_the_caller(model, given, why):
    with pytest.raises(ValueError, match=why):
        impact(model, **{"batches": [ids(2, 64)], "recipes": ["standard"]} | given)


def test_a_model_in_training_mode_is_refused(model):
    with pytest.raises(ValueError, match=r"call model\.eval"):
        impact(model.train(), [ids(2, 64)])


def test_rounding_to_bf16_adds_little_to_the_error():
    x = nvfp4viz.synthetic("normal", 256, 1024)
    recipe = nvfp4viz.RECIPES["4/6-mse-256"]
    exact = nvfp4viz.quantize(x, recipe).dequantize().double()
    added = (decoded(x, recipe, "auto").double() - exact).square().sum()
    assert added < (exact - x.double()).square().sum() / 2500


def test_the_command_prints_and_writes_the_table(model, tmp_path, monkeypatch, capsys):
    from nvfp4viz.integrations import huggingface

    tokenizer = lambda text: types.SimpleNamespace(input_ids=[ord(c) % V for c in text])  # noqa: E731
    monkeypatch.setattr(huggingface, "load_model", lambda path: (model, tokenizer))
    (tmp_path / "text.txt").write_text("A text to be predicted, character by character. " * 20)
    parser = argparse.ArgumentParser()
    huggingface.add_arguments(parser)
    out = tmp_path / "table.csv"
    given = ["model", str(tmp_path / "text.txt"), "--tokens", "600", "--length", "100", "-o", str(out)]
    assert huggingface.run(parser.parse_args([*given, "--recipes", "standard", "identity"])) == 0
    printed = capsys.readouterr()
    assert "unquantized" in printed.out and "0/12" in printed.err
    assert out.read_text().startswith("recipe,weights,module,tokens,sequences,perplexity")
    assert "Least KL under standard" in printed.out


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        (["none.txt"], FileNotFoundError, "none.txt"),
        (["bytes"], ValueError, "'bytes' is no UTF-8 text"),
        (["text.txt", "-o", "none/t.csv"], FileNotFoundError, "folder 'none' does not exist"),
        (["text.txt", "-o", "t.html"], ValueError, "use .json"),
        (["text.txt", "--recipes", "standart"], ValueError, "did you mean 'standard'"),
        (["text.txt", "--engine", "cpuu"], ValueError, "did you mean 'cpu'"),
        (["text.txt", "--length", "0"], ValueError, "both are at least 2"),
    ],
)
def test_the_command_says_mistakes_before_the_model_is_loaded(tmp_path, monkeypatch, given, error, why):
    from nvfp4viz.integrations import huggingface

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface, "load_model", lambda path: pytest.fail("loaded"))
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    parser = argparse.ArgumentParser()
    huggingface.add_arguments(parser)
    with pytest.raises(error, match=why):
        huggingface.run(parser.parse_args(["model", *given]))
