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

    ``reallocated``: a replacement stands for each of ``lost`` replicas, and so until the fault window ends; a
    replacement that failed or went stands no longer. ``ready_replacements``: how many stand at the end.
    ``fell_s``: when they last fell below ``lost``.
    ``reload_s``: the longest weight load of a replacement, by its own clock.
    """

    bounds: dict[str, Interval] = field(default_factory=dict)
    reallocated: Interval | None = None
    lost: int = 0
    ready_replacements: int = 0
    fell_s: float | None = None
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
    healed = edges.healed if edges.to_end else None  # where recovery may need the restore, capacity may too
    back = [op for op in events if op.model == model and op.cluster in scopes.victims]
    back = [op for op in back if healed is not None and stamp_ns(op) >= healed]
    blind = blind_s(run, edges, scopes, OBSERVER)
    fresh = [op for op in survivors if (op.cluster, op.replica) not in homes]

    def bounds(op: Op | None) -> Interval | None:
        return None if op is None else event_bounds(edges, gaps, op)

    def standing(found: Standing) -> Interval | None:
        reached = bounds(found.risen)
        return reached if reached is None or blind is None else (reached[0], None)

    replaced = _standing([*fresh, *back], set(), lost)
    full = _full_capacity(run, scopes, model, [*survivors, *back])
    found: dict[str, Interval | None] = {
        "detected": bounds(_first(op for op in events if op.kind == DETECTED and op.cluster in scopes.victims)),
        "decided": bounds(_first(op for op in events if op.kind == DECIDED and op.model == model)),
        "scheduled": bounds(_first(op for op in fresh if op.kind == REPLICA_SCHEDULED)),
        "weights": bounds(_first(op for op in fresh if op.kind == REPLICA_WEIGHTS)),
        "ready": bounds(_first(op for op in fresh if op.kind == REPLICA_READY)),
        "full_capacity": standing(full),
    }
    reasons = [op for op in events if op.kind == UNPLACEABLE and op.model == model]
    seconds = [op.detail.get("seconds") for op in fresh if op.kind == REPLICA_WEIGHTS]
    reloads = [float(value) for value in seconds if isinstance(value, int | float)]
    return Phases(
        bounds={name: value for name, value in found.items() if value is not None},
        reallocated=standing(replaced),
        lost=lost,
        ready_replacements=replaced.left,
        fell_s=None if replaced.fell is None else edges.seconds(stamp_ns(replaced.fell)),
        unplaceable=str(reasons[-1].detail.get("reason", "no reason given")) if reasons else "",
        reload_s=max(reloads, default=None),
    )


def blind_s(run: Run, edges: Edges, scopes: Scopes, source: str) -> float | None:
    """Since when a watch of ``source`` was broken until the fault window ended; None where none was.

    What did not come in since then may have happened all the same. The watches of victims break by design.
    """
    gaps = [op for op in run.history.of_kind(WATCH_GAP) if op.source == source and op.cluster not in scopes.victims]
    still = [gap.t_intended for gap in gaps if gap.t_intended < edges.fault_end <= stamp_ns(gap)]
    return max(0.0, edges.seconds(min(still))) if still else None


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


@dataclass(frozen=True)
class Standing:
    """``risen``: the event since which enough replicas stand, None if they do not at the end; ``left`` stand then.
    ``fell``: the last event that left too few."""

    risen: Op | None
    left: int
    fell: Op | None


def _standing(events: list[Op], ready: set[tuple[str, str]], needed: int) -> Standing:
    """Replays ``replica.ready``, ``failed`` and ``gone`` upon the replicas that stand already."""
    risen = fell = None
    for op in sorted(events, key=stamp_ns):
        before = len(ready)
        if op.kind == REPLICA_READY:
            ready.add((op.cluster, op.replica))
        elif op.kind in (REPLICA_FAILED, REPLICA_GONE):
            ready.discard((op.cluster, op.replica))
        if before < needed <= len(ready):
            risen = op
        elif len(ready) < needed <= before:
            risen, fell = None, op
    return Standing(risen, len(ready), fell)


def _full_capacity(run: Run, scopes: Scopes, model: str, survivors: list[Op]) -> Standing:
    """When the survivors again have as many ready replicas as were declared."""
    placed = [p for p in run.header.fleet.placements if p.model == model]
    declared = next((m.replicas for m in run.header.fleet.models if m.name == model), 0) or len(placed)
    return _standing(survivors, {(p.cluster, p.replica) for p in placed if p.cluster not in scopes.victims}, declared)
