"""The adapter: the reference system's cluster API over a Kubernetes that is a script here."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from fleet import fleets
from fleet.environments.kind import adapter as module
from fleet.environments.kind.adapter import Adapter, AdapterConfig, build
from fleet.environments.kind.containers import Container
from fleet.environments.kind.kubernetes.client import Refused
from fleet.environments.kind.kubernetes.gpus import NodeNow
from fleet.environments.kind.kubernetes.pods import Pod
from fleet.environments.kind.topology import topology
from fleet.serving.events import EventLog
from fleet.serving.process import TOKEN_HEADER
from history.errors import FleetError

TOKEN = {TOKEN_HEADER: "t"}


class FakeApi:
    """Takes Deployments."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.refuses = ""

    def create(self, path: str, body: dict[str, Any]) -> bool:
        if self.refuses:
            raise Refused(self.refuses, 422)
        known = any(one["metadata"]["name"] == body["metadata"]["name"] for one in self.made)
        self.made += [] if known else [body]
        return not known

    def delete(self, path: str, **query: object) -> bool:
        self.deleted.append(f"{path.rsplit('/', 1)[1]} {query.get('propagationPolicy')}")
        return True


def an_adapter() -> Adapter:
    cluster = topology(fleets.three_clusters())[0]
    addresses = {name: f"10.9.0.{i}" for i, name in enumerate(cluster.containers, 1)}
    config = AdapterConfig(
        cluster, "127.0.0.1", 0, Path("/no"), addresses, fleets.three_clusters().models, "img", Path("/no"), "t"
    )
    return Adapter(config, logging.Logger("adapter"))


@asynccontextmanager
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Adapter, FakeApi, str, ClientSession]]:
    """An adapter without its threads, and a client."""
    monkeypatch.setattr("fleet.environments.kind.adapter.PodWatch.run", lambda *_: None)
    monkeypatch.setattr(Adapter, "_keep_gpus", lambda _: None)
    adapter, api = an_adapter(), FakeApi()
    runner = web.AppRunner(build(adapter, "t"))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    adapter._api_now = api  # type: ignore[assignment]
    async with ClientSession() as client:
        yield adapter, api, f"http://127.0.0.1:{runner.addresses[0][1]}", client
    await runner.cleanup()


Scene = Callable[[Adapter, FakeApi, str, ClientSession], Awaitable[None]]


def play(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    async def all_of_it() -> None:
        async with served(monkeypatch) as (adapter, api, url, client):
            await scene(adapter, api, url, client)

    asyncio.run(all_of_it())


def pod(phase: str = "Ready", replica: str = "chat-large-1") -> Pod:
    return Pod("u1", replica, "chat-large", "amber-n1", phase, url="http://10.9.0.2:20001", gpus=4)


async def connected(adapter: Adapter, *pods: Pod) -> None:
    adapter.listed(pods, {}, 5, None)
    adapter._nodes = (NodeNow("amber-n1", True, 8, ()), NodeNow("amber-n2", True, 8, ()))
    await asyncio.sleep(0)


def test_while_kubernetes_is_silent_so_is_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        for path in ("/readyz", "/nodes", "/replicas", "/events", "/metrics"):
            async with client.get(url + path) as answer:
                assert answer.status == 503, path
        async with client.put(f"{url}/replicas/chat-large-1", json={"model": "chat-large"}, headers=TOKEN) as answer:
            assert answer.status == 503
        assert api.made == []
        async with client.get(f"{url}/healthz") as answer:
            assert answer.status == 200, "the process itself is well"
        await connected(adapter, pod())
        async with client.get(f"{url}/metrics") as answer:
            assert 'cluster_gpus_allocated{cluster="amber",node="amber-n1"} 4.0' in await answer.text()

    play(monkeypatch, scene)


def test_a_wish_becomes_a_deployment_once_and_needs_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter)
        wish, target = {"model": "chat-large", "node": "amber-n2"}, f"{url}/replicas/chat-large-1"
        async with client.put(target, json=wish) as answer:
            assert answer.status == 403
        for _ in range(2):
            async with client.put(target, json=wish, headers=TOKEN) as answer:
                assert answer.status == 200
        (body,) = api.made
        container = body["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
        async with client.get(f"{url}/replicas") as answer:
            (row,) = (await answer.json())["replicas"]
            assert (row["name"], row["phase"]) == ("chat-large-1", "Pending"), "listed before its pod is seen"
        async with client.get(f"{url}/nodes") as answer:
            free = {node["name"]: node["free"] for node in (await answer.json())["nodes"]}
            assert free == {"amber-n1": 8, "amber-n2": 4}
        async with client.put(f"{url}/replicas/x-1", json={"model": "x"}, headers=TOKEN) as answer:
            assert answer.status == 404

    play(monkeypatch, scene)


def test_what_kubernetes_refuses_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter)
        api.refuses = "quota exceeded"
        async with client.put(f"{url}/replicas/chat-large-1", json={"model": "chat-large"}, headers=TOKEN) as answer:
            assert answer.status == 503
            assert "quota exceeded" in (await answer.json())["error"]

    play(monkeypatch, scene)


