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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assertions.holds import ops_needed, proves
from assertions.recovery import Recovery
from assertions.result import Interval
from assertions.scopes import UNKNOWN, Load, Rows
from history.op import RESIDENT

TOLERANCE = 0.10
BASELINE_OPS = 20
"""Fewer labelled answers in the baseline say nothing of its share."""
STRETCH_OPS = 2_000
"""A baseline share that needs a longer stretch to be proven is not judged."""


@dataclass(frozen=True)
class Warmth:
    """``bounds`` None: cannot be judged, ``reason`` says why. ``[low, None]``: not warm as far as was observed."""

    bounds: Interval | None
    reason: str = ""
    baseline_share: float | None = None
    stretch_ops: int = 0


def warmth(load: Load, rows: Rows, found: Recovery) -> Warmth:
    """When the ops at ``rows`` were warm again, in seconds since the injection."""
    labelled = load.ops.weights.codes[rows] != 0
    resident = load.ok[rows] & load.ops.weights.where(RESIDENT)[rows]
    before = load.in_window("baseline")[rows] & load.ok[rows] & labelled
    known = int(before.sum())
    if known < BASELINE_OPS:
        return Warmth(None, f"{known} answers of the baseline say where their weights came from; {BASELINE_OPS} needed")
    share = float(resident[before].mean())
    stretch = stretch_of(share)
    if stretch is None:
        return Warmth(None, f"a baseline with {share:.0%} of answers from GPU memory proves no share", share)
    length, allowed = stretch
    if not found.unaffected and found.service_op < 0:
        low_s = 0.0 if found.service_back is None else found.service_back[0]
        return Warmth((low_s, None), "service was not back", share, length)
    start_ns = load.edges.zero if found.unaffected else int(load.ops.t_intended[found.service_op])
    # Answers that are ok and say nothing of their weights are no evidence for or against.
    later = load.in_window("fault")[rows] & (load.ops.t_intended[rows] >= start_ns) & (~load.ok[rows] | labelled)
    chosen = rows[later]
    unknown = load.state[chosen] == UNKNOWN
    best = _first_stretch(resident[later] | unknown, length, allowed)
    worst = _first_stretch(resident[later], length, allowed)
    if found.unaffected and worst == 0:
        return Warmth((0.0, 0.0), "it never was cold", share, length)
    low_s = 0.0 if found.service_back is None else found.service_back[0]
    return Warmth(_bounds(load, chosen, resident[later], unknown, best, worst, low_s), "", share, length)


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


def _bounds(
    load: Load,
    chosen: Rows,
    resident: NDArray[np.bool_],
    unknown: NDArray[np.bool_],
    best: int,
    worst: int,
    low_s: float,
) -> Interval:
    """[intended time of the last cold op before, done of the first warm one]; the best reading low, the worst high."""
    until = best if best >= 0 else len(chosen)
    cold = np.flatnonzero(~(resident | unknown)[:until])
    if len(cold):
        low_s = load.edges.seconds(load.ops.t_intended[chosen[cold[-1]]])
    if worst < 0:
        return max(0.0, low_s), None
    high_s = load.edges.seconds(load.ops.t_done[chosen[worst]])
    return max(0.0, low_s), max(low_s, high_s, 0.0)
