"""``Recovery``: when a scope stopped and started serving, as intervals that hold whatever the unknown ops were.

Called for the fleet, each class, each model and each objective's scope. Two readings of the ops are made: the best
that unknown ops allow gives the low ends, the worst the high ends; without unknown ops they coincide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from assertions.holds import Hold, certified_holds, relapses
from assertions.result import Interval
from assertions.scopes import BAD, UNKNOWN, Load, Rows
from assertions.windows import Edges
from history.reader import Requests

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Recovery:
    """Seconds since the injection. ``unaffected``: it never fell (see ``_never_fell``).

    ``service_back``/``recovered`` are None only for the unaffected, and where nothing was sent.

    ``relapsed`` holds for every reading of the unknown ops, ``maybe_relapsed`` for some. ``first_bad_s``,
    ``hold_start_s`` and ``certified_s`` are of the worst reading and place the windows. ``service_op`` is the index
    (into the load) of the first op of that hold, -1 if none.
    """

    ratio: float
    unaffected: bool
    service_back: Interval | None = None
    recovered: Interval | None = None
    first_success: Interval | None = None
    first_bad_s: float | None = None
    hold_start_s: float | None = None
    certified_s: float | None = None
    relapsed: bool = False
    maybe_relapsed: bool = False
    relapse_spans: tuple[tuple[float, float], ...] = ()
    service_op: int = -1
    ops: int = 0
    bad: int = 0
    unknown: int = 0

    def widened(self, by_s: float) -> Recovery:
        """The same with its edges less certain by ``by_s`` on both sides (send lag near them)."""
        if by_s <= 0.0:
            return self
        return replace(self, service_back=_wider(self.service_back, by_s), recovered=_wider(self.recovered, by_s))


def recovery(load: Load, rows: Rows, ratio: float) -> Recovery:
    """The recovery of the ops at ``rows`` (indices into ``load``, sorted) within the fault window."""
    rows = rows[load.in_window("fault")[rows]]
    state, t = load.state[rows], load.ops.t_intended[rows]
    known_bad, maybe_bad = state == BAD, state != 0
    base = Recovery(ratio, False, ops=len(rows), bad=int(known_bad.sum()), unknown=int((state == UNKNOWN).sum()))
    if not len(rows):
        return base  # nothing was sent: not even *unaffected* is known
    if _never_fell(t, maybe_bad, load.struck[rows], ratio):
        return replace(base, unaffected=True)
    surely_affected = bool(known_bad.any()) and not _never_fell(t, known_bad, load.struck[rows], ratio)
    # The outage starts with the first bad op. Where unknown ops come before it, the earliest reading gives the
    # low ends and the latest the high ends: for a fixed start, more bad ops only ever date a hold later.
    earliest = int(np.argmax(maybe_bad))
    latest = int(np.argmax(known_bad)) if known_bad.any() else int(np.flatnonzero(maybe_bad)[-1])
    worst = certified_holds(t, maybe_bad, latest, ratio)
    best = worst if not base.unknown else certified_holds(t, known_bad, earliest, ratio)
    sure, maybe = _relapse(t, known_bad, maybe_bad, best, worst, ratio)
    high = worst[0] if worst and (sure or worst[0].sustained) else next((h for h in worst if h.sustained), None)
    shown = high or (worst[0] if worst else None)
    low_s, edges = _low_s(load.edges, t, known_bad, best, surely_affected), load.edges
    first_bad = int(np.argmax(known_bad if known_bad.any() else maybe_bad))
    return replace(
        base,
        service_back=(low_s, _first_byte_s(load, rows, high)),
        recovered=(low_s, None if high is None else edges.since(t[high.start])),
        first_success=_first_success(load, rows, first_bad),
        first_bad_s=edges.since(t[first_bad]),
        hold_start_s=None if shown is None else edges.since(t[shown.start]),
        certified_s=None if shown is None else edges.seconds(t[shown.certified]),
        relapsed=bool(sure),
        maybe_relapsed=maybe,
        relapse_spans=tuple((edges.seconds(t[i]), edges.seconds(t[j])) for i, j in sure),
        service_op=-1 if shown is None else int(rows[shown.start]),
    )


def _never_fell(t: Ints, bad: Bools, struck: Bools, ratio: float) -> bool:
    """No bad op; or a hold that begins with the injection and only such failures after it as chance gives.

    Without the second part one background failure 40 s after the injection would date the "recovery" of a model that
    never stopped serving at 40 s.
    """
    if not bad.any():
        return True
    if (bad & struck).any():
        return False
    holds = certified_holds(t, bad, -1, ratio)
    if not holds or holds[0].start != 0 or not holds[0].sustained:
        return False
    after = holds[0].certified + 1
    return not relapses(t[after:], bad[after:], ratio)


def _relapse(
    t: Ints, known_bad: Bools, maybe_bad: Bools, best: tuple[Hold, ...], worst: tuple[Hold, ...], ratio: float
) -> tuple[tuple[tuple[int, int], ...], bool]:
    """(spans of a relapse that every reading has, whether some reading has one)."""
    starts = {holds[0].certified + 1 for holds in (best, worst) if holds}
    sure: tuple[tuple[int, int], ...] = ()
    maybe = False
    for start in sorted(starts):
        found = relapses(t[start:], known_bad[start:], ratio)
        sure = tuple((i + start, j + start) for i, j in found)
        if not found:
            break
    if not np.array_equal(known_bad, maybe_bad):
        maybe = any(bool(relapses(t[start:], maybe_bad[start:], ratio)) for start in starts)
    return sure, maybe or bool(sure)


def _low_s(edges: Edges, t: Ints, known_bad: Bools, best: tuple[Hold, ...], surely_affected: bool) -> float:
    """The intended time of the last bad op before the first hold; without a hold, of the last bad op seen."""
    if not surely_affected:
        return 0.0
    last = best[0].last_bad if best else int(np.flatnonzero(known_bad)[-1])
    return edges.since(t[last])


def _first_byte_s(load: Load, rows: Rows, hold: Hold | None) -> float | None:
    return None if hold is None else load.edges.since(first_byte_ns(load.ops, int(rows[hold.start])))


def first_byte_ns(ops: Requests, row: int) -> int:
    """When the first byte of an answer was there; when it was done, for answers that record no first byte."""
    first = int(ops.t_first_byte[row])
    return first if first >= 0 else int(ops.t_done[row])


def _first_success(load: Load, rows: Rows, first_bad: int) -> Interval | None:
    later = np.flatnonzero(load.ok[rows[first_bad + 1 :]])
    if not len(later):
        return None
    row = int(rows[first_bad + 1 + int(later[0])])
    start_s = load.edges.seconds(load.ops.t_intended[row])
    return max(0.0, start_s), load.edges.since(first_byte_ns(load.ops, row))


def _wider(interval: Interval | None, by_s: float) -> Interval | None:
    if interval is None:
        return None
    low, high = interval
    return max(0.0, round(low - by_s, 9)), None if high is None else round(high + by_s, 9)
