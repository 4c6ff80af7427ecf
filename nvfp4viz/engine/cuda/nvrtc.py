"""CUDA C++ compiled where it runs: NVRTC and the driver through ctypes, cubins kept on disk, torch's stream.

NVRTC is the one that torch's own CUDA wheels bring, whatever their CUDA version; `cuda.bindings` would want the NVRTC
of its own major version, and flashinfer-python does not tie that to torch's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

FLAGS = ("--std=c++17", "-ftz=true", "-fmad=false")
_JIT_FLAGS = ("--device-as-default-execution-space",)  # lambdas too, which nvcc knows where they are used
_WINDOWS = sys.platform == "win32"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS = 75, 76, 16  # CUdevice_attribute
_MAX_SHARED = 8  # CUfunction_attribute: of dynamic shared memory


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """The NVRTC library; OSError with the way to install it where there is none."""
    major = (torch.version.cuda or "").partition(".")[0]
    torch_lib = Path(torch.__file__).parent / "lib"
    name = f"nvrtc64_{major}0_0.dll" if _WINDOWS else f"libnvrtc.so.{major or 13}"
    wheels = [Path(p, "nvidia", part, "lib") for p in sys.path for part in (f"cu{major or 13}", "cuda_nvrtc")]
    # torch links its caffe2_nvrtc with NVRTC, wherever that lies: symbols are looked up in what a library depends on
    for path in [name, *torch_lib.glob("*caffe2_nvrtc*"), *(folder / name for folder in wheels)]:
        try:
            for builtins in Path(path).parent.glob("libnvrtc-builtins.so.*") if path != name else ():
                ctypes.CDLL(str(builtins))  # which NVRTC then asks for by name alone
            library = ctypes.CDLL(str(path))
            library.nvrtcCompileProgram  # noqa: B018
            return library
        except (OSError, AttributeError):
            continue
    wheel = f"nvidia-cuda-nvrtc-cu{major}" if major and int(major) < 13 else "nvidia-cuda-nvrtc"
    raise OSError(f"NVRTC, CUDA's run-time compiler, is not installed: pip install {wheel}")


@functools.cache
def driver() -> ctypes.CDLL:
    library = ctypes.CDLL("nvcuda.dll" if _WINDOWS else "libcuda.so.1")
    _check(library, library.cuInit(0))
    return library


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        name = ctypes.c_char_p()
        library.cuGetErrorName(status, ctypes.byref(name))
        raise RuntimeError(f"the CUDA driver answers {(name.value or b'error').decode()} ({status})")


def _attribute(which: int, device: int) -> int:
    value = ctypes.c_int()
    _check(driver(), driver().cuDeviceGetAttribute(ctypes.byref(value), which, device))
    return value.value


@functools.cache
def capability(device: int) -> tuple[int, int]:
    """Compute capability of the device of this index, without a CUDA context."""
    return _attribute(_CAPABILITY_MAJOR, device), _attribute(_CAPABILITY_MINOR, device)


@functools.cache
def multiprocessors(device: int) -> int:
    return _attribute(_MULTIPROCESSORS, device)


def compile_cubin(source: str, architecture: str) -> bytes:
    """Machine code of CUDA C++ for an architecture such as "sm_90"; RuntimeError with the compiler's log."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"nvfp4viz.cu", 0, None, None)
    options = [option.encode() for option in (f"--gpu-architecture={architecture}", *FLAGS, *_JIT_FLAGS)]
    try:
        status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        what = "ProgramLog" if status else "CUBIN"
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        result = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, result)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    if status:
        raise RuntimeError(f"NVRTC cannot compile for {architecture}:\n{result.value.decode()}")
    return result.raw


def _nvrtc_version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def cached_cubin(source: str, architecture: str) -> bytes:
    """`compile_cubin`, kept in the user's cache folder by source, architecture, flags and compiler version."""
    key = hashlib.sha256("\0".join([source, architecture, *FLAGS, _nvrtc_version()]).encode()).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if _WINDOWS else None)
    folder = Path(root or Path.home() / ".cache") / "nvfp4viz"
    path = folder / f"{key}.cubin"
    with suppress(OSError):
        return path.read_bytes()
    cubin = compile_cubin(source, architecture)
    with suppress(OSError):  # a read-only home compiles anew in each process
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as beside:
            beside.write(cubin)
        os.replace(beside.name, path)  # whole or not at all, whoever else writes it
    return cubin


@contextmanager
def _context(device: int):
    """torch's own (primary) context made current; a new thread has none until it asks for one."""
    _check(driver(), driver().cuCtxPushCurrent_v2(_primary_context(device)))
    try:
        yield
    finally:
        driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@functools.cache
def _primary_context(device: int) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    _check(driver(), driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    return context


@functools.lru_cache(maxsize=256)
def kernel(source: str, name: str, device: int) -> ctypes.c_void_p:
    """The function of this name in `source`, compiled for the device and loaded there."""
    module, function = _module(source, device), ctypes.c_void_p()
    _check(driver(), driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
    return function


@functools.cache
def _module(source: str, device: int) -> ctypes.c_void_p:
    module = ctypes.c_void_p()
    cubin = cached_cubin(source, "sm_{}{}".format(*capability(device)))
    with _context(device):
        _check(driver(), driver().cuModuleLoadData(ctypes.byref(module), cubin))
    return module


def allow_shared(function: ctypes.c_void_p, size: int, device: int) -> None:
    """Let a kernel have so many bytes of dynamic shared memory."""
    with _context(device):
        _check(driver(), driver().cuFuncSetAttribute(function, _MAX_SHARED, size))


def stream(device: int) -> int:
    """torch's current stream of the device of this index, as the driver knows it."""
    return torch._C._cuda_getCurrentRawStream(device)  # a tenth of what `torch.cuda.current_stream` takes


class Launch:
    """A kernel, its grid and one argument, prepared once: a call queues it with what the argument then holds."""

    def __init__(
        self, function: ctypes.c_void_p, grid: int, threads: int, argument: ctypes.Structure, stream: int, device: int,
        shared: int = 0,
    ):  # fmt: skip
        self.argument, self.device = argument, device
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        self._what = function, grid, 1, 1, threads, 1, 1, shared, ctypes.c_void_p(stream), pointers, None

    def __call__(self) -> None:
        if driver().cuLaunchKernel(*self._what):  # most often since another device's context, or none, is current
            with _context(self.device):
                _check(driver(), driver().cuLaunchKernel(*self._what))
