"""*It really happened*: a drill whose fault did not take effect, or hit nobody, proves nothing (DESIGN 3.8).

Called by ``analyze``. Reads runner events, cluster probes and load ops; a failed check makes the run unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from assertions import canary
from assertions.case import Case
from assertions.measure import Answer, checked
from assertions.phases import stamp_ns
from assertions.result import Check, FaultResult, Seen
from history import op as kinds
from history.clock import NS_PER_MS
from history.op import Op
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
WAITING = "still waiting when it began to come back"
_FOREVER_NS = 10**15


def checks(case: Case) -> tuple[Check, ...]:
    """Every check of one run, in the order in which things happen."""
    questions = CHECKS if case.edges.injected is not None else CHECKS[:1]
    return checked((name, partial(ask, case)) for name, ask in questions)


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
    injections, made = history.of_kind(kinds.FAULT_INJECT), []
    for number, op in enumerate(injections):
        again = [o.t_intended for o in injections[number + 1 :] if o.cluster == op.cluster and op.cluster]
        until = min(again, default=case.edges.stop + _FOREVER_NS)

        def mine(kind: str, since: int, op: Op = op, until: int = until) -> tuple[Op, ...]:
            return tuple(o for o in history.of_kind(kind) if o.cluster == op.cluster and since <= o.t_intended < until)

        own = marks[number] if number < len(marks) and marks[number].cluster == op.cluster else None
        mark = own or next((m for m in marks if m.cluster == op.cluster), FaultMark("unknown", op.cluster, "", ""))
        heal = next(iter(mine(kinds.FAULT_HEAL, op.t_intended)), None)
        healed = () if heal is None else mine(kinds.FAULT_HEALED, heal.t_intended)
        made.append(_Hit(op, mark, mine(kinds.FAULT_VERIFIED, op.t_intended), heal, healed))
    return tuple(made)


def _injected(case: Case) -> Answer:
    if case.edges.injected is None:
        return False, "nothing happened: no fault was injected"
    return True, f"{', '.join(case.edges.victims) or 'no cluster'} at 0 s"


def _not_noop(case: Case) -> Answer:
    marks = case.run.header.faults
    noop = bool(marks) and all(mark.noop for mark in marks)
    return not noop, "nothing happened: the fault is a no-op" if noop else "a real fault"


def _verified(case: Case) -> Answer:
    """Every fault for itself: one that took effect says nothing of another."""
    hits = _hits(case)
    silent = [hit.name for hit in hits if not hit.verified]
    if silent:
        return False, f"no signal confirmed that the fault in {' and '.join(silent)} took effect"
    ops = [op for hit in hits for op in hit.verified]
    return all(op.outcome == "ok" for op in ops), _signals_in_words(ops)


def _healed(case: Case) -> Answer:
    """Every victim for itself."""
    if case.edges.healed is None:
        return None
    hits = _hits(case)
    wrong = [f"{hit.name} was never restored" for hit in hits if hit.heal is None]
    wrong += [f"no signal confirmed that {hit.name} is back" for hit in hits if hit.heal and not hit.healed]
    ends = [hit.healed[-1] for hit in hits if hit.healed]
    ok = not wrong and all(op.outcome == "ok" for op in ends)
    return ok, "; ".join(wrong) or _signals_in_words(ends)


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
    return requests.take(requests.source.where(kinds.CLUSTER_PROBER) & requests.cluster.where(cluster) & inside)


def _probed(case: Case) -> Answer:
    """Each victim answered before, and nearly nothing of it from the verified effect until its heal began."""
    hits = [hit for hit in _hits(case) if hit.op.cluster in case.edges.victims]
    if not hits:
        nobody = not any(mark.cluster for mark in case.run.header.faults)
        return nobody, "no cluster was hit" if nobody else "no victim named"
    found = [_went_dark(case, hit) for hit in hits]
    return all(ok for ok, _ in found), "; ".join(text for _, text in found)


def _end_ns(case: Case, hit: _Hit) -> int:
    """When its heal began, or the stage before it that set parts of it up; the load's stop where neither did."""
    end = case.edges.stop if hit.heal is None else hit.heal.t_intended
    since = hit.op.t_intended
    own = [op for op in case.run.history.of_kind(kinds.RESTORE_STAGE) if op.cluster == hit.op.cluster]
    set_up = [op.t_intended for op in own if op.detail.get("does") == "set up" and op.t_intended >= since]
    return min([end, *set_up])


def _hidden(hit: _Hit) -> tuple[str, ...]:
    """The planes that its fault silences."""
    if hit.mark.signature == UNHURT:
        return ()
    return (kinds.PROBE_API,) if hit.mark.signature == API_GONE else (kinds.PROBE_API, kinds.PROBE_DATA)


def _went_dark(case: Case, hit: _Hit) -> tuple[bool, str]:
    start, end = hit.op.t_intended if hit.verified_op is None else stamp_ns(hit.verified_op), _end_ns(case, hit)
    before = _probes(case, hit.op.cluster, case.edges.start, hit.op.t_intended)
    during = _probes(case, hit.op.cluster, start, end)
    ok, said = False, list[str]()
    for plane in _hidden(hit) or (kinds.PROBE_API, kinds.PROBE_DATA):
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


