"""What Prometheus answered, as the run recorded it: counter increases over a window, cache hit ratio, store bytes.

Called by objectives and analyze. Context and proof of mechanism, never the recovery clock. Counters that vanish with
their cluster keep what they had; counters that restart count from zero again.
"""

from __future__ import annotations

from dataclasses import dataclass

from history.clock import NS_PER_S
from history.op import CLOCK_STEPPED, PROMETHEUS, QUERY
from history.reader import History

CACHE_REQUESTS = "cache_requests"
STORE_BYTES = "store_bytes"
LATE_START_NS = 6 * NS_PER_S
"""Samples that begin later than this after a window's start do not show what happened in it. A Prometheus that starts
with the fleet needs 3 to 5 s to find and scrape all targets (measured); the evidence says how much was not seen."""


class NoTelemetry(Exception):
    """Prometheus recorded nothing that answers the question; the text says what is missing."""


@dataclass(frozen=True)
class Series:
    """One counter: sorted sample times in monotonic ns and their values."""

    labels: dict[str, str]
    t_ns: tuple[int, ...]
    values: tuple[float, ...]

    def increase(self, start_ns: int, end_ns: int, first_sample_ns: int) -> float:
        """By how much the counter grew in [start, end]; a series born inside the run starts from zero.

        ``first_sample_ns``: when Prometheus first saw anything. Targets that it found a few scrapes later than others
        were there before: what they had counted until then is not growth.
        """
        born = self.t_ns[0] > first_sample_ns + LATE_START_NS
        previous = 0.0 if born else self.values[0]
        total = 0.0
        for t, value in zip(self.t_ns, self.values, strict=True):
            if t > end_ns:
                break
            grown = value - previous if value >= previous else value
            if t >= start_ns:
                total += grown
            previous = value
        return total


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
    history: History, name: str, start_ns: int, end_ns: int, match: dict[str, str] | None = None
) -> list[tuple[dict[str, str], float]]:
    """(labels, increase over [start, end]) of each series whose labels have everything in ``match``."""
    if history.of_kind(CLOCK_STEPPED):
        raise NoTelemetry("the wall clock was stepped during the run: samples lie in the wrong places")
    found = series(history, name)
    if not found:
        raise NoTelemetry(f"Prometheus recorded no {name}")
    first = min(one.t_ns[0] for one in found)
    if first > start_ns + LATE_START_NS:
        raise NoTelemetry(f"samples of {name} begin {(first - start_ns) / NS_PER_S:.1f} s after the window does")
    if not any(start_ns <= t <= end_ns for one in found for t in one.t_ns):
        raise NoTelemetry(f"no sample of {name} lies in the window")
    wanted = (match or {}).items()
    return [
        (one.labels, one.increase(start_ns, end_ns, first))
        for one in found
        if all(one.labels.get(key) == value for key, value in wanted)
    ]


def unseen_s(history: History, name: str, start_ns: int) -> float:
    """How much of the window's beginning has no sample, in s (0 where samples began before it)."""
    first = min((one.t_ns[0] for one in series(history, name)), default=start_ns)
    return max(0.0, (first - start_ns) / NS_PER_S)


def cache_hit_ratio(history: History, start_ns: int, end_ns: int, match: dict[str, str] | None = None) -> float:
    """Hits over all weight-cache requests in the window; ``NoTelemetry`` where nothing was asked of the caches."""
    hits = total = 0.0
    for labels, grown in increases(history, CACHE_REQUESTS, start_ns, end_ns, match):
        total += grown
        hits += grown if labels.get("result") == "hit" else 0.0
    if total <= 0:
        raise NoTelemetry("the weight caches were asked for nothing in the window")
    return hits / total


def store_bytes(history: History, start_ns: int, end_ns: int, match: dict[str, str] | None = None) -> float:
    """Bytes that weight stores sent in the window."""
    return sum(grown for _, grown in increases(history, STORE_BYTES, start_ns, end_ns, match))
