"""What the canary saw: probes of the entry point over a new connection each, never part of an error rate.

Load keeps its connections, so a fleet that serves old connections and refuses new ones would look well. For each
model that lived in the victims alone, the two must tell the same outage. Called by ``analyze`` and ``happened``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assertions.case import Case
from assertions.measure import Answer
from assertions.recovery import first_byte_ns
from assertions.result import Interval
from assertions.scopes import Scope
from history.clock import NS_PER_S
from history.op import CANARY
from history.reader import Requests

ENOUGH = 5
"""So many probes must contradict the load; fewer are sampling: the canary asks each model only now and then."""
SETTLE_NS = NS_PER_S


@dataclass(frozen=True)
class Outage:
    """The first outage that some requests of a model saw. ``back_s``: [last failure before, first answer after]."""

    failed: int
    from_ns: int
    until_ns: int
    back_s: Interval


def probes(case: Case, model: str) -> Requests:
    """The canary's probes of a model (of any fine-tune of a pool) in the fault window."""
    every = _probes(case)
    names = next(((m.name, *m.fine_tunes) for m in case.run.header.fleet.models if m.name == model), (model,))
    return every.take(np.isin(every.model.codes, [every.model.code(name) for name in names]))


def _probes(case: Case) -> Requests:
    requests = case.run.history.requests
    inside = (requests.t_intended >= case.edges.zero) & (requests.t_intended < case.edges.fault_end)
    return requests.take(requests.source.where(CANARY) & inside)


def outage(case: Case, ops: Requests) -> Outage | None:
    """None where nothing failed."""
    failed, ok = np.flatnonzero(ops.outcome.where("fail")), np.flatnonzero(ops.outcome.where("ok"))
    if not len(failed):
        return None
    again = ok[ok > failed[0]]
    last = int(failed[failed < again[0]][-1]) if len(again) else int(failed[-1])
    low = case.edges.since(ops.t_intended[last])
    high = max(low, case.edges.seconds(first_byte_ns(ops, int(again[0])))) if len(again) else None
    until = int(ops.t_intended[last])
    return Outage(len(failed), int(ops.t_intended[failed[0]]), until, (low, high))


def agrees(case: Case) -> Answer:
    """Whether new connections met the outage that the load met; None where no model lived in the victims alone."""
    placements = case.run.header.fleet.placements
    alone = [m for m in case.affected if case.lost(m) == sum(p.model == m for p in placements)]
    if not alone:
        return None
    if not len(_probes(case)):
        return False, "the canary left no record"
    said, wrong = [], False
    for model in alone:
        seen = probes(case, model)
        if not len(seen):
            said.append(f"{model}: its turn never came, the canary asks one model after the other")
            continue
        rows = case.rows(Scope(model, (model,)))
        rows = rows[case.load.in_window("fault")[rows]]
        text, ok = _compare(case, seen, outage(case, case.load.ops.take(rows)))
        said.append(f"{model}: {text}")
        wrong = wrong or not ok
    return not wrong, "; ".join(said[:8])


def _compare(case: Case, seen: Requests, load: Outage | None) -> tuple[str, bool]:
    """(both outages in words, False where they contradict each other)."""
    canary, ok = outage(case, seen), seen.outcome.where("ok")
    text = f"new connections {_words(canary)}, load {_words(load)}"
    if load is None:
        return text, canary is None or canary.failed < ENOUGH
    during = (seen.t_intended >= load.from_ns) & (seen.t_intended <= load.until_ns)
    if during.sum() >= ENOUGH and ok[during].mean() > 0.5:
        return f"{text}: they were served while the load was not", False
    back = load.back_s[1]
    after = seen.t_intended >= case.edges.zero + round((back or 0.0) * NS_PER_S) + SETTLE_NS
    if back is not None and after.sum() >= ENOUGH and not ok[after].any():
        return f"{text}: they were never served again", False
    return text, True


def _words(found: Outage | None) -> str:
    if found is None:
        return "without a failure"
    low, high = found.back_s
    return f"back after {high:.2f} s" if high is not None else f"still failing at {low:.2f} s"
