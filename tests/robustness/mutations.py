"""How valid files are spoilt: bytes, JSON trees, archives, texts. Every choice comes from the generator passed in."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import re
import struct
import zipfile

import torch
from safetensors.torch import load, save

from nvfp4viz.pages import packing

NUMBERS = (
    0,
    1,
    -1,
    2,
    15,
    16,
    17,
    127,
    128,
    255,
    256,
    4096,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**62,
    2**63,
    2**64,
    -(2**63),
)
ODD = (
    *(None, True, False, -1, 0, 1, 2**70, -(2**70), 0.5, 1e999, -1e999, float("nan"), 1e-320),
    *("", "x", "inf", "nan", "\x00", "\ud800", "\u202e", "a\nb", "\x1b[31m", "9" * 5000),
    *([], {}, [[]], [1, "a", None], {"a": {"b": [1]}}),
)
Random = random.Random


def spoil(data: bytes, rng: Random, words: tuple[bytes, ...] = (), others: tuple[bytes, ...] = ()) -> bytes:
    """A few changes of single bytes, stretches, numbers or words; sometimes cut off or continued by another file."""
    data = bytearray(data)
    for _ in range(1 << rng.randrange(5)):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + (1 << rng.randrange(9)))
        match rng.randrange(11):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice(b"\x00\xff\x7f\x80\n\"'{}[]()$#=\\:, \t" + bytes([rng.randrange(256)]))
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = data[at:to] * rng.choice((1, 2, 50))
            case 4:
                data[at:at] = rng.randbytes(1 << rng.randrange(6))
            case 5:
                del data[at:]
            case 6 if words:
                data[at:at] = rng.choice(words)
            case 7:
                width = rng.choice((1, 2, 4, 8))
                data[at : at + width] = (rng.choice(NUMBERS) & (1 << 8 * width) - 1).to_bytes(
                    width, rng.choice(("little", "big"))
                )
            case 8 if found := list(re.finditer(rb"\d+", bytes(data[: 1 << 16]))):
                number = rng.choice(found)
                data[number.start() : number.end()] = str(rng.choice(NUMBERS)).encode()
            case 9 if others:
                other = rng.choice(others)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case 10 if rng.random() < 0.1:  # what takes quadratic time shows
                data[at:to] = bytes(data[at:to] or b" ") * rng.choice((100, 3_000, 100_000))
        if len(data) > 1 << 20:
            del data[1 << 20 :]
    return bytes(data)


def spoil_tree(value, rng: Random):
    """JSON with a few of its values replaced, doubled, dropped, renamed or nested."""
    value = json.loads(json.dumps(value))
    for _ in range(1 << rng.randrange(3)):
        holders = list(_holders(value))
        if not holders:
            return rng.choice(ODD)
        node = rng.choice(holders)
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        match rng.randrange(6):
            case 0:
                del node[key]
            case 1:
                node[key] = rng.choice(NUMBERS)
            case 2 if isinstance(node, dict):
                node[str(rng.choice(ODD))] = node.pop(key)
            case 3:
                node[key] = [node[key]] * rng.randrange(4)
            case 4 if isinstance(node[key], list):
                node[key] = node[key] * 2
            case _:
                node[key] = rng.choice(ODD)
    return value


def _holders(value):
    if isinstance(value, (dict, list)):
        if value:
            yield value
        for inner in value.values() if isinstance(value, dict) else value[:40]:
            yield from _holders(inner)


def dumps(value, rng: Random | None = None) -> bytes:
    text = json.dumps(value)
    if rng and rng.random() < 0.02:  # nested deeper than any parser goes
        text = text.replace(rng.choice(("1", "{", '"')), rng.choice(("[", '{"a":')) * rng.choice((900, 100_000)), 1)
    return text.encode()


def safetensors(data: bytes, rng: Random) -> bytes:
    """Its header spoilt as JSON, with the right length again."""
    size = struct.unpack("<Q", data[:8])[0]
    header = dumps(spoil_tree(json.loads(data[8 : 8 + size]), rng), rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


LINKS = ("/etc/hostname", "/dev/zero", ".", "..", "nowhere", "model.safetensors", "../part.safetensors", "config.json")


def folder(data: bytes, rng: Random) -> bytes:
    """A checkpoint's folder, as an archive: headers, scales, configurations spoilt, files gone, renamed or links."""
    files = unfolded(data)
    for _ in range(1 + rng.randrange(3)):
        name = rng.choice(list(files) or ["model.safetensors"])
        content = files.get(name, b"")
        match rng.randrange(10):
            case 0:
                files[name] = rng.choice(LINKS)
            case 1:
                files.pop(name, None)
            case 2:
                files[rng.choice(("config.json", "model.safetensors.index.json", "b.safetensors", "x.json"))] = content
            case _ if isinstance(content, str):
                continue
            case 3:
                files[name] = spoil(content, rng)
            case _ if name.endswith(".safetensors"):
                files[name] = rng.choice((safetensors, _tensors, _tensors, _tensors, _scales))(content, rng)
            case _:
                files[name] = dumps(spoil_tree(json.loads(content), rng), rng)
    return folded(files)


