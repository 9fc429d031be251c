"""Nodes that want the same object at the same time: a chain, in which each gives on what it gets as it gets it."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fleet.serving import agent, store
from fleet.serving.config import AgentConfig, StoreConfig
from fleet.serving.relay import Flight
from fleet.serving.weights import Manifest, make_weights, object_path

Weights = tuple[Path, Manifest]


async def nodes(it: Any, folder: Path, stores: list[str], **changes: Any) -> list[str]:
    """URLs of agents of one cluster, peers of one another; ``stores``: the store of each."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in stores]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    for i, (port, source) in enumerate(zip(ports, stores, strict=True)):
        fields: dict[str, Any] = {
            "cluster": "amber",
            "node": f"n{i}",
            "host": "127.0.0.1",
            "port": port,
            "cache_dir": folder / f"n{i}",
            "cache_bytes": 2_000_000,
            "store_urls": (source,),
            "peer_urls": tuple(url for url in urls if url != urls[i]),
            "peer_fetch": True,
            "fetch_timeout_s": 10.0,
            "token": "token-of-this-run",
        }
        await it.serve(agent.build_app(AgentConfig(**fields | changes)), port)
    return urls


async def store_of(it: Any, root: Path, egress_bytes_s: float = 0.0) -> str:
    url: str = await it.url(store.build_app(StoreConfig("s", "127.0.0.1", 0, root, egress_bytes_s)))
    return url


async def fetch(it: Any, url: str, model: str = "m") -> dict[str, Any]:
    async with it.session.post(f"{url}/fetch", json={"model": model}) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


def test_all_nodes_at_once_ask_the_store_once_and_end_together(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights
    want = [object_path(root, item.sha256).read_bytes() for item in manifest.objects]

    async def go() -> None:
        async with lab() as it:
            source = await store_of(it, root, egress_bytes_s=600_000)  # half a second
            urls = await nodes(it, tmp_path, [source] * 5, link_bytes_s=600_000.0)
            began = time.monotonic()
            fetched = await asyncio.gather(*(fetch(it, url) for url in urls))
            assert time.monotonic() - began < 1.5, "from the store alone it would be 2.5 s, node after node as much"
            for one in fetched:
                assert [Path(path).read_bytes() for path in one["paths"]] == want
            assert await it.metric(source, "weight_store_sent_bytes_total") <= 1.2 * 300_000

    asyncio.run(go())


def test_a_node_that_gets_rotten_bytes_gives_none_of_them_on_as_a_whole(lab: Any, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for root in (good, bad):
        manifest = make_weights(root, "m", 200_000, seed=3, piece_bytes=200_000)
    name = manifest.objects[0].sha256
    data = object_path(good, name).read_bytes()
    object_path(bad, name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    async def go() -> None:
        async with lab() as it:
            rotten, sound = await store_of(it, bad, 1e6), await store_of(it, good, 1e6)
            urls = await nodes(it, tmp_path, [rotten, sound], fetch_timeout_s=5.0)
            fetched = await asyncio.gather(*(fetch(it, url) for url in urls))
            assert all(Path(one["paths"][0]).read_bytes() == data for one in fetched)
            assert await it.metric(urls[1], "model_weight_corrupt_total") == 0, "the last byte waits for the hash"

    asyncio.run(go())


def test_nobody_waits_in_a_circle(lab: Any, tmp_path: Path) -> None:
    names = [f"m{i}" for i in range(6)]
    for name in names:
        make_weights(tmp_path / "root", name, 40_000, seed=1, piece_bytes=20_000)

    async def go() -> None:
        async with lab() as it:
            urls = await nodes(it, tmp_path, [await store_of(it, tmp_path / "root", 2e6)] * 4, parallel_objects=1)
            orders = [names, names[::-1], names[3:] + names[:3], names[::2] + names[1::2]]
            began = time.monotonic()
            await asyncio.gather(
                *(fetch(it, url, name) for url, order in zip(urls, orders, strict=True) for name in order)
            )
            assert time.monotonic() - began < 5.0, "fetch_timeout_s is 10"

    asyncio.run(go())


def test_a_nodes_link_is_a_limit_both_ways(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, _ = weights

    async def go() -> None:
        async with lab() as it:
            first, second = await nodes(it, tmp_path, [await store_of(it, root)] * 2, link_bytes_s=1_000_000.0)
            for url, source in ((first, "store"), (second, "peer")):
                began = time.monotonic()
                assert (await fetch(it, url))["source"] == source
                assert 0.25 < time.monotonic() - began < 1.5, "300 kB down, or up, at 1 MB/s"

    asyncio.run(go())


def test_a_node_gives_an_object_to_one_peer_at_a_time(lab: Any, weights: Weights, tmp_path: Path) -> None:
    root, manifest = weights
    name = manifest.objects[0].sha256

    async def go() -> None:
        async with lab() as it:
            (url,) = await nodes(it, tmp_path, [await store_of(it, root)], link_bytes_s=400_000.0)
            await fetch(it, url)
            async with it.session.get(f"{url}/objects/{name}") as first:
                async with it.session.get(f"{url}/objects/{name}") as second:
                    assert (first.status, second.status) == (200, 409), "the second can have it from the first"
                assert len(await first.read()) == 80_000
            async with it.session.get(f"{url}/objects/{name}") as later:
                assert later.status == 200

    asyncio.run(go())


def test_what_does_not_flow_is_not_waited_for_before_its_turn(tmp_path: Path) -> None:
    async def go() -> None:
        flight = Flight(3)
        assert await flight.flow(60.0) is None, "its turn has not come"
        flight.begins()
        assert await flight.flow(0.0) is None
        part = tmp_path / "part"
        part.write_bytes(b"abc")
        waiting = asyncio.create_task(flight.flow(60.0))
        await asyncio.sleep(0)
        flow = flight.flows(part)
        assert await waiting is flow
        flow.arrived(3)
        with part.open("rb", buffering=0) as file:
            bytes_of = flow.follow(file, 2)
            assert await anext(bytes_of) == b"ab", "the last byte is held back"
            flight.dry()
            with pytest.raises(ConnectionAbortedError):
                await anext(bytes_of)

    asyncio.run(go())
