"""The gateway: routes to what is ready, passes streams on as they come, and says honestly what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import fields as fields_of
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fleet.serving import gateway
from fleet.serving.config import GatewayConfig
from fleet.spec import ModelSpec, Switches

CHAT = "/v1/chat/completions"
REFUSED = "http://127.0.0.1:9"


class StubReplica:
    """A model server that answers as told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delay_s = 0.0
        self.health = 200
        self.healthy_after_s = 0.0
        self.asked: list[dict[str, Any]] = []
        self.cancelled = 0
        self.chunks: list[bytes] = []
        self.chunk_gap_s = 0.0
        self.end_apart = True
        self.cut_after: int | None = None
        self.headers: dict[str, str] = {}
        self.status = 200

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post(CHAT, self.answer)
        app.router.add_get("/healthz", self.healthz)
        return app

    async def healthz(self, _: web.Request) -> web.Response:
        await asyncio.sleep(self.healthy_after_s)
        return web.Response(status=self.health)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        try:
            await asyncio.sleep(self.delay_s)
            headers = {"x-served-by": self.name, "x-weights": "resident", **self.headers}
            if not self.chunks:
                return web.json_response({"by": self.name}, headers=headers, status=self.status)
            response = web.StreamResponse(headers=headers | {"Content-Type": "text/event-stream"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            for index, chunk in enumerate(self.chunks):
                if index == self.cut_after:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                if chunk is self.chunks[-1] and not self.end_apart:
                    await response.write_eof(chunk)
                    return response
                await response.write(chunk)
                await asyncio.sleep(self.chunk_gap_s)
            return response
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def model(name: str, **more: Any) -> ModelSpec:
    return ModelSpec(name, "chat", "base", 1, **more)


class Stage:
    """A gateway in front of stub clusters amber and jade."""

    def __init__(self, it: Any, control_plane: Any) -> None:
        self.it = it
        self.amber = control_plane(it, "amber", {"n1": 8})
        self.jade = control_plane(it, "jade", {"n1": 8})
        self.api: gateway.Gateway
        self.url = ""

    async def start(self, **changes: Any) -> None:
        for cluster in (self.amber, self.jade):
            await cluster.power_on()
        fields: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "clusters": (("amber", self.amber.url), ("jade", self.jade.url)),
            "models": (model("m"),),
            "token": "token-of-this-run",
        }
        switches: dict[str, Any] = {"health_interval_s": 30.0}
        switches |= {key: changes.pop(key) for key in changes.keys() & {field.name for field in fields_of(Switches)}}
        fields["switches"] = Switches(**switches)
        app, self.api = gateway.build(GatewayConfig(**fields | changes))
        self.url = await self.it.url(app)
        await self.it.until(lambda: all(self.api._watching.connected.values()))

    async def replica(self, name: str, cluster: Any = None, model: str = "m") -> StubReplica:
        stub = StubReplica(name)
        url = await self.it.url(stub.app())
        (cluster or self.amber).ready(name, model, url)
        await self.until_routed(name)
        return stub

    async def until_routed(self, name: str, routed: bool = True, at_most_s: float = 5.0) -> float:
        def is_so() -> bool:
            return routed == any(r.name == name and r.routable for r in self.api.routes.replicas)

        seconds: float = await self.it.until(is_so, at_most_s)
        return seconds

    async def ask(self, model: str = "m", **more: Any) -> tuple[int, dict[str, str], bytes]:
        body = {"model": model, "messages": []} | more
        async with self.it.session.post(self.url + CHAT, json=body) as response:
            return response.status, dict(response.headers), await response.read()

    async def counted(self, code: str) -> float:
        lines = (await (await self.it.session.get(f"{self.url}/metrics")).text()).splitlines()
        mark = f'code="{code}"'
        return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith("gateway_requests_total") and mark in x)


@pytest.fixture
def stage(lab: Any, control_plane: Any) -> Any:
    @contextlib.asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Stage]:
        async with lab() as it:
            made = Stage(it, control_plane)
            await made.start(**changes)
            yield made

    return make


