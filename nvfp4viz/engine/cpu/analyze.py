"""From rows of x to the statistics of several recipes in one pass: what they share is computed once.

A candidate is one way to scale blocks: a ceiling's 6, or its 4. Recipes that differ in how they choose share both, and
`standard` shares its ceiling's 6, tile by tile, wherever the two formulas of a block scale give the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .choose import choose, trust
from .evaluate import Candidates, careful, encode, energies, is_ordinary, new_candidates, sum_errors, sum_wide_errors
from .numbers import inlined, jit, kernel, spliced
from .runs import add_to_runs, describe_tokens
from .scales import Candidate, Rules, Scales, new_scales, scale_blocks, scale_tokens, spread
from .tally import (
    Chosen,
    add_to_tokens,
    count_block_ratios,
    count_blocks,
    count_codes,
    count_elements,
    count_token_ratios,
    find_largest,
    new_chosen,
    sum_chosen,
)  # fmt: skip
from .tile import BLOCK, FP32, LANES, Tile, fill, new_tile, row_amax


class Plan(NamedTuple):
    """Recipes as `analyze` wants them."""

    flags: np.ndarray  # bool [recipes, 5]: the flags of Rules
    floats: np.ndarray  # float32 [recipes, 6]: its numbers
    rcp_table: np.ndarray
    six: np.ndarray  # int64 [recipes]: which candidate its 6 is
    four: np.ndarray  # int64 [recipes]: and its 4; the same where it has none
    rule: np.ndarray  # int64 [candidates]: the recipe that says how
    factor: np.ndarray  # float32 [candidates]: 1, or 1.5 for 4
    like: np.ndarray  # int64 [candidates]: an earlier one that mostly is the same, or itself


class Few(NamedTuple):
    """What the scores of a tile in doubt are computed with: float32 [LANES]."""

    unit: np.ndarray
    scale: np.ndarray
    output_scale: np.ndarray
    diff: np.ndarray
    error: np.ndarray
    scores: np.ndarray  # float32 [2, LANES]
    slack: np.ndarray  # float64 [LANES]: of all blocks, see `choose.trust`


@jit
def new_few():
    one = np.empty((5, LANES), np.float32)
    return Few(one[0], one[1], one[2], one[3], one[4], np.empty((2, LANES), np.float32), np.empty(LANES))


@spliced
def rules_of(plan, r):
    f, n = plan.flags[r], plan.floats[r]
    return Rules(f[0], f[1], f[2], f[3], f[4], n[0], n[1], n[2], n[3], n[4], n[5], plan.rcp_table)


@inlined
def scale_candidate(tile, lanes, plan, c, candidates):
    """Scale a tile's blocks by candidate c; returns which candidate is the same, an earlier one or itself."""
    own = Candidate(
        candidates.h[c], candidates.scale[c], candidates.byte[c], candidates.output_scale[c], candidates.decode[c],
        candidates.decode[c],
    )  # fmt: skip
    scale_blocks(tile.bmax, lanes, rules_of(plan, plan.rule[c]), plan.factor[c], own)
    like, different = plan.like[c], np.int32(0)
    for i in range(LANES):
        candidates.decode[c, i] = lanes.decode[i]
        different = np.int32(different + np.int32(candidates.byte[c, i] != candidates.byte[like, i]))
    return like if different == 0 else c


@inlined
def evaluate(tile, lanes, plan, kind, c, candidates, small):
    """Candidate c of a tile; returns which candidate has its numbers."""
    same = scale_candidate(tile, lanes, plan, c, candidates)
    if same != c:
        return same
    x, scale, output_scale, decode = tile.x, candidates.scale[c], candidates.output_scale[c], candidates.decode[c]
    counts, sums = candidates.counts[c], candidates.sums[c]
    if not is_ordinary(tile.bmax, scale, output_scale, decode):
        careful(x, output_scale, scale, decode, counts, sums)
        return c
    encode(x, output_scale, scale, decode, kind == FP32, counts, candidates.scratch)
    if kind == FP32:
        sum_wide_errors(x, candidates.scratch, sums)
    else:
        sum_errors(candidates.scratch, sums)
    energies(decode, scale, counts, tile.nonzero, tile.x_sq, sums, small)
    return c


@inlined
def record(tile, n, r, found, plan, candidates, chosen, s, tally, token_err_sq):
    """Add a tile to recipe r's statistics; found[c] is where candidate c's numbers are."""
    c, own6, own4 = candidates, plan.six[r], plan.four[r]
    six, four, four_over_six, counts = found[own6], found[own4], plan.flags[r, 0], tally.counts[s, r]
    sum_chosen(chosen.is_four, c.sums[six], c.sums[four], chosen.err_sq, tally.sums[s, r])
    add_to_tokens(chosen.err_sq, tile.token, token_err_sq)
    count_block_ratios(n, chosen.err_sq, tile.x_sq, chosen.place, tally.block_bins[s, r])
    count_elements(chosen.is_four, c.counts[six], c.counts[four], counts)
    count_codes(chosen.is_four, c.counts[six], c.counts[four], tile.bmax, four_over_six, n, tally.codes[s, r])
    scales = c.h[own6], c.h[own4], c.byte[own6], c.byte[own4]
    count_blocks(n, chosen.is_four, four_over_six, *scales, chosen.place, counts, tally.scales[s, r])
    bits, largest = c.sums.view(np.int64), tally.sums[s, r, 4:].view(np.int64)
    largest[0] = find_largest(chosen.is_four, bits[six], bits[four], largest[0])


