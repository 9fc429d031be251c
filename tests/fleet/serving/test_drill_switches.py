"""What drills switch: store faults behind the token, patience, single flight, TCP checks, slow start, cold servers."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fleet.serving import agent, gateway, server, store
from fleet.serving.clients import ClusterClient
from fleet.serving.config import AgentConfig, GatewayConfig, ServerConfig, StoreConfig
from fleet.serving.loader import Weights
from fleet.serving.routing import FIRST_PART, Replica, Routes
from fleet.serving.serve import takes_connections
from fleet.serving.weights import Manifest, is_sha256
from fleet.spec import ModelSpec, Switches
from history.clock import NS_PER_S

Stored = tuple[Path, Manifest]
TOKEN = "token-of-this-run"


def store_app(root: Path, **changes: Any) -> web.Application:
    fields: dict[str, Any] = {"name": "s", "host": "127.0.0.1", "port": 0, "root": root, "egress_bytes_s": 2e6}
    return store.build_app(StoreConfig(**fields | {"token": TOKEN} | changes))


def agent_app(cache: Path, *stores: str, **changes: Any) -> web.Application:
    fields: dict[str, Any] = {"cluster": "amber", "node": "amber-n1", "host": "127.0.0.1", "port": 0}
    fields |= {"cache_dir": cache, "cache_bytes": 1_000_000, "store_urls": stores, "token": TOKEN}
    return agent.build_app(AgentConfig(**fields | {"fetch_timeout_s": 5.0} | changes))


async def fetch(it: Any, url: str) -> int:
    async with it.session.post(f"{url}/fetch", json={"model": "m"}) as response:
        await response.read()
        return int(response.status)


# -- the store


def test_a_fault_needs_the_token_and_sensible_numbers(lab: Any, weights: Stored) -> None:
    async def go() -> None:
        async with lab() as it, aiohttp.ClientSession() as stranger:
            url = await it.url(store_app(weights[0]))
            async with stranger.post(f"{url}/fault?factor=0.1&corrupt=0") as response:
                assert response.status == 403
            for wrong in ("", "factor=0&corrupt=0", "factor=2&corrupt=0", "factor=x&corrupt=0", "factor=0.5"):
                async with it.session.post(f"{url}/fault?{wrong}") as response:
                    assert response.status == 400, wrong
            assert await it.get_json(f"{url}/fault") == {"factor": 1.0, "corrupt": False, "egress_bytes_s": 2e6}

    asyncio.run(go())


def test_a_brown_out_slows_what_is_under_way_until_it_is_mended(lab: Any, weights: Stored) -> None:
    root, manifest = weights
    item = manifest.objects[0]

    async def go() -> None:
        async with lab() as it:
            url = await it.url(store_app(root))

            async def seconds() -> float:
                start = time.monotonic()
                async with it.session.get(f"{url}/objects/{item.sha256}") as response:
                    assert len(await response.read()) == item.bytes
                return time.monotonic() - start

            async with it.session.post(f"{url}/fault?factor=0.1&corrupt=0") as response:
                assert (await response.json())["egress_bytes_s"] == 2e5
            assert await seconds() >= 0.8 * item.bytes / 2e5
            async with it.session.post(f"{url}/fault?factor=1&corrupt=0") as response:
                assert response.status == 200
            assert await seconds() < item.bytes / 2e5

    asyncio.run(go())


def test_rot_is_caught_by_the_node_and_a_sound_account_is_asked(lab: Any, weights: Stored, tmp_path: Path) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            rotten, sound = await it.url(store_app(root)), await it.url(store_app(root))
            async with it.session.post(f"{rotten}/fault?factor=1&corrupt=1") as response:
                assert response.status == 200
            url = await it.url(agent_app(tmp_path / "one", rotten, sound))
            assert await fetch(it, url) == 200
            assert await it.metric(url, "model_weight_corrupt_total") == len(manifest.objects)
            assert await it.metric(sound, "weight_store_sent_bytes_total") == 300_000
            for path in (tmp_path / "one").iterdir():
                assert is_sha256(path.name)  # nothing half, nothing wrong is left
            alone = await it.url(agent_app(tmp_path / "two", rotten, fetch_timeout_s=0.3))
            assert await fetch(it, alone) == 504

    asyncio.run(go())


@pytest.mark.parametrize("patient", [True, False])
def test_who_comes_back_before_retry_after_is_counted(lab: Any, weights: Stored, tmp_path: Path, patient: bool) -> None:
    root, manifest = weights

    async def go() -> float:
        async with lab() as it:
            source = await it.url(store_app(root, egress_bytes_s=3e5, max_queue=1, retry_after_s=0.1))
            url = await it.url(agent_app(tmp_path / "cache", source, honour_retry_after=patient))
            assert await fetch(it, url) == 200
            assert await it.metric(source, 'weight_store_requests_total{code="503"') > 0
            return float(await it.metric(source, "weight_store_impatient_total"))

    early = asyncio.run(go())
    assert early == 0 if patient else early > len(manifest.objects)


@pytest.mark.parametrize(("single_flight", "copies"), [(True, 1), (False, 5)])
def test_without_single_flight_each_asker_costs_the_store_a_copy(
    lab: Any, weights: Stored, tmp_path: Path, single_flight: bool, copies: int
) -> None:
    root, _ = weights

    async def go() -> float:
        async with lab() as it:
            source = await it.url(store_app(root, egress_bytes_s=6e6))
            url = await it.url(agent_app(tmp_path / "cache", source, single_flight=single_flight))
            assert await asyncio.gather(*(fetch(it, url) for _ in range(5))) == [200] * 5
            return float(await it.metric(source, "weight_store_sent_bytes_total"))

    assert asyncio.run(go()) == copies * 300_000


# -- checks that only connect


@asynccontextmanager
async def frozen() -> AsyncIterator[str]:
    """Takes connections and never answers, as a stopped process does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_tcp_check_passes_on_what_never_answers() -> None:
    async def go() -> None:
        async with frozen() as url, aiohttp.ClientSession() as session:
            assert await takes_connections(url, 0.5) == ""
            assert await ClusterClient("cobalt", url, session, "tcp").ready(0.2) == ""
            assert "no answer" in await ClusterClient("cobalt", url, session).ready(0.2)
        assert "cannot connect" in await takes_connections(url, 0.5)

    asyncio.run(go())


