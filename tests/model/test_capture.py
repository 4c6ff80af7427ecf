"""`record` and `capture`: what they see of a model, what they leave alone, and what they say where they cannot."""

import dataclasses
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nvfp4viz
from nvfp4viz.engine import find_engine
from nvfp4viz.files import locked
from nvfp4viz.model import Recorder
from nvfp4viz.model.capture import Reservoir
from nvfp4viz.model.choose import choose_modules
from nvfp4viz.model.inputs import local_part
from nvfp4viz.stats import Stats

ROOT = Path(__file__).parents[2]
RECIPES = ["standard", "4/6-mse-256"]


class MLP(nn.Module):
    def __init__(self, k=64, hidden=128):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(k, hidden, bias=False), nn.Linear(k, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, k, bias=False)

    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Model(nn.Module):
    def __init__(self, layers=2, k=64):
        super().__init__()
        self.layers = nn.ModuleList(MLP(k) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def tokens(n=40, k=64, seed=1, dtype=torch.float32):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same(a: Stats, b: Stats, rtol=1e-12):
    """Counts and maxima exactly, sums to rtol."""
    for f in fields(Stats):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.name in ("run_tokens", "run_nmse"):
            x, y = x[:-1], y[:-1]  # the last row is by sequence, which only a recorder knows of flattened rows
        if f.metadata.get("merge") == "sum" and np.asarray(x).dtype == np.float64:
            np.testing.assert_allclose(x, y, rtol=rtol, atol=0, err_msg=f.name)
        else:
            assert np.array_equal(x, y), f.name


def inputs_of(model, run) -> dict:
    """What a plain hook sees: each linear layer's inputs, one after another."""
    seen = {}

    def hook(name):
        return lambda module, args: seen.setdefault(name, []).append(args[0].detach().flatten(0, -2).clone())

    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [m.register_forward_pre_hook(hook(n)) for n, m in linear.items()]
    run()
    for handle in handles:
        handle.remove()
    return {n: torch.cat(parts) for n, parts in seen.items()}


# record: what it sees


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_equals_a_sweep_of_captured_activations(model, context, dtype):
    model = model.to(dtype)

    def run():
        with context():
            for seed in range(3):
                model(tokens(33, seed=seed, dtype=dtype).reshape(3, 11, 64))

    with nvfp4viz.record(model) as recorder:
        run()
    recorded, expected = recorder.sweep(), nvfp4viz.sweep(inputs_of(model, run))
    assert recorded.tensors == expected.tensors and len(recorded.tensors) == 6
    for tensor in expected.tensors:
        for name in nvfp4viz.RECIPES:
            assert_same(recorded.stats[tensor][name], expected.stats[tensor][name])
    assert not recorded.skipped


def test_the_model_computes_the_same_and_keeps_no_hook(model):
    x = tokens().requires_grad_()
    before = model(x)
    with nvfp4viz.record(model, recipes=RECIPES):
        during = model(x)
    assert torch.equal(before, during) and during.requires_grad
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_an_error_of_the_model_leaves_no_hook(model):
    with pytest.raises(RuntimeError, match="shapes"), nvfp4viz.record(model, recipes=RECIPES):
        model(torch.ones(2, 48))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_modules_by_pattern_patterns_predicate_and_all(model):
    assert list(choose_modules(model, "*.down_proj")) == ["layers.0.down_proj", "layers.1.down_proj"]
    assert list(choose_modules(model, ["layers.0.*", "*.1.up_proj"])) == [
        "layers.0.gate_proj", "layers.0.up_proj", "layers.0.down_proj", "layers.1.up_proj"]  # fmt: skip
    assert list(choose_modules(model, lambda name, m: isinstance(m, MLP))) == ["layers.0", "layers.1"]
    assert len(choose_modules(model)) == 6
    with nvfp4viz.record(model, iter(["*.down_proj"]), recipes="standard") as recorder:  # walked once only
        assert [w.name for w in recorder._choice.observed] == ["layers.0.down_proj", "layers.1.down_proj"]


def test_a_pattern_that_fits_nothing_names_the_near_ones(model):
    with pytest.raises(ValueError, match=r"no module of Model fits modules='\*.dwn_proj'.*down_proj"):
        choose_modules(model, "*.dwn_proj")


def test_wrappers_leave_the_names_alone(model):
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    assert list(choose_modules(Wrapper(model), "layers.0.up_proj")) == ["layers.0.up_proj"]


def test_a_tied_module_is_recorded_once_and_a_repeated_one_each_time(model):
    model.layers[1].up_proj = model.layers[0].up_proj
    with nvfp4viz.record(model, "*.up_proj", recipes=RECIPES) as recorder:
        model(tokens(20))
    assert recorder.sweep().tensors == ["layers.0.up_proj"]
    assert recorder.sweep().stats["layers.0.up_proj"]["standard"].tokens == 40


def test_keyword_inputs_and_inputs_after_other_arguments():
    class Odd(nn.Module):
        def forward(self, positions, flag, *, hidden_states=None):
            return hidden_states

    model = nn.Sequential(Odd())
    with nvfp4viz.record(model, "0", recipes=RECIPES) as recorder:
        model[0](torch.arange(5), True, hidden_states=tokens(5))
    assert recorder.sweep().stats["0"]["standard"].features == 64


def test_under_autocast_a_linear_layer_is_recorded_in_the_dtype_it_computes_in(model):
    x = tokens()
    with nvfp4viz.record(model, "layers.0.up_proj", recipes=RECIPES) as recorder, torch.autocast("cpu", torch.bfloat16):
        model(x)
    expected = nvfp4viz.analyze(x.bfloat16(), "standard")
    assert_same(recorder.sweep().stats["layers.0.up_proj"]["standard"], expected)


def test_float64_models_are_recorded_in_float32(model):
    with nvfp4viz.record(model.double(), "layers.0.up_proj", recipes=RECIPES) as recorder:
        model(tokens(dtype=torch.float64))
    assert_same(recorder.sweep().stats["layers.0.up_proj"]["standard"], nvfp4viz.analyze(tokens(), "standard"))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_tensor_written_to_between_two_layers_is_analysed_anew(context):
    a, b = nn.Linear(64, 64), nn.Linear(64, 64)
    model = nn.Sequential(a, b)
    with context(), nvfp4viz.record(model, recipes=RECIPES, engine="reference") as recorder:
        x = tokens().clone()
        a(x)
        x.mul_(3)
        b(x)
    stats = recorder.sweep().stats
    assert stats["1"]["standard"].x_amax == pytest.approx(3 * stats["0"]["standard"].x_amax, rel=1e-6)


def test_a_tensor_that_three_layers_share_is_analysed_once(model, monkeypatch):
    cpu, calls = find_engine("cpu"), []
    launch = cpu.launch
    monkeypatch.setattr(cpu, "launch", lambda x, *more: calls.append(x) or launch(x, *more))
    with nvfp4viz.record(model, recipes=RECIPES) as recorder:
        model(tokens())
    assert len(recorder.sweep().tensors) == 6 and len(calls) == 4  # gate_proj and up_proj have one input


def test_experts_are_recorded_apart_with_the_tokens_routed_to_them():
    class MoE(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(MLP() for _ in range(3))

        def forward(self, x, route):
            return torch.cat([e(x[route == i]) for i, e in enumerate(self.experts)])

    model, route = MoE(), torch.tensor([0] * 10 + [1] * 30)  # none to expert 2
    with nvfp4viz.record(model, "experts.*.down_proj", recipes=RECIPES) as recorder:
        model(tokens(40), route)
    sweep = recorder.sweep()
    assert [sweep.stats[f"experts.{i}.down_proj"]["standard"].tokens for i in (0, 1)] == [10, 30]
    assert sweep.skipped == {"experts.2.down_proj": "called 1 times, 1 of them with 0 tokens"}


def test_a_seek_gives_each_batch_its_place_in_the_stream(model):
    whole, x = Recorder(model, recipes=RECIPES), tokens(40)
    with whole:
        model(x)
    with nvfp4viz.record(model, recipes=RECIPES) as parts:
        parts.seek(25)
        model(x[25:])
        parts.seek(0)
        model(x[:25])
    for name in whole.sweep().tensors:
        assert_same(parts.sweep().stats[name]["standard"], whole.sweep().stats[name]["standard"])


def test_provenance_says_which_model_and_modules(model, tmp_path):
    with nvfp4viz.record(model, "*.down_proj", recipes=RECIPES) as recorder:
        model(tokens())
    recorder.sweep().save(tmp_path / "s.json")
    provenance = nvfp4viz.Sweep.load(tmp_path / "s.json").provenance
    assert provenance["model"] == "Model" and provenance["modules"] == "'*.down_proj'" and provenance["chosen"] == 2


def test_threads_that_run_replicas_lose_nothing(model):
    with nvfp4viz.record(model, "*.down_proj", recipes=["standard"]) as recorder:
        threads = [threading.Thread(target=lambda i=i: model(tokens(7, seed=i))) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert recorder.sweep().stats["layers.1.down_proj"]["standard"].tokens == 56


# record: what it cannot take


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("no tensor",), "without a tensor"),
        ((torch.arange(64),), "dtype torch.int64"),
        ((torch.ones(3, 24),), "K=24 is not a multiple of 16"),
        ((torch.ones(()),), "single number"),
        ((torch.ones(2, 64).to(torch.float8_e4m3fn),), "float8_e4m3fn"),
    ],
)
def test_what_cannot_be_recorded_is_reported_by_name_and_the_rest_goes_on(args, why):
    class Any(nn.Module):
        def forward(self, x):
            return x

    model = nn.ModuleDict({"odd": Any(), "fine": Any()})
    with nvfp4viz.record(model, ["odd", "fine"], recipes=RECIPES) as recorder:
        with pytest.warns(UserWarning, match="module 'odd' is no longer observed") as caught:
            model["odd"](*args)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model["odd"](*args)  # once
        model["fine"](tokens())
        assert not model["odd"]._forward_pre_hooks and model["fine"]._forward_pre_hooks
    assert len(caught) == 1
    sweep = recorder.sweep()
    assert sweep.tensors == ["fine"] and why in sweep.skipped["odd"]


