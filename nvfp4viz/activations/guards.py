"""Files of strangers: what could fill the memory, take hours or run code is refused; what is no activations is told."""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..shown import error_text

EXPANDED = 1 << 30  # bytes that a file may grow to, however little it holds


class QuantizedCheckpointError(ValueError):
    """A file of packed weights where activations were expected."""


PACKED = ("U8", "I8", "I32", "F4", "F8_E4M3", "F8_E5M2", "uint8", "int8", "int32", "float4_e2m1fn_x2", "float8_e4m3fn",
          "float8_e5m2", "|u1", "|i1", "<i4")  # fmt: skip
# a name that goes with packed weights beside it
BESIDE_PACKED = re.compile(
    r"(weight_scale(_2|_inv)?|weight_global_scale|weight_packed|qweight|qzeros|scb|weight\.(absmax|quant_map"
    r"|nested_absmax|quant_state\.\w+)|(w13|w2|gate_up_proj|down_proj)(_weight)?_(scales?|blocks))$"
)


def refuse_checkpoint(path: Path, types: Mapping[str, str]) -> None:
    """QuantizedCheckpointError where tensors, name -> dtype, are packed weights with their scales beside them."""
    scales = [n for n in types if BESIDE_PACKED.search(n.lower())]
    narrow = [n for n, dtype in types.items() if dtype.removeprefix("torch.") in PACKED]
    packed = [n for n in narrow if "weight" in n.lower() or n in scales]
    if scales and packed:
        raise QuantizedCheckpointError(
            f"{str(path)!r} is a quantized checkpoint, not activations: {error_text(ValueError(scales[0]), 80)} goes "
            f"with {types[packed[0]]} weights; `nvfp4viz checkpoint {str(path)!r}`, or "
            f"nvfp4viz.checkpoint({str(path)!r}), looks at its scales, and activations come "
            "from nvfp4viz.record or nvfp4viz.capture"
        )


CALIBRATED = r"(.*[._])?(_?amax|_?pre_quant_scale|(input|weight|output|[qkv])_(global_)?scale(_\d)?|m(in|ax)_vals?)"


def calibrated(name: str) -> str | None:
    """Why a tensor of that name is not taken: what calibration measured of activations, not these; None where it is.

    >>> calibrated("layers.0.o_proj.input_quantizer._amax") is None, calibrated("layers.0.o_proj") is None
    (False, True)
    """
    if not re.fullmatch(CALIBRATED, name):
        return None
    return (
        "a range or scale that a calibration measured, no activations: nvfp4viz checkpoint DIR audits the scales of a "
        "checkpoint, --activations FILE compares them with traffic"
    )


def why_not(dtype: str, ndim: int) -> str | None:
    """Why a tensor of that dtype, as its file names it, is not taken; None where it is."""
    known = dtype.lower().removeprefix("torch.")
    if known in FLOATS:
        return None if ndim else f"{dtype}, one number: no activations, which are [..., K]"
    for kinds, reason in REASONS:
        if re.fullmatch(kinds, known):
            return f"{dtype}: {reason}"
    return f"{dtype}: no floating-point numbers, so no activations"


FLOATS = ("bf16", "f16", "f32", "f64", "bfloat16", "float16", "float32", "float64", "<f2", ">f2", "<f4", ">f4",
          "<f8", ">f8", "<f16", ">f16", "<f12", ">f12")  # fmt: skip
REASONS = (
    (r"f8_e\w+|float8_\w+", "FP8 is quantized already, and FlashInfer has no 4over6 for it; record the activations in "
     "bf16, or decode them first: x.float() * scale"),
    (r"f4|float4_e2m1fn_x2|f6_\w+", "packed 4-bit or 6-bit numbers, quantized already: "
     "Quantized.from_flashinfer(codes.view(torch.uint8), scales, decode_scale, recipe) decodes NVFP4"),
    (r"\|?v2|void16", "two raw bytes, most likely ml_dtypes.bfloat16, which NumPy's files do not name: save float32, "
     "or read it yourself: torch.from_numpy(array.view('int16')).view(torch.bfloat16)"),
    (r"\|?v\d+|void\d+|\[.*\]", "raw bytes or a record, whose numbers are not named: save float32"),
    (r"c64|c128|complex\w+|<c\d+|>c\d+", "complex numbers are no activations"),
    (r"[iu]\d+|u?int\d+|[<>|][iu]\d|bool|\|b1", "integers, such as token ids: no activations"),
    (r"q?u?int\d*|\|o|object", "no plain numbers"),
    (r"nested", "a nested tensor has rows of its own lengths: concatenate them, torch.cat(list(x.unbind()))"),
    (r"sparse\w*", "a sparse tensor: give x.to_dense()"),
)  # fmt: skip


