"""What consumers make of the environment, against the consumers themselves; recipes, findings."""

import ast
import dataclasses
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4viz import RECIPES, Recipe, quantize, synthetic
from nvfp4viz.environment import (
    CONSUMERS,
    VARIABLES,
    check,
    environment_of,
    flashinfer_config,
    recipe_from_environment,
    recipes_of,
    sglang_call,
)
from nvfp4viz.environment.fixes import apply
from nvfp4viz.environment.rules import cpp_stream, only_1, prims_word, reading, sglang_bool

ROOT = Path(__file__).parents[2]
FI, SG, TE = "FLASHINFER_NVFP4_4OVER6", "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION", "NVTE_NVFP4_4OVER6"
U256, MODE, ERR_FAST = f"{FI}_E4M3_USE_256", f"{FI}_ERR_MODE", f"{FI}_ERR_USE_FAST_MATH"
STRICT, ALIAS = "FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH", "TRTLLM_DISABLE_FP4_QUANT_FAST_MATH"

STRINGS = [
    "1", "0", "true", "True", "TRUE", "tRuE", "false", "False", "FALSE", "yes", "Yes", "YES", "y", "Y", "no", "No", "n",
    "N", "on", "On", "ON", "off", "OFF", "", " ", " 1", "1 ", "\t1", "1\n", "01", "001", "10", "11", "2", "-1", "+1",
    "-0", "00", "0x1", "0x0", "1.0", "1.", "1e0", "0.0", "t", "T", "f", "F", "None", "none", "null", "nil", "enable",
    "enabled", "disable", "weights", "activations", "all", "All", "１", "٠", "१", "²", "①", "ＴＲＵＥ",
    "ＹＥＳ", "true ", " true", "'1'", '"1"', "1;", "1,0", "1abc", "1=1", "YES!", "ı", "İ", "ja", "wahr",
    "9" * 20, "0" * 30 + "1",
]  # fmt: skip
MODES = [
    "MAE", "MSE", "mae", "mse", "Mae", "mSe", "", " MSE", "MSE ", "MSE\n", "RMSE", "MAE,MSE", "l2", "L1", "mſe",
    "MſE", "ＭＳＥ", "мае", "MAĖ", "1", "0", "None", "max", "MAX", "mae mse", "m", "M", "ms", "msee", "MAEMSE",
    "abs", "square", "sse", "SAE", "huber", "norm", "MAE\t", "\tMAE", "ma_e", "mAE", "maE", "MsE",
]  # fmt: skip


def test_there_are_enough_strings():
    assert len(set(STRINGS)) >= 70 and len(set(MODES)) >= 40


# --- against the installed FlashInfer


@pytest.fixture
def clean(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture(scope="module")
def flashinfer():
    return pytest.importorskip("flashinfer", reason="flashinfer-python is not installed")


def _flashinfer_recipe(config, env) -> Recipe:
    if config is None:
        return Recipe(fast_math=env.get(STRICT) != "1")
    return Recipe(
        config.e4m3_max,
        four_over_six=True,
        err_mode=config.err_mode_name,
        err_use_fast_math=config.err_use_fast_math,
        fast_math=env.get(STRICT) != "1",
    )


def _same_as_flashinfer(env, clean):
    from flashinfer.quantization.nvfp4_quantization_utils import resolve_nvfp4_4over6

    for name in VARIABLES:
        clean.delenv(name, raising=False)
    for name, value in env.items():
        clean.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            expected = _flashinfer_recipe(resolve_nvfp4_4over6(), env)
        except ValueError:
            for consumer in ("flashinfer", "cute-dsl"):
                with pytest.raises(ValueError, match="MAE and MSE"):
                    recipe_from_environment(env, consumer)
            return
    assert recipe_from_environment(None, "flashinfer") == expected == recipe_from_environment(env, "cute-dsl")


@pytest.mark.parametrize("text", STRINGS, ids=repr)
def test_flashinfer_python_reads_flags_as_we_say(text, clean, flashinfer):
    from flashinfer.quantization.nvfp4_quantization_utils import env_flag_enabled

    clean.setenv("X", text)
    assert env_flag_enabled("X") is only_1(text).value
    for name, others in ((FI, {}), (U256, {FI: "1"}), (ERR_FAST, {FI: "1", MODE: "MSE"})):
        _same_as_flashinfer(others | {name: text}, clean)


@pytest.mark.parametrize("text", MODES, ids=repr)
def test_flashinfer_python_reads_the_error_mode_as_we_say(text, clean, flashinfer):
    _same_as_flashinfer({FI: "1", MODE: text}, clean)
    _same_as_flashinfer({FI: "0", MODE: text}, clean)  # not read, so never an error


def test_flashinfer_reads_at_every_call_and_warns_that_an_argument_replaces_it(clean, flashinfer):
    from flashinfer.quantization.nvfp4_quantization_utils import resolve_nvfp4_4over6

    assert resolve_nvfp4_4over6() is None
    clean.setenv(FI, "1")
    with pytest.warns(FutureWarning, match="nvfp4_4over6=.* explicitly instead"):
        assert resolve_nvfp4_4over6().e4m3_max == 448
    assert resolve_nvfp4_4over6(None) is None
    clean.setenv(MODE, "median")
    with pytest.raises(ValueError, match="MAE or MSE"):
        resolve_nvfp4_4over6()


def _source(module: str, *parts: str) -> str:
    return (Path(importlib.util.find_spec(module).origin).parent / Path(*parts)).read_text()


def _function(source: str, name: str) -> str:
    tree = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name)
    return ast.unparse(tree)