def test_it_sees_a_ready_replica_within_20_ms_and_forgets_a_gone_one(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            assert (await s.ask())[0] == 503
            delays = []
            for i in range(9):
                s.amber.ready(f"r{i}", "m", REFUSED)
                delays.append(await s.until_routed(f"r{i}"))
                s.amber.gone(f"r{i}")
                delays.append(await s.until_routed(f"r{i}", routed=False))
            assert sorted(delays)[len(delays) // 2] <= 0.02, delays

    asyncio.run(go())


def test_answers_and_their_headers_pass_through(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            one = await s.replica("r1")
            two = await s.replica("r2", s.jade)
            two.headers = {"x-weights": "peer", "Set-Cookie": "no=1"}
            seen = set()
            for _ in range(4):
                status, headers, body = await s.ask()
                assert status == 200
                assert json.loads(body) == {"by": headers["x-served-by"]}
                assert "Set-Cookie" not in headers
                seen.add((headers["x-served-by"], headers["x-weights"]))
            assert seen == {("r1", "resident"), ("r2", "peer")}
            assert one.asked[0] == {"model": "m", "messages": []}
            line = 'gateway_requests_total{cluster="jade",code="200",model="m"}'
            assert await s.it.metric(s.url, line) == 2
            assert [row["routable"] for row in (await s.it.get_json(f"{s.url}/state"))["replicas"]] == [True, True]

    asyncio.run(go())


@pytest.mark.parametrize("end_apart", [True, False])
def test_streams_are_not_buffered(stage: Any, end_apart: bool) -> None:
    async def go() -> None:
        async with stage() as s:
            stub = await s.replica("r1")
            stub.chunks, stub.chunk_gap_s = [b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"], 0.05
            stub.end_apart = end_apart
            arrivals = []
            async with s.it.session.post(s.url + CHAT, json={"model": "m"}) as response:
                assert response.content_type == "text/event-stream"
                async for chunk in response.content.iter_any():
                    arrivals.append((time.monotonic(), chunk))
            assert [chunk for _, chunk in arrivals] == stub.chunks
            assert arrivals[1][0] - arrivals[0][0] > 0.03
            assert arrivals[2][0] - arrivals[1][0] > 0.03
            assert await s.counted("200") == 1

    asyncio.run(go())


def test_a_stream_that_is_cut_upstream_is_cut_for_the_client(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            stub = await s.replica("r1")
            stub.chunks, stub.cut_after = [b"data: 1\n\n", b"data: 2\n\n"], 1
            async with s.it.session.post(s.url + CHAT, json={"model": "m"}) as response:
                assert response.status == 200
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            assert await s.counted("cut") == 1

    asyncio.run(go())


def test_what_cannot_be_served_is_said_plainly(stage: Any) -> None:
    async def go() -> None:
        async with stage(models=(model("known"),)) as s:
            assert (await s.ask("known"))[0] == 503
            status, _, body = await s.ask("unknown")
            assert (status, b"no model 'unknown'" in body) == (404, True)
            async with s.it.session.post(s.url + CHAT, data=b"nonsense") as response:
                assert response.status == 400
            assert [await s.counted(code) for code in ("503", "404", "400")] == [1, 1, 1]

    asyncio.run(go())


def test_a_refused_replica_costs_one_request_and_is_out_at_once(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            s.amber.ready("dead", "m", REFUSED)
            await s.until_routed("dead")
            status, headers, _ = await s.ask()
            assert (status, headers["x-routed-to"]) == (502, "amber/n1/dead")
            assert (await s.ask())[0] == 503, "it was ejected by the first refusal"
            s.amber.ready("dead", "m", REFUSED)
            await s.until_routed("dead")
            assert (await s.ask())[0] == 502, "a ready event brings it back"

    asyncio.run(go())


def test_a_replica_that_answers_its_check_again_is_back(stage: Any) -> None:
    async def go() -> None:
        async with stage(health_interval_s=0.05, health_timeout_s=0.05, health_failures=2) as s:
            stub = await s.replica("r1")
            stub.healthy_after_s = 5.0  # frozen: connects, never answers
            out_s = await s.until_routed("r1", routed=False)
            assert out_s >= 0.05, "one slow check must not eject"
            assert (await s.ask())[0] == 503
            stub.healthy_after_s = 0.0
            await s.until_routed("r1")
            stub.health = 503  # it answers that it is not ready: out at the first check
            await s.until_routed("r1", routed=False, at_most_s=0.5)

    asyncio.run(go())


def test_a_replica_that_never_answers_is_a_504_and_then_ejected(stage: Any) -> None:
    async def go() -> None:
        async with stage(read_timeout_s=0.05, health_failures=2) as s:
            stub = await s.replica("r1")
            stub.delay_s = 5.0
            assert [(await s.ask())[0] for _ in range(3)] == [504, 504, 503]
            assert stub.cancelled == 2

    asyncio.run(go())


def test_no_retry_by_default_and_another_replica_when_asked_for(stage: Any) -> None:
    async def go(retries: int) -> list[int]:
        async with stage(retries=retries) as s:
            good = await s.replica("good", s.jade)
            good.delay_s = 0.01
            statuses = []
            for i in range(3):
                s.amber.ready(f"dead{i}", "m", REFUSED)
                await s.until_routed(f"dead{i}")
                statuses += [(await s.ask())[0], (await s.ask())[0]]
            return statuses

    assert sorted(asyncio.run(go(0))) == [200] * 3 + [502] * 3
    assert asyncio.run(go(1)) == [200] * 6


def test_a_client_that_leaves_is_499_and_its_work_is_cancelled(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            stub = await s.replica("r1")
            stub.delay_s = 5.0
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(s.ask(), 0.1)
            await s.it.until(lambda: stub.cancelled == 1, 1.0)

            async def is_499() -> bool:
                return bool(await s.counted("499") == 1)

            await s.it.until(is_499, 1.0)
            stub.delay_s, stub.chunks, stub.chunk_gap_s = 0.0, [b"data: x\n\n"] * 200, 0.05
            async with s.it.session.post(s.url + CHAT, json={"model": "m"}) as response:
                await response.content.readline()
                response.close()
            await s.it.until(lambda: stub.cancelled == 2, 1.0)
            assert s.api.routes.replicas[0].in_flight == 0

    asyncio.run(go())


def test_a_fallback_model_answers_when_there_is_no_replica(stage: Any) -> None:
    async def go() -> None:
        async with stage(models=(model("m", fallback="other"),), fallback=True) as s:
            other = await s.replica("o1", model="other")
            status, headers, _ = await s.ask()
            assert (status, headers["x-fallback"]) == (200, "other")
            assert other.asked == [{"model": "other", "messages": []}]
            await s.replica("r1")
            assert "x-fallback" not in (await s.ask())[1]

    asyncio.run(go())


def test_a_fallback_model_answers_when_the_replicas_are_full(stage: Any) -> None:
    async def go() -> None:
        async with stage(models=(model("m", fallback="other"),), fallback=True) as s:
            full, other = await s.replica("r1"), await s.replica("o1", model="other")
            full.status = 429
            status, headers, _ = await s.ask()
            assert (status, headers["x-fallback"], headers["x-served-by"]) == (200, "other", "o1")
            other.status = 429
            assert (await s.ask())[0] == 429, "once, and no further"
            full.status = 500
            assert (await s.ask())[0] == 500

    asyncio.run(go())


def test_a_pool_serves_its_fine_tunes(stage: Any) -> None:
    async def go() -> None:
        async with stage(models=(model("pool", fine_tunes=2),)) as s:
            assert (await s.ask("pool:001"))[0] == 503
            stub = await s.replica("p1", model="pool")
            assert (await s.ask("pool:002"))[0] == 200
            assert stub.asked[0]["model"] == "pool:002"

    asyncio.run(go())


def test_drain_ends_when_nothing_is_in_flight(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            stub = await s.replica("r1")
            stub.delay_s = 0.2
            request = asyncio.create_task(s.ask())
            await s.it.until(lambda: stub.asked)
            start = time.monotonic()
            body = {"cluster": "amber", "replica": "r1"}
            async with s.it.session.post(f"{s.url}/drain", json=body) as response:
                assert await response.json() == {"drained": True, "in_flight": 0}
            assert time.monotonic() - start > 0.1
            assert (await request)[0] == 200
            assert (await s.ask())[0] == 503

    asyncio.run(go())


def test_a_replica_that_says_it_drains_gets_nothing_more(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            stub = await s.replica("r1")
            stub.headers = {"x-draining": "1"}
            status, headers, _ = await s.ask()
            assert (status, "x-draining" in headers) == (200, False)
            assert (await s.ask())[0] == 503

    asyncio.run(go())


def test_a_dead_cluster_is_noticed_at_once_and_slows_nobody(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:  # health checks each 30 s: only the broken watch can tell
            await s.replica("alive", s.jade)
            s.amber.ready("dead", "m", REFUSED)
            await s.until_routed("dead")
            await s.amber.power_off()
            await s.until_routed("dead", routed=False, at_most_s=1.0)
            start = time.monotonic()
            assert [(await s.ask())[0] for _ in range(20)] == [200] * 20
            assert time.monotonic() - start < 1.0
            s.jade.ready("new", "m", REFUSED)
            assert await s.until_routed("new") < 0.1

    asyncio.run(go())


def test_a_cluster_that_comes_back_is_listed_anew(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            s.amber.ready("old", "m", REFUSED)
            await s.until_routed("old")
            await s.amber.power_off()
            await s.amber.power_on()
            stub = StubReplica("new")
            url = await s.it.url(stub.app())
            s.amber.ready("new", "m", url)
            await s.until_routed("new")
            assert s.api.routes.get("amber", "old") is None
            assert (await s.ask())[0] == 200

    asyncio.run(go())


def test_a_replica_that_failed_is_gone(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.replica("r1")
            s.amber.announce("replica.failed", "r1")
            await s.until_routed("r1", routed=False)

    asyncio.run(go())
