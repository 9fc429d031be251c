"""What Prometheus answered, on a common time grid for charts: weight bytes, cache hits, GPUs. Never the clock.

Series come merged from ``assertions.telemetry``, so charts and objectives read the same samples; counters that vanish
with a dead cluster and start again from zero are joined. Called by chartset.py and findings.py; asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assertions import telemetry
from assertions.case import Case
from history.clock import NS_PER_S
from reports.words import one_line

Floats = NDArray[np.float64]

WANTED = ("weight_bytes", "cache_requests", "gpus_allocated", "store_bytes")
MAX_POINTS = 240
STALE_S = 2.5
"""A gauge without a sample for longer (two scrapes and a half) is not drawn on as if it lived."""


@dataclass(frozen=True, eq=False)
class Series:
    """One labelled series: seconds since injection and values, equally long, sorted by time, never empty.

    ``grown``: what a counter has grown since the run's first sample, by the objectives' own rule.
    """

    labels: Mapping[str, str]
    x_s: Floats
    values: Floats
    grown: Floats


Found = Mapping[str, tuple[Series, ...]]
Line = tuple[str, Floats, Floats]
"""A named line: x in seconds since injection, y in the unit of the chart; NaN where there is nothing to draw."""


def read(case: Case) -> Found:
    """The series of every wanted query that returned any."""
    found = {}
    for name in WANTED:
        series = telemetry.series(case.run.history, name)
        if series:
            first_ns = min(one.t_ns[0] for one in series)
            found[name] = tuple(series_of(one, case.edges.zero, first_ns) for one in series)
    return found


def series_of(one: telemetry.Series, zero_ns: int, first_ns: int) -> Series:
    """What assertions read, on the page's axis; ``first_ns``: the first sample of any series of this name."""
    x = (np.array(one.t_ns, np.float64) - zero_ns) / NS_PER_S
    labels = {key: one_line(value, 60) for key, value in one.labels.items()}
    return Series(labels, x, _finite(one.values), np.cumsum(_finite(one.growth(first_ns))))


def _finite(values: Sequence[float]) -> Floats:
    return np.nan_to_num(np.array(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def grid_of(series: Sequence[Series]) -> Floats:
    """At most ``MAX_POINTS`` equal steps over all samples, no finer than 1 s."""
    low, high = min(float(s.x_s[0]) for s in series), max(float(s.x_s[-1]) for s in series)
    step = max(1.0, (high - low) / MAX_POINTS)
    grid: Floats = np.arange(low, high + step / 2, step)
    return grid


def increase(series: Series, grid: Floats) -> Floats:
    """The counter's increase since the run's first sample, at each point of the grid."""
    where = np.searchsorted(series.x_s, grid, side="right") - 1
    return np.where(where >= 0, series.grown[np.maximum(where, 0)], 0.0)


def level(series: Series, grid: Floats) -> Floats:
    """The gauge's last sample at each point; NaN before the first and ``STALE_S`` after the last one."""
    where = np.searchsorted(series.x_s, grid, side="right") - 1
    at = np.maximum(where, 0)
    fresh = (where >= 0) & (grid - series.x_s[at] <= STALE_S)
    return np.where(fresh, series.values[at], np.nan)


def lines(found: Found, name: str, label: str, read_one: Callable[[Series, Floats], Floats]) -> list[Line]:
    """One line a value of ``label``: the sum over all series that have it (missing ones count as nothing)."""
    series, drawn = found.get(name, ()), []
    grid = grid_of(series) if series else np.empty(0)
    for value in sorted({s.labels.get(label, "") for s in series}):
        parts = np.array([read_one(s, grid) for s in series if s.labels.get(label, "") == value])
        missing = np.all(np.isnan(parts), axis=0)
        drawn.append((value or f"no {label}", grid, np.where(missing, np.nan, np.nansum(parts, axis=0))))
    return drawn


def hit_ratio(found: Found) -> list[Line]:
    """Percent of weight-cache requests that were hits, a step; NaN in steps without a request; none without any."""
    series = found.get("cache_requests", ())
    if not series:
        return []
    grid = grid_of(series)
    coarse = grid[:: max(1, len(grid) // 60)]
    hits, everything = np.zeros(len(coarse)), np.zeros(len(coarse))
    for one in series:
        grown = increase(one, coarse)
        everything += grown
        hits += grown if is_hit(one.labels) else 0.0
    asked, hit = np.diff(everything, prepend=0.0), np.diff(hits, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(asked > 0, 100.0 * hit / asked, np.nan)
    return [("hit ratio", coarse, ratio)] if np.any(np.isfinite(ratio)) else []


def is_hit(labels: Mapping[str, str]) -> bool:
    """True for a request that the node's own cache answered: the same rule as the objective's."""
    return labels.get("result") == "hit"
