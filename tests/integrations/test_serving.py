"""SGLang's hook manager and vLLM's worker, from their wheels, on stand-ins: fused experts, drafts, ranks, kills."""

import importlib
import json
import signal
import subprocess
import sys
import types
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_integrations import module_of_wheel, needs_wheel, spec
from torch import nn

import nvfp4viz
from nvfp4viz.integrations import serving, sglang, vllm

ROOT = Path(__file__).parents[2]
VLLM = sorted((ROOT / ".cache" / "wheels").glob("vllm-0.33.0-*.whl"))
needs_vllm = pytest.mark.skipif(not VLLM, reason="no wheel of vllm 0.33.0 in .cache/wheels: make wheels fetches it")
TopK = namedtuple("TopK", "topk_weights topk_ids router_logits")  # SGLang's StandardTopKOutput
HOOKS = "sglang/srt/model_executor/hook_manager.py"


class FusedMoE(nn.Module):
    """As SGLang's: weights w13 and w2, routing in the call, and a kernel that overwrites its input."""

    def __init__(self, experts=4, hidden=64, inner=32):
        super().__init__()
        self.w13_weight = nn.Parameter(torch.randn(experts, 2 * inner, hidden) / 8)
        self.w2_weight = nn.Parameter(torch.randn(experts, hidden, inner) / 6)
        config = {"activation": "silu", "inplace": True, "apply_router_weight_on_input": False}
        self.moe_runner_config = types.SimpleNamespace(**config)

    def forward(self, hidden_states, topk_output):
        out = torch.zeros_like(hidden_states)
        for e in range(len(self.w13_weight)):
            token, place = (topk_output.topk_ids == e).nonzero(as_tuple=True)
            hidden = self.activated(hidden_states[token], e)
            out.index_add_(0, token, F.linear(hidden, self.w2_weight[e]) * topk_output.topk_weights[token, place, None])
        return hidden_states.copy_(out)  # in place

    def activated(self, x, e):
        gate, up = F.linear(x, self.w13_weight[e]).chunk(2, -1)
        return F.silu(gate) * up


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(64, 4), FusedMoE()

    def routing(self, x):
        weights, ids = torch.softmax(self.gate(x), -1).topk(2, -1)
        return TopK(weights, ids, None)

    def forward(self, x):
        return self.experts(hidden_states=x.clone(), topk_output=self.routing(x))  # keyword call


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.ModuleDict({"mlp": Block(), "out": nn.Linear(64, 64)}) for _ in range(2))

    @torch.no_grad()
    def forward(self, x):
        for layer in self.layers:
            x = x + layer["out"](layer["mlp"](x))
        return x


def tokens(n=24, seed=1):
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def at_exit(monkeypatch):
    registered = []
    monkeypatch.setattr(sglang, "atexit", types.SimpleNamespace(register=registered.append))
    monkeypatch.setattr(serving, "_written", type(serving._written)())
    return registered


def hooked(model, output, patterns, **config):
    with module_of_wheel(HOOKS) as manager:
        manager.register_forward_hooks(model, spec(output, patterns, **config))


def check_experts(sweep, model, x):
    """What a block was called with, and what each expert's activation function gave."""
    block = model.layers[0]["mlp"]
    with torch.no_grad():
        ids = block.routing(x).topk_ids
        served = sweep.stats["layers.0.mlp.experts"]["standard"]
        assert served.nmse == pytest.approx(nvfp4viz.analyze(x, "standard").nmse, rel=1e-9) and served.nmse > 1e-3
        for e in range(4):
            rows = x[(ids == e).any(-1)]
            for name, expected in (("gate_up_proj", rows), ("down_proj", block.experts.activated(rows, e))):
                stats = sweep.stats[f"layers.0.mlp.experts.{e}.{name}"]["standard"]
                assert stats.tokens == len(rows)
                assert stats.nmse == pytest.approx(nvfp4viz.analyze(expected, "standard").nmse, rel=1e-6)


