"""The local fleet, whole: real processes, real bytes, real signals. Each test leaves the fleet as it found it."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from fleet import fleets, prometheus
from fleet.environments.local.cluster import BLACK_HOLE, REFUSED, LocalCluster
from fleet.environments.local.fleet import LocalFleet, marked
from fleet.environments.local.zygote import Exits, Signal
from fleet.forecast import forecast
from fleet.protocols import Cluster, Fleet, FreezeControl, PowerControl
from fleet.serving.process import token_headers
from history.clock import Anchor, now_ns
from history.errors import FaultError, FleetError
from history.op import CONTROLLER, DECIDED, DETECTED, OBSERVER, REPLICA_READY, RETURNED, WATCH_GAP, Op
from history.records import Signal as Sign


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    local = LocalFleet(fleets.micro(), logs=tmp_path_factory.mktemp("logs"))
    local.start(lambda _: None)
    yield local
    local.stop()
    assert marked(local.fleet_id) == []
    assert not local.layout.work_dir.exists()


@pytest.fixture
def cobalt(fleet: LocalFleet) -> LocalCluster:
    return fleet.clusters[1]


def eventually(check: Callable[[], object], limit_s: float = 5.0) -> None:
    """Repeats ``check`` until its assertions hold."""
    for attempt in Retrying(
        stop=stop_after_delay(limit_s),
        wait=wait_fixed(0.02),
        retry=retry_if_exception_type((AssertionError, FleetError)),
        reraise=True,
    ):
        with attempt:
            check()


def all_ok(signs: tuple[Sign, ...]) -> None:
    assert all(sign.ok for sign in signs), signs


def post(url: str, body: dict[str, object]) -> tuple[dict[str, str], bytes]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3) as answer:
        return dict(answer.headers), answer.read()


def chat(fleet: LocalFleet) -> str:
    """Asks the gateway for a chat completion; returns who served."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    headers, answer = post(f"{fleet.target().entry_url}/v1/chat/completions", body)
    assert json.loads(answer)["usage"]["completion_tokens"] == 3
    return headers["x-served-by"]


def everybody_home(fleet: LocalFleet) -> None:
    """All replicas ready where the plan says."""
    at = Counter((p.model, p.cluster) for p in fleet.facts().placements)
    homes = Counter((m.name, m.homes[i]) for m in fleets.micro().models for i in range(m.replicas))
    assert at == homes
    assert all(row["phase"] == "Ready" for cluster in fleet.clusters for row in cluster.replicas())


def test_it_implements_the_protocols(fleet: LocalFleet, cobalt: LocalCluster) -> None:
    as_fleet: Fleet = fleet
    assert as_fleet.environment == "local"
    assert isinstance(cobalt, Cluster)
    assert isinstance(cobalt, PowerControl)
    assert isinstance(cobalt, FreezeControl)


def test_it_serves_every_model_and_says_where(fleet: LocalFleet) -> None:
    everybody_home(fleet)
    facts = fleet.facts()
    assert [model.name for model in facts.models] == ["chat", "code", "embed", "curie"]
    assert ("failback", "True") in facts.switches
    assert "connect 0.3 s" in facts.gateway_timeouts
    cluster = chat(fleet).split("/")[0]
    assert cluster in fleets.CLUSTERS
    reach = fleet.clusters[0].reachable()
    assert (reach.api, reach.nodes) == (True, {"amber-n1": True})


def test_clusters_have_addresses_of_their_own(fleet: LocalFleet) -> None:
    hosts = [
        {fact.api_url.split(":")[1], *(u.split(":")[1] for u in fact.data_urls)} for fact in fleet.facts().clusters
    ]
    if all("//127.0.0.1" in host for group in hosts for host in group):
        pytest.skip("this system has only 127.0.0.1")
    assert not hosts[0] & hosts[1]
    assert not hosts[1] & hosts[2]


def test_every_socket_listens_on_the_fleets_own_addresses(fleet: LocalFleet) -> None:
    listening = {
        connection.laddr.ip
        for process in marked(fleet.fleet_id)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) >= 1
    assert all(ip.startswith("127.") for ip in listening), listening


