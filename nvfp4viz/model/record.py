"""`record` streams the activations of a running model into statistics and keeps none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from ..analysis import EXPERT, SHORTEST_SEQUENCE, Sweep, coverage_sentence, versions
from ..engine import Pending, Ready, analyze_all, choose, find_engine
from ..nvfp4 import RECIPES, Tokens, some_recipes
from ..shown import percent, quantity
from ..shown import table as html_table
from .gradients import Gradients
from .hooks import NOT_FINITE, Observer
from .inputs import rank
from .streams import Streams


class Recorder(Observer):
    """Statistics of module inputs, added up as the model runs; made by `record`."""

    def __init__(
        self,
        model=None,
        modules=None,
        recipes=RECIPES,
        *,
        engine="auto",
        tokens=None,
        first_token: int | None = None,
        sensitivity: bool = False,
        seed: int = 0,
    ):
        super().__init__(model, modules, tokens)
        self.recipes = some_recipes(recipes)
        if engine != "auto":
            find_engine(engine)  # a misspelt engine is the caller's mistake, not a module's
        self.engine = engine
        self._asked = list(self.recipes.values())
        self.gradients = Gradients(self._asked, 1, seed, engine) if sensitivity else None
        self._per_token = all(r.per_token for r in self.recipes.values())
        self._streams = Streams(self._analyze, collect=self._per_token)
        self._stacks: dict[str, tuple] = {}  # a stack of experts -> its labels, and the statistics of all its experts
        self._order: dict[str, bool] = {}  # labels as they first came: whether rows of several sequences are mixed
        self._engines: dict = {}
        self._left_out = Counter()  # label -> rows that an engine left out
        self._sequences = Counter()  # label -> sequences that began
        self.seek(_rank_offset() if first_token is None else first_token)

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._streams.rest()

    def seek(self, token: int) -> None:
        """Say which place in the whole stream the next token has, for all modules: which run it belongs to."""
        self._first, self._seen = token, Counter()
        for _, total in self._stacks.values():
            total.seek(token)

    def _attach(self, model, choice) -> None:
        super()._attach(model, choice)
        if self.gradients is not None:
            self._undo.enter_context(self.gradients.attached(model, choice))

    def take(self, seen):
        if self.gradients is not None:
            self.gradients.watch(seen)
        if seen.offsets is None:
            self._add(seen.name, seen.x, seen.given)
        elif not self.checks(seen.x) and hasattr(self._engine(seen.x), "launch_segments"):
            self._add_experts(seen)
        else:
            for label, x in seen.parts():
                self._add(label, x)

    def checks(self, x):
        return self.gradients is not None or not self._per_token or not self._engine(x).leaves_out

    def _add_experts(self, seen) -> None:
        """One more call's rows of all experts, in one launch: nothing waits to know how many each of them has."""
        self._order[seen.name] = True
        labels, total = self._stacks.get(seen.name, (seen.labels, None))
        ends = torch.nn.functional.pad(seen.offsets, (1, 0)).to(torch.int32)
        found = self._engine(seen.x).launch_segments(seen.x, ends, self._asked, total, self._first)
        self._stacks[seen.name] = labels, found

    def _add(self, label: str, x: Tensor, given: Tensor | None = None) -> None:
        """One more call's rows; `given` where the next call may have the same."""
        if label not in self._order:
            self._order[label] = given is None or EXPERT.fullmatch(label) is not None
        seen, sequences = self._seen[label], None if self._order[label] else self._begun(label, x, given)
        self._streams.add(label, x, x if given is None else given, self._first + seen, sequences)
        self._seen[label] = seen + x.shape[0]

    def _begun(self, label: str, x: Tensor, given: Tensor) -> tuple[int, int]:
        """Where these rows stand among the recorded sequences, see `Tokens`.

        A row of a batch is a sequence, and so is a call where the batch's rows cannot be told apart; single tokens, as
        in decoding, and parts too short to be draws of their own go on with the one before.
        """
        m, begun = x.shape[0], self._sequences[label]
        length = given.shape[-2] if given.ndim > 2 and given.numel() == x.numel() else m
        if length < SHORTEST_SEQUENCE:
            return (max(begun - 1, 0) * m, m)
        self._sequences[label] = begun + m // length
        return begun * length, length

    def _engine(self, x: Tensor):
        """Who analyses tensors like x."""
        kind = x.dtype, x.device
        if kind not in self._engines:
            self._engines[kind] = choose(self.engine, x, self._asked)
        return self._engines[kind]

    def _analyze(self, x: Tensor, first: int, sequences: tuple[int, int] | None, total: Pending | None) -> Pending:
        """`total` and the statistics of rows x; on a GPU they stay there, so that the model does not wait for them."""
        engine = self._engine(x)
        if engine.device(x) == x.device:
            return engine.launch(Tokens(x, first, sequences), self._asked, [None] * len(self._asked), total)
        found = Ready(analyze_all(x, self._asked, engine=self.engine, first_token=first, sequences=sequences))
        return found if total is None else total + found

    def _stats(self) -> dict:
        found, totals = {}, self._streams.totals()
        for name in self._order:
            if name in self._stacks:
                labels, total = self._stacks[name]
                for label, (stats, left_out) in zip(labels, total.fetch_all(), strict=True):
                    if label is not None:
                        self._found(found, label, stats, left_out)
            elif name in totals:
                try:
                    self._found(found, name, totals[name].fetch(), totals[name].left_out)
                except ValueError as error:  # NaN or Inf, which a GPU's launch notices without saying so
                    self._let_go(name, str(error))
        return found if self.gradients is None else self._predicted(found)

    def _found(self, into: dict, label: str, stats: list, left_out: int) -> None:
        if stats[0].tokens:
            into[label] = dict(zip(self.recipes, stats, strict=True))
        if new := left_out - self._left_out[label]:
            self.left_out.setdefault(NOT_FINITE, Counter())[label] += new
            self._left_out[label] = left_out

    def _predicted(self, stats: dict) -> dict:
        """The statistics with the KL that was predicted of them; layers that read one input all have its KL."""
        g = self.gradients
        for first, sums in g.sums.items():
            for label in g.names[first]:
                for name, kl in zip(self.recipes if label in stats else (), sums, strict=False):
                    stats[label][name] = replace(stats[label][name], kl=kl, kl_tokens=g.tokens)
        return stats

    def sweep(self) -> Sweep:
        """What was recorded so far. Modules that gave nothing are in `.skipped`; provenance has what else went wrong.

        Raises ValueError where nothing was recorded.
        """
        stats, remarks = self._stats(), self.remarks()
        if not stats:
            why = "; ".join(f"{name}: {text}" for name, text in list(remarks.items())[:5]) or "no module was called"
            raise ValueError(f"nothing was recorded: {why}. Hooks do not run in a replayed CUDA graph")
        return self._sweep(stats, remarks)

    def _sweep(self, stats: dict, remarks: dict) -> Sweep:
        skipped = {name: text for name, text in remarks.items() if name not in stats}
        partly = {name: text for name, text in remarks.items() if name in stats}
        about = {**versions(), **self.result(), "sources": [], "remarks": partly}
        if self.gradients is not None:
            about["sensitivity"] = (
                self.gradients.problem or f"over {quantity(self.gradients.tokens, 'token')} predicted"
            )
        if experts := self.tokens_by_expert(stats):
            about["experts"] = experts
        return Sweep.of(stats, self.recipes, about, skipped)

    def __repr__(self) -> str:
        seen = coverage_sentence(self.result().get("coverage"))
        return f"Recorder({self.recorded} inputs{': ' + seen if seen else ''}; .sweep() has the statistics)"

    def _repr_html_(self) -> str:
        about = self.result().get("coverage") or {}
        missed = [(n, lost["why"], percent(lost["share"])) for n, lost in about.get("unobserved", {}).items()]
        head = ("not observed", "why", "of multiply-adds") if missed else ()
        return html_table("Recorder", missed, head, repr(self))

    def tokens_by_expert(self, stats: dict | None = None) -> dict[str, list[int]]:
        """Of each stack of experts that is recorded, the rows that each expert had."""
        stats, name = self._stats() if stats is None else stats, next(iter(self.recipes))
        stacks = [w for w in self._choice.observed if w.kind == "stack"] if self._choice else []
        return {w.name: [stats[n][name].tokens if n in stats else 0 for n in w.labels()] for w in stacks}

    @property
    def recorded(self) -> int:
        """How many inputs there is something of."""
        return len(self._streams) + sum(label is not None for labels, _ in self._stacks.values() for label in labels)

    def layers(self) -> Sweep:
        """What was recorded, all experts of a layer added up: `model.layers.3.mlp.experts.down_proj`.

        The input of fc1 as it is served, once a token before routing, is there under the block's own name.
        """
        sweep = self.sweep()
        stats = dict(sweep.stats)
        for w in self._choice.observed if self._choice else ():
            rows = [stats.pop(label) for label in w.labels() if label in stats] if w.kind == "stack" else []
            if rows:
                stats[w.name] = {name: reduce(add, (row[name] for row in rows)) for name in self.recipes}
        return Sweep.of(stats, self.recipes, sweep.provenance, sweep.skipped)

    def all_reduce(self, group=None) -> Sweep:
        """The statistics of all ranks of a torch.distributed group (gloo or nccl) together; every rank must call it.

        Where each rank runs tokens of its own (data parallel, FSDP) it equals one process over all tokens: counts
        exactly, sums but for rounding, runs too if each rank said with `seek` where its tokens belong.
        The recorder itself stays as it is.
        """
        from .ranks import all_reduce

        stats = self._stats()
        mine = None if self.coverage is None else self.coverage.counted(self.problems)
        stats, remarks, coverage = all_reduce(stats, self.recipes, self.remarks(), mine, group)
        sweep = self._sweep(stats, remarks)
        return sweep if coverage is None else replace(sweep, provenance=sweep.provenance | {"coverage": coverage})


