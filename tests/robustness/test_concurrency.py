"""Two threads, or two processes, that use the library at once get what one gets alone."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from nvfp4viz import Sweep, analyze, quantize, sweep, synthetic
from nvfp4viz.explorer import explore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RECIPES = ("standard", "4/6-mae-448", "4/6-mse-256-tensor", "4/6-mae-256-fp16err", "4/6-mse-448-fast")
ROUNDS = 20


def _data() -> dict[str, torch.Tensor]:
    kinds = ("lognormal", "outlier channels", "spread")
    return {f"layers.{i}": synthetic(kind, 96, 1024, seed=i) for i, kind in enumerate(kinds)}


def _everything() -> str:
    """A digest of what quantize, analyze and sweep give."""
    digest, data = hashlib.sha256(), _data()
    for x in data.values():
        for recipe in RECIPES:
            q = quantize(x, recipe, engine="cpu")
            for part in (q.codes, q.block_scales.view(torch.uint8), q.decode_scale):
                digest.update(part.numpy().tobytes())
            digest.update(json.dumps(analyze(x, recipe, engine="cpu").to_dict()).encode())
    values = sweep(data, RECIPES, engine="cpu", attribution=True).to_dict()
    digest.update(json.dumps([values[k] for k in ("stats", "attributions", "blocks")]).encode())
    return digest.hexdigest()


def _at_once(*jobs) -> list:
    """Results of jobs that start together, each in a thread; what one raises is raised here."""
    results, gate = [None] * len(jobs), threading.Barrier(len(jobs))

    def run(i, job):
        try:
            gate.wait()
            results[i] = job()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i, job)) for i, job in enumerate(jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for r in results:
        if isinstance(r, BaseException):
            raise r
    return results


def test_threads_give_the_same_results():
    alone, threads = _everything(), torch.get_num_threads()
    for _ in range(ROUNDS):
        assert set(_at_once(_everything, _everything)) == {alone}
    assert torch.get_num_threads() == threads


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from test_concurrency import _everything
print(*[_everything() for _ in range(5)])
"""


@pytest.mark.parametrize("cache", ["shared", "fresh"])
def test_processes_give_the_same_results(cache, tmp_path):
    """`fresh`: both compile the kernels at once, into one folder."""
    env = os.environ | ({"NUMBA_CACHE_DIR": str(tmp_path)} if cache == "fresh" else {})
    program = PROGRAM.format(folder=str(Path(__file__).parent))
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [p.communicate()[0] for p in started]
    assert [p.returncode for p in started] == [0, 0]
    assert {digest for text in outputs for digest in text.split()} == {_everything()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_forked_processes_give_the_same_results():
    """The engine alone: torch's own operations on large tensors do not come back in a forked process."""
    data, recipes = _data(), [r for r in RECIPES if "tensor" not in r]

    def fused() -> str:
        dicts = [analyze(x, r, engine="cpu").to_dict() for x in data.values() for r in recipes]
        codes = [quantize(x, r, engine="cpu").codes.numpy().tobytes() for x in data.values() for r in recipes]
        return hashlib.sha256(json.dumps(dicts).encode() + b"".join(codes)).hexdigest()

    alone, children = fused(), []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writing, fused().encode())
            finally:
                os._exit(0)
        os.close(writing)
        children.append((child, reading))
    assert fused() == alone
    for child, reading in children:
        with os.fdopen(reading) as f:
            assert f.read() == alone
        os.waitpid(child, 0)


def test_explorers_of_two_threads_show_what_analyze_gives():
    data = _data()
    wanted = {(t, r): analyze(x, r, engine="cpu") for t, x in data.items() for r in RECIPES}

    def look(step: int):
        widget = explore(data, engine="cpu")
        try:
            for i in range(ROUNDS * 5):
                tensor, a, b = list(data)[i * step % 3], RECIPES[i * step % 5], RECIPES[(i + step) % 5]
                widget.tensor, widget.recipe_a, widget.recipe_b = tensor, a, b
                assert (widget.stats_a, widget.stats_b) == (wanted[tensor, a], wanted[tensor, b])
            return widget.wait().summary
        finally:
            widget.close()

    first, second = _at_once(lambda: look(1), lambda: look(2))
    common = {(t, r) for t in data for r in first[t]} & {(t, r) for t in data for r in second[t]}
    assert common and all(first[t][r] == second[t][r] for t, r in common)


def test_two_threads_share_one_explorer():
    data = _data()
    wanted = {(t, r): analyze(x, r, engine="cpu") for t, x in data.items() for r in RECIPES}
    widget = explore(data, engine="cpu")

    def turn(side: str):
        for i in range(ROUNDS * 5):
            setattr(widget, f"recipe_{side}", RECIPES[i % 5])
            stats = getattr(widget, f"stats_{side}")  # the tensor may change meanwhile, its side may not
            assert stats in [wanted[t, RECIPES[i % 5]] for t in data]
            widget.tensor = list(data)[i % 3]

    try:
        _at_once(lambda: turn("a"), lambda: turn("b"))
    finally:
        widget.close()


def test_a_file_that_two_write_is_always_whole(tmp_path):
    path, data = tmp_path / "s.json", _data()
    two = [sweep({name: data[name]}, ["standard", "4/6-mae-256"], engine="cpu") for name in list(data)[:2]]
    two[0].save(path)
    done, mask = threading.Event(), os.umask(0o027)

    def write(one: Sweep):
        for _ in range(ROUNDS * 10):
            one.save(path)

    def check() -> int:
        seen = 0
        while not done.is_set():
            assert Sweep.load(path).stats in (two[0].stats, two[1].stats)
            seen += 1
        return seen

    def both():
        saved, target = str(tmp_path / "b.json"), str(path)
        program = f"import nvfp4viz; s = nvfp4viz.Sweep.load({saved!r})\nfor _ in range(200): s.save({target!r})"
        two[1].save(tmp_path / "b.json")
        other = subprocess.Popen([sys.executable, "-c", program])
        try:
            _at_once(lambda: write(two[0]), lambda: write(two[1]))
            assert other.wait() == 0
        finally:
            done.set()

    try:
        assert _at_once(check, both)[0] > 10
        for i in range(ROUNDS * 10):  # new files: their permissions are the process's, whoever writes beside
            _at_once(*(lambda path=tmp_path / f"new-{i}-{n}.json": two[0].save(path) for n in range(2)))
    finally:
        now = os.umask(mask)
    assert now == 0o027
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("new-*")}
    assert modes == {0o640}
    assert not list(tmp_path.glob(".*"))
