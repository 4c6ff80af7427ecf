"""Against SGLang's own code, read from its wheel: hook registration, dumper, tensor dump; and sharded files."""

import contextlib
import importlib.util
import json
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nvfp4viz
from nvfp4viz.integrations import sglang

ROOT = Path(__file__).parents[2]
VERSION = "0.5.23"
WHEELS = sorted((ROOT / ".cache" / "wheels").glob(f"sglang-{VERSION}-*.whl"))
needs_wheel = pytest.mark.skipif(
    not WHEELS, reason=f"no wheel of sglang {VERSION} in .cache/wheels: make wheels fetches it"
)


@contextlib.contextmanager
def module_of_wheel(path, **stand_ins):
    """A file of the wheel as a module, with empty stand-ins for what it imports and these tests do not run."""
    before = dict(sys.modules)
    for name, attributes in stand_ins.items():
        parts = name.split("__")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        for attribute in attributes:
            setattr(sys.modules[".".join(parts)], attribute, type(attribute, (), {}))
    module = types.ModuleType(Path(path).stem)
    sys.modules[module.__name__] = module  # where dataclasses look their module up
    try:
        with zipfile.ZipFile(WHEELS[-1]) as wheel:
            exec(compile(wheel.read(path), path, "exec"), module.__dict__)
        yield module
    finally:
        sys.modules.clear()
        sys.modules.update(before)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x):
        return self.down_proj(self.gate_up_proj(x).relu())


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(MLP() for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = Inner()

    def forward(self, x):
        return self.model(x)


def tokens(n=24, seed=1):
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def at_exit(monkeypatch):
    """What the hook registers to run at exit, not registered."""
    registered = []
    monkeypatch.setattr(sglang, "atexit", types.SimpleNamespace(register=registered.append))
    return registered


def spec(output, targets, **config):
    return [{
        "name": "nvfp4viz", "target_modules": targets, "hook_factory": "nvfp4viz.integrations.sglang:record",
        "config": {"output": str(output), "recipes": ["standard", "4/6-mse-256"], **config},
    }]  # fmt: skip


# SGLang's forward hooks


@needs_wheel
def test_sglang_registers_the_hook_and_each_module_has_its_name(tmp_path, at_exit):
    model, x = Model(), tokens()
    with module_of_wheel("sglang/srt/model_executor/hook_manager.py") as manager:
        manager.register_forward_hooks(model, spec(tmp_path / "s.json", ["*.down_proj"]))
    before = Model()(x)
    assert torch.equal(model(x), before)
    (save,) = at_exit
    save()
    sweep = nvfp4viz.Sweep.load(tmp_path / "s.json")
    assert sweep.tensors == ["model.layers.0.down_proj", "model.layers.1.down_proj"]
    with nvfp4viz.record(Model(), "*.down_proj", ["standard"]) as recorder:
        recorder._model(x)
    for name in sweep.tensors:
        assert sweep.stats[name]["standard"] == recorder.sweep().stats[name]["standard"]


@needs_wheel
def test_it_saves_whole_passes_every_so_often(tmp_path, at_exit):
    model = Model()
    with module_of_wheel("sglang/srt/model_executor/hook_manager.py") as manager:
        manager.register_forward_hooks(model, spec(tmp_path / "s.json", ["*proj"], every=2))

    def written():
        sweep = nvfp4viz.Sweep.load(tmp_path / "s.json")
        return [sweep.stats[t]["standard"].tokens for t in sweep.tensors]

    model(tokens(10))
    assert written() == [10] * 4  # behind the first pass
    for _ in range(4):
        model(tokens(10))  # at the start of the third and of the fifth
    assert written() == [40] * 4


@needs_wheel
def test_two_specs_have_two_files_and_a_failing_module_harms_no_other(tmp_path, at_exit):
    model = Model()
    with module_of_wheel("sglang/srt/model_executor/hook_manager.py") as manager:
        manager.register_forward_hooks(model, spec(tmp_path / "a.json", ["*.1.down_proj"]))
        manager.register_forward_hooks(model, spec(tmp_path / "b.json", ["*.1.down_proj", "model.layers.0"]))
    model.model.layers[0](tokens() * torch.inf)
    model(tokens())
    for save in at_exit:
        save()
    a, b = (nvfp4viz.Sweep.load(tmp_path / f"{name}.json") for name in "ab")
    assert a.tensors == ["model.layers.1.down_proj"]
    assert b.tensors == ["model.layers.0", "model.layers.1.down_proj"]
    assert not a.skipped and b.provenance["remarks"] == {"model.layers.0": "24 rows with NaN or Inf left out"}


def test_without_the_model_names_come_from_prefix_or_from_class_shape_and_order():
    names, model = sglang.Names(), Model()
    a, b = model.model.layers
    a.down_proj.prefix = b.down_proj.prefix = "model.layers.0.down_proj"
    assert names[a.down_proj] == "model.layers.0.down_proj"
    assert names[b.down_proj] == "Linear 64x128 #0"
    assert names[a.gate_up_proj] == "Linear 128x64 #0" and names[b.gate_up_proj] == "Linear 128x64 #1"
    assert names[a] == "MLP #0" and names[b.down_proj] == "Linear 64x128 #0"


@pytest.mark.parametrize(
    ("config", "error", "why"),
    [
        ({"outptu": "x.json"}, ValueError, "no key .*outptu.*output"),
        ({"output": "x.csv"}, ValueError, r"output is a \.json"),
        ({"output": "no/such/folder/x.json"}, FileNotFoundError, "does not exist"),
        ({"every": 0}, ValueError, "at least 1"),
        ({"recipes": ["standrad"]}, ValueError, "did you mean 'standard'"),
        ({"engine": "gpu"}, ValueError, "unknown engine"),
    ],
)
def test_a_mistake_in_the_config_stops_the_server_at_its_start(config, error, why, at_exit):
    with pytest.raises(error, match=why):
        sglang.record(config)


def test_a_full_disk_is_reported_and_the_server_goes_on(tmp_path, at_exit):
    folder = tmp_path / "gone"
    folder.mkdir()
    hook = sglang.record({"output": str(folder / "s.json"), "recipes": ["standard"]})
    folder.rmdir()
    hook(nn.Linear(64, 64), (tokens(),), None)
    with pytest.warns(UserWarning, match="could not write"):
        at_exit[0]()


# files that SGLang writes


SGLANG = {
    "zmq": [],
    "sglang__srt__managers__io_struct": ["sock_recv", "sock_send", "wrap_as_pickle"],
    "sglang__srt__runtime_context": ["get_parallel", "get_server_args", "get_serving"],
    "sglang__srt__utils": ["get_device"],
    "sglang__srt__layers__logits_processor": ["LogitsProcessorOutput"],
    "sglang__srt__model_executor__forward_batch_info": ["ForwardBatch", "PPProxyTensors"],
}


@needs_wheel
def test_what_its_dumper_wrote_is_read_step_after_step(tmp_path):
    model = Model()
    with module_of_wheel("sglang/srt/debug_utils/dumper.py", **SGLANG) as module:
        module._plugins.clear()  # they ask a running server
        config = module.DumperConfig(
            enable=True, dir=str(tmp_path), exp_name="run", non_intrusive_mode="all", enable_output_console=False
        )
        dumper = module._Dumper(config=config)
        dumper.register_non_intrusive_dumper(model)
        for step in range(11):
            model(tokens(3, seed=step))
            dumper.step()
        dumper.reset()
    loaded = nvfp4viz.load(tmp_path)
    assert len(list((tmp_path / "run").glob("*.pt"))) > 11
    x = loaded["model.inputs.0"]
    assert torch.equal(x, torch.cat([tokens(3, seed=step) for step in range(11)]))
    assert loaded["model.layers.1.down_proj.inputs.0"].shape == (33, 128)
    one = nvfp4viz.sweep({"x": loaded["model.layers.0.gate_up_proj.inputs.0"]}, ["standard"])
    assert one.stats["x"]["standard"].tokens == 33


@needs_wheel
def test_what_its_tensor_dump_wrote_is_read_pass_after_pass(tmp_path):
    model = Model()
    with module_of_wheel("sglang/srt/debug_utils/tensor_dump_forward_hook.py", **SGLANG) as module:
        module.register_forward_hook_for_model(model, str(tmp_path / "hooked"), None, 2, 0, 0)
        dumper = module.TensorDumper(str(tmp_path / "again"), None, 2, 1, 0)
        for step in range(3):
            dumper.add_tensor("model.layers.0.down_proj", tokens(2, seed=step))
            dumper.add_tensor("model.norm", [tokens(2, seed=step), None, tokens(2, seed=step + 9)])
            dumper.dump_current_tensors()
        for _ in range(3):
            model(tokens(4))
    loaded = nvfp4viz.load(tmp_path / "again")
    assert sorted(loaded) == [
        "model.layers.0.down_proj [rank 1]", "model.norm.0 [rank 1]", "model.norm.1 [rank 1]"]  # fmt: skip
    assert torch.equal(loaded["model.layers.0.down_proj [rank 1]"], torch.cat([tokens(2, seed=s) for s in range(3)]))
    hooked = nvfp4viz.load(tmp_path / "hooked")  # in TP0_PP0_Rank0_pid...
    assert hooked["model.layers.1.down_proj"].shape == (12, 64)


def test_files_of_the_documented_form_are_read_without_the_wheel(tmp_path):
    folder = tmp_path / "dump_1"
    folder.mkdir()
    for step in (10, 9):
        tags = {"step": step, "rank": 0, "dump_index": step, "name": "non_intrusive__model.layers.0.mlp.inputs.0"}
        file = "___".join(f"{k}={v}" for k, v in tags.items()) + ".pt"
        torch.save({"value": tokens(2, seed=step), "meta": tags}, folder / file)
    ids = {"step": 9, "rank": 0, "dump_index": 99, "name": "input_ids"}
    torch.save({"value": torch.arange(3), "meta": ids}, folder / "step=9___rank=0___dump_index=99___name=input_ids.pt")
    loaded = nvfp4viz.load(tmp_path)
    assert list(loaded) == ["model.layers.0.mlp.inputs.0"]
    assert torch.equal(loaded["model.layers.0.mlp.inputs.0"], torch.cat([tokens(2, seed=9), tokens(2, seed=10)]))
    assert len(loaded.sources) == 3


def test_steps_of_other_widths_are_reported_for_that_tensor(tmp_path):
    for i, k in enumerate((64, 32)):
        torch.save({"a": torch.ones(2, k), "b": torch.ones(2, 64)}, tmp_path / f"Pass{i:05d}.pt")
    sweep = nvfp4viz.sweep(nvfp4viz.load(tmp_path), ["standard"])
    assert sweep.tensors == ["b"] and "features differ between steps: [32, 64]" in sweep.skipped["a"]


# sharded and hidden files


def test_an_index_stands_for_its_shards(tmp_path):
    save_file({"a": tokens()}, tmp_path / "x-00001-of-00002.safetensors")
    save_file({"b": tokens()}, tmp_path / "x-00002-of-00002.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    names = {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert sorted(nvfp4viz.load(index)) == sorted(nvfp4viz.load(tmp_path)) == ["a", "b"]
    (tmp_path / names["b"]).unlink()
    for path in (index, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"lists x-00002-of-00002\.safetensors, which the folder lacks"):
            nvfp4viz.load(path)
    index.write_text("[]")
    with pytest.raises(ValueError, match="not a list of shards"):
        nvfp4viz.load(index)


def test_what_a_killed_writer_left_hidden_is_passed_over(tmp_path):
    save_file({"a": tokens()}, tmp_path / "a.safetensors")
    (tmp_path / ".a.safetensors.x1.safetensors").write_bytes(b"half")
    assert list(nvfp4viz.load(tmp_path)) == ["a"]


# Hugging Face


def test_without_transformers_the_loader_says_what_to_install(tmp_path, monkeypatch):
    from nvfp4viz.integrations.huggingface import load_model

    with pytest.raises(FileNotFoundError, match="no model at"):
        load_model(tmp_path / "none")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeError, match="pip install transformers"):
        load_model(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_a_folder_without_a_model_is_named(tmp_path):
    from nvfp4viz.integrations.huggingface import load_model

    with pytest.raises(ValueError, match="cannot load a model from"):
        load_model(tmp_path)


def test_a_text_becomes_sequences():
    from nvfp4viz.integrations.huggingface import batches

    tokenizer = lambda text: types.SimpleNamespace(input_ids=list(range(len(text))))  # noqa: E731
    shapes = [tuple(b.shape) for b in batches(tokenizer, "x" * 100, 95, 20, 3)]
    assert shapes == [(3, 20), (1, 20), (1, 15)]
