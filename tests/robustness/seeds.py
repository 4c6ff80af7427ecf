"""What fuzzing starts from: small valid files of every kind, and files made to exhaust time or memory."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from mutations import CALLS, folded, packing, random, report
from safetensors.torch import save

from nvfp4viz import Recipe, quantize, sweep, synthetic
from nvfp4viz import report as write_report

SIZE = 1_000_000  # bytes: just below what settings may be
FI = "FLASHINFER_NVFP4_4OVER6"
X = synthetic("lognormal", 4, 32)
WORDS = tuple(
    word.encode()
    for word in (
        *(
            FI,
            f"{FI}_E4M3_USE_256",
            "ENV ",
            "FROM ",
            " AS ",
            "RUN ",
            "<<EOF",
            "# escape=`\n",
            "export ",
            "set -a",
            "declare -x ",
        ),
        *(
            "then ",
            "unset ",
            "docker run -e ",
            "env ",
            "services:",
            "environment:",
            "containers:",
            "- name: ",
            "value: ",
        ),
        *("env:", "kind: ConfigMap", "metadata:", "data:", "<<: *a", "&a ", "*a", "!!python/object/apply:os.mkdir [x]"),
        *(
            "!!binary ",
            "---\n",
            "valueFrom:",
            "null",
            "~",
            "true",
            "$(id)",
            "${A}",
            "`id`",
            '"',
            "'",
            "\\",
            "#",
            "=",
            "+=",
        ),
        *("\n", "\0", "\r\n", "\ufeff", "{", "["),
    )
)
TEXTS = {
    "dotenv": (f'# settings\nexport {FI}=1 # on\n\n{FI}_E4M3_USE_256 = true\nA=\'b c\' # d\nB="x\\"$y"\nC\n',),
    "dockerfile": (
        f"# escape=`\nfrom x as a\nenv {FI} 1\nENV A=true `\n  B='2 3'\nFROM a\nRUN <<EOF\nENV X=1\nEOF\nENV C=$B\n",
        f"FROM cuda:13 AS base\nENV {FI}=1 \\\n  # comment\n\n    A=\"true\" B='b c'\n",
    ),
    "yaml": (
        f"x-a: &a\n  {FI}: 1\nservices:\n  s:\n    environment:\n      <<: *a\n      B: true\n    env_file: [x]\n",
        f"services:\n  s:\n    image: x\n    environment:\n      - {FI}=1\n      - A\n      - B=$C\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: s\n    env:\n"
        f"    - {{name: {FI}, value: '1'}}\n    - name: S\n      valueFrom: {{secretKeyRef: {{name: k}}}}\n"
        "---\nkind: ConfigMap\nmetadata: {name: c}\ndata: {A: '1'}\n",
        '{"kind": "Pod", "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}',
    ),
    "shell": (
        f"#!/bin/bash\nexport {FI}=1\nif true; then A='x' python -m y; fi # c\nset -a; B=\"tr\"'ue'\nset +a\nC+=1\n",
        f"docker run --rm -e {FI}=1 --env A=$B image\ndeclare -x {FI}=1 A; A=true\nenv A=1 python s.py\n",
    ),
    "process": (f"PATH=/bin\0{FI}=1\0A=b=c\0",),
    "scanner": (
        f"export {FI} := true\nserve: x\n\t{FI}=1 python3 -m sglang.launch_server\n",
        f'[Service]\nEnvironment={FI}=1 "{FI}_E4M3_USE_256=true"\nExecStart=vllm serve /m --kv-cache-dtype nvfp4\n',
        f"# Serve\n\n```bash\nexport {FI}=true\nssh a 'b' <<EOF\n{FI}=1\nEOF\n```\nor `{FI}`\n",
        f"import os\nos.environ['{FI}'] = '1' if x else f'{{y}}'\nenv = dict({FI}='1')\n",
        f'[env]\n{FI} = "1"\n[a.b]\nx = {{ name = "{FI}", value = "1" }}\n',
        f"case $1 in a) [ x ] && export {FI}=1;; esac\nf() {{ ( {FI}=$(a) vllm serve /m ); }}\nif a; then f; fi\n",
    ),
}


def _torch(value, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _numpy(write, *args, **more) -> bytes:
    out = io.BytesIO()
    write(out, *args, **more)
    return out.getvalue()


def seeds(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """Reader -> valid files."""
    measured = sweep(
        {"a": X, "b": X[:, :16], "bad": X[:, :5]}, ["standard", "4/6-mae-256"], engine="cpu", attribution=True
    )
    write_report(measured, folder / "r.html")
    measured.save(folder / "s.json")
    value = {
        "layers": [X, {"mlp": (X * 2, 3, "text")}],
        7: torch.nn.Parameter(X.float()),
        "ids": torch.arange(2),
        "none": None,
    }
    dump = {"value": X, "meta": {"name": "q", "rank": 1}}
    array = X.float().numpy()
    found = {
        "safetensors": (save({"a": X, "b": X.float(), "ids": torch.arange(3)}, {"token_strings": '["a"]'}), save({})),
        "npy": (_numpy(np.save, array), _numpy(np.save, array.astype(">f8").T)),
        "npz": (_numpy(np.savez, a=array, b=np.arange(3)), _numpy(np.savez_compressed, a=array)),
        "pt": (_torch(value), _torch(dump), _torch({"m": [X, X], "n": X}), _torch(X.to_sparse())),
        "bin": (_torch(value, False), _torch(X, False)),
        "index": (json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "part.safetensors"}}).encode(),),
        "report": (_small((folder / "r.html").read_text()),),
        "sweep": ((folder / "s.json").read_bytes(),),
        "checkpoint": checkpoints(),
    }
    return found | {kind: tuple(t.encode() for t in texts) for kind, texts in TEXTS.items()}


def checkpoints() -> tuple[bytes, ...]:
    """Folders as archives: ModelOpt's names in two shards, compressed-tensors', a stack of experts."""
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "re:.*gate$"]}
    group = {"weights": {"group_size": 16}, "input_activations": {"dynamic": "local", "group_size": 16}}
    theirs = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"a": group}}
    one, two = _packed("model.layers.0.mlp.gate_proj."), _packed("model.layers.1.mlp.up_proj.")
    weight_map = {**dict.fromkeys(one, "a.safetensors"), **dict.fromkeys(two, "b.safetensors")}
    divisors = {
        n.replace("weight_scale_2", "weight_global_scale").replace("input_scale", "input_global_scale"): 1 / x
        if n.endswith(("scale_2", "input_scale"))
        else x
        for n, x in one.items()
    }
    divisors["model.layers.0.mlp.gate_proj.weight_packed"] = divisors.pop("model.layers.0.mlp.gate_proj.weight")
    stack = {n: torch.stack([x, x]) for n, x in _packed("model.layers.0.mlp.experts.w13_").items()}
    made = (
        {"a.safetensors": save(one), "b.safetensors": save(two), "config.json": {"quantization_config": quantization},
         "model.safetensors.index.json": {"metadata": {}, "weight_map": weight_map},
         "hf_quant_config.json": {"producer": {"name": "modelopt"}, "quantization": quantization}},
        {"model.safetensors": save(divisors), "config.json": {"quantization_config": theirs}},
        {"model.safetensors": save(stack), "config.json": {"text_config": {"quantization_config": quantization}}},
    )  # fmt: skip
    return tuple(
        folded({n: c if isinstance(c, bytes) else json.dumps(c).encode() for n, c in files.items()}) for files in made
    )


def _packed(stem: str) -> dict[str, torch.Tensor]:
    q = quantize(X.float(), Recipe(per_token=False), engine="reference")
    parts = {"weight": q.codes, "weight_scale": q.block_scales, "weight_scale_2": q.decode_scale[0, 0].clone()}
    return {stem + n: t for n, t in parts.items()} | {stem + "input_scale": torch.tensor(0.01)}


def _small(page: str) -> bytes:
    """A report without its pictures and programs, which reading does not look at."""
    head, block = packing.signature(), page[page.index('<script type="application/gzip"') :]
    return packing.sign(f"<html><head>{head}</head>{block[: block.index('</script>') + 9]}</html>").encode()


def bombs(start: dict[str, tuple[bytes, ...]]) -> list[tuple[str, str, bytes]]:
    """(reader, what it is, file) of files that ask for more time or memory than they are worth."""
    shared = [X]
    for _ in range(8):
        shared = [shared] * 10
    call = b"\x80\x02" + CALLS[0] + b"\x8a\x05\x00\x00\x00\x00\x01\x85R."
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 16), }"
    rng = random.Random(0)
    signed = report(start["report"][0], rng).decode()
    zeros = base64.b64encode(gzip.compress(b"[" + b" " * (2 << 30) + b"]", 1)).decode()
    found = [
        ("pt", "shared lists", _torch(shared)),
        ("pt", "expanded", _torch(torch.zeros(1, dtype=torch.float64).expand(1 << 22, 1 << 10))),
        ("pt", "expanded bf16", _torch(torch.zeros(1, dtype=torch.bfloat16).expand(1 << 26, 1 << 10))),
        ("bin", "expanded", _torch(torch.zeros(1, dtype=torch.float64).expand(1 << 22, 1 << 10), False)),
        ("pt", "bytearray", _rezip(start["pt"][0], "data.pkl", call)),
        ("pt", "compressed zeros", _rezip(start["pt"][0], "data/0", 2 << 30)),
        ("pt", "compressed pickle", _rezip(start["pt"][0], "data.pkl", 2 << 30)),
        ("npz", "compressed zeros", _rezip(start["npz"][0], "a.npy", 2 << 30, header)),
        ("npz", "compressed zeros, no array", _rezip(start["npz"][0], "a.npy", 2 << 30)),
        ("npz", "a long claim", _rezip(start["npz"][0], "a.npy", header.ljust(127) + b"\n")),
        ("npy", "a long claim", header.ljust(127) + b"\n"),
        ("report", "compressed blanks", _sealed(signed, zeros)),
        ("sweep", "nested", b"[" * SIZE),
        ("index", "nested", b'{"a":' * SIZE),
    ]
    return found + [(reader, what, data[:SIZE]) for reader, what, data in _texts()]


def _texts() -> list[tuple[str, str, bytes]]:
    """Settings as long as they may be, of what parsers go over again and again."""

    def full(piece: bytes, start: bytes = b"") -> bytes:
        return start + piece * ((SIZE - len(start)) // len(piece))

    def numbered(piece: bytes, start: bytes = b"", n: int = 0) -> bytes:
        n = n or (SIZE - len(start)) // (len(piece) + 8)
        rows = (piece.replace(b"#", b"%d" % i).replace(b"@", b"%d" % (i + 1)) for i in range(n))
        return start + b"".join(rows)

    big = numbered(b"A#: 1, ", b"x: &e {", 10_000) + b"}\nservices:\n"
    pod = numbered(b"{name: A#, value: a}, ", b"x: &c [{name: c, env: [", 5_000) + b"]}]\ny:\n"
    laughs = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))
    stages = numbered(b" A#=1", b"FROM x AS a0\nENV", 40_000)
    return [
        ("yaml", "nested", full(b"[")),
        ("yaml", "nested maps", full(b"{a: ")),
        ("yaml", "dashes", full(b"- ")),
        ("yaml", "services", numbered(b"  s#: {environment: *e}\n", big)),
        ("yaml", "containers", full(b"- containers: *c\n", pod)),
        ("yaml", "laughs", laughs.encode()),
        ("yaml", "laughs shown", laughs.encode() + b"services: {s: {environment: {A: '1'}, env_file: *a29}}\n"),
        ("yaml", "long", numbered(b"      A#: b\n", b"services:\n  a:\n    environment:\n")),
        ("yaml", "scalars", full(b"1, ", b"services: [")),
        ("yaml", "documents", full(b"--- a\n")),
        ("dotenv", "blanks", b"A=x" + b" " * (SIZE - 9) + b"y\n"),
        ("dotenv", "blanks before #", b"A=x" + b" " * (SIZE - 9) + b"#y"),
        ("dotenv", "blanks in front", b" " * (SIZE - 9) + b"=\n"),
        ("dotenv", "names", numbered(b"A#=\n")),
        ("dotenv", "names that are near", numbered(b"FLASHINFER_NVFP4_4OVER#=\n")),
        ("dotenv", "quotes", full(b"\\", b'A="')),
        ("dotenv", "a long name", full(b"A") + b"=1\n"),
        ("dotenv", "tabs", b"\t" * (SIZE - 9) + b"A"),
        ("process", "names", numbered(b"FLASHINFER#=\0")),
        ("dockerfile", "stages", numbered(b"\nFROM a# AS a@", stages)),
        ("dockerfile", "quotes", full(b"A='", b"FROM x\nENV ")),
        ("dockerfile", "continued", full(b"A\\\n", b"FROM x\n")),
        ("dockerfile", "continued ENV", full(b"A=1 \\\n", b"ENV ")),
        ("dockerfile", "heredocs", full(b"<<A ", b"FROM x\nRUN ") + b"\nx"),
        ("dockerfile", "heredocs by line", full(b"RUN <<A\n", b"FROM x\n")),
        ("dockerfile", "AS", full(b" x", b"FROM")),
        ("dockerfile", "options", full(b"--a ", b"FROM ")),
        ("dockerfile", "backslashes", full(b"\\ ", b"ENV A=")),
        ("shell", "then", full(b"then ")),
        ("shell", "quotes", full(b"'\"", b'A="')),
        ("shell", "words", full(b"a ")),
        ("shell", "dollars", full(b'"\\$', b"export A=")),
        ("shell", "continued", full(b"A=\\\n")),
        ("shell", "pieces", full(b"'a'", b"A=")),
        ("shell", "word", full(b"a\\a", b"A=")),
        ("shell", "names", numbered(b"export A#=$A;")),
        ("shell", "options", full(b"-e A=1 ", b"docker run ")),
    ]


def _rezip(data: bytes, wanted: str, content: bytes | int, start: bytes = b"") -> bytes:
    """The archive with one file replaced; by so many zeros, compressed, where `content` is a number."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if not name.endswith(wanted):
                new.writestr(name, old.read(name))
            elif isinstance(content, bytes):
                new.writestr(name, content)
            else:
                info = zipfile.ZipInfo(name)
                info.compress_type, info._compresslevel = zipfile.ZIP_DEFLATED, 1
                with new.open(info, "w", force_zip64=True) as f:
                    f.write(start.ljust(128))
                    for _ in range(content >> 24):
                        f.write(bytes(1 << 24))
    return out.getvalue()


def _sealed(page: str, block: str) -> bytes:
    start, end = page.index('id="sweep">') + 11, page.rindex("</script>")
    return packing.sign(f"<html>{packing.signature()}{page[page.index('<script') : start]}{block}{page[end:]}").encode()
