"""A fleet of real Kubernetes clusters: made, idle, without power, its models moved, back and away; each with its bar.

    python benchmarks/kind_fleet.py [FLEET] [--no-bare]        FLEET: a fleet of blackstart, three_clusters by default

Needs a Docker engine and images (`blackstart doctor`); says so and ends with 0 where there are none. A bare
`kind create` of the same shape is timed first in the same run. Nobody sends any load: what a loss takes under load,
`kind_reallocation.py` says of a run. Exit 1 when a bar is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from pathlib import Path

import psutil

from fleet import fleets
from fleet.environments.kind import containers, lifecycle, manifests
from fleet.environments.kind.fleet import KindFleet
from fleet.environments.kind.state import Folder
from fleet.environments.kind.supplies import Supplies, find
from fleet.environments.kind.topology import NETWORK, ClusterTopology, topology
from fleet.forecast import forecast
from fleet.protocols import Emit, PowerControl
from fleet.spec import FleetSpec
from history.clock import NS_PER_S
from history.errors import FleetError
from history.op import DECIDED, REPLICA_CREATED, REPLICA_READY, REPLICA_SCHEDULED, REPLICA_WEIGHTS, Op
from history.priority import go_first
from history.records import Placement, Signal

UP_S, DOWN_S, IDLE_CORES, IDLE_GIB, SKEW_S, VERIFIED_S = 75.0, 6.0, 0.8, 5.0, 1.0, 2.0
API_S, GPUS_S, PODS_S = 12.0, 15.0, 35.0
MOVED = {REPLICA_CREATED: 0.5, REPLICA_SCHEDULED: 1.0, REPLICA_READY: 3.0}
MOVED_WITHIN_S = 30.0
IDLE_FOR_S = 20.0

failed: list[str] = []


def told(what: str, value: float, bar: float, unit: str) -> None:
    """One line; remembers a bar that was missed."""
    ok = value <= bar
    print(f"{'✓' if ok else '✗'} {what}: {value:.2f} {unit} (bar {bar:g})", flush=True)
    if not ok:
        failed.append(what)


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def bare(spec: FleetSpec, supplies: Supplies) -> float:
    """`kind create` of the same shape, in parallel, and nothing else; deleted again."""
    with tempfile.TemporaryDirectory() as folder:

        def make(cluster: ClusterTopology) -> None:
            config = Path(folder, f"{cluster.name}.json")
            told = manifests.kind_config(cluster, "", Path(folder), cgroups_v1=False)  # its nodes and name
            nodes = [{"role": one["role"], "extraMounts": one["extraMounts"][:1]} for one in told["nodes"]]  # ours
            config.write_text(
                json.dumps({**{key: told[key] for key in ("kind", "apiVersion", "name")}, "nodes": nodes})
            )
            command = [supplies.kind, "create", "cluster", "--name", cluster.kind_name, "--config", str(config)]
            env = {**os.environ, "KIND_EXPERIMENTAL_DOCKER_NETWORK": NETWORK}
            command += ["--kubeconfig", f"{config}.kubeconfig", "--quiet", "--image", supplies.node_image]
            subprocess.run(command, env=env, check=True, capture_output=True)

        containers.make_network(Path(folder))
        began = time.monotonic()
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(make, topology(spec)))
            return time.monotonic() - began
        finally:
            made = [one for cluster in topology(spec) for one in containers.of_cluster(cluster.kind_name)]
            containers.remove(one.name for one in made if one.marker == folder)
            containers.remove_network(Path(folder))


def idle() -> tuple[float, float]:
    """Cores that all processes used, and GiB in use, over a while in which nobody asks for anything. The kernel's own
    total (/proc/stat) looks who runs at each tick, and so misses much of what wakes and sleeps again in between. Not
    counted here: who ended meanwhile, and the kernel outside its processes."""
    before, began = processor_s(), time.monotonic()
    time.sleep(IDLE_FOR_S)
    now, took_s = processor_s(), time.monotonic() - began
    memory = psutil.virtual_memory()
    cores = sum(used - before.get(process, 0.0) for process, used in now.items()) / took_s
    return cores, (memory.total - memory.available) / 2**30


def processor_s() -> dict[tuple[int, float], float]:
    """Process (its id, when it began) -> seconds of processor time so far."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
    return found


