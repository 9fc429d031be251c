"""Guards, as a drill script says them: ``guards as g`` -> ``g.survivor_errors(at_most=0.2)``.

A guard is a live predicate with a grace period. What it does is always the same: when it has said no for the whole
grace period, the runner heals now, stops and drains the load, and the verdict is unknown with the guard's reason.
A guard steers by the history so far and never judges the fleet. Whoever asks to stop (``touch RUN/stop``, SIGUSR1)
is obeyed in every drill, whatever its guards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drills.engine.nouns.located import Located, Problem
from history.clock import NS_PER_MS, NS_PER_S
from history.op import LOAD
from history.reader import Requests, Run

SETTLE_MS = 500.0
"""An answer may take this long from its last byte to the runner's eye; only older sends are looked at."""
LEAST_OPS = 20
"""Fewer sends than this say nothing of an error rate."""
_GAPS = 5.0
"""A load is silent after this many of its mean gaps at the least."""


@dataclass(frozen=True)
class Glance:
    """All that a guard may look at. ``victims``: clusters that the drill hurts; ``stop``: who asked to stop, or ""."""

    run: Run
    now_ns: int
    load_start_ns: int
    victims: tuple[str, ...]
    stop: str = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the load started."""
        return (self.now_ns - self.load_start_ns) / NS_PER_S


@dataclass(frozen=True)
class Guard(Located):
    """``check`` says what is wrong now, or ""; after ``grace_s`` of that without a break the guard trips."""

    name: str
    text: str
    grace_s: float
    check: Callable[[Glance], str]

    def describe(self) -> str:
        """One line for ``plan`` and the header."""
        return self.text + (f", for {self.grace_s:g} s" if self.grace_s else "")

    def problems(self) -> list[Problem]:
        if math.isfinite(self.grace_s) and self.grace_s >= 0:
            return []
        return [self.problem(f"guard {self.name}: grace_s={self.grace_s!r} must be a number that is not negative")]


def survivor_errors(*, at_most: float = 0.5, over_s: float = 5.0, grace_s: float = 10.0) -> Guard:
    """Of what the survivors should have served in the last ``over_s``, at most this share is not good.

    The survivors' part of the load: models without a replica in a victim; where there are none, requests whose answer
    came from a surviving cluster. Sends without an answer in time count as not good.
    """

    _require(0 <= at_most <= 1, f"at_most={at_most!r}: must be a share, 0 to 1")
    _require(0 < over_s < math.inf, f"over_s={over_s!r}: must be a number above 0")

    def check(glance: Glance) -> str:
        recent, mine = _survivors(glance, over_s)
        total = int(mine.sum())
        if total < LEAST_OPS:
            return ""
        good = recent.outcome.where("ok") & (
            recent.t_done - recent.t_intended <= glance.run.header.load.good_within_ms * NS_PER_MS
        )
        bad = total - int((good & mine).sum())
        if bad <= at_most * total:
            return ""
        return f"{bad} of {total} requests to the survivors were not good within {over_s:g} s (limit {at_most:.0%})"

    return Guard(
        "survivor-errors", f"at most {at_most:.0%} errors among the survivors over {over_s:g} s", grace_s, check
    )


def telemetry(*, at_most_s: float | None = None, grace_s: float = 0.0) -> Guard:
    """A record of the load is never older than this; by default the client's total time-out and 5 s more.

    Telemetry that stops is a trip, not silence. A load slower than one request in ``at_most_s / 5`` is given time.
    """

    _require_above_0(at_most_s)

    def check(glance: Glance) -> str:
        load = glance.run.header.load
        limit_s = at_most_s if at_most_s is not None else load.total_timeout_s + 5.0
        limit_s = max(limit_s, _GAPS / load.rate_rps)
        requests = glance.run.history.requests
        mine = requests.source.where(LOAD)
        last_ns = glance.load_start_ns
        if mine.any():
            last_ns = max(last_ns, int(requests.t_done[mine].max()), int(requests.t_sent[mine].max()))
        age_s = (glance.now_ns - last_ns) / NS_PER_S
        return f"the last record of the load is {age_s:.1f} s old (limit {limit_s:g} s)" if age_s > limit_s else ""

    limit = "the total time-out + 5 s" if at_most_s is None else f"{at_most_s:g} s"
    return Guard("telemetry", f"records of the load at most {limit} old", grace_s, check)


def run_time(*, at_most_s: float | None = None) -> Guard:
    """The load runs at most this long; by default as long as the schedule was drawn (all steps and a minute each)."""

    _require_above_0(at_most_s)

    def check(glance: Glance) -> str:
        limit_s = at_most_s if at_most_s is not None else glance.run.header.load.horizon_s
        return (
            f"the run has lasted {glance.elapsed_s:.1f} s (limit {limit_s:g} s)" if glance.elapsed_s > limit_s else ""
        )

    limit = "the schedule's length" if at_most_s is None else f"{at_most_s:g} s"
    return Guard("run-time", f"run time at most {limit}", 0.0, check)


def stop_request() -> Guard:
    """Nobody asked to stop: no file ``RUN/stop``, no SIGUSR1. Stands in every drill by itself."""
    return Guard("stop-request", "a file RUN/stop or SIGUSR1 stops the run", 0.0, lambda glance: glance.stop)


def defaults() -> tuple[Guard, ...]:
    """What guards a drill that names none."""
    return (survivor_errors(), telemetry(), run_time())


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)  # the loader names the line


def _require_above_0(at_most_s: float | None) -> None:
    _require(at_most_s is None or 0 < at_most_s < math.inf, f"at_most_s={at_most_s!r}: must be a number above 0")


def _survivors(glance: Glance, over_s: float) -> tuple[Requests, NDArray[np.bool_]]:
    """(sends of the last ``over_s`` that are due to be settled, which of them are the survivors' to serve)."""
    run = glance.run
    settled_ns = glance.now_ns - round((run.header.load.good_within_ms + SETTLE_MS) * NS_PER_MS)
    load = run.load
    recent = load.take((load.t_intended < settled_ns) & (load.t_intended >= settled_ns - round(over_s * NS_PER_S)))
    hit = {placement.model for placement in run.header.fleet.placements if placement.cluster in glance.victims}
    pools = {name: model.name for model in run.header.fleet.models for name in model.fine_tunes}
    bystanders = {pools.get(entry.model, entry.model) for entry in run.header.mix.entries} - hit
    mine = np.zeros(len(recent), np.bool_)
    for model in bystanders:
        mine |= recent.model.where(model)
    if not bystanders:
        for cluster in run.header.fleet.clusters:
            if cluster.name not in glance.victims:
                mine |= recent.cluster.where(cluster.name)
    return recent, mine
