"""The phase clock of one model as far as events tell it: detected, decided, scheduled, weights, ready, full capacity.

Called by ``analyze`` for each model that lost replicas; fleets and classes take the latest of their members. Reads
controller and observer events only. A phase that nobody reported is None, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from assertions.result import Interval
from assertions.scopes import Scopes
from assertions.windows import Edges
from history.clock import NS_PER_S
from history.op import (
    CONTROLLER,
    DECIDED,
    DETECTED,
    OBSERVER,
    REPLICA_FAILED,
    REPLICA_GONE,
    REPLICA_READY,
    REPLICA_SCHEDULED,
    REPLICA_WEIGHTS,
    UNPLACEABLE,
    WATCH_GAP,
    Op,
)
from history.reader import History, Run

GAP_NS = NS_PER_S
"""An event received within 1 s of a watch gap's end may have happened anywhere in the gap."""

EVENT_PHASES = ("detected", "decided", "scheduled", "weights", "ready", "full_capacity")


@dataclass(frozen=True)
class Phases:
    """Bounds by phase name in seconds; a phase that did not happen or was not seen is absent.

    ``reallocated``: a replacement is ready for each of ``lost`` replicas. ``ready_replacements``: how many were.
    ``reload_s``: the longest weight load of a replacement, by its own clock.
    """

    bounds: dict[str, Interval] = field(default_factory=dict)
    reallocated: Interval | None = None
    lost: int = 0
    ready_replacements: int = 0
    unplaceable: str = ""
    reload_s: float | None = None


@dataclass(frozen=True)
class Sight:
    """Who reported anything at all in this run: without a reporter, absence of an event means nothing."""

    controller: bool
    observer: bool


def sight(history: History) -> Sight:
    """Whether a controller and an observer said anything in this run."""
    return Sight(
        any(op.source == CONTROLLER for op in history.events), any(op.source == OBSERVER for op in history.events)
    )


def phases(run: Run, edges: Edges, scopes: Scopes, model: str) -> Phases:
    """The phases of ``model`` in the fault window; empty when it lost no replica."""
    lost = scopes.lost(model)
    if not lost or edges.injected is None:
        return Phases()
    events = [op for op in run.history.events if edges.injected <= stamp_ns(op) < edges.fault_end]
    gaps = run.history.of_kind(WATCH_GAP)
    homes = {(p.cluster, p.replica) for p in run.header.fleet.placements}
    survivors = [op for op in events if op.model == model and op.cluster not in scopes.victims]
    fresh = [op for op in survivors if (op.cluster, op.replica) not in homes]

    def bounds(op: Op | None) -> Interval | None:
        return None if op is None else event_bounds(edges, gaps, op)

    found: dict[str, Interval | None] = {
        "detected": bounds(_first(op for op in events if op.kind == DETECTED and op.cluster in scopes.victims)),
        "decided": bounds(_first(op for op in events if op.kind == DECIDED and op.model == model)),
        "scheduled": bounds(_first(op for op in fresh if op.kind == REPLICA_SCHEDULED)),
        "weights": bounds(_first(op for op in fresh if op.kind == REPLICA_WEIGHTS)),
        "ready": bounds(_first(op for op in fresh if op.kind == REPLICA_READY)),
        "full_capacity": bounds(_full_capacity(run, scopes, model, survivors)),
    }
    ready = _first_ready(fresh)
    reasons = [op for op in events if op.kind == UNPLACEABLE and op.model == model]
    seconds = [op.detail.get("seconds") for op in fresh if op.kind == REPLICA_WEIGHTS]
    reloads = [float(value) for value in seconds if isinstance(value, int | float)]
    return Phases(
        bounds={name: value for name, value in found.items() if value is not None},
        reallocated=bounds(ready[lost - 1]) if len(ready) >= lost else None,
        lost=lost,
        ready_replacements=len(ready),
        unplaceable=str(reasons[-1].detail.get("reason", "no reason given")) if reasons else "",
        reload_s=max(reloads, default=None),
    )


def latest(members: list[Phases]) -> dict[str, Interval]:
    """Phases of a class or fleet: the latest of its affected members; absent if any of them lacks it."""
    affected = [member for member in members if member.lost]
    found: dict[str, Interval] = {}
    for name in EVENT_PHASES:
        each = [member.bounds.get(name) for member in affected]
        known = [interval for interval in each if interval is not None]
        if known and len(known) == len(each):
            found[name] = latest_interval(known)
    return found


def latest_interval(intervals: list[Interval]) -> Interval:
    """[latest low, latest high]; high None when any is."""
    highs = [high for _, high in intervals if high is not None]
    return max(low for low, _ in intervals), max(highs) if len(highs) == len(intervals) else None


def stamp_ns(op: Op) -> int:
    """When an event was received."""
    return op.t_done if op.t_done >= 0 else op.t_intended


def event_bounds(edges: Edges, gaps: tuple[Op, ...], op: Op) -> Interval:
    """[emitted, received] in seconds; after a watch gap without an emitter's stamp, [gap's start, received]."""
    high = stamp_ns(op)
    emitted = op.detail.get("t_emitted")
    low = high
    if isinstance(emitted, int) and 0 <= emitted <= high:
        low = emitted
    else:
        for gap in gaps:
            if gap.cluster == op.cluster and gap.t_intended <= high <= stamp_ns(gap) + GAP_NS:
                low = min(low, gap.t_intended)
    return max(0.0, edges.seconds(low)), max(0.0, edges.seconds(high))


def _first(ops: Iterable[Op]) -> Op | None:
    return min(ops, key=stamp_ns, default=None)


def _first_ready(fresh: list[Op]) -> list[Op]:
    """The first ``replica.ready`` of each replacement, in time order."""
    first: dict[tuple[str, str], Op] = {}
    for op in sorted(fresh, key=stamp_ns):
        if op.kind == REPLICA_READY:
            first.setdefault((op.cluster, op.replica), op)
    return list(first.values())


def _full_capacity(run: Run, scopes: Scopes, model: str, survivors: list[Op]) -> Op | None:
    """The ``replica.ready`` with which the survivors again have as many ready replicas as were declared."""
    placed = [p for p in run.header.fleet.placements if p.model == model]
    declared = next((m.replicas for m in run.header.fleet.models if m.name == model), 0) or len(placed)
    ready = {(p.cluster, p.replica) for p in placed if p.cluster not in scopes.victims}
    for op in sorted(survivors, key=stamp_ns):
        key = (op.cluster, op.replica)
        if op.kind == REPLICA_READY:
            ready.add(key)
            if len(ready) >= declared:
                return op
        elif op.kind in (REPLICA_FAILED, REPLICA_GONE):
            ready.discard(key)
    return None
