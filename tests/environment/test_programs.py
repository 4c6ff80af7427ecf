"""What each program quantizes by which recipe, held against its published wheel: run where it can be, else read."""

# ruff: noqa: E501  what is looked for stands in one line

import ast
import os
import re
import types
from pathlib import Path

import pytest
import torch
from wheels import wheel_file

from nvfp4viz.cli.main import main
from nvfp4viz.environment import (
    PROGRAMS,
    SITES,
    check,
    default_recipe,
    environment_of,
    recipe_from_environment,
    sites,
)
from nvfp4viz.environment.commandline import arguments_of, program_of
from nvfp4viz.environment.programs import NEWEST, ROWS
from nvfp4viz.nvfp4 import RECIPES, Recipe

ROOT = Path(__file__).parents[2]
FI, TOKEN, TE = "FLASHINFER_NVFP4_4OVER6", "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION", "NVTE_NVFP4_4OVER6"
U256, W4A16 = f"{FI}_E4M3_USE_256", "SGLANG_FLASHINFER_CUTEDSL_NVFP4_W4A16"
BOTH = {FI: "1", U256: "1"}
LAYERS = "vllm/model_executor/layers"


def _recipe(program: str, site: str, env: dict, version: str | None = None, **arguments) -> Recipe | None:
    return {s.site: s for s in sites(env, program, arguments, version)}[site].recipe


def _function(text: str, name: str) -> ast.FunctionDef:
    return next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == name)


# --- vLLM

VLLM = {"0.26.0": (f"{LAYERS}/fused_moe/experts/trtllm_nvfp4_moe.py", "_quantize_per_token_input"),
        "0.33.0": (f"{LAYERS}/quantization/utils/flashinfer_utils.py", "quantize_nvfp4_per_token_input")}  # fmt: skip


@pytest.mark.parametrize("version", VLLM)
def test_vllm_passes_the_scale_of_448_and_no_recipe(version):
    member, name = VLLM[version]
    text = wheel_file("vllm", version, member)
    function, seen = _function(text, name), {}
    constant = re.search(r"^(\w*PER_TOKEN_BASE_GLOBAL_SCALE) = (.+)$", text, re.M)
    body = [n for n in function.body if not isinstance(n, (ast.ImportFrom, ast.Expr))]
    call = next(
        n for n in ast.walk(ast.Module(body, [])) if isinstance(n, ast.Call) and ast.unparse(n.func) == "nvfp4_quantize"
    )
    space = {constant[1]: eval(constant[2]), "hidden_states": torch.zeros(1, 16), "SfLayout": types.SimpleNamespace(layout_linear=0),
             "nvfp4_quantize": lambda a, scale, **rest: seen.update(scale=scale, **rest)}  # fmt: skip
    eval(compile(ast.Expression(call), "vllm", "eval"), space)
    assert (
        seen["scale"] == 1 / (448 * 6) and seen["per_token_activation"] and not {"nvfp4_4over6", "backend"} & set(seen)
    )
    ours = _recipe("vllm", "fc1", BOTH, version, quantization="nvfp4_per_token")
    assert (ours.e4m3_max, ours.scored_as, ours.per_token) == (448, 256, True)
    assert ours == recipe_from_environment(BOTH, "vllm")


def test_vllm_reads_no_variable_of_flashinfers_recipe():
    for version in VLLM:
        text = wheel_file("vllm", version, "vllm/envs.py")
        assert "FLASHINFER_NVFP4" not in text and "4OVER6" not in text


def test_vllm_since():
    registry = wheel_file("vllm", "0.26.0", f"{LAYERS}/quantization/__init__.py")
    assert '"nvfp4_per_token"' in registry and "nvfp4_4over6" not in wheel_file(
        "vllm", "0.26.0", "vllm/config/cache.py"
    )
    assert '"nvfp4_4over6"' in wheel_file("vllm", "0.33.0", "vllm/config/cache.py")
    assert "kv" not in {s.site for s in sites({}, "vllm", {"kv": "nvfp4_4over6"}, "0.26.0")}
    assert _recipe("vllm", "kv", {}, kv="nvfp4_4over6") == Recipe.parse("4/6-mse-448-tensor")
    cutedsl = wheel_file("vllm", "0.33.0", f"{LAYERS}/fused_moe/experts/flashinfer_cutedsl_moe.py")
    assert re.search(r"new_full\(\s*\(1,\),\s*NVFP4_PER_TOKEN_BASE_GLOBAL_SCALE", cutedsl)
    moe = {"quantization": "nvfp4_per_token", "moe": "flashinfer_cutedsl"}
    assert _recipe("vllm", "fc2", BOTH, **moe).scored_as == 256
    assert _recipe("vllm", "fc2", BOTH, **moe | {"moe": "flashinfer_trtllm"}) == Recipe.parse("4/6-mae-256-fast")
    assert "nvfp4_per_token" in wheel_file("vllm", "0.33.0", f"{LAYERS}/quantization/modelopt.py")


