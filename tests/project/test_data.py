"""What data/ holds is what data/README.md says it holds."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

DATA = Path(__file__).parents[2] / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")
CHECKSUMS = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", README, re.MULTILINE))  # sha256 -> file name
TABLE = re.findall(r"^\| `(\S+)` \| \[(\d+), (\d+)\] \| (\S+) \| (\S+) \|$", README, re.MULTILINE)

LAYERS = (0, 7, 15, 22, 29)
FEATURES = {"self_attn.q_proj": 576, "self_attn.o_proj": 576, "mlp.gate_proj": 576, "mlp.down_proj": 1536}  # K
SHAPES = {f"model.layers.{layer}.{name}": (256, k) for layer in LAYERS for name, k in FEATURES.items()}
SHAPES["lm_head"] = (256, 576)

METADATA = {
    "model",
    "weights",
    "source_package",
    "source_version",
    "source_wheel_sha256",
    "text",
    "text_sha256",
    "tokens",
    "token_strings",
    "perplexity",
    "dtype",
    "attention",
    "torch",
    "transformers",
    "gguf",
    "cpu",
    "captured",
    "licence",
    "script",
}


@pytest.fixture(scope="module")
def stored(bundled):
    with safe_open(bundled, "pt") as file:
        yield file


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data_files():
    """Files of data/ and its subfolders, without a half-written capture."""
    return [path for path in DATA.rglob("*") if path.is_file() and path.suffix != ".part"]


def test_readme_lists_the_checksum_of_every_file():
    found = {sha256(path): path.relative_to(DATA).as_posix() for path in data_files() if path.name != "README.md"}
    assert found == CHECKSUMS


def test_data_stays_small_enough_to_clone():
    assert sum(path.stat().st_size for path in data_files()) < 12e6


def test_the_toy_mixture_of_experts_is_small_and_whole():
    folder = DATA / "toy-qwen3-moe"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        experts = [name for name in file.keys() if ".experts." in name]  # noqa: SIM118
    assert config["model_type"] == "qwen3_moe" and len({name.split(".experts.")[0] for name in experts}) == 4


def test_names_and_shapes(stored):
    assert {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()} == SHAPES  # noqa: SIM118


@pytest.mark.parametrize("name", SHAPES)
def test_tensor_is_bf16_finite_and_in_whole_blocks(stored, name):
    x = stored.get_tensor(name)  # [256, K]
    assert x.dtype == torch.bfloat16
    assert x.isfinite().all()
    assert x.shape[1] % 16 == 0
    assert (x != 0).any(dim=1).all(), "a token without activations"


def test_readme_table_matches_the_tensors(stored):
    assert {name: (int(tokens), int(k)) for name, tokens, k, _, _ in TABLE} == SHAPES
    for name, _, _, amax, rms in TABLE:
        x = stored.get_tensor(name).double()
        assert (amax, rms) == (f"{x.abs().max().item():.4g}", f"{x.square().mean().sqrt().item():.4g}"), name


def test_metadata_tells_the_origin(stored):
    metadata = stored.metadata()
    assert set(metadata) == METADATA
    assert all(metadata.values())
    assert metadata["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert metadata["licence"] == "Apache-2.0"
    assert metadata["dtype"] == "bfloat16"
    assert (DATA.parent / "scripts" / metadata["script"]).is_file()
    for key in ("model", "source_version", "source_wheel_sha256", "perplexity", "torch", "transformers", "captured"):
        assert metadata[key] in README, key


def test_tokens_are_the_start_of_the_text(stored):
    metadata = stored.metadata()
    tokens = json.loads(metadata["token_strings"])
    assert metadata["text_sha256"] == sha256(DATA / "alice.txt")
    assert len(tokens) == int(metadata["tokens"]) == 256
    assert (DATA / "alice.txt").read_text(encoding="utf-8").startswith("".join(tokens))


def test_the_toy_mixture_is_read_by_transformers_4_too():
    config, tokenizer = (
        json.loads((DATA / "toy-qwen3-moe" / f"{n}.json").read_text()) for n in ("config", "tokenizer_config")
    )
    assert config["num_experts"] == config["num_local_experts"] == 8
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
