"""The human timeline: what a status page would have said, and when, from events of the history.

Investigating (detected) -> Identified (decided) -> Monitoring (service back) -> Resolved (the hold is certified), then
the restore and the fail-back. Called by page.py. Says nothing that no event or measure supports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

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


def posts(run: Run, result: Result, origin_ns: int) -> tuple[Post, ...]:
    """The timeline in time order."""
    found = [*_outage(run, result, origin_ns), *_recovery(run, result), *_return(run, result, origin_ns)]
    found.sort(key=lambda item: item[0])
    return tuple(_post(run, origin_ns, *item) for item in found)


def wall_clock(run: Run, monotonic_ns: int, pattern: str = "%H:%M:%S") -> str:
    """UTC by the run's one anchor."""
    return datetime.fromtimestamp(run.header.anchor.wall_unix_s(monotonic_ns), UTC).strftime(pattern)


_Item = tuple[float, str, str]


def _post(run: Run, origin_ns: int, t_s: float, status: str, text: str) -> Post:
    wall = wall_clock(run, origin_ns + round(t_s * NS_PER_S))
    return Post(
        t_s, f"{t_s:+.2f} s" if abs(t_s) < 100 else f"{'+' if t_s >= 0 else ''}{seconds(t_s)}", wall, status, text
    )


def _at(op: Op, origin_ns: int) -> float:
    return ((op.t_done if op.t_done >= 0 else op.t_intended) - origin_ns) / NS_PER_S


def _outage(run: Run, result: Result, origin_ns: int) -> list[_Item]:
    found: list[_Item] = []
    for fault in result.faults:
        where = one_line(fault.cluster, 60) or "no cluster"
        found.append(
            (fault.injected_s, "Fault", f"{one_line(fault.kind, 60)} of {where} ({one_line(fault.signature, 60)}).")
        )
    detected = [op for op in run.history.of_kind(DETECTED) if _at(op, origin_ns) >= 0]
    if detected:
        name = one_line(detected[0].cluster, 60)
        found.append((_at(detected[0], origin_ns), "Investigating", f"Cluster {name} is held to be lost."))
    decided = [op for op in run.history.of_kind(DECIDED) if _at(op, origin_ns) >= 0]
    if decided:
        models = sorted({op.model for op in decided if op.model})
        text = f"Moving {count(len(models), 'model')} to other clusters: {listed(models)}.{_advice(run, result)}"
        found.append((_at(decided[0], origin_ns), "Identified", text))
    unplaceable = [op for op in run.history.of_kind(UNPLACEABLE) if _at(op, origin_ns) >= 0]
    if unplaceable:
        models = sorted({op.model for op in unplaceable if op.model})
        reason = one_line(str(unplaceable[0].detail.get("reason", "")), 160)
        found.append((_at(unplaceable[0], origin_ns), "Identified", f"No place for {listed(models)}. {reason}".strip()))
    for op in run.history.of_kind(INTERRUPTED):
        found.append((_at(op, origin_ns), "Interrupted", f"The run was interrupted; {_healed_after(run, op)}."))
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


def _recovery(run: Run, result: Result) -> list[_Item]:
    hit = {name: m for name, m in result.models.items() if not m.unaffected and m.sent}
    if not hit:
        quiet = any(m.unaffected for m in result.models.values())
        return [(0.0, "Operational", "No model fell below its promise while the fault lasted.")] if quiet else []
    back = {
        name: m.service_back_s[1] for name, m in hit.items() if m.service_back_s and m.service_back_s[1] is not None
    }
    found: list[_Item] = []
    missing = sorted(set(hit) - set(back))
    if back:
        last = max(back, key=lambda name: (back[name] or 0.0, name))
        t = back[last] or 0.0
        rest = f" Still down: {listed(missing)}." if missing else ""
        text = f"{count(len(back), 'affected model')} of {len(hit):,} {'answers' if len(back) == 1 else 'answer'} again"
        found.append((t, "Monitoring", f"{text}; the last was {one_line(last, 60)}.{rest}"))
    held = [m.hold_certified_s for m in hit.values()]
    relapses = {w.scope: w for w in reversed(result.windows) if w.name == "relapse"}  # the first of each
    if not missing and not relapses and all(t is not None for t in held):
        t = max(t for t in held if t is not None)
        worst = max(hit.values(), key=_end)
        found.append(
            (
                t,
                "Resolved",
                f"Every affected model kept its promise until that was sure; recovered {interval(worst.recovered_s)}.",
            )
        )
    for window in tuple(relapses.values())[:5]:
        found.append(
            (window.start_s, "Investigating", f"{one_line(window.scope, 60)} relapsed after it had recovered.")
        )
    return found


def _end(model: ModelRecovery) -> float:
    return (model.recovered_s[1] or 0.0) if model.recovered_s else 0.0


def _return(run: Run, result: Result, origin_ns: int) -> list[_Item]:
    found: list[_Item] = []
    for fault in result.faults:
        where = one_line(fault.cluster, 60)
        if fault.heal_s is not None:
            found.append((fault.heal_s, "Restore", f"Restoring {where}."))
        if fault.healed_s is not None:
            found.append((fault.healed_s, "Restore", f"{where} is verified back."))
    for op in run.history.of_kind(RETURNED)[:3]:
        found.append((_at(op, origin_ns), "Monitoring", f"The controller holds {one_line(op.cluster, 60)} to be back."))
    moved: Sequence[Op] = run.history.of_kind(FAILBACK)
    if moved:
        models = sorted({op.model for op in moved if op.model})
        bad = sum(m.failback_bad for m in result.models.values())
        text = (
            f"{count(len(models), 'model')} moved back: {listed(models)}; {count(bad, 'bad answer')} since the restore."
        )
        found.append((_at(moved[-1], origin_ns), "Resolved", text))
    return found
