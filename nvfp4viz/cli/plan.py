"""The command plan: which layers of a language model to keep in higher precision, as a frontier with its price."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..files import check_target
from ..shown import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nvfp4viz plan`."""
    from ..model import MODES, PRESETS
    from ..planning import EXPORTS

    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder, or a .gguf file")
    parser.add_argument("text", metavar="TEXT", help="a UTF-8 text file to choose on")
    parser.add_argument("--other", metavar="TEXT", help="another text, on which the frontier is measured again")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="short names; default: the five named ones")
    parser.add_argument("--modules", nargs="+", metavar="PATTERN", help="default: linear layers but the output layer")
    parser.add_argument("--keep", choices=("bf16", "fp8"), default="bf16", help="what kept layers run in (bf16)")
    parser.add_argument("--price", choices=("bits", "layers", "multiply-adds"), default="bits",
                        help="of a kept layer (bits)")  # fmt: skip
    parser.add_argument("--quantize", choices=(*MODES, *PRESETS[:-1]), default="all-linear",
                        help="as for impact; default: all-linear, as servers do")  # fmt: skip
    parser.add_argument("--budget", type=int, default=200, metavar="N", help="forward passes over the text (200)")
    parser.add_argument("--tokens", type=int, default=4096, help="from the start of each text (default 4096)")
    parser.add_argument("--length", type=int, default=256, help="tokens a sequence (default 256)")
    parser.add_argument("--resume", metavar="FILE", help="measurements, written after each pass and taken up again")
    parser.add_argument("--export", choices=tuple(EXPORTS), help="print what this engine reads, of the knee")
    parser.add_argument("--engine", default="auto", help="auto (the default), or a name that `nvfp4viz doctor` lists")
    parser.add_argument("-o", "--output", metavar="FILE", help="also write the plan as .json")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Print the frontier and its knee; returns the exit code."""
    from ..integrations import batches, load_model
    from ..nvfp4 import RECIPES, as_recipes
    from ..planning import plan

    if min(arguments.tokens, arguments.length) < 2:
        raise ValueError(f"--tokens {arguments.tokens} --length {arguments.length}: both are at least 2")
    recipes = as_recipes(arguments.recipes or RECIPES)
    if arguments.output:
        check_target(arguments.output)
    texts = [_text(path) for path in (arguments.text, arguments.other) if path]
    model, tokenizer = load_model(arguments.model)
    device = next(model.parameters()).device
    given = [[b.to(device) for b in batches(tokenizer, t, arguments.tokens, arguments.length, size=8)] for t in texts]
    found = plan(
        model, given[0], recipes, other=given[1] if len(given) > 1 else None, keep=arguments.keep,
        price=arguments.price, quantize=arguments.quantize, modules=arguments.modules, budget=arguments.budget,
        resume=arguments.resume, engine=arguments.engine, progress=None if arguments.quiet else _show,
    )  # fmt: skip
    exported = found.export(arguments.export) if arguments.export else None
    if arguments.output:
        found.save(arguments.output)
    print(*_lines(found), sep="\n")
    if exported is not None:
        print(json.dumps(exported, indent=1))
    return 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is no UTF-8 text; MODEL comes first, then TEXT") from error


def _show(done: int, total: int, what: str) -> None:
    end = "\n" if done >= total else ""
    print(f"\r{done}/{total} {what:60.60}", end=end, file=sys.stderr)


def _lines(found) -> list[str]:
    """The recipes, the frontier with the knee marked, and the knee in words."""
    from ..analysis import marked

    about = found.provenance
    lines = [f"{about['quantized']}; {about['passes']} passes over {found.text}", ""]
    lines += [f"{'recipe':24} {'KL, nats':>10}  cost of quantizing"]
    lines += [f"{marked(r['recipe']):24} {r['kl']:10.4g}  {_cost(r['cost'])}" for r in found.recipes]
    lines += ["", f"{'kept':>4} {'bits':>6} {'FP4':>5} {'KL, nats':>10} {'95 %':>20} {'if added up':>12}  last kept"]
    before: set[str] = set()
    for i, p in enumerate(found.frontier):
        new = [u for u in p.kept if u not in before]
        before = set(p.kept)
        last = printable(new[0] if len(new) == 1 else f"{len(new)} units" if new else "")
        interval = f"{p.kl_low:.3g} to {p.kl_high:.3g}" if p.kl_low == p.kl_low else "too few tokens"
        knee = "  <- knee" if i == found.knee else ""
        lines.append(f"{len(p.kept):4} {p.bits:6.2f} {p.fp4_share:5.0%} {p.kl:10.4g} {interval:>20} "
                     f"{p.additive_kl:12.4g}  {last}{knee}")  # fmt: skip
    return [*lines, "", found.sentence()]


def _cost(cost: dict) -> str:
    if cost["copies"] is None:
        return "not in the table"
    return f"{cost['copies']:.2f} times a copy ({cost['machine']})"
