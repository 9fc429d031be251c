"""What only drills do to a local fleet: store faults, destruction and rebuild by stages, a restore without ingress."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from fleet import fleets
from fleet.environments.local.ask import ask
from fleet.environments.local.cluster import LocalCluster
from fleet.environments.local.fleet import LocalFleet
from fleet.environments.local.stores import StoreFaults
from fleet.protocols import PartitionControl, RebuildControl, StoreControl
from fleet.serving.process import TOKEN_HEADER
from fleet.spec import Switches
from history.errors import FaultError, UsageError
from history.records import Signal as Sign

PROVISION_S = 0.4


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """The micro fleet; a rebuilt node takes 0.4 s, and what a restored cluster serves cannot be reached."""
    switches = Switches(
        detect_interval_s=0.1, detect_failures=2, health_interval_s=0.2, provision_node_s=PROVISION_S, failback=False
    )
    made = LocalFleet(
        replace(fleets.micro(), switches=replace(switches, ingress_restored=False)),
        logs=tmp_path_factory.mktemp("stage") / "logs",
    )
    with made:
        yield made


def eventually(check: Callable[[], tuple[Sign, ...]], limit_s: float = 5.0) -> tuple[Sign, ...]:
    deadline = time.monotonic() + limit_s
    while True:
        signs = check()
        if all(sign.ok for sign in signs):
            return signs
        assert time.monotonic() < deadline, signs
        time.sleep(0.02)


def test_a_store_rots_and_slows_and_is_mended(fleet: LocalFleet) -> None:
    assert isinstance(fleet, StoreControl)
    eventually(lambda: fleet.verify_store("weights", 1.0, corrupt=False))
    fleet.corrupt("weights")
    says, sends = eventually(lambda: fleet.verify_store("weights", 1.0, corrupt=True))
    assert "rot" in says.seen
    assert "hash is wrong" in sends.seen
    assert not any(sign.ok for sign in fleet.verify_store("weights", 1.0, corrupt=False))
    fleet.brown_out("weights", 0.1)
    eventually(lambda: fleet.verify_store("weights", 0.1, corrupt=False))
    for _ in range(2):  # twice is once
        fleet.mend_store("weights")
    eventually(lambda: fleet.verify_store("weights", 1.0, corrupt=False))
    with pytest.raises(UsageError, match="no weight store 'elsewhere'"):
        fleet.brown_out("elsewhere", 0.1)


def test_a_store_takes_no_fault_without_the_runs_token(fleet: LocalFleet) -> None:
    class Stranger(StoreFaults):
        layout = replace(fleet.layout, token="")

    with pytest.raises(FaultError, match="needs this run's token"):
        Stranger().corrupt("weights")
    eventually(lambda: fleet.verify_store("weights", 1.0, corrupt=False))


def test_a_destroyed_cluster_is_rebuilt_stage_by_stage_and_served_by_nobody_without_ingress(fleet: LocalFleet) -> None:
    cobalt = fleet.clusters[1]
    assert isinstance(cobalt, RebuildControl)
    assert not isinstance(cobalt, PartitionControl)
    disks = [node.agent.cache_dir for node in fleet.layout.clusters["cobalt"].nodes]
    assert all(any(disk.iterdir()) for disk in disks)
    cobalt.destroy()
    eventually(cobalt.verify_destroyed)
    assert not any(disk.exists() for disk in disks)
    assert not any(sign.ok for sign in cobalt.verify_rebuilt())
    began = time.monotonic()
    cobalt.rebuild()
    cobalt.rebuild()
    api_s = _first_ok(cobalt, began)
    signs = eventually(cobalt.verify_rebuilt)
    assert [sign.name for sign in signs] == ["api", "nodes", "gpus"]
    assert api_s < PROVISION_S <= time.monotonic() - began
    _no_ingress(fleet, cobalt)


def _first_ok(cluster: LocalCluster, began: float) -> float:
    while not cluster.verify_rebuilt()[0].ok:
        assert time.monotonic() - began < 5
    return time.monotonic() - began


def _no_ingress(fleet: LocalFleet, cobalt: LocalCluster) -> None:
    """Its API says Ready; nobody reaches what it serves. The surrogates keep the users (failback is off)."""
    config = fleet.layout.clusters["cobalt"]
    connection = http.client.HTTPConnection(config.host, config.port, timeout=2)
    connection.request("PUT", "/replicas/chat-9", b'{"model": "chat"}', {TOKEN_HEADER: fleet.layout.token})
    assert connection.getresponse().status == 200
    connection.close()
    deadline = time.monotonic() + 5
    while (row := next(r for r in cobalt.replicas() if r["name"] == "chat-9"))["phase"] != "Ready":
        assert time.monotonic() < deadline, row
        time.sleep(0.02)
    assert ask(f"{row['url']}/healthz").how == "refused"
