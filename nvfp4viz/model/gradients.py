"""What the model's output feels of an error in an input: squared gradients of the output's own log-probabilities.

The KL divergence that small errors d of an input make is 1/2 E (g . d)^2, where g is the gradient of the log
probability of a token drawn from the model's own prediction (the Fisher information); for errors that do not go
together, that is 1/2 sum g^2 d^2. A forward and a backward pass or two predict it for every input and recipe at once.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..engine import feel
from ..nvfp4 import Recipe, Tokens
from .choose import Choice
from .inputs import logits_of
from .rows import attention_mask
from .seen import Seen

CHUNK = 256  # rows of logits at a time
OUT_OF_MEMORY = (
    "the backward pass does not fit into memory: give shorter or smaller batches; tensor errors stand without it, and "
    "impact(model, batches, recipes, per_layer=True) measures the output with forward passes alone"
)


class Gradients:
    """Draws labels at the end of each call of a model, goes back, and sums g^2 d^2 / 2 by input and recipe."""

    at_once = True  # an input's squares are used as they come, if there is one draw, and not held to the end

    def __init__(self, recipes: list[Recipe], draws: int, seed: int, engine: str):
        if draws < 1:
            raise ValueError(f"draws={draws}: at least one backward pass")
        self.recipes, self.draws, self.engine, self._seed = recipes, draws, engine, seed
        self.sums: dict[str, list[float]] = {}  # label -> nats by recipe, summed over the tokens predicted
        self.names: dict[str, tuple[str, ...]] = {}  # label -> all layers that read that input, itself first
        self.tokens = 0  # predicted, of all calls
        self.problem: str | None = None  # why there are none
        self._generators: dict = {}
        self._watched: dict[tuple, list] = {}  # (tensor, rows) -> [Seen, labels of this call, g^2 or parts]
        self._views: dict[tuple, tuple[Tensor, Tensor]] = {}  # tensor and version -> itself, what observed layers read
        self._hooks: list = []  # on those tensors; each holds its tensor until it is removed

    @contextlib.contextmanager
    def attached(self, model: nn.Module, choice: Choice):
        """Calls of the model go forward with gradients of activations, and back again."""
        frozen = [p for p in model.parameters() if p.requires_grad]
        with contextlib.ExitStack() as undo:
            for p in frozen:
                p.requires_grad_(False)
                undo.callback(p.requires_grad_, True)
            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    undo.callback(module.register_forward_hook(_grown).remove)
            for w in choice.observed:
                if w.is_called:
                    hook = w.module.register_forward_pre_hook(self._alone, prepend=True, with_kwargs=True)
                    undo.callback(hook.remove)
            undo.callback(self._let_go)
            undo.callback(model.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            undo.callback(model.register_forward_hook(self._leave, with_kwargs=True, always_call=True).remove)
            yield self

    def watch(self, seen: Seen) -> bool:
        """Add to an input's sums what a gradient of it will say, if one comes. Called while the model goes forward."""
        if self.problem or not seen.given.requires_grad:
            return False
        key = id(seen.given), seen.x.shape, seen.offsets is None
        if key in self._watched:  # q_proj, k_proj and v_proj have one input
            labels = self._watched[key][1]
            if seen.name not in self.names.setdefault(labels[0], (labels[0],)):
                self.names[labels[0]] += (seen.name,)
            labels.append(seen.name)
            return True
        entry = self._watched[key] = [seen, [seen.name], None]

        def hook(gradient: Tensor) -> None:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                square = seen.read(gradient.float()).square()
                if self.at_once and self.draws == 1:
                    entry[2] = self._of_input(seen, entry[1], square)
                else:
                    entry[2] = square if entry[2] is None else entry[2].add_(square)

        self._hooks.append(seen.given.register_hook(hook))
        return True

    def _alone(self, module, args, kwargs):
        """A layer's input as a view that only observed layers read.

        Others may read the same tensor, as routers and experts do beside a shared expert, and quantizing this input
        leaves them as they are.
        """
        with torch._C.DisableTorchFunction():
            return tuple(map(self._view, args)), {name: self._view(value) for name, value in kwargs.items()}

    def _view(self, value):
        if not isinstance(value, Tensor) or not value.requires_grad or not torch.is_grad_enabled():
            return value
        key = id(value), value._version
        if key not in self._views:  # q_proj, k_proj and v_proj have one
            self._views[key] = value, value.view_as(value)
        return self._views[key][1]

    def _let_go(self) -> None:
        """No tensor of a call is held after this."""
        self._watched.clear()
        self._views.clear()
        while self._hooks:
            self._hooks.pop().remove()

    def _enter(self, module, args, kwargs):
        self._before = torch.is_grad_enabled()
        self._let_go()
        if torch.is_inference_mode_enabled():
            self.problem = "torch.inference_mode() keeps no gradients: call the model under torch.no_grad(), or plainly"
            return None
        torch.set_grad_enabled(True)
        return tuple(map(_started, args)), {name: _started(value) for name, value in kwargs.items()}

    def _leave(self, module, args, kwargs, output):
        """Go back, and hand the output on as the call without gradients would: nothing of the graph leaves."""
        torch.set_grad_enabled(self._before)
        if output is None:  # the call failed
            return None
        with torch._C.DisableTorchFunction():
            if not self.problem:
                self._went(attention_mask(module, args, kwargs), logits_of(output))
            self._let_go()
            for value in (*args, *kwargs.values()):  # a cache, which the next call is given
                without_graph(value)
            return without_graph(output)

    def _went(self, mask: Tensor | None, logits: Tensor | None) -> None:
        if logits is None or not logits.requires_grad:
            self.problem = (
                "no gradient reaches the model's output: it has no logits, or its layers run in kernels without a "
                "backward pass; impact() measures the output with forward passes alone"
            )
            return
        try:
            self._back(logits, _counted(logits, mask))
            self._add()
        except (torch.cuda.OutOfMemoryError, MemoryError):
            self.problem = OUT_OF_MEMORY
        except RuntimeError as error:  # of the backward pass: the model's call itself is well
            self.problem = f"the backward pass fails: {str(error).partition(chr(10))[0]}"

    def _back(self, logits: Tensor, counts: Tensor) -> None:
        """draws backward passes, each from a token drawn from every prediction; counts: bool [B, T]."""
        device = logits.device
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        for draw in range(self.draws):
            pull = torch.empty_like(logits)
            flat, where = pull.view(-1, pull.shape[-1]), counts.reshape(-1, 1).to(device)
            rows, totals = logits.detach().reshape(flat.shape), []
            for i in range(0, len(flat), CHUNK):
                p = torch.softmax(rows[i : i + CHUNK].float(), -1)
                total = p.cumsum(-1)
                totals.append(total[:, -1])
                label = _drawn(total, self._generators[device])
                change = p.neg_().scatter_add_(-1, label, torch.ones_like(label, dtype=p.dtype))  # one-hot - p
                flat[i : i + CHUNK] = change.masked_fill_(~where[i : i + CHUNK], 0)
            if torch.cat(totals).isnan().any():
                raise RuntimeError("the logits hold NaN or Inf")
            torch.autograd.backward([logits], [pull], retain_graph=draw + 1 < self.draws)
        self.tokens += int(counts.sum())

    def _add(self) -> None:
        with torch.no_grad():
            parts = [
                self._of_input(seen, labels, found) if isinstance(found, Tensor) else found
                for seen, labels, found in self._watched.values()
                if found is not None
            ]
            every = [label for labels, _ in parts for label in labels]
            sums = torch.cat([rows.to(parts[0][1].device) for _, rows in parts]).tolist() if every else []  # waits once
        if not all(map(math.isfinite, itertools.chain(*sums))):
            raise RuntimeError("a gradient is NaN or infinite")
        for label, row in zip(every, sums, strict=True):
            if label is not None:  # of an expert that was not asked for
                self.names.setdefault(label, (label,))
                total = self.sums.setdefault(label, [0.0] * len(self.recipes))
                self.sums[label] = [t + s for t, s in zip(total, row, strict=True)]

    def _of_input(self, seen: Seen, labels: list[str], squares: Tensor) -> tuple[list[str | None], Tensor | None]:
        """Labels, and float64 [labels, recipes]: weighted errors of this call. squares: [M, K], of all draws."""
        by_row = feel(Tokens.of(seen.x), squares, self.recipes, self.engine) / (2 * self.draws)
        if seen.offsets is None:
            return [seen.name], by_row.sum(1)[None]
        ends = functional.pad(seen.offsets.long(), (1, 0)).to(by_row.device)  # unsafe below: they are not looked at
        return seen.labels, torch.segment_reduce(by_row.T.contiguous(), "sum", offsets=ends, unsafe=True)


