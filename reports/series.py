"""Series: a run's load table turned into bins and thinned dots for charts and tables. Numpy only, no drawing.

Everything is indexed by intended time in seconds since the injection call (DESIGN 3.3). Called by chartset.py; never
judges anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assertions.case import Case, nearest_rank
from assertions.result import Result
from assertions.scopes import Load
from reports.words import one_line

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MAX_BINS = 240
MAX_DOTS_AT_EDGES = 5_000
MAX_DOTS_ELSEWHERE = 3_000
EDGE_S = 2.0
"""Dots this near to an edge are kept in full, up to the budget."""

_WIDTHS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, eq=False)
class Bins:
    """Equal bins of intended time: ``edges_s`` has one entry more than every other array. Quantiles NaN if empty."""

    width_s: float
    edges_s: Floats
    good: Ints
    bad: Ints
    unknown: Ints
    offered: Ints
    p50: Floats
    p95: Floats
    p99: Floats
    index: NDArray[np.intp]
    """The bin of each send."""

    @property
    def left_s(self) -> Floats:
        left: Floats = self.edges_s[:-1]
        return left

    @property
    def middle_s(self) -> Floats:
        return self.left_s + self.width_s / 2

    def __len__(self) -> int:
        return len(self.edges_s) - 1


def bin_width_s(span_s: float, at_most: int) -> float:
    """The narrowest of a fixed ladder of widths that needs no more than ``at_most`` bins."""
    for width in _WIDTHS_S:
        if span_s / width <= at_most - 2:
            return width
    return span_s / max(at_most - 2, 1)


def bin_load(load: Load, at_most: int = MAX_BINS, least_s: float = 0.5) -> Bins:
    """Bins aligned to the injection (0 is an edge), so that no bin mixes before and after."""
    if not len(load):
        none, zero = np.empty(0), np.zeros(0, np.int64)
        return Bins(1.0, np.zeros(1), zero, zero, zero, zero, none, none, none, np.empty(0, np.intp))
    low, high = float(load.x_s.min()), float(load.x_s.max())
    width = max(bin_width_s(high - low, at_most), least_s)
    first = int(np.floor(low / width))
    number = int(np.floor(high / width)) - first + 1
    index = np.clip(np.floor(load.x_s / width).astype(np.intp) - first, 0, number - 1)

    def tally(mask: Bools) -> Ints:
        return np.bincount(index[mask], minlength=number).astype(np.int64)

    p50, p95, p99 = quantiles(index[load.ok], load.latency_ms[load.ok], number)
    return Bins(
        width_s=width,
        edges_s=(np.arange(number + 1, dtype=np.float64) + first) * width,
        good=tally(load.good),
        bad=tally(load.bad),
        unknown=tally(load.unknown),
        offered=tally(np.ones(len(load), np.bool_)),
        p50=p50,
        p95=p95,
        p99=p99,
        index=index,
    )


def quantiles(index: NDArray[np.intp], values: Floats, number: int) -> tuple[Floats, Floats, Floats]:
    """Exact p50, p95, p99 of each bin, nearest rank (FACTS 4); NaN for an empty bin."""
    order = np.argsort(index, kind="stable")
    parts = np.split(values[order], np.cumsum(np.bincount(index, minlength=number))[:-1])
    p50, p95, p99 = (
        np.array([np.nan if (found := quantile(part, p)) is None else found for part in parts]) for p in (50, 95, 99)
    )
    return p50, p95, p99


def quantile(values: Floats, percentile: float) -> float | None:
    """Nearest rank; None without values."""
    return nearest_rank(values, percentile) if len(values) else None


@dataclass(frozen=True)
class Thinning:
    """How many dots are drawn, and how many there are: said on the page."""

    drawn: int
    total: int
    edges_in_full: bool


def edges_of(result: Result) -> tuple[float, ...]:
    """Instants that a verdict rests on: injection, recovery, heal, relapse."""
    found = {0.0}
    for fault in result.faults:
        found.update(t for t in (fault.injected_s, fault.verified_s, fault.heal_s, fault.healed_s) if t is not None)
    scopes = [result.fleet, *result.classes.values(), *list(result.models.values())[:50]]
    for recovery in scopes:
        if recovery is None:
            continue
        for bounds in (recovery.service_back_s, recovery.recovered_s):
            found.update(t for t in bounds or () if t is not None)
    found.update(w.start_s for w in result.windows if w.name == "relapse")
    return tuple(sorted(found))


def thin(load: Load, edges_s: tuple[float, ...]) -> tuple[NDArray[np.intp], Thinning]:
    """Rows of the dots to draw: all near edges, evenly thinned elsewhere, the slowest and the bad preferred."""
    drawable = np.flatnonzero(np.isfinite(load.latency_ms))
    x = load.x_s[drawable]
    near = np.zeros(len(drawable), np.bool_)
    for edge in edges_s:
        near |= np.abs(x - edge) <= EDGE_S
    at_edges, in_full = _pick(load, drawable[near], MAX_DOTS_AT_EDGES)
    elsewhere, _ = _pick(load, drawable[~near], MAX_DOTS_ELSEWHERE)
    rows = np.sort(np.concatenate([at_edges, elsewhere]))
    return rows, Thinning(len(rows), len(load), in_full)


def _pick(load: Load, rows: NDArray[np.intp], budget: int) -> tuple[NDArray[np.intp], bool]:
    if len(rows) <= budget:
        return rows, True
    half = budget // 2
    not_good = rows[~load.good[rows]]
    kept = _every(not_good, half)
    slowest = rows[np.argsort(-load.latency_ms[rows], kind="stable")[: budget // 20]]
    kept = np.union1d(kept, slowest)
    rest = np.setdiff1d(rows[load.good[rows]], kept, assume_unique=True)
    return np.union1d(kept, _every(rest, budget - len(kept))), False


def _every(rows: NDArray[np.intp], budget: int) -> NDArray[np.intp]:
    if len(rows) <= budget:
        return rows
    chosen: NDArray[np.intp] = rows[np.linspace(0, len(rows) - 1, max(budget, 1)).astype(np.intp)]
    return chosen


@dataclass(frozen=True, eq=False)
class Shares:
    """Answers by the cluster that served: ``counts[k]`` has one entry a bin for ``names[k]``."""

    names: tuple[str, ...]
    counts: tuple[Ints, ...]


def by_cluster(case: Case, bins: Bins, at_most: int = 6) -> Shares:
    """Complete answers a bin and cluster; the last row is everything that nobody answered completely."""
    load, cluster = case.load, case.load.ops.cluster
    known = [one.name for one in case.run.header.fleet.clusters]
    served = load.ok & (cluster.codes != 0)
    totals = np.bincount(cluster.codes[served], minlength=len(cluster.words))
    seen = {word: int(totals[code]) for code, word in enumerate(cluster.words) if totals[code]}
    names = known + sorted(word for word in seen if word not in known)
    if len(names) > at_most:
        names = sorted(sorted(names, key=lambda name: (-seen.get(name, 0), name))[: at_most - 1])
    counts = [np.bincount(bins.index[served & cluster.where(n)], minlength=len(bins)) for n in names]
    shown = [one_line(name, 60) for name in names]
    anonymous = np.bincount(bins.index[load.ok], minlength=len(bins)) - (sum(counts) if counts else 0)
    if np.any(anonymous):
        shown.append("other or not told")
        counts.append(anonymous)
    shown.append("nobody")
    counts.append(np.bincount(bins.index[~load.ok], minlength=len(bins)))
    return Shares(tuple(shown), tuple(c.astype(np.int64) for c in counts))
