"""A causal language model and its tokenizer from a Hugging Face folder or a GGUF file, with dense weights."""

from __future__ import annotations

from pathlib import Path

import torch


def load_model(path: str | Path, *, dtype=torch.bfloat16, device=None):
    """The model, in evaluation mode, and its tokenizer; nothing is fetched from anywhere.

    Raises RuntimeError where transformers is missing, FileNotFoundError or ValueError where there is no model.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no model at {str(path)!r}: give a Hugging Face folder or a .gguf file")
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise RuntimeError("transformers is missing: pip install transformers (and gguf for .gguf files)") from error
    options, where = {}, path
    if path.suffix == ".gguf":
        options, where = {"gguf_file": path.name}, path.parent
    try:
        dense = {"quantization_config": _dense()} if options else {}
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, local_files_only=True, **options, **dense)
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True, **options)
    except ImportError as error:
        raise RuntimeError(f"cannot load {str(path)!r}: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load a model from {str(path)!r}: {str(error).strip().splitlines()[0]}") from error
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer


def _dense():
    """Weights dequantized: packed ones would run in whichever kernel is installed. None before transformers 5."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return None
    return GgufConfig(dequantize=True)


def batches(tokenizer, text: str, tokens: int, length: int, size: int = 1) -> list[torch.Tensor]:
    """The first `tokens` of a text in sequences of `length`: int64 [size, length] each, the last one shorter."""
    ids = torch.tensor(tokenizer(text).input_ids[:tokens])
    whole = ids[: len(ids) // length * length].reshape(-1, length)
    found = list(whole.split(size))
    rest = ids[whole.numel() :][None]
    return found + ([rest] if rest.shape[1] > 1 else [])
