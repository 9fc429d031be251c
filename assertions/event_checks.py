"""Objectives judged from what clusters, controllers and the runner said, and from counters, rather than from load ops.

Was the forecast right; was anything placed twice; does a cluster that was declared restored serve; how long did its
provisioning take; how often did the store send each object; was a busy store left alone; was rot caught. Each is one
checker of ``objectives.CHECKERS``; without a reporter, silence is unknown.
"""

from __future__ import annotations

from collections import Counter

from assertions.case import Case
from assertions.measure import Measure, Unknown
from assertions.phases import stamp_ns
from assertions.scopes import Scope
from assertions.telemetry import increases, store_bytes
from history import op as kinds
from history.clock import NS_PER_S
from history.op import OBSERVER, Op
from history.records import ObjectiveSpec

GONE_FAULTS = ("PowerLoss", "Destroy")
"""Faults after which nothing that ran in the victim runs any more; after all others it comes back as it was."""
SERVING_FAULTS = ("ControlPlaneCut",)
"""Faults during which what runs in the victim serves on, and so counts."""


def forecast_right(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """How many models did other than the forecast said: who fits recovers, who does not finds no place."""
    forecast = case.run.header.forecast_of(case.edges.victims)
    if forecast is None or set(forecast.gone) != set(case.edges.victims):
        raise Unknown("the run has no forecast for its victims")
    case.hear(OBSERVER)
    told, wrong = [], 0
    for one in forecast.models:
        if not one.replicas_lost or one.undecided:
            continue
        actual = case.phases[one.model]
        placed = actual.ready_replacements >= actual.lost
        found = case.recovery(Scope(one.model, (one.model,)), case.ratio(f"model:{one.model}"))
        back = found.unaffected or (found.recovered is not None and found.recovered[1] is not None)
        right = (placed and back and not found.relapsed) if one.fits else not placed
        wrong += not right
        said, was = "fits" if one.fits else "does not fit", "placed" if placed else "not placed"
        told.append(f"{one.model}: forecast {said}; {was}, {'recovered' if back else 'not recovered'}")
    if not told:
        raise Unknown("the victim held nothing: there was nothing to forecast")
    return Measure((wrong, wrong), "; ".join(told), f"{wrong} of {len(told)} wrong" if wrong else "right")


def placed_twice(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """The longest time for which a model had more ready replicas than declared, in the window. For as long as a cluster
    was out of sight there may have been more; not so the victim until it was verified back: nobody could place anything
    there, and what it held counts from its heal on where it may have run on."""
    window = case.window_ns(spec.window)
    case.hear(OBSERVER)
    worst_ns, where = 0, "no model had more ready replicas than declared"
    for model in scope.models:
        longest_ns, since_ns, count = _longest_excess(case, model, *window)
        if longest_ns > worst_ns:
            worst_ns = longest_ns
            at_s = case.edges.seconds(since_ns)
            where = (
                f"{model} had {count} ready replicas too many for {longest_ns / NS_PER_S:.2f} s from {at_s:.2f} s on"
            )
    unseen_ns: dict[str, int] = {}
    for gap in case.run.history.of_kind(kinds.WATCH_GAP):
        since = max(gap.t_intended, window[0], _away_until(case, gap.cluster))
        if since < (until := min(stamp_ns(gap), window[1])):
            unseen_ns[gap.cluster] = unseen_ns.get(gap.cluster, 0) + until - since
    unseen_s = sum(unseen_ns.values()) / NS_PER_S
    if unseen_ns:
        where += f"; nobody saw {', '.join(sorted(unseen_ns))} for {unseen_s:.2f} s"
    return Measure((worst_ns / NS_PER_S, worst_ns / NS_PER_S + unseen_s), where)


def _away_until(case: Case, cluster: str) -> int:
    """Until when a cluster was away by the drill's own doing, that is until it was verified back; 0: it was not."""
    edges, hits = case.edges, {mark.kind for mark in case.run.header.faults if mark.cluster == cluster}
    if cluster not in edges.victims or hits <= {"Noop"}:
        return 0
    healed = (op for op in case.run.history.of_kind(kinds.FAULT_HEALED) if op.outcome == "ok" and op.cluster == cluster)
    return min(map(stamp_ns, healed), default=edges.stop)


def _longest_excess(case: Case, model: str, start_ns: int, end_ns: int) -> tuple[int, int, int]:
    """(how long, since when, how many at most) of the longest stretch with more ready replicas than declared."""
    declared = next((m.replicas for m in case.run.header.fleet.models if m.name == model), 0)
    ready = {(p.cluster, p.replica) for p in case.run.header.fleet.placements if p.model == model}
    longest, since, most = (0, 0, 0), 0, 0
    for t, comes, keys in [*_changes(case, model), (end_ns, True, frozenset())]:
        over = len(ready) - declared
        begin, end = max(since, start_ns), min(t, end_ns)
        if over > 0 and end > begin:
            most = max(most, over)
            longest = max(longest, (end - begin, begin, most))
        ready = ready | keys if comes else ready - keys
        if (len(ready) > declared) != (over > 0):
            since, most = t, 0
    return longest


def _changes(case: Case, model: str) -> list[tuple[int, bool, frozenset[tuple[str, str]]]]:
    """(when, come or go, which replicas). The victim's go with the injection; what only hung is back when healed."""
    edges, header = case.edges, case.run.header
    lost = frozenset(
        (p.cluster, p.replica) for p in header.fleet.placements if p.model == model and p.cluster in edges.victims
    )
    made = []
    hits = {mark.kind for mark in header.faults if mark.cluster in edges.victims}
    if edges.injected is not None and not hits <= set(SERVING_FAULTS):
        made.append((edges.injected, False, lost))
        if edges.healed is not None and not hits & set(GONE_FAULTS):
            made.append((edges.healed, True, lost))
    for op in case.run.history.events:
        if op.model == model and op.kind in (kinds.REPLICA_READY, kinds.REPLICA_GONE, kinds.REPLICA_FAILED):
            made.append((stamp_ns(op), op.kind == kinds.REPLICA_READY, frozenset({(op.cluster, op.replica)})))
    return sorted(made, key=lambda change: change[0])


def serves_again(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """Seconds from the moment at which the victim was declared restored to its first good answer to a user."""
    declared = [op for op in case.run.history.of_kind(kinds.FAULT_HEALED) if op.outcome == "ok" and op.cluster]
    if not declared or case.edges.healed is None:
        raise Unknown("no cluster was declared restored")
    at_ns, cluster = stamp_ns(declared[0]), declared[0].cluster
    ops = case.load.ops
    rows = case.load.ok & ops.cluster.where(cluster) & (ops.t_first_byte >= case.edges.healed)
    said = f"{cluster} was declared restored at {case.edges.seconds(at_ns):.2f} s ({_signal_names(declared[0])})"
    if not rows.any():
        waited_s = (case.edges.stop - at_ns) / NS_PER_S
        evidence = f"{said}; it answered no request in the {waited_s:.1f} s that were observed: a false restore"
        return Measure((max(0.0, waited_s), None), evidence)
    first_s = max(0.0, (int(ops.t_first_byte[rows].min()) - at_ns) / NS_PER_S)
    return Measure((first_s, first_s), f"{said}; it answered {int(rows.sum()):,} requests")


def _signal_names(op: Op) -> str:
    signals = op.detail.get("signals")
    return ", ".join(str(one.get("name")) for one in signals) + " ok" if isinstance(signals, list) else "no signals"


def provisioned(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """Seconds from the restore call until a stage of the victim's provisioning (the last without a name) was ok."""
    stages = [op for op in case.run.history.of_kind(kinds.PROVISIONED) if spec.stage in ("", op.detail.get("stage"))]
    if case.edges.healed is None or not stages:
        missing = f"no stage {spec.stage!r} of a restore was seen" if spec.stage else "no restore was seen"
        raise Unknown(missing)
    last = max(stages, key=stamp_ns)
    seconds = (stamp_ns(last) - last.t_intended) / NS_PER_S
    bounds = (seconds, seconds if last.outcome == "ok" else None)
    return Measure(bounds, f"{last.cluster}: {last.detail.get('seen', '')}")


def store_copies(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """Bytes that stores sent in the window over the bytes of the models that each cluster had to load, once each."""
    window = case.window_ns(spec.window)
    case.hear(OBSERVER)
    loads = [
        op
        for op in case.run.history.of_kind(kinds.REPLICA_WEIGHTS)
        if window[0] <= stamp_ns(op) < window[1] and op.model
    ]
    size = {model.name: model.weight_bytes for model in case.run.header.fleet.models}
    needed = sum(size.get(model, 0) for model, _ in {(op.model, op.cluster) for op in loads})
    if not needed:
        raise Unknown("no replica loaded weights in the window")
    sent = store_bytes(case.run, window)
    replicas = Counter(op.model for op in loads)
    most = ", ".join(f"{count} of {model}" for model, count in replicas.most_common(3))
    evidence = f"stores sent {sent / 2**20:.1f} MiB for {needed / 2**20:.1f} MiB, once a cluster; loads: {most}"
    return Measure((sent / needed, sent / needed), evidence)


def busy_honoured(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """How often a store that had answered 503 was asked again before the time it gave had passed."""
    busy = _counted(case, spec, "store_busy")
    if busy < 1:
        raise Unknown("no store answered 503: there was nothing to honour")
    early = _counted(case, spec, "store_impatient")
    return Measure((early, early), f"{busy:.0f} answers were 503 with Retry-After; {early:.0f} askers came too early")


def corrupt_caught(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """Objects that failed their hash on a node, and so were never served."""
    found = _counted(case, spec, "weight_corrupt")
    return Measure((found, found), f"{found:.0f} objects failed their hash where they arrived")


def _counted(case: Case, spec: ObjectiveSpec, query: str) -> float:
    return sum(grown for _, grown in increases(case.run, query, case.window_ns(spec.window)))
