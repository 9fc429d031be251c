"""How long Kubernetes takes for replacements, of a run of `cluster-loss --env kind`: each figure with its bar.

    blackstart run cluster-loss --env kind && python benchmarks/kind_reallocation.py runs/cluster-loss-…

Seconds from the decision to move a model until the last of its new pods is created, scheduled, ready. From the last is
taken off what the forecast says that the store needs for the model's weights, but never more than those took: a node
that had them already waited for no store. Exit 1 when a bar is missed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from assertions import analyze
from history.clock import NS_PER_S
from history.op import (
    DECIDED,
    FAULT_HEAL,
    FAULT_INJECT,
    REPLICA_CREATED,
    REPLICA_READY,
    REPLICA_SCHEDULED,
    REPLICA_WEIGHTS,
    Op,
)
from history.reader import read_run

BARS = {REPLICA_CREATED: 0.5, REPLICA_SCHEDULED: 1.0, REPLICA_READY: 3.0}
RECOVERED_S = 10.0


def main(folder: Path) -> int:
    """One line a bar."""
    run = read_run(folder)
    injected_ns = min((op.t_intended for op in run.history.of_kind(FAULT_INJECT)), default=0)
    heal_ns = min((op.t_intended for op in run.history.of_kind(FAULT_HEAL)), default=2**63)
    decided: dict[str, int] = {}  # the first after the fault: an observer also hears of what was decided long before
    for op in run.history.of_kind(DECIDED):
        if op.t_done > injected_ns:
            decided.setdefault(op.model, op.t_done)
    homes = {(p.cluster, p.replica) for p in run.header.fleet.placements}
    rows = run.header.forecast.models if run.header.forecast else ()
    bound_s = {row.model: row.reload_s or 0.0 for row in rows}

    during = [op for op in run.history.events if injected_ns < op.t_done < heal_ns]
    took_s = {op.replica: float(op.detail.get("seconds", 0.0)) for op in during if op.kind == REPLICA_WEIGHTS}

    def after_s(op: Op) -> float:
        own_s = min(bound_s.get(op.model, 0.0), took_s.get(op.replica, 0.0)) if op.kind == REPLICA_READY else 0.0
        return (op.t_done - decided[op.model]) / NS_PER_S - own_s

    missed = False
    for kind, bar in BARS.items():
        new = [op for op in during if op.kind == kind and (op.cluster, op.replica) not in homes]
        missed |= told(f"{kind}, the last of {len(new)}", max(map(after_s, new), default=float("inf")), bar)
    last = [one.bounds[1] for one in analyze(run).objectives if one.indicator == "recovered" and one.bounds]
    missed |= told("all models recovered", max(map(float, filter(None, last)), default=float("inf")), RECOVERED_S)
    return int(missed)


def told(what: str, value_s: float, bar_s: float) -> bool:
    """One line; was the bar missed?"""
    print(f"{'✓' if value_s <= bar_s else '✗'} {what}: {value_s:.2f} s (bar {bar_s:g})")
    return value_s > bar_s


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(f"skipped: no run was named.\n{__doc__}")
        sys.exit(0)
    sys.exit(main(Path(sys.argv[1])))
