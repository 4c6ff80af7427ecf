"""Who votes on a recipe: each input of a layer once, whatever its tensors are called, and experts by their tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .interval import chosen_row
from .sweep import Sweep

HEADS = ("lm_head", "embed_out", "output_layer", "unembed", "output_projection")  # what makes logits, by its last name
EXPERT = re.compile(r"(.*experts)\.\d+\.(.+)")  # model.layers.3.mlp.experts.7.down_proj
TOO_FEW, UNMEASURED = "it has too few tokens", "it was saved by a release that measured no single tokens"
TOWERS = 0.2  # a token that holds more of a tensor's signal than this is named


@dataclass(frozen=True)
class Voices:
    """The inputs that vote, each by the first of its tensors, and what was left out."""

    weights: dict[str, float]  # tensor -> weight; they sum to 1
    names: dict[str, tuple[str, ...]]  # tensor -> all tensors of that input, itself first
    inputs: int  # experts of a layer that share a projection are one
    left_out: dict[str, str]  # tensor -> why it does not vote
    towers: dict[str, tuple[int, float]]  # tensor -> the token that holds over a fifth of the signal, and its share

    def tokens(self, sweep: Sweep) -> list[int]:
        """Of each tensor's voice; experts that are one have theirs together, by which they share its weight."""
        first = next(iter(sweep.recipes))
        return [round(sweep.stats[t][first].tokens / (w * self.inputs)) for t, w in self.weights.items()]


def voices(sweep: Sweep, head: bool = False) -> Voices:
    """Who votes: tensors with a signal; the output head only where `head`, those of too few tokens only if all are.

    Tensors of the same statistics, as q_proj's, k_proj's and v_proj's inputs have them, are one input. A layer's
    experts are one voice, shared by tokens; where the layer's experts together are there as well, they have it.
    """
    left_out, names = {}, {}
    first_of: dict[tuple, str] = {}
    for tensor, row in sweep.stats.items():
        if not all(0 < s.x_sq < np.inf for s in row.values()):
            left_out[tensor] = "it has no signal" if all(s.x_sq == 0 for s in row.values()) else "its squares overflow"
            continue
        first = first_of.setdefault(_fingerprint(row), tensor)
        names[first] = (*names.get(first, ()), tensor)
    heads = [t for t in names if not head and any(_is_head(n, sweep) for n in names[t])]
    one = {t: next(iter(sweep.stats[t].values())) for t in names}
    old = [t for t in names if one[t].runs_missing]
    few = [t for t in names if t not in old and chosen_row(one[t].run_tokens) is None]
    for tensors, why in ((heads, "the output head is rarely quantized"), (old, UNMEASURED), (few, TOO_FEW)):
        if set(names) - set(tensors):  # where they are all there is, they vote
            left_out |= {name: why for t in tensors for name in names.pop(t, ())}
    weights, inputs = _weights(names, sweep)
    for tensor in [t for t in names if not weights[t]]:
        left_out |= dict.fromkeys(names.pop(tensor), "its layer's experts vote together")
    weights = {t: w for t, w in weights.items() if w}
    return Voices(weights, names, inputs, left_out, _towers(names, sweep))


def _fingerprint(row) -> tuple:
    """The same for two tensors only if their values are, as far as sums tell."""
    first = next(iter(row.values()))
    shape, runs = (first.features, first.tokens, first.nonzero_elements), first.run_tokens[0].tobytes()
    return *shape, first.x_sq, first.x_amax, runs, *((s.err_sq, s.err_abs, s.x_hat_sq) for s in row.values())


def _is_head(name: str, sweep: Sweep) -> bool:
    return name.rpartition(".")[2] in HEADS or name in sweep.provenance.get("heads", ())


def _weights(names: dict[str, tuple[str, ...]], sweep: Sweep) -> tuple[dict[str, float], int]:
    """Weight by tensor, 0 for an expert whose layer's experts have a tensor together; and the number of voices."""
    group, routed = {}, set()
    one = {t: next(iter(sweep.stats[t].values())) for t in names}
    for tensor in names:
        expert = EXPERT.fullmatch(tensor)
        group[tensor] = f"{expert[1]}.{expert[2]}" if expert else tensor
        routed |= {(expert[1], one[tensor].features)} if expert else set()
    together = {g for t, g in group.items() if t == g}
    tokens = {t: s.tokens for t, s in one.items()}
    rivals = {t: g for t, g in group.items() if t == g or g not in together}
    for tensor in names:  # what a block of experts was given, before routing: fc1's experts have the same rows
        if (tensor, one[tensor].features) in routed:
            del rivals[tensor]
    total: dict[str, int] = {}
    for tensor, g in rivals.items():
        total[g] = total.get(g, 0) + tokens[tensor]
    return {t: tokens[t] / (total[group[t]] or 1) / len(total) if t in rivals else 0.0 for t in names}, len(total)


def _towers(names, sweep: Sweep) -> dict[str, tuple[int, float]]:
    found = {}
    for tensor in names:
        s = next(iter(sweep.stats[tensor].values()))
        if s.tokens >= 16 and s.top_token_x_sq > TOWERS * s.x_sq:  # of five tokens, each has a fifth
            found[tensor] = s.top_token, s.top_token_x_sq / s.x_sq
    return found