def check_magic(path: Path, *magic: bytes) -> None:
    """ValueError where a file starts otherwise: NumPy and torch take a foreign file for a pickle."""
    with open(path, "rb") as f:
        start = f.read(8)
    if not start.startswith(magic):
        raise ValueError(f"starts with {start!r}")


def described(f, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that a .npy file of so many bytes announces; ValueError where it cannot hold them.

    NumPy's own product of the shape overflows; and mapping elements of no size divides by 0, which ends the process.
    """
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(f)
    if version not in read:
        raise ValueError(f"is of format version {version}")
    shape, _, dtype = read[version](f)
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - f.tell():
        raise ValueError(f"announces an array of shape {shape} and type {dtype}, and ends before it")
    return shape, dtype


def check_growth(size: int, stored: int) -> None:
    """ValueError where a little file would fill the memory."""
    if size > EXPANDED and size > 100 * stored:
        raise ValueError(f"{stored:,} bytes that would grow to {size:,}: hardly activations")


def check_tensor(x: Tensor) -> None:
    """ValueError where strides of 0 repeat one number without end."""
    if x.layout == torch.strided and not x.is_nested:
        check_growth(x.numel() * x.element_size(), x.untyped_storage().nbytes())


def check_pickle(path: Path, zipped: bool) -> None:
    """ValueError for what torch.save does not write, and torch.load fills the memory with."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist()):
                raise ValueError("its parts are compressed, unlike those that torch.save writes")
            programs = [archive.read(n) for n in archive.namelist() if n.endswith("data.pkl")]
        calls = any(b"bytearray" in program for program in programs)
        for program in programs:
            _check_names(io.BytesIO(program), 1)
    else:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            calls = data.find(b"bytearray") >= 0
            _check_names(data, 5)  # unlike the file, it makes no room for more bytes than there are
    if calls:
        raise pickle.UnpicklingError("bytearray is no tensor")


def _check_names(f, pickles: int) -> None:
    """ValueError for a long name in the first pickles: torch.load says why it refuses one in time quadratic in that."""
    for _ in range(pickles):
        for op, argument, _ in pickletools.genops(f):
            if op.name == "GLOBAL" and len(argument) > 1000:
                raise ValueError(f"a pickled name of {len(argument):,} characters")


def walk(value, name: str, left: list[int]) -> Iterable[tuple[str, Tensor]]:
    """Tensors in nested dicts and lists, named by their path; ValueError after `left` items.

    A file has a byte for each item at least, unless lists share lists that share lists.
    """
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("its lists hold each other, more items than the file has bytes")
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from walk(inner, f"{name}.{key}" if name else str(key), left)
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from walk(inner, f"{name}.{i}" if name else str(i), left)


def placeholder(path: Path) -> str:
    """What stands in place of a file that was not fetched: a pointer of Git LFS, a web page; else nothing."""
    if not path.is_file():
        return ""
    with open(path, "rb") as f:
        start = f.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: git lfs pull fetches it"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page, not the file: what fetched it was sent elsewhere, to a login most likely"
    return ""


def reason(error: Exception, path: Path) -> str:
    """What is wrong with a file, from whatever its reader raised."""
    if unfetched := placeholder(path):
        return unfetched
    text = error_text(error)
    text = text if " " in text else f"{type(error).__name__}: {text}"  # KeyError: 101
    words = ("weights_only", "pickle", "python objects", "object arrays")
    if isinstance(error, pickle.UnpicklingError) or any(w in str(error).lower() for w in words):
        named = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's own words go on for pages
        which = named[1] if named else text[:120]
        return f"it holds pickled objects, not loaded since they could run code; save tensors only ({which})"
    return f"truncated or damaged, or not what its name says ({text})"
