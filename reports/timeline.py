"""The human timeline: what a status page would have said, and when, from events of the history.

Investigating (detected) -> Identified (decided) -> Monitoring (service back) -> Resolved (the hold is certified), then
the restore and the fail-back. Called by html.py. Says nothing that no event or measure supports.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from assertions.case import Case
from assertions.phases import stamp_ns
from assertions.result import ModelRecovery, Result
from history.clock import NS_PER_S
from history.op import DECIDED, DETECTED, FAILBACK, FAULT_HEAL, FAULT_HEALED, INTERRUPTED, RETURNED, UNPLACEABLE, Op
from history.reader import Run
from reports.words import count, interval, listed, one_line, seconds


@dataclass(frozen=True)
class Post:
    """One post: seconds since injection, its wall-clock time, a status word, a sentence."""

    t_s: float
    at: str
    wall: str
    status: str
    text: str


def posts(case: Case, result: Result) -> tuple[Post, ...]:
    """The timeline in time order."""
    found = [*_outage(case, result), *_recovery(result), *_return(case, result)]
    return tuple(_post(case, *item) for item in sorted(found, key=lambda item: item[0]))


def wall_clock(run: Run, monotonic_ns: int, pattern: str = "%H:%M:%S") -> str:
    """UTC by the run's one anchor."""
    return datetime.fromtimestamp(run.header.anchor.wall_unix_s(monotonic_ns), UTC).strftime(pattern)


_Item = tuple[float, str, str]


def _post(case: Case, t_s: float, status: str, text: str) -> Post:
    wall = wall_clock(case.run, case.edges.zero + round(t_s * NS_PER_S))
    at = f"{t_s:+.2f} s" if abs(t_s) < 100 else f"{'+' if t_s >= 0 else ''}{seconds(t_s)}"
    return Post(t_s, at, wall, status, text)


def _since(case: Case, kind: str) -> tuple[float, tuple[Op, ...], list[str]]:
    """(when the first came in, all, their models) of the events of a kind since the injection."""
    found = tuple(op for op in case.run.history.of_kind(kind) if stamp_ns(op) >= case.edges.zero)
    first_s = case.edges.seconds(stamp_ns(found[0])) if found else 0.0
    return first_s, found, sorted({op.model for op in found if op.model})


def _outage(case: Case, result: Result) -> list[_Item]:
    found: list[_Item] = []
    for fault in result.faults:
        where, kind = one_line(fault.cluster, 60) or "no cluster", one_line(fault.kind, 60)
        found.append((fault.injected_s, "Fault", f"{kind} of {where} ({one_line(fault.signature, 60)})."))
    t, detected, _ = _since(case, DETECTED)
    if detected:
        found.append((t, "Investigating", f"Cluster {one_line(detected[0].cluster, 60)} is held to be lost."))
    t, decided, models = _since(case, DECIDED)
    if decided:
        moving = f"Moving {count(len(models), 'model')} to other clusters: {listed(models)}."
        found.append((t, "Identified", f"{moving}{_advice(case.run, result)}"))
    t, unplaceable, models = _since(case, UNPLACEABLE)
    if unplaceable:
        reason = one_line(str(unplaceable[0].detail.get("reason", "")), 160)
        found.append((t, "Identified", f"No place for {listed(models)}. {reason}".strip()))
    for op in case.run.history.of_kind(INTERRUPTED):
        said = f"The run was interrupted; {_healed_after(case.run, op)}."
        found.append((case.edges.seconds(stamp_ns(op)), "Interrupted", said))
    return found


def _healed_after(run: Run, interrupted: Op) -> str:
    """What is known of the healing that follows an interruption."""
    calls = [op for op in run.history.of_kind(FAULT_HEAL) if op.t_intended >= interrupted.t_intended]
    back = {op.cluster for op in run.history.of_kind(FAULT_HEALED) if op.outcome == "ok"}
    if not calls:
        return "no healing was recorded after it"
    missing = [op.cluster or "a weight store" for op in calls if op.cluster not in back]
    return f"{listed(missing)} was not verified back" if missing else "what was hit was healed, and verified back"


def _advice(run: Run, result: Result) -> str:
    """Fallback advice for models that were hit and name a stand-in that was not."""
    advised = []
    for model in run.header.fleet.models:
        hit = result.models.get(model.name)
        stand_in = result.models.get(model.fallback) if model.fallback else None
        if hit and hit.sent and not hit.unaffected and stand_in and stand_in.unaffected:
            advised.append(f"{one_line(model.fallback, 60)} for {one_line(model.name, 60)}")
    return f" Meanwhile use {listed(advised)}." if advised else ""


def _recovery(result: Result) -> list[_Item]:
    hit = {name: m for name, m in result.models.items() if not m.unaffected and m.sent}
    if not hit:
        quiet = any(m.unaffected for m in result.models.values())
        return [(0.0, "Operational", "No model fell below its promise while the fault lasted.")] if quiet else []
    ends = ((name, m.service_back_s[1]) for name, m in hit.items() if m.service_back_s)
    back = {name: t for name, t in ends if t is not None}
    found: list[_Item] = []
    missing = sorted(set(hit) - set(back))
    if back:
        last = max(back, key=lambda name: (back[name], name))
        rest = f" Still down: {listed(missing)}." if missing else ""
        text = f"{count(len(back), 'affected model')} of {len(hit):,} {'answers' if len(back) == 1 else 'answer'} again"
        found.append((back[last], "Monitoring", f"{text}; the last was {one_line(last, 60)}.{rest}"))
    held = [m.hold_certified_s for m in hit.values()]
    relapses = {w.scope: w for w in reversed(result.windows) if w.name == "relapse"}  # the first of each
    if not missing and not relapses and all(t is not None for t in held):
        t = max(t for t in held if t is not None)
        worst = max(hit.values(), key=_end)
        said = f"Every affected model kept its promise until that was sure; recovered {interval(worst.recovered_s)}."
        found.append((t, "Resolved", said))
    for window in tuple(relapses.values())[:5]:
        said = f"{one_line(window.scope, 60)} relapsed after it had recovered."
        found.append((window.start_s, "Investigating", said))
    return found


def _end(model: ModelRecovery) -> float:
    return (model.recovered_s[1] or 0.0) if model.recovered_s else 0.0


def _return(case: Case, result: Result) -> list[_Item]:
    found: list[_Item] = []
    for fault in result.faults:
        where = one_line(fault.cluster, 60)
        if fault.heal_s is not None:
            found.append((fault.heal_s, "Restore", f"Restoring {where}."))
        if fault.healed_s is not None:
            found.append((fault.healed_s, "Restore", f"{where} is verified back."))
    at, history = case.edges.seconds, case.run.history
    for op in history.of_kind(RETURNED)[:3]:
        said = f"The controller holds {one_line(op.cluster, 60)} to be back."
        found.append((at(stamp_ns(op)), "Monitoring", said))
    moved = history.of_kind(FAILBACK)
    if moved:
        models = sorted({op.model for op in moved if op.model})
        bad = count(sum(m.failback_bad for m in result.models.values()), "bad answer")
        said = f"{count(len(models), 'model')} moved back: {listed(models)}; {bad} since the restore."
        found.append((at(stamp_ns(moved[-1])), "Resolved", said))
    return found
