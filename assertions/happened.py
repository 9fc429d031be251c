"""*It really happened*: a drill whose fault did not take effect, or hit nobody, proves nothing (DESIGN 3.8).

Called by ``analyze``. Reads runner events, cluster probes and load ops; a failed check makes the run unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assertions import canary
from assertions.case import Case
from assertions.result import Check, FaultResult, Seen
from history.clock import NS_PER_MS
from history.op import (
    CLUSTER_PROBER,
    FAULT_HEAL,
    FAULT_HEALED,
    FAULT_INJECT,
    FAULT_VERIFIED,
    PROBE_API,
    PROBE_DATA,
    RESTORE_STAGE,
    Op,
)
from history.reader import Requests
from history.records import FaultMark, Signal

UNHURT = "none"
"""Signature of an operation that was refused: the cluster answers on."""
WINDOW_OPS = 20
"""Each window of a drill needs at least so many load ops."""
API_GONE = "api-gone"
"""The signature of faults that spare the data plane."""
PROBES, WELL, DARK = 3, 0.9, 0.95
"""Of at least so many probes of a plane, this share must be answered before a fault and must fail during it."""
_FOREVER_NS = 10**15


def checks(case: Case) -> tuple[Check, ...]:
    """Every check of one run, in the order in which things happen."""
    if case.edges.injected is None:
        return (Check("fault injected", "unknown", "nothing happened: no fault was injected"),)
    made = [Check("fault injected", "pass", f"{', '.join(case.edges.victims) or 'no cluster'} at 0 s"), _not_noop(case)]
    made += [_verified(case), _probed(case), _in_flight(case)]
    made += [check for check in (_had_served(case), canary.agrees(case)) if check is not None]
    if case.edges.healed is not None:
        made.append(_healed(case))
    made += _stages(case) + _windows(case)
    return tuple(made)


def faults(case: Case) -> tuple[FaultResult, ...]:
    """Each injected fault as it happened."""
    return tuple(_fault(case, hit) for hit in _hits(case))


@dataclass(frozen=True)
class _Hit:
    """One injection and what the runner recorded of it until the same cluster was hit again."""

    op: Op
    mark: FaultMark
    verified: tuple[Op, ...]
    heal: Op | None
    healed: tuple[Op, ...]

    @property
    def name(self) -> str:
        return self.op.cluster or "the weight store"

    @property
    def verified_op(self) -> Op | None:
        return next((op for op in self.verified if op.outcome == "ok"), None)


def _hits(case: Case) -> tuple[_Hit, ...]:
    history, marks = case.run.history, case.run.header.faults
    injections, made = history.of_kind(FAULT_INJECT), []
    for number, op in enumerate(injections):
        again = [o.t_intended for o in injections[number + 1 :] if o.cluster == op.cluster and op.cluster]
        until = min(again, default=case.edges.stop + _FOREVER_NS)

        def mine(kind: str, since: int, op: Op = op, until: int = until) -> tuple[Op, ...]:
            return tuple(o for o in history.of_kind(kind) if o.cluster == op.cluster and since <= o.t_intended < until)

        own = marks[number] if number < len(marks) and marks[number].cluster == op.cluster else None
        mark = own or next((m for m in marks if m.cluster == op.cluster), FaultMark("unknown", op.cluster, "", ""))
        heal = next(iter(mine(FAULT_HEAL, op.t_intended)), None)
        healed = () if heal is None else mine(FAULT_HEALED, heal.t_intended)
        made.append(_Hit(op, mark, mine(FAULT_VERIFIED, op.t_intended), heal, healed))
    return tuple(made)


def _check(name: str, ok: bool, detail: str) -> Check:
    return Check(name, "pass" if ok else "unknown", detail)


def _not_noop(case: Case) -> Check:
    marks = case.run.header.faults
    noop = bool(marks) and all(mark.noop for mark in marks)
    return _check(
        "fault is no rehearsal", not noop, "nothing happened: the fault is a no-op" if noop else "a real fault"
    )


def _verified(case: Case) -> Check:
    """Every fault for itself: one that took effect says nothing of another."""
    hits = _hits(case)
    silent = [hit.name for hit in hits if not hit.verified]
    if silent:
        return _check(
            "fault verified", False, f"no signal confirmed that the fault in {' and '.join(silent)} took effect"
        )
    ops = [op for hit in hits for op in hit.verified]
    return _check("fault verified", all(op.outcome == "ok" for op in ops), _signals_in_words(ops))


def _healed(case: Case) -> Check:
    """Every victim for itself."""
    hits = _hits(case)
    wrong = [f"{hit.name} was never restored" for hit in hits if hit.heal is None]
    wrong += [f"no signal confirmed that {hit.name} is back" for hit in hits if hit.heal and not hit.healed]
    ends = [hit.healed[-1] for hit in hits if hit.healed]
    ok = not wrong and all(op.outcome == "ok" for op in ends)
    return _check("heal verified", ok, "; ".join(wrong) or _signals_in_words(ends))


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


def _probes(case: Case, cluster: str, start_ns: int, end_ns: int) -> Requests:
    """Probes of one cluster intended in [start, end)."""
    requests = case.run.history.requests
    inside = (requests.t_intended >= start_ns) & (requests.t_intended < end_ns)
    return requests.take(requests.source.where(CLUSTER_PROBER) & requests.cluster.where(cluster) & inside)


def _probed(case: Case) -> Check:
    """Each victim answered before, and nearly nothing of it from the verified effect to the heal."""
    hits = [hit for hit in _hits(case) if hit.op.cluster in case.edges.victims]
    if not hits:
        nobody = not any(mark.cluster for mark in case.run.header.faults)
        return _check("cluster prober saw it", nobody, "no cluster was hit" if nobody else "no victim named")
    found = [_went_dark(case, hit) for hit in hits]
    return _check("cluster prober saw it", all(ok for ok, _ in found), "; ".join(text for _, text in found))


def _went_dark(case: Case, hit: _Hit) -> tuple[bool, str]:
    start = hit.op.t_intended if hit.verified_op is None else _done(hit.verified_op)
    end = case.edges.stop if hit.heal is None else hit.heal.t_intended
    end = min([end, *(op.t_intended for op in _after_stage(case, start))])
    before = _probes(case, hit.op.cluster, case.edges.start, hit.op.t_intended)
    during = _probes(case, hit.op.cluster, start, end)
    planes = (PROBE_API,) if hit.mark.signature == API_GONE else (PROBE_API, PROBE_DATA)
    ok, said = False, list[str]()
    for plane in planes:
        well, down = before.take(before.kind.where(plane)), during.take(during.kind.where(plane))
        well, down = (known.take(~known.outcome.where("unknown")) for known in (well, down))
        if not len(well) and not len(down):
            continue  # this environment has no such address
        # What a frozen cluster answers once it was healed, it did not answer during the fault.
        dark = int((down.outcome.where("fail") | (down.t_done >= end)).sum())
        good = int(well.outcome.where("ok").sum())
        sound = len(well) >= PROBES and good >= WELL * len(well)
        hidden = len(down) >= PROBES and dark >= DARK * len(down)
        if hit.mark.signature == UNHURT:
            hidden = len(down) >= PROBES and dark <= (1 - WELL) * len(down)
        ok = sound and hidden and (ok or not said)
        name = plane.removeprefix("probe.")
        said.append(f"{name} answered {good:,} of {len(well):,} before and failed {dark:,} of {len(down):,} during")
    return ok, f"{hit.op.cluster}: {', '.join(said) or 'no probe was recorded'}"


def _after_stage(case: Case, start_ns: int) -> list[Op]:
    """Stages of a restore that let parts of the victim run again before it is back."""
    stages = case.run.history.of_kind(RESTORE_STAGE)
    return [op for op in stages if op.detail.get("does") == "set up" and op.t_intended >= start_ns]


def _stages(case: Case) -> list[Check]:
    """None for a restore without stages."""
    stages = case.run.history.of_kind(RESTORE_STAGE)
    if not stages:
        return []
    odd = [str(op.detail.get("name", "")) for op in stages if op.outcome != "ok"]
    detail = f"{len(stages)} stages as declared" if not odd else f"not as declared: {', '.join(odd)}"
    return [_check("restore stages", not odd, detail)]


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


def _fault(case: Case, hit: _Hit) -> FaultResult:
    seconds, back = case.edges.seconds, [op for op in hit.healed if op.outcome == "ok"]
    end = case.edges.stop if hit.heal is None else hit.heal.t_intended
    return FaultResult(
        kind=hit.mark.kind,
        cluster=hit.op.cluster,
        signature=hit.mark.signature,
        injected_s=seconds(hit.op.t_intended),
        verified_s=None if hit.verified_op is None else seconds(_done(hit.verified_op)),
        heal_s=None if hit.heal is None else seconds(hit.heal.t_intended),
        healed_s=seconds(_done(back[0])) if back else None,
        signals=tuple(signal for op in hit.verified[:1] for signal in _signals(op)),
        seen=_seen(_probes(case, hit.op.cluster, hit.op.t_intended, end)),
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
