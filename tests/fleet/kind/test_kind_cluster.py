"""The controls of a kind cluster against a Docker that is a script: what is asked, and what is believed."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet import fleets
from fleet.environments.kind import containers, lifecycle
from fleet.environments.kind.cluster import KindCluster
from fleet.environments.kind.fleet import KindFleet
from fleet.environments.kind.leftovers import facts, restore
from fleet.environments.kind.state import Folder, state_root
from fleet.environments.kind.topology import topology
from fleet.environments.local.ask import Answer
from fleet.protocols import (
    CableControl,
    Cluster,
    ControlPlaneControl,
    FreezeControl,
    PartitionControl,
    PowerControl,
    RebuildControl,
    StoreControl,
    TrafficControl,
)
from history.errors import FaultError, FleetError
from history.records import Signal
from tests.fleet.kind.fake_docker import FakeDocker


@pytest.fixture
def cobalt(folder: Folder, fake: FakeDocker) -> KindCluster:
    return KindFleet(fleets.three_clusters(), folder=folder).clusters[1]


def answers(monkeypatch: pytest.MonkeyPatch, api: Answer, node: Answer) -> None:
    def ask(url: str, **_: object) -> Answer:
        return api if url.startswith("https") else node

    monkeypatch.setattr("fleet.environments.kind.cluster.ask", ask)


OK, HUNG = Answer("u", "answered", 200), Answer("u", "no-answer")
GONE = Answer("u", "unreachable")


def good(signals: tuple[Any, ...]) -> list[bool]:
    return [signal.ok for signal in signals]


def test_it_has_every_control(cobalt: KindCluster, folder: Folder) -> None:
    for protocol in (
        Cluster,
        PowerControl,
        FreezeControl,
        PartitionControl,
        CableControl,
        ControlPlaneControl,
        RebuildControl,
    ):
        assert isinstance(cobalt, protocol)
    assert isinstance(cobalt, TrafficControl)
    assert isinstance(KindFleet(fleets.three_clusters(), folder=folder), StoreControl)


def test_the_allocator_of_a_fleet_that_was_up_is_heard_from_the_watch_on(folder: Folder, tmp_path: Path) -> None:
    """It lists all that it did in runs before; one that this run makes has done nothing else."""
    assert KindFleet(fleets.three_clusters(), folder=folder).controller._found_up
    assert not KindFleet(fleets.three_clusters(), folder=Folder(tmp_path / "none")).controller._found_up


def test_power_loss_kills_all_containers_in_one_call(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobalt.power_off()
    names = ("blackstart-cobalt-control-plane", "blackstart-cobalt-worker", "blackstart-cobalt-worker2")
    assert fake.calls == [("kill", *names)]
    answers(monkeypatch, GONE, GONE)
    assert good(cobalt.verify_power_off()) == [True, True, True]
    cobalt.power_off()
    assert fake.verbs() == ["kill"], "idempotent"
    answers(monkeypatch, GONE, OK)
    assert good(cobalt.verify_power_off()) == [True, True, False], "one node answers: it is not off"


def test_a_pod_that_was_frozen_when_its_node_was_killed_is_thawed(
    fake: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker waits for an exit that never comes, until somebody thaws; a node that is not killed is left alone."""
    monkeypatch.setattr(containers, "FREEZER", tmp_path)
    monkeypatch.setattr(containers, "LOOK_S", 0.001)
    monkeypatch.setattr(containers, "THAW_S", 0.01)
    states = [tmp_path / name / "kubelet.slice" / "freezer.state" for name in ("dying", "lives")]
    for state in states:
        state.parent.mkdir(parents=True)
        state.write_text("FROZEN\n")
    fake.boxes["blackstart-cobalt-worker"]["Id"] = "dying"
    fake.boxes["blackstart-amber-worker"]["Id"] = "lives"

    def docker(*words: str, timeout_s: float = 0.0) -> str:
        while words[0] == "kill" and states[0].read_text() != "THAWED":
            pass
        return fake(*words)

    monkeypatch.setattr(containers, "docker", docker)
    containers.kill(["blackstart-cobalt-worker"])
    assert states[1].read_text() == "FROZEN\n"
    assert fake.verbs() == ["kill"]


