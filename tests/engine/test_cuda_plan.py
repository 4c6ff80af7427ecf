"""How recipes share launches on a GPU, and that Python and CUDA agree on what is handed over."""

import shutil
import subprocess

import pytest
import torch
from test_engine_cuda import CEILINGS, KINDS, MISMATCHES

from nvfp4viz.engine.cuda import nvrtc
from nvfp4viz.engine.cuda.plan import MOST, Plan, plans
from nvfp4viz.nvfp4 import RECIPES, Recipe

EVERY = [*RECIPES.values(), *KINDS, *CEILINGS, *MISMATCHES, *RECIPES.values()]


def test_the_default_recipes_are_one_launch_of_two_groups():
    ((plan, which),) = plans(tuple(RECIPES.values()))
    assert [plan.recipes[i] for i in range(5)] == [list(RECIPES.values())[i] for i in which]
    ceilings = [{plan.recipes[i].e4m3_max for i in group.values()} for group in plan.groups]
    assert ceilings == [{448.0}, {256.0}]


@pytest.mark.parametrize("recipes", [EVERY, EVERY[::-1], EVERY[5:17], KINDS[:1]], ids=len)
def test_every_recipe_has_its_place(recipes):
    places = []
    for plan, which in plans(tuple(recipes)):
        assert len(plan.recipes) <= MOST
        assert list(plan.recipes) == [recipes[i] for i in which]
        firsts = [min(group.values()) for group in plan.groups]
        assert firsts == sorted(firsts) and sorted(plan.group_of) == list(range(len(plan.recipes)))
        for group in plan.groups:
            members = [plan.recipes[i] for i in group.values()]
            assert sorted(group.values()) == list(range(min(group.values()), min(group.values()) + len(group)))
            assert len({(r.e4m3_max, r.per_token, r.fast_math) for r in members}) == 1
            assert len(members) == 1 or members[0].per_token  # a tensor's scale is given for each recipe
        places += which
    assert sorted(places) == list(range(len(recipes)))


def test_a_source_serves_recipes_that_differ_in_ceilings_alone():
    a, b = (Plan([Recipe(c, four_over_six=True, err_mode="MSE")]).source(torch.float16, "analyze") for c in (448, 256))
    assert a == b != Plan([Recipe(448, four_over_six=True)]).source(torch.float16, "analyze")


@pytest.mark.parametrize("kernel", ["quantize", "analyze"])
@pytest.mark.parametrize("start", range(0, len(EVERY), 9))
def test_structures_are_as_large_in_cuda_as_in_python(start, kernel, tmp_path):
    """The source says so itself: it does not compile where they are not."""
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc on PATH")
    source = plans(tuple(EVERY[start : start + MOST]))[0][0].source(torch.bfloat16, kernel)
    (tmp_path / "a.cu").write_text(source)
    command = ["nvcc", "-arch=sm_80", *nvrtc.FLAGS, "-ptx", tmp_path / "a.cu", "-o", tmp_path / "a.ptx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (tmp_path / "b.cu").write_text(
        source.replace(f"#define {kernel.upper()}_BYTES ", f"#define {kernel.upper()}_BYTES 1")
    )
    command[-3] = tmp_path / "b.cu"
    assert "plan.py mirrors it" in subprocess.run(command, capture_output=True, text=True, timeout=200).stderr
