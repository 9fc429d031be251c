"""What Prometheus answered, as the run recorded it: counter increases over a window, cache hit ratio, store bytes.

Called by objectives and analyze. Context and proof of mechanism, never the recovery clock. Counters that vanish with
their cluster keep what they had; counters that restart count from zero again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from assertions.measure import Unknown
from history.clock import NS_PER_S
from history.op import CLOCK_STEPPED, PROMETHEUS, QUERY
from history.reader import History, Run

CACHE_REQUESTS = "cache_requests"
STORE_BYTES = "store_bytes"
LATE_START_NS = 6 * NS_PER_S
"""Samples that begin later than this after a window's start do not show what happened in it. A Prometheus that starts
with the fleet needs 3 to 5 s to find and scrape all targets (measured); the evidence says how much was not seen."""
GAP_NS = 3 * NS_PER_S
"""Samples come each second, and a missed scrape is bridged for 3 s: a longer hole, or an earlier end, is no sight."""


class NoTelemetry(Unknown):
    """Prometheus recorded nothing that answers the question; the message says what is missing."""

    text = "no telemetry"


@dataclass(frozen=True)
class Series:
    """One counter: sorted sample times in monotonic ns and their values."""

    labels: dict[str, str]
    t_ns: tuple[int, ...]
    values: tuple[float, ...]

    def growth(self, first_sample_ns: int) -> tuple[float, ...]:
        """By how much the counter grew up to each sample since the one before; a restart counts from zero.

        ``first_sample_ns``: when Prometheus first saw any series of this name. One that is born long after that
        starts from zero; what one that was found a few scrapes later than others had counted until then is no growth.
        """
        born = self.t_ns[0] > first_sample_ns + LATE_START_NS
        before = (0.0 if born else self.values[0], *self.values[:-1])
        return tuple(now - was if now >= was else now for was, now in zip(before, self.values, strict=True))

    def increase(self, start_ns: int, end_ns: int, first_sample_ns: int) -> float:
        """By how much the counter grew in [start, end]."""
        grown = zip(self.t_ns, self.growth(first_sample_ns), strict=True)
        return sum(amount for t, amount in grown if start_ns <= t <= end_ns)


def series(history: History, name: str) -> tuple[Series, ...]:
    """Every series that queries called ``name`` returned, merged by labels; malformed samples are skipped."""
    merged: dict[tuple[tuple[str, str], ...], dict[int, float]] = {}
    for op in history.of_kind(QUERY):
        if op.source != PROMETHEUS or op.detail.get("name") != name:
            continue
        found = op.detail.get("series")
        for one in found if isinstance(found, list) else []:
            if not isinstance(one, dict) or not isinstance(one.get("labels"), dict):
                continue
            key = tuple(sorted((str(k), str(v)) for k, v in one["labels"].items()))
            samples = merged.setdefault(key, {})
            for t, value in zip(one.get("t_ns") or [], one.get("values") or [], strict=False):
                if isinstance(t, int) and isinstance(value, int | float):
                    samples[t] = float(value)
    return tuple(
        Series(dict(key), tuple(sorted(samples)), tuple(samples[t] for t in sorted(samples)))
        for key, samples in sorted(merged.items())
        if samples
    )


def increases(
    run: Run, name: str, window_ns: tuple[int, int], match: dict[str, str] | None = None
) -> list[tuple[dict[str, str], float]]:
    """(labels, increase over the window) of each series whose labels have everything in ``match``."""
    start_ns, end_ns = window_ns
    if not run.header.prometheus:
        raise NoTelemetry("this run had no Prometheus")
    if run.history.of_kind(CLOCK_STEPPED):
        raise NoTelemetry("the wall clock was stepped during the run: samples lie in the wrong places")
    found = series(run.history, name)
    if not found:
        raise NoTelemetry(f"Prometheus recorded no {name}")
    wanted = (match or {}).items()
    chosen = [one for one in found if all(one.labels.get(key) == value for key, value in wanted)]
    if not chosen:
        raise NoTelemetry(f"Prometheus recorded no {name} of {', '.join(f'{key} {value}' for key, value in wanted)}")
    first = min(one.t_ns[0] for one in found)
    if first > start_ns + LATE_START_NS:
        raise NoTelemetry(f"samples of {name} begin {(first - start_ns) / NS_PER_S:.1f} s after the window does")
    # A counter may vanish with its cluster; that Prometheus looked all the time shows in all of them together.
    inside = {t for one in found for t in one.t_ns if start_ns <= t <= end_ns}
    seen = [max(first, start_ns), *sorted(inside), end_ns]
    hole, since = max((after - before, before) for before, after in pairwise(seen))
    if hole > GAP_NS:
        at_s = (since - start_ns) / NS_PER_S
        raise NoTelemetry(f"no sample of {name} for {hole / NS_PER_S:.1f} s, from {at_s:.1f} s of the window on")
    return [(one.labels, one.increase(start_ns, end_ns, first)) for one in chosen]


def unseen_s(history: History, name: str, start_ns: int) -> float:
    """How much of the window's beginning has no sample, in s (0 where samples began before it)."""
    first = min((one.t_ns[0] for one in series(history, name)), default=start_ns)
    return max(0.0, (first - start_ns) / NS_PER_S)


def cache_hit_ratio(run: Run, window_ns: tuple[int, int], match: dict[str, str] | None = None) -> float:
    """Hits over all weight-cache requests in the window; ``NoTelemetry`` where nothing was asked of the caches."""
    grown = increases(run, CACHE_REQUESTS, window_ns, match)
    total = sum(amount for _, amount in grown)
    if total <= 0:
        raise NoTelemetry("the weight caches were asked for nothing in the window")
    return sum(amount for labels, amount in grown if labels.get("result") == "hit") / total


def store_bytes(run: Run, window_ns: tuple[int, int], match: dict[str, str] | None = None) -> float:
    """Bytes that weight stores sent in the window."""
    return sum(grown for _, grown in increases(run, STORE_BYTES, window_ns, match))