def test_a_node_without_its_gpus_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter)
        adapter._nodes = (NodeNow("amber-n1", True, 8, ()), NodeNow("amber-n2", True, 0, ("gpus",)))
        async with client.get(f"{url}/nodes") as answer:
            rows = {node["name"]: (node["ready"], node["free"]) for node in (await answer.json())["nodes"]}
        assert rows == {"amber-n1": (True, 8), "amber-n2": (False, 0)}
        async with client.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["missing"] == ["amber-n2"]

    play(monkeypatch, scene)


def test_ready_is_what_was_seen_last_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        async def readyz() -> tuple[int, list[str]]:
            async with client.get(f"{url}/readyz") as answer:
                return answer.status, (await answer.json()).get("missing", [])

        async def until(wanted: tuple[int, list[str]]) -> None:
            async with asyncio.timeout(5):
                while await readyz() != wanted:
                    await asyncio.sleep(0.01)

        await connected(adapter)
        assert await readyz() == (503, ["api"]), "nobody has answered yet"
        silent.clear()
        await until((200, []))
        asked.clear()
        assert await readyz() == (200, [])
        assert asked == [], "it asks nobody"
        silent.add("10.9.0.3:7070")
        await until((503, ["amber-n2"]))
        silent.add("10.9.0.1:6443")
        await until((503, ["api"]))

    silent, asked = {"10.9.0.1:6443", "10.9.0.2:7070", "10.9.0.3:7070"}, list[str]()

    async def answers(_: Adapter, url: str) -> bool:
        asked.append(url)
        return url.split("/")[2] not in silent

    monkeypatch.setattr(Adapter, "_answers", answers)
    monkeypatch.setattr(module, "ASK_EVERY_S", 0.2)
    play(monkeypatch, scene)


def test_a_lost_cluster_ends_the_streams_and_a_found_one_begins_another_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter, pod())
        async with client.get(f"{url}/events?after=0") as stream:
            life = stream.headers["x-life"]
            adapter.lost()
            text = await asyncio.wait_for(stream.text(), 3)
        assert [kind in text for kind in ("replica.created", "replica.ready")] == [True, True]
        await connected(adapter, pod("Scheduled"))
        adapter._api_now = api  # type: ignore[assignment]
        async with client.get(f"{url}/events?after=0") as stream:
            assert stream.headers["x-life"] != life

    play(monkeypatch, scene)


def test_nodes_of_a_cluster_that_was_lost_are_looked_at_as_soon_as_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, whole = an_adapter(), (NodeNow("amber-n1", True, 8, ()), NodeNow("amber-n2", True, 8, ()))
    monkeypatch.setattr(module, "CALM_S", 60.0)
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    monkeypatch.setattr(module, "reconcile", lambda *_: whole)
    adapter._loop, adapter._api_now = asyncio.new_event_loop(), FakeApi()  # type: ignore[assignment]
    with ThreadPoolExecutor(max_workers=1) as pool:
        ended = pool.submit(adapter._keep_gpus)
        try:
            until_true(lambda: adapter._nodes == whole)
            adapter.lost()
            until_true(lambda: not adapter._nodes)
            adapter._api_now = FakeApi()  # type: ignore[assignment]
            until_true(lambda: adapter._nodes == whole)
        finally:
            adapter._stop.set()
            adapter._changed.set()
    ended.result()
    adapter._loop.close()