@needs_wheel
def test_keyword_calls_and_in_place_kernels_give_the_input_and_fc2_is_worked_out_again(tmp_path):
    model, x = Model(), tokens()
    plain = Model()(x)
    hooked(model, tmp_path / "s.json", ["*.experts", "*.out"])
    assert torch.equal(model(x), plain)
    check_experts(nvfp4viz.Sweep.load(tmp_path / "s.json"), model, x)


@needs_wheel
def test_packed_weights_put_fc2_out_of_reach_and_that_is_said(tmp_path):
    model = Model()
    for layer in model.layers:
        experts = layer["mlp"].experts
        experts.packed = experts.w13_weight
        experts.activated = lambda x, e, w=experts.w13_weight: F.silu(F.linear(x, w[e]).chunk(2, -1)[0])
        experts.w13_weight = nn.Parameter(torch.zeros(4, 64, 32, dtype=torch.uint8), requires_grad=False)
    hooked(model, tmp_path / "s.json", ["*.experts"])
    model(tokens())
    sweep = nvfp4viz.Sweep.load(tmp_path / "s.json")
    assert sweep.tensors == ["layers.0.mlp.experts"] or len(sweep.tensors) == 2
    assert "out of reach: its weights are torch.uint8" in sweep.skipped["layers.0.mlp.experts.*.down_proj"]


@needs_wheel
def test_a_draft_model_has_a_file_of_its_own(tmp_path):
    target, draft = Model(), Model()
    for model in (target, draft):
        hooked(model, tmp_path / "s.json", ["*.out"])
    target(tokens(10))
    draft(tokens(3))
    found = {p.name: nvfp4viz.Sweep.load(p).stats["layers.1.out"]["standard"].tokens for p in tmp_path.glob("*.json")}
    assert found == {"s.json": 10, "s.2.json": 3}


KILLED = """
import sys, time, types
sys.path.insert(0, {tests!r})
import test_serving as t
model = t.Model()
t.hooked(model, sys.argv[1], ["*.out"])
model(t.tokens(7))
print("ran", flush=True)
time.sleep(60)
"""


@needs_wheel
def test_a_server_killed_behind_its_first_pass_leaves_a_file(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s.json")], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline() == b"ran\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert nvfp4viz.Sweep.load(tmp_path / "s.json").stats["layers.0.out"]["standard"].tokens == 7


def _rank(rank, folder):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = nn.ModuleDict({"column": nn.Linear(64, 32), "row": nn.Linear(32, 64)})
    model["column"].tp_rank = model["row"].tp_rank = rank
    row = model["row"]
    row.input_is_parallel, row.input_size, row.input_size_per_partition = True, 64, 32
    hooks = serving.Serving(["standard"], Path(folder) / "s.json", "auto", 100)
    hooks.attach(model, ["*"])
    x = tokens(20)
    with torch.no_grad():
        model["column"](x)
        model["row"](x[:, 32 * rank : 32 * rank + 32].contiguous())
    hooks.save()
    dist.destroy_process_group()


def test_two_ranks_add_up_without_a_token_counted_twice(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), 2)
    whole = nvfp4viz.Sweep.load(tmp_path / "s.json") + nvfp4viz.Sweep.load(tmp_path / "s.rank1.json")
    counts = {t: row["standard"].tokens for t, row in whole.stats.items()}
    assert counts == {"column": 20, "row [K shard 0 of 2]": 20, "row [K shard 1 of 2]": 20}
    skipped = json.loads((tmp_path / "s.rank1.json").read_text())["skipped"]
    assert skipped["column"].startswith("recorded by the first rank")


class Router:
    def __init__(self, block):
        self._block = block

    def select_experts(self, hidden_states, router_logits, topk_indices_dtype=None, input_ids=None):
        weights, ids = torch.softmax(router_logits, -1).topk(2, -1)
        return weights, ids


