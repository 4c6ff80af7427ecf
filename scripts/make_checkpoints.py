"""Quantize two tiny models by real tools, on a CPU: the checkpoints of tests/checkpoints/data.

The tools want other releases of transformers, so each has an environment of its own:

    python -m venv ct && ct/bin/pip install torch==2.13.0 llmcompressor==0.14.0.1
    python -m venv mo && mo/bin/pip install torch==2.13.0 nvidia-modelopt==0.47.0 "transformers==5.14.1" accelerate
    ct/bin/python scripts/make_checkpoints.py original
    ct/bin/python scripts/make_checkpoints.py llm-compressor
    mo/bin/python scripts/make_checkpoints.py modelopt
    python scripts/make_checkpoints.py by-hand          # nvfp4viz' own environment

`original` draws a Llama of three layers and a Qwen3-MoE of two with eight experts (seeds below); the tools calibrate on
random tokens, all experts fed. Each run adds to provenance.json: versions, and for each matrix the SHA-256 of what the
tool itself decodes it to. nvidia-modelopt's 4over6 (NVFP4_FOUR_OVER_SIX_CFG) and AWQ calibrate by CUDA kernels alone
("static_blockwise_fp4_fake_quant requires triton", "amax must be a CUDA tensor"), so `by-hand` writes 4over6 in its
published layout: weight_scale_2 = amax / (6 * 256), as modelopt 0.47.0's fp8_max_for_normalization has it.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import torch

DATA = Path(__file__).parents[1] / "tests" / "checkpoints" / "data"
KEPT = ("config.json", "hf_quant_config.json", "model.safetensors")
PACKAGES = ("torch", "transformers", "llmcompressor", "compressed-tensors", "nvidia-modelopt", "safetensors")
MODELS = ("llama", "qwen3-moe")
SEED, TOKENS, BATCHES = 17, 64, 32


def model(name: str):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(SEED)
    common = {
        "vocab_size": 256, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if name == "llama":
        found = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, intermediate_size=128, **common))
    else:
        found = Qwen3MoeForCausalLM(Qwen3MoeConfig(
            num_hidden_layers=2, intermediate_size=128, moe_intermediate_size=32, num_experts=8, num_experts_per_tok=2,
            head_dim=16, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], **common,
        ))  # fmt: skip
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for p in found.parameters():
            if p.ndim > 1:  # tails as trained weights have them
                p.copy_(0.05 * torch.randn(p.shape, generator=g) * torch.exp(0.4 * torch.randn(p.shape, generator=g)))
    return found.to(torch.bfloat16).eval()


def batches() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(SEED + 1)
    return [torch.randint(3, 256, (1, TOKENS), generator=g) for _ in range(BATCHES)]


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(256)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", unk_token="t0")


def original() -> None:
    for name in MODELS:
        model(name).save_pretrained(DATA / f"{name}-bf16")
        keep(DATA / f"{name}-bf16")


def llm_compressor() -> None:
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    rows = [{"input_ids": b[0].tolist(), "attention_mask": [1] * TOKENS} for b in batches()]
    for name in MODELS:
        loaded = AutoModelForCausalLM.from_pretrained(DATA / f"{name}-bf16", dtype="bfloat16")
        modifier = QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=["lm_head", "re:.*mlp.gate$"])
        oneshot(model=loaded, processor=tokenizer(), dataset=Dataset.from_list(rows), recipe=modifier,
                num_calibration_samples=BATCHES, max_seq_length=TOKENS, moe_calibrate_all_experts=True)  # fmt: skip
        folder = DATA / f"{name}-compressed-tensors"
        loaded.save_pretrained(folder, save_compressed=True)
        keep(folder)
        note(folder, decoded_by_compressed_tensors(folder))


def decoded_by_compressed_tensors(folder: Path) -> dict[str, str]:
    from compressed_tensors.compressors import NVFP4PackedCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.quant_scheme import NVFP4
    from safetensors.torch import load_file

    tensors, scheme = load_file(folder / "model.safetensors"), QuantizationScheme(targets=["Linear"], **NVFP4)
    found = {}
    for name in tensors:
        module, _, last = name.rpartition(".")
        if last == "weight_packed":
            parts = ("weight_packed", "weight_scale", "weight_global_scale")
            state = {p: tensors[f"{module}.{p}"] for p in parts}
            found[module] = digest(NVFP4PackedCompressor.decompress(state, scheme)["weight"])
    return found


def modelopt() -> None:
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    def calibrate(loaded) -> None:
        for batch in batches():
            loaded(batch)

    for name in MODELS:
        loaded = AutoModelForCausalLM.from_pretrained(DATA / f"{name}-bf16", dtype=torch.bfloat16).eval()
        folder = DATA / f"{name}-modelopt"
        export_hf_checkpoint(mtq.quantize(loaded, copy.deepcopy(mtq.NVFP4_DEFAULT_CFG), calibrate), export_dir=folder)
        keep(folder)
        note(folder, decoded_by_modelopt(folder))


def decoded_by_modelopt(folder: Path) -> dict[str, str]:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor
    from safetensors.torch import load_file

    tensors, found = load_file(folder / "model.safetensors"), {}
    for name in tensors:
        module = name.removesuffix(".weight_scale")
        if module != name:
            packed = tensors[f"{module}.weight"]
            shape = torch.Size((packed.shape[0], 2 * packed.shape[1]))
            decoded = NVFP4QTensor(shape, torch.float32, packed).dequantize(
                scale=tensors[name], double_scale=tensors[f"{module}.weight_scale_2"], block_sizes={-1: 16}
            )
            found[module] = digest(decoded)
    return found


def by_hand() -> None:
    """The Llama in ModelOpt's layout with 4over6 under a ceiling of 256, fused matrices with one scale."""
    from safetensors.torch import load_file, save_file

    import nvfp4viz

    source, folder = DATA / "llama-modelopt", DATA / "llama-4over6-by-hand"
    tensors, weights = load_file(source / "model.safetensors"), load_file(DATA / "llama-bf16" / "model.safetensors")
    recipe = nvfp4viz.Recipe(256, four_over_six=True, err_mode="MSE", per_token=False)
    for name in [n for n in tensors if n.endswith(".weight_scale_2")]:
        module = name.removesuffix(".weight_scale_2")
        amax = float(tensors[name]) * 448 * 6  # of the fused group
        q = nvfp4viz.quantize(weights[f"{module}.weight"], recipe, engine="reference", encode_scale=256 * 6 / amax)
        tensors |= {f"{module}.weight": q.codes, f"{module}.weight_scale": q.block_scales,
                    name: torch.tensor(amax / (256 * 6))}  # fmt: skip
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for file in KEPT[:2]:
        shutil.copy(source / file, folder / file)
    note(folder, {})


def keep(folder: Path) -> None:
    """Remove what no reader of weights needs; files that anybody may read."""
    for file in folder.iterdir():
        if file.name in KEPT:
            file.chmod(0o644)
        else:
            file.unlink()


def digest(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def note(folder: Path, decoded: dict[str, str]) -> None:
    path = DATA / "provenance.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    known[folder.name] = {"command": " ".join(["scripts/make_checkpoints.py", *sys.argv[1:]]), "versions": versions,
                          "sha256_of_the_tools_decoded_weights": decoded}  # fmt: skip
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    {"original": original, "llm-compressor": llm_compressor, "modelopt": modelopt, "by-hand": by_hand}[sys.argv[1]]()
