"""Run a model with quantized inputs and weights in some of its linear layers, and watch how layers' outputs change."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..engine import quantize
from ..nvfp4 import Recipe, as_tokens
from .inputs import module_input

RUN = 64  # consecutive tokens that the bootstrap draws together, since neighbours are alike


def decoded(x: Tensor, recipe: Recipe, engine: str) -> Tensor:
    """x [..., K] through NVFP4 and back, in x's shape and dtype."""
    if not x.numel():
        return x
    return quantize(as_tokens(x), recipe, engine=engine).dequantize().to(x.device, x.dtype).reshape(x.shape)


def decoded_weights(
    layers: dict[str, nn.Module], recipe: Recipe | None, engine: str, skipped: dict
) -> dict[str, Tensor]:
    """The weights [N, K] of layers through NVFP4 with one scale a tensor, as checkpoints have them."""
    found = {}
    for name, module in layers.items() if recipe else ():
        try:
            found[name] = decoded(module.weight.detach(), replace(recipe, per_token=False), engine)
        except (TypeError, ValueError) as error:
            skipped[name] = f"weight: {error}"
    return found


@contextlib.contextmanager
def swapped(
    layers: dict[str, nn.Module], recipe: Recipe | None, weights: dict[str, Tensor], engine: str, skipped: dict
):
    """Layers compute with inputs quantized by `recipe`, and with `weights` by name; as before when the block ends.

    A layer that cannot be quantized runs as it is, and is in `skipped` with the reason. None changes nothing.
    """
    last: list = [None, None, None]  # an input, its version and what became of it: q_proj, k_proj and v_proj share one

    def hook(name, module, args, kwargs):
        if recipe is None or name in skipped:
            return None
        try:
            x = module_input(module, args, kwargs)
            given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
            version = None if given.is_inference() else given._version
            if last[0] is not given or version is None or last[1] != version:
                last[:] = given, version, decoded(x, recipe, engine)
        except (TypeError, ValueError, StopIteration) as error:
            skipped[name] = str(error) or "its input has no floating-point tensor"
            return None
        swap = lambda v: last[2] if v is given else v  # noqa: E731
        return tuple(map(swap, args)), {key: swap(v) for key, v in kwargs.items()}

    with contextlib.ExitStack() as undo:
        for name, module in layers.items():
            handle = module.register_forward_pre_hook(_named(hook, name), with_kwargs=True)
            undo.callback(handle.remove)
            if name in weights and name not in skipped:
                # in the module's place only: a tied embedding keeps its own
                undo.callback(module._parameters.__setitem__, "weight", module._parameters["weight"])
                module._parameters["weight"] = nn.Parameter(weights[name], requires_grad=False)
        yield


class Outputs:
    """Keeps what layers return; or, given `before`, sums by run their squared change since and its squared output."""

    def __init__(self, before: Outputs | None = None):
        self.before = before
        self.kept: dict[str, list[tuple[Tensor, Tensor]]] = {}  # layer -> a call's output and its norm by row
        self.calls: dict[str, int] = {}
        self.sums: dict[str, list[list[float]]] = {}  # layer -> by run

    @contextlib.contextmanager
    def watching(self, layers: dict[str, nn.Module]):
        with contextlib.ExitStack() as undo:
            for name, module in layers.items():
                undo.callback(module.register_forward_hook(_named(self._see, name)).remove)
            yield self

    def _see(self, name, module, args, output) -> None:
        y = output[0] if isinstance(output, tuple) else output
        y = y.detach().reshape(-1, y.shape[-1])
        if self.before is None:
            self.kept.setdefault(name, []).append((y.clone(), y.norm(dim=-1, dtype=torch.float32)))
            return
        call = self.calls[name] = self.calls.get(name, -1) + 1
        kept = self.before.kept.get(name, [])
        if call >= len(kept) or kept[call][0].shape != y.shape:  # an expert that was routed other tokens
            return
        y0, norm = kept[call]
        change = torch.sub(y, y0) if y.dtype == torch.float32 else y.float().sub_(y0)
        rows = torch.stack([change.norm(dim=-1), norm], 1).double().square()  # [M, 2]
        self.sums.setdefault(name, []).extend(run.sum(0).tolist() for run in rows.split(RUN))


def _named(hook, name):
    return lambda *args: hook(name, *args)
