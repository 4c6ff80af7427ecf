"""Which operand of a call is the activations, which the weight, and along which axes they meet.

A reader is a function (watch, args, kwargs) -> the product and the places of activations and matrix among args; None
where the call is no product of activations with a weight, or one that cannot be read.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _linear(watch, args, kwargs):
    if len(args) < 2:
        return None
    x, w = args[:2]
    if w.ndim != 2:
        return None
    found = watch.product(x, w, -1, w.shape[1], w.shape[0], -1)
    return found and (found, 0, 1)


def _matmul(watch, args, kwargs, first=0):
    if len(args) < first + 2:
        return None
    a, b = args[first : first + 2]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    if watch.source(b) is not None:
        found = _right(watch, a, b)
        return found and (found, first, first + 1)
    if watch.source(a) is not None:
        found = _left(watch, a, b)
        return found and (found, first + 1, first)
    return None


def _batched(x: Tensor, w: Tensor) -> tuple[bool, tuple[int, ...] | None]:
    """Whether a product of x with one matrix, or a batch of them, can be read; the shape x spreads to if another."""
    if w.ndim <= 2:
        return True, None
    batch = torch.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    spread = (*batch, *x.shape[-2:]) if tuple(x.shape[:-2]) != batch else None
    return w.ndim == 3 and x.ndim >= 2 and len(batch) == 1, spread


def _right(watch, x: Tensor, w: Tensor):
    """x @ w: [..., K] @ [K, N], or a batch of them."""
    readable, spread = _batched(x, w)
    if not readable:
        return None
    return watch.product(x, w, -1, w.shape[-2], w.shape[-1], -2, w.ndim > 2, spread)


def _left(watch, w: Tensor, x: Tensor):
    """w @ x: [N, K] @ [..., K, M] or [K], or a batch of them."""
    readable, spread = _batched(x, w)
    if not readable:
        return None
    return watch.product(x, w, max(-2, -x.ndim), w.shape[-1], w.shape[-2], -1, w.ndim > 2, spread)


def _swapped_matmul(watch, args, kwargs):
    """__rmatmul__: args are the right and the left operand."""
    found = _matmul(watch, (args[1], args[0]), kwargs)
    return found and (found[0], 1 - found[1], 1 - found[2])


def _grouped(watch, args, kwargs):
    x, w = args[:2]
    offsets = kwargs.get("offs", args[2] if len(args) > 2 else None)
    if offsets is None or w.ndim != 3 or x.ndim != 2:
        return None
    found = watch.product(x, w, -1, w.shape[-2], w.shape[-1], -2)
    if found is None or found.weight.kind != "stack":
        return None
    found.expert, found.offsets, found.casts = None, offsets, False
    return found, 0, 1


def _einsum(watch, args, kwargs):
    equation, *operands = args
    if (len(operands) == 1 and isinstance(operands[0], (tuple, list))) or len(operands) != 2:
        return None
    w_at = next((i for i in (0, 1) if watch.source(operands[i]) is not None), None)
    if w_at is None or not isinstance(equation, str):
        return None
    inputs, _, out = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not out or "." in terms[w_at]:
        return None
    w_term, x_term = terms[w_at], terms[1 - w_at]
    x, w = operands[1 - w_at], operands[w_at]
    summed = [c for c in w_term if c in x_term and c not in out]
    batch = [c for c in w_term if c in x_term and c in out]
    if len(summed) != 1 or len(batch) > 1 or (batch and (w_term[0] != batch[0] or x_term[0] != batch[0])):
        return None
    axis = x_term.index(summed[0]) - len(x_term) if "." in x_term else x_term.index(summed[0])
    k = w.shape[w_term.index(summed[0])]
    n = w.numel() // k // (w.shape[0] if batch else 1)
    found = watch.product(x, w, axis, k, n, w_term.index(summed[0]), bool(batch))
    return found and (found, 2 - w_at, 1 + w_at)


READERS = {
    "linear": _linear,
    "matmul": _matmul, "__matmul__": _matmul, "mm": _matmul, "bmm": _matmul, "mv": _matmul,
    "__rmatmul__": _swapped_matmul,
    "addmm": lambda watch, args, kwargs: _matmul(watch, args, kwargs, 1),
    "baddbmm": lambda watch, args, kwargs: _matmul(watch, args, kwargs, 1),
    "addmv": lambda watch, args, kwargs: _matmul(watch, args, kwargs, 1),
    "grouped_mm": _grouped, "_grouped_mm": _grouped, "grouped_mm_fallback": _grouped,
    "einsum": _einsum,
}  # fmt: skip

PRODUCTS_UNREAD = frozenset((
    "lstm", "gru", "rnn_tanh", "rnn_relu", "bilinear", "tensordot", "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd", "scaled_mm", "_scaled_mm", *READERS,
))  # fmt: skip
