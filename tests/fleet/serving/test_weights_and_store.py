"""Weights on disk and the store: the same arguments the same bytes; real bytes, paced; busy past its queue."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from fleet.serving import store
from fleet.serving.config import StoreConfig
from fleet.serving.weights import Manifest, decode_manifest, make_weights, object_path
from history.errors import UsageError

Weights = tuple[Path, Manifest]


def config(root: Path, **changes: Any) -> StoreConfig:
    fields: dict[str, Any] = {"name": "s", "host": "127.0.0.1", "port": 0, "root": root, "egress_bytes_s": 0.0}
    return StoreConfig(**fields | changes)


def test_weights_are_named_by_their_bytes_and_depend_on_model_and_seed(tmp_path: Path) -> None:
    one = make_weights(tmp_path, "curie/a", 100_001, seed=1, piece_bytes=30_000)
    assert [item.bytes for item in one.objects] == [30_000, 30_000, 30_000, 10_001]
    for item in one.objects:
        data = object_path(tmp_path, item.sha256).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item.sha256
        assert len(data) == item.bytes
    assert make_weights(tmp_path / "again", "curie/a", 100_001, seed=1, piece_bytes=30_000) == one
    assert make_weights(tmp_path, "curie/a", 100_001, seed=2, piece_bytes=30_000).objects != one.objects
    assert make_weights(tmp_path, "curie/b", 100_001, seed=1, piece_bytes=30_000).objects != one.objects


def test_weights_that_exist_are_not_written_again_and_missing_ones_are(tmp_path: Path) -> None:
    manifest = make_weights(tmp_path, "m", 1000, seed=1, piece_bytes=500)
    first, second = (object_path(tmp_path, item.sha256) for item in manifest.objects)
    stamp = first.stat().st_mtime_ns
    make_weights(tmp_path, "m", 1000, seed=1, piece_bytes=500)
    assert first.stat().st_mtime_ns == stamp
    second.unlink()
    make_weights(tmp_path, "m", 1000, seed=1, piece_bytes=500)
    assert second.exists()


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 bytes in pieces of 5"):
        make_weights(tmp_path, "m", 0, seed=1, piece_bytes=5)


def test_manifest_and_objects_cross_the_wire(lab: Any, weights: Weights) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            url = await it.url(store.build_app(config(root)))
            async with it.session.get(f"{url}/models/m") as response:
                assert decode_manifest(await response.read()) == manifest
            for item in manifest.objects:
                async with it.session.get(f"{url}/objects/{item.sha256}") as response:
                    assert hashlib.sha256(await response.read()).hexdigest() == item.sha256
            assert await it.metric(url, 'weight_store_sent_bytes_total{store="s"}') == 300_000
            for path in ("models/none", "objects/none", f"objects/{'0' * 64}", "objects/..%2fmodels%2fm.json"):
                async with it.session.get(f"{url}/{path}") as response:
                    assert response.status == 404

    asyncio.run(go())


@pytest.mark.parametrize(
    ("limits", "cluster", "least_s"),
    [
        ({"egress_bytes_s": 2e6}, "amber", 0.15),
        ({"egress_bytes_s": 1e9, "cluster": "amber", "cross_cluster_bytes_s": 2e6}, "jade", 0.15),
        ({"egress_bytes_s": 1e9, "cluster": "amber", "cross_cluster_bytes_s": 2e6}, "amber", 0.0),
    ],
)
def test_bytes_take_the_time_that_the_limits_say(
    lab: Any, weights: Weights, limits: dict[str, Any], cluster: str, least_s: float
) -> None:
    root, manifest = weights

    async def go() -> float:
        async with lab() as it:
            url = await it.url(store.build_app(config(root, **limits)))

            async def get(sha256: str) -> None:
                async with it.session.get(f"{url}/objects/{sha256}?cluster={cluster}") as response:
                    await response.read()

            start = time.monotonic()
            await asyncio.gather(*(get(item.sha256) for item in manifest.objects))
            return time.monotonic() - start

    seconds = asyncio.run(go())  # 300,000 bytes at 2 MB/s are 0.15 s
    assert seconds >= least_s
    if not least_s:
        assert seconds < 0.15


def test_past_its_queue_it_says_server_busy_and_when_to_come_back(lab: Any, weights: Weights) -> None:
    root, manifest = weights

    async def go() -> None:
        async with lab() as it:
            url = await it.url(store.build_app(config(root, egress_bytes_s=1e5, max_queue=2)))
            slow = [asyncio.create_task(it.session.get(f"{url}/objects/{i.sha256}")) for i in manifest.objects[:2]]
            held = [await task for task in slow]  # headers are here, bytes still come
            async with it.session.get(f"{url}/objects/{manifest.objects[2].sha256}") as response:
                assert response.status == 503
                assert (await response.json())["error"] == "ServerBusy"
                assert response.headers["Retry-After"] == "1"
                assert response.headers["Retry-After-Ms"] == "250"
            held[0].close()  # whoever leaves gives the place back

            async def served() -> bool:
                async with it.session.get(f"{url}/objects/{manifest.objects[2].sha256}") as response:
                    return bool(response.status == 200)

            await it.until(served)
            held[1].close()

    asyncio.run(go())
