"""Does a stated 95 % hold? Verdicts of single windows of text, against the rest of the text and against other texts.

    make model
    python tests/benchmarks/interval_coverage.py [--windows 13] [--write]       about ten minutes on one core

A window of 512 tokens of a text is what a user records. Its margins between recipes are compared with those of all
other windows of the same text together, and of the other texts: an interval covers if the truth lies in it, and is
surely wrong if it excludes zero on the other side. Four texts of the Canterbury corpus are in brotli on PyPI, the fifth
is source code of Python's library. --write puts the table into docs/verdict.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import sys
import tarfile
import typing
from pathlib import Path

import numpy as np
import torch
from tables import Table, put

import nvfp4viz
from nvfp4viz.analysis import margin_interval, voices
from nvfp4viz.integrations.huggingface import load_model

CACHE = Path(__file__).parents[2] / ".cache"
TEXTS = ("alice29", "asyoulik", "lcet10", "plrabn12")
NAMED, OTHERS = "4/6-mse-256", ("4/6-mse-448", "4/6-mae-448", "standard")
COLUMNS = ("margin (dB)", "half width (dB)", "covers the rest of its text", "covers other texts", "surely wrong")
SETS = {"all": "*", "down_proj": "*.down_proj"}


def texts(downloads: Path) -> dict[str, str]:
    """Texts by name, their lines joined into paragraphs."""
    (source,) = downloads.glob("[Bb]rotli-*.tar.gz")
    found = {}
    with tarfile.open(source) as archive:
        for member in archive.getmembers():
            name = Path(member.name)
            if name.parent.name == "testdata" and name.suffix == ".txt" and name.stem in TEXTS:
                text = archive.extractfile(member).read().decode("latin-1").replace("\r", "").replace("\x1a", "")
                found[name.stem] = "\n\n".join(" ".join(p.split()) for p in text.split("\n\n") if p.split())
    modules = (argparse, inspect, tarfile, typing)  # source code, as the fifth
    code = "\n\n".join(Path(m.__file__).read_text(encoding="utf-8") for m in modules)
    return {name: found[name] for name in TEXTS} | {"python": code}


def windows(ids: list[int], count: int, length: int) -> list[torch.Tensor]:
    """So many windows, spread evenly over a text: int64 [1, length] each."""
    whole = len(ids) // length
    starts = np.unique(np.linspace(0, whole - 1, min(count, whole)).round().astype(int)) * length
    return [torch.tensor([ids[s : s + length]]) for s in starts]


def recorded(model, ids: torch.Tensor, names: list[str] | None) -> dict:
    """Statistics of the inputs of linear layers, by input, of one window as if nothing else had been recorded."""
    with torch.no_grad(), nvfp4viz.record(model, names, first_token=0) as recorder:
        model(ids.to(model.device))
    return recorder.sweep().stats


def measured(model, tokenizer, downloads: Path, count: int, length: int) -> dict[str, list[dict]]:
    """Statistics of each window of each text, of one tensor an input."""
    found, names = {}, None
    for text, content in texts(downloads).items():
        found[text] = []
        for ids in windows(tokenizer(content).input_ids, count, length):
            stats = recorded(model, ids, names)
            if names is None:  # one name an input from here on: q_proj's, k_proj's and v_proj's are the same
                names = list(voices(nvfp4viz.Sweep.of(stats, dict(nvfp4viz.RECIPES))).weights)
                stats = {n: stats[n] for n in names}
            found[text].append(stats)
            print(f"\r{text}: {len(found[text])} windows", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return found


def level(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Error of a typical token in dB, [tensors, recipes], of windows [n, tensors, recipes] together."""
    return 10 * np.log10(sums.sum(0) / counts.sum(0)[:, None])


def study(found: dict[str, list[dict]]) -> list[dict]:
    """For each set of inputs and margin: how often windows' intervals cover, and are surely wrong."""
    tensors, names = list(next(iter(found.values()))[0]), list(nvfp4viz.RECIPES)
    pick = lambda parts, get: np.array([[[get(p[t][n]) for n in names] for t in tensors] for p in parts])  # noqa: E731
    sums = {text: pick(parts, lambda s: s.run_nmse[0].sum()) for text, parts in found.items()}
    counts = {text: pick(parts, lambda s: s.run_tokens[0].sum())[..., 0] for text, parts in found.items()}
    rows = []
    for label, pattern in SETS.items():
        chosen = np.array([fnmatch.fnmatchcase(t, pattern) for t in tensors])
        for other in OTHERS:
            windows = []
            for text, parts in found.items():
                far = [np.concatenate([v for t, v in values.items() if t != text]) for values in (sums, counts)]
                for i, part in enumerate(parts):
                    rest = [np.delete(values[text], i, 0) for values in (sums, counts)]
                    truths = [level(*v)[chosen] @ _contrast(names, other) for v in (rest, far)]
                    mine = [part[t] for t, c in zip(tensors, chosen, strict=True) if c]
                    named, rival = [row[NAMED] for row in mine], [row[other] for row in mine]
                    value, (low, high) = margin_interval(named, rival, comparisons=len(names) - 1)
                    near, far_truth = (float(t.mean()) for t in truths)
                    wrong = (low > 0 or high < 0) and value * near < 0
                    windows.append((near, (high - low) / 2, low <= near <= high, low <= far_truth <= high, wrong))
            means = dict(zip(COLUMNS, np.mean(windows, 0), strict=True))
            rows.append({"inputs": label, f"{NAMED} over": other, "windows": len(windows), **means})
    return rows


def _contrast(names: list[str], other: str) -> np.ndarray:
    """What a margin is, of levels by recipe: the other's error over the named recipe's."""
    return np.array([(n == other) - (n == NAMED) for n in names], float)


def _shown(key: str, value) -> str:
    if "cover" in key or "wrong" in key:
        return f"{value:.1%}"
    return f"{value:.4f}" if "dB" in key else f"{value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=int, default=13, help="of each text (default 13)")
    parser.add_argument("--tokens", type=int, default=512, help="of each window (default 512)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/verdict.md")
    arguments = parser.parse_args()
    model, tokenizer = load_model(CACHE / "smollm2" / "SmolLM2-135M-Instruct.gguf", dtype=torch.float32)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = study(measured(model, tokenizer, CACHE / "model", arguments.windows, arguments.tokens))
    publish(rows, arguments.tokens, arguments.write)
    short = [r for r in rows if r["covers the rest of its text"] < 0.9 or r["surely wrong"] > 0.025]
    sys.exit(f"{len(short)} of {len(rows)} rows do not hold what 95 % promises" if short else 0)


def publish(rows: list[dict], tokens: int, write: bool) -> None:
    """Print the table; if `write`, put it into docs/verdict.md."""
    caption = f"{rows[0].pop('windows')} windows of {tokens:,} tokens, from five texts; `{NAMED}` over:"
    for row in rows[1:]:
        del row["windows"]
    columns = [key if key != f"{NAMED} over" else "the other recipe" for key in rows[0]]
    table = Table(caption, columns, [[_shown(key, value) for key, value in row.items()] for row in rows])
    put("verdict.md", "interval_coverage", table, write=write)


if __name__ == "__main__":
    main()
