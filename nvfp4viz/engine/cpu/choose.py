"""Which of two evaluated candidates 4over6 takes: by errors, and where these are too close, by FlashInfer's score.

The score adds rounded FP32 differences. With e = 2^-24 and u = block scale times decode scale (what the E2M1 value 1
decodes to), a difference is off from the decoded error by at most 12 e q u + e |diff|, q the E2M1 value: so a block's
score by 1152 e u + 17 e E (MAE) or 1152 e u^2 + 90 e E (MSE), E its error. Flushing takes less than 2^-100.
"""

from __future__ import annotations

import numpy as np

from .evaluate import ERR_ABS, ERR_SQ
from .numbers import inlined, kernel
from .scales import score, score_one, spread_one
from .tile import LANES

CLOSE = 2.0**-21  # how far the decode scale may be from amax / score_range
LARGEST, ABSOLUTE = np.float32(2.0**60), 2.0**-100
FEW = 16  # blocks in doubt that are scored one by one: all of a tile at once take as long


@kernel
def trust(amax, scales, rules, slack):
    """0 for tokens whose decoded errors stand for scores, else infinity: what to add to the doubt; [tokens]."""
    for t in range(amax.shape[0]):
        off = np.float64(0.0)
        if rules.per_token:
            off = abs(np.float64(scales.decode[t]) * np.float64(rules.score_range) / np.float64(amax[t]) - 1.0)
        elif rules.decode != scales.inverse[t]:
            off = abs(np.float64(rules.decode) / np.float64(scales.inverse[t]) - 1.0)
        good = off <= CLOSE and amax[t] < LARGEST and not rules.fp16_error
        slack[t] = 0.0 if good or amax[t] == 0 else np.inf


@kernel
def doubtful(six, four, all_candidates, slack, rules, is_four, doubts):
    """Fill is_four by errors; returns how many blocks are in doubt, and which in `doubts`."""
    c, n = all_candidates, 0
    measure = (ERR_SQ if rules.mse else ERR_ABS) * LANES
    by_six, by_four, error6, error4 = c.byte[six], c.byte[four], c.sums[six], c.sums[four]
    several = np.int32(0)
    scale6, scale4, decode = c.scale[six], c.scale[four], c.decode[six]
    for i in range(LANES):
        e6, e4 = error6[measure + i], error4[measure + i]
        u6, u4 = np.float64(scale6[i]) * np.float64(decode[i]), np.float64(scale4[i]) * np.float64(decode[i])
        if rules.mse:
            doubt = 2.0**-13 * (u6 * u6 + u4 * u4) + 2.0**-17 * (e6 + e4)
        else:
            doubt = 2.0**-13 * (u6 + u4) + 2.0**-19 * (e6 + e4)
        differ = by_six[i] != by_four[i]
        clear = abs(e6 - e4) > doubt + (ABSOLUTE + slack[i])
        is_four[i] = np.int32(differ & (e4 < e6))
        doubts[i] = np.int32(differ & (not clear))
    for i in range(LANES):
        several = np.int32(several + doubts[i])
    if several == 0:
        return 0
    for i in range(LANES):
        if doubts[i]:
            doubts[n] = i
            n += 1
    return n


@inlined
def choose(tile, six, four, candidates, unit, slack, rules, is_four, doubts, few):
    """is_four int32 [LANES]: where the candidate `four` scores lower than `six`; a tie goes to 6."""
    spread_one(slack, tile.token, few.slack)
    n = doubtful(six, four, candidates, few.slack, rules, is_four, doubts)
    if n <= FEW:
        for d in range(n):
            i = doubts[d]
            x, u = tile.x[i::LANES], unit[tile.token[i]]
            score6 = score_one(x, candidates.scale[six, i], candidates.output_scale[six, i], u, rules)
            score4 = score_one(x, candidates.scale[four, i], candidates.output_scale[four, i], u, rules)
            is_four[i] = np.int32(score4 < score6)
        return
    spread_one(unit, tile.token, few.unit)
    for k in range(2):
        which = six if k == 0 else four
        for i in range(LANES):
            few.scale[i], few.output_scale[i] = candidates.scale[which, i], candidates.output_scale[which, i]
        score(tile.x, few.unit, rules, few)
        for i in range(LANES):
            few.scores[k, i] = few.error[i]
    for d in range(n):
        is_four[doubts[d]] = np.int32(few.scores[1, doubts[d]] < few.scores[0, doubts[d]])
