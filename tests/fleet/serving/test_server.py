"""The model server: loads verified weights, says how far it is, answers from them, queues, refuses, drains, dies."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from dataclasses import fields as fields_of
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fleet.serving import agent, loader, server, store
from fleet.serving.config import AgentConfig, ServerConfig, StoreConfig
from fleet.serving.weights import Fetch, Manifest, make_weights, object_path
from fleet.spec import ModelSpec

Weights = tuple[Path, Manifest]
TOKEN = "token-of-this-run"
CHAT = "/v1/chat/completions"


def ask(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4} | more


class Bench:
    """A store, an agent, a control plane and one server."""

    def __init__(self, it: Any, root: Path, cache: Path, control_plane: Any) -> None:
        self.it, self.root, self.cache = it, root, cache
        self.control = control_plane(it, "amber", {"n1": 8})
        self.api: server.ModelServer

    async def start(self, *, egress_bytes_s: float = 0.0, **changes: Any) -> str:
        await self.control.power_on()
        store_config = StoreConfig("s", "127.0.0.1", 0, self.root, egress_bytes_s)
        self.store_url = await self.it.url(store.build_app(store_config))
        agent_config = AgentConfig("amber", "n1", "127.0.0.1", 0, self.cache, 10**7, (self.store_url,), token=TOKEN)
        self.agent_url = await self.it.url(agent.build_app(agent_config))
        return await self.server(**changes)

    async def server(self, **changes: Any) -> str:
        fields: dict[str, Any] = {
            "cluster": "amber",
            "node": "n1",
            "replica": "m-1",
            "host": "127.0.0.1",
            "port": 0,
            "agent_url": self.agent_url,
            "control_url": self.control.url,
            "token": TOKEN,
        }
        model: dict[str, Any] = {"name": "m", "first_token_ms": 0.0, "token_ms": 0.0}
        model |= {key: changes.pop(key) for key in changes.keys() & {field.name for field in fields_of(ModelSpec)}}
        spec = ModelSpec(kind="chat", model_class="base", weight_bytes=1, **model)
        self.api = server.ModelServer(ServerConfig(**fields | changes, model=spec), logging.Logger("server"))
        url: str = await self.it.serving(self.api)
        return url

    async def ready(self, url: str) -> None:
        async def is_ready() -> bool:
            async with self.it.session.get(f"{url}/healthz") as response:
                return bool(response.status == 200)

        await self.it.until(is_ready)


@pytest.fixture
def bench(weights: Weights, tmp_path: Path, control_plane: Any) -> Any:
    return lambda it: Bench(it, weights[0], tmp_path / "cache", control_plane)


def test_it_says_loading_then_where_the_weights_came_from_then_ready(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(egress_bytes_s=3e6)
            async with it.session.post(url + CHAT, json=ask()) as response:
                assert response.status == 503
                assert "Loading" in await response.text()
            await b.ready(url)
            await it.until(lambda: len(b.control.states) == 3)
            assert [(s["phase"], s.get("weights")) for s in b.control.states] == [
                ("Loading", None),
                ("Loading", "store"),
                ("Ready", "store"),
            ]
            last = b.control.states[-1]
            assert last["bytes"] == 300_000
            assert last["seconds"] >= 0.1  # 300,000 bytes at 3 MB/s
            stamps = [s["t_emitted"] for s in b.control.states]
            assert stamps == sorted(stamps)
            load = 'model_load_duration_seconds_sum{cluster="amber",model="m",phase="ready",source="store"}'
            assert await it.metric(url, load) >= 0.1
            assert await it.metric(url, 'model_requests_refused_total{code="503",model_name="m"}') == 1

    asyncio.run(go())


def test_what_a_server_does_not_need_is_not_imported() -> None:
    code = "import sys, fleet.environments.kind.pod, fleet.serving.server; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fleet.serving.light" in told
    assert {"aiohttp", "numpy", "kubernetes", "click"}.isdisjoint(told)


def test_who_asks_whether_it_is_ready_may_wait_until_it_is(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(egress_bytes_s=1e6)
            seen = []
            for wait_s in ("0.01", "nan", "10"):
                async with it.session.get(f"{url}/healthz?wait_s={wait_s}") as response:
                    seen.append((response.status, (await response.json())["phase"]))
            assert seen == [(503, "Loading"), (503, "Loading"), (200, "Ready")]

    asyncio.run(go())


def test_the_first_answer_says_the_tier_and_later_ones_resident(lab: Any, bench: Any, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"

    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(access_log=log)
            await b.ready(url)
            seen = []
            for stream in (True, False, True):
                async with it.session.post(url + CHAT, json=ask(stream=stream)) as response:
                    assert response.status == 200
                    seen.append((response.headers["x-weights"], response.headers["x-served-by"]))
                    text = await response.text()
                    if stream:
                        assert text.count('"content":') == 4
                        assert text.endswith("data: [DONE]\n\n")
            assert seen == [("store", "amber/n1/m-1")] + [("resident", "amber/n1/m-1")] * 2
            again = await b.server(replica="m-2")
            await b.ready(again)
            async with it.session.post(again + CHAT, json=ask()) as response:
                assert response.headers["x-weights"] == "local"
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            answered = [line for line in lines if line["status"] == 200]
            assert [line["model"] for line in answered] == ["m"] * 3
            assert all(line["t_first_byte"] <= line["t_done"] <= time.monotonic_ns() for line in answered)
            assert await it.metric(url, 'vllm:request_success_total{finished_reason="length",model_name="m"}') == 3
            for name in (
                "vllm:num_requests_running",
                "vllm:num_requests_waiting",
                "vllm:e2e_request_latency_seconds_count",
                "vllm:time_to_first_token_seconds_count",
                "vllm:inter_token_latency_seconds_count",
            ):
                assert await it.metric(url, f'{name}{{model_name="m"}}') == (3 if name.endswith("count") else 0)

    asyncio.run(go())


def test_other_weights_give_other_words(lab: Any, bench: Any, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab() as it:
            said = []
            for seed in (7, 8):
                b = bench(it)
                b.root, b.cache = tmp_path / f"store{seed}", tmp_path / f"cache{seed}"
                make_weights(b.root, "m", 10_000, seed=seed, piece_bytes=4_000)
                url = await b.start()
                await b.ready(url)
                async with it.session.post(url + CHAT, json=ask(max_tokens=30)) as response:
                    said.append((await response.json())["choices"][0]["message"]["content"])
            assert said[0] != said[1]

    asyncio.run(go())


def test_damage_between_cache_and_memory_never_reaches_an_answer(
    lab: Any, bench: Any, weights: Weights, monkeypatch: Any
) -> None:
    _, manifest = weights
    victim = manifest.objects[0].sha256

    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start()
            await b.ready(url)
            (b.cache / victim).write_bytes(b"x" * 80_000)
            other = await b.server(replica="m-2")
            await b.ready(other)
            assert await it.metric(b.agent_url, "model_weight_corrupt_total") == 1
            bodies = []
            for server_url in (url, other):
                async with it.session.post(server_url + CHAT, json=ask()) as response:
                    bodies.append((await response.json())["choices"])
            assert bodies[0] == bodies[1]

    asyncio.run(go())


def test_weights_that_cannot_be_had_are_a_failure_with_the_reason(lab: Any, bench: Any, weights: Weights) -> None:
    root, manifest = weights
    object_path(root, manifest.objects[0].sha256).unlink()
    (root / "models" / "m.json").unlink()

    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start()
            await it.until(lambda: any(s["phase"] == "Failed" for s in b.control.states))
            assert "no weights for model 'm'" in b.control.states[-1]["reason"]
            async with it.session.post(url + CHAT, json=ask()) as response:
                assert response.status == 503

    asyncio.run(go())


def test_a_file_that_cannot_be_read_is_asked_for_again_and_never_called_damaged(
    lab: Any, bench: Any, monkeypatch: Any
) -> None:
    asked: list[Fetch] = []
    whole, fetch = loader.read_verified, loader.Loader._fetch
    denied = PermissionError(13, "Permission denied", "/proc/7/root/cache/a")

    async def remembering(self: loader.Loader, wanted: Fetch) -> Any:
        asked.append(wanted)
        return await fetch(self, wanted)

    def moved(*told: Any) -> Any:
        if len(asked) == 1:
            raise denied
        return whole(*told)

    def closed(*_: Any) -> Any:
        raise denied

    monkeypatch.setattr(loader.Loader, "_fetch", remembering)

    async def go() -> None:
        async with lab() as it:
            monkeypatch.setattr(loader, "read_verified", moved)
            b = bench(it)
            await b.ready(await b.start())
            assert asked == [Fetch("m")] * 2, "nothing was reported as corrupt"

    async def never() -> None:
        async with lab() as it:
            monkeypatch.setattr(loader, "read_verified", closed)
            b = bench(it)
            await b.start()
            await it.until(lambda: any(s["phase"] == "Failed" for s in b.control.states))
            assert "cannot be read where the agent keeps them: [Errno 13]" in b.control.states[-1]["reason"]

    asyncio.run(go())
    asyncio.run(never())


def test_any_other_failure_of_a_load_is_told_too(lab: Any, bench: Any, monkeypatch: Any) -> None:
    def broken(*_: Any) -> Any:
        raise MemoryError("no memory for weights")

    monkeypatch.setattr(loader, "read_verified", broken)

    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            await b.start()
            await it.until(lambda: any(s["phase"] == "Failed" for s in b.control.states))
            assert "no memory for weights" in b.control.states[-1]["reason"]

    asyncio.run(go())


def test_slots_run_the_queue_waits_and_the_next_is_turned_away(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(slots=2, queue=3, first_token_ms=200.0)
            await b.ready(url)

            async def post() -> int:
                async with it.session.post(url + CHAT, json=ask()) as response:
                    await response.read()
                    return int(response.status)

            tasks = [asyncio.create_task(post()) for _ in range(5)]
            waiting = 'vllm:num_requests_waiting{model_name="m"}'
            await it.until(lambda: it.metric(url, waiting), 0.2)
            await it.until(lambda: b.api._admitted == 5, 0.2)
            assert await it.metric(url, waiting) == 3
            assert await it.metric(url, 'vllm:num_requests_running{model_name="m"}') == 2
            assert await post() == 429
            tasks[-1].cancel()  # who leaves the queue makes room
            await it.until(lambda: b.api._admitted < 5, 0.2)
            assert await asyncio.gather(*tasks[:4], post()) == [200] * 5

    asyncio.run(go())


def test_bad_requests_are_answered_400_and_404(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start()
            await b.ready(url)
            for body, status in ((b"{", 400), (json.dumps(ask("other")).encode(), 404)):
                async with it.session.post(url + CHAT, data=body) as response:
                    assert response.status == status

    asyncio.run(go())


def test_a_pool_loads_each_fine_tune_once_and_lets_go_of_the_least_recent(
    lab: Any, bench: Any, weights: Weights
) -> None:
    root, _ = weights
    for name in ("pool:001", "pool:002", "pool:003"):
        make_weights(root, name, 100_000, seed=1, piece_bytes=50_000)

    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(name="pool", fine_tunes=3, gpu_memory_bytes=200_000)
            await b.ready(url)

            async def tier(name: str) -> str:
                async with it.session.post(url + CHAT, json=ask(name)) as response:
                    assert response.status == 200
                    return str(response.headers["x-weights"])

            assert sorted(await asyncio.gather(*(tier("pool:001") for _ in range(4)))) == ["store"] * 4
            assert await it.metric(b.store_url, "weight_store_sent_bytes_total") == 100_000
            assert [await tier(n) for n in ("pool:002", "pool:001", "pool:003", "pool:001", "pool:002")] == [
                "store",
                "resident",
                "store",
                "resident",
                "local",
            ]
            assert await it.metric(url, 'model_gpu_memory_bytes{model_name="pool"}') == 200_000

    asyncio.run(go())


def test_draining_lets_what_is_in_flight_end_and_says_so(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(first_token_ms=250.0)
            await b.ready(url)
            in_flight = asyncio.create_task(it.session.post(url + CHAT, json=ask()))
            await it.until(lambda: b.api._admitted == 1)
            drain = asyncio.create_task(b.api.drain())
            await asyncio.sleep(0)
            async with it.session.get(f"{url}/healthz") as response:
                assert response.status == 503
                assert await response.json() == {"phase": "Draining"}
            await drain
            response = await in_flight
            assert response.status == 200
            assert response.headers["x-draining"] == "1"

    asyncio.run(go())


def test_a_client_that_leaves_frees_its_slot(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(slots=1, queue=0, first_token_ms=5000.0)
            await b.ready(url)
            task = asyncio.create_task(it.session.post(url + CHAT, json=ask()))
            await it.until(lambda: b.api._running == 1)
            task.cancel()
            await it.until(lambda: b.api._running == 0, 1.0)
            assert await it.metric(url, 'vllm:request_success_total{finished_reason="abort"') == 1

    asyncio.run(go())


def test_control_plane_that_answers_late_still_learns_it(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            await b.start()
            url = b.control.url
            await b.control.power_off()
            await b.server(replica="m-2", control_url=url)
            await asyncio.sleep(0.05)
            await b.control.power_on()
            await it.until(lambda: [s["phase"] for s in b.control.states][-1:] == ["Ready"])

    asyncio.run(go())


def test_a_server_without_a_control_plane_serves(lab: Any, bench: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(control_url="")
            await b.ready(url)
            async with it.session.get(f"{url}/v1/models") as response:
                assert [row["id"] for row in (await response.json())["data"]] == ["m"]
            assert b.control.states == []

    asyncio.run(go())


def test_the_first_event_of_a_stream_leaves_alone_the_others_in_groups_when_their_last_is_due(
    lab: Any, bench: Any
) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            url = await b.start(token_ms=30.0)
            await b.ready(url)
            async with it.session.post(url + CHAT, json=ask(stream=True) | {"max_tokens": 9}) as response:
                arrivals = []
                async for line in response.content:
                    if line.startswith(b"data: {") and b'"content"' in line:
                        arrivals.append(time.monotonic())
            gaps = [b - a for a, b in pairwise(arrivals)]
            assert [number for number, gap in enumerate(gaps) if gap > 0.06] == [0, 4], gaps  # 1, then 4 and 4 tokens

    asyncio.run(go())


def test_the_agent_may_start_after_the_server(lab: Any, bench: Any, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab() as it:
            b = bench(it)
            await b.start()
            late = await it.serve(web.Application())
            port = late.port
            await late.close()
            url = await b.server(replica="m-2", agent_url=f"http://127.0.0.1:{port}")
            await asyncio.sleep(0.05)
            config = AgentConfig("amber", "n2", "127.0.0.1", 0, tmp_path / "c2", 10**7, (b.store_url,), token=TOKEN)
            await it.serve(agent.build_app(config), port)
            await b.ready(url)

    asyncio.run(go())
