"""Live predicates: has the run shown enough for a step to end? Pure functions of the history so far.

Called by the runner about twice a second with a ``Run`` of the ops recorded until then. They only steer: every number
and verdict is made afterwards by ``analyze``. A scope is judged up to its first op that has not settled (neither
recorded nor older than the total time-out), so that an op in flight never counts as anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assertions.case import Case
from assertions.failback import homecoming
from assertions.holds import certified_holds, ops_needed, relapses
from assertions.scopes import GOOD, Scope
from history.clock import NS_PER_S
from history.op import FAULT_HEALED, NO_RECORD
from history.reader import Run


@dataclass(frozen=True)
class Progress:
    """Whether a step may end, and how far it is, in words for the terminal."""

    done: bool
    text: str


def all_recovered(run: Run, now_ns: int) -> Progress:
    """Done when every scope that the drill promises a recovery of, every affected model and the fleet have certified
    a hold at their own ratio since the injection, and none relapsed."""
    case = Case.of(run, over=False)
    if case.edges.injected is None:
        return Progress(False, "no fault injected yet")
    return _served(case, case.edges.injected, now_ns)


def all_failed_back(run: Run, now_ns: int) -> Progress:
    """Done when the same holds are certified since the heal, every lost replica is home, surrogates are gone, and the
    heal was verified."""
    case = Case.of(run, over=False)
    if case.edges.healed is None:
        return Progress(False, "not healed yet")
    healed = {op.cluster for op in run.history.of_kind(FAULT_HEALED) if op.outcome == "ok"}
    if not healed.issuperset(case.edges.victims):
        return Progress(False, "waiting for the heal to be verified")
    home = homecoming(case)
    if not home.complete:
        return Progress(False, f"{home.home} of {home.lost} replicas back, {home.surrogates} surrogates left")
    served = _served(case, case.edges.healed, now_ns)
    return Progress(served.done, f"all {home.lost} replicas back; {served.text}")


def _served(case: Case, since_ns: int, now_ns: int) -> Progress:
    wanted = _promised(case)
    missing = [scope.label for scope, ratio in wanted if not _holds(case, scope, ratio, since_ns, now_ns)]
    if not missing:
        return Progress(True, f"{len(case.affected)} affected models and all that was promised hold")
    missing = list(dict.fromkeys(missing))
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return Progress(False, f"{len(wanted) - len(missing)} of {len(wanted)} hold; waiting for {shown}")


def _promised(case: Case) -> list[tuple[Scope, float]]:
    """(scope, ratio) of all whose recovery must be certified; without those that the load sends nothing to."""
    named = [f"model:{model}" for model in case.affected] + ["fleet"]
    wanted = [(scope, case.ratio(name)) for name in named for scope in case.scopes(name)]
    for spec in case.run.header.objectives:
        if spec.indicator in ("recovered", "service_back"):
            wanted += [(scope, spec.ratio) for scope in case.scopes(spec.scope)]
    sent = {model.name for model in case.run.header.fleet.models if model.share > 0}
    return [pair for pair in dict.fromkeys(wanted) if not pair[0].served_by and sent.intersection(pair[0].models)]


def _holds(case: Case, scope: Scope, ratio: float, since_ns: int, now_ns: int) -> bool:
    """A sustained hold since the last bad op (since ``since_ns``, without one) over everything that has settled."""
    load, rows = case.load, case.rows(scope)
    timeout_ns = round(case.run.header.load.total_timeout_s * NS_PER_S)
    rows = rows[(load.ops.t_intended[rows] >= since_ns) & (load.ops.t_intended[rows] <= now_ns)]
    pending = load.ops.error.where(NO_RECORD)[rows] & (load.ops.t_intended[rows] > now_ns - timeout_ns)
    if pending.any():
        rows = rows[: int(np.argmax(pending))]
    if len(rows) < ops_needed(ratio):
        return False
    t, bad = load.ops.t_intended[rows], load.state[rows] != GOOD
    holds = certified_holds(t, bad, int(np.argmax(bad)) if bad.any() else -1, ratio)
    if not any(hold.sustained for hold in holds):
        return False
    start = holds[0].certified + 1
    return not relapses(t[start:], bad[start:], ratio)