@pytest.mark.parametrize(("checks", "routable"), [("http", False), ("tcp", True)])
def test_a_gateway_that_only_connects_keeps_a_frozen_replica(
    lab: Any, control_plane: Any, checks: Any, routable: bool
) -> None:
    async def go() -> None:
        async with lab() as it, frozen() as url:
            amber = control_plane(it, "amber", {"n1": 8})
            await amber.power_on()
            fields: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "clusters": (("amber", amber.url),)}
            fields |= {"switches": Switches(health_interval_s=0.02, checks=checks)}
            fields |= {"health_timeout_s": 0.02, "token": TOKEN}
            app, api = gateway.build(GatewayConfig(**fields))
            await it.url(app)
            await it.until(lambda: api._watching.connected["amber"])
            amber.ready("a", "m", url)
            await it.until(lambda: api.routes.replicas)
            checked = [0]
            watching = api._watching
            told = watching._check

            async def count(replica: Any) -> None:
                await told(replica)
                checked[0] += 1

            watching._check = count  # type: ignore[method-assign]
            await it.until(lambda: checked[0] >= 4)
            assert [r.routable for r in api.routes.replicas] == [routable]

    asyncio.run(go())


# -- slow start, cold servers


def test_a_slow_start_gives_a_new_replica_its_part_bit_by_bit() -> None:
    now = [0]
    routes = Routes(eject_after=2, slow_start_s=10.0, clock=lambda: now[0])
    old = routes.ready(Replica("jade", "old", "m", "n1", "http://old"))
    now[0] = 20 * NS_PER_S
    new = routes.ready(Replica("cobalt", "new", "m", "n2", "http://new"))
    assert (routes.weight(old), routes.weight(new)) == (1.0, FIRST_PART)

    def part(after_s: float) -> float:
        now[0] = round((20 + after_s) * NS_PER_S)
        return sum(routes.choose("m") is new for _ in range(2000)) / 2000

    parts = [part(after_s) for after_s in (0, 2.5, 5, 7.5, 10)]
    assert parts == sorted(parts)
    assert parts[0] <= 2 * FIRST_PART
    assert 0.15 < parts[2] < 0.4  # half of what it could take; two equals take half each
    assert parts[4] == pytest.approx(0.5, abs=0.02)
    routes.eject(old)
    now[0] = 20 * NS_PER_S
    assert routes.choose("m") is new  # who is alone gets everything


def test_the_first_answers_of_a_cold_server_are_slow(lab: Any) -> None:
    fields: dict[str, Any] = {"cluster": "amber", "node": "n1", "replica": "m-1"}
    fields |= {"host": "127.0.0.1", "port": 0, "control_url": "", "agent_url": "", "token": TOKEN}
    model = ModelSpec("m", "completion", "base", 1, first_token_ms=10.0, token_ms=0.0, fine_tunes=1)
    cold = ServerConfig(**fields, model=replace(model, cold_requests=2, cold_factor=10.0))

    async def go() -> list[float]:
        async with lab() as it:
            api = server.ModelServer(cold, logging.Logger("server"))
            url = await it.serving(api)

            async def weights(_: str) -> tuple[Any, str]:
                return Weights("m", (b"w",), b"digest", "local", 0.0, 0.0), "resident"

            api._memory.get = weights  # type: ignore[assignment, method-assign]
            took = []
            for _ in range(4):
                start = time.monotonic()
                async with it.session.post(f"{url}/v1/completions", json={"model": "m:001", "prompt": "x"}) as response:
                    assert response.status == 200, await response.text()
                took.append(time.monotonic() - start)
            return took

    took = asyncio.run(go())
    assert min(took[:2]) >= 0.1
    assert max(took[2:]) < 0.1
