"""What Prometheus answered, as recorded in the history: weight bytes, cache hits, GPUs. Context, never the clock.

Counters that vanish with a dead cluster and start again from zero are joined (an increase is never negative).
Called by charts' caller page.py. Reads ``prometheus`` events only; asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from history.clock import NS_PER_S
from history.op import PROMETHEUS, QUERY
from history.reader import Run
from reports.words import one_line

Floats = NDArray[np.float64]

MAX_POINTS = 240
STALE_S = 5.0
"""A series without a sample for this long is not drawn on as if it lived."""


@dataclass(frozen=True, eq=False)
class Series:
    """One labelled series: seconds since injection and values, equally long, sorted by time."""

    labels: Mapping[str, str]
    x_s: Floats
    values: Floats


Line = tuple[str, Floats, Floats]
"""A named line: x in seconds since injection, y in the unit of the chart; NaN where there is nothing to draw."""


def read(run: Run, origin_ns: int) -> dict[str, tuple[Series, ...]]:
    """The series of every named query; a later answer to the same query replaces an earlier one."""
    found: dict[str, tuple[Series, ...]] = {}
    for event in run.history.events:
        if event.source == PROMETHEUS and event.kind == QUERY:
            read_ones = (_series(raw, origin_ns) for raw in _listed(event.detail))
            series = tuple(s for s in read_ones if s is not None)
            if series:
                found[str(event.detail.get("name", ""))] = series
    return found


def _listed(detail: Mapping[str, Any]) -> Sequence[Any]:
    series = detail.get("series")
    return series if isinstance(series, list | tuple) else ()


def _series(raw: Any, origin_ns: int) -> Series | None:
    try:
        x = (np.array(raw["t_ns"], np.float64) - origin_ns) / NS_PER_S
        values = np.array([float(v) for v in raw["values"]], np.float64)
        labels = {str(k): one_line(str(v), 60) for k, v in raw["labels"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if len(x) != len(values) or not len(x):
        return None
    order = np.argsort(x, kind="stable")
    kept = np.isfinite(values[order])
    return Series(labels, x[order][kept], values[order][kept])


def grid_of(series: Sequence[Series]) -> Floats:
    """At most ``MAX_POINTS`` equal steps over all samples, no finer than 1 s."""
    xs = [s.x_s for s in series if len(s.x_s)]
    if not xs:
        return np.empty(0)
    low, high = min(float(x[0]) for x in xs), max(float(x[-1]) for x in xs)
    step = max(1.0, (high - low) / MAX_POINTS)
    grid: Floats = np.arange(low, high + step / 2, step)
    return grid


def increase(series: Series, grid: Floats) -> Floats:
    """The counter's increase since the start of the grid, at each point of it; a restart counts from zero."""
    if not len(series.x_s):
        return np.zeros(len(grid))
    steps = np.diff(series.values)
    steps = np.where(steps < 0, series.values[1:], steps)
    born_later = series.x_s[0] > grid[0] + STALE_S
    total = np.concatenate([[series.values[0] if born_later else 0.0], np.cumsum(steps)])
    if born_later:
        total[1:] += series.values[0]
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
    names = sorted({s.labels.get(label, "") for s in series})
    found = []
    for name in names:
        parts = np.array([read_one(s, grid) for s in series if s.labels.get(label, "") == name])
        missing = np.all(np.isnan(parts), axis=0)
        found.append((name or f"no {label}", grid, np.where(missing, np.nan, np.nansum(parts, axis=0))))
    return found


def hit_ratio(series: Sequence[Series]) -> Line:
    """Share of weight-cache requests answered by a cache (local or peer), a step; NaN in steps without a request."""
    grid = grid_of(series)
    coarse = grid[:: max(1, len(grid) // 60)]
    hits, everything = np.zeros(len(coarse)), np.zeros(len(coarse))
    for one in series:
        grown = increase(one, coarse)
        everything += grown
        if is_hit(one.labels):
            hits += grown
    asked, hit = np.diff(everything, prepend=0.0), np.diff(hits, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return "hit ratio", coarse, np.where(asked > 0, 100.0 * hit / asked, np.nan)


def is_hit(labels: Mapping[str, str]) -> bool:
    """True for answers of a cache: result "hit" from any tier but the store."""
    return labels.get("result", "hit") == "hit" and labels.get("tier") != "store"
