"""Run a model with quantized inputs and weights in some of its products."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..engine import quantize
from ..nvfp4 import E4M3_MAX, Recipe, as_tokens, check_finite, tensor_amax, tensor_scales
from .inputs import computed, module_input
from .presets import Plan, stored_names
from .products import Product, Watch
from .weights import Weight


@dataclass(frozen=True)
class Fp8:
    """E4M3 with a scale a row, in place of a recipe: a token of activations, an output channel of weights."""

    name: str = "fp8"
    per_token: bool = True

    def decoded(self, x: Tensor) -> Tensor:
        """x [..., K] through E4M3 and back; each row's amax maps to 448, and rows of zeros stay so."""
        scale = x.float().abs().amax(-1, keepdim=True) / E4M3_MAX  # [..., 1]
        scale = scale.where(scale > 0, 1.0)
        return ((x.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


def one_ulp(x: Tensor) -> Tensor:
    """x with every hundredth element moved to the next number of its dtype away from 0."""
    bits = x.contiguous().clone()
    bits.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]).view(-1)[::100] += 1
    return bits


def decoded(x: Tensor, recipe: Recipe | Fp8 | Callable[[Tensor], Tensor], engine: str, encode_scale=None) -> Tensor:
    """x [..., K] through NVFP4, or FP8, and back, in x's shape and dtype; or what a function makes of it."""
    if not x.numel():
        return x
    if isinstance(recipe, Fp8):
        check_finite(x.reshape(-1, x.shape[-1]))
        return recipe.decoded(x)
    if not isinstance(recipe, Recipe):
        return recipe(x)
    q = quantize(as_tokens(x), recipe, engine=engine, encode_scale=encode_scale)
    return q.dequantize().to(x.device, x.dtype).reshape(x.shape)


class Decoded:
    """Weights through NVFP4, each [N, K], of a stack [E, N, K]; made at first use, for one recipe.

    room: bytes of them that stay in memory, the first ones made; the others are made each time that their product is
    computed, and let go of behind it. None: all stay.
    """

    def __init__(self, plan: Plan, recipe: Recipe | Fp8, engine: str, room: int | None = None):
        self.plan, self.recipe, self.engine, self.room = plan, recipe, engine, room
        self.kept: dict[str, str] = {}  # weight -> why it stays as it is
        self._made: dict[Weight, Tensor | None] = {}

    def __call__(self, weight: Weight, k_last: bool = True) -> Tensor | None:
        """None where the weight stays as it is. k_last: it is stored [N, K]."""
        if weight in self._made:
            return self._made[weight]
        try:
            made = self._make(weight, k_last)
        except (TypeError, ValueError) as error:
            self.kept[weight.name], made = f"weight: {error}", None
        size = 0 if made is None else made.nbytes
        if self.room is None or size <= self.room:
            self._made[weight] = made
            self.room = None if self.room is None else self.room - size
        return made

    def _make(self, weight: Weight, k_last: bool) -> Tensor:
        w = matrix_of(weight, k_last)
        check_finite(w)
        if self.plan.checkpoint is not None:
            return torch.stack([self._stored(n) for n in weight.labels()]).reshape(w.shape).to(w)
        if isinstance(self.recipe, Fp8):
            return decoded(w, self.recipe, self.engine)
        if weight.kind == "stack":  # gate and up of an expert are one slice, so they share its scale
            return torch.stack([decoded(e, self.recipe, self.engine) for e in w])
        group = [matrix_of(g, True) for g in self.plan.group(weight)] if self.plan.shared else [w]
        amax = torch.stack([tensor_amax(as_tokens(g)).flatten()[0] for g in group]).max().reshape(1, 1)
        return decoded(w, self.recipe, self.engine, tensor_scales(amax, self.recipe)[0])

    def _stored(self, label: str) -> Tensor:
        weights = self.plan.checkpoint.weights
        return torch.cat([weights[n] for n in stored_names(label) if n in weights])


