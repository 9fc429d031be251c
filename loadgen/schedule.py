"""The open-loop plan: when each request is sent and which part of the mix it belongs to. Pure and seeded.

The runner (and the Locust file, when it is used by hand) calls ``draw`` once and writes the result into the run
directory; each load worker calls ``slice_of`` and sends its part. Nothing here reads a clock or sends anything.

Which model a send belongs to is not drawn independently: each entry of the mix has sends of its own, evenly spaced
with a seeded phase, and the sends of all entries are merged in that order (systematic sampling, stratified by entry).
So each model has its share in every stretch of the plan and the gap between two sends of a model is nearly constant.
An independent draw would leave a model of 3 % of the load without a send for several times its mean gap now and
then, and the interval in which *service back* lies is as wide as that gap.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from history.clock import NS_PER_S
from history.errors import UsageError
from history.records import LoadSpec, Mix
from history.rundir import Schedule

MAX_SENDS = 20_000_000
"""More than this in one plan is a mistake of units: 20 million sends are 2,000 rps for almost three hours."""

Floats = NDArray[np.float64]


def draw(load: LoadSpec, mix: Mix) -> Schedule:
    """Draws the plan of a load: send offsets in ns, sorted, all within ``horizon_s``, and each send's mix entry.

    The same ``load`` and ``mix`` give the same plan. Raises ``UsageError`` with every mistake found.
    """
    problems = (*load_problems(load), *_mix_problems(mix))
    if problems:
        raise UsageError(
            "the load cannot be scheduled: " + "; ".join(problems),
            hint="correct the load or the mix of the drill",
            problems=problems,
        )
    times_random, mix_random = np.random.default_rng(load.seed).spawn(2)
    offsets = (_offsets_s(load, times_random) * NS_PER_S).astype(np.int64)
    offsets = offsets[offsets < int(load.horizon_s * NS_PER_S)]
    shares = np.array([entry.share for entry in mix.entries], np.float64)
    return Schedule(offsets, _entries(len(offsets), shares / shares.sum(), mix_random))


def slice_of(sends: int, index: int, workers: int) -> NDArray[np.int64]:
    """The ``seq`` numbers that worker ``index`` of ``workers`` sends: seq modulo ``workers`` is ``index``."""
    if not 0 <= index < workers:
        raise ValueError(f"worker index {index} is not in 0..{workers - 1}")
    return np.arange(index, sends, workers, dtype=np.int64)


def load_problems(load: LoadSpec) -> list[str]:
    """Every mistake of a load, each with the value and the rule."""
    found = []
    for name in ("rate_rps", "horizon_s", "good_within_ms", "connect_timeout_s", "total_timeout_s"):
        if not (math.isfinite(value := getattr(load, name)) and value > 0):
            found.append(f"{name}={value!r}: must be a number above 0")
    if load.shape not in ("constant", "ramp", "poisson"):
        found.append(f"shape={load.shape!r}: must be constant, ramp or poisson")
    if load.shape == "ramp":
        if not load.ramp_s > 0:
            found.append(f"ramp_s={load.ramp_s!r}: a ramp needs more than 0 seconds")
        if not load.rate_from_rps >= 0:
            found.append(f"rate_from_rps={load.rate_from_rps!r}: must not be negative")
    if not found and load.good_within_ms > load.total_timeout_s * 1000:
        found.append(
            f"good_within_ms={load.good_within_ms:g} is longer than total_timeout_s={load.total_timeout_s:g}: "
            "no answer could be that late and still be good"
        )
    peak_rps = max(load.rate_rps, load.rate_from_rps if load.shape == "ramp" else 0.0)
    if peak_rps * load.horizon_s > MAX_SENDS:
        found.append(f"{peak_rps:g} rps for {load.horizon_s:g} s are more than {MAX_SENDS:,} sends")
    return found


def _mix_problems(mix: Mix) -> list[str]:
    if not mix.entries:
        return ["the mix has no entry"]
    found = [f"share of {e.model} is {e.share:g}, it must be above 0" for e in mix.entries if not e.share > 0]
    total = sum(entry.share for entry in mix.entries)
    if abs(total - 1) > 1e-6:
        found.append(f"the shares of the mix sum to {total:g}, they must sum to 1")
    return found


def _offsets_s(load: LoadSpec, random: np.random.Generator) -> Floats:
    if load.shape == "poisson":
        return _poisson_s(load.rate_rps, load.horizon_s, random)
    phase = random.random()  # of the first gap, so that two seeds do not send at the same instants
    if load.shape == "constant":
        return (np.arange(int(load.rate_rps * load.horizon_s) + 1, dtype=np.float64) + phase) / load.rate_rps
    return _ramp_s(load, phase)


def _poisson_s(rate_rps: float, horizon_s: float, random: np.random.Generator) -> Floats:
    mean = rate_rps * horizon_s
    chunk = int(mean + 6 * mean**0.5) + 16
    times = np.cumsum(random.exponential(1 / rate_rps, chunk))
    while times[-1] < horizon_s:  # six sigma above the mean: practically never
        times = np.concatenate([times, times[-1] + np.cumsum(random.exponential(1 / rate_rps, chunk))])
    return times


def _ramp_s(load: LoadSpec, phase: float) -> Floats:
    """Inverts the number of sends until t: n(t) = r0·t + a·t²/2 on the ramp, then r1 a second."""
    r0, r1, ramp_s = load.rate_from_rps, load.rate_rps, load.ramp_s
    on_ramp = (r0 + r1) / 2 * ramp_s
    total = on_ramp + max(load.horizon_s - ramp_s, 0.0) * r1
    n = np.arange(int(total) + 1) + phase
    slope = (r1 - r0) / ramp_s
    rising = n[n < on_ramp]
    ramp = rising / r0 if slope == 0 else (np.sqrt(np.maximum(r0 * r0 + 2 * slope * rising, 0.0)) - r0) / slope
    return np.concatenate([ramp, ramp_s + (n[n >= on_ramp] - on_ramp) / r1])


def _entries(sends: int, shares: Floats, random: np.random.Generator) -> NDArray[np.int16]:
    """The mix entry of each send: entry k has places (j + phase_k) / share_k, merged over all entries."""
    phases = random.random(len(shares))
    spare = len(shares) + 2  # so that every place up to the last send exists before the cut
    counts = [int(np.ceil(sends * share)) + spare for share in shares]
    places = np.concatenate(
        [(np.arange(n) + phase) / share for n, phase, share in zip(counts, phases, shares, strict=True)]
    )
    entry = np.repeat(np.arange(len(shares), dtype=np.int16), counts)
    return entry[np.argsort(places, kind="stable")][:sends]
