"""Findings: the one sentence over each chart, computed from the same bins that the chart draws.

Called by chartset.py. Says only what the numbers say; never why.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assertions.scopes import Load
from reports import metrics
from reports.metrics import Found
from reports.series import Bins, Shares, quantile
from reports.words import count, listed, milliseconds, percent, seconds, size


def latency(load: Load, bins: Bins, heal_s: float | None) -> str:
    """p95 before the fault, at its worst while it lasted, and over the last ten seconds."""
    before = quantile(load.latency_ms[load.ok & (load.x_s < 0)], 95)
    end = heal_s if heal_s is not None else float(bins.edges_s[-1])
    during = (bins.middle_s > 0) & (bins.middle_s < end) & np.isfinite(bins.p95)
    last = quantile(load.latency_ms[load.ok & (load.x_s >= float(bins.edges_s[-1]) - 10)], 95)
    parts = []
    if before is not None:
        parts.append(f"p95 of complete answers was {milliseconds(before)} before the fault")
    if np.any(during):
        rows = np.flatnonzero(during)
        worst = int(rows[np.argmax(bins.p95[rows])])
        parts.append(
            f"{milliseconds(float(bins.p95[worst]))} at its worst while it lasted "
            f"(the {bins.width_s:g} s from {seconds(float(bins.left_s[worst]))} on)"
        )
    if last is not None:
        parts.append(f"{milliseconds(last)} over the last ten seconds")
    return f"{'; '.join(parts)}." if parts else "No request was answered completely."


def outcomes(load: Load, bins: Bins) -> str:
    """When bad answers began and ended, and how many at worst; the same count as *lost* anywhere else."""
    fault, failback = load.in_window("fault"), load.in_window("failback")
    bad = load.x_s[load.bad & fault]
    unknown = int(np.count_nonzero(load.unknown))
    tail = f" {unknown:,} outcomes are unknown." if unknown else ""
    if not len(bad):
        return f"No bad answer while the fault lasted, of {int(np.count_nonzero(fault)):,} sends.{tail}"
    hit = np.bincount(bins.index[load.bad & fault], minlength=len(bins))
    worst = int(np.argmax(hit))
    later = int(np.count_nonzero(load.bad & failback))
    after = f" {later:,} more came after the restore began." if later else ""
    return (
        f"{count(len(bad), 'bad answer')} while the fault lasted, sent from {seconds(float(bad.min()))} to "
        f"{seconds(float(bad.max()))}; at worst {hit[worst]:,} of {bins.offered[worst]:,} sends within "
        f"{bins.width_s:g} s, from {seconds(float(bins.left_s[worst]))} on.{after}{tail}"
    )


def shares(bins: Bins, served: Shares, victims: Sequence[str]) -> str:
    """The victims' share of traffic before the fault, while it lasted, and at the end."""
    if not len(bins):
        return "Nothing was sent."
    everything = np.maximum(bins.offered.astype(np.float64), 1.0)
    parts = []
    for name, counts in zip(served.names, served.counts, strict=True):
        if name not in victims:
            continue
        before, tail = bins.left_s < 0, bins.left_s >= float(bins.edges_s[-1]) - max(10.0, 2 * bins.width_s)
        empty = np.flatnonzero((bins.left_s >= 0) & (counts == 0))
        text = f"{name} answered {_share(counts[before], everything[before])} of all sends before the fault"
        if len(empty):
            text += f", nothing from {seconds(float(bins.left_s[empty[0]]))} to {_until(bins, empty)}"
        text += f", and {_share(counts[tail], everything[tail])} at the end."
        parts.append(text)
    nobody = int(served.counts[-1].sum())
    parts.append(f"Nobody answered {percent(nobody, float(bins.offered.sum()))} of all sends completely.")
    return " ".join(parts)


def _until(bins: Bins, empty: NDArray[np.intp]) -> str:
    """The end of the first unbroken stretch of empty bins."""
    breaks = np.flatnonzero(np.diff(empty) > 1)
    last = empty[breaks[0]] if len(breaks) else empty[-1]
    return seconds(float(bins.edges_s[last + 1]))


def _share(part: NDArray[np.int64], whole: NDArray[np.float64]) -> str:
    return percent(float(part.sum()), float(whole.sum())) if len(whole) else "an unknown share"


def weights(found: Found) -> str:
    """Bytes by source since the injection."""
    if not found.get("weight_bytes"):
        return "Bytes that weight stores sent."
    parts: list[tuple[float, str]] = []
    for name, x, y in metrics.lines(found, "weight_bytes", "source", metrics.increase):
        at_zero = float(y[np.searchsorted(x, 0.0, side="right") - 1]) if x[0] <= 0 else 0.0
        parts.append((float(y[-1]) - at_zero, name))
    parts.sort(reverse=True)
    told = listed(f"{size(max(amount, 0.0))} from {name}" for amount, name in parts)
    return f"Weights loaded since the injection: {told}."


def cache(found: Found) -> str:
    """The cache's hit ratio before and since the injection."""
    series = found.get("cache_requests", ())
    if not series:
        return "Prometheus recorded no cache requests."
    before, since = [0.0, 0.0], [0.0, 0.0]
    grid = metrics.grid_of(series)
    for one in series:
        grown = metrics.increase(one, grid)
        at_zero = float(grown[max(int(np.searchsorted(grid, 0.0, side="right")) - 1, 0)])
        for tally, amount in ((before, at_zero), (since, float(grown[-1]) - at_zero)):
            tally[1] += amount
            tally[0] += amount if metrics.is_hit(one.labels) else 0.0
    told = [
        f"{percent(*tally)} of {count(round(tally[1]), 'weight request')} {when}" if tally[1] else f"no request {when}"
        for tally, when in ((before, "before the injection"), (since, "since it"))
    ]
    return f"The nodes’ own caches answered {' and '.join(told)}."


def gpus(found: Found, victims: Sequence[str]) -> str:
    """GPUs allocated (with victims: by the survivors) before the injection, at most after it, and at the end."""
    series = found.get("gpus_allocated", ())
    if not series:
        return "Prometheus recorded no allocated GPUs."
    grid = metrics.grid_of(series)
    survivors = [s for s in series if s.labels.get("cluster") not in victims]
    if not survivors:
        return "Prometheus recorded no allocated GPUs of survivors."
    total: metrics.Floats = np.nansum(np.array([metrics.level(s, grid) for s in survivors]), axis=0)
    since = int(np.searchsorted(grid, 0.0, side="right"))
    before, after = total[:since], total[since:]
    start = f"{before[-1]:.0f} before the injection, " if len(before) else ""
    most = f"{after.max():.0f} at most after it, " if len(after) else ""
    whose = " by the survivors" if victims else ""
    return f"GPUs allocated{whose}: {start}{most}{total[-1]:.0f} at the end."