def matrix_of(weight: Weight, k_last: bool) -> Tensor:
    """The parameter as [N, K], of a stack [E, N, K]."""
    w = weight.parameter.detach()
    return w.transpose(-1, -2).contiguous() if not k_last or type(weight.module).__name__ == "Conv1D" else w


class Swap:
    """A context in which products compute with inputs quantized by `recipe`, and with `weights`; then all is as before.

    What cannot be quantized runs as it is, and is in `skipped` with the reason. A recipe of None changes nothing.
    """

    def __init__(self, plan: Plan, recipe: Recipe | None, weights: Decoded | None, engine: str, skipped, only=None):
        self.plan, self.recipe, self.weights, self.engine, self.skipped = plan, recipe, weights, engine, skipped
        self.by_row = getattr(recipe, "per_token", True)  # a row's values do not depend on others
        self.some = [only] if only is not None else list(plan.choice.observed)
        self.ran = Counter()  # label -> products that were swapped
        self._last: list = [None, None, None]  # an input, its version, what became of it: q, k and v share one
        self._called, self._blocks = None, []

    def __enter__(self):
        self._undo = contextlib.ExitStack()
        if self.recipe is not None:
            try:
                self._attach()
            except BaseException:
                self._undo.close()
                raise
        return self

    def __exit__(self, *_) -> None:
        self._undo.close()

    def _attach(self) -> None:
        by_hand = [w for w in self.some if not w.is_called]
        for w in self.some:
            if w.is_called:
                hook = w.module.register_forward_pre_hook(functools.partial(self._hook, w), with_kwargs=True)
                self._undo.callback(hook.remove)
                if self.weights is not None:
                    self._place(w) if self.weights.room is None else self._place_in_passing(w)
        for module in dict.fromkeys(w.module for w in by_hand if w.kind == "stack"):
            self._undo.callback(module.register_forward_pre_hook(self._entered, with_kwargs=True).remove)
            self._undo.callback(module.register_forward_hook(self._left, always_call=True).remove)
        if by_hand:
            self._undo.enter_context(Watch(self.some, self._visit))

    def _entered(self, module, args, kwargs) -> None:
        self._blocks.append((module, args, kwargs))

    def _left(self, *_) -> None:
        self._blocks.pop()

    def _place(self, weight: Weight) -> None:
        """A module's weight changed in its place only: a tied embedding keeps its own."""
        parameters = weight.module._parameters
        self._undo.callback(parameters.__setitem__, "weight", parameters["weight"])
        parameters["weight"] = self._placed(weight)

    def _place_in_passing(self, weight: Weight) -> None:
        """A module's weight changed while the module runs: one at a time takes memory."""
        parameters = weight.module._parameters
        own = parameters["weight"]

        def put(*_):
            parameters["weight"] = self._placed(weight)

        def back(*_):
            parameters["weight"] = own

        for hook in (weight.module.register_forward_pre_hook(put),
                     weight.module.register_forward_hook(back, always_call=True)):  # fmt: skip
            self._undo.callback(hook.remove)
        self._undo.callback(back)

    def _placed(self, weight: Weight) -> nn.Parameter:
        made = self.weights(weight)
        if made is None:
            return weight.module._parameters["weight"]
        made = made.T.contiguous() if type(weight.module).__name__ == "Conv1D" else made
        return nn.Parameter(made, requires_grad=False)

    def _hook(self, weight: Weight, module, args, kwargs):
        self._called = module
        if weight.name in self.skipped:
            return None
        try:
            with torch._C.DisableTorchFunction():
                x = module_input(module, args, kwargs)
                given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
                version = None if given.is_inference() else given._version
                scale = self._encode_scale(weight.name)
                if scale is not None or self._last[0] is not given or version is None or self._last[1] != version:
                    made = decoded(x, self.recipe, self.engine, scale)
                    self._last[:] = given, version, made.double() if given.dtype == torch.float64 else made
        except (TypeError, ValueError, StopIteration) as error:
            self.skipped[weight.name] = str(error) or "its input has no floating-point tensor"
            return None
        self.ran[weight.name] += 1
        swap = lambda v: self._last[2] if v is given else v  # noqa: E731
        return tuple(map(swap, args)), {key: swap(v) for key, v in kwargs.items()}

    def _encode_scale(self, label: str) -> float | None:
        return None if self.by_row else self.plan.input_scale(label)

    def _visit(self, product: Product):
        w = product.weight
        if w.is_called and self._called is w.module:
            self._called = None
            return None
        if not self.plan.choice.takes(w, product.expert) or w.name in self.skipped:
            return None
        try:
            with torch._C.DisableTorchFunction():
                x = product.restored(self._rows(product)).to(product.given.dtype)
                matrix = self._matrix(product)
        except (TypeError, ValueError) as error:
            self.skipped[w.name] = str(error)
            return None
        self.ran[w.name] += 1
        return x, matrix

    def _rows(self, product: Product) -> Tensor:
        """Rows of activations, quantized; of experts that were not asked for, as they are."""
        rows, w = computed(product.rows(), product), product.weight
        if product.offsets is not None:
            place = torch.arange(len(rows), device=rows.device)
            experts = torch.searchsorted(product.offsets.long(), place, right=True)
        elif product.experts is not None:
            experts = product.experts
        else:
            experts = None if product.expert is None else torch.full((len(rows),), product.expert)
        if experts is None:
            return decoded(rows, self.recipe, self.engine, self._encode_scale(w.name))
        served = self._served_scale(product)
        if self.by_row:  # a row has its own scale, whoever computes it
            picked = torch.tensor([self.plan.choice.takes(w, e) for e in range(w.experts)] + [False])  # and of no one
            keep = picked.to(experts.device)[experts]
            if keep.all():  # as they lie, not picked and put back
                return decoded(rows, self.recipe, self.engine)
            return rows.index_put((keep,), decoded(rows[keep], self.recipe, self.engine))
        new = rows.clone()
        for e in range(w.experts):
            mine = experts == e
            if self.plan.choice.takes(w, e) and mine.any():
                scale = self._encode_scale(w.label(e)) or served
                new[mine] = decoded(rows[mine], self.recipe, self.engine, scale)
        return new

    def _served_scale(self, product: Product):
        """One scale for what a block of experts was called with, quantized before routing; None behind that."""
        if self.by_row or not self._blocks or self._blocks[-1][0] is not product.weight.module:
            return None
        module, args, kwargs = self._blocks[-1]
        x = module_input(module, args, kwargs)
        if x.shape[-1] != product.features or product.weight.attribute.startswith("down"):
            return None
        return tensor_scales(tensor_amax(as_tokens(x)), self.recipe)[0]

    def _matrix(self, product: Product) -> Tensor | None:
        w = product.weight
        if self.weights is not None and product.changed:  # what it computes with is what is quantized
            made = product.matrix.movedim(product.k_axis, -1).contiguous()
            parts = made if w.kind == "stack" and made.ndim == 3 else made[None]
            made = torch.stack([decoded(m, self.weights.recipe, self.engine) for m in parts]).reshape(made.shape)
            return made.movedim(-1, product.k_axis)
        made = self.weights(w, product.k_last) if self.weights is not None else None
        if made is None:
            return None
        if w.kind == "stack":
            made = self._experts(made, product)
        elif product.part:
            made = made[product.first : product.first + product.outputs]
        shape = product.matrix.movedim(product.k_axis, -1).shape
        return made.reshape(shape).movedim(-1, product.k_axis).to(product.matrix.dtype)

    @staticmethod
    def _experts(made: Tensor, product: Product) -> Tensor:
        """Of [E, N, K] what takes part: one expert, all, or one a row."""
        if product.expert is not None:
            return made[product.expert]
        n = product.matrix.shape[0]
        if product.offsets is not None or (n == len(made) and product.dense):
            return made
        return made[product.experts[:: max(1, len(product.experts) // n)]]