def test_the_token_stands_in_no_command_line_no_environment_and_no_log(fleet: LocalFleet) -> None:
    token = fleet.layout.token
    assert len(token) == 32
    processes = marked(fleet.fleet_id)
    assert len(processes) > 10
    for process in processes:
        assert token not in " ".join(process.cmdline())
        assert token not in str(process.environ())
    logs = [path.read_text(errors="replace") for path in fleet.layout.logs.rglob("*") if path.is_file()]
    assert logs
    assert not [text for text in logs if token in text]


def test_without_the_token_nobody_changes_the_fleet(fleet: LocalFleet) -> None:
    before = fleet.facts().placements
    control = fleet.layout.clusters["jade"].url
    attempts = [
        ("PUT", f"{control}/replicas/extra", b'{"model": "code"}'),
        ("DELETE", f"{control}/replicas/{before[-1].replica}", b""),
        ("POST", f"{control}/replicas/{before[-1].replica}/state", b'{"phase": "Failed"}'),
        ("POST", f"{fleet.layout.gateway_url}/drain", b'{"cluster": "jade", "replica": "chat-3"}'),
        ("POST", f"{fleet.layout.allocator_url}/decide", b""),
    ]
    for method, url, body in attempts:
        for headers in ({}, token_headers("0" * 32)):
            request = urllib.request.Request(url, body, headers, method=method)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request, timeout=2)
    assert fleet.facts().placements == before
    everybody_home(fleet)


def test_gpus_are_counted_and_pending_says_why(fleet: LocalFleet) -> None:
    jade = fleet.layout.clusters["jade"]
    headers = token_headers(fleet.layout.token)
    request = urllib.request.Request(f"{jade.url}/replicas/extra", b'{"model": "code"}', headers, method="PUT")
    names = ["extra", "extra-2"]
    try:
        for name in names:
            request.full_url = f"{jade.url}/replicas/{name}"
            urllib.request.urlopen(request, timeout=2).close()
        rows = {row["name"]: row for row in fleet.clusters[2].replicas()}
        assert rows["extra"]["node"] == "jade-n1"
        assert rows["extra-2"]["phase"] == "Pending"
        assert rows["extra-2"]["reason"] == "needs 2 GPU(s) on one node; free: jade-n1 1"
    finally:
        for name in names:
            url = f"{jade.url}/replicas/{name}"
            request = urllib.request.Request(url, headers=headers, method="DELETE")
            urllib.request.urlopen(request, timeout=2).close()
    eventually(lambda: everybody_home(fleet))
    eventually(lambda: _free(f"{jade.url}/nodes", 3))  # after the drain its GPUs are free again


def _free(url: str, gpus: int) -> None:
    with urllib.request.urlopen(url, timeout=2) as answer:
        assert json.load(answer)["nodes"][0]["free"] == gpus