class Squares(Gradients):
    """Hands on an input's rows with the squares of their gradients, float32 [M, K]: take(label, rows, squares)."""

    at_once = False  # a backward pass that fails midway must have handed on nothing

    def __init__(self, seed: int, take: Callable[[str, Tensor, Tensor | None], None]):
        super().__init__([], 1, seed, "auto")
        self.take = take

    def _of_input(self, seen: Seen, labels: list[str], squares: Tensor) -> tuple[list, None]:
        if seen.offsets is None:
            for label in labels:
                self.take(label, seen.x, squares)
            return [], None
        starts = dict(zip(seen.labels, [0, *seen.offsets.tolist()], strict=False))
        for label, x in seen.parts():
            self.take(label, x, squares[starts[label] : starts[label] + len(x)])
        return [], None

    def _leave(self, module, args, kwargs, output):
        waiting = [] if self.problem else list(self._watched.values())
        output = super()._leave(module, args, kwargs, output)
        for seen, labels, _ in waiting if self.problem else ():  # no gradient came: the rows count all the same
            for label, x in seen.parts() if seen.offsets is not None else [(name, seen.x) for name in labels]:
                self.take(label, x, None)
        return output


def without_graph(value, depth: int = 6):
    """Tensors detached, also those that containers and objects such as a model's output or its cache hold."""
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    if depth == 0 or isinstance(value, nn.Module | type):
        return value
    if isinstance(value, tuple):
        parts = [without_graph(v, depth - 1) for v in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, dict):
        for key, held in list(value.items()):
            new = without_graph(held, depth - 1)
            if new is not held:
                value[key] = new  # of transformers' outputs the attribute, too
    elif isinstance(value, list):
        value[:] = [without_graph(v, depth - 1) for v in value]
    elif hasattr(value, "__dict__"):
        without_graph(vars(value), depth)
    return value


def _drawn(total: Tensor, generator: torch.Generator) -> Tensor:
    """int64 [N, 1]: an index drawn for each row, whose probabilities are added up, float32 [N, V]."""
    at = torch.rand((len(total), 1), generator=generator, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, at, right=True).clamp_(max=total.shape[-1] - 1)  # right: none of probability 0


def _grown(module, args, out: Tensor):
    """An embedding from which gradients begin; not a leaf, which nothing may write to."""
    return out.detach().requires_grad_().clone() if torch.is_grad_enabled() and not out.requires_grad else None


def _started(value):
    fits = isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad and value.ndim > 1
    return value.detach().requires_grad_().clone() if fits else value


def _counted(logits: Tensor, mask: Tensor | None) -> Tensor:
    """bool [B, T]: a token's prediction of one that follows; those after the last token, and by padding, do not count.

    mask: bool [B, T] of what is no padding.
    """
    counts = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    if mask is not None and mask.shape == counts.shape:
        counts &= mask.to(counts.device)
        counts[..., :-1] &= counts[..., 1:].clone()
    if counts.ndim > 1 and counts.shape[-1] > 1:
        counts[..., -1] = False
    return counts
