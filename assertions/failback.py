"""``Homecoming``: has everything that the victims lost come home, and since when. Read by objectives and by live.

A lost replica is home when a replica of its model is ready in the victim since the restore call; a replica that was
only frozen or cut off, and so says nothing when it is back, is home when it answers users again. A surrogate is a
replica that was made elsewhere since the injection; it is gone when it failed or was removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from assertions.case import Case
from assertions.measure import Measure, Unknown
from assertions.phases import event_bounds, stamp_ns
from assertions.recovery import first_byte_ns
from assertions.result import Interval
from assertions.scopes import Load, Scope
from history.op import FAULT_HEALED, OBSERVER, REPLICA_FAILED, REPLICA_GONE, REPLICA_READY, WATCH_GAP
from history.records import ObjectiveSpec

Key = tuple[str, str, str]
"""(model, cluster, replica)"""


@dataclass(frozen=True)
class Homecoming:
    """``home`` of ``lost`` replicas and ``surrogates`` stand at the end of the records. ``bounds``: seconds since the
    injection from which on all were home and no surrogate stood; None where that is not so at the end."""

    lost: int
    home: int
    surrogates: int
    bounds: Interval | None

    @property
    def complete(self) -> bool:
        """Everything is home and no surrogate stands."""
        return self.home >= self.lost and not self.surrogates


@dataclass(frozen=True)
class _Change:
    t_ns: int
    bounds: Interval
    comes: bool
    key: Key


def homecoming(case: Case) -> Homecoming:
    """Replays what clusters said and who answered, from the injection on."""
    victims, lost = case.edges.victims, {model: case.lost(model) for model in case.affected}
    standing: set[Key] = set()
    since: Interval | None = None

    def home() -> int:
        counts = (sum(k[0] == model and k[1] in victims for k in standing) for model in lost)
        return sum(min(count, most) for count, most in zip(counts, lost.values(), strict=True))

    def strange() -> int:
        return sum(key[1] not in victims for key in standing)

    whole = sum(lost.values())
    for change in sorted(_changes(case), key=lambda change: change.t_ns):
        (standing.add if change.comes else standing.discard)(change.key)
        if home() < whole or strange():
            since = None
        elif since is None:
            since = change.bounds
    return Homecoming(whole, home(), strange(), since)


def _changes(case: Case) -> Iterator[_Change]:
    edges, load, history = case.edges, case.load, case.run.history
    homes = {(p.model, p.cluster, p.replica) for p in case.run.header.fleet.placements if p.model in case.affected}
    ended = set[Key]()
    for op in history.of_kind(REPLICA_READY, REPLICA_FAILED, REPLICA_GONE):
        t, key = stamp_ns(op), (op.model, op.cluster, op.replica)
        if op.model not in case.affected or edges.injected is None or t < edges.injected:
            continue
        if op.kind != REPLICA_READY:
            ended.add(key)
        back = edges.heal_of(op.cluster)
        if (back is not None and t >= back) if op.cluster in edges.victims else key not in homes:
            yield _Change(t, event_bounds(case, op), op.kind == REPLICA_READY, key)
    for key in sorted(homes - ended):
        back = edges.heal_of(key[1])
        if back is None or key[1] not in edges.victims or (row := _first_answer(load, key, back)) < 0:
            continue
        sent, answered = max(back, int(load.ops.t_intended[row])), first_byte_ns(load.ops, row)
        yield _Change(answered, (edges.seconds(sent), edges.seconds(answered)), True, key)


def failed_back(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """Seconds from the last verified restore until everything was home, and stayed there until the run ended."""
    edges, victims = case.edges, case.edges.victims
    clocks = [_restored_ns(case, victim) for victim in victims]
    if not victims or None in clocks:
        raise Unknown("not every victim was restored")
    case.hear(OBSERVER)
    found = homecoming(case)
    if not found.lost:
        return Measure((0.0, 0.0), "no replica was lost", "nothing lost")
    where = " and ".join(victims)
    evidence = f"{found.home} of {found.lost} lost replicas are home in {where}, {found.surrogates} surrogates stand"
    zero_s = edges.seconds(max(clock for clock in clocks if clock is not None))
    gaps = [gap for gap in case.run.history.of_kind(WATCH_GAP) if gap.source == OBSERVER and gap.t_done >= edges.stop]
    since_s = min((edges.seconds(gap.t_intended) for gap in gaps), default=edges.seconds(edges.stop))
    if gaps:
        evidence += f"; a watch of the observer broke at {since_s:.2f} s"
    if found.bounds is None:
        return Measure((max(0.0, since_s - zero_s), None), evidence)
    low, high = found.bounds
    return Measure((max(0.0, low - zero_s), None if gaps or high is None else max(0.0, high - zero_s)), evidence)


def _restored_ns(case: Case, victim: str) -> int | None:
    """When a victim was verified back; its restore call where that never was; None where it was not restored."""
    called = case.edges.heal_of(victim)
    if called is None:
        return None
    healed = (op for op in case.run.history.of_kind(FAULT_HEALED) if op.outcome == "ok" and op.cluster == victim)
    return min((stamp_ns(op) for op in healed if stamp_ns(op) >= called), default=called)


def _first_answer(load: Load, key: Key, since_ns: int) -> int:
    """The first op that this replica answered at or after ``since_ns``; -1 if none."""
    ops, (model, cluster, replica) = load.ops, key
    mine = load.ok & (ops.t_done >= since_ns) & ops.cluster.where(cluster) & ops.replica.where(replica)
    rows = np.flatnonzero(mine & ops.model.where(model))
    return int(rows[np.argmin(ops.t_done[rows])]) if len(rows) else -1