def _stages(case: Case) -> Answer:
    stages = case.run.history.of_kind(kinds.RESTORE_STAGE)
    if not stages:
        return None
    odd = [str(op.detail.get("name", "")) for op in stages if op.outcome != "ok"]
    return not odd, f"not as declared: {', '.join(odd)}" if odd else f"{len(stages)} stages as declared"


def _in_flight(case: Case) -> Answer:
    """Under way when the first injection was called; or sent during that call, and neither back when it returned nor
    answered well: the fault strikes at some instant of the call, and nobody knows at which."""
    ops, zero = case.load.ops, case.edges.zero
    returned = case.run.history.of_kind(kinds.FAULT_INJECT)[0].t_done
    sent, open_end = ops.t_sent >= 0, (ops.t_done < 0) & case.load.struck
    under_way = sent & (ops.t_sent <= zero) & ((ops.t_done > zero) | open_end)
    during = sent & (ops.t_sent > zero) & (ops.t_sent <= returned) & ((ops.t_done > returned) | ~case.load.ok)
    count = int((under_way | during).sum())
    return count >= 1, f"{count:,} requests in flight during the injection call"


def _had_served(case: Case) -> Answer:
    """None where answers do not say which cluster served them: then nothing can be said of it."""
    before = case.load.in_window("baseline") & case.load.ok
    clusters = case.load.ops.cluster
    if not (before & (clusters.codes != 0)).any():
        return None
    counts = [(victim, int((before & clusters.where(victim)).sum())) for victim in case.edges.victims]
    detail = "; ".join(f"{victim} answered {count:,} requests of the baseline" for victim, count in counts)
    return all(count > 0 for _, count in counts), detail or "no victim named"


def _ops_in(window: str, case: Case) -> Answer:
    """Of the failback only where a step restores, or an objective judges it: a heal after the steps is mere tidying."""
    header, healed = case.run.header, case.edges.healed
    ends = [op.t_done for op in case.run.history.of_kind(kinds.STEP_END)]
    tidied = healed is not None and bool(ends) and max(ends) <= healed
    wanted = any(step.kind.lower() == "restore" for step in header.steps) and not tidied
    wanted = wanted or any(o.window == "failback" for o in header.objectives)
    if window == "failback" and (healed is None or not wanted):
        return None
    count = int(case.load.in_window(window).sum())
    return count >= WINDOW_OPS, f"{count:,} load ops (at least {WINDOW_OPS})"


CHECKS: tuple[tuple[str, Callable[[Case], Answer]], ...] = (
    ("fault injected", _injected),
    ("fault is no rehearsal", _not_noop),
    ("fault verified", _verified),
    ("cluster prober saw it", _probed),
    ("requests in flight", _in_flight),
    ("victim had served", _had_served),
    ("new connections agree", canary.agrees),
    ("heal verified", _healed),
    ("restore stages", _stages),
    ("ops in baseline", partial(_ops_in, "baseline")),
    ("ops in fault", partial(_ops_in, "fault")),
    ("ops in failback", partial(_ops_in, "failback")),
)


def _fault(case: Case, hit: _Hit) -> FaultResult:
    seconds, back = case.edges.seconds, [op for op in hit.healed if op.outcome == "ok"]
    return FaultResult(
        kind=hit.mark.kind,
        cluster=hit.op.cluster,
        signature=hit.mark.signature,
        injected_s=seconds(hit.op.t_intended),
        verified_s=None if hit.verified_op is None else seconds(stamp_ns(hit.verified_op)),
        heal_s=None if hit.heal is None else seconds(hit.heal.t_intended),
        healed_s=seconds(stamp_ns(back[0])) if back else None,
        signals=tuple(signal for op in hit.verified[:1] for signal in _signals(op)),
        seen=_seen(case, hit),
    )


def _seen(case: Case, hit: _Hit) -> tuple[Seen, ...]:
    end = _end_ns(case, hit)
    probes = _probes(case, hit.op.cluster, hit.op.t_intended, end)
    hidden = np.any([probes.kind.where(plane) for plane in _hidden(hit)], axis=0)
    waiting = hidden & (probes.t_done >= end)  # what a cluster says that comes back, the fault did not
    still = WAITING if end < case.edges.stop else "still waiting at the end"
    took_ms: dict[tuple[str, str], list[float]] = {}
    for row in np.flatnonzero((probes.outcome.where("fail") & (probes.t_done >= 0)) | waiting):
        way = still if waiting[row] else probes.error[int(row)] or "no error named"
        sent = probes.t_sent[row] if probes.t_sent[row] >= 0 else probes.t_intended[row]
        took = took_ms.setdefault((probes.kind[int(row)].removeprefix("probe."), way), [])
        took.append(float(min(probes.t_done[row], end) - sent) / NS_PER_MS)
    return tuple(Seen(*way, len(each), median(each)) for way, each in sorted(took_ms.items()))