def test_where_warnings_are_errors_the_model_still_runs(model):
    with warnings.catch_warnings(), nvfp4viz.record(model, recipes=RECIPES) as recorder:
        warnings.simplefilter("error")
        model(tokens(3).fill_(torch.inf))
    with pytest.raises(ValueError, match=r"nothing was recorded: layers.0.gate_proj: 3 rows with NaN or Inf left out"):
        recorder.sweep()


def test_a_batch_without_tokens_is_counted_and_the_next_one_recorded(model):
    with nvfp4viz.record(model, "*.0.down_proj", recipes=RECIPES) as recorder:
        model(tokens(0))
        model(tokens(5))
    sweep = recorder.sweep()
    assert sweep.stats["layers.0.down_proj"]["standard"].tokens == 5
    assert sweep.provenance["remarks"] == {"layers.0.down_proj": "called 2 times, 1 of them with 0 tokens"}


def test_rows_that_are_no_numbers_are_left_out_and_counted(model):
    bad = tokens(5)
    bad[3, 7] = torch.nan
    bad[4] = torch.inf
    with warnings.catch_warnings(), nvfp4viz.record(model, "layers.0.up_proj", recipes=RECIPES) as recorder:
        warnings.simplefilter("error")
        for x in (bad, tokens(5), tokens(5) * torch.nan):
            model(x)
    sweep = recorder.sweep()
    with nvfp4viz.record(model, "layers.0.up_proj", recipes=RECIPES) as clean:
        model(bad[:3])
        model(tokens(5))
    assert_same(sweep.stats["layers.0.up_proj"]["standard"], clean.sweep().stats["layers.0.up_proj"]["standard"])
    assert sweep.provenance["left_out"] == {"padding": 0, "not_finite": 7, "unknown": 0}
    assert sweep.provenance["remarks"]["layers.0.up_proj"] == "7 rows with NaN or Inf left out"


