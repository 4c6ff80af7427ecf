"""Causal language models of Hugging Face, from a folder or a GGUF file; and the command `nvfp4viz impact` on them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..engine import find_engine
from ..files import check_target
from ..model import MODES, PRESETS, NothingQuantizedError, impact
from ..nvfp4 import RECIPES, as_recipe


def load_model(path: str | Path, *, dtype=torch.bfloat16, device=None):
    """The model, in evaluation mode, and its tokenizer; nothing is fetched from anywhere.

    Of a vision-language model, all of it is loaded; token ids alone run its language part.

    Raises RuntimeError where transformers is missing, FileNotFoundError or ValueError where there is no model.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no model at {str(path)!r}: give a Hugging Face folder or a .gguf file")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise RuntimeError("transformers is missing: pip install transformers (and gguf for .gguf files)") from error
    options, where = {}, path
    if path.suffix == ".gguf":
        options, where = {"gguf_file": path.name}, path.parent
    try:
        dense = {"quantization_config": _dense()} if options else {}
        model = _language_model(where, dtype=dtype, local_files_only=True, **options, **dense)
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True, **options)
    except ImportError as error:
        raise RuntimeError(f"cannot load {str(path)!r}: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot load a model from {str(path)!r}: {str(error).strip().splitlines()[0]}") from error
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer


def _language_model(where, **options):
    """A causal language model, or a model that reads images or sound too and writes text."""
    import transformers

    first = None
    for kind in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        if not hasattr(transformers, kind):
            continue
        try:
            return getattr(transformers, kind).from_pretrained(where, **options)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            first = first or error
    raise first


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder, or a .gguf file")
    parser.add_argument("text", metavar="TEXT", help="a UTF-8 text file to predict")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="short names; default: the five named ones")
    parser.add_argument("--modules", nargs="+", metavar="PATTERN", help="default: linear layers but the output layer")
    parser.add_argument("--weights", action="store_true", help="the weights, too: --quantize activations+weights")
    parser.add_argument(
        "--quantize", choices=(*MODES, *PRESETS),
        help="activations (the default), with weights, or as a server: all-linear, sglang-nvfp4-online (experts alone)",
    )  # fmt: skip
    parser.add_argument("--weight-recipe", metavar="RECIPE", help="of the weights, apart from the activations'")
    parser.add_argument("--checkpoint", metavar="DIR", help="a quantized checkpoint, for --quantize checkpoint")
    parser.add_argument(
        "--per-layer", action="store_true", help="also each layer alone, in float32: layers times as many passes"
    )
    parser.add_argument(
        "--controls", action="store_true", help="also the ceilings 240 and 288: what differs no more is no finding"
    )
    parser.add_argument("--tokens", type=int, default=20480, help="from the start of the text (default 20480)")
    parser.add_argument("--length", type=int, default=512, help="tokens a sequence (default 512)")
    parser.add_argument("--engine", default="auto", help="auto (the default), or a name that `nvfp4viz doctor` lists")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="also write .json (everything, for report --impact) or the table as .csv"
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _checked(arguments: argparse.Namespace) -> str:
    """The text; ValueError or OSError for what would go wrong later."""
    if min(arguments.tokens, arguments.length) < 2:
        raise ValueError(f"--tokens {arguments.tokens} --length {arguments.length}: both are at least 2")
    for recipe in arguments.recipes or ():
        if recipe != "identity":
            as_recipe(recipe)
    if arguments.engine != "auto":
        find_engine(arguments.engine)
    if arguments.output:
        check_target(arguments.output)
        if Path(arguments.output).suffix.lower() not in (".json", ".csv"):
            raise ValueError(f"cannot write {arguments.output!r}: use .json (everything) or .csv (the table)")
    try:
        return Path(arguments.text).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.text!r} is no UTF-8 text; MODEL comes first, then TEXT") from error


def run(arguments: argparse.Namespace) -> int:
    """The command `nvfp4viz impact`: prints the table; returns 0, or 1 where nothing ran quantized."""
    text = _checked(arguments)  # said before the model is loaded and run
    exact = {"dtype": torch.float32} if arguments.per_layer else {}  # bfloat16's own rounding hides single layers
    model, tokenizer = load_model(arguments.model, **exact)
    ids = [b.to(next(model.parameters()).device) for b in batches(tokenizer, text, arguments.tokens, arguments.length)]

    def show(done: int, total: int, what: str) -> None:
        print(f"\r{done}/{total} {what:60.60}", end="", file=sys.stderr)

    how = arguments.quantize or ("checkpoint" if arguments.checkpoint else MODES[arguments.weights])
    try:
        found = impact(
            model, ids, arguments.recipes or RECIPES, quantize=how, weights=arguments.weight_recipe,
            checkpoint=arguments.checkpoint, modules=arguments.modules, per_layer=arguments.per_layer,
            controls=arguments.controls,
            engine=arguments.engine, progress=None if arguments.quiet else show,
        )  # fmt: skip
    except NothingQuantizedError as error:
        print(f"nvfp4viz: error: {error}", file=sys.stderr)
        return 1
    for name, why in found.skipped.items():
        print(f"nvfp4viz: not quantized: {name}: {why}", file=sys.stderr)
    print(f"{found.provenance['quantized']}: {found.coverage}")
    print(found.summary().to_string(index=False))
    print(found.sentence())
    if arguments.output:
        found.save(arguments.output)
    return 0