def until_true(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_where_weights_came_from_is_the_servers_word_also_when_it_comes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        said = {"phase": "Loading", "t_emitted": 7, "weights": "peer", "bytes": 9, "seconds": 0.5}
        async with client.post(f"{url}/replicas/chat-large-1/state", json=said, headers=TOKEN) as answer:
            assert answer.status == 200, "Kubernetes is not connected yet"
        await connected(adapter, pod("Started"))
        assert adapter.events is not None
        (event,) = [event for event in adapter.events.events if event.kind == "replica.weights"]
        assert (event.weights, event.t_emitted, event.node, event.detail["bytes"]) == ("peer", 7, "amber-n1", 9)

    play(monkeypatch, scene)


def test_a_delete_is_gone_at_once_and_left_to_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter, pod())
        async with client.delete(f"{url}/replicas/chat-large-1", headers=TOKEN) as answer:
            assert answer.status == 200
        assert api.deleted == ["chat-large-1 Background"]
        assert adapter.events is not None
        assert adapter.events.events[-1].kind == "replica.gone"
        async with client.get(f"{url}/replicas") as answer:
            assert (await answer.json())["replicas"] == []

    play(monkeypatch, scene)


@pytest.mark.parametrize(("error", "status"), [(FleetError("timed out", hint=""), 504), (Refused("no", 422), 503)])
def test_what_kubernetes_did_not_answer_is_another_matter_than_what_it_refused(
    monkeypatch: pytest.MonkeyPatch, error: FleetError, status: int
) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter, pod())

        def raises(*_: object, **__: object) -> bool:
            raise error

        api.delete = api.create = raises  # type: ignore[method-assign]
        async with client.delete(f"{url}/replicas/chat-large-1", headers=TOKEN) as answer:
            assert answer.status == status
        async with client.put(f"{url}/replicas/chat-large-9", json={"model": "chat-large"}, headers=TOKEN) as answer:
            assert answer.status == status
        async with client.get(f"{url}/replicas") as answer:
            listed = [row["name"] for row in (await answer.json())["replicas"]]
        assert listed == ["chat-large-1"], "its end was not taken: it is there still"
        assert adapter.events is not None
        assert adapter.events.events[-1].kind != "replica.gone"

    play(monkeypatch, scene)


def test_prometheus_hears_of_agents_and_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        await connected(adapter, pod())
        async with client.get(f"{url}/targets") as answer:
            found = {(one["targets"][0], one["labels"]["service"]) for one in await answer.json()}
        assert found == {("10.9.0.2:7070", "agent"), ("10.9.0.3:7070", "agent"), ("10.9.0.2:20001", "model-server")}

    play(monkeypatch, scene)


def test_an_adapter_without_kubernetes_refuses_to_act() -> None:
    cluster = topology(fleets.micro())[0]
    config = AdapterConfig(cluster, "h", 0, Path("/no"), {}, (), "img", Path("/no"))
    with pytest.raises(FleetError, match="does not answer"):
        Adapter(config, logging.Logger("a"))._alive()