def test_power_loss_kills_everything_and_the_models_move_and_come_home(fleet: LocalFleet, cobalt: LocalCluster) -> None:
    config = fleet.layout.clusters["cobalt"]
    address = (config.nodes[0].agent.host, config.nodes[0].agent.port)
    socket.create_connection(address, timeout=1).close()
    pids = {p.pid for p in psutil.process_iter() if _group(p.pid) == cobalt._pgid}
    assert len(pids) == 6  # control plane, node-init, agent, three model servers
    predicted = forecast(fleets.micro(), fleet.facts().placements, "cobalt")
    seen, stop, threads = _observe(fleet, cobalt)
    cobalt.power_off(REFUSED)
    eventually(lambda: all_ok(cobalt.verify_power_off()))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)
    assert not {p.pid for p in psutil.process_iter() if p.pid in pids and p.status() != psutil.STATUS_ZOMBIE}
    assert cobalt.reachable().nodes == {"cobalt-n1": False}
    with pytest.raises(FleetError, match="cobalt: its API does not answer"):
        cobalt.placements()
    cobalt.power_off(REFUSED)  # twice is once
    all_ok(cobalt.verify_power_off())
    eventually(lambda: _moved(fleet, predicted.fits))
    assert chat(fleet).split("/")[0] in ("amber", "jade")
    cobalt.power_on()
    pgid = cobalt._pgid
    cobalt.power_on()  # twice is once
    assert cobalt._pgid == pgid
    eventually(lambda: all_ok(cobalt.verify_power_on()))
    eventually(lambda: everybody_home(fleet), 8)
    assert fleet.died() == ()
    eventually(lambda: _observed(seen))
    stop.set()
    for thread in threads:
        thread.join(3)
        assert not thread.is_alive()


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _observe(fleet: LocalFleet, cluster: LocalCluster) -> tuple[list[Op], threading.Event, list[threading.Thread]]:
    seen: list[Op] = []
    stop = threading.Event()
    watches = (cluster.watch, fleet.controller.watch)
    threads = [threading.Thread(target=watch, args=(seen.append, stop), daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    eventually(lambda: _assert_heard(seen, OBSERVER))
    return seen, stop, threads


def _assert_heard(seen: list[Op], source: str) -> None:
    assert [op for op in seen if op.source == source and op.kind == REPLICA_READY]


def _moved(fleet: LocalFleet, fits: bool) -> None:
    rows = [row for cluster in (fleet.clusters[0], fleet.clusters[2]) for row in cluster.replicas()]
    assert fits
    assert Counter(row["model"] for row in rows if row["phase"] == "Ready") == {
        "chat": 3,
        "code": 1,
        "embed": 1,
        "curie": 1,
    }


def _observed(seen: list[Op]) -> None:
    kinds = [op.kind for op in seen if op.source == CONTROLLER]
    assert DETECTED in kinds
    assert RETURNED in kinds
    assert {op.model for op in seen if op.kind == DECIDED} >= {"chat", "code", "embed"}
    gaps = [op for op in seen if op.kind == WATCH_GAP and op.source == OBSERVER]
    assert len(gaps) == 1
    assert gaps[0].t_intended < gaps[0].t_done
    after = [op for op in seen if op.kind == REPLICA_READY and op.cluster == "cobalt" and op.t_done > gaps[0].t_done]
    assert {op.model for op in after} == {"chat", "code", "embed"}
    assert all(0 <= op.detail["t_emitted"] <= op.t_done for op in after)


def test_freeze_stops_and_thaw_continues(fleet: LocalFleet, cobalt: LocalCluster) -> None:
    pgid = cobalt._pgid
    cobalt.freeze()
    try:
        eventually(lambda: all_ok(cobalt.verify_frozen()))
        assert not any(sign.ok for sign in cobalt.verify_thawed())
        config = fleet.layout.clusters["cobalt"]
        socket.create_connection((config.host, config.port), timeout=1).close()  # connects all the same
    finally:
        cobalt.thaw()
    cobalt.thaw()  # twice is once
    eventually(lambda: all_ok(cobalt.verify_thawed()))
    assert not any(sign.ok for sign in cobalt.verify_frozen())
    assert cobalt._pgid == pgid
    eventually(lambda: everybody_home(fleet), 10)


def test_a_black_hole_times_out_or_is_refused_by_name(fleet: LocalFleet, cobalt: LocalCluster) -> None:
    if BLACK_HOLE not in cobalt.signatures:
        with pytest.raises(FaultError, match="black-hole"):
            cobalt.power_off(BLACK_HOLE)
        return
    config = fleet.layout.clusters["cobalt"]
    with socket.create_connection((config.host, config.port), timeout=0.3) as before:
        before.settimeout(0.3)
        cobalt.power_off(BLACK_HOLE)
        try:
            eventually(lambda: all_ok(cobalt.verify_power_off()))
            with pytest.raises(TimeoutError):
                before.recv(1)  # no goodbye got out
            with pytest.raises(TimeoutError):
                socket.create_connection((config.host, config.port), timeout=0.3)
        finally:
            cobalt.power_on()
    eventually(lambda: all_ok(cobalt.verify_power_on()))
    eventually(lambda: everybody_home(fleet), 10)


def test_a_model_server_that_is_killed_is_started_again(fleet: LocalFleet) -> None:
    amber = fleet.clusters[0]
    servers = {connection.laddr.port: p.pid for p in marked(fleet.fleet_id) for connection in _listening(p)}
    (row,) = (row for row in amber.replicas() if row["model"] == "curie")
    victim = servers[int(row["url"].rsplit(":", 1)[1])]
    os.kill(victim, signal.SIGKILL)

    def started_again() -> None:
        (now,) = (row for row in amber.replicas() if row["model"] == "curie")
        assert now["phase"] == "Ready"
        assert now["url"] != row["url"]

    eventually(started_again)
    assert not psutil.pid_exists(victim)


def _listening(process: psutil.Process) -> list[psutil._common.pconn]:  # type: ignore[name-defined]
    try:
        return [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def test_prometheus_answers_every_query_of_the_profile(fleet: LocalFleet) -> None:
    if fleet.prometheus_url is None:
        assert "install" in fleet.prometheus_absent
        pytest.skip(fleet.prometheus_absent)
    anchor, ops = Anchor.take(), list[Op]()
    url = fleet.prometheus_url

    def answered() -> None:
        ops.clear()
        prometheus.record(url, now_ns() - 5 * 10**9, now_ns() + 10**9, anchor, ops.append)
        assert [op.error for op in ops] == [""] * len(prometheus.load_profile())
        assert last("gpus_total") == dict.fromkeys(fleets.CLUSTERS, 4.0)
        assert last("gpus_allocated") == {"amber": 2.0, "cobalt": 4.0, "jade": 1.0}

    def last(name: str) -> dict[str, float]:
        (series,) = (op.detail["series"] for op in ops if op.detail["name"] == name)
        return {row["labels"]["cluster"]: row["values"][-1] for row in series}

    eventually(answered, 10)  # what was scraped last may be older than the end of the test before
    by_name = {op.detail["name"]: op.detail["series"] for op in ops}
    assert by_name["store_bytes"][0]["labels"] == {"store": "weights"}
    assert sum(row["values"][-1] for row in by_name["store_bytes"]) > 1024 * 1024
    assert all(abs(t - now_ns()) < 20 * 10**9 for row in by_name["gpus_total"] for t in row["t_ns"])
    assert {row["labels"]["tier"] for row in by_name["cache_requests"]} >= {"store", "local"}
    nothing = list[Op]()
    profile = (prometheus.Query("odd", "no_such_metric"),)
    prometheus.record(url, now_ns() - 10**9, now_ns(), anchor, nothing.append, profile)
    assert (nothing[0].outcome, nothing[0].error) == ("fail", prometheus.EMPTY)


def test_power_on_right_after_power_off_is_a_new_life(fleet: LocalFleet, cobalt: LocalCluster) -> None:
    """A cluster that is back before anybody missed it is filled again: nothing has to move."""
    before = cobalt._pgid
    cobalt.power_off(REFUSED)
    cobalt.power_on()
    assert cobalt._pgid != before
    eventually(lambda: all_ok(cobalt.verify_power_on()))
    eventually(lambda: everybody_home(fleet), 10)


def test_a_reply_whose_asker_was_interrupted_is_never_taken_for_another(fleet: LocalFleet) -> None:
    assert fleet._connection is not None
    fleet._connection.send((0, Exits()))  # asked, and interrupted before the reply was read
    with pytest.raises(FleetError, match="could not carry out"):
        fleet.ask_zygote("nonsense")
    assert isinstance(fleet.ask_zygote(Exits()), dict)


def test_a_service_outside_that_dies_is_named(fleet: LocalFleet) -> None:
    """Last: the fleet has no allocator afterwards."""
    assert fleet.died() == ()
    fleet.ask_zygote(Signal("allocator", signal.SIGKILL))
    eventually(lambda: _died(fleet))
    assert isinstance(fleet.ask_zygote(Exits()), dict)


def _died(fleet: LocalFleet) -> None:
    assert fleet.died() == ("allocator",)