def _tensors(data: bytes, rng: Random) -> bytes:
    """Valid tensors that do not go together: renamed, dropped, cut, reshaped, taken for another type."""
    tensors = load(data)
    for _ in range(1 + rng.randrange(3)):
        name = rng.choice(list(tensors) or [""])
        x = tensors.pop(name, torch.zeros(2, 2))
        match rng.randrange(7):
            case 0:
                continue
            case 1:
                name = name.replace(*rng.choice((("weight", "x"), ("0", "1"), ("input", "weight"), ("mlp", "<b>\n"))))
            case 2 if x.ndim:
                x = x[: rng.randrange(len(x) + 1)].contiguous()
            case 3:
                x = x.flatten() if rng.random() < 0.5 else x.unsqueeze(rng.randrange(x.ndim + 1))
            case 4 if x.ndim > 1:
                x = x.transpose(-1, -2).contiguous()
            case 5 if x.element_size() == 1:
                x = x.view(rng.choice((torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool)))
            case 6 if x.element_size() == 4:
                x = torch.full_like(x, rng.choice((0.0, 1.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"))))
        tensors[name] = x
    return save(tensors)


def _scales(data: bytes, rng: Random) -> bytes:
    """Bytes of the tensors, not of the header: scales that are NaN, negative, zero."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    body = bytearray(data[start:])
    for _ in range(1 << rng.randrange(9)):
        body[rng.randrange(len(body))] = rng.choice((0, 127, 255, 128, 126, rng.randrange(256)))
    return data[:start] + body


def folded(files: dict[str, bytes | str]) -> bytes:
    """Files of a folder as an archive; a str is where a link points."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(("link/" if isinstance(content, str) else "file/") + name, content)
    return out.getvalue()


def unfolded(data: bytes) -> dict[str, bytes | str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = ((n.partition("/"), archive.read(n)) for n in archive.namelist())
        return {name: content.decode() if kind == "link" else content for (kind, _, name), content in parts}


def npy(data: bytes, rng: Random) -> bytes:
    """Another description of the same numbers."""
    shape = [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
    kinds = (
        "<f4",
        ">f2",
        "<f8",
        "<f16",
        "|O",
        "<U9999999",
        "|V2",
        "<c8",
        "|S0",
        "<M8[ns]",
        [["a", "<f4"]],
        "f4," * 99,
        "",
    )
    header = repr({
        "descr": rng.choice((*kinds, "<f4", "<f2")),
        "fortran_order": rng.choice((True, False, 1)),
        "shape": rng.choice((tuple(shape), shape, None, "()", (16.0, 2), (2, 16), (-1,))),
    } | ({"more": "(" * 200} if rng.random() < 0.1 else {})).encode()  # fmt: skip
    header += b" " * rng.choice((0, 1, 60, 20_000)) + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data[128:]


def archive(data: bytes, rng: Random, change, wanted: str = "") -> bytes:
    """A zip file one of whose files is changed, under a right checksum, stored or compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = [n for n in old.namelist() if wanted in n] or old.namelist()
        chosen = rng.choice(names)
        for name in old.namelist():
            inner = old.read(name)
            if name == chosen:
                inner = change(inner, rng)
                name = rng.choice(("../" + name, "/x", "", name * 2)) if rng.random() < 0.05 else name
            new.writestr(name, inner, rng.choice((0, 0, 0, zipfile.ZIP_DEFLATED)))
    return out.getvalue()


_GLOBALS = """__builtin__ bytearray, __builtin__ set, torch Size, torch Tensor, torch FloatStorage, torch float32,
torch device, collections OrderedDict, _codecs encode, posix system, builtins eval, torch._utils _rebuild_tensor_v2,
torch._utils _rebuild_parameter, torch._utils _rebuild_sparse_tensor, torch._utils _rebuild_meta_tensor_no_storage"""
CALLS = tuple("c{}\n{}\n".format(*name.split()).encode() for name in _GLOBALS.split(","))
_PIECES = (
    *(bytes([c]) for c in b"(t]})aesuRb0NQ2\x81\x85\x86\x87\x88"),
    *(b"K\x10", b"J\x00\x00\x00\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x0f", b"G\x7f\xf0\x00\x00\x00\x00\x00\x00"),
    *(
        b"X\x05\x00\x00\x00mkdir",
        b"X\x04\x00\x00\x00name",
        b"X\xff\xff\xff\x7f",
        b"q\x00",
        b"h\x00",
        b"q\x01",
        b"h\x01",
    ),
)


def pickled(data: bytes, rng: Random) -> bytes:
    """A pickle with other instructions in it, or made of nothing else."""
    if rng.random() < 0.2:
        data = b"\x80\x02."
    data = bytearray(data)
    for _ in range(1 + rng.randrange(4)):
        at = 2 + rng.randrange(max(1, len(data) - 2))
        data[at:at] = b"".join(rng.choice(_PIECES if rng.random() < 0.7 else CALLS) for _ in range(rng.randrange(6)))
    return bytes(data) if rng.random() < 0.7 else spoil(bytes(data), rng, CALLS + _PIECES)


def report(data: bytes, rng: Random) -> bytes:
    """A report whose data is spoilt as JSON or as bytes, with the right checksum again."""
    html = data.decode()
    old = re.search(r'id="sweep">([^<]*)<', html)[1]
    value = gzip.decompress(base64.b64decode(old))
    value = dumps(spoil_tree(json.loads(value), rng), rng) if rng.random() < 0.8 else spoil(value, rng)
    html = html.replace(old, base64.b64encode(gzip.compress(value, 1)).decode())
    signed = re.search(r'sha256" content="(\w+)"', html)[1]
    unsigned = html.replace(signed, packing.UNSIGNED, 1)
    return unsigned.replace(packing.UNSIGNED, hashlib.sha256(unsigned.encode()).hexdigest(), 1).encode()


def lines(data: bytes, rng: Random) -> bytes:
    """A text with lines shuffled, doubled, indented anew or joined."""
    rows = data.split(b"\n")
    for _ in range(1 + rng.randrange(4)):
        i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
        match rng.randrange(5):
            case 0:
                rows[i], rows[j] = rows[j], rows[i]
            case 1:
                rows[i:i] = rows[j : j + 4] * rng.choice((1, 3, 500))
            case 2:
                rows[i] = b" " * rng.randrange(12) + rows[i].strip()
            case 3:
                rows[i] += rng.choice((b" ", b"\\", b"\t", b"")) + rows[j]
            case 4 if len(rows) > 1:
                del rows[i]
    return b"\n".join(rows)
