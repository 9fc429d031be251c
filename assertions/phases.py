"""The phase clock of one model as far as events tell it: detected, decided, scheduled, weights, ready, full capacity.

Called by ``analyze`` for each model that lost replicas; fleets and classes take the latest of their members. Reads
controller and observer events only. A phase that nobody reported is None, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assertions.result import Interval
from history import op as kinds
from history.clock import NS_PER_S
from history.op import OBSERVER, WATCH_GAP, Op

if TYPE_CHECKING:
    from assertions.case import Case

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


def phases(case: Case, model: str) -> Phases:
    """The phases of ``model`` in the fault window; empty when it lost no replica."""
    run, edges, lost = case.run, case.edges, case.lost(model)
    if not lost or edges.injected is None:
        return Phases()
    events = [op for op in run.history.events if edges.injected <= stamp_ns(op) < edges.fault_end]
    mine = [op for op in events if op.model == model]
    survivors = [op for op in mine if op.cluster not in edges.victims]
    fresh = [op for op in replacements(case) if op.model == model]
    back = list[Op]()
    if edges.to_end and edges.healed is not None:  # where recovery may need the restore, capacity may too
        back = [op for op in mine if op.cluster in edges.victims and stamp_ns(op) >= edges.healed]
    blind = blind_s(case, OBSERVER)

    def first(kind: str, among: list[Op]) -> Interval | None:
        op = min((op for op in among if op.kind == kind), key=stamp_ns, default=None)
        return None if op is None else event_bounds(case, op)

    def standing(found: Standing) -> Interval | None:
        if found.risen is None:
            return None
        low, high = event_bounds(case, found.risen)
        return low, high if blind is None else None

    replaced = _standing([*fresh, *back], set(), lost)
    found: dict[str, Interval | None] = {
        "detected": first(kinds.DETECTED, [op for op in events if op.cluster in edges.victims]),
        "decided": first(kinds.DECIDED, mine),
        "scheduled": first(kinds.REPLICA_SCHEDULED, fresh),
        "weights": first(kinds.REPLICA_WEIGHTS, fresh),
        "ready": first(kinds.REPLICA_READY, fresh),
        "full_capacity": standing(_full_capacity(case, model, [*survivors, *back])),
    }
    reasons = [op for op in mine if op.kind == kinds.UNPLACEABLE]
    seconds = [op.detail.get("seconds") for op in fresh if op.kind == kinds.REPLICA_WEIGHTS]
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


def replacements(case: Case) -> list[Op]:
    """What was said in the fault window of replicas that replace lost ones: not of those of a victim, nor of those that
    stood before."""
    edges, homes = case.edges, {(p.cluster, p.replica) for p in case.run.header.fleet.placements}
    if edges.injected is None:
        return []
    return [
        op
        for op in case.run.history.events
        if edges.injected <= stamp_ns(op) < edges.fault_end
        and op.cluster not in edges.victims
        and (op.cluster, op.replica) not in homes
    ]


def blind_s(case: Case, source: str) -> float | None:
    """Since when a watch of ``source`` was broken until the fault window ended; None where none was.

    What did not come in since then may have happened all the same. The watches of victims break by design.
    """
    edges = case.edges
    gaps = [op for op in case.run.history.of_kind(WATCH_GAP) if op.source == source]
    gaps = [op for op in gaps if op.cluster not in edges.victims]
    still = [gap.t_intended for gap in gaps if gap.t_intended < edges.fault_end <= stamp_ns(gap)]
    return edges.since(min(still)) if still else None


def latest(each: Iterable[Interval | None]) -> Interval | None:
    """[latest low, latest high] of a class or fleet; high None when any is; None without any, or if one is missing."""
    known = list(each)
    intervals = [interval for interval in known if interval is not None]
    if not intervals or len(intervals) < len(known):
        return None
    highs = [high for _, high in intervals if high is not None]
    return max(low for low, _ in intervals), max(highs) if len(highs) == len(intervals) else None


def stamp_ns(op: Op) -> int:
    """When an event was received."""
    return op.t_done if op.t_done >= 0 else op.t_intended


def event_bounds(case: Case, op: Op) -> tuple[float, float]:
    """[emitted, received] in seconds; after a watch gap without an emitter's stamp, [gap's start, received]."""
    high = low = stamp_ns(op)
    emitted = op.detail.get("t_emitted")
    if isinstance(emitted, int) and 0 <= emitted <= high:
        low = emitted
    else:
        for gap in case.run.history.of_kind(WATCH_GAP):
            if gap.cluster == op.cluster and gap.t_intended <= high <= stamp_ns(gap) + GAP_NS:
                low = min(low, gap.t_intended)
    return case.edges.since(low), case.edges.since(high)


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
        if op.kind == kinds.REPLICA_READY:
            ready.add((op.cluster, op.replica))
        elif op.kind in (kinds.REPLICA_FAILED, kinds.REPLICA_GONE):
            ready.discard((op.cluster, op.replica))
        if before < needed <= len(ready):
            risen = op
        elif len(ready) < needed <= before:
            risen, fell = None, op
    return Standing(risen, len(ready), fell)


def _full_capacity(case: Case, model: str, events: list[Op]) -> Standing:
    """When there are again as many ready replicas as were declared."""
    fleet = case.run.header.fleet
    placed = [p for p in fleet.placements if p.model == model]
    declared = next((m.replicas for m in fleet.models if m.name == model), 0) or len(placed)
    return _standing(events, {(p.cluster, p.replica) for p in placed if p.cluster not in case.edges.victims}, declared)