class Tokens(NamedTuple):
    """What is known of rows: amax float32 [rows], x_sq float64 [rows], the rest by recipe."""

    amax: np.ndarray
    x_sq: np.ndarray
    err_sq: np.ndarray  # float64 [recipes, rows]
    slack: np.ndarray  # float64 [recipes, rows], see `choose.trust`
    scales: np.ndarray  # float32 [recipes, 4, rows]: `Scales`


class Work(NamedTuple):
    """What a tile is worked on with."""

    tile: Tile
    lanes: Scales
    candidates: Candidates
    found: np.ndarray  # int64 [candidates]: which one has a candidate's numbers
    small: np.ndarray  # int32 [LANES]
    chosen: Chosen
    doubts: np.ndarray  # int32 [LANES]: blocks in doubt
    few: Few


@jit
def new_work(n):
    small, doubts, found = np.empty(LANES, np.int32), np.empty(LANES, np.int32), np.empty(n, np.int64)
    return Work(new_tile(), new_scales(LANES), new_candidates(n), found, small, new_chosen(), doubts, new_few())


@jit
def new_tokens(amax, plan):
    rows, recipes = amax.shape[0], plan.six.shape[0]
    by_recipe, scales = (recipes, rows), np.empty((recipes, 4, rows), np.float32)
    tokens = Tokens(amax, np.zeros(rows), np.zeros(by_recipe), np.empty(by_recipe), scales)
    scale_all(tokens, plan)
    return tokens


@kernel
def scale_all(tokens, plan):
    for r in range(plan.six.shape[0]):
        scales, rules = scales_of(tokens, r), rules_of(plan, r)
        scale_tokens(tokens.amax, rules, scales)
        trust(tokens.amax, scales, rules, tokens.slack[r])


@jit
def analyze(memory, halves, stride, kind, features, ends, firsts, place, plan, tally):
    """Statistics of rows of x, each `stride` int32 words after the one before, in segments that end at rows `ends`.

    firsts: int64 [segments], each one's first row in its stream; place: `at` of row 0 and length of sequences, or 0.
    Adds to `tally`. False if a value is not finite.
    """
    amax = np.empty(ends[-1], np.float32)
    if not row_amax(memory, halves, stride, kind, features, amax):
        return False
    tokens, work, start = new_tokens(amax, plan), new_work(plan.rule.shape[0]), 0
    for s in range(ends.shape[0]):
        count_segment(memory, stride, kind, features // BLOCK, start, ends[s], plan, tokens, work, s, tally)
        finish(tokens, start, ends[s], firsts[s], place, work.chosen, s, tally)
        start = ends[s]
    return True


@kernel
def count_segment(memory, stride, kind, row_blocks, start, end, plan, tokens, work, s, tally):
    """Add the blocks of rows `start` to `end`, a tile at a time, to segment s."""
    tile, chosen, found = work.tile, work.chosen, work.found
    for first in range(start * row_blocks, end * row_blocks, LANES):
        n = min(LANES, end * row_blocks - first)
        fill(memory, stride, kind, row_blocks, first, n, tile)
        add_to_tokens(tile.x_sq, tile.token, tokens.x_sq)
        count_nonzero(tile, tally.shared[s])
        for c in range(found.shape[0]):
            spread(scales_of(tokens, plan.rule[c]), tile.token, work.lanes)
            found[c] = evaluate(tile, work.lanes, plan, kind, c, work.candidates, work.small)
        for r in range(plan.six.shape[0]):
            choose_for(r, tile, plan, tokens, work)
            record(tile, n, r, found, plan, work.candidates, chosen, s, tally, tokens.err_sq[r])


@inlined
def choose_for(r, tile, plan, tokens, work):
    """Fill is_four of work.chosen by what recipe r takes of the candidates, which are all there."""
    is_four, six, four = work.chosen.is_four, work.found[plan.six[r]], work.found[plan.four[r]]
    for i in range(LANES):
        is_four[i] = 0
    if plan.flags[r, 0]:
        unit, slack, rules = tokens.scales[r, 3], tokens.slack[r], rules_of(plan, r)
        choose(tile, six, four, work.candidates, unit, slack, rules, is_four, work.doubts, work.few)


@jit
def finish(tokens, start, end, first_token, place, chosen, s, tally):
    """Add what is known of a segment's tokens once their blocks are through."""
    x_sq, at, length = tokens.x_sq[start:end], place[0] + start, place[1]
    describe_tokens(tokens.amax[start:end], x_sq, first_token, at, length, tally.shared[s], tally.run_tokens[s])
    for r in range(tokens.err_sq.shape[0]):
        err_sq = tokens.err_sq[r, start:end]
        tally.sums[s, r, 0] += err_sq.sum()
        count_token_ratios(err_sq, x_sq, chosen.place, tally.token_bins[s, r])
        add_to_runs(err_sq, x_sq, first_token, at, length, tally.run_nmse[s, r])


@spliced
def scales_of(tokens, r):
    s = tokens.scales[r]
    return Scales(s[0], s[1], s[2], s[3])


@kernel
def count_nonzero(tile, shared):
    elements = blocks = np.int32(0)
    for i in range(LANES):
        elements = np.int32(elements + tile.nonzero[i])
        blocks = np.int32(blocks + np.int32(tile.nonzero[i] != 0))
    shared[1] += elements
    shared[2] += blocks