@pytest.mark.parametrize("text", STRINGS, ids=repr)
def test_flashinfer_prims_ts_reads_flags_by_a_rule_of_its_own(text, clean, flashinfer):
    source = _source("flashinfer", "prims_ts", "moe", "runner.py")
    space = {"os": os}
    exec(_function(source, "_env_flag_enabled") + "\n" + _function(source, "_nvfp4_per_token_global_scale_inv"), space)
    clean.setenv(FI, "1")
    clean.setenv(U256, text)
    assert space["_env_flag_enabled"](U256) is prims_word(text).value
    recipe = recipe_from_environment(None, "prims-ts")
    assert space["_nvfp4_per_token_global_scale_inv"]() == 1 / (6 * recipe.e4m3_max)


def test_flashinfer_python_never_reads_the_trtllm_name(flashinfer):
    """CuTe-DSL kernels are launched from Python, so they cannot know it; they read ours where they are launched."""
    folder = Path(flashinfer.__file__).parent / "quantization"
    assert not [f for f in folder.rglob("*.py") if ALIAS in f.read_text()]
    assert STRICT in (folder / "kernels" / "nvfp4_quantize.py").read_text()
    cpp = _source("flashinfer", "data", "csrc", "nv_internal", "cpp", "common", "envUtils.cpp")
    assert ALIAS in cpp and STRICT in cpp


def test_fp8_input_has_no_4over6(flashinfer, clean):
    from flashinfer.quantization.nvfp4_quantization_utils import nvfp4_4over6_fp8_input_error

    assert "requires fp16 or bf16 input" in str(nvfp4_4over6_fp8_input_error(torch.float8_e4m3fn))
    assert any("fp8" in f.message and f.severity == "note" for f in check({FI: "1"}))
    assert not any("fp8" in f.message for f in check({FI: "0"}))


# --- against FlashInfer's C++: its reading functions, compiled from the source it ships

CPP = """
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
enum class NVFP44Over6ErrMode { MAE, MSE };
%s
int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }
int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::string text;
    for (size_t i = 0; i + 1 < line.size(); i += 2) text += char(digit(line[i]) * 16 + digit(line[i + 1]));
    for (char const* name : {"%s"}) setenv(name, text.c_str(), 1);
    char const* mode = "raises";
    try {
      mode = getEnvNVFP44Over6ErrMode() == NVFP44Over6ErrMode::MSE ? "MSE" : "MAE";
    } catch (std::invalid_argument&) {
    }
    unsetenv("%s");  // either name alone makes it strict
    bool alias = getEnvDisableFP4QuantFastMath();
    setenv("%s", text.c_str(), 1);
    unsetenv("%s");
    bool strict = getEnvDisableFP4QuantFastMath();
    bool value;  // Transformer Engine's getenv<bool>: default where empty, else this stream, which must not fail
    std::istringstream stream(text);
    stream >> value;
    std::cout << getEnvNVFP4Use4Over6() << getEnvNVFP44Over6E4M3Use256() << getEnvNVFP44Over6ErrUseFastMath()
              << strict << alias << " " << mode << " "
              << (text.empty() ? "0" : !stream ? "raises" : value ? "1" : "0") << std::endl;
  }
}
"""