class Runner(nn.Module):
    """As vLLM's MoERunner: weights in `routed_experts`, routing by `router` from the logits of the call."""

    def __init__(self, experts):
        super().__init__()
        self.routed_experts, self.router = experts, Router(self)

    def forward(self, hidden_states, router_logits):
        weights, ids = self.router.select_experts(hidden_states, router_logits)
        return self.routed_experts(hidden_states.clone(), TopK(weights, ids, None))


def vllm_model():
    model = Model()
    for layer in model.layers:
        block = layer["mlp"]
        block.experts = Runner(block.experts)
        block.forward = lambda x, b=block: b.experts(hidden_states=x, router_logits=b.gate(x))
    return model


def extended(worker_class):
    """The worker class with the extension, by the code of vLLM's own `init_worker`."""
    with zipfile.ZipFile(VLLM[-1]) as wheel:
        source = wheel.read("vllm/v1/worker/worker_base.py").decode()
    start = source.index("            worker_extension_cls = resolve_obj_by_qualname(")
    end = source.index("                logger.info(", start)
    body = "if True:\n" + source[start:end]

    def resolve(name):
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)

    config = types.SimpleNamespace(worker_extension_cls="nvfp4viz.integrations.vllm.Recording")
    exec(body, {"parallel_config": config, "worker_class": worker_class, "resolve_obj_by_qualname": resolve})
    return worker_class


class Base:
    pass


class Worker(Base):
    """What the extension needs of vLLM's GPU worker."""

    def __init__(self, model, draft=None, eager=True):
        config = types.SimpleNamespace(enforce_eager=eager)
        self.model_runner, self._models = types.SimpleNamespace(model_config=config), (model, draft)

    def get_model(self):
        return self._models[0]

    def get_draft_model(self):
        return self._models[1]


@needs_vllm
def test_vllms_worker_takes_the_extension_and_records(tmp_path):
    model, x = vllm_model(), tokens()
    worker = extended(type("Worker", (Worker,), {}))(model, draft=Model())
    plain = vllm_model()(x)
    names = worker.nvfp4viz_record(["*.experts", "*.out"], str(tmp_path / "s.json"), ["standard"])
    assert "layers.1.mlp.experts" in names
    assert torch.equal(model(x), plain)
    assert worker.nvfp4viz_save()[0] == str(tmp_path / "s.json")
    sweep = nvfp4viz.Sweep.load(tmp_path / "s.json")
    reference = Model()
    check_experts(sweep, reference, x)
    worker.get_draft_model()(tokens(3))
    assert str(tmp_path / "s.draft.json") in worker.nvfp4viz_save()
    worker.nvfp4viz_stop()
    assert not any(m._forward_pre_hooks for m in model.modules())


@needs_vllm
def test_vllms_own_worker_has_the_names_that_are_used_and_none_that_clash():
    with zipfile.ZipFile(VLLM[-1]) as wheel:
        worker = wheel.read("vllm/v1/worker/gpu_worker.py").decode()
        runner = wheel.read("vllm/model_executor/layers/fused_moe/runner/moe_runner.py").decode()
    for name in ("def get_model(", "def get_draft_model("):
        assert name in worker
    assert "nvfp4viz" not in worker and "self.routed_experts = routed_experts" in runner
    call = runner[runner.index("self.router.select_experts(") :][:200]
    assert "hidden_states=hidden_states" in call and "router_logits=router_logits" in call


def test_cuda_graphs_and_patterns_that_fit_nothing_are_refused(tmp_path):
    class Recorded(Worker, vllm.Recording):
        pass

    with pytest.raises(RuntimeError, match="enforce_eager=True"):
        Recorded(Model(), eager=False).nvfp4viz_record(output=str(tmp_path / "s.json"))
    with pytest.raises(ValueError, match="no module fits"):
        Recorded(Model()).nvfp4viz_record("*.nothing", str(tmp_path / "s.json"))
