"""Drills on real Kubernetes, in the order of the file: the fleet comes up, is hurt in every way, and goes.

Nothing here stands for anything: containers are killed, packets dropped, API servers stopped. ``make test-kind``.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fleet.environments.kind.fleet import KindFleet
from fleet.environments.kind.offline.paths import Paths
from fleet.environments.kind.state import Folder
from history.op import CONNECT_TIMEOUT, PROBE_DATA, REPLICA_READY, UNREACHABLE, WATCH_GAP
from history.reader import read_run

if TYPE_CHECKING:
    from tests.kind.kind_console import COMMAND, Console, docker
else:
    from kind_console import COMMAND, Console, docker

SMALL = ("--fleet", "small")


def verdict(run: Path) -> str:
    told: dict[str, str] = json.loads((run / "result.json").read_text())
    return told["verdict"]


def test_a_fleet_comes_up_and_again_changes_nothing(console: Console) -> None:
    users = console.folder / "users.kubeconfig"
    users.write_text("apiVersion: v1\nkind: Config\n")
    up = console.run("fleet", "up", "--env", "kind", *SMALL)
    assert up.returncode == 0, up.stderr
    before = docker("ps", "--no-trunc", "--quiet", "--filter", "label=io.x-k8s.kind.cluster")
    assert len(before.split()) == 3
    again = console.run("fleet", "up", "--env", "kind", *SMALL)
    assert again.returncode == 0, again.stderr
    assert docker("ps", "--no-trunc", "--quiet", "--filter", "label=io.x-k8s.kind.cluster") == before
    assert users.read_text() == "apiVersion: v1\nkind: Config\n", "the user's own kubeconfig is never touched"
    status = console.run("fleet", "status", "--env", "kind")
    assert status.returncode == 0, status.stdout
    assert "Whole." in status.stdout


def test_another_fleet_is_refused_while_one_is_up(console: Console) -> None:
    other = console.run("fleet", "up", "--env", "kind", "--fleet", "micro")
    assert other.returncode == 3
    assert "another fleet is up" in other.stderr


def test_cluster_loss_on_kubernetes(console: Console) -> None:
    code, said, run = console.drill("cluster-loss", *SMALL)
    assert code in (0, 1), said
    told = read_run(run)
    assert told.header.environment == "kind"
    assert told.header.faults[0].signature == "unreachable"
    survivors = {op.cluster for op in told.history.of_kind(REPLICA_READY)}
    assert survivors & {"amber", "jade"}
    assert any(op.cluster == "cobalt" for op in told.history.of_kind(WATCH_GAP))
    requests = told.history.requests
    of_victim = requests.kind.where(PROBE_DATA) & requests.cluster.where("cobalt")
    seen = {requests.error[int(row)] for row in np.flatnonzero(of_victim)}
    assert "" in seen, "the prober saw it answer"
    assert seen & {UNREACHABLE, CONNECT_TIMEOUT}, "and saw that nobody was at its addresses any more"


@pytest.mark.parametrize("name", ["partition", "control-plane-cut"])
def test_drills_that_need_kubernetes(console: Console, name: str) -> None:
    code, said, run = console.drill(name)
    assert code in (0, 1), said
    assert verdict(run) in ("pass", "fail")


def test_ten_times_killed_ten_times_all_gpus_are_back(console: Console) -> None:
    folder = Folder(console.state / "kind")
    state = folder.read()
    assert state is not None
    fleet = KindFleet(state.spec, folder=folder)
    cobalt = next(cluster for cluster in fleet.clusters if cluster.name == "cobalt")
    pods = {(p.model, p.replica) for p in cobalt.placements()}
    for _ in range(10):
        cobalt.power_off()
        deadline = time.monotonic() + 10
        while not all(signal.ok for signal in cobalt.verify_power_off()):
            assert time.monotonic() < deadline
        cobalt.power_on()
        deadline = time.monotonic() + 60
        while not all(signal.ok for signal in cobalt.verify_power_on()):
            assert time.monotonic() < deadline, cobalt.verify_power_on()
            time.sleep(0.2)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = [(p.model, p.replica) for p in cobalt.placements() if p.ready]
        if set(found) == pods:
            break
        time.sleep(0.5)
    assert sorted(found) == sorted(pods), "no pod of a model lost or doubled"


def test_somebody_elses_cluster_of_the_same_name_stays(console: Console) -> None:
    down = console.run("fleet", "down", "--env", "kind")
    assert down.returncode == 0, down.stderr
    image = Paths.of_this_machine().images["node"].name
    label = "io.x-k8s.kind.cluster=blackstart-amber"
    docker("create", "--name", "blackstart-amber-control-plane", "--label", label, image)
    try:
        up = console.run("fleet", "up", "--env", "kind", *SMALL)
        assert up.returncode == 3
        assert "did not make" in up.stderr
        assert "blackstart-amber-control-plane" in docker("ps", "--all", "--format", "{{.Names}}")
    finally:
        docker("rm", "--force", "blackstart-amber-control-plane")


def test_a_creation_that_is_killed_is_taken_away_by_the_next(console: Console) -> None:
    env = {**os.environ, "BLACKSTART_STATE": str(console.state)}
    creation = subprocess.Popen([*COMMAND, "fleet", "up", "--env", "kind", *SMALL], env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not docker("ps", "--quiet", "--filter", "label=io.x-k8s.kind.cluster").split():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    creation.kill()
    creation.wait()
    down = console.run("fleet", "down", "--env", "kind")
    assert down.returncode == 0, down.stderr
    assert docker("ps", "--all", "--quiet", "--filter", "label=io.x-k8s.kind.cluster") == ""
    assert "blackstart" not in docker("network", "ls", "--format", "{{.Name}}").split()
