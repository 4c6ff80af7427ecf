"""What the input of a call is: the tensor that a module computes with, its dtype, and the part this process has.

And what a model's output is.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from ..nvfp4 import as_tokens
from .products import Product
from .weights import is_linear


def passed(args, kwargs=None) -> Tensor:
    """The first floating-point tensor among a call's arguments, or else the first tensor."""
    tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
    if not tensors:
        raise TypeError("it was called without a tensor")
    return next((t for t in tensors if t.is_floating_point()), tensors[0])


def module_input(module: nn.Module, args, kwargs=None) -> Tensor:
    """What was passed to a module, as it computes with it: in autocast's dtype."""
    x = passed(args, kwargs)
    kind = x.device.type
    if x.dtype == torch.float32 and is_linear(module) and torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return x.float() if x.dtype == torch.float64 else x


def logits_of(output) -> Tensor | None:
    """The logits that a model returned, alone or in an object; None where there are none."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else None


def local_part(name: str, x: Tensor, module: nn.Module) -> tuple[str, Tensor | None]:
    """What this process holds of a module's input, and what to call it.

    A shard along K is quantized with its own amax, so it has a name of its own. Tokens that several ranks hold
    (a replicated DTensor) are counted by the first of them; the others get None.
    """
    where = []
    if hasattr(x, "placements"):  # a DTensor
        mesh, at = x.device_mesh, x.device_mesh.get_coordinate()
        for axis, placement in enumerate(x.placements):
            if placement.is_partial():
                raise ValueError("its input is a DTensor of partial sums, which no layer quantizes: reduce it first")
            if placement.is_shard() and placement.dim % x.ndim == x.ndim - 1:
                where.append((at[axis], mesh.size(axis)))
            elif placement.is_replicate() and at[axis]:
                return name, None
        x = x.to_local()
    elif getattr(module, "input_is_parallel", False):  # row-parallel layers of Megatron, vLLM and SGLang
        whole, part = getattr(module, "input_size", 0), getattr(module, "input_size_per_partition", 0)
        if 0 < part < whole:
            group = getattr(module, "tp_group", None)
            where.append((getattr(module, "tp_rank", getattr(group, "rank_in_group", rank())), whole // part))
    return name + "".join(f" [K shard {i} of {n}]" for i, n in where if n > 1), x


def rank() -> int:
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if many else 0


def computed(x: Tensor, product: Product) -> Tensor:
    """Rows in the dtype that the product computes in: autocast's, and never float64."""
    kind = x.device.type
    if product.casts and x.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return as_tokens(x.float() if x.dtype == torch.float64 else x)


def routing(args, kwargs) -> Tensor | None:
    """int [T, k], the experts of each token, of a call of a block of experts that was told them."""
    tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim == 2]
    return next((t for t in tensors if t.dtype in (torch.int32, torch.int64)), None)


@contextlib.contextmanager
def eager():
    """Compiled models run as written, since a hook that is traced sees no values; attention in its readable path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    known = hasattr(torch.compiler, "set_stance")  # torch 2.6
    try:
        with torch.compiler.set_stance("force_eager") if known else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
