"""Where a quantized model leaves its own: the error that each layer adds, and what has gathered until there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..activations import as_activations
from ..analysis import marked, versions
from ..model import eager, outputs_of
from ..nvfp4 import as_recipes, as_tensor
from .change import OutputChange, change_of
from .meter import AS_IS, Meter
from .units import Unit

LEAVES_DB = 3.0  # twice the floor's error power: the layer is out of it
BLANK = np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class Drift:
    """Error power by layer and token, float64 [L, T], beside the power of what should have come out.

    Layers stand in the order in which they are called. SQNR in dB is 10 log10(signal / error).
    """

    layers: list[str]  # L names, as called
    signal: np.ndarray  # power of what should have come out
    cumulative: np.ndarray  # with all that is quantized before it
    local: np.ndarray = field(default_factory=lambda: BLANK)  # with only this layer quantized; NaN of whole blocks
    floor: np.ndarray = field(default_factory=lambda: BLANK)  # of bf16 against fp32, nothing quantized
    output: OutputChange | None = None  # what became of the output; None of two recordings
    skipped: dict[str, str] = field(default_factory=dict)  # layer -> why it is not compared
    provenance: dict = field(default_factory=dict)  # model, text, versions

    def sqnr(self, what: str = "cumulative") -> np.ndarray:
        """dB by layer and token, [L, T]; NaN where nothing came out."""
        return _decibels(self.signal, getattr(self, what)) if getattr(self, what).size else BLANK

    def by_layer(self, what: str = "cumulative") -> np.ndarray:
        """dB by layer, over all tokens, [L]; empty where it was not measured."""
        error = getattr(self, what)
        return _decibels(self.signal.sum(1), error.sum(1)) if error.size else np.zeros(0)

    @property
    def leaves(self) -> str | None:
        """The first layer with over twice the error power of the bf16 floor; None without it, or where none has."""
        if not self.floor.size:
            return None
        out = self.by_layer("floor") - self.by_layer() > LEAVES_DB
        return self.layers[int(out.argmax())] if out.any() else None

    def table(self):
        """A pandas DataFrame, a row a layer: SQNR in dB, local, cumulative, and of the floor."""
        import pandas as pd

        columns = {f"{what}_db": self.by_layer(what) for what in ("local", "cumulative", "floor")}
        return pd.DataFrame({"layer": self.layers, **{k: v for k, v in columns.items() if v.size}})

    def __repr__(self) -> str:
        last = f"{self.by_layer()[-1]:.1f} dB at {self.layers[-1]}" if self.layers else "nothing to compare"
        leaves = f"; leaves the bf16 floor at {self.leaves}" if self.leaves else ""
        about = marked(self.provenance.get("recipe", "two recordings"))
        return f"Drift({about}: {len(self.layers)} layers, {self.signal.shape[1]} tokens, {last}{leaves})"


def drift(
    model: nn.Module, batches: Iterable, recipe="4/6-mse-448", *, kept: Iterable[str] = (),
    quantize: str = "all-linear", modules=None, floor: bool = True,
    decode: Callable[[list[int]], str] | None = None, engine: str = "auto",
) -> Drift:  # fmt: skip
    """Follow the error of a quantized model through its depth, token by token, to its output.

    Args:
        model, batches: as for `impact`; the outputs of all layers for one batch are in memory.
        recipe:   one, by name or as a Recipe.
        kept:     units that stay as they are, such as `plan(...).point.kept`.
        quantize, modules: as for `plan`.
        floor:    also run a copy of the model in fp32 (in bf16, of a model in fp32), for the floor of bf16's own
                  rounding; the model is in memory twice meanwhile.
        decode:   token ids -> text, such as `tokenizer.decode`, to show where the top token changes.
    Returns: Drift; `.output` has the change of the output.
    """
    named = as_recipes([recipe])
    name, batches = next(iter(named)), list(batches)
    meter = Meter(model, batches, named, quantize=quantize, modules=modules, engine=engine)
    unknown = sorted(set(kept) - {u.name for u in meter.units})
    if unknown:
        raise ValueError(f"kept={unknown[:3]!r} are no units of this model; they are called {meter.units[0].name!r}")
    variant = meter.variant(name, [i for i, u in enumerate(meter.units) if u.name in set(kept)])
    watch = _Watch(meter, [u for u, f in zip(meter.units, variant, strict=True) if f != AS_IS], name)
    other = copy.deepcopy(model).to(_other_dtype(model)) if floor else None
    changes = []
    with torch.no_grad(), eager():
        for batch in meter.batches:
            with watch.clean():
                before = meter.task.outcomes(batch)
            with watch.against("cumulative", model), meter.swapped(variant):
                after = meter.task.outcomes(batch)
            changes.append((before, after, batch))
            if other is not None:
                given = dict(batch)
                with watch.against("floor", other):
                    other(given.pop("input_ids"), **given)
            changes[-1] = change_of(*changes[-1], decode)
    about = {**meter.provenance, "recipe": name, "kept": sorted(kept), "dtype": str(next(model.parameters()).dtype)}
    return watch.result(OutputChange.joined(changes), meter.skipped, about)


def drift_between(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Drift:
    """Follow how two recordings of the same tokens differ: of two engines, of trainer and server, of two kernels.

    Args: a: layer -> activations [T, K], as `load` or `capture` give them, in the model's order, or its path; b: as a.
    Returns: Drift with `a` as what should be; layers of one recording only, and of other shapes, are in `skipped`.
    """
    a, b = as_activations(a), as_activations(b)
    signal, error, layers = [], [], []
    skipped = {n: "it is in the second recording only" for n in b if n not in a}
    for name in a:
        if name not in b:
            skipped[name] = "it is in the first recording only"
            continue
        x, y = (as_tensor(t[name]) for t in (a, b))
        x, y = (t.reshape(-1, t.shape[-1]).double().cpu() for t in (x, y))
        if x.shape != y.shape:
            skipped[name] = f"it is {list(x.shape)} in one recording and {list(y.shape)} in the other"
            continue
        if layers and len(x) != len(signal[0]):
            skipped[name] = f"it has {len(x)} tokens, {layers[0]} has {len(signal[0])}"
            continue
        layers.append(name)
        signal.append(x.square().sum(-1).numpy())
        error.append((y - x).square().sum(-1).numpy())
    if not layers:
        why = "; ".join(f"{name}: {text}" for name, text in [*skipped.items()][:3])
        raise ValueError(f"the recordings have no layer in common that can be compared: {why}")
    return Drift(layers, np.stack(signal), np.stack(error), skipped=skipped, provenance=versions())


class _Watch:
    """Keeps what layers return for a batch, and sums how later runs differ from it."""

    def __init__(self, meter: Meter, quantized: list[Unit], recipe: str):
        self.meter, self.recipe = meter, recipe
        self.units = {}  # layer -> unit that is quantized there
        for unit in quantized:
            for name in outputs_of(unit.picked):
                self.units[name] = unit
        self.modules = {**_blocks(meter.model), **outputs_of(meter.scheme.choice.observed)}
        self.powers: dict[str, dict[str, list[np.ndarray]]]
        self.powers = {what: {} for what in ("signal", "local", "cumulative", "floor")}
        self._kept: dict[str, Tensor] = {}
        self._busy = False

    @contextlib.contextmanager
    def clean(self):
        """The model as it is: its outputs are kept, and each quantized layer is called once more by itself."""
        self._kept.clear()
        with self._hooked(self.meter.model, self._keep):
            yield

    @contextlib.contextmanager
    def against(self, what: str, model: nn.Module):
        """Another run of the batch, of the model or a copy."""
        seen: set[str] = set()

        def compare(name, module, args, kwargs, y) -> None:
            if name in self._kept and name not in seen:
                seen.add(name)
                self.powers[what].setdefault(name, []).append(_power(_rows(y) - self._kept[name]))

        with self._hooked(model, compare):
            yield

    @contextlib.contextmanager
    def _hooked(self, model: nn.Module, see):
        paths = {m: n for n, m in self.meter.model.named_modules()}
        with contextlib.ExitStack() as undo:
            for name, module in self.modules.items():
                at = module if model is self.meter.model else model.get_submodule(paths[module])
                hook = at.register_forward_hook(
                    lambda m, args, kwargs, y, n=name: see(n, m, args, kwargs, y), with_kwargs=True
                )
                undo.callback(hook.remove)
            yield

    def _keep(self, name, module, args, kwargs, y) -> None:
        if self._busy or name in self._kept:
            return
        rows = self._kept[name] = _rows(y).clone()
        self.powers["signal"].setdefault(name, []).append(_power(rows))
        local = np.full(len(rows), np.nan)
        if name in self.units:
            unit = self.units[name]
            variant = [self.recipe if u is unit else AS_IS for u in self.meter.units]
            self._busy = True
            try:
                with self.meter.swapped(variant):
                    local = _power(_rows(module(*args, **kwargs)) - rows)
            finally:
                self._busy = False
        self.powers["local"].setdefault(name, []).append(local)

    def result(self, output: OutputChange, skipped: Mapping[str, str], about: dict) -> Drift:
        powers = {w: {n: np.concatenate(p) for n, p in rows.items()} for w, rows in self.powers.items()}
        tokens = output.tokens_given
        why, layers = dict(skipped), []
        for name, power in powers["signal"].items():
            fits = len(power) == tokens and len(powers["cumulative"].get(name, ())) == tokens
            layers += [name] * fits
            if not fits:
                why[name] = f"it returned {len(power)} rows for {tokens} tokens, or others when quantized"
        found = {w: np.stack([rows[n] for n in layers]) for w, rows in powers.items() if all(n in rows for n in layers)}
        return Drift(layers, found["signal"], found["cumulative"], found["local"], found.get("floor", BLANK),
                     output, why, about)  # fmt: skip


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder's blocks: the longest list of modules."""
    lists = [(len(m), n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and ".experts" not in n]
    if not lists:
        return {}
    _, name, blocks = max(lists, key=lambda found: found[0])
    return {f"{name}.{i}": m for i, m in enumerate(blocks)}


def _rows(y) -> Tensor:
    y = y[0] if isinstance(y, tuple) else y
    return y.detach().reshape(-1, y.shape[-1]).float()


def _power(rows: Tensor) -> np.ndarray:
    return rows.double().square().sum(-1).cpu().numpy()


def _decibels(signal: np.ndarray, error: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(signal / error)


def _other_dtype(model: nn.Module) -> torch.dtype:
    return torch.bfloat16 if next(model.parameters()).dtype == torch.float32 else torch.float32
