"""How fast the local fleet starts, kills and restarts. Prints figures; nothing is asserted.

    python benchmarks/fleet_start.py [--rounds N]

Start-up of ``three_clusters`` (bar: 5 s); twelve replicas started at once on one cluster, time beyond their weight
load (bar: 0.3 s each); skew of a power loss and how long until it is verified; power on until API and nodes are ready.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import click

from fleet import fleets
from fleet.environments.local.cluster import LocalCluster
from fleet.environments.local.fleet import LocalFleet
from fleet.spec import MIB, ClusterSpec, FleetSpec, ModelSpec, NodeSpec
from history.op import REPLICA_READY, REPLICA_SCHEDULED, REPLICA_WEIGHTS, Op
from history.records import Signal

TWELVE = 12


def twelve() -> FleetSpec:
    """Twelve one-replica models in cobalt, so that a restart of cobalt starts twelve replicas at once."""
    models = tuple(
        ModelSpec(f"m{i:02}", "chat", "base", 2 * MIB, share=1 / TWELVE, homes=("cobalt",)) for i in range(TWELVE)
    )
    clusters = tuple(ClusterSpec(name, (NodeSpec(f"{name}-n1", TWELVE),)) for name in fleets.CLUSTERS)
    base = fleets.micro()
    return FleetSpec("twelve", clusters, models, base.stores, switches=replace(base.switches, failback=True))


def until(verify: Callable[[], tuple[Signal, ...]], limit_s: float = 10.0) -> float:
    """Seconds until every signal is ok."""
    began = time.monotonic()
    while not all(signal.ok for signal in verify()):
        if time.monotonic() - began > limit_s:
            raise SystemExit(f"not verified in {limit_s} s: {verify()}")
    return time.monotonic() - began


def beyond_weight_load_s(ops: list[Op]) -> list[float]:
    """For each replica: emitted ready - emitted scheduled - seconds of its weight load."""
    scheduled = {op.replica: op.t_intended for op in ops if op.kind == REPLICA_SCHEDULED}
    load = {op.replica: float(op.detail["seconds"]) for op in ops if op.kind == REPLICA_WEIGHTS}
    ready = {op.replica: op.t_intended for op in ops if op.kind == REPLICA_READY}
    return [(ready[name] - scheduled[name]) / 1e9 - load[name] for name in ready if name in scheduled]


def kill_skew_ms(cluster: LocalCluster) -> tuple[float, float]:
    """(ms until the call returned, ms until the process table shows nobody alive)."""
    began = time.monotonic()
    cluster.power_off("refused")
    called = time.monotonic()
    while cluster._alive():
        time.sleep(0.0005)
    return (called - began) * 1e3, (time.monotonic() - began) * 1e3


@click.command()
@click.option("--rounds", default=3, show_default=True)
def main(rounds: int) -> None:
    """Print the figures."""
    starts, calls, gone, verified, on = [], [], [], [], []
    for _ in range(rounds):
        fleet = LocalFleet(fleets.three_clusters())
        began = time.monotonic()
        with fleet:
            starts.append(time.monotonic() - began)
            cobalt = fleet.clusters[1]
            began = time.monotonic()
            call_ms, gone_ms = kill_skew_ms(cobalt)
            calls.append(call_ms)
            gone.append(gone_ms)
            until(cobalt.verify_power_off)
            verified.append((time.monotonic() - began) * 1e3)
            cobalt.power_on()
            on.append(until(cobalt.verify_power_on))
    print(f"three_clusters, start to every model routed: {_spread(starts)} s")
    print(f"power off, call: {_spread(calls)} ms; nobody alive: {_spread(gone)} ms; verified: {_spread(verified)} ms")
    print(f"power on until API, nodes and GPUs are ready: {_spread(on)} s")
    beyond = []
    for _ in range(rounds):
        with LocalFleet(twelve()) as fleet:
            beyond += beyond_weight_load_s(_events(fleet))
    print(f"{TWELVE} replicas started at once, beyond their weight load: {_spread(beyond)} s")


def _events(fleet: LocalFleet) -> list[Op]:
    """What cobalt says of its replicas since its start."""
    seen: list[Op] = []
    stop = threading.Event()
    thread = threading.Thread(target=fleet.clusters[1].watch, args=(seen.append, stop))
    thread.start()
    while len([op for op in list(seen) if op.kind == REPLICA_READY]) < TWELVE:
        time.sleep(0.01)
    stop.set()
    thread.join()
    return seen


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.3f}, worst {max(values):.3f} (n = {len(values)})"


if __name__ == "__main__":
    main()