def test_vllm_quantizes_small_batches_by_flashinfer():
    text = wheel_file("vllm", "0.33.0", "vllm/_custom_ops.py")
    body = ast.unparse(_function(text, "scaled_fp4_quant"))
    assert "'trtllm' in backend and m <= 32" in body and "flashinfer_quant_nvfp4_8x4_sf_layout" in body
    assert 'backend="flashinfer-trtllm"' in wheel_file(
        "vllm", "0.33.0", "vllm/model_executor/kernels/linear/nvfp4/flashinfer.py"
    )
    found = {s.site: s.recipe for s in sites({FI: "1"}, "vllm", {"linear": "flashinfer_trtllm"})}
    assert found["dense-small"].four_over_six and not found["dense"].four_over_six
    assert any("up to 32 tokens" in f.message for f in check({FI: "1"}, "vllm", {"linear": "flashinfer_trtllm"}))


def test_vllm_ray_workers_get_what_its_prefixes_name(monkeypatch):
    text = wheel_file("vllm", "0.33.0", "vllm/ray/ray_env.py")
    for name in ("VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY", "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(FI, "1")
    space = {"os": os, "envs": types.SimpleNamespace(environment_variables={}), "logger": types.SimpleNamespace(info=print),
             "RAY_NON_CARRY_OVER_ENV_VARS": set(), "RAY_NON_CARRY_OVER_ENV_VARS_FILE": ""}  # fmt: skip
    wanted = {"_parse_csv", "get_env_vars_to_copy"}
    nodes = [n for n in ast.parse(text).body if getattr(n, "name", "") in wanted or isinstance(n, ast.AnnAssign)]
    exec(compile(ast.Module(nodes, []), "ray_env", "exec"), space)
    (finding,) = [f for f in check({FI: "1"}, "vllm", {"executor": "ray"}) if "Ray" in f.message]
    for prefixes, copied in (("", False), (finding.changes["VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"], True)):
        space["envs"].VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY, space["envs"].VLLM_RAY_EXTRA_ENV_VARS_TO_COPY = (
            prefixes,
            "",
        )
        assert (FI in space["get_env_vars_to_copy"]()) is copied


def test_a_vllm_command_line_with_256(tmp_path, capsys):
    (tmp_path / "run.sh").write_text(f"{FI}=1 {U256}=1 vllm serve /m --quantization nvfp4_per_token\n")
    assert main(["doctor", str(tmp_path / "run.sh")]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for piece in (
        "vLLM, the scale 448",
        "FlashInfer's kernel, the score 256",
        "experts' input (fc1)",
        " dB",
        f"fix: {U256}=0",
    ):
        assert piece in out, out
    costs = [float(x) for x in re.findall(r"([\d.]+) dB (?:as it is|with)", out)]
    assert len(costs) == 4 and costs[0] < costs[3] < costs[1] < costs[2]  # worse than no 4over6 at all


# --- SGLang's runners

RUNNERS = "sglang/srt/layers/moe/moe_runner"


def test_sglang_cutedsl_takes_flashinfers_rule():
    text = wheel_file("sglang", "0.5.23", f"{RUNNERS}/flashinfer_cutedsl.py")
    body = ast.unparse(_function(text, "_make_per_token_global_scale"))
    assert "current_nvfp4_4over6_config()" in body and "make_nvfp4_global_scale" in body and "envs." not in body
    env, moe = {FI: "1", U256: "true", TOKEN: "1"}, {"moe": "flashinfer_cutedsl"}
    assert _recipe("sglang", "fc1", env, **moe) == Recipe.parse("4/6-mae-448-fast")  # both sides read off
    assert _recipe("sglang", "fc1", env).scored_as == 448  # the trtllm runners disagree with the kernel


def test_sglang_muse_spark_has_448_fixed():
    text = wheel_file("sglang", "0.5.23", "sglang/srt/layers/muse_spark/muse_spark_fp4_moe.py")
    assert (
        eval(re.search(r"_NVFP4_PER_TOKEN_SCALE_INV = (.+)", text)[1]) == 1 / (448 * 6) and "nvfp4_4over6=" not in text
    )
    recipe = _recipe("sglang", "fc1", BOTH | {TOKEN: "1"}, model="org/Muse-Spark")
    assert (recipe.e4m3_max, recipe.scored_as) == (448, 256)
    assert [
        f.fix for f in check(BOTH | {TOKEN: "1"}, "sglang", {"model": "org/Muse-Spark"}) if f.severity == "error"
    ] == [f"{U256}=0"]


def test_sglang_online_and_minimax_are_per_token_whatever_the_variable_says():
    online = wheel_file("sglang", "0.5.23", "sglang/srt/layers/quantization/nvfp4_online.py")
    assert "_use_per_token_activation = True" in online
    assert 'e4m3_max=448, err_mode="MSE", err_use_fast_math=True' in online
    assert 'FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH="1"' in online  # strict
    assert "use_per_token_activation=True" in wheel_file(
        "sglang", "0.5.23", "sglang/srt/layers/quantization/minimax_m3_nvfp4.py"
    )
    for quantization in ("nvfp4_online", "minimax_m3_nvfp4"):
        assert _recipe("sglang", "fc1", BOTH, quantization=quantization) == Recipe.parse("4/6-mae-256-fast")
        assert not [f for f in check(BOTH, "sglang", {"quantization": quantization}) if f.severity != "note"]
    found = {s.site: s.recipe for s in sites(BOTH, "sglang", {"quantization": "nvfp4_online"})}
    assert found["weights"] == Recipe.parse("4/6-mse-448-fp16err-tensor") and found["dense"] is None


def test_sglang_w4a16_keeps_activations():
    runner = wheel_file("sglang", "0.5.23", f"{RUNNERS}/flashinfer_cutedsl.py")
    assert f"envs.{W4A16}.get()" in runner and '"w4a16"' in runner
    assert 'use_per_token_activation=(False if quant_method == "W4A16_NVFP4"' in wheel_file(
        "sglang", "0.5.23", "sglang/srt/layers/quantization/modelopt_quant.py"
    )
    env = BOTH | {TOKEN: "1", W4A16: "1"}
    assert _recipe("sglang", "fc1", env, moe="flashinfer_cutedsl") is None
    assert any("stay bf16" in f.message for f in check(env, "sglang", {"moe": "flashinfer_cutedsl"}))
    assert _recipe("sglang", "fc1", env) is not None  # the trtllm runners do not know it


def test_sglang_flags_are_in_its_lists():
    choices = wheel_file("sglang", "0.5.23", "sglang/srt/arg_groups/choices.py")
    for word in (
        "nvfp4_online",
        "modelopt_fp4",
        "flashinfer_cutedsl",
        "flashinfer_trtllm_routed",
        "flashinfer_megamoe",
    ):
        assert f'"{word}"' in choices


# --- all of them


def test_rows_are_known_and_their_recipes_parse():
    for row in ROWS:
        assert row.program in PROGRAMS and row.site in SITES and row.program in NEWEST
        if row.scale.startswith("fixed:"):
            assert Recipe.parse(row.scale[6:]).name == row.scale[6:]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_and_its_defaults(program):
    for site in sites({}, program):
        assert default_recipe(program, site.site) == site.recipe
        assert site.recipe is None or not site.recipe.four_over_six
    with pytest.raises(ValueError, match="is not one of"):
        default_recipe(program, "nowhere")


def test_the_default_is_what_the_doctor_reads_from_an_empty_environment():
    assert default_recipe() == recipe_from_environment({}, "sglang") == Recipe(per_token=False, fast_math=True)
    assert default_recipe("transformer-engine", "activations") == recipe_from_environment({}, "transformer-engine")
    with pytest.raises(ValueError, match="program='trt' is not one of"):
        sites({}, "trt")


def test_miles_reads_scopes_in_any_case():
    for text, on in (("ALL", True), (" weights ", True), ("activations", False), ("none", False), ("1", False)):
        assert recipe_from_environment({TE: text}, "miles").four_over_six is on
    assert recipe_from_environment({TE: "weights", f"{TE}_E4M3_USE_256": "None"}, "miles").e4m3_max == 448


def test_sites_give_recipes_that_a_sweep_takes():
    env = environment_of(RECIPES["4/6-mse-256"], "sglang")
    assert _recipe("sglang", "fc1", env) == RECIPES["4/6-mse-256"] == _recipe("sglang", "fc2", env)


LINES = [
    ("vllm serve org/m --kv-cache-dtype=nvfp4_4over6 --moe-backend flashinfer_cutedsl", "vllm",
     {"kv": "nvfp4_4over6", "moe": "flashinfer_cutedsl", "model": "org/m"}),
    ("python3 -m sglang.launch_server --model-path /m --quantization nvfp4_online", "sglang", {"quantization": "nvfp4_online", "model": "/m"}),
    ("python -m vllm.entrypoints.openai.api_server -q fp8", "vllm", {"quantization": "fp8"}),
    ("LLM(model='m', quantization=\"nvfp4_per_token\", distributed_executor_backend='ray')  # from vllm import LLM", "vllm",
     {"quantization": "nvfp4_per_token", "executor": "ray", "model": "m"}),
    ("torchrun pretrain_gpt.py", "transformer-engine", {}), ("ls -l", "", {}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "program", "arguments"), LINES, ids=[program or "none" for _, program, _ in LINES])
def test_command_lines(line, program, arguments):
    assert program_of(line) == program and arguments_of(line) == arguments


def test_transformer_engine_runs_nothing_where_it_refuses():
    env = {"NVTE_NVFP4_4OVER6": "activations"}
    assert all(s.recipe is None and "DISABLE_RHT" in s.error for s in sites(env, "transformer-engine"))
    assert all(s.recipe and not s.error for s in sites(env | {"NVTE_NVFP4_DISABLE_RHT": "1"}, "transformer-engine"))
    assert all(s.recipe for s in sites({"NVTE_NVFP4_4OVER6": "weights"}, "transformer-engine"))
