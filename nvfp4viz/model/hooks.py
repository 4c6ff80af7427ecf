"""What a running model multiplies: inputs of linear layers, of experts in 3-D parameters, of weights used by hand.

Linear layers are seen by hooks; all else at the matrix product (products.py), from `with` to its end and, in other
threads, while a module that owns such a weight runs. Nothing breaks the model: an input that cannot be taken is let
go of and reported by name, and what was not seen is part of the result (coverage.py).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections import Counter

import torch
from torch import Tensor, nn

from ..nvfp4 import as_tokens
from .choose import Choice, choose, describe, patterns_of, unwrapped
from .coverage import Coverage
from .inputs import computed, eager, local_part, module_input, passed, routing
from .products import Product, Watch
from .rows import Mask, finite, recomputed
from .seen import Known, Rows, Seen, by_expert, counts
from .weights import Weight

PADDING = "{n} rows of padding left out"
NOT_FINITE = "{n} rows with NaN or Inf left out"
UNKNOWN = "{n} rows whose tokens are not known: padding among them was taken"
REASONS = {"padding": PADDING, "not_finite": NOT_FINITE, "unknown": UNKNOWN}


class Observer:
    """Sees inputs as a model runs and hands them to `take`; an input where that fails is let go of."""

    def __init__(self, model: nn.Module | None = None, modules=None, tokens=None):
        self._model, self._modules = model, patterns_of(modules)
        self.problems: dict[str, str] = {}  # name -> why it was let go of
        self.empty = Counter()  # name -> calls that had no token
        self.calls = Counter()  # name -> calls
        self.about: dict = {}  # model's class and modules, for provenance
        self.left_out: dict[str, Counter] = {}  # why -> name -> rows that do not count
        self.elsewhere: dict[str, str] = {}  # name -> who else takes it
        self.ended: str | None = None  # what ended the recording before its time
        self.coverage: Coverage | None = None
        self.mask = Mask(tokens)
        self._known: dict[str, Known] = {}  # name -> what its last input was like
        self._choice: Choice | None = None
        self._handles: dict = {}
        self._undo = contextlib.ExitStack()
        self._lock = threading.RLock()  # nn.DataParallel runs replicas in threads
        self._local = threading.local()

    def __enter__(self):
        self._choice = choice = self._chosen()
        chosen = len(choice.observed) + len(choice.modules)
        self.about = {"model": type(self._model).__name__, "modules": describe(self._modules), "chosen": chosen}
        self.coverage = Coverage(choice)
        self.problems.update(choice.refused)
        try:
            self._attach(unwrapped(self._model), choice)
        except BaseException:
            self.detach()
            raise
        return self

    def _chosen(self) -> Choice:
        return choose(self._model, self._modules)

    def _attach(self, model: nn.Module, choice: Choice) -> None:
        self._undo.enter_context(eager())
        for handle in self.mask.attach(model):
            self._undo.callback(handle.remove)
        by_hand = dict.fromkeys(w.module for w in choice.weights if w.kind in ("stack", "function"))
        for w in choice.weights:
            if w.is_called:
                self._hook(w.name, w.module, self._linear if choice.takes(w) else self._counted, w)
            elif w.kind == "convolution" and not by_hand:
                self._undo.callback(w.module.register_forward_hook(functools.partial(self._convolved, w)).remove)
        for module in by_hand:
            self._undo.callback(module.register_forward_pre_hook(self._entered, with_kwargs=True).remove)
            self._undo.callback(module.register_forward_hook(self._left, always_call=True).remove)
        for name, module in choice.modules.items():
            if module not in choice.stacks():  # experts hand theirs on with their first product
                self._hook(name, module, self._linear, None)
        self._watch = None
        if any(".experts." in w.name for w in choice.weights):  # whose rows are picked
            self.mask.follow = None if by_hand else functools.partial(Watch, [], self._visit, self.mask.gathered)
        if by_hand:
            torch.clear_autocast_cache()  # of weights that were cast before anyone looked
            self._watch = Watch(choice.weights, self._visit, self.mask.gathered, self._took)
            self._undo.enter_context(self._watching())

    def _hook(self, name: str, module: nn.Module, hook, weight: Weight | None) -> None:
        if hook == self._linear:
            self.calls[name] += 0
        self._handles[name] = module.register_forward_pre_hook(functools.partial(hook, name, weight), with_kwargs=True)

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            self.ended = kind.__name__
        self.detach()

    def detach(self) -> None:
        self._undo.close()
        while self._handles:
            self._handles.popitem()[1].remove()

    @contextlib.contextmanager
    def _watching(self):
        """Products of this thread are seen until the end."""
        self._local.watching = True
        try:
            with self._watch:
                yield
        finally:
            self._local.watching = False

    # hooks

    def _linear(self, name, weight, module, args, kwargs) -> None:
        if len(args) != 1 or kwargs or not self._as_before(name, weight, module, args[0]):
            self._counted(name, weight, module, args, kwargs)
            self.observe(name, module, args, kwargs)

    def _as_before(self, name, weight, module, x) -> bool:
        """Take a call whose tensor is like the last one's, which needs no second look; False where it is not."""
        known = self._known.get(name)
        if known is None or type(x) is not Tensor or (x.dtype, x.device, x.shape[-1]) != known.kind or not x.numel():
            return False
        if self.mask.active or recomputed() or torch.is_autocast_enabled(known.device_type):
            return False  # rows are left out, or cast
        with torch._C.DisableTorchFunction(), self._lock:
            rows = (x.detach() if x.requires_grad else x).reshape(-1, known.kind[2])  # without a graph
            if known.checks and not finite(rows):
                return False
            self._local.module = module
            if weight is not None:
                self.coverage.add(weight, rows.shape[0], *weight.shape[-2:])
            self.calls[name] += 1
            try:
                self.take(Seen(name, rows, x, self.calls[name] - 1, known.shape, read=as_tokens))
            except Exception as error:
                self._let_go(name, str(error) or type(error).__name__)
        return True

    def _counted(self, name, weight, module, args, kwargs) -> None:
        self._local.module = module  # its product is the next one, and this call stands for it
        if weight is None or recomputed():
            return
        with torch._C.DisableTorchFunction(), self._lock:
            x = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim), None)
            if x is not None and x.shape[-1]:
                self.coverage.add(weight, x.numel() // x.shape[-1], *weight.shape[-2:])

    def _convolved(self, weight, module, args, out) -> None:
        if isinstance(out, Tensor) and not recomputed():
            with torch._C.DisableTorchFunction(), self._lock:
                n = module.out_channels
                self.coverage.add(weight, out.numel() // n, n, module.weight.numel() // n)

    def _entered(self, module, args, kwargs) -> None:
        if not hasattr(self._local, "inside"):
            self._local.inside = []
        mode = None
        if self._watch is not None and not self._local.inside and not getattr(self._local, "watching", False):
            mode = self._watch  # a thread that `with` was not entered in
            mode.__enter__()
        self._local.inside.append([module, (args, kwargs), mode, routing(args, kwargs)])

    def _left(self, *_) -> None:
        if getattr(self._local, "inside", None):
            mode = self._local.inside.pop()[2]
            if mode is not None:
                mode.__exit__(None, None, None)

    def observe(self, name: str, module: nn.Module, args, kwargs=None) -> None:
        """Take one call's input; never raises but for an interrupt."""
        if name in self.problems or recomputed():
            return
        try:
            with torch._C.DisableTorchFunction(), self._lock, torch.no_grad():
                self.calls[name] += 1
                label, x = local_part(name, module_input(module, args, kwargs), module)
                given = passed(args, kwargs)  # with its gradient's history, which a cast made here has not
                if x is not None:
                    n = getattr(module, "out_features", None)
                    shape = (n, x.shape[-1]) if n else ()
                    self._take(Rows(as_tokens(x)), label, name, given, shape, as_tokens)
                    if len(args) == 1 and args[0] is x and type(x) is Tensor and label == name:
                        self._known[name] = Known.of(x, shape, self.checks(x))
        except Exception as error:
            self._let_go(name, str(error) or type(error).__name__)

    def observe_rows(self, label: str, x: Tensor) -> None:
        """Take rows [M, K] that were worked out elsewhere; never raises but for an interrupt."""
        if label in self.problems:
            return
        try:
            with self._lock, torch.no_grad():
                self.calls[label] += 1
                self._take(Rows(as_tokens(x)), label, label, x, (), as_tokens)
        except Exception as error:
            self._let_go(label, str(error) or type(error).__name__)

    # the mode

    def _visit(self, product: Product) -> None:
        w = product.weight
        if recomputed():
            return
        if w.is_called and getattr(self._local, "module", None) is w.module:
            self._local.module = None  # a hook has seen it
            return
        name = w.label(product.expert) + product.part
        try:
            with torch._C.DisableTorchFunction(), self._lock, torch.no_grad():
                self._product(product, name)
        except Exception as error:
            self._let_go(name, str(error) or type(error).__name__)

    def _took(self, weight: Weight, function: str, out) -> None:
        if not recomputed():
            with torch._C.DisableTorchFunction(), self._lock:
                self.coverage.took(weight, function, out)

    def _product(self, product: Product, name: str) -> None:
        w, choice = product.weight, self._choice
        block = next((b for b in reversed(getattr(self._local, "inside", ())) if b[0] is w.module), None)
        rows = by_expert(product, block and block[3])
        self.coverage.add(w, counts(rows), product.outputs, product.features, product.expert)
        choice.settle(w, product.outputs)
        if block is not None and block[1] is not None and w.kind == "stack":
            self._serve(block, product)
        if not choice.takes(w, product.expert) or name in self.problems:
            return
        self.calls[name] += 1
        rows.x = computed(rows.x, product)
        labels = None if rows.offsets is None else choice.labels(w)
        self._take(rows, name, name, product.given, (product.outputs, product.features), product.like, labels)

    def _serve(self, block: list, product: Product) -> None:
        """What experts were called with, once a token, as an engine quantizes it before routing."""
        module, (args, kwargs), *_ = block
        block[1] = None
        name = next((n for n, m in self._choice.modules.items() if m is module), None)
        if name is None or name in self.problems:
            return
        given = module_input(module, args, kwargs)
        x = as_tokens(given)
        if x.shape[1] == product.features and not (product.dense and x.shape[0] == product.count):
            self.calls[name] += 1
            self._take(Rows(computed(x, product)), name, name, given, (), as_tokens)

    def _take(self, rows: Rows, label: str, name: str, given, shape, read, labels=None) -> None:
        """Leave out what does not count, and hand the rest on."""
        if not rows.x.shape[0]:
            self.empty[name] += 1
            return
        if self.mask.active:
            every = read(given)  # [M, K], before any were sorted or left out
            like = given if given.shape[-1:] == every.shape[-1:] else every
            keep = self.mask.counted(like, len(every), name.rpartition(".")[0])
            rows = self._leave(rows, keep if keep is None or rows.picked is None else keep[rows.picked], label, PADDING)
        if self.checks(rows.x) and not finite(rows.x):
            rows = self._leave(rows, rows.x.isfinite().all(-1), label, NOT_FINITE)
        if rows.x.shape[0]:
            kind = rows.x.device.type
            casts = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
            with casts:
                call = self.calls[name] - 1
                self.take(Seen(label, rows.x, given, call, shape, labels, rows.offsets, rows.read(read)))

    def checks(self, x: Tensor) -> bool:
        """Whether rows of x with NaN or Inf are looked for here, which waits for a device."""
        return True

    def _leave(self, rows: Rows, keep: Tensor | None, label: str, why: str) -> Rows:
        if keep is None:
            why, n = UNKNOWN, len(rows.x)
        else:
            n = len(rows.x) - int(keep.sum())
        if n:
            self.left_out.setdefault(why, Counter())[label] += n
        return rows if keep is None or not n else rows.kept(keep)

    def _let_go(self, name: str, why: str) -> None:
        known = why in self.problems.values()
        self.problems[name] = why
        self._known.pop(name, None)
        if self._choice is not None and name in self._choice.modules and name in self._handles:  # counted by nobody
            self._handles.pop(name).remove()
        if not known:  # one warning a reason, not one a layer
            with contextlib.suppress(Warning):  # where warnings are errors, `problems` still tells
                text = f"module {name!r} is no longer observed: {why}; more modules with this reason go unannounced"
                warnings.warn(text, stacklevel=3)

    def take(self, seen: Seen) -> None:
        """seen.x: [M, K], at least one token."""
        raise NotImplementedError

    def remarks(self) -> dict[str, str]:
        """Name -> what kept it, or some of its calls or rows, from being taken."""
        found = {name: f"called {self.calls[name]} times, {n} of them with 0 tokens" for name, n in self.empty.items()}
        found |= {name: "was not called" for name, n in self.calls.items() if not n}
        if self.coverage is not None:
            found |= self.coverage.unrouted()
        for why, names in self.left_out.items():
            for name, n in names.items():
                found[name] = (found[name] + "; " if name in found else "") + why.format(n=n)
        return self.elsewhere | found | self.problems

    def result(self) -> dict:
        """For provenance: what was seen of the model, what was left out, and whether it broke off."""
        about = dict(self.about)
        if self.coverage is not None:
            about["coverage"] = self.coverage.to_dict(self.problems)
        if self.left_out:
            about["left_out"] = {key: sum(self.left_out.get(why, {}).values()) for key, why in REASONS.items()}
        partial = {
            n: why for n, why in self.problems.items() if self.calls[n] and n not in self.about.get("refused", ())
        }
        if self.ended or partial:
            about["partial"] = ([f"the block ended with {self.ended}"] if self.ended else []) + [
                f"{name}: {why}" for name, why in partial.items()
            ]
        return about
