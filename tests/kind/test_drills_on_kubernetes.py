"""Drills on real Kubernetes, in the order of the file: fleets come up, are hurt in every way, and go.

Nothing here stands for anything: containers are killed, packets dropped, API servers stopped. ``make test-kind``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
import yaml  # type: ignore[import-untyped]

from assertions import analyze
from drills.engine.safety.loader import find_all
from drills.june_2022 import NEW_INGRESS, OLD_INGRESS
from fleet.environments.kind import containers
from fleet.environments.kind.kubernetes.client import Refused
from fleet.environments.kind.lifecycle import FRESH_S
from fleet.environments.kind.manifests import DAEMONSETS
from fleet.environments.kind.supplies import find
from fleet.environments.kind.topology import NAMESPACE
from fleet.manifests import not_served
from history.errors import FleetError
from history.op import (
    CONNECT_TIMEOUT,
    DROPPED,
    PROBE_API,
    PROBE_DATA,
    REFUSED,
    REPLICA_READY,
    RESET,
    TIMEOUT,
    UNREACHABLE,
    WATCH_GAP,
)
from history.reader import read_run
from scripts.catalogue import NOT_READY

if TYPE_CHECKING:
    from tests.kind.kind_console import COMMAND, ROOT, Console, docker, until
else:
    from kind_console import COMMAND, ROOT, Console, docker, until

SMALL = ("--fleet", "small")
SYSTEM_PODS = "/api/v1/namespaces/kube-system/pods"
NODES = "label=io.x-k8s.kind.cluster"
SILENT = {CONNECT_TIMEOUT, UNREACHABLE, REFUSED, RESET}
"""A port that is gone while its node still lives says refused for a moment; then nobody is there."""
HANGS = {TIMEOUT, CONNECT_TIMEOUT}
DRILLS = {
    "partition": (HANGS, HANGS),
    "cable-pull": (SILENT, SILENT),
    "control-plane-cut": ({REFUSED, RESET, TIMEOUT}, set()),
    "gray-failure": (HANGS, HANGS),
    "return-of-the-cluster": (SILENT, SILENT),
    "rebuild-from-scratch": (SILENT, SILENT),
}
"""What a client may see of the API and of the data plane."""


def passes(console: Console, name: str, api: set[str], data: set[str]) -> Path:
    """The drill passes, and its prober saw of the victim during the fault what is allowed."""
    code, said, run = console.drill(name)
    assert code == 0, said
    prober_saw(run, api, data)
    return run


def prober_saw(run: Path, api: set[str], data: set[str]) -> None:
    """Of the victim during the fault: what is allowed, and that at all."""
    history = read_run(run).history
    (verified,) = history.of_kind("fault.verified")
    (heal,) = history.of_kind("fault.heal")
    requests = history.requests
    during = (requests.t_intended >= verified.t_done) & (requests.t_intended < heal.t_intended)
    for kind, allowed in ((PROBE_API, api), (PROBE_DATA, data)):
        rows = np.flatnonzero(during & requests.kind.where(kind) & requests.cluster.where("cobalt"))
        told = [(requests.error[int(row)], bool(requests.t_done[row] < heal.t_intended)) for row in rows]
        told = [(error, before_heal) for error, before_heal in told if error != DROPPED]
        in_time = {error for error, before_heal in told if before_heal}
        later = {error for error, before_heal in told if not before_heal} - {""}  # may have met the heal
        assert len(told) >= 4, f"{kind}: nobody asked"
        assert in_time <= (allowed or {""}), (kind, in_time)
        assert later <= allowed, (kind, later)
        assert in_time | later if allowed else "" in in_time, f"{kind}: nothing was seen"


def test_a_fleet_comes_up_and_again_changes_nothing(console: Console) -> None:
    users = console.folder / "users.kubeconfig"
    users.write_text("apiVersion: v1\nkind: Config\n")
    up = console.run("fleet", "up", "--env", "kind")
    assert up.returncode == 0, up.stderr
    before = docker("ps", "--no-trunc", "--quiet", "--filter", NODES)
    assert len(before.split()) == 9
    again = console.run("fleet", "up", "--env", "kind")
    assert again.returncode == 0, again.stderr
    assert docker("ps", "--no-trunc", "--quiet", "--filter", NODES) == before
    assert "made whole" not in again.stdout
    docker("kill", "blackstart-jade-worker2")
    mended = console.run("fleet", "up", "--env", "kind")
    assert "blackstart-jade-worker2 was found exited: made whole again" in mended.stdout, mended.stderr
    assert docker("ps", "--no-trunc", "--quiet", "--filter", NODES) == before
    assert users.read_text() == "apiVersion: v1\nkind: Config\n", "the user's own kubeconfig is never touched"
    status = console.run("fleet", "status", "--env", "kind")
    assert status.returncode == 0, status.stdout
    assert "Whole." in status.stdout
    the_clusters_are_frugal(console)
    told = console.run("fleet", "kubeconfig", "amber", "--env", "kind").stdout.strip()
    assert Path(told).is_relative_to(console.folder)


def the_clusters_are_frugal(console: Console) -> None:
    """What docs/decisions/0006 says, seen in the nodes."""

    def seen(node: str, command: str) -> str:
        return docker("exec", f"blackstart-jade-{node}", "sh", "-c", command).strip()

    plane = seen("control-plane", "cat /etc/kubernetes/manifests/*.yaml")
    assert (plane.count("--unsafe-no-fsync=true"), plane.count("--leader-elect=false")) == (1, 2), "kind took the patch"
    assert "EC PRIVATE" in seen("control-plane", "head -1 /etc/kubernetes/pki/ca.key")
    assert seen("control-plane", "cat /proc/$(pgrep -xo kube-apiserver)/timerslack_ns") == "4000000"
    assert seen("worker", "cat /proc/$(pgrep -fo '[k]ind.pod server')/timerslack_ns") == "50000"
    assert "GOMAXPROCS=1" in seen("worker", "tr '\\0' '\\n' < /proc/$(pgrep -xo kubelet)/environ").split()
    jade = console.cluster("jade").api()
    until(lambda: len(jade.call("GET", SYSTEM_PODS)["items"]) == 4, 30)  # etcd, API, controllers, scheduler: no more


def test_another_fleet_is_refused_while_one_is_up(console: Console) -> None:
    other = console.run("fleet", "up", "--env", "kind", *SMALL)
    assert other.returncode == 3
    assert "another fleet is up" in other.stderr


def test_cluster_loss_on_kubernetes(console: Console) -> None:
    """All happens that the drill is about, and each objective is measured. Whether nine nodes were quick enough is up
    to the cores that they share here: `python benchmarks/kind_reallocation.py` says it with bars."""
    code, said, run = console.drill("cluster-loss")
    print(said)
    assert code in (0, 1), said
    prober_saw(run, SILENT, SILENT)
    told = read_run(run)
    assert told.header.environment == "kind"
    assert told.header.faults[0].signature == "unreachable"
    assert any(op.cluster == "cobalt" for op in told.history.of_kind(WATCH_GAP))
    result = analyze(told)
    assert all(one.verdict in ("pass", "fail") and one.measured is not None for one in result.objectives), said
    lost = {place.replica: place.model for place in told.header.fleet.placements if place.cluster == "cobalt"}
    (inject,), (heal,) = told.history.of_kind("fault.inject"), told.history.of_kind("fault.heal")
    ready = told.history.of_kind(REPLICA_READY)
    declared = {place.replica for place in told.header.fleet.placements}
    during = (op for op in ready if inject.t_intended < op.t_done < heal.t_intended)
    moved = {(op.replica, op.model, op.cluster) for op in during if op.replica not in declared}
    assert {cluster for *_, cluster in moved} <= {"amber", "jade"}
    assert sorted(model for _, model, _ in moved) == sorted(lost.values()), "each lost replica is replaced, and once"
    home = {op.replica for op in ready if op.cluster == "cobalt" and op.t_done > heal.t_intended}
    assert home == set(lost)


def test_the_large_fleet_goes_and_a_small_one_comes(console: Console) -> None:
    assert console.run("fleet", "down", "--env", "kind").returncode == 0
    up = console.run("fleet", "up", "--env", "kind", *SMALL)
    assert up.returncode == 0, up.stderr
    assert len(docker("ps", "--quiet", "--filter", NODES).split()) == 3


@pytest.mark.parametrize("name", DRILLS)
def test_a_drill_passes_on_kubernetes(console: Console, name: str) -> None:
    passes(console, name, *DRILLS[name])


@pytest.mark.parametrize("name", ["partition", "control-plane-cut"])
def test_a_drill_that_only_kubernetes_shows_fails_on_a_fleet_that_is_not_ready(console: Console, name: str) -> None:
    text = find_all(ROOT)[name].text
    unready = NOT_READY.search(text)
    assert unready is not None
    code, said, _ = console.drill(name, "--fleet", unready.group(1), "--expect-fail")
    assert code == 1, said


def test_an_ingress_of_a_removed_version_is_found_and_refused(console: Console) -> None:
    cobalt = console.cluster("cobalt")
    assert not_served(OLD_INGRESS, cobalt.served()) == ("extensions/v1beta1/Ingress",)
    assert not_served(NEW_INGRESS, cobalt.served()) == ()
    api, dry, (old, new) = cobalt.api(), {"dryRun": "All"}, map(yaml.safe_load, (OLD_INGRESS, NEW_INGRESS))
    with pytest.raises(Refused, match="404"):
        api.call("POST", f"/apis/{old['apiVersion']}/namespaces/default/ingresses", old, query=dry)
    taken = api.call("POST", f"/apis/{new['apiVersion']}/namespaces/default/ingresses", new, query=dry)
    assert taken["kind"] == "Ingress"


def test_what_is_long_in_ending_is_waited_for(console: Console) -> None:
    """A fleet that takes the clusters over makes its agents once those of the one before have gone: Kubernetes calls a
    DaemonSet that is ending "already there", and then it goes."""
    cobalt = console.cluster("cobalt")
    api, agents, pods = cobalt.api(), f"{DAEMONSETS}/agent", f"/api/v1/namespaces/{NAMESPACE}/pods"

    def hold(*finalizers: str) -> None:
        containers.surely(lambda: api.patch(agents, {"metadata": {"finalizers": finalizers}}))

    def ending() -> bool:
        with contextlib.suppress(FleetError):  # an API that is slow to answer: asked again
            return "deletionTimestamp" in api.get(agents)["metadata"] and not api.get(pods)["items"]
        return False

    hold("blackstart.dev/held")
    words = [*COMMAND, "fleet", "up", "--env", "kind", "--fleet", "small:decision_s=3"]  # no drill left that one
    with subprocess.Popen(words, env=console.env, stderr=subprocess.PIPE, text=True) as taking_over:
        try:
            until(ending, 60)
            body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": api.get(agents)["spec"]}
            with pytest.raises(Refused, match="being deleted"):
                api.create(DAEMONSETS, {**body, "metadata": {"name": "agent"}})
            time.sleep(FRESH_S + 2)  # longer than a creation alone is tried again
        finally:
            hold()
        said = taking_over.communicate(timeout=200)[1]
    assert taking_over.returncode == 0, said
    until(lambda: all(cobalt.reachable().nodes.values()), 10)


def test_ten_times_killed_ten_times_all_gpus_are_back(console: Console) -> None:
    """And each time, in all clusters, every replica is there once and ready: none lost, none doubled."""
    clusters = [console.cluster(name) for name in ("amber", "cobalt", "jade")]
    cobalt = clusters[1]

    def pods() -> list[tuple[str, str, str, bool]]:
        with contextlib.suppress(FleetError):  # an API that is coming up: asked again
            return sorted((p.cluster, p.model, p.replica, p.ready) for one in clusters for p in one.placements())
        return []

    whole = console.run("fleet", "up", "--env", "kind", *SMALL)
    assert whole.returncode == 0, whole.stderr
    before = pods()
    assert sum(cluster == "cobalt" for cluster, *_ in before) >= 2
    assert all(ready for *_, ready in before)
    for _ in range(10):
        cobalt.power_off()
        until(lambda: all(signal.ok for signal in cobalt.verify_power_off()), 10)
        cobalt.power_on()
        until(lambda: all(signal.ok for signal in cobalt.verify_power_on()), 60)
        until(lambda: pods() == before, 90)


def test_what_a_killed_harness_left_is_restored(console: Console) -> None:
    words = [*COMMAND, "run", "return-of-the-cluster", "--env", "kind", "--out", str(console.runs), "--plain"]
    run = subprocess.Popen(words, env=console.env, stdout=subprocess.DEVNULL, start_new_session=True)
    dead = ("ps", "--all", "--quiet", "--filter", NODES, "--filter", "status=exited")
    until(lambda: docker(*dead).split(), 60)
    run.send_signal(signal.SIGKILL)
    run.wait()
    restored = console.run("restore")
    assert restored.returncode == 0, restored.stderr
    assert "cobalt started again" in restored.stdout
    assert not docker(*dead).split()
    until(lambda: "Whole." in console.run("fleet", "status", "--env", "kind").stdout, 90)


def test_somebody_elses_cluster_of_the_same_name_stays(console: Console) -> None:
    down = console.run("fleet", "down", "--env", "kind")
    assert down.returncode == 0, down.stderr
    image = find(lambda _: None).node_image
    docker("create", "--name", "blackstart-amber-control-plane", "--label", f"{NODES[6:]}=blackstart-amber", image)
    try:
        up = console.run("fleet", "up", "--env", "kind", *SMALL)
        assert up.returncode == 3
        assert "did not make" in up.stderr
        assert "blackstart-amber-control-plane" in docker("ps", "--all", "--format", "{{.Names}}")
    finally:
        docker("rm", "--force", "blackstart-amber-control-plane")


def dies_while_it_is_made(console: Console, creation: subprocess.Popen[str]) -> None:
    docker("kill", "blackstart-jade-control-plane")
    assert creation.wait(240) == 3
    said = creation.communicate()[1]
    assert "could not make jade" in said, said


def is_killed(console: Console, creation: subprocess.Popen[str]) -> None:
    creation.kill()
    creation.wait()
    down = console.run("fleet", "down", "--env", "kind")
    assert down.returncode == 0, down.stderr


@pytest.mark.parametrize("end", [dies_while_it_is_made, is_killed])
def test_a_creation_that_ends_badly_leaves_nothing(
    console: Console, end: Callable[[Console, subprocess.Popen[str]], None]
) -> None:
    words = [*COMMAND, "fleet", "up", "--env", "kind", *SMALL]
    with subprocess.Popen(
        words, env=console.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as creation:
        until(lambda: "blackstart-jade" in docker("ps", "--format", "{{.Names}}", "--filter", NODES), 60)
        end(console, creation)
    assert console.on_the_engine() == console.before
    until(lambda: not processes_of(console), 15)


def processes_of(console: Console) -> list[str]:
    """Everything that runs with the test's own folder among its words or as its state directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words, env = process.info["cmdline"] or [], process.info["environ"] or {}
        mine = env.get("BLACKSTART_STATE") == str(console.state) and process.pid != os.getpid()
        if mine or any(str(console.folder) in word for word in words):
            found.append(" ".join(words))
    return found
