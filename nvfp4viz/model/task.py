"""What a model's output is, and how two outputs of a batch differ: next tokens of a language model, or others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .hooks import Observer
from .inputs import logits_of
from .outputs import RUN
from .presets import Plan

CHUNK = 128  # positions whose probabilities are compared at a time
PROBE = 16  # tokens of the check that the model looks at none to come


class Task:
    """Batches -> outcomes [B, T, C], one distribution a position; and what counts of them.

    forward(model, batch) -> outcomes as logits, loss(outcomes, batch) -> losses, of what is no causal language model.
    """

    def __init__(self, model: nn.Module, forward: Callable | None, loss: Callable | None):
        if loss is not None and forward is None:
            raise ValueError("loss= is given without forward=: forward(model, batch) returns what loss is of")
        self.model, self.forward, self.loss = model, forward, loss

    def batches(self, batches: Iterable) -> list:
        if self.forward is not None:
            found = list(batches)
            if not found:
                raise ValueError("batches is empty: give at least one")
            return found
        if isinstance(batches, (Tensor, Mapping)):
            raise TypeError("batches is one batch: give a list of batches, [batches]")
        found = [b if isinstance(b, Mapping) else {"input_ids": b} for b in batches]
        for ids in (b.get("input_ids") for b in found):
            if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
                seen = describe(ids) if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
                raise TypeError(f"a batch is {seen}: give token ids, int [B, T], as a tokenizer makes of text")
        if not found or min(b["input_ids"].shape[-1] for b in found) < 2:
            raise ValueError("no token is predicted: batches are token ids, int [B, T], with T at least 2")
        return found

    def outcomes(self, batch) -> Tensor:
        """[B, T, C] as logits."""
        if self.forward is not None:
            out = self.forward(self.model, batch)
            if not isinstance(out, Tensor) or out.ndim < 2:
                raise ValueError(f"forward returned {describe(out)}: expected logits [..., C]")
            return out.reshape(1, *out.shape) if out.ndim == 2 else out.flatten(1, -2)
        given = dict(batch)
        out = self.model(given.pop("input_ids"), **given)
        out = logits_of(out)
        if out is None or out.ndim != 3 or out.shape[1] != batch["input_ids"].shape[1]:
            raise ValueError(
                f"the model returned {describe(out)}, not logits [B, T, V] of each token: it is no causal language "
                "model; give forward= (and loss=)"
            )
        return out

    def check(self, batch) -> None:
        """ValueError for a model whose output at a token depends on tokens behind it: a loss of the next is none.

        Models of Hugging Face whose class is not of a causal model are asked, by changing the last token.
        """
        kind = type(self.model).__name__
        causal = kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
        if self.forward is not None or causal or not hasattr(self.model, "config") or len(batch) > 2:
            return
        ids = batch["input_ids"][:1, :PROBE]
        other = ids.clone()
        other[:, -1] = ids[:, 0] if int(ids[0, 0]) != int(ids[0, -1]) else (ids[:, -1] - 1).abs()
        a, b = (self.outcomes({"input_ids": x})[:, :-1].float() for x in (ids, other))
        noise = 32 * torch.finfo(next(self.model.parameters()).dtype).eps * float(a.abs().max())
        if kind.endswith("ForMaskedLM") or not torch.allclose(a, b, rtol=0, atol=noise):
            raise ValueError(
                f"{kind} looks at tokens to come: it is no causal language model, and its loss of the next token is no "
                "perplexity; give forward= (and loss=)"
            )

    def before(self, batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the model as it is, and bool [B, T] of the batch's tokens, False for padding."""
        outcomes = self.outcomes(batch)
        mask = batch.get("attention_mask") if isinstance(batch, dict) and self.forward is None else None
        every = torch.ones(outcomes.shape[:2], dtype=torch.bool)
        return self.log_probabilities(outcomes), every if mask is None else mask.bool()

    def log_probabilities(self, outcomes: Tensor) -> Tensor:
        """float32 [B, T, C] of what is compared: of a language model, the tokens that follow."""
        used = outcomes if self.forward is not None else outcomes[:, :-1]
        return torch.log_softmax(used.float(), -1)

    def _losses(self, batch, p: Tensor) -> Callable[[Tensor, slice, int], Tensor]:
        """A function of log-probabilities of row b, a slice of positions: float64 [n]."""
        if self.forward is None:
            targets = batch["input_ids"][:, 1:]
            return lambda q, at, b: -q.gather(-1, targets[b, at, None].to(q.device)).squeeze(-1).double()
        return lambda q, at, b: torch.full(q.shape[:1], math.nan, dtype=torch.float64, device=q.device)

    def _counts(self, batch, p: Tensor) -> Tensor:
        """bool [B, T]: of a language model, targets that are tokens and follow one, since padding predicts nothing."""
        mask = batch.get("attention_mask") if isinstance(batch, dict) else None
        if self.forward is None:
            every = torch.ones_like(batch["input_ids"][:, 1:], dtype=torch.bool)
            return every if mask is None else mask[:, 1:].bool() & mask[:, :-1].bool()
        return torch.ones(p.shape[:2], dtype=torch.bool, device=p.device)

    def nats(self, before: Tensor, outcomes: Tensor, batch) -> float:
        """The KL alone, summed over all positions that count."""
        counts, total = self._counts(batch, before), 0.0
        for b in range(before.shape[0]):
            for i in range(0, before.shape[1], CHUNK):
                at = slice(i, i + CHUNK)
                kl = _divergence(before[b, at], torch.log_softmax(outcomes[b, : before.shape[1]][at].float(), -1))
                total = total + kl.where(counts[b, at].to(kl.device), 0.0).sum()
        return float(total)

    def by_run(self, before: Tensor, outcomes: Tensor, batch, first: int = 0) -> Iterator[list[float]]:
        """For each run of positions: its sequence, their number, loss before and after, KL and agreement, summed.

        first: number of the batch's first sequence.
        """
        counts, losses = self._counts(batch, before), self._losses(batch, before)
        after = outcomes if self.forward is not None else outcomes[:, :-1]
        own = self.loss and [self.loss(o, batch).reshape(before.shape[:2]).double() for o in (before, outcomes)]
        for b in range(before.shape[0]):
            columns = []
            for i in range(0, before.shape[1], CHUNK):
                at = slice(i, i + CHUNK)
                p, q = before[b, at], torch.log_softmax(after[b, at].float(), -1)  # [c, C]
                kl = _divergence(p, q)
                same = (p.argmax(-1) == q.argmax(-1)).double()
                loss = [t[b, at].to(kl.device) for t in own] if own else [losses(x, at, b) for x in (p, q)]
                valid = counts[b, at, None].to(p.device)
                columns.append(torch.stack([torch.ones_like(kl), *loss, kl, same], 1).where(valid, 0.0))
            for run in torch.cat(columns).split(RUN):
                if run[:, 0].any():
                    yield [first + b, *run.sum(0).tolist()]


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Nats by position, float64 [...], of log-probabilities [..., C]."""
    return (p.exp() * (p - q)).sum(-1, dtype=torch.float64)


def describe(out) -> str:
    if isinstance(out, Tensor):
        return f"a tensor {list(out.shape)}"
    return f"a {type(out).__name__}"


class Survey(Observer):
    """Counts multiply-adds and takes nothing."""

    def __init__(self, plan: Plan, model: nn.Module):
        super().__init__(model)
        self._plan = plan

    def _chosen(self):
        return self._plan.choice

    def _take(self, *_, **__) -> None:
        pass

    def _let_go(self, name: str, why: str) -> None:
        self.problems[name] = why  # `impact` says it
