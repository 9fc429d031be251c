"""The node agent: tiers, single flight, hashes, busy stores, budget and leases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from fleet.serving import agent, store
from fleet.serving.config import AgentConfig, StoreConfig
from fleet.serving.download import Downloader
from fleet.serving.relay import Flight
from fleet.serving.weights import Manifest, WeightObject, make_weights, manifest_path, object_path
from history.clock import NS_PER_S
from history.errors import FleetError

Weights = tuple[Path, Manifest]


def agent_config(cache: Path, *stores: str, **changes: Any) -> AgentConfig:
    fields: dict[str, Any] = {
        "cluster": "amber",
        "node": "amber-n1",
        "host": "127.0.0.1",
        "port": 0,
        "cache_dir": cache,
        "cache_bytes": 1_000_000,
        "store_urls": stores,
        "fetch_timeout_s": 0.5,
        "token": "token-of-this-run",
    }
    return AgentConfig(**fields | changes)


def store_app(root: Path, **changes: Any) -> web.Application:
    fields: dict[str, Any] = {"name": "s", "host": "127.0.0.1", "port": 0, "root": root, "egress_bytes_s": 0.0}
    return store.build_app(StoreConfig(**fields | changes))


async def fetch(it: Any, url: str, model: str = "m", **more: Any) -> dict[str, Any]:
    async with it.session.post(f"{url}/fetch", json={"model": model, **more}) as response:
        body: dict[str, Any] = await response.json()
        return body | {"status": response.status}


def whole(fetched: dict[str, Any], root: Path, manifest: Manifest) -> bool:
    want = [object_path(root, item.sha256).read_bytes() for item in manifest.objects]
    return [Path(path).read_bytes() for path in fetched["paths"]] == want


def test_first_from_the_store_then_from_this_node(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root))
            url = await it.url(agent.build_app(agent_config(tmp_path / "cache", source)))
            first = await fetch(it, url)
            assert (first["source"], first["bytes"]) == ("store", 300_000)
            assert whole(first, root, manifest)
            assert (await fetch(it, url))["source"] == "local"
            assert await it.metric(source, "weight_store_sent_bytes_total") == 300_000
            requests = 'model_cache_requests_total{cluster="amber",node="amber-n1",result='
            assert await it.metric(url, requests + '"miss",tier="store"') == 4
            assert await it.metric(url, requests + '"hit",tier="local"') == 4
            moved = 'model_weight_bytes_total{cluster="amber",node="amber-n1",source='
            assert await it.metric(url, moved + '"store"') == 300_000
            assert await it.metric(url, moved + '"local"') == 300_000
            assert (await fetch(it, url, "no-such"))["status"] == 404

    asyncio.run(go())


def test_paths_are_told_as_those_see_them_who_read(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            config = agent_config(tmp_path / "cache", await it.url(store_app(root)), seen_at="/proc/self/root")
            fetched = await fetch(it, await it.url(agent.build_app(config)))
            assert all(path.startswith(f"/proc/self/root{tmp_path}/cache/") for path in fetched["paths"])
            assert whole(fetched, root, manifest)

    asyncio.run(go())


def test_any_number_of_fetches_ask_the_store_once(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root, egress_bytes_s=3e6))
            url = await it.url(agent.build_app(agent_config(tmp_path / "cache", source)))
            leaver = asyncio.create_task(fetch(it, url))  # it starts the downloads and hangs up
            await it.until(lambda: it.metric(source, "weight_store_downloads"))
            others = [asyncio.create_task(fetch(it, url)) for _ in range(8)]
            await asyncio.sleep(0)
            leaver.cancel()
            for fetched in await asyncio.gather(*others):
                assert fetched["source"] == "store"
                assert whole(fetched, root, manifest)
            assert await it.metric(source, "weight_store_sent_bytes_total") == 300_000
            assert await it.metric(source, 'weight_store_requests_total{code="200"') == 4

    asyncio.run(go())


def test_a_corrupt_object_is_fetched_elsewhere_reported_and_never_served(
    lab: Any, weights: Weights, tmp_path: Path
) -> None:
    root, manifest = weights
    bad_root = tmp_path / "bad"
    make_weights(bad_root, "m", 300_000, seed=7, piece_bytes=80_000)
    victim = manifest.objects[1]
    object_path(bad_root, victim.sha256).write_bytes(b"x" * victim.bytes)

    async def go() -> None:
        async with lab() as it:
            bad, good = await it.url(store_app(bad_root)), await it.url(store_app(root))
            url = await it.url(agent.build_app(agent_config(tmp_path / "cache", bad, good)))
            assert whole(await fetch(it, url), root, manifest)
            assert await it.metric(url, "model_weight_corrupt_total") == 1
            async with it.session.get(f"{url}/events") as response:
                await response.content.readline()
                event = msgspec.json.decode(await response.content.readline())
            assert event["kind"] == "weights.corrupt"
            assert event["detail"] == {"sha256": victim.sha256, "source": "store", "url": bad}

            alone = await it.url(agent.build_app(agent_config(tmp_path / "alone", bad)))
            failed = await fetch(it, alone)
            assert failed["status"] == 504
            assert "sent corrupt bytes" in failed["error"]
            assert not (tmp_path / "alone" / victim.sha256).exists()
            async with it.session.get(f"{alone}/objects/{victim.sha256}") as response:
                assert response.status == 404

    asyncio.run(go())


def test_damage_on_the_own_disk_is_dropped_and_fetched_again(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights
    victim = manifest.objects[2].sha256

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root))
            url = await it.url(agent.build_app(agent_config(tmp_path / "cache", source)))
            first = await fetch(it, url)
            (tmp_path / "cache" / victim).write_bytes(b"damaged")
            again = await fetch(it, url, corrupt=[victim])  # the reader found it
            assert whole(again, root, manifest)
            for lease in (first["lease"], again["lease"]):
                await it.session.post(f"{url}/release", json={"lease": lease})
            (tmp_path / "cache" / victim).write_bytes(b"damaged")
            async with it.session.get(f"{url}/objects/{victim}") as response:  # a peer must not get it
                assert response.status == 404
            assert (
                await it.metric(url, 'model_weight_corrupt_total{cluster="amber",node="amber-n1",source="local"') == 2
            )
            assert whole(await fetch(it, url), root, manifest)
            ours = tmp_path / "precious"
            ours.write_text("keep")
            await fetch(it, url, corrupt=["../precious"])
            assert ours.exists()

    asyncio.run(go())


@pytest.mark.parametrize("header", [{"Retry-After-Ms": "370"}, {"Retry-After": "3"}])
def test_a_busy_store_is_left_alone_as_long_as_it_asks(tmp_path: Path, lab: Any, header: dict[str, str]) -> None:
    item = WeightObject("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", 3)
    asked: Counter[str] = Counter()
    waits: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        asked[request.query["cluster"]] += 1
        if asked["amber"] < 3:
            return web.json_response({"error": "ServerBusy"}, status=503, headers=header)
        return web.Response(body=b"foo")

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def go() -> str:
        app = web.Application()
        app.router.add_get("/objects/{sha256}", answer)
        async with lab() as it:
            config = agent_config(tmp_path, await it.url(app))
            config = AgentConfig(**vars(config) | {"fetch_timeout_s": 60.0})
            downloader = Downloader(config, it.session, lambda *_: None, sleep=sleep)
            return await downloader.object(item, tmp_path / "object", Flight(3))

    assert asyncio.run(go()) == "store"
    assert (tmp_path / "object").read_bytes() == b"foo"
    assert asked["amber"] == 3
    assert waits == [0.37, 0.37] if "Retry-After-Ms" in header else [3.0, 3.0]


def test_giving_up_says_what_was_missing_and_why(tmp_path: Path) -> None:
    clock = iter(range(0, 10**12, NS_PER_S // 4))

    async def sleep(_: float) -> None:
        return None

    async def go() -> None:
        async with aiohttp.ClientSession() as session:
            config = agent_config(tmp_path, "http://127.0.0.1:9")
            downloader = Downloader(config, session, lambda *_: None, clock=lambda: next(clock), sleep=sleep)
            await downloader.object(WeightObject("ab" * 32, 3), tmp_path / "object", Flight(3))

    with pytest.raises(
        FleetError, match=r"object abababababab did not arrive within 0\.5 s; last: http://127\.0\.0\.1:9"
    ):
        asyncio.run(go())


def test_peers_come_before_the_store_and_a_dead_peer_is_passed_over(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root))
            peer = await it.url(agent.build_app(agent_config(tmp_path / "peer", source)))
            await fetch(it, peer)
            peers = {"peer_urls": ("http://127.0.0.1:9", peer), "peer_fetch": True}
            url = await it.url(agent.build_app(agent_config(tmp_path / "mine", source, **peers)))
            fetched = await fetch(it, url)
            assert fetched["source"] == "peer"
            assert whole(fetched, root, manifest)
            assert await it.metric(source, "weight_store_sent_bytes_total") == 300_000
            off = await it.url(agent.build_app(agent_config(tmp_path / "off", source, peer_urls=(peer,))))
            assert (await fetch(it, off))["source"] == "store"

    asyncio.run(go())


def test_the_budget_holds_and_what_is_leased_is_not_evicted(lab: Any, tmp_path: Path) -> None:
    root, cache = tmp_path / "store", tmp_path / "cache"
    for name in ("a", "b", "huge"):
        make_weights(root, name, 900_000 if name == "huge" else 300_000, seed=1, piece_bytes=100_000)

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root))
            url = await it.url(agent.build_app(agent_config(cache, source, cache_bytes=400_000)))
            first = await fetch(it, url, "a")
            blocked = await fetch(it, url, "b")  # fetch_timeout_s = 0.5 s passes: a is being read
            assert blocked["status"] == 507
            assert all(Path(path).exists() for path in first["paths"])
            waiting = asyncio.create_task(fetch(it, url, "b"))
            await it.session.post(f"{url}/release", json={"lease": first["lease"]})
            assert (await waiting)["status"] == 200
            assert sum(path.stat().st_size for path in cache.iterdir()) <= 400_000
            too_big = await fetch(it, url, "huge")
            assert too_big["status"] == 504
            assert "900000 bytes" in too_big["error"]
            assert "400000" in too_big["error"]

    asyncio.run(go())


def test_a_lease_that_nobody_releases_ends(lab: Any, weights: Weights, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(agent, "LEASE_S", 0.01)
    root, _ = weights

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root))
            url = await it.url(agent.build_app(agent_config(tmp_path / "cache", source)))
            lease = (await fetch(it, url))["lease"]

            async def ended() -> bool:
                async with it.session.post(f"{url}/release", json={"lease": lease}) as response:
                    return not (await response.json())["released"]

            await asyncio.sleep(0.02)
            assert await ended()

    asyncio.run(go())


def test_a_fetch_waits_for_a_store_that_comes_late(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            first = await it.serve(store_app(root))
            port = first.port
            await first.close()
            config = agent_config(tmp_path / "cache", f"http://127.0.0.1:{port}", fetch_timeout_s=5.0)
            url = await it.url(agent.build_app(config, logging.Logger("quiet")))
            task = asyncio.create_task(fetch(it, url))
            start = time.monotonic()
            await asyncio.sleep(0.05)
            await it.serve(store_app(root), port)
            assert whole(await task, root, manifest)
            assert time.monotonic() - start < 2

    asyncio.run(go())


def test_a_manifest_that_is_no_file_is_no_model(weights: Weights) -> None:
    root, _ = weights
    assert manifest_path(root, "a/../../b").parent == root / "models"


def test_a_disk_that_takes_nothing_and_a_damaged_manifest_are_said_plainly(
    lab: Any, weights: Weights, tmp_path: Path
) -> None:
    root, _ = weights

    async def go() -> None:
        async with lab() as it:
            source = await it.url(store_app(root))
            url = await it.url(agent.build_app(agent_config(tmp_path / "cache", source)))
            (tmp_path / "cache").rmdir()
            fetched = await fetch(it, url)
            assert fetched["status"] == 507
            assert fetched["error"].startswith(f"cannot write to {tmp_path / 'cache'}: No such file")
            (tmp_path / "cache").mkdir()
            manifest_path(root, "m").write_bytes(b'{"model": "m"')
            assert (await fetch(it, url))["status"] == 200, "it knows this manifest already"
            other = await it.url(agent.build_app(agent_config(tmp_path / "other", source)))
            fetched = await fetch(it, other)
            assert fetched["status"] == 504
            assert "damaged manifest" in fetched["error"]

    asyncio.run(go())
