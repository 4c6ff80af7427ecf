"""Two processes over gloo record what one process would: counts exactly, sums but for rounding."""

import os
from dataclasses import fields
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import nvfp4viz
from nvfp4viz.stats import Stats

RECIPES = ["standard", "4/6-mae-448"]
WORLD = 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.extra = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))

    def forward(self, x, expert=None):
        x = self.down(self.up(x).relu())
        return x if expert is None else self.extra[expert](x)


def tokens(n=48):
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(1))


def assert_same(a: Stats, b: Stats, place=True):
    for f in fields(Stats):
        if f.name in ("run_tokens", "run_nmse", "top_token") and not place:
            continue
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.metadata.get("merge") == "sum" and np.asarray(x).dtype == np.float64:
            np.testing.assert_allclose(*(_comparable(v, f.name) for v in (x, y)), rtol=1e-9, err_msg=f.name)
        else:
            assert np.array_equal(*(_comparable(v, f.name) for v in (x, y))), f.name


def _comparable(value, name):
    """Runs of neighbours without the last row, by sequence: each rank numbers its own, and flattened rows have none."""
    return value[:-1] if name in ("run_tokens", "run_nmse") else value


def run(path, backend, *targets):
    """Runs each target(rank) in two processes; their sweeps by target."""
    mp.spawn(_process, (targets, str(path), backend), WORLD)
    return {t: [nvfp4viz.Sweep.load(path / f"{t.__name__}.{rank}.json") for rank in range(WORLD)] for t in targets}


def _process(rank, targets, path, backend):
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    wait = timedelta(seconds=120)  # where one rank failed, the other gives up
    dist.init_process_group(backend, init_method=f"file://{path}/store", rank=rank, world_size=WORLD, timeout=wait)
    try:
        for target in targets:
            target(rank).save(os.path.join(path, f"{target.__name__}.{rank}.json"))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """One pair of processes for all tests over gloo, since starting them takes longer than what they do."""
    targets = (data_parallel, by_default, fsdp, tensor_parallel, dtensors, different_recipes)
    return run(tmp_path_factory.mktemp("gloo"), "gloo", *targets)


def data_parallel(rank):
    """Each rank has every other batch of 12 tokens, and says where it belongs; each uses an expert of its own."""
    device = f"cuda:{rank}" if dist.get_backend() == "nccl" else "cpu"
    model = Model().to(device)
    model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    with nvfp4viz.record(model, recipes=RECIPES) as recorder:
        for i, batch in enumerate(tokens().to(device).split(12)):
            if i % WORLD == rank:
                recorder.seek(12 * i)
                model(batch, rank)
    alone = recorder.sweep()
    merged = recorder.all_reduce()
    again = recorder.all_reduce()
    assert merged.stats["up"]["standard"] == again.stats["up"]["standard"]  # the recorder stayed as it was
    assert merged.stats["up"]["standard"].tokens == 2 * alone.stats["up"]["standard"].tokens
    return merged


def expected(device="cpu"):
    """One process over all batches, on the kind of device that the ranks had: others round activations otherwise."""
    model = Model().to(device)
    with nvfp4viz.record(model, recipes=RECIPES) as recorder:
        for i, batch in enumerate(tokens().to(device).split(12)):
            recorder.seek(12 * i)
            model(batch, i % WORLD)
    return recorder.sweep()


def check_data_parallel(sweeps, device="cpu"):
    single = expected(device)
    for merged in sweeps:
        assert set(merged.tensors) == set(single.tensors) == {"up", "down", "extra.0", "extra.1"}
        for name in single.tensors:
            for recipe in RECIPES:
                assert_same(merged.stats[name][recipe], single.stats[name][recipe])
        assert merged.provenance["coverage"] == single.provenance["coverage"]  # of all ranks: experts that one lacked
    assert not sweeps[0].skipped


def test_data_parallel_over_gloo_equals_one_process(sweeps):
    check_data_parallel(sweeps[data_parallel])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < WORLD, reason="gpu: nccl needs two GPUs")
def test_data_parallel_over_nccl_equals_one_process(tmp_path):
    check_data_parallel(run(tmp_path, "nccl", data_parallel)[data_parallel], "cuda:0")


def by_default(rank):
    model = Model()
    with nvfp4viz.record(model, "up", recipes=RECIPES) as recorder:
        model(tokens()[rank::WORLD])
    return recorder.all_reduce()