def _rank_offset() -> int:
    """Token indices for each rank that no other has, so that ranks draw independently."""
    return rank() * (2**32 // torch.distributed.get_world_size()) if rank() else 0


def record(
    model: nn.Module,
    modules=None,
    recipes=RECIPES,
    *,
    engine: str = "auto",
    tokens=None,
    first_token: int | None = None,
    sensitivity: bool = False,
    seed: int = 0,
):
    """Stream the inputs of a model's matrix products into statistics while it runs; no activation is kept.

        with nvfp4viz.record(model, "*.down_proj") as recorder:
            model(input_ids)
        recorder.sweep().table()

    Args:
        modules:     a name pattern or several, a predicate (name, module) -> bool, or None for all linear layers and
                     experts but routers, gates and matrices of fewer than 16 outputs. Experts have names as in a
                     checkpoint, `model.layers.3.mlp.experts.7.down_proj`, fused or not; `model.layers.3.mlp.experts` is
                     what they share, once a token before routing.
        recipes:     as for `sweep`; a per-tensor recipe takes its scale from each call's own amax.
        tokens:      which tokens count: bool [B, T], or a function (args, kwargs) -> bool [B, T] of the model's call;
                     where it is None, those that the call's `attention_mask` says.
        first_token: place of the first token in a stream that several processes share (`Recorder.seek` sets it for a
                     batch); by default ranks of torch.distributed get ranges that do not meet.
        sensitivity: also predict the KL of the output by input and recipe, `predicted_kl` in the table: each call goes
                     forward with gradients of activations and back once, see `nvfp4viz.sensitivity`; `seed` draws the
                     labels. The model is called plainly or under torch.no_grad().
    Returns: Recorder, a context manager; an input that cannot be taken is let go of, with a warning. The sweep's
    provenance has what else was not seen: `coverage`, `left_out` (padding, rows with NaN), `partial`.
    Raises ValueError where no module fits or a recipe or engine is unknown, TypeError for what is no model.
    """
    place = {"tokens": tokens, "first_token": first_token}
    return Recorder(model, modules, recipes, engine=engine, **place, sensitivity=sensitivity, seed=seed)