def weights(monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> tuple[dict[str, int], list[object]]:
    """Containers that booted light, in place of Docker: their shares, and what was weighed."""
    shares, weighed = dict.fromkeys(names, 64), list[object]()

    def weigh(names: list[str], to: int) -> None:
        weighed.append((names, to))
        shares.update(dict.fromkeys(names, to))

    found = "fleet.environments.kind.containers"
    monkeypatch.setattr(f"{found}.of_cluster", lambda _: tuple(light(*one) for one in shares.items()))
    monkeypatch.setattr(f"{found}.weigh", weigh)
    return shares, weighed


def test_a_cluster_that_came_back_gets_its_weight_control_plane_first(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, looks = an_adapter(), list[int]()
    whole = (NodeNow("amber-n1", True, 8, ()), NodeNow("amber-n2", True, 8, ()))

    def reconcile(*_: object) -> tuple[NodeNow, ...]:
        looks.append(len(weighed))
        match len(looks):
            case 3:
                adapter._serves = True
            case 6:
                shares.update(dict.fromkeys(shares, 64))  # another life, a replica to come
                adapter._boots, adapter._serves = dict.fromkeys(shares, 2.0), False
            case 9:
                monkeypatch.setattr(module, "SETTLE_S", -1.0)  # and that replica never does
            case 12:
                adapter._stop.set()
        return whole

    for constant in ("BUSY_S", "CALM_S"):
        monkeypatch.setattr(module, constant, 0.0)
    monkeypatch.setattr(module, "reconcile", reconcile)
    workers = ["blackstart-amber-worker", "blackstart-amber-worker2"]
    shares, weighed = weights(monkeypatch, ("blackstart-amber-control-plane", *workers))
    adapter._boots = dict.fromkeys(shares, 1.0)
    adapter._api_now = FakeApi()  # type: ignore[assignment]
    adapter.events = EventLog()
    adapter._keep_gpus()
    assert looks == [0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert weighed == [(["blackstart-amber-control-plane"], 4096), (workers, 1024)] * 2


def test_a_node_has_its_weight_once_a_replica_on_it_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    node, other = "blackstart-amber-worker", "blackstart-amber-worker2"

    async def scene(adapter: Adapter, api: FakeApi, url: str, client: ClientSession) -> None:
        adapter._boots = dict.fromkeys(shares, 1.0)
        second = replace(pod("Started", "chat-large-2"), uid="u2", node="amber-n2")
        await connected(adapter, pod("Started"), second)
        adapter._lift(settled=adapter._serves)
        adapter._changed.clear()
        assert weighed == []
        told = {"phase": "Loading", "weights": "sha"}
        async with client.post(f"{url}/replicas/chat-large-1/state", json=told, headers=TOKEN) as answer:
            assert answer.status == 200
        assert adapter._changed.is_set()  # the reconciler does not sleep on
        adapter._lift(settled=adapter._serves)
        assert weighed == [([node], 1024)]
        adapter._lift(settled=adapter._serves)
        assert len(weighed) == 1
        adapter._listed((pod(), replace(second, phase="Ready")), 1)
        adapter._lift(settled=adapter._serves)
        assert weighed[1:] == [([other], 1024)]

    shares, weighed = weights(monkeypatch, (node, other))
    play(monkeypatch, scene)


def light(name: str, shares: int = 64) -> Container:
    return Container(name, "blackstart-amber", "running", "10.9.0.1", 0.0, "/mark", shares=shares)


LOSES_A_THREAD = """
import logging, sys, time, threading
from pathlib import Path
from fleet import fleets
from fleet.environments.kind.adapter import Adapter, AdapterConfig
from fleet.environments.kind.topology import topology

cluster = topology(fleets.micro())[0]
config = AdapterConfig(cluster, "127.0.0.1", 0, Path("/no"), {}, (), "img", Path("/no"))
adapter = Adapter(config, logging.getLogger("adapter"))
if sys.argv[1] == "at its end":
    adapter._stop.set()

def breaks():
    raise RuntimeError("the watch met what nobody thought of")

thread = threading.Thread(target=adapter._or_end, args=(breaks,))
thread.start()
thread.join()
print("lives on", flush=True)
"""


@pytest.mark.parametrize(("when", "code", "said"), [("while it serves", -9, ""), ("at its end", 0, "lives on\n")])
def test_an_adapter_that_lost_a_thread_ends_and_says_why(when: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOSES_A_THREAD, when], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, said), done.stderr
    assert ("nobody thought of" in done.stderr) is (code != 0)


def test_a_cluster_serves_once_all_that_was_asked_of_it_is_ready_and_not_before_anything_was() -> None:
    adapter = an_adapter()
    seen: list[bool] = []
    for pods in ((), (pod("Started"),), (pod(), pod("Scheduled", "curie-1")), (pod(), pod("Ready", "curie-1"))):
        adapter._replicas.listed([replace(one, uid=one.replica) for one in pods])
        adapter._count()
        seen.append(adapter._serves)
    assert seen == [False, False, False, True]
