"""Live predicates: has the run shown enough for a step to end? Pure functions of the history so far.

Called by the runner about twice a second with a ``Run`` of the ops recorded until then. They only steer: every number
and verdict is made afterwards by ``analyze``. A scope is judged up to its first op that has not settled (neither
recorded nor older than the total time-out), so that an op in flight never counts as anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assertions.holds import certified_holds, ops_needed, relapses
from assertions.phases import stamp_ns
from assertions.scopes import BAD, GOOD, UNKNOWN, Load, Scope, Scopes, judge
from assertions.windows import Edges, edges
from history.clock import NS_PER_MS, NS_PER_S
from history.op import FAULT_HEALED, NO_RECORD, REPLICA_FAILED, REPLICA_GONE, REPLICA_READY
from history.reader import Run

MODEL_RATIO, FLEET_RATIO = 0.90, 0.99


@dataclass(frozen=True)
class Progress:
    """Whether a step may end, and how far it is, in words for the terminal."""

    done: bool
    text: str


def all_recovered(
    run: Run, now_ns: int, ratio_model: float = MODEL_RATIO, ratio_fleet: float = FLEET_RATIO
) -> Progress:
    """Done when every affected model and the fleet have certified a hold since the injection, and none relapsed."""
    found = edges(run)
    if found.injected is None:
        return Progress(False, "no fault injected yet")
    return _served(run, found, found.injected, now_ns, ratio_model, ratio_fleet)


def all_failed_back(
    run: Run, now_ns: int, ratio_model: float = MODEL_RATIO, ratio_fleet: float = FLEET_RATIO
) -> Progress:
    """Done when the same holds are certified since the heal, every lost replica is back in its cluster, surrogates
    are gone, and the heal was verified."""
    found = edges(run)
    if found.healed is None:
        return Progress(False, "not healed yet")
    healed = any(op.outcome == "ok" and op.t_intended >= found.healed for op in run.history.of_kind(FAULT_HEALED))
    if not healed:
        return Progress(False, "waiting for the heal to be verified")
    back, lost, surrogates = _replicas(run, found)
    if back < lost or surrogates:
        return Progress(False, f"{back} of {lost} replicas back, {surrogates} surrogates left")
    served = _served(run, found, found.healed, now_ns, ratio_model, ratio_fleet)
    return Progress(served.done, f"all {lost} replicas back; {served.text}")


def good_ratio_now(run: Run, now_ns: int, last_s: float = 1.0) -> float | None:
    """Good ops over known ops among those intended in the last second that can be judged already; None without any.

    An op can be judged once ``good_within_ms`` have passed since its intended time: unanswered, it is bad by then.
    """
    end = now_ns - round(run.header.load.good_within_ms * NS_PER_MS)
    load = judge(run, edges(run))
    state = load.state[load.between(end - round(last_s * NS_PER_S), end)]
    return float((state == GOOD).mean()) if len(state) else None


def _served(run: Run, found: Edges, since_ns: int, now_ns: int, ratio_model: float, ratio_fleet: float) -> Progress:
    load, scopes = judge(run, found), Scopes(run.header, found.victims)
    wanted = [(Scope(model, (model,)), ratio_model) for model in scopes.affected]
    wanted.append((Scope("fleet", scopes.models), ratio_fleet))
    missing = [scope.label for scope, ratio in wanted if not _holds(load, scope, ratio, since_ns, now_ns, run)]
    if not missing:
        return Progress(True, f"{len(wanted) - 1} affected models and the fleet hold")
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return Progress(False, f"{len(wanted) - len(missing)} of {len(wanted)} hold; waiting for {shown}")


def _holds(load: Load, scope: Scope, ratio: float, since_ns: int, now_ns: int, run: Run) -> bool:
    """A sustained hold since the last bad op (since ``since_ns``, without one) over everything that has settled."""
    rows = scope.rows(load)
    timeout_ns = round(run.header.load.total_timeout_s * NS_PER_S)
    rows = rows[(load.ops.t_intended[rows] >= since_ns) & (load.ops.t_intended[rows] <= now_ns)]
    pending = load.ops.error.where(NO_RECORD)[rows] & (load.ops.t_intended[rows] > now_ns - timeout_ns)
    if pending.any():
        rows = rows[: int(np.argmax(pending))]
    if len(rows) < ops_needed(ratio):
        return False
    t, state = load.ops.t_intended[rows], load.state[rows]
    bad = state != GOOD
    holds = certified_holds(t, bad, int(np.argmax(bad)) if bad.any() else -1, ratio)
    if not any(hold.sustained for hold in holds):
        return False
    start = holds[0].certified + 1
    return not relapses(t[start:], (state[start:] == BAD) | (state[start:] == UNKNOWN), ratio)


def _replicas(run: Run, found: Edges) -> tuple[int, int, int]:
    """(lost replicas whose model is back in the victim, lost replicas, surrogates still there)."""
    scopes = Scopes(run.header, found.victims)
    homes = {(p.cluster, p.replica) for p in run.header.fleet.placements}
    returned: dict[str, set[str]] = {model: set() for model in scopes.affected}
    surrogates: set[tuple[str, str]] = set()
    for op in sorted(run.history.events, key=stamp_ns):
        if op.model not in returned or op.kind not in (REPLICA_READY, REPLICA_FAILED, REPLICA_GONE):
            continue
        if op.cluster in scopes.victims:
            if found.healed is None or stamp_ns(op) < found.healed:
                continue
            change = returned[op.model].add if op.kind == REPLICA_READY else returned[op.model].discard
            change(op.replica)
        elif found.injected is not None and stamp_ns(op) >= found.injected and (op.cluster, op.replica) not in homes:
            if op.kind == REPLICA_READY:
                surrogates.add((op.cluster, op.replica))
            elif op.kind == REPLICA_GONE:
                surrogates.discard((op.cluster, op.replica))
    lost = {model: scopes.lost(model) for model in scopes.affected}
    back = sum(min(len(returned[model]), count) for model, count in lost.items())
    return back, sum(lost.values()), len(surrogates)
