"""Validity: was the measurement itself sound? A failed check makes the run unknown, with the reason (DESIGN 3.3).

Called by ``analyze``. Judges the harness, never the fleet.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from assertions.case import LAG_LIMIT_MS, Case, nearest_rank
from assertions.measure import Answer, checked
from assertions.result import Check, Validity
from assertions.scopes import UNKNOWN, Scope
from history import op as kinds
from history.clock import NS_PER_S

DROPPED_LIMIT = 0.001
READABLE = "records readable"
INCIDENTS = ("not interrupted", "no guard tripped", "ran to its end", "harness processes alive")
"""Checks whose detail tells the whole incident."""
LAG_NEAR_EDGE_MAX_S = 1.0
"""Lag near an edge widens the intervals that rest on it; beyond this it makes the run unknown."""


def validity(case: Case) -> Validity:
    """Counts and checks of one run."""
    ops, lag = case.load.ops, case.lag_ms[~np.isnan(case.lag_ms)]
    scheduled, no_record = len(ops), int(ops.error.where(kinds.NO_RECORD).sum())
    near = [found[0] for t in _edges_ns(case) if (found := case.lag_near_ms(t)) is not None]
    counted = Validity(
        scheduled=scheduled,
        recorded=scheduled - no_record,
        dropped=int(ops.error.where(kinds.DROPPED).sum()),
        no_record=no_record,
        duplicates=case.run.duplicates,
        unknown=int((case.load.state == UNKNOWN).sum()),
        damaged_lines=case.run.history.damaged,
        lag_ms_p50=nearest_rank(lag, 50.0) if len(lag) else None,
        lag_ms_p99=nearest_rank(lag, 99.0) if len(lag) else None,
        lag_ms_max=float(lag.max()) if len(lag) else None,
        lag_ms_near_edges=max(near, default=None),
        achieved_ratio=int((ops.t_sent >= 0).sum()) / scheduled if scheduled else None,
    )
    checks = checked((name, partial(ask, case, counted)) for name, ask in CHECKS)
    return replace(counted, checks=checks + _incidents(case))


def _load_ran(case: Case, found: Validity) -> Answer:
    history = case.run.history
    if not history.of_kind(kinds.LOAD_START):
        return False, "the load never started"
    if not history.of_kind(kinds.LOAD_STOP):
        return False, "no stop of the load was recorded: the harness died"
    drained = history.of_kind(kinds.LOAD_DRAINED)
    if not drained:
        return False, "the load process was never seen to end: its ops may be missing"
    if drained[-1].outcome != "ok":
        why = drained[-1].detail.get("reason") or drained[-1].error or "no reason recorded"
        return False, f"the load process died early: {why}"
    return found.scheduled > 0, f"{found.scheduled:,} sends were due"


def _dropped(case: Case, found: Validity) -> Answer:
    total, dropped = found.scheduled, found.dropped + found.no_record
    share = dropped / total if total else 0.0
    detail = f"{dropped:,} of {total:,} scheduled sends were never sent or left no record ({share:.2%}; limit 0.1 %)"
    return share <= DROPPED_LIMIT, detail


def _lag(case: Case, found: Validity) -> Answer:
    p99 = found.lag_ms_p99
    if p99 is None:
        return False, "no send was recorded"
    return p99 <= LAG_LIMIT_MS, f"p99 {p99:.1f} ms (limit {LAG_LIMIT_MS:.0f} ms)"


def _edges_ns(case: Case) -> list[int]:
    """Injection, service back of the fleet, heal."""
    if case.edges.injected is None:
        return []
    found = case.recovery(Scope("fleet", case.models), case.ratio("fleet"))
    at = [case.edges.zero + round(s * NS_PER_S) for s in (0.0, *(found.service_back or ())) if s is not None]
    return at if case.edges.healed is None else [*at, case.edges.healed]


def _lag_near(case: Case, found: Validity) -> Answer:
    p99, max_s = found.lag_ms_near_edges, case.lag_near_s(_edges_ns(case))
    if p99 is None:
        return False, "no send within 2 s of the injection"
    detail = f"p99 {p99:.1f} ms within 2 s of injection, service back and heal"
    if max_s > 0.0:
        detail += f"; intervals that rest on it are widened by the lag, up to {max_s * 1_000:.0f} ms"
    return max_s <= LAG_NEAR_EDGE_MAX_S, detail


def _duplicates(case: Case, found: Validity) -> Answer:
    return found.duplicates == 0, f"{found.duplicates:,} records beyond one a scheduled send"


def _records(case: Case, found: Validity) -> Answer:
    truncated = case.run.history.truncated
    detail = f"{found.damaged_lines:,} damaged lines, {found.no_record:,} sends without a record"
    if truncated:
        detail += "; the recorded history is missing, truncated or fails its checksum"
    return not truncated and not (found.damaged_lines and found.no_record), detail


def _ended(case: Case, found: Validity) -> Answer:
    """The runner's last word, where this run's runner leaves one: without it the harness was killed."""
    if not case.run.header.says_end:
        return None
    ends = case.run.history.of_kind(kinds.RUN_END)
    if not ends:
        return False, "the harness died before it had healed and stopped everything"
    failures = [str(text) for end in ends for text in end.detail.get("failures", ())]
    return not failures, "; ".join(failures) or "healed, drained and stopped"


CHECKS = (
    ("load ran to its end", _load_ran),
    ("nothing dropped", _dropped),
    ("send lag", _lag),
    ("send lag near edges", _lag_near),
    ("each send recorded once", _duplicates),
    (READABLE, _records),
    ("harness ended by itself", _ended),
)


def _incidents(case: Case) -> tuple[Check, ...]:
    """A failed check for each thing that the runner says went wrong with the harness; its notes as passed ones."""
    made = []
    for op in case.run.history.events:
        said = op.detail.get("reason") or op.detail.get("text") or op.error or "no reason recorded"
        reason = str(said)
        if op.kind == kinds.INTERRUPTED:
            made.append(Check("not interrupted", "unknown", "the run was interrupted, by Ctrl-C or a signal"))
        elif op.source == kinds.GUARD and op.outcome == "fail":
            made.append(Check("no guard tripped", "unknown", f"guard {op.kind} tripped: {reason}"))
        elif op.kind == kinds.PROCESS_DIED and op.error == "stopped":
            made.append(Check("ran to its end", "unknown", f"the runner stopped the drill: {reason}"))
        elif op.kind in (kinds.NOTED, kinds.CLOCK_STEPPED) or (op.kind == kinds.STEP_END and op.outcome == "fail"):
            made.append(Check("noted", "pass", reason))
        elif op.kind == kinds.PROCESS_DIED:
            who = str(op.detail.get("name") or op.detail.get("process") or op.replica or op.process)
            made.append(Check("harness processes alive", "unknown", f"{who} died by itself: {reason}"))
    return tuple(dict.fromkeys(made))