def test_what_was_recorded_before_a_failure_stays_and_is_marked_partial(model):
    with (
        pytest.warns(UserWarning, match="K=24"),
        nvfp4viz.record(nn.Sequential(nn.Identity()), "0", recipes=RECIPES) as recorder,
    ):
        recorder._model[0](tokens(5))
        recorder._model[0](tokens(5)[:, :24])
    sweep = recorder.sweep()
    assert sweep.stats["0"]["standard"].tokens == 5 and "K=24" in sweep.provenance["remarks"]["0"]
    assert "K=24" in sweep.provenance["partial"][0]
    with pytest.raises(KeyError), nvfp4viz.record(model, recipes=RECIPES) as broken:
        model(tokens())
        raise KeyError
    assert broken.sweep().provenance["partial"] == ["the block ended with KeyError"]


def test_modules_that_were_not_called_are_named(model):
    with nvfp4viz.record(model, recipes=RECIPES) as recorder:
        model.layers[0](tokens())
    assert recorder.sweep().skipped["layers.1.down_proj"] == "was not called"


def test_mistakes_of_the_caller_are_raised_at_once(model):
    with pytest.raises(ValueError, match="unknown recipe"):
        nvfp4viz.record(model, recipes=["standrad"])
    with pytest.raises(ValueError, match="unknown engine"):
        nvfp4viz.record(model, engine="gpu")
    with pytest.raises(ValueError, match="no recipe"):
        nvfp4viz.record(model, recipes=[])