def test_without_seek_all_but_the_place_of_tokens_is_the_same_and_ranks_have_tokens_of_their_own(sweeps):
    a, b = sweeps[by_default]
    single = nvfp4viz.analyze(tokens(), "standard")
    merged = a.stats["up"]["standard"]
    assert_same(merged, single, place=False)
    assert merged == b.stats["up"]["standard"]
    assert merged.run_tokens[0].sum() == 48 and merged.token_nmse == pytest.approx(single.token_nmse, rel=1e-12)
    x = tokens()
    top = int(x.double().square().sum(1).argmax())  # of one process; here the rank's own place
    assert merged.top_token == top % WORLD * (2**32 // WORLD) + top // WORLD


def fsdp(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Model()
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in (model.up, model.down):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with nvfp4viz.record(model, ["up", "down"], recipes=RECIPES) as recorder:
        recorder.seek(24 * rank)
        model(tokens()[24 * rank : 24 * rank + 24])
    return recorder.all_reduce()


def test_fsdp2_equals_one_process(sweeps):
    model = Model()
    with nvfp4viz.record(model, ["up", "down"], recipes=RECIPES) as recorder:
        model(tokens()[:24])
        model(tokens()[24:])
    for merged in sweeps[fsdp]:
        for name in ("up", "down"):
            assert_same(merged.stats[name]["standard"], recorder.sweep().stats[name]["standard"])


def tensor_parallel(rank):
    """Column- then row-parallel: `up` has its whole input on each rank, `down` a half of its features."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = Model()
    parallelize_module(model, init_device_mesh("cpu", (WORLD,)), {"up": ColwiseParallel(), "down": RowwiseParallel()})
    with nvfp4viz.record(model, ["up", "down"], recipes=RECIPES) as recorder:
        model(tokens())
    return recorder.all_reduce()


def test_shards_along_k_are_recorded_as_deployed_and_replicated_tokens_once(sweeps):
    model, x = Model(), tokens()
    hidden = model.up(x).relu().detach()
    for merged in sweeps[tensor_parallel]:
        assert set(merged.tensors) == {"up", "down [K shard 0 of 2]", "down [K shard 1 of 2]"}
        assert_same(merged.stats["up"]["standard"], nvfp4viz.analyze(x, "standard"))
        for i in range(WORLD):
            shard = nvfp4viz.analyze(hidden[:, 64 * i : 64 * i + 64].contiguous(), "standard")
            assert_same(merged.stats[f"down [K shard {i} of 2]"]["standard"], shard, place=False)


def dtensors(rank):
    """Tokens sharded, partial sums, and a rank that sees nothing of a module."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    class Same(nn.Module):
        def forward(self, x):
            return x

    mesh = init_device_mesh("cpu", (WORLD,))
    model = nn.ModuleDict({"sharded": Same(), "partial": Same(), "first": Same()})
    with nvfp4viz.record(model, "*", recipes=RECIPES) as recorder, pytest.warns(UserWarning, match="partial sums"):
        recorder.seek(24 * rank)
        model["sharded"](distribute_tensor(tokens(), mesh, [Shard(0)]))
        model["partial"](DTensor.from_local(tokens(), mesh, [Partial()]))
        if rank == 0:
            model["first"](tokens())
    return recorder.all_reduce()


def test_dtensors_by_placement(sweeps):
    for merged in sweeps[dtensors]:
        assert_same(merged.stats["sharded"]["standard"], nvfp4viz.analyze(tokens(), "standard"))
        assert_same(merged.stats["first"]["standard"], nvfp4viz.analyze(tokens(), "standard"))
        assert "rank 0: its input is a DTensor of partial sums" in merged.skipped["partial"]
        assert merged.provenance["remarks"]["first"] == "rank 1: was not called"


def different_recipes(rank):
    model = Model()
    with nvfp4viz.record(model, recipes=RECIPES[: rank + 1]) as recorder:
        model(tokens())
    with pytest.raises(ValueError, match="ranks record different recipes"):
        recorder.all_reduce()
    return recorder.sweep()


def test_different_recipes_are_refused_on_every_rank(sweeps):
    assert [set(s.tensors) for s in sweeps[different_recipes]] == [{"up", "down"}] * 2


def test_without_a_process_group_it_says_so():
    with pytest.raises(RuntimeError, match="not initialised"):
        nvfp4viz.record(Model()).all_reduce()
