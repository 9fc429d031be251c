"""Phase by phase, runs of `cluster-loss` beside each other: a line a phase, a column a run, seconds since injection.

    python benchmarks/kind_beside_local.py RUN-IN-LOCAL RUN-IN-KIND

Replacements: first to last of them. What comes after the restore counts from its call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from assertions import analyze
from history.clock import NS_PER_S
from history.op import (
    DECIDED,
    DETECTED,
    FAULT_HEAL,
    FAULT_HEALED,
    FAULT_INJECT,
    REPLICA_CREATED,
    REPLICA_READY,
    REPLICA_SCHEDULED,
    REPLICA_STARTED,
    REPLICA_WEIGHTS,
    Op,
)
from history.reader import Run, read_run

REPLICAS = {
    "pod or replica created": REPLICA_CREATED,
    "scheduled": REPLICA_SCHEDULED,
    "started": REPLICA_STARTED,
    "weights in memory": REPLICA_WEIGHTS,
    "ready": REPLICA_READY,
}


def spread(ops: Iterable[Op], zero_ns: int) -> str:
    """First to last."""
    seconds = sorted((op.t_done - zero_ns) / NS_PER_S for op in ops)
    if not seconds:
        return "-"
    first, last = f"{seconds[0]:.2f}", f"{seconds[-1]:.2f}"
    return first if first == last else f"{first}-{last}"


def phases(folder: Path) -> dict[str, str]:
    """Phase -> what was measured."""
    run: Run = read_run(folder)
    history, objectives = run.history, analyze(run).objectives
    zero, heal = history.of_kind(FAULT_INJECT)[0].t_intended, history.of_kind(FAULT_HEAL)[0].t_intended
    homes = {(p.cluster, p.replica) for p in run.header.fleet.placements}
    victim = run.header.faults[0].cluster
    found = {"": f"{run.header.environment}, seed {run.header.seed}, {run.header.commit[:7]}"}

    def between(kind: str) -> list[Op]:  # an observer that begins is also told of what was decided and loaded long ago
        return [op for op in history.of_kind(kind) if zero < (op.detail.get("t_emitted") or op.t_done) < heal]

    found |= {name: spread(between(kind), zero) for name, kind in (("detected", DETECTED), ("decided", DECIDED))}
    for name, kind in REPLICAS.items():
        found[name] = spread((op for op in between(kind) if (op.cluster, op.replica) not in homes), zero)
    for name in ("recovered[fleet]", "lost[fleet]", "no_dip[fleet, failback]", "failed_back[fleet, failback]"):
        found[name] = next((one.text for one in objectives if one.name == name), "-")
    found["restore verified"] = spread(history.of_kind(FAULT_HEALED), heal)
    home = (op for op in history.of_kind(REPLICA_READY) if op.t_done >= heal and op.cluster == victim)
    found["ready at home"] = spread(home, heal)
    return found


def main(folders: list[Path]) -> None:
    """The table, as Markdown."""
    columns = [phases(folder) for folder in folders]
    for number, name in enumerate(columns[0]):
        print("| " + " | ".join([name, *(column[name] for column in columns)]) + " |")
        if not number:
            print("|" + " --- |" * (len(columns) + 1))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        print(f"skipped: no runs were named.\n{__doc__}")
    else:
        main([Path(word) for word in sys.argv[1:]])