def test_an_engine_that_defers_is_asked_once_and_gives_the_same(model, monkeypatch):
    """The seam that the cuda engine uses: launch on the device, add there, fetch when asked."""
    cpu, fetched = find_engine("cpu"), []

    class Deferred:
        left_out = 0

        def __init__(self, calls):
            self.calls = calls

        def __add__(self, other):
            return Deferred(self.calls + other.calls)

        def copy(self):
            return Deferred(list(self.calls))

        def fetch(self):
            fetched.append(self)
            rows = [cpu.analyze(*call) for call in self.calls]
            return [sum(row[1:], row[0]) for row in zip(*rows, strict=True)]

    def launch(x, recipes, scales, into=None):
        return Deferred([*(into.calls if into else []), (dataclasses.replace(x, x=x.x.clone()), recipes, scales)])

    monkeypatch.setattr(cpu, "launch", launch)
    with nvfp4viz.record(model, recipes=RECIPES, engine="cpu") as deferred:
        for seed in range(3):
            model(tokens(10, seed=seed))
        assert not fetched
    found = deferred.sweep()
    assert fetched
    monkeypatch.undo()
    with nvfp4viz.record(model, recipes=RECIPES) as direct:
        for seed in range(3):
            model(tokens(10, seed=seed))
    for name in direct.sweep().tensors:
        assert_same(found.stats[name]["standard"], direct.sweep().stats[name]["standard"])


@pytest.mark.parametrize("wanted", [0, 3])
def test_a_row_parallel_layer_of_an_engine_names_its_shard(wanted):
    layer = nn.Linear(64, 64)
    layer.input_is_parallel, layer.input_size, layer.input_size_per_partition, layer.tp_rank = True, 256, 64, wanted
    assert local_part("o_proj", tokens(), layer)[0] == f"o_proj [K shard {wanted} of 4]"


@pytest.mark.gpu
def test_on_a_gpu_recording_equals_a_sweep_of_captured_activations(model):
    model = model.cuda().bfloat16()

    def run():
        with torch.no_grad():
            for seed in range(3):
                model(tokens(33, seed=seed, dtype=torch.bfloat16).reshape(3, 11, 64).cuda())

    with nvfp4viz.record(model) as recorder:
        run()
    expected = nvfp4viz.sweep(inputs_of(model, run))
    for tensor in expected.tensors:
        for name in nvfp4viz.RECIPES:
            assert_same(recorder.sweep().stats[tensor][name], expected.stats[tensor][name])


@pytest.mark.gpu
def test_on_a_gpu_rows_that_are_no_numbers_are_left_out_and_counted():
    layer, x = nn.Linear(64, 64).cuda().bfloat16(), tokens(22, dtype=torch.bfloat16).reshape(2, 11, 64).cuda()
    x[0, 3, 5], x[1, 0, 0] = float("nan"), float("inf")
    with torch.no_grad(), nvfp4viz.record(nn.Sequential(layer), recipes=RECIPES) as recorder:
        layer(x)
        layer(x)
    for _ in range(2):  # asked twice, counted once
        sweep = recorder.sweep()
        assert sweep.provenance["left_out"]["not_finite"] == 4
        assert all(s.tokens == 40 for s in sweep.stats["0"].values())


# capture