class Nodes:
    """Real processes as the first ones of two containers, and an engine that kills them one after the other, and then
    works on until it is told to end."""

    def __init__(self, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names = ["blackstart-cobalt-worker", "blackstart-cobalt-worker2"]
        self.cleaned_up, self.ended = threading.Event(), threading.Event()
        self.pause_s = 0.0
        self.fake, self.first = fake, {name: subprocess.Popen(["sleep", "60"]) for name in self.names}
        self.own = Path("/proc/self/cgroup").read_text().splitlines()[0]
        for name, first in self.first.items():
            fake.boxes[name]["State"]["Pid"], fake.boxes[name]["Id"] = first.pid, self.own
        monkeypatch.setattr(containers, "LOOK_S", 0.001)
        monkeypatch.setattr(containers, "docker", self)

    def __call__(self, *words: str, timeout_s: float = 0.0) -> str:
        if words[0] != "kill":
            return self.fake(*words)
        for name in words[1:]:
            if name in self.first:
                time.sleep(self.pause_s)
                self.first[name].kill()
                self.first[name].wait()
        self.cleaned_up.wait(20)
        self.ended.set()
        return self.fake(*words)

    def alive(self) -> list[str]:
        return [name for name, first in self.first.items() if psutil.pid_exists(first.pid)]


@pytest.fixture
def nodes(fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    made = Nodes(fake, monkeypatch)
    yield made
    made.cleaned_up.set()
    for first in made.first.values():
        first.kill()
        first.wait()


def test_a_kill_returns_when_all_processes_are_gone_and_does_not_wait_for_the_engine(nodes: Nodes) -> None:
    nodes.pause_s = 0.1
    done = containers.kill(nodes.names)
    assert nodes.alive() == []
    assert not done.done()
    nodes.cleaned_up.set()
    done.result(20)
    assert [box["State"]["Status"] for box in map(nodes.fake.boxes.get, nodes.names) if box] == ["exited", "exited"]


def test_processes_that_are_not_this_hosts_say_nothing_of_a_kill(nodes: Nodes) -> None:
    """Their number may be that of anybody here, or of nobody: only the engine knows when they are gone."""
    nodes.fake.boxes[nodes.names[1]]["Id"] = "of another host"
    threading.Timer(0.3, nodes.cleaned_up.set).start()
    assert containers.kill(nodes.names).done()


def test_an_interrupted_kill_has_ended_when_the_interrupt_arrives(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What heals the cluster next would find everything running, and the kill would come after it."""
    monkeypatch.setattr(psutil.Process, "is_running", lambda _: signal.raise_signal(signal.SIGINT))
    threading.Timer(0.3, nodes.cleaned_up.set).start()
    with pytest.raises(KeyboardInterrupt):
        containers.kill(nodes.names)
    assert nodes.ended.is_set()


def test_power_returns_only_when_the_engine_knows_that_it_was_lost(
    nodes: Nodes, cobalt: KindCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_life", lambda _: psutil.Process())
    monkeypatch.setattr(psutil.Process, "is_running", lambda _: False)
    cobalt.power_off()
    threading.Timer(0.3, nodes.cleaned_up.set).start()
    cobalt.power_on()
    assert nodes.ended.is_set()
    assert nodes.fake.verbs()[-1] == "start"


def test_a_power_loss_is_looked_at_everywhere_at_once(cobalt: KindCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes containers apart answers late, and time-outs of the planes run meanwhile."""
    asked, inspect = threading.Event(), containers.inspect

    def ask(_: str, **__: object) -> Answer:
        asked.set()
        return GONE

    def late(names: Iterable[str]) -> tuple[containers.Container, ...]:
        assert asked.wait(20), "the engine is asked first, and the planes only when it has answered"
        return inspect(names)

    cobalt.power_off()
    monkeypatch.setattr("fleet.environments.kind.cluster.ask", ask)
    monkeypatch.setattr(containers, "inspect", late)
    assert good(cobalt.verify_power_off()) == [True, True, True]


def test_a_kill_that_the_engine_refuses_is_an_error(fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    def docker(*words: str, timeout_s: float = 0.0) -> str:
        if words[0] == "kill":
            raise FleetError("docker kill: permission denied", hint="blackstart doctor")
        return fake(*words)

    monkeypatch.setattr(containers, "docker", docker)
    with pytest.raises(FaultError, match="permission denied"):
        containers.kill(["blackstart-cobalt-worker"])


def test_a_signature_that_docker_cannot_give_is_refused(cobalt: KindCluster) -> None:
    with pytest.raises(FaultError, match="refused"):
        cobalt.power_off("refused")


def test_power_returns_to_the_same_addresses_and_to_the_control_plane_first(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobalt.power_off()
    fake.calls.clear()
    cobalt.power_on()
    monkeypatch.setattr("fleet.environments.kind.cluster.LOOK_S", 0.0)
    started = ("start", "blackstart-cobalt-control-plane")
    assert [call for call in fake.calls if call[0] == "start"] == [started]
    answers(monkeypatch, GONE, GONE)
    cobalt.verify_power_on()
    assert fake.verbs().count("start") == 1, "a kubelet that finds no API would wait long before it asks again"
    answers(monkeypatch, Answer("u", "answered", 500), GONE)
    cobalt.verify_power_on()
    cobalt.verify_power_on()
    workers = ("start", "blackstart-cobalt-worker", "blackstart-cobalt-worker2")
    assert [call for call in fake.calls if call[0] == "start"] == [started, workers]
    kept = {call[-1]: call[3] for call in fake.calls if call[:2] == ("network", "connect")}
    assert kept == {
        "blackstart-cobalt-control-plane": "127.29.0.5",
        "blackstart-cobalt-worker": "127.29.0.6",
        "blackstart-cobalt-worker2": "127.29.0.7",
    }
    assert fake.verbs()[-1] == "start", "addresses are fixed before anything starts"


def test_frozen_means_paused_and_silent_on_open_connections(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobalt.freeze()
    answers(monkeypatch, HUNG, HUNG)
    assert good(cobalt.verify_frozen()) == [True, True, True]
    answers(monkeypatch, GONE, HUNG)
    assert not all(good(cobalt.verify_frozen()))
    cobalt.thaw()
    answers(monkeypatch, OK, OK)
    assert good(cobalt.verify_thawed()) == [True, True, True]


def test_a_partition_spares_the_clusters_own_nodes_and_pods(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobalt.cut_off()
    script = fake.calls[0][-1]
    for friend in ("127.29.0.5", "127.29.0.6", "127.29.0.7", "10.102.0.0/16"):
        assert f"-s {friend} -j RETURN" in script
        assert f"-d {friend} -j RETURN" in script
    assert "127.29.0.2" not in script.replace("127.29.0.2\n", ""), "a node of amber is no friend"
    assert script.index("-j RETURN") < script.index("-j DROP") < script.index("-I PREROUTING")
    answers(monkeypatch, Answer("u", "connect-timeout"), Answer("u", "connect-timeout"))
    assert good(cobalt.verify_cut_off()) == [True, True, True]
    cobalt.reconnect()
    answers(monkeypatch, OK, OK)
    assert good(cobalt.verify_reconnected()) == [True, True, True]


def test_pulled_cables_leave_running_containers_without_an_address(
    cobalt: KindCluster, fake: FakeDocker, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobalt.pull_cables()
    assert {call[-1] for call in fake.calls} == set(topology(fleets.three_clusters())[1].containers)
    answers(monkeypatch, GONE, GONE)
    assert good(cobalt.verify_cables_pulled()) == [True, True, True, True]
    assert good(cobalt.verify_plugged_in()) == [False, False, False]
    cobalt.plug_in()
    answers(monkeypatch, OK, OK)
    assert good(cobalt.verify_plugged_in()) == [True, True, True]
    assert not any(good(cobalt.verify_cables_pulled())[1:])
    assert [one.address for one in containers.of_cluster("blackstart-cobalt")] == [
        "127.29.0.5", "127.29.0.6", "127.29.0.7",
    ]  # fmt: skip
    cobalt.pull_cables()
    assert len([line for line in restore(facts(folder, True, "f1")) if "plugged in" in line]) == 3
    assert restore(facts(folder, True, "f1")) == ()


def test_a_control_plane_cut_wants_the_data_plane_alive(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cobalt.cut_control_plane()
    assert [call[1] for call in fake.calls] == ["blackstart-cobalt-control-plane"], "no other node is touched"
    answers(monkeypatch, Answer("u", "refused"), OK)
    assert good(cobalt.verify_control_plane_cut()) == [True, True]
    answers(monkeypatch, Answer("u", "refused"), GONE)
    assert good(cobalt.verify_control_plane_cut()) == [True, False]


def test_the_opt_in_marker_is_asked_of_docker(cobalt: KindCluster, fake: FakeDocker) -> None:
    assert "fleet f1" in cobalt.opted_in()
    fake.boxes["blackstart-cobalt-worker"]["Mounts"] = []
    assert cobalt.opted_in() == "", "one container that is not ours closes the cluster"


def test_down_removes_what_is_ours_and_nothing_else(folder: Folder, fake: FakeDocker) -> None:
    fake.add("blackstart-amber-extra", "blackstart-amber", "127.29.0.99", marker="/somebody/else")
    fake.add("stranger-control-plane", "stranger", "127.29.0.98", marker="")
    lifecycle.down(folder, lambda _: None)
    assert set(fake.boxes) == {"blackstart-amber-extra", "stranger-control-plane"}
    assert not folder.root.exists()
    lifecycle.down(folder, lambda _: None)


def test_a_name_that_somebody_else_has_is_refused(folder: Folder, fake: FakeDocker) -> None:
    fake.boxes.clear()
    fake.add("blackstart-jade-control-plane", "blackstart-jade", "127.29.0.2", marker="/somebody/else")
    with pytest.raises(FleetError, match="blackstart-jade"):
        lifecycle._require_free_names(fleets.three_clusters(), folder)
    assert list(fake.boxes) == ["blackstart-jade-control-plane"]


def test_the_state_is_readable_by_its_owner_alone_and_comes_back_as_it_was(folder: Folder) -> None:
    state = folder.read()
    assert state is not None
    assert folder.file.stat().st_mode & 0o077 == 0
    assert state.spec == fleets.three_clusters()
    assert "tell-nobody" not in repr(state)
    folder.file.write_text("{")
    with pytest.raises(FleetError, match="cannot be read"):
        folder.read()


def test_the_state_directory_follows_the_environment() -> None:
    assert state_root({"BLACKSTART_STATE": "/s"}) == Path("/s/kind")
    assert state_root({"XDG_STATE_HOME": "/x"}) == Path("/x/blackstart/kind")
    assert state_root({"HOME": "/h"}) == Path("/h/.local/state/blackstart/kind")


def test_a_rebuilt_cluster_gets_the_addresses_that_everybody_knows(
    cobalt: KindCluster, folder: Folder, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    state = folder.read()
    assert state is not None
    (topo,) = [one for one in state.clusters if one.name == "cobalt"]
    swapped = dict(zip(topo.containers, ("127.29.0.7", "127.29.0.5", "127.29.0.6"), strict=True))

    def create(*_: object) -> dict[str, str]:
        for name, address in swapped.items():
            fake.add(name, topo.kind_name, address)
        return swapped

    monkeypatch.setattr(lifecycle, "create", create)
    monkeypatch.setattr(lifecycle, "await_api", lambda *_: None)
    monkeypatch.setattr(lifecycle, "start_agents", lambda *_: started.append("agents"))
    monkeypatch.setattr(KindFleet, "supplies", lambda _: None)
    cobalt.destroy()
    assert not [name for name in fake.boxes if "cobalt" in name]
    assert all("amber" in name or "jade" in name for name in fake.boxes), "no other cluster is touched"
    cobalt._build()
    kept = {call[-1]: call[3] for call in fake.calls if call[:2] == ("network", "connect")}
    assert kept == {name: state.addresses[name] for name in topo.containers}
    assert started == ["agents"]


def test_a_cluster_is_not_rebuilt_before_its_agents_are_there(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = tuple(Signal(stage, True, "") for stage in ("api", "nodes", "gpus"))
    monkeypatch.setattr(KindCluster, "verify_power_on", lambda _: sound)
    going_on, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(KindCluster, "_build", lambda _: ended.set() if going_on.wait(10) else None)
    cobalt.destroy()
    cobalt.rebuild()
    fake.add("blackstart-cobalt-control-plane", "blackstart-cobalt", "127.29.0.7")
    assert [(one.name, one.ok) for one in cobalt.verify_rebuilt()][-2:] == [("gpus", True), ("agents", False)]
    going_on.set()
    ended.wait(10)
    assert cobalt._building is not None
    cobalt._building.join(10)
    assert not cobalt.verify_rebuilt()[-1].ok, "the DaemonSet stands, its pods do not answer yet"
    well = Answer("http://127.29.0.7:7070/healthz", "answered", 200)
    monkeypatch.setattr(KindCluster, "_answers", lambda _: (well, [well]))
    assert all(one.ok for one in cobalt.verify_rebuilt())


def test_a_making_that_breaks_while_one_looks_is_no_rebuilt_cluster(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = threading.Event()

    def build(self: KindCluster) -> None:
        breaks.wait(10)
        self._broken = FleetError("its API does not take the agents", hint="")

    def looked(self: KindCluster) -> tuple[Signal, ...]:
        breaks.set()
        assert self._building is not None
        self._building.join(10)
        return tuple(Signal(stage, True, "") for stage in ("api", "nodes", "gpus"))

    monkeypatch.setattr(KindCluster, "_build", build)
    monkeypatch.setattr(KindCluster, "verify_power_on", looked)
    cobalt.destroy()
    cobalt.rebuild()
    fake.add("blackstart-cobalt-control-plane", "blackstart-cobalt", "127.29.0.7")
    assert not cobalt.verify_rebuilt()[-1].ok
    with pytest.raises(FaultError, match="does not take the agents"):
        cobalt.verify_rebuilt()


def test_a_cluster_that_cannot_be_made_anew_says_so(
    cobalt: KindCluster, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(*_: object) -> dict[str, str]:
        raise FleetError("kind could not make cobalt: no space", hint="")

    monkeypatch.setattr(lifecycle, "create", create)
    monkeypatch.setattr(KindFleet, "supplies", lambda _: None)
    cobalt.destroy()
    cobalt._build()
    with pytest.raises(FaultError, match="no space"):
        cobalt.verify_rebuilt()
