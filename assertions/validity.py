"""Validity: was the measurement itself sound? A failed check makes the run unknown, with the reason (DESIGN 3.3).

Called by ``analyze``. Judges the harness, never the fleet.
"""

from __future__ import annotations

import numpy as np

from assertions.case import LAG_LIMIT_MS, Case, nearest_rank
from assertions.result import Check, Validity, Verdict
from assertions.scopes import UNKNOWN, Scope
from history.clock import NS_PER_S
from history.op import (
    CLOCK_STEPPED,
    DROPPED,
    GUARD,
    INTERRUPTED,
    LOAD_DRAINED,
    LOAD_START,
    LOAD_STOP,
    NO_RECORD,
    NOTED,
    PROCESS_DIED,
    RUN_END,
    STEP_END,
)
from history.reader import is_dropped

DROPPED_LIMIT = 0.001
LAG_NEAR_EDGE_MAX_S = 1.0
"""Lag near an edge widens the intervals that rest on it; beyond this it makes the run unknown."""


def validity(case: Case) -> Validity:
    """Counts and checks of one run."""
    ops, run = case.load.ops, case.run
    lag = case.lag_ms[~np.isnan(case.lag_ms)]
    scheduled, no_record = len(ops), int(ops.error.where(NO_RECORD).sum())
    sent = int((ops.t_sent >= 0).sum())
    near_ms, near_max_s = _near_edges(case)
    p99 = nearest_rank(lag, 99.0) if len(lag) else None
    return Validity(
        scheduled=scheduled,
        recorded=scheduled - no_record,
        dropped=int(ops.error.where(DROPPED).sum()),
        no_record=no_record,
        duplicates=run.duplicates,
        unknown=int((case.load.state == UNKNOWN).sum()),
        damaged_lines=run.history.damaged,
        lag_ms_p50=nearest_rank(lag, 50.0) if len(lag) else None,
        lag_ms_p99=p99,
        lag_ms_max=float(lag.max()) if len(lag) else None,
        lag_ms_near_edges=near_ms,
        achieved_ratio=sent / scheduled if scheduled else None,
        checks=(
            _load_ran(case),
            _dropped(case),
            _lag(p99),
            _lag_near(near_ms, near_max_s),
            _duplicates(run.duplicates),
            _records(case, no_record),
            *_ended(case),
            *_incidents(case),
        ),
    )


def _check(name: str, ok: bool, detail: str, otherwise: Verdict = "unknown") -> Check:
    return Check(name, "pass" if ok else otherwise, detail)


def _load_ran(case: Case) -> Check:
    history = case.run.history
    if not history.of_kind(LOAD_START):
        return _check("load ran to its end", False, "the load never started")
    if not history.of_kind(LOAD_STOP):
        return _check("load ran to its end", False, "no stop of the load was recorded: the harness died")
    drained = history.of_kind(LOAD_DRAINED)
    if not drained:
        return _check("load ran to its end", False, "the load process was never seen to end: its ops may be missing")
    if drained[-1].outcome != "ok":
        why = drained[-1].detail.get("reason") or drained[-1].error or "no reason recorded"
        return _check("load ran to its end", False, f"the load process died early: {why}")
    return _check("load ran to its end", len(case.load.ops) > 0, f"{len(case.load.ops):,} sends were due")


def _dropped(case: Case) -> Check:
    total = len(case.load.ops)
    dropped = int(is_dropped(case.load.ops).sum())
    share = dropped / total if total else 0.0
    detail = f"{dropped:,} of {total:,} scheduled sends were never sent or left no record ({share:.2%}; limit 0.1 %)"
    return _check("nothing dropped", share <= DROPPED_LIMIT, detail)


def _lag(p99: float | None) -> Check:
    if p99 is None:
        return _check("send lag", False, "no send was recorded")
    return _check("send lag", p99 <= LAG_LIMIT_MS, f"p99 {p99:.1f} ms (limit {LAG_LIMIT_MS:.0f} ms)")


def _near_edges(case: Case) -> tuple[float | None, float]:
    """(worst p99 of the lag within 2 s of an edge in ms, largest lag there in s)."""
    if case.edges.injected is None:
        return None, 0.0
    found = case.recovery(Scope("fleet", case.scopes.models), case.ratio("fleet"))
    seconds = [s for s in (0.0, *(found.service_back or ())) if s is not None]
    at = [case.edges.zero + round(s * NS_PER_S) for s in seconds]
    if case.edges.healed is not None:
        at.append(case.edges.healed)
    worst = [near[0] for t in at if (near := case.lag_near_ms(t)) is not None]
    return max(worst, default=None), case.lag_near_s(at)


def _lag_near(p99: float | None, max_s: float) -> Check:
    if p99 is None:
        return _check("send lag near edges", False, "no send within 2 s of the injection")
    detail = f"p99 {p99:.1f} ms within 2 s of injection, service back and heal"
    if max_s > 0.0:
        detail += f"; intervals that rest on it are widened by the lag, up to {max_s * 1_000:.0f} ms"
    return _check("send lag near edges", max_s <= LAG_NEAR_EDGE_MAX_S, detail)


def _duplicates(count: int) -> Check:
    return _check("each send recorded once", count == 0, f"{count:,} records beyond one a scheduled send")


def _records(case: Case, no_record: int) -> Check:
    damaged, truncated = case.run.history.damaged, case.run.history.truncated
    detail = f"{damaged:,} damaged lines, {no_record:,} sends without a record"
    if truncated:
        detail += "; the recorded history is truncated or fails its checksum"
    return _check("records readable", not truncated and not (damaged and no_record), detail)


def _ended(case: Case) -> tuple[Check, ...]:
    """The runner's last word, where this run's runner leaves one: without it the harness was killed."""
    if not case.run.header.says_end:
        return ()
    ok = bool(case.run.history.of_kind(RUN_END))
    detail = "healed, drained and stopped" if ok else "the harness died before it had healed and stopped everything"
    return (_check("harness ended by itself", ok, detail),)


def _incidents(case: Case) -> tuple[Check, ...]:
    """A failed check for each thing that the runner says went wrong with the harness; its notes as passed ones."""
    made = []
    for op in case.run.history.events:
        said = op.detail.get("reason") or op.detail.get("text") or op.error or "no reason recorded"
        reason = str(said)
        if op.kind == INTERRUPTED:
            made.append(Check("not interrupted", "unknown", f"interrupted: {reason}"))
        elif op.source == GUARD and op.outcome == "fail":
            made.append(Check("no guard tripped", "unknown", f"guard {op.kind} tripped: {reason}"))
        elif op.kind == PROCESS_DIED and op.error == "stopped":
            made.append(Check("ran to its end", "unknown", f"the runner stopped the drill: {reason}"))
        elif op.kind in (NOTED, CLOCK_STEPPED) or (op.kind == STEP_END and op.outcome == "fail"):
            made.append(Check("noted", "pass", reason))
        elif op.kind == PROCESS_DIED:
            who = str(op.detail.get("name") or op.detail.get("process") or op.replica or op.process)
            made.append(Check("harness processes alive", "unknown", f"{who} died by itself: {reason}"))
    return tuple(dict.fromkeys(made))