def test_a_capture_reads_back_and_its_sweep_equals_the_recording(model, tmp_path):
    path = tmp_path / "a.safetensors"
    with nvfp4viz.capture(model, path=path), nvfp4viz.record(model, recipes=RECIPES) as recorder:
        model(tokens(20))
        model(tokens(20, seed=2))
    loaded, recorded = nvfp4viz.load(path), recorder.sweep()
    swept = nvfp4viz.sweep(loaded, RECIPES)
    assert set(swept.tensors) == set(recorded.tensors)
    for name in recorded.tensors:
        assert_same(swept.stats[name]["standard"], recorded.stats[name]["standard"])
    metadata = loaded.sources[0]["metadata"]
    assert metadata["model"] == "Model" and '"layers.0.up_proj": 40' in metadata["tokens_seen"]
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_sample_is_bounded_seeded_and_in_order(model, tmp_path):
    def sample(seed, **limits):
        with nvfp4viz.capture(model, "*.up_proj", path=tmp_path / "a.safetensors", seed=seed, **limits):
            for i in range(10):
                model(tokens(50, seed=i))
        loaded = nvfp4viz.load(tmp_path / "a.safetensors")
        return {n: loaded[n] for n in loaded}

    one, again, other = sample(0, tokens=30), sample(0, tokens=30), sample(1, tokens=30)
    stream = torch.cat([tokens(50, seed=i) for i in range(10)])
    found = [int((stream == row).all(1).nonzero()) for row in one["layers.0.up_proj"]]
    assert len(found) == 30 and found == sorted(set(found)) and found[-1] > 250
    assert all(torch.equal(one[n], again[n]) and not torch.equal(one[n], other[n]) for n in one)
    few = sample(0, tokens=30, max_bytes=2 * 5 * 64 * 4)
    assert [x.shape[0] for x in few.values()] == [5, 5]


def test_a_reservoir_draws_every_token_alike():
    hits = np.zeros(60)
    for seed in range(600):
        reservoir = Reservoir(6, seed)
        for part in torch.arange(60.0).reshape(-1, 1).split(7):
            reservoir.add(part)
        hits[reservoir.rows().flatten().long().numpy()] += 1
    assert hits.sum() == 3600 and abs(hits - 60).max() < 5 * np.sqrt(60)


def test_what_cannot_be_captured_is_named(model, tmp_path):
    path = tmp_path / "a.safetensors"
    few = nvfp4viz.capture(model, path=path, max_bytes=100)
    with (
        pytest.warns(UserWarning, match="not one token of"),
        pytest.raises(ValueError, match="nothing was captured"),
        few,
    ):
        model(tokens())
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match=r"the file is a \.safetensors"):
        nvfp4viz.capture(model, path="a.pt")
    nowhere = nvfp4viz.capture(model, path=tmp_path / "no" / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"), nowhere:
        pass


def test_an_error_in_the_block_leaves_the_old_file(model, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    with pytest.raises(KeyError), nvfp4viz.capture(model, path=path):
        model(tokens())
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.safetensors"]
    assert not any(m._forward_pre_hooks for m in model.modules())


KILLED = """
import sys, time, torch, nvfp4viz
model = torch.nn.Sequential(torch.nn.Linear(64, 64))
with nvfp4viz.capture(model, path=sys.argv[1]):
    model(torch.ones(4, 64))
    print("captured", flush=True)
    time.sleep(60)
"""


def test_a_killed_capture_leaves_the_old_file_and_its_lock_is_taken_over(model, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline() == b"captured\n"
    with pytest.raises(RuntimeError, match=f"process {child.pid} is writing"), nvfp4viz.capture(model, path=path):
        pass
    assert not any(m._forward_pre_hooks for m in model.modules())
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.read_text() == "old"
    with nvfp4viz.capture(model, path=path):
        model(tokens())
    assert len(nvfp4viz.load(path)) == 6 and os.listdir(tmp_path) == ["a.safetensors"]


def _hold(path, barrier, result):
    barrier.wait()
    try:
        with locked(path):
            time.sleep(1)
            result.put("held")
    except RuntimeError:
        result.put("refused")


def test_of_processes_that_meet_a_dead_lock_one_gets_it(tmp_path):
    path, context = tmp_path / "x", multiprocessing.get_context("spawn")
    dead = context.Process(target=int)
    dead.start()
    dead.join()
    path.with_name("x.lock").write_text(f"{dead.pid}\n{socket.gethostname()}\n")
    barrier, result = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_hold, args=(path, barrier, result)) for _ in range(3)]
    for p in processes:
        p.start()
    outcomes = sorted(result.get(timeout=120) for _ in processes)
    for p in processes:
        p.join()
    assert outcomes == ["held", "refused", "refused"] and not os.listdir(tmp_path)


def test_a_lock_of_another_host_is_respected(tmp_path):
    (tmp_path / "x.lock").write_text("1\nelsewhere\n")
    with pytest.raises(RuntimeError, match="process 1 is writing"), locked(tmp_path / "x"):
        pass
    assert (tmp_path / "x.lock").exists()
