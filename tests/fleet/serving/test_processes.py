"""The serving processes as processes: run by hand, ended by SIGTERM within a second, killed and frozen under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp
import pytest

from fleet.serving.weights import Manifest

Weights = tuple[Path, Manifest]
Spawn = Callable[..., "subprocess.Popen[str]"]
ENV = {**os.environ, "BLACKSTART_TOKEN": "token-by-hand"}
CHAT = "/v1/chat/completions"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, at_most_s: float = 15.0) -> None:
    deadline = time.monotonic() + at_most_s
    while True:
        try:
            with urlopen(url, timeout=1) as response:
                if response.status == 200:
                    return
        except (URLError, OSError):
            assert time.monotonic() < deadline, f"{url} never answered 200"
        time.sleep(0.02)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    started: list[subprocess.Popen[str]] = []

    def start(module: str, *options: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", f"fleet.serving.{module}", *options]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def fleet_file(directory: Path, **model: object) -> Path:
    """One cluster with one model, m."""
    lines = [f"{key} = {value}" for key, value in model.items()]
    path = directory / "fleet.toml"
    path.write_text(
        """
        name = "by-hand"
        clusters = [{ name = "amber", nodes = [{ name = "amber-n1", gpus = 8 }] }]
        stores = [{ name = "weights", egress_bytes_s = 1e9 }]
        [[models]]
        name = "m"
        kind = "chat"
        model_class = "base"
        weight_bytes = 300000
        share = 1.0
        """
        + "\n".join(lines)
    )
    return path


class Chain:
    """Store, agent and one server as processes run by hand."""

    def __init__(self, spawn: Spawn, weights: Weights, tmp_path: Path) -> None:
        self.ports = [free_port() for _ in range(3)]
        store, agent, server = (f"http://127.0.0.1:{port}" for port in self.ports)
        self.urls = {"store": store, "agent": agent, "server": server}
        port = [str(p) for p in self.ports]
        place = ("--cluster", "amber", "--node", "amber-n1")
        fleet = fleet_file(tmp_path, token_ms=50.0)
        cache = ("--cache-dir", str(tmp_path / "cache"), "--store-url", store)
        who = ("--replica", "m-1", "--model", "m", "--agent-url", agent, "--fleet", str(fleet))
        self.processes = {
            "store": spawn("store", "--root", str(weights[0]), "--port", port[0]),
            "agent": spawn("agent", *place, *cache, "--port", port[1]),
            "server": spawn("server", *place, *who, "--port", port[2]),
        }
        wait_for(f"{server}/healthz")


@pytest.fixture
def chain(spawn: Spawn, weights: Weights, tmp_path: Path) -> Chain:
    return Chain(spawn, weights, tmp_path)


def test_each_ends_within_a_second_of_sigterm_even_with_a_client_attached(
    spawn: Spawn, chain: Chain, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    fleet = str(fleet_file(tmp_path))
    for name, port in zip(("gateway", "allocator"), ports, strict=True):
        cluster = ("--cluster", "amber", "http://127.0.0.1:9")
        chain.processes[name] = spawn(name, *cluster, "--port", str(port), "--fleet", fleet)
    for port in ports:
        wait_for(f"http://127.0.0.1:{port}/healthz")
    body = json.dumps({"model": "m", "messages": [], "stream": True, "max_tokens": 1000}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with (
        socket.create_connection(("127.0.0.1", chain.ports[2])) as long_answer,
        socket.create_connection(("127.0.0.1", ports[1])) as events,
    ):
        long_answer.sendall(head + body)
        events.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert long_answer.recv(100).startswith(b"HTTP/1.1 200")
        assert events.recv(100).startswith(b"HTTP/1.1 200")
        for name, process in chain.processes.items():
            start = time.monotonic()
            process.terminate()
            assert process.wait(timeout=5) == 0, name
            assert time.monotonic() - start < 1.0, name


def test_a_port_in_use_is_a_sentence_and_no_traceback(spawn: Spawn, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = spawn("gateway", "--port", port, "--fleet", str(fleet_file(tmp_path)))
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "choose another" in said
    assert "Traceback" not in said


def test_a_fleet_file_or_a_model_that_is_none_is_a_sentence_and_no_traceback(spawn: Spawn, tmp_path: Path) -> None:
    wrong = fleet_file(tmp_path, slots=0, colour=1)
    _, said = spawn("allocator", "--port", "1", "--fleet", str(wrong)).communicate(timeout=20)
    assert "'colour' is no field of it" in said
    assert "Traceback" not in said
    who = ("--replica", "x-1", "--model", "x", "--agent-url", "http://127.0.0.1:9", "--port", "1")
    _, said = spawn("server", *who, "--fleet", str(fleet_file(tmp_path))).communicate(timeout=20)
    assert "'x' is no model of fleet 'by-hand'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("store", {"--name", "--root", "--egress-bytes-s", "--cluster", "--cross-cluster-bytes-s", "--max-queue"}),
        ("agent", {"--cluster", "--node", "--cache-dir", "--cache-bytes", "--store-url", "--peer-url", "--peer-fetch"}),
        ("server", {"--replica", "--model", "--fleet", "--agent-url", "--control-url", "--access-log"}),
        ("gateway", {"--cluster", "--fleet"}),
        ("allocator", {"--cluster", "--fleet", "--gateway-url"}),
    ],
)
def test_help_names_every_option_and_what_it_is(module: str, options: set[str], spawn: Spawn) -> None:
    said, _ = spawn(module, "--help").communicate(timeout=20)
    assert "Run " in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip().startswith("--")}
    assert options | {"--host", "--port"} <= lines.keys()
    assert all(len(line.split()) > 2 for line in lines.values()), "each says what it is"


def gateway_in_front(it: Any, control_plane: Any, chain: Chain, **changes: Any) -> Any:
    from fleet.serving import gateway
    from fleet.serving.config import GatewayConfig
    from fleet.spec import Switches

    async def start() -> tuple[str, gateway.Gateway]:
        amber = control_plane(it, "amber", {"amber-n1": 8})
        await amber.power_on()
        fields: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "clusters": (("amber", amber.url),)}
        fields["switches"] = Switches(health_interval_s=changes.pop("health_interval_s", 30.0))
        app, api = gateway.build(GatewayConfig(**fields | changes))
        url = await it.url(app)
        amber.ready("m-1", "m", chain.urls["server"], "amber-n1")
        await it.until(lambda: any(r.routable for r in api.routes.replicas))
        return url, api

    return start()


def test_a_server_killed_mid_answer_is_a_cut_for_the_client_then_502_then_503(
    lab: Any, control_plane: Any, chain: Chain
) -> None:
    async def go() -> None:
        async with lab() as it:
            url, _ = await gateway_in_front(it, control_plane, chain)
            body = {"model": "m", "messages": [], "stream": True, "max_tokens": 200}
            async with it.session.post(url + CHAT, json=body) as response:
                assert response.headers["x-served-by"] == "amber/amber-n1/m-1"
                await response.content.readline()
                chain.processes["server"].kill()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            statuses = set()
            for _ in range(3):
                async with it.session.post(url + CHAT, json=body) as response:
                    statuses.add(response.status)
            assert statuses <= {502, 503}
            assert response.status == 503, "a dead replica is out after the first refusal or check"

    asyncio.run(go())


def test_a_frozen_server_is_ejected_and_back_after_it_thaws(lab: Any, control_plane: Any, chain: Chain) -> None:
    async def go() -> None:
        async with lab() as it:
            changes = {"health_interval_s": 0.1, "health_timeout_s": 0.2, "health_failures": 2}
            url, api = await gateway_in_front(it, control_plane, chain, **changes)
            replica = api.routes.replicas[0]
            os.kill(chain.processes["server"].pid, signal.SIGSTOP)
            took_s = await it.until(lambda: not replica.routable)
            assert 0.2 <= took_s < 1.5
            async with it.session.post(url + CHAT, json={"model": "m", "messages": []}) as response:
                assert response.status == 503
            os.kill(chain.processes["server"].pid, signal.SIGCONT)
            await it.until(lambda: replica.routable)
            async with it.session.post(url + CHAT, json={"model": "m", "messages": [], "max_tokens": 1}) as response:
                assert response.status == 200

    asyncio.run(go())
