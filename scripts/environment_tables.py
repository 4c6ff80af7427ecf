"""Fill the tables of docs/environment.md from nvfp4viz.environment: python scripts/environment_tables.py"""

import itertools
import re
from pathlib import Path

from nvfp4viz.environment import CONSUMERS, PROGRAMS, SITES, VARIABLES, bundled, sites
from nvfp4viz.environment.dotenv import _LINE as LINE
from nvfp4viz.environment.dotenv import READERS, REFUSED, by_reader
from nvfp4viz.environment.programs import ROWS
from nvfp4viz.environment.rules import SGLANG, cpp_stream, only_1, prims_word, reading, sglang_bool

PAGE = Path(__file__).parents[1] / "docs" / "environment.md"
TEXTS = [
    "1", "0", "true", "True", "TRUE", "false", "False", "yes", "Yes", "no", "y", "n", "on", "ON", "off", "t", "f", "T",
    "", " ", " 1", "1 ", "01", "2", "-1", "+1", "1.0", "0x1", "none", "None", "enable", "１",
]  # fmt: skip
RULES = {
    "FlashInfer Python, C++, CuTe-DSL": only_1,
    "FlashInfer Prims-TS MoE": prims_word,
    "SGLang": sglang_bool,
    "Transformer Engine C++": cpp_stream,
}


def variables() -> list[list[str]]:
    rows = [["variable", "default", "read by (since version)", "when"]]
    for v in VARIABLES.values():
        readers = ", ".join(f"{CONSUMERS[c]} ({since})" for c, (_, since) in v.readers.items())
        rows.append([f"`{v.name}`", v.default, readers, v.when])
    return rows


def texts() -> list[list[str]]:
    """Texts on which the rules disagree; those with the same readings share a row."""
    rows = [["the variable is set to", *RULES]]
    found = [([rule(text) for rule in RULES.values()], text) for text in TEXTS]
    order = {tuple(r): i for i, (r, _) in reversed(list(enumerate(found)))}
    for readings, group in itertools.groupby(sorted(found, key=lambda f: order[tuple(f[0])]), lambda f: f[0]):
        if len({r.value for r in readings}) > 1:
            rows.append([" ".join(f"`{text!r}`" for _, text in group), *(r.text for r in readings)])
    return rows


def modes() -> list[list[str]]:
    consumers = ("flashinfer", "flashinfer-cuda", "transformer-engine")
    rows = [["the error mode is set to", *(CONSUMERS[c] for c in consumers)]]
    for text in ("mse", "Mae", "mſe", " MSE", "RMSE", ""):
        names = (f"{'NVTE' if c == 'transformer-engine' else 'FLASHINFER'}_NVFP4_4OVER6_ERR_MODE" for c in consumers)
        rows.append([f"`{text!r}`", *(reading(n, c, text).text for n, c in zip(names, consumers, strict=True))])
    return rows


def sglang() -> list[list[str]]:
    rows = [["SGLang since", "scale passed as", "backend passed", "FlashInfer it pins"]]
    kinds = {"float": "a Python float", "tensor": "a tensor on the device"}
    return rows + [
        [r.since, kinds[r.scale], f"`{r.backend}`" if r.backend else "none: cuda", r.flashinfer] for r in SGLANG
    ]


WHEN = {  # words of programs.ROWS in prose
    "bf16": "W4A16, or a Marlin or Humming runner",
    "muse": "a muse_spark model",
    "cutedsl": "the flashinfer_cutedsl runner",
    "token": "per token",
    "!token": "per tensor",
    "online": "quantized online",
    "experts": "only experts are quantized",
    "!experts": "dense layers quantized",
    "kv-fp4": "--kv-cache-dtype nvfp4",
    "kv-4over6": "--kv-cache-dtype nvfp4_4over6",
    "dispatch": "SGLANG_MOE_NVFP4_DISPATCH=1",
    "trtllm-dense": "--linear-backend flashinfer_trtllm",
    "marlin-dense": "--fp4-gemm-backend marlin",
    "other-quantization": "a --quantization that is not NVFP4",
}


def programs() -> list[list[str]]:
    rows = [["program (since)", "what", "where", "ceiling of the scale from", "all else read by", "remark"]]
    for r in ROWS:
        scale = (
            "not quantized" if not r.scale else f"fixed: `{r.scale[6:]}`" if r.scale.startswith("fixed:") else r.scale
        )
        scale = {"te-weights": "transformer-engine", "checkpoint": "the checkpoint (448)"}.get(scale, scale)
        when = ", ".join(WHEN[w] for w in r.when.split()) or "otherwise"
        since = f" ({r.since})" if r.since != "0" else ""
        rows.append([PROGRAMS[r.program] + since, SITES[r.site], when, scale, r.kernel or "nobody", r.why])
    return rows


def costs() -> list[list[str]]:
    """The experts' input of SGLang (per token) and vLLM (nvfp4_per_token) under a few environments, with its SQNR."""
    fi, token = "FLASHINFER_NVFP4_4OVER6", {"SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION": "1"}
    rows = [["`4OVER6`, `USE_256`", "SGLang", "dB", "vLLM", "dB"]]
    for on, ceiling in (("0", "0"), ("1", "0"), ("1", "1"), ("1", "true")):
        env, row = {fi: on, f"{fi}_E4M3_USE_256": ceiling}, [f"`{on}`, `{ceiling}`"]
        for program, more, flags in (("sglang", token, {}), ("vllm", {}, {"quantization": "nvfp4_per_token"})):
            recipe = next(s.recipe for s in sites({**env, **more}, program, flags) if s.site == "fc1")
            row += [f"`{recipe.name}`", f"{bundled().sqnr_db[recipe.name]:.2f}"]
        rows.append(row)
    return rows


def readers() -> list[list[str]]:
    rows = [["a line of the file", *READERS]]
    for line in ("A=1", "A=1 # on", 'A="1"', "A=1 ", "A=1\xa0", "export A=1", "A = 1"):
        found = by_reader(LINE.match(line))
        words = ["refused or ignored" if found[r] is REFUSED else f"`{found[r]!r}`" for r in READERS]
        rows.append([f"`{line!r}`", *words])
    return rows


def filled(page: str) -> str:
    """The page with each table between its markers made anew."""
    for table in (variables, texts, modes, sglang, programs, costs, readers):
        head, *rows = table()
        lines = [head, ["---"] * len(head), *rows]
        made = "\n".join("| " + " | ".join(row) + " |" for row in lines)
        marks = rf"(<!-- table: {table.__name__} -->\n).*?(<!-- end -->)"
        page, count = re.subn(marks, lambda m, made=made: m[1] + made + "\n" + m[2], page, flags=re.S)
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for the table {table.__name__}, not one")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