@pytest.fixture(scope="module")
def cpp(flashinfer, tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: g++ is needed to run FlashInfer's reading functions")
    source = _source("flashinfer", "data", "csrc", "nv_internal", "cpp", "common", "envUtils.cpp")
    strings = _source("flashinfer", "data", "csrc", "nv_internal", "include", "tensorrt_llm", "common", "stringUtils.h")
    wanted = ("getStrEnv", "getBoolEnv", "getEnvDisableFP4QuantFastMath", "getEnvNVFP4Use4Over6",
              "getEnvNVFP44Over6ErrMode", "getEnvNVFP44Over6ErrUseFastMath", "getEnvNVFP44Over6E4M3Use256")  # fmt: skip
    functions = [re.search(r"^inline void toUpper\(.*?^}", strings, re.S | re.M)[0]]
    functions += [
        re.search(rf"^[^\n/]*\b{name}\([^)]*\) {{(?:[^\n]*}}$|.*?^}})", source, re.S | re.M)[0] for name in wanted
    ]
    folder = tmp_path_factory.mktemp("cpp")
    names = [n for n in VARIABLES if not n.startswith(("NVTE", "SGLANG"))]
    text = CPP % ("\n".join(functions), '", "'.join(names), STRICT, STRICT, ALIAS)
    (folder / "read.cpp").write_text(text)
    subprocess.run([compiler, "-std=c++17", "-O0", "-o", folder / "read", folder / "read.cpp"], check=True)

    def run(texts):
        lines = "".join(t.encode().hex() + "\n" for t in texts)
        out = subprocess.run([folder / "read"], input=lines, capture_output=True, text=True, check=True).stdout
        return [line.split(" ") for line in out.splitlines()]

    return run


def test_flashinfer_cpp_reads_as_we_say(cpp):
    texts = STRINGS + MODES
    for text, (flags, mode, _) in zip(texts, cpp(texts), strict=True):
        for name, bit in zip((FI, U256, ERR_FAST, STRICT, ALIAS), flags, strict=True):
            assert reading(name, "flashinfer-cuda", text).value is (bit == "1"), (name, text)
        ours = reading(MODE, "flashinfer-cuda", text).value or "raises"
        assert ours == mode, text


def test_a_cpp_stream_reads_bools_as_we_say(cpp):
    for text, (*_, stream) in zip(STRINGS + MODES, cpp(STRINGS + MODES), strict=True):
        ours = cpp_stream(text).value
        assert stream == ("raises" if ours is None else str(int(ours))), text


def test_python_and_cpp_differ_on_one_letter():
    """The long s is an S in upper case to Python, and two unknown bytes to C++."""
    assert reading(MODE, "flashinfer", "mſe").value == "MSE"
    assert reading(MODE, "flashinfer-cuda", "mſe").value is None


# --- against SGLang's and Transformer Engine's published wheels


def _wheel(pattern: str) -> zipfile.ZipFile:
    found = sorted((ROOT / ".cache" / "wheels").glob(pattern + "*.whl"))
    if not found:
        pytest.skip(f"the wheel {pattern} is not in .cache/wheels: make wheels fetches it")
    return zipfile.ZipFile(found[-1])


def _load(wheel: zipfile.ZipFile, member: str, folder: Path, name: str):
    source = wheel.read(member).decode().replace("import sglang.srt.debug_utils.cuda_coredump", "pass")
    (folder / f"{name}.py").write_text(source)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture(scope="module", params=["0.5.13", "0.5.23"])
def sglang(request, tmp_path_factory):
    wheel = _wheel(f"sglang-{request.param}-")
    folder = tmp_path_factory.mktemp("sglang")
    environ = _load(wheel, "sglang/srt/environ.py", folder, "sglang_environ")
    runner = wheel.read("sglang/srt/layers/moe/moe_runner/flashinfer_trtllm.py").decode()
    return types.SimpleNamespace(version=request.param, envs=environ.envs, runner=runner)


@pytest.mark.parametrize("name", [FI, U256, SG])
def test_sglang_reads_as_we_say(name, clean, sglang):
    field = getattr(sglang.envs, name)
    assert field.get() is sglang_bool(None).value is False
    for text in STRINGS:
        clean.setenv(name, text)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = field.get()
        ours = reading(name, "sglang", text)
        assert ours.value is value, text
        assert ("warning" in ours.text) == bool(caught), text


def _real_sglang_call(sglang) -> dict:
    """The arguments of nvfp4_quantize in SGLang's own per-token branch, run with everything around it left out."""
    tree = ast.parse(sglang.runner)
    name = "fused_experts_none_to_flashinfer_trtllm_fp4"
    function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    branch = next(n for n in ast.walk(function) if isinstance(n, ast.If) and "per_token" in ast.unparse(n.test).lower()
                  and any("nvfp4_quantize(" in ast.unparse(b) for b in n.body))  # fmt: skip
    last = next(i for i, b in enumerate(branch.body) if "nvfp4_quantize(" in ast.unparse(b))
    body = [b for b in branch.body[: last + 1] if not isinstance(b, ast.ImportFrom)]
    seen = {}

    def nvfp4_quantize(a, a_global_sf, **rest):
        seen.update(a_global_sf=a_global_sf, **rest)
        return None, None, None

    layouts = types.SimpleNamespace(layout_linear="layout_linear")
    space = {"envs": sglang.envs, "torch": torch, "hidden_states": torch.zeros(1, 16), "SfLayout": layouts}
    exec(compile(ast.Module(body, []), "sglang", "exec"), space | {"nvfp4_quantize": nvfp4_quantize})
    return seen


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_sglang_calls_flashinfer_as_we_say(clean, sglang):
    clean.setenv(SG, "1")
    for text in STRINGS:
        for name in (FI, U256):
            clean.setenv(FI, "1")
            clean.setenv(name, text)
            ours, real = sglang_call(None, sglang.version), _real_sglang_call(sglang)
            assert ours.keys() == real.keys() and type(ours["a_global_sf"]) is type(real["a_global_sf"])
            assert torch.equal(torch.as_tensor(ours["a_global_sf"]), torch.as_tensor(real["a_global_sf"])), (name, text)
            assert {k: v for k, v in ours.items() if k != "a_global_sf"} == {k: v for k, v in real.items()
                                                                            if k != "a_global_sf"}  # fmt: skip
            recipe = recipe_from_environment(None, "sglang", sglang.version)
            assert float(ours["a_global_sf"]) == pytest.approx(1 / (6 * recipe.e4m3_max), rel=1e-6)


def test_sglang_passes_no_explicit_recipe(sglang):
    """So FlashInfer reads the environment by its own rules, and its check of the scale never runs."""
    assert "nvfp4_4over6=" not in sglang.runner
    assert ('backend="cute-dsl"' in sglang.runner) == (sglang.version != "0.5.13")


@pytest.fixture
def transformer_engine(tmp_path, monkeypatch):
    """Imports Transformer Engine's recipe anew at each call, since it reads the environment when it is imported."""
    wheel = _wheel("transformer_engine-2.20.2-")
    stub = types.ModuleType("pydantic.dataclasses")  # its checks of types are not what we test
    stub.dataclass = dataclasses.dataclass
    monkeypatch.setitem(sys.modules, "pydantic", types.ModuleType("pydantic"))
    monkeypatch.setitem(sys.modules, "pydantic.dataclasses", stub)
    member = "transformer_engine/common/recipe/__init__.py"
    return lambda: _load(wheel, member, tmp_path, "te_recipe").NVFP4BlockScaling


def test_transformer_engine_reads_as_we_say(clean, transformer_engine):
    rows = [(TE, "nvfp4_4over6"), (f"{TE}_E4M3_USE_256", "nvfp4_4over6_e4m3_use_256"),
            (f"{TE}_ERR_MODE", "nvfp4_4over6_err_mode"),
            ("NVTE_NVFP4_ROW_SCALED_ACTIVATION", "row_scaled_activation")]  # fmt: skip
    for name, attribute in rows:
        clean.delenv(name, raising=False)
        assert getattr(transformer_engine()(), attribute) == reading(name, "transformer-engine", None).value
        for text in STRINGS + MODES:
            clean.setenv(name, text)
            ours = reading(name, "transformer-engine", text).value
            if ours is None:
                with pytest.raises(AssertionError, match=f"{name} must be one of"):
                    transformer_engine()()
                with pytest.raises(ValueError, match=name):
                    recipe_from_environment(None, "transformer-engine")
            else:
                assert getattr(transformer_engine()(), attribute) == ours
        clean.delenv(name)


def test_transformer_engine_reads_at_import(clean, transformer_engine):
    recipe = transformer_engine()
    clean.setenv(TE, "all")
    assert recipe().nvfp4_4over6 == "none" and transformer_engine()().nvfp4_4over6 == "all"


# --- a test for each variable: who reads it, what it changes, what is its default

ON = {FI: "1"}
SERVING = ("flashinfer", "flashinfer-cuda", "cute-dsl", "prims-ts", "sglang", "vllm")
SCALING = tuple(c for c in SERVING if c != "vllm")  # vLLM makes its scale for 448 whatever is set
ROWS = [  # variable, the rest of the environment, its value, {consumer: {field of the recipe: value}}
    (FI, {}, "1", {c: {"four_over_six": True} for c in SERVING}),
    (U256, ON | {SG: "1"}, "1", {c: {"e4m3_max": 256.0} for c in SCALING} | {"vllm": {"scored_as": 256.0}}),
    (U256, {}, "1", {}),  # without 4over6
    (MODE, ON, "mse", {c: {"err_mode": "MSE"} for c in SERVING}),
    (MODE, {}, "nonsense", {}),  # not read
    (ERR_FAST, ON, "1", {c: {"err_use_fast_math": True} for c in SERVING}),
    (STRICT, {}, "1", {c: {"fast_math": False} for c in SERVING}),
    (ALIAS, {SG: "1"}, "1", {c: {"fast_math": False} for c in ("flashinfer-cuda", "prims-ts", "vllm")}),
    (SG, ON, "1", {"sglang": {"per_token": True}}),
    (TE, {}, "all", {c: {"four_over_six": True, "e4m3_max": 256.0} for c in ("transformer-engine", "miles")}),
    (TE, {}, "activations", {"transformer-engine": {"four_over_six": True, "e4m3_max": 256.0}}),
    (TE, {}, "weights", {"miles": {"four_over_six": True, "e4m3_max": 256.0}}),
    (f"{TE}_E4M3_USE_256", {TE: "all"}, "none", {c: {"e4m3_max": 448.0} for c in ("transformer-engine", "miles")}),
    (f"{TE}_E4M3_USE_256", {TE: "all"}, "weights", {"transformer-engine": {"e4m3_max": 448.0}}),
    (f"{TE}_ERR_MODE", {TE: "all"}, "mse", {c: {"err_mode": "MSE"} for c in ("transformer-engine", "miles")}),
    (f"{TE}_ERR_USE_FAST_MATH", {TE: "all"}, "1", {"transformer-engine": {"err_use_fast_math": True}}),
    ("NVTE_USE_FAST_MATH", {}, "1", {"transformer-engine": {"fast_math": True}}),
    ("NVTE_NVFP4_ROW_SCALED_ACTIVATION", {}, "1", {"transformer-engine": {"per_token": True}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rest", "value", "changes"), ROWS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_variable_changes_what_its_readers_run_and_nothing_else(name, rest, value, changes):
    before, after = recipes_of(rest), recipes_of(rest | {name: value})
    for consumer in CONSUMERS:
        assert after[consumer] == dataclasses.replace(before[consumer], **changes.get(consumer, {})), consumer


def test_every_variable_has_a_row():
    assert {row[0] for row in ROWS} == set(VARIABLES)
    assert {c for v in VARIABLES.values() for c in v.readers} == set(CONSUMERS) - {"vllm"}  # it reads none itself


def test_defaults_differ():
    assert recipe_from_environment({}) == Recipe(fast_math=True)
    assert recipe_from_environment({}, "transformer-engine") == Recipe(per_token=False)
    assert recipe_from_environment({}, "sglang") == Recipe(per_token=False, fast_math=True)
    assert recipe_from_environment({FI: "1"}).e4m3_max == 448
    assert recipe_from_environment({TE: "all"}, "transformer-engine").e4m3_max == 256
    for v in VARIABLES.values():
        for consumer in v.readers:
            value = reading(v.name, consumer, None).value
            off = {False: "off", True: "on"}.get(value)
            scoped = consumer == "miles" and v.default.split()[0] in ("none", "all")
            assert v.default.split()[0] in (value, off) or scoped


def test_versions_matter():
    env = {FI: "1", STRICT: "1", SG: "1", U256: "1"}
    assert recipe_from_environment(env, "flashinfer-cuda", "0.6.12").fast_math  # it reads the TRT-LLM name only
    assert not recipe_from_environment(env | {ALIAS: "1"}, "flashinfer-cuda", "0.6.12").fast_math
    assert not recipe_from_environment(env, "flashinfer-cuda", "0.6.13").fast_math
    assert recipe_from_environment(env, "sglang", "0.5.15.post1").fast_math  # pins FlashInfer 0.6.12
    assert not recipe_from_environment(env, "sglang", "0.5.16").fast_math
    assert not recipe_from_environment(env, "flashinfer", "0.6.11").four_over_six
    assert isinstance(sglang_call(env, "0.5.13")["a_global_sf"], float)
    for version in ("0.5.16", "0.5.23"):
        call = sglang_call(env, version)
        assert isinstance(call["a_global_sf"], torch.Tensor) and call["backend"] == "cute-dsl"
    assert sglang_call(env | {SG: "0"}) is None
    with pytest.raises(ValueError, match=r"came with 0\.5\.13"):
        sglang_call(env, "0.5.12.post1")
    with pytest.raises(ValueError, match="not a version"):
        recipe_from_environment(env, "sglang", "new")


# --- the mismatch


def test_a_word_that_sglang_takes_and_flashinfer_does_not():
    env = {FI: "1", U256: "true", SG: "1"}
    assert float(sglang_call(env)["a_global_sf"]) == pytest.approx(1 / (256 * 6))
    recipe = recipe_from_environment(env, "sglang")
    assert (recipe.e4m3_max, recipe.scored_as) == (256, 448)
    (error,) = [f for f in check(env) if f.severity == "error"]
    assert error.variable == U256 and error.fix == f"{U256}=1"
    assert error.readings["SGLang"] == "on (256)" and error.readings["FlashInfer CuTe-DSL"] == "off (448)"


def test_where_the_kernels_ceiling_enters():
    """Exact scores per token only; per tensor and with fp16 scores a wrong ceiling changes nothing."""
    x = synthetic("normal", 64, 256)
    for per_token, fp16 in itertools.product((True, False), (True, False)):
        recipe = Recipe(256, four_over_six=True, per_token=per_token, err_use_fast_math=fp16)
        right = quantize(x, recipe, engine="reference")
        wrong = quantize(x, dataclasses.replace(recipe, scored_as=448), engine="reference")
        same = torch.equal(right.codes, wrong.codes)
        assert same == (fp16 or not per_token)


# --- there and back

VARIANTS = [
    dataclasses.replace(r, err_use_fast_math=r.four_over_six and e, fast_math=f, per_token=p)
    for r, e, f, p in itertools.product(RECIPES.values(), *[(False, True)] * 3)
]


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_recipes_survive_the_way_through_an_environment(consumer):
    for recipe in VARIANTS:
        if consumer == "vllm" and recipe.e4m3_max != 448:
            with pytest.raises(ValueError, match="vLLM passes the scale of 448"):
                environment_of(recipe, consumer)
            continue
        if consumer == "miles":  # weights: one scale a tensor, and its C++ switches are not in its reach
            recipe = dataclasses.replace(recipe, per_token=False, err_use_fast_math=False, fast_math=False)
        env = environment_of(recipe, consumer)
        back = recipe_from_environment(env, consumer)
        spoken = consumer in (
            "sglang",
            "transformer-engine",
            "miles",
        )  # FlashInfer's caller says per token, no variable does
        # per tensor SGLang's scale is the checkpoint's, made for 448; the kernel's ceiling is the recipe's
        if consumer == "sglang" and not recipe.per_token:
            assert (back.e4m3_max, back.score_e4m3_max) == (448, recipe.e4m3_max)
            recipe = dataclasses.replace(recipe, e4m3_max=448, scored_as=back.scored_as)
        assert back == (recipe if spoken else dataclasses.replace(recipe, per_token=True))
        assert not [f for f in check(env) if f.severity == "error"], check(env)
        assert all(isinstance(v, str) for v in env.values()) and set(env) <= set(VARIABLES) | {"NVTE_NVFP4_DISABLE_RHT"}


def test_environments_of_trainer_and_rollout_agree():
    for recipe in VARIANTS:
        env = environment_of(recipe, "sglang") | environment_of(recipe, "transformer-engine")
        bad = [f for f in check(env) if f.severity == "error"]
        # per tensor with 256: SGLang's checkpoint scale is made for 448
        assert not bad or (not recipe.per_token and recipe.e4m3_max == 256), bad


def test_flashinfer_config_is_flashinfers(flashinfer, clean):
    from flashinfer import NVFP44Over6Config
    from flashinfer.quantization.nvfp4_quantization_utils import current_nvfp4_4over6_config

    for recipe in VARIANTS:
        for name, value in environment_of(recipe).items():
            clean.setenv(name, value)
        config = flashinfer_config(recipe)
        assert config == current_nvfp4_4over6_config()
        assert eval(flashinfer_config(recipe, text=True), {"NVFP44Over6Config": NVFP44Over6Config}) == config


@pytest.mark.parametrize(
    "recipe", [Recipe(256), Recipe(320, four_over_six=True), Recipe(256, four_over_six=True, scored_as=448)]
)
def test_no_environment_for_what_the_variables_cannot_say(recipe):
    with pytest.raises(ValueError, match="the variables know the ceiling 448"):
        environment_of(recipe)
    with pytest.raises(ValueError, match="the variables know the ceiling 448"):
        flashinfer_config(recipe)


def test_methods_of_recipe():
    env = environment_of(RECIPES["4/6-mse-256"], "sglang")
    assert recipe_from_environment(env, "sglang") == RECIPES["4/6-mse-256"]
    assert environment_of(RECIPES["4/6-mse-256"], "sglang") == env
    assert "256" in flashinfer_config(RECIPES["4/6-mse-256"], text=True)
    with pytest.raises(ValueError, match="consumer='trt' is not one of"):
        recipe_from_environment(env, "trt")


# --- findings

INFERENCE = "FLASHINFERENCE_NVFP4_4OVER6"  # as a printed report spells it
CASES = [  # environment, severity, variable, a piece of the message, a piece of the fix
    ({FI: "true"}, "error", FI, "read as on by FlashInfer Prims-TS MoE and SGLang, as off by FlashInfer", f"{FI}=1"),
    ({FI: "on"}, "error", FI, "as off by FlashInfer and SGLang", f"{FI}=1"),
    ({FI: "1", U256: "yes"}, "error", U256, "made for one ceiling", f"{U256}=1"),
    ({U256: "yes"}, "warning", U256, "read as on", f"{U256}=1"),
    ({FI: "t"}, "error", FI, "written as on, read as off", f"{FI}=1"),
    ({FI: "2"}, "warning", FI, "none says so", f"{FI}=0"),
    ({FI: "off"}, "note", FI, "SGLang warns", f"{FI}=0"),
    ({STRICT: "true"}, "error", STRICT, "written as on, read as off", f"{STRICT}=1"),
    ({FI: "1", ERR_FAST: "TRUE"}, "error", ERR_FAST, "written as on", f"{ERR_FAST}=1"),
    ({U256: "1"}, "warning", U256, "without 4over6 is ignored", f"{FI}=1"),
    ({FI: "1"}, "warning", SG, "the checkpoint's scale", f"{SG}=1"),
    ({FI: "1", U256: "1"}, "warning", SG, "256 has no effect", f"{SG}=1"),
    ({SG: "on"}, "error", SG, "written as on", f"{SG}=1"),
    ({ALIAS: "1"}, "error", ALIAS, "only the C++ kernels", f"{STRICT}=1"),
    ({STRICT: "1"}, "note", STRICT, "0.6.12", f"{ALIAS}=1"),
    ({FI: "1", MODE: "RMSE"}, "error", MODE, "FlashInfer raises", f"{MODE}=MSE"),
    ({MODE: "RMSE"}, "warning", MODE, "raises", f"{MODE}=MSE"),
    ({FI: "1"}, "note", FI, "deprecated since FlashInfer 0.7.1", "nvfp4_4over6=NVFP44Over6Config(e4m3_max=448"),
    ({FI: "1"}, "note", FI, "fp8 input has no 4over6", ""),
    ({INFERENCE: "1"}, "error", INFERENCE, "no consumer reads", f"{FI}=1"),
    ({f"{INFERENCE}_ERR_MODE": "MSE"}, "error", f"{INFERENCE}_ERR_MODE", "", f"{MODE}=MSE"),
    ({"FLASHINFER_NVFP4_4OVER6_USE_256": "1"}, "error", "FLASHINFER_NVFP4_4OVER6_USE_256", "no consumer", U256),
    ({"FLASHINFER_NVFP4_40VER6": "1"}, "error", "FLASHINFER_NVFP4_40VER6", "no consumer", f"{FI}=1"),
    ({"flashinfer_nvfp4_4over6": "1"}, "error", "flashinfer_nvfp4_4over6", "no consumer", f"{FI}=1"),
    ({"SGLANG_FLASHINFER_PER_TOKEN_NVFP4_MOE": "1"}, "error", "SGLANG_FLASHINFER_PER_TOKEN_NVFP4_MOE", "", f"{SG}=1"),
    ({"VLLM_NVFP4_4OVER6_X": "1"}, "note", "VLLM_NVFP4_4OVER6_X", "none of the consumers", ""),
    ({TE: "true"}, "error", TE, "Transformer Engine raises", f"{TE}=all"),
    ({TE: "activation"}, "error", TE, "Transformer Engine raises", f"{TE}=activations"),
    ({FI: "1", MODE: "MSE "}, "error", MODE, "FlashInfer raises", f"{MODE}=MSE"),
    ({FI: "1\xa0"}, "error", FI, "written as on, read as off", f"{FI}=1"),
    ({FI: "１"}, "error", FI, "U+FF11", f"{FI}=1"),
    ({f"{TE}_E4M3_USE_256": "1", TE: "all"}, "error", f"{TE}_E4M3_USE_256", "raises", "=all"),
    ({f"{TE}_E4M3_USE_256": "none"}, "warning", f"{TE}_E4M3_USE_256", "without 4over6", f"{TE}=activations"),
    ({"NVTE_USE_FAST_MATH": "true"}, "error", "NVTE_USE_FAST_MATH", "raises", "NVTE_USE_FAST_MATH=1"),
    ({TE: "all"}, "error", TE, "Hadamard", "NVTE_NVFP4_DISABLE_RHT=1"),
    ({TE: "all", FI: "1"}, "error", U256, "defaults are opposite", f"{U256}=1"),
    ({TE: "weights", FI: "1"}, "error", FI, "differ in four_over_six", f"{TE}=all"),
    ({TE: "all", FI: "1", U256: "1", MODE: "MSE"}, "error", MODE, "differ in err_mode", f"{MODE}=MAE"),
    ({TE: "all", FI: "1", SG: "1"}, "error", SG, "differ in per_token", "NVTE_NVFP4_ROW_SCALED_ACTIVATION=1"),
    ({TE: "all", FI: "1", U256: "1"}, "warning", STRICT, "differ in fast_math", f"{STRICT}=1"),
]  # fmt: skip


@pytest.mark.parametrize(("env", "severity", "variable", "message", "fix"), CASES, ids=lambda v: str(v)[:60])
def test_findings(env, severity, variable, message, fix):
    found = [f for f in check(env) if f.variable == variable and message in f.message]
    assert found, check(env)
    assert found[0].severity == severity and fix in found[0].fix and found[0].value == env.get(variable)


CLEAN = [
    {}, {FI: "0"}, {FI: "false"}, {"PATH": "/bin", "NVTE_NVFP4_DISABLE_RHT": "1", "FLASHINFER_WORKSPACE_BASE": "/x"},
    {"NVTE_NVFP4_DISABLE_STOCHASTIC_ROUNDING": "1", "NVTE_NVFP4_DISABLE_2D_QUANTIZATION": "1"},
    {"SGLANG_FLASHINFER_CUTEDSL_NVFP4_W4A16": "1", "SKYRL_VLLM_NVFP4_PER_TOKEN_ACTIVATION": "1"},
    {STRICT: "1", ALIAS: "1"}, {TE: "weights"}, {TE: "all", "NVTE_NVFP4_DISABLE_RHT": "1"},
]  # fmt: skip


@pytest.mark.parametrize("env", CLEAN, ids=str)
def test_nothing_to_say(env):
    assert check(env) == []


def content(env, program="", arguments=None) -> list:
    """What is left of the errors and warnings that have a fix, when all fixes are made at once."""
    fixed = dict(env)
    for f in check(env, program, arguments):
        fixed = apply(fixed, f.changes if f.severity != "note" else {})
    return [f for f in check(fixed, program, arguments) if f.severity != "note" and f.changes]


@pytest.mark.parametrize("env", [case[0] for case in CASES], ids=str)
@pytest.mark.parametrize("program", ["", "sglang", "vllm"])
def test_after_all_fixes_the_doctor_is_content(env, program):
    assert content(env, program) == []


VALUES = [*STRINGS[:40], *MODES[:12], "all", "weights"]
WILD = st.dictionaries(st.sampled_from([*VARIABLES, "NVTE_NVFP4_DISABLE_RHT"]), st.sampled_from(VALUES))
FLAGS = st.fixed_dictionaries({}, optional={
    "quantization": st.sampled_from(["nvfp4_online", "nvfp4_per_token", "modelopt_fp4", "fp8"]),
    "moe": st.sampled_from(["flashinfer_cutedsl", "flashinfer_trtllm", "marlin"]),
    "linear": st.sampled_from(["flashinfer_trtllm", "auto"]), "executor": st.just("ray"),
})  # fmt: skip


@settings(deadline=None)
@given(WILD, st.sampled_from(["", "sglang", "vllm", "transformer-engine", "miles"]), FLAGS)
def test_fixes_never_undo_each_other(env, program, arguments):
    assert content(env, program, arguments) == []


@given(st.dictionaries(st.sampled_from(list(VARIABLES)), st.sampled_from(STRINGS + MODES)))
def test_check_takes_any_values(env):
    findings = check(env)
    assert [f.severity for f in findings] == sorted(
        (f.severity for f in findings), key=["error", "warning", "note"].index
    )
    recipes = recipes_of(env)
    for consumer, recipe in recipes.items():
        if isinstance(recipe, str):
            assert any(f.severity == "error" for f in findings), (consumer, recipe)
    scored = [r for r in recipes.values() if isinstance(r, Recipe) and r.scored_as and r.per_token]
    assert not scored or any(f.severity == "error" for f in findings)  # a mismatch never passes in silence


# --- the page about all this


def test_the_tables_in_the_docs_are_current():
    path = ROOT / "scripts" / "environment_tables.py"
    spec = importlib.util.spec_from_file_location("environment_tables", path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page) == page, "run python scripts/environment_tables.py"
    assert "`'true'` `'True'` `'TRUE'`" in page and set(tables.TEXTS) - {"f"} <= set(STRINGS) | {"f"}
