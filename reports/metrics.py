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
from history.clock import NS_PER_S
from history.reader import Run
from reports.words import one_line

Floats = NDArray[np.float64]

WANTED = ("weight_bytes", "cache_requests", "gpus_allocated", "store_bytes")
MAX_POINTS = 240
STALE_S = 2.5
"""A gauge without a sample for longer (two scrapes and a half) is not drawn on as if it lived."""


@dataclass(frozen=True, eq=False)
class Series:
    """One labelled series: seconds since injection and values, equally long, sorted by time, never empty."""

    labels: Mapping[str, str]
    x_s: Floats
    values: Floats


Found = Mapping[str, tuple[Series, ...]]
Line = tuple[str, Floats, Floats]
"""A named line: x in seconds since injection, y in the unit of the chart; NaN where there is nothing to draw."""


def read(run: Run, origin_ns: int) -> Found:
    """The series of every wanted query that returned any."""
    found = {}
    for name in WANTED:
        series = tuple(_series(one, origin_ns) for one in telemetry.series(run.history, name))
        if series:
            found[name] = series
    return found


def _series(one: telemetry.Series, origin_ns: int) -> Series:
    x = (np.array(one.t_ns, np.float64) - origin_ns) / NS_PER_S
    values = np.nan_to_num(np.array(one.values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return Series({key: one_line(value, 60) for key, value in one.labels.items()}, x, values)


def grid_of(series: Sequence[Series]) -> Floats:
    """At most ``MAX_POINTS`` equal steps over all samples, no finer than 1 s."""
    low, high = min(float(s.x_s[0]) for s in series), max(float(s.x_s[-1]) for s in series)
    step = max(1.0, (high - low) / MAX_POINTS)
    grid: Floats = np.arange(low, high + step / 2, step)
    return grid


def increase(series: Series, grid: Floats) -> Floats:
    """The counter's increase since the start of the grid, at each point of it.

    A restart counts from zero, and so does a series that was born after the grid's start.
    """
    steps = np.diff(series.values)
    steps = np.where(steps < 0, series.values[1:], steps)
    born = float(series.values[0]) if series.x_s[0] > grid[0] + STALE_S else 0.0
    total = born + np.concatenate([[0.0], np.cumsum(steps)])
    where = np.searchsorted(series.x_s, grid, side="right") - 1
    return np.where(where >= 0, total[np.maximum(where, 0)], 0.0)


def level(series: Series, grid: Floats) -> Floats:
    """The gauge's last sample at each point; NaN before the first and ``STALE_S`` after the last one."""
    where = np.searchsorted(series.x_s, grid, side="right") - 1
    at = np.maximum(where, 0)
    fresh = (where >= 0) & (grid - series.x_s[at] <= STALE_S)
    return np.where(fresh, series.values[at], np.nan)


def summed(
    series: Sequence[Series], label: str, grid: Floats, read_one: Callable[[Series, Floats], Floats]
) -> list[Line]:
    """One line a value of ``label``: the sum over all series that have it (missing ones count as nothing)."""
    found = []
    for name in sorted({s.labels.get(label, "") for s in series}):
        parts = np.array([read_one(s, grid) for s in series if s.labels.get(label, "") == name])
        missing = np.all(np.isnan(parts), axis=0)
        found.append((name or f"no {label}", grid, np.where(missing, np.nan, np.nansum(parts, axis=0))))
    return found


def hit_ratio(series: Sequence[Series]) -> Line:
    """Percent of weight-cache requests that were hits, a step; NaN in steps without a request."""
    grid = grid_of(series)
    coarse = grid[:: max(1, len(grid) // 60)]
    hits, everything = np.zeros(len(coarse)), np.zeros(len(coarse))
    for one in series:
        grown = increase(one, coarse)
        everything += grown
        hits += grown if is_hit(one.labels) else 0.0
    asked, hit = np.diff(everything, prepend=0.0), np.diff(hits, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return "hit ratio", coarse, np.where(asked > 0, 100.0 * hit / asked, np.nan)


def is_hit(labels: Mapping[str, str]) -> bool:
    """True for a request that the node's own cache answered: the same rule as the objective's."""
    return labels.get("result") == "hit"