def until(look: Callable[[], tuple[Signal, ...]], name: str, limit_s: float) -> float:
    """Seconds until a signal of that name (all: every one) is ok."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if all(signal.ok for signal in look() if name in ("all", signal.name)):
            break
    return time.monotonic() - began


@contextmanager
def watched(fleet: KindFleet) -> Iterator[list[Op]]:
    """What the observers of a run see while it is open: all clusters, and the allocator."""
    ops: list[Op] = []
    stop = threading.Event()
    watches = [*(cluster.watch for cluster in fleet.clusters), fleet.controller.watch]

    def observe(watch: Callable[[Emit, threading.Event], None]) -> None:
        go_first()
        watch(ops.append, stop)

    threads = [threading.Thread(target=observe, args=(watch,), daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    try:
        yield ops
    finally:
        stop.set()
        for thread in threads:
            thread.join(3)


def reallocation(fleet: KindFleet, victim: str, homes: tuple[Placement, ...], ops: list[Op]) -> None:
    """Seconds from the decision to move a model to the last of its new pods, as `kind_reallocation.py` counts them."""
    away = {(one.cluster, one.replica) for one in homes}
    lost = sum(one.cluster == victim for one in homes)
    rows = forecast(fleet.state.spec, homes, victim).models
    store_s = {row.model: row.reload_s or 0.0 for row in rows}
    began = time.monotonic()

    def new(kind: str) -> dict[str, Op]:
        return {op.replica: op for op in tuple(ops) if op.kind == kind and (op.cluster, op.replica) not in away}

    while len(new(REPLICA_READY)) < lost and time.monotonic() - began < MOVED_WITHIN_S:
        time.sleep(0.1)
    decided = {op.model: op.t_done for op in reversed(tuple(ops)) if op.kind == DECIDED}
    took_s = {name: float(op.detail.get("seconds", 0.0)) for name, op in new(REPLICA_WEIGHTS).items()}

    def after_s(op: Op) -> float:
        """What is taken off of ready is what the store needs at least, and never more than the weights took."""
        own_s = min(store_s.get(op.model, 0.0), took_s.get(op.replica, 0.0)) if op.kind == REPLICA_READY else 0.0
        return (op.t_done - decided[op.model]) / NS_PER_S - own_s if op.model in decided else inf

    for kind, bar in MOVED.items():
        late = [after_s(op) for op in new(kind).values()]
        told(f"{kind} after the decision, {len(late)} of {lost}", max(late) if len(late) == lost else inf, bar, "s")


def power_cycle(fleet: KindFleet) -> None:
    """One cluster loses power, its models move, and it comes back."""
    cluster = fleet.clusters[1]
    assert isinstance(cluster, PowerControl)
    homes = tuple(one for each in fleet.clusters for one in each.placements())
    with watched(fleet) as ops:
        time.sleep(2)  # what there is already is heard first
        ops.clear()
        began = time.monotonic()
        cluster.power_off()
        told("power loss, call to last node dead (skew is less)", time.monotonic() - began, SKEW_S, "s")
        until(cluster.verify_power_off, "all", 10)
        told("power loss verified", time.monotonic() - began, VERIFIED_S, "s")
        reallocation(fleet, cluster.name, homes, ops)
    began = time.monotonic()
    cluster.power_on()
    until(cluster.verify_power_on, "api", 60)
    told("restore, API ready", time.monotonic() - began, API_S, "s")
    until(cluster.verify_power_on, "all", 60)
    told("restore, nodes ready and GPUs verified", time.monotonic() - began, GPUS_S, "s")
    wanted = sum(model.replicas for model in fleet.state.spec.models)
    while time.monotonic() - began < 90:
        try:
            pods = [one.ready for each in fleet.clusters for one in each.placements()]
        except FleetError:
            continue
        if sum(pods) == len(pods) == wanted:
            break
        time.sleep(0.3)
    told("restore, every replica ready once", time.monotonic() - began, PODS_S, "s")


def main(words: list[str]) -> int:
    """All of it."""
    names = [word for word in words if not word.startswith("--")]
    spec: FleetSpec = getattr(fleets, (names or ["three_clusters"])[0].replace("-", "_"))()
    try:
        supplies = find(lambda line: print(line))
    except FleetError as error:
        print(f"skipped: {error.message}. Next: {error.hint}")
        return 0
    before = idle()
    print(f"  this machine without the fleet: {before[0]:.2f} cores, {before[1]:.2f} GiB")
    with tempfile.TemporaryDirectory() as state:
        folder = Folder(Path(state, "kind"))
        try:
            if "--no-bare" not in words:
                print(f"  bare kind create of the same: {bare(spec, supplies):.1f} s")
            began = time.monotonic()
            lifecycle.up(spec, folder, lambda line: print(f"    {time.monotonic() - began:5.1f} s {line}", flush=True))
            told("fleet up", time.monotonic() - began, UP_S, "s")
            time.sleep(5)
            cores, gib = idle()
            told("idle cost", cores - before[0], IDLE_CORES, "cores")
            told("idle memory", gib - before[1], IDLE_GIB, "GiB")
            power_cycle(KindFleet(spec, folder=folder))
        finally:
            told("fleet down", timed(lambda: lifecycle.down(folder, lambda _: None)), DOWN_S, "s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
