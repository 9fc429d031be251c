"""*It really happened*: a drill whose fault did not take effect, or hit nobody, proves nothing (DESIGN 3.8).

Called by ``analyze``. Reads runner events, cluster probes and load ops; a failed check makes the run unknown.
"""

from __future__ import annotations

import numpy as np

from assertions.case import Case
from assertions.result import Check, FaultResult, Seen
from history.clock import NS_PER_MS
from history.op import CLUSTER_PROBER, FAULT_HEALED, FAULT_INJECT, FAULT_VERIFIED, Op
from history.reader import Requests
from history.records import FaultMark, Signal

WINDOW_OPS = 20
"""Each window of a drill needs at least so many load ops."""


def checks(case: Case) -> tuple[Check, ...]:
    """Every check of one run, in the order in which things happen."""
    if case.edges.injected is None:
        return (Check("fault injected", "unknown", "nothing happened: no fault was injected"),)
    made = [Check("fault injected", "pass", f"{', '.join(case.edges.victims) or 'no cluster'} at 0 s"), _not_noop(case)]
    made += [_verified(case), _probed(case), _in_flight(case)]
    served = _had_served(case)
    if served is not None:
        made.append(served)
    if case.edges.healed is not None:
        made.append(_healed(case))
    made += _windows(case)
    return tuple(made)


def faults(case: Case) -> tuple[FaultResult, ...]:
    """Each injected fault as it happened."""
    injections = case.run.history.of_kind(FAULT_INJECT)
    return tuple(_fault(case, op, number, injections) for number, op in enumerate(injections))


def _check(name: str, ok: bool, detail: str) -> Check:
    return Check(name, "pass" if ok else "unknown", detail)


def _not_noop(case: Case) -> Check:
    marks = case.run.header.faults
    noop = bool(marks) and all(mark.noop for mark in marks)
    return _check(
        "fault is no rehearsal", not noop, "nothing happened: the fault is a no-op" if noop else "a real fault"
    )


def _after(case: Case, kind: str, since_ns: int) -> list[Op]:
    return [op for op in case.run.history.of_kind(kind) if op.t_intended >= since_ns]


def _verified(case: Case) -> Check:
    found = _after(case, FAULT_VERIFIED, case.edges.zero)
    if not found:
        return _check("fault verified", False, "no signal confirmed that the fault took effect")
    return _check("fault verified", all(op.outcome == "ok" for op in found), _signals_in_words(found))


def _healed(case: Case) -> Check:
    found = _after(case, FAULT_HEALED, case.edges.healed or 0)
    if not found:
        return _check("heal verified", False, "no signal confirmed that the cluster is back")
    return _check("heal verified", found[-1].outcome == "ok", _signals_in_words(found[-1:]))


def _signals_in_words(ops: list[Op]) -> str:
    signals = [signal for op in ops for signal in _signals(op)]
    said = [f"{signal.name}: {signal.seen or ('yes' if signal.ok else 'no')}" for signal in signals]
    return "; ".join(said) or "no signals recorded"


def _signals(op: Op) -> tuple[Signal, ...]:
    raw = op.detail.get("signals")
    return tuple(
        Signal(str(one.get("name", "")), bool(one.get("ok")), str(one.get("seen", "")))
        for one in (raw if isinstance(raw, list) else [])
        if isinstance(one, dict)
    )


def _probes(case: Case, cluster: str) -> Requests:
    """Probes of one cluster that were sent between the injection and the heal."""
    requests = case.run.history.requests
    inside = (requests.t_intended >= case.edges.zero) & (requests.t_intended < case.edges.fault_end)
    return requests.take(requests.source.where(CLUSTER_PROBER) & requests.cluster.where(cluster) & inside)


def _probed(case: Case) -> Check:
    name, said, ok = "cluster prober saw it", [], bool(case.edges.victims)
    for victim in case.edges.victims:
        probes = _probes(case, victim)
        failed = int(probes.outcome.where("fail").sum())
        ok = ok and failed > 0
        said.append(f"{failed:,} of {len(probes):,} probes of {victim} failed")
    return _check(name, ok, "; ".join(said) or "no victim named")


