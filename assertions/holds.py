"""Holds and relapses: how many good ops prove a ratio, where a proof starts, and when later failures refute it.

Called by recovery, warmth, objectives and live. Pure functions over arrays of one scope's ops in intended order;
knows nothing of runs, windows or verdicts. Statistics are exact binomial (``scipy.special``), one-sided 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

CONFIDENCE = 0.95
HOLD_NS = 3_000_000_000
"""A hold lasts at least 3 s, however many ops it has (DESIGN 3.6)."""
RELAPSE_P = 0.001
"""Later bad ops are a relapse when chance at the promised ratio gives so many with a smaller probability."""
BLIP_NS = 1_000_000_000
"""The scan never looks at less than 1 s of traffic: failures come in bursts (one reset socket, one stalled core),
and a burst of a few ops within milliseconds is no relapse of a fleet at 120 rps."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Span = tuple[int, int]
"""Indices (first, last) into the arrays of a scope, both inclusive."""


@lru_cache(maxsize=4096)
def ops_needed(ratio: float, bad: int = 0, confidence: float = CONFIDENCE) -> int:
    """The least number of ops that, with ``bad`` of them bad, prove a good ratio of at least ``ratio``.

    Exact binomial (Clopper-Pearson), one-sided: the smallest n with P(at most ``bad`` bad of n | 1 - ratio)
    <= 1 - confidence. 29 for 0.90, 59 for 0.95, 299 for 0.99, 473 for 0.99 with one bad.
    ``ValueError`` for a ratio that no number of ops can prove (1.0) or that needs none (<= 0).
    """
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio {ratio}: only a ratio between 0 and 1 (both excluded) can be proven by counting")
    if bad < 0 or not 0.0 < confidence < 1.0:
        raise ValueError(f"bad {bad}, confidence {confidence}: bad is at least 0, confidence between 0 and 1")
    low, high = bad, max(2 * bad, 1)
    while not proves(high, bad, ratio, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if proves(middle, bad, ratio, confidence):
            high = middle
        else:
            low = middle
    return high


def proves(ops: int, bad: int, ratio: float, confidence: float = CONFIDENCE) -> bool:
    """True when ``bad`` bad ops of ``ops`` prove at ``confidence`` that the good ratio is at least ``ratio``."""
    return ops > bad and bool(special.bdtr(bad, ops, 1.0 - ratio) <= 1.0 - confidence)


@dataclass(frozen=True)
class Hold:
    """A proof that a scope serves: indices into its ops. ``last_bad`` is -1 where no bad op precedes it."""

    last_bad: int
    start: int
    certified: int
    sustained: bool
    """Everything from ``start`` to the end of the window proves the ratio too, its bad ops counted."""


def certified_holds(t: Ints, bad: Bools, first: int, ratio: float, limit: int = 2) -> tuple[Hold, ...]:
    """The first certified hold and the first that is also sustained (one entry when they are the same, none if none).

    ``t``: intended ns, sorted. ``bad``: one entry an op. ``first``: the op where the outage begins; it counts as bad,
    -1 means that the outage begins before the first op. A hold is a run of good ops between bad ones that has
    ``ops_needed(ratio)`` ops and spans 3 s; no bad op is tolerated in that part, so that a background failure can
    only date a recovery late, never early (docs/decisions/0001-hold-of-good-ops-only.md).
    """
    count = len(t)
    later = np.flatnonzero(bad[first + 1 :]) + first + 1
    bad_at = np.concatenate([np.array([first], np.int64), later])
    starts, ends = bad_at + 1, np.append(bad_at[1:], count)
    nonempty = starts < ends
    bad_since = np.arange(len(bad_at) - 1, -1, -1)
    bad_at, starts, ends, bad_since = bad_at[nonempty], starts[nonempty], ends[nonempty], bad_since[nonempty]
    if not len(starts):
        return ()
    certified = np.maximum(starts + ops_needed(ratio) - 1, np.searchsorted(t, t[starts] + HOLD_NS, side="left"))
    found = np.flatnonzero(certified < ends)
    if not len(found):
        return ()
    sustained = special.bdtr(bad_since[found], count - starts[found], 1.0 - ratio) <= 1.0 - CONFIDENCE
    chosen = [0]
    if not sustained[0] and sustained.any():
        chosen.append(int(np.argmax(sustained)))
    return tuple(
        Hold(int(bad_at[found[i]]), int(starts[found[i]]), int(certified[found[i]]), bool(sustained[i])) for i in chosen
    )[:limit]


def relapses(t: Ints, bad: Bools, ratio: float) -> tuple[Span, ...]:
    """Spans of ops in which failures are too many to be chance at ``ratio``; empty when chance explains them.

    Two tests, each at p < 0.001: all ops together; and a scan for a short relapse inside a long quiet stretch. The
    scan asks for each bad op and each k of 2, 3, 4, 6, 8, 12, …: do k bad ops follow one another within so few
    ops that chance gives it with less than 0.001 / (ops x number of k) (Bonferroni)? Never over less than 1 s.
    Adding good ops can only remove a relapse, adding bad ones only make it.
    """
    count, where = len(bad), np.flatnonzero(bad)
    if not len(where):
        return ()
    sizes = _scan_sizes(count)
    widest = _widest_windows(sizes, count, 1.0 - ratio, RELAPSE_P / (count * max(len(sizes), 1)))
    found: tuple[Span, ...] = ()
    for size, width in zip(sizes, widest, strict=True):
        if size > len(where) or width < size:
            continue
        left, right = where[: len(where) - size + 1], where[size - 1 :]
        ahead = np.searchsorted(t, t[left] + BLIP_NS, side="left") - left
        behind = right + 1 - np.searchsorted(t, t[right] - BLIP_NS, side="right")
        hit = np.maximum(np.maximum(right - left + 1, ahead), behind) <= width
        spans = np.stack([left[hit], right[hit]], axis=1)
        # Wide windows add only what narrow ones did not explain: two short relapses are not one long one.
        found = _merged(np.concatenate([np.array(found, np.int64).reshape(-1, 2), _apart(spans, found)]))
    if not found and special.bdtrc(len(where) - 1, count, 1.0 - ratio) < RELAPSE_P:
        return ((int(where[0]), int(where[-1])),)
    return found


def _scan_sizes(count: int) -> list[int]:
    sizes, size = [2, 3], 4
    while size <= count:
        sizes += [size, size + size // 2]
        size *= 2
    return [size for size in sizes if size <= count]


def _widest_windows(sizes: list[int], count: int, bad_ratio: float, alpha: float) -> Ints:
    """For each k the most ops among which k bad ones are still rarer than ``alpha``; 0 where k never is."""
    k = np.array(sizes, np.int64)
    low, high = k - 1, np.full(len(k), count, np.int64)  # P(X >= k) grows with the number of ops: bisect
    while (low < high).any():
        middle = (low + high + 1) // 2
        rare = special.bdtrc(k - 1, np.maximum(middle, k), bad_ratio) < alpha
        low, high = np.where(rare, middle, low), np.where(rare, high, middle - 1)
    return np.where(low >= k, low, 0).astype(np.int64)


def _apart(spans: NDArray[np.int64], kept: tuple[Span, ...]) -> NDArray[np.int64]:
    """Those spans that touch none of the kept ones (sorted, disjoint)."""
    if not kept:
        return spans
    ends = np.array([end for _, end in kept], np.int64)
    starts = np.append(np.array([start for start, _ in kept], np.int64), np.iinfo(np.int64).max)
    return spans[starts[np.searchsorted(ends, spans[:, 0], side="left")] > spans[:, 1]]


def _merged(spans: NDArray[np.int64]) -> tuple[Span, ...]:
    if not len(spans):
        return ()
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    reach = np.maximum.accumulate(spans[:, 1])
    heads = np.flatnonzero(np.append(True, spans[1:, 0] > reach[:-1]))
    tails = np.append(heads[1:], len(spans)) - 1
    return tuple((int(spans[head, 0]), int(reach[tail])) for head, tail in zip(heads, tails, strict=True))
