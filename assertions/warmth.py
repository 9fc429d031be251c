"""Warm: the share of answers served from weights already in GPU memory is back at its baseline (DESIGN 3.7).

Called for the fleet, each class and each model after their recovery is known. Reads what each answer says of its
weights; never looks at latencies (queues confound them).

The rule. p0 = share of ``resident`` among ok answers of the baseline; the target is p0 - 0.10. A scope is warm at the
start of the first stretch after *service back* whose ops prove the target at 95 % (one-sided, exact binomial). The
stretch has a fixed length: the shortest that the baseline's own share would prove. For p0 = 1 that is 29 resident
answers in a row (10 s at 3 rps; a tolerance of 0.05 would take 59, that is 20 s). A fixed length keeps a long warm
time from dating itself back into the cold one before it. Bad ops count as not resident.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assertions.holds import ops_needed, proves
from assertions.measure import Measure, Unknown
from assertions.recovery import Recovery
from assertions.scopes import UNKNOWN, Load, Rows
from history.op import RESIDENT

TOLERANCE = 0.10
BASELINE_OPS = 20
"""Fewer labelled answers in the baseline say nothing of its share."""
STRETCH_OPS = 2_000
"""A baseline share that needs a longer stretch to be proven is not judged."""


def warmth(load: Load, rows: Rows, found: Recovery) -> Measure:
    """When the ops at ``rows`` were warm again, in seconds since the injection; ``Unknown`` where none can tell.

    Bounds: [intended time of the last cold op before, done of the first warm one]; the best reading of unknown ops
    gives the low end, the worst the high end.
    """
    labelled = load.ops.weights.codes[rows] != 0
    resident = load.ok[rows] & load.ops.weights.where(RESIDENT)[rows]
    before = load.in_window("baseline")[rows] & load.ok[rows] & labelled
    known = int(before.sum())
    if known < BASELINE_OPS:
        raise Unknown(f"{known} answers of the baseline say where their weights came from; {BASELINE_OPS} needed")
    share = float(resident[before].mean())
    stretch = stretch_of(share)
    if stretch is None:
        raise Unknown(f"a baseline with {share:.0%} of answers from GPU memory proves no share")
    evidence = f"{share:.1%} of the baseline's answers came from GPU memory; judged over {stretch[0]} ops in a row"
    low_s = 0.0 if found.service_back is None else found.service_back[0]
    if not found.unaffected and found.service_op < 0:
        return Measure((low_s, None), f"{evidence}; service was not back")
    start_ns = load.edges.zero if found.unaffected else int(load.ops.t_intended[found.service_op])
    # Answers that are ok and say nothing of their weights are no evidence for or against.
    later = load.in_window("fault")[rows] & (load.ops.t_intended[rows] >= start_ns) & (~load.ok[rows] | labelled)
    chosen, warm = rows[later], resident[later]
    maybe_warm = warm | (load.state[chosen] == UNKNOWN)
    best, worst = _first_stretch(maybe_warm, *stretch), _first_stretch(warm, *stretch)
    if found.unaffected and worst == 0:
        return Measure((0.0, 0.0), f"{evidence}; it never was cold")
    cold = np.flatnonzero(~maybe_warm[: best if best >= 0 else None])
    if len(cold):
        low_s = load.edges.seconds(load.ops.t_intended[chosen[cold[-1]]])
    high_s = None if worst < 0 else max(low_s, load.edges.since(load.ops.t_done[chosen[worst]]))
    return Measure((max(0.0, low_s), high_s), evidence)


def stretch_of(share: float) -> tuple[int, int] | None:
    """(ops in a stretch, not-resident ops allowed in it) for a baseline share; None where no stretch proves it."""
    target = share - TOLERANCE
    if target <= 0.0:
        return None
    length = ops_needed(target)
    while length <= STRETCH_OPS:
        expected = int(np.floor(length * (1.0 - share) + 1e-9))
        if proves(length, expected, target):
            while proves(length, expected + 1, target):
                expected += 1
            return length, expected
        length = max(length + 1, ops_needed(target, expected))
    return None


def _first_stretch(warm: NDArray[np.bool_], length: int, allowed: int) -> int:
    """Index of the first resident op that begins a stretch; -1 if none."""
    if len(warm) < length:
        return -1
    cold = np.concatenate([np.zeros(1, np.int64), np.cumsum(~warm)])
    inside = cold[length:] - cold[:-length]
    fits = np.flatnonzero((inside <= allowed) & warm[: len(inside)])
    return int(fits[0]) if len(fits) else -1