def _in_flight(case: Case) -> Check:
    ops, zero = case.load.ops, case.edges.zero
    sent = (ops.t_sent >= 0) & (ops.t_sent <= zero)
    count = int((sent & ((ops.t_done > zero) | ((ops.t_done < 0) & case.load.struck))).sum())
    return _check("requests in flight", count >= 1, f"{count:,} requests in flight at the injection")


def _had_served(case: Case) -> Check | None:
    """None where answers do not say which cluster served them: then nothing can be said of it."""
    before = case.load.in_window("baseline") & case.load.ok
    clusters = case.load.ops.cluster
    if not (before & (clusters.codes != 0)).any():
        return None
    counts = [(victim, int((before & clusters.where(victim)).sum())) for victim in case.edges.victims]
    detail = "; ".join(f"{victim} answered {count:,} requests of the baseline" for victim, count in counts)
    return _check("victim had served", all(count > 0 for _, count in counts), detail or "no victim named")


def _failback_matters(case: Case) -> bool:
    """A drill that restores, or judges the failback. A heal at the end of a run that does neither is mere tidying."""
    header = case.run.header
    wanted = any(step.kind.lower() == "restore" for step in header.steps)
    return case.edges.healed is not None and (wanted or any(o.window == "failback" for o in header.objectives))


def _windows(case: Case) -> list[Check]:
    names = ["baseline", "fault"] + (["failback"] if _failback_matters(case) else [])
    made = []
    for name in names:
        count = int(case.load.in_window(name).sum())
        made.append(_check(f"ops in {name}", count >= WINDOW_OPS, f"{count:,} load ops (at least {WINDOW_OPS})"))
    return made


def _fault(case: Case, op: Op, number: int, injections: tuple[Op, ...]) -> FaultResult:
    marks = case.run.header.faults
    mark = next((m for m in marks if m.cluster == op.cluster), marks[number] if number < len(marks) else None)
    mark = mark or FaultMark("unknown", op.cluster, "", "")
    seconds = case.edges.seconds
    verified = [v for v in _after(case, FAULT_VERIFIED, op.t_intended) if v.cluster in ("", op.cluster)]
    healed_ns = case.edges.healed
    back = [] if healed_ns is None else [h for h in _after(case, FAULT_HEALED, healed_ns) if h.outcome == "ok"]
    back = [h for h in back if h.cluster in ("", op.cluster)]
    good = [v for v in verified if v.outcome == "ok"]
    return FaultResult(
        kind=mark.kind,
        cluster=op.cluster,
        signature=mark.signature,
        injected_s=seconds(op.t_intended),
        verified_s=seconds(_done(good[0])) if good else None,
        heal_s=None if healed_ns is None else seconds(healed_ns),
        healed_s=seconds(_done(back[0])) if back else None,
        signals=tuple(signal for v in verified[:1] for signal in _signals(v)),
        seen=_seen(_probes(case, op.cluster)),
    )


def _done(op: Op) -> int:
    return op.t_done if op.t_done >= 0 else op.t_intended


def _seen(probes: Requests) -> tuple[Seen, ...]:
    failed = probes.take(probes.outcome.where("fail"))
    keys = sorted({(failed.kind[i], failed.error[i]) for i in range(len(failed))})
    found = []
    for kind, error in keys:
        rows = failed.take(failed.kind.where(kind) & failed.error.where(error))
        took = (rows.t_done - np.where(rows.t_sent >= 0, rows.t_sent, rows.t_intended)) / NS_PER_MS
        took = took[rows.t_done >= 0]
        plane = kind.removeprefix("probe.")
        found.append(Seen(plane, error, len(rows), float(np.median(took)) if len(took) else 0.0))
    return tuple(found)
