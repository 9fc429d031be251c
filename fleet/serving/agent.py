"""The node agent: this node's weight cache and its metrics, one process a node.

Model servers of the node ask it for weights and read the files that it names; other nodes' agents may ask it for
objects, and get those that are still on their way as they arrive. It dies with its cluster, and its cache with it; it
never serves a whole object whose hash is wrong.

    POST /fetch {"model", "corrupt"?: [sha256]}   {"model", "paths", "objects", "source", "bytes", "seconds", "lease"}
    POST /release {"lease"}                       the files were read: they may be evicted again
    GET  /objects/{sha256}[?wait=1], /models/{model}    for peers   GET /events, /metrics, /healthz
         409: another node is getting it from here, ask that one · 425: asked for, not here yet · 404: neither

``source`` is the farthest tier that any of the bytes came from. A lease that nobody releases ends after LEASE_S.
``corrupt`` names objects that the reader found damaged: they are dropped, reported and fetched again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge

from fleet.serving.bucket import TokenBucket, chunk_bytes, pass_through
from fleet.serving.cache import CacheIndex
from fleet.serving.config import AgentConfig
from fleet.serving.download import Downloader, Source
from fleet.serving.events import EventLog
from fleet.serving.process import process_log
from fleet.serving.relay import Flight
from fleet.serving.serve import application, serve
from fleet.serving.weights import Fetch, Fetched, Manifest, WeightObject, decode_manifest, manifest_path, object_path
from history.clock import NS_PER_S, now_ns
from history.errors import FleetError
from history.op import LOCAL, PEER, STORE

LEASE_S: Final = 60.0
WAIT_S: Final = 0.5
"""How long a peer that says wait=1 is kept for an object that is asked for and does not flow yet."""
WEIGHTS_CORRUPT: Final = "weights.corrupt"
"""Event of an object that failed its hash; detail["sha256"], detail["source"] (a tier), detail["url"]."""

_FARTHEST: Final = (STORE, PEER, LOCAL)


class AgentMetrics:
    """The agent's metrics in one registry."""

    def __init__(self, config: AgentConfig, cache: CacheIndex, registry: CollectorRegistry) -> None:
        place = (config.cluster, config.node)
        self._requests = Counter(
            "model_cache_requests",
            "Weight objects asked of this node's cache: hit from local, or miss and where it came from.",
            ["result", "tier", "cluster", "node"],
            registry=registry,
        )
        self._bytes = Counter(
            "model_weight_bytes", "Weight bytes handed out.", ["cluster", "node", "source"], registry=registry
        )
        self._corrupt = Counter(
            "model_weight_corrupt", "Objects that failed their hash.", ["cluster", "node", "source"], registry=registry
        )
        self._place = place
        for tier in (LOCAL, PEER, STORE):  # a counter that is born at 1 has no rate
            self._requests.labels("hit" if tier == LOCAL else "miss", tier, *place)
            self._bytes.labels(*place, tier)
            self._corrupt.labels(*place, tier)
        used = Gauge("model_cache_used_bytes", "Bytes taken in the cache.", ["cluster", "node"], registry=registry)
        used.labels(*place).set_function(lambda: cache.used_bytes)
        budget = Gauge("model_cache_budget_bytes", "Bytes the cache may take.", ["cluster", "node"], registry=registry)
        budget.labels(*place).set(config.cache_bytes)

    def asked(self, tier: str) -> None:
        """One object was asked for and came from ``tier``."""
        self._requests.labels("hit" if tier == LOCAL else "miss", tier, *self._place).inc()

    def moved(self, tier: str, size: int) -> None:
        """``size`` bytes were read from this disk (local) or came over the wire, once whoever waits for them."""
        self._bytes.labels(*self._place, tier).inc(size)

    def corrupt(self, tier: str) -> None:
        """An object from ``tier`` failed its hash."""
        self._corrupt.labels(*self._place, tier).inc()


class Agent:
    """The state of an agent process. Used from one event loop."""

    def __init__(
        self,
        config: AgentConfig,
        session: aiohttp.ClientSession,
        registry: CollectorRegistry,
        events: EventLog,
        log: logging.Logger,
    ) -> None:
        self._config = config
        self.cache = CacheIndex(config.cache_bytes)
        self._events = events
        self._log = log
        self._metrics = AgentMetrics(config, self.cache, registry)
        self._download = Downloader(config, session, self._on_corrupt)
        self._parallel = asyncio.Semaphore(config.parallel_objects)
        self._manifests: dict[str, Manifest] = {}
        self._flights: dict[str, Flight] = {}
        self._leases: dict[int, tuple[tuple[str, ...], asyncio.TimerHandle]] = {}
        self._lease_ids = count(1)
        self._freed = asyncio.Event()
        config.cache_dir.mkdir(parents=True, exist_ok=True)
        for model in config.seeds:
            self._seed(model, config.seed_root or config.cache_dir)

    async def fetch(self, model: str, corrupt: tuple[str, ...] = ()) -> Fetched:
        """All objects of a model on this disk, under a lease. ``KeyError``: unknown; ``FleetError``: no luck."""
        start_ns = now_ns()
        for sha256 in corrupt:
            if sha256 in self.cache:
                self._on_corrupt(WeightObject(sha256, 0), Source(LOCAL, ""))
                self._lose(sha256)
        manifest = self._manifests.get(model) or await self._download.manifest(model)
        self._manifests[model] = manifest  # a name's weights never change
        names = tuple(dict.fromkeys(item.sha256 for item in manifest.objects))
        present = await self._admit(manifest)
        try:
            tiers = await asyncio.gather(
                *(
                    self._bring(item, item.sha256 in present)
                    for item in {i.sha256: i for i in manifest.objects}.values()
                )
            )
        except BaseException:
            self._release(names)
            raise
        return Fetched(
            model=model,
            paths=tuple(f"{self._config.seen_at}{self._path(item.sha256)}" for item in manifest.objects),
            objects=manifest.objects,
            source=next((tier for tier in _FARTHEST if tier in tiers), LOCAL),
            bytes=manifest.total_bytes,
            seconds=(now_ns() - start_ns) / NS_PER_S,
            lease=self._lease(names),
        )

    def release(self, lease: int) -> bool:
        """Ends a lease; False when there is none by this id (any more)."""
        names, timer = self._leases.pop(lease, ((), None))
        if timer is None:
            return False
        timer.cancel()
        self._release(names)
        return True

    async def close(self) -> None:
        """Stops all downloads."""
        flights = tuple(flight.task for flight in self._flights.values())
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def manifest(self, model: str) -> Manifest | None:
        """The manifest if this agent has used it."""
        return self._manifests.get(model)

    def flight(self, sha256: str) -> Flight | None:
        """The object's download, if it is on its way."""
        return self._flights.get(sha256)

    def open_verified(self, sha256: str) -> bytes | None:
        """An object's bytes for a peer, checked now; None when it is not here or damaged (then it is dropped)."""
        if not self.cache.touch(sha256):
            return None
        try:
            data = self._path(sha256).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        self._on_corrupt(WeightObject(sha256, len(data)), Source(LOCAL, ""))
        self._lose(sha256)
        return None

    def _seed(self, model: str, root: Path) -> None:
        """Links a model's objects into the cache, as if they had been fetched long ago."""
        manifest = decode_manifest(manifest_path(root, model).read_bytes())
        admission = self.cache.admit(manifest.objects)
        if admission is None:
            return
        self._manifests[model] = manifest
        for sha256 in admission.evicted:
            self._path(sha256).unlink(missing_ok=True)
        for item in admission.missing:
            self._path(item.sha256).unlink(missing_ok=True)
            os.link(object_path(root, item.sha256), self._path(item.sha256))
            self.cache.arrived(item.sha256)
        self.cache.release([item.sha256 for item in manifest.objects])

    async def _admit(self, manifest: Manifest) -> set[str]:
        """Takes the model's space, waiting for others to release theirs; returns what is here already."""
        if sum({item.sha256: item.bytes for item in manifest.objects}.values()) > self.cache.budget_bytes:
            raise FleetError(
                f"{manifest.model} has {manifest.total_bytes} bytes of weights; the cache of {self._config.node} "
                f"holds {self.cache.budget_bytes}",
                hint="raise cache_bytes of the node, or place the model elsewhere",
            )
        async with asyncio.timeout(self._config.fetch_timeout_s):
            while (admission := self.cache.admit(manifest.objects)) is None:
                self._freed.clear()
                await self._freed.wait()
        for sha256 in admission.evicted:
            self._path(sha256).unlink(missing_ok=True)
        return {item.sha256 for item in admission.present}

    async def _bring(self, item: WeightObject, present: bool) -> str:
        """One admitted object onto the disk: single flight, whoever asks; returns the tier it came from."""
        if present and self._path(item.sha256).exists():
            self._metrics.asked(LOCAL)
            self._metrics.moved(LOCAL, item.bytes)
            return LOCAL
        flight = self._flights.get(item.sha256)
        if flight is None or not self._config.single_flight:
            self.cache.admit((item,))  # the flight's own pin: its space stays taken until it has landed
            self._flights[item.sha256] = flight = Flight(item.bytes)
            flight.task = asyncio.create_task(self._fly(item, flight))
            flight.task.add_done_callback(lambda task: self._landed(item.sha256, task))
        tier = await asyncio.shield(flight.task)  # who hangs up must not stop the download for the others
        self._metrics.asked(tier)
        return tier

    async def _fly(self, item: WeightObject, flight: Flight) -> str:
        async with self._parallel:
            tier = await self._download.object(item, self._path(item.sha256), flight)
        self._metrics.moved(tier, item.bytes)
        return tier

    def _landed(self, sha256: str, task: asyncio.Task[str]) -> None:
        self._flights.pop(sha256, None)
        if not task.cancelled() and task.exception() is None:
            self.cache.arrived(sha256)
        self._release((sha256,))

    def _lease(self, names: tuple[str, ...]) -> int:
        lease = next(self._lease_ids)
        timer = asyncio.get_running_loop().call_later(LEASE_S, self.release, lease)
        self._leases[lease] = (names, timer)
        return lease

    def _release(self, names: tuple[str, ...]) -> None:
        self.cache.release(names)
        self._freed.set()

    def _lose(self, sha256: str) -> None:
        self.cache.lost(sha256)
        self._path(sha256).unlink(missing_ok=True)

    def _on_corrupt(self, item: WeightObject, source: Source) -> None:
        self._metrics.corrupt(source.tier)
        self._log.warning("corrupt object %s from %s %s", item.sha256, source.tier, source.url)
        self._events.append(
            WEIGHTS_CORRUPT,
            cluster=self._config.cluster,
            node=self._config.node,
            detail={"sha256": item.sha256, "source": source.tier, "url": source.url},
        )

    def _path(self, sha256: str) -> Path:
        return self._config.cache_dir / sha256


class AgentApi:
    """HTTP over an agent, which is made once the application's loop runs."""

    def __init__(self, config: AgentConfig, registry: CollectorRegistry, log: logging.Logger) -> None:
        self._config = config
        self._registry = registry
        self._log = log
        self._link = TokenBucket(config.link_bytes_s)
        self._giving: set[str] = set()
        self.events = EventLog()
        self.agent: Agent

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the agent's client session, and closes what is under way at the end."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            self.agent = Agent(self._config, session, self._registry, self.events, self._log)
            yield
            await self.agent.close()

    async def fetch(self, request: web.Request) -> web.Response:
        """``POST /fetch``: 404 without such weights, 507 or 504 with the reason when they cannot be had."""
        try:
            body = msgspec.json.decode(await request.read(), type=Fetch)
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        try:
            fetched = await self.agent.fetch(body.model, body.corrupt)
        except KeyError:
            return web.json_response({"error": f"no weights for model {body.model!r}"}, status=404)
        except TimeoutError:
            return web.json_response({"error": f"no room in the cache for {body.model!r}: all in use"}, status=507)
        except OSError as error:  # full disk, directory gone
            self._log.error("fetch of %s failed: %s", body.model, error)
            reason = f"cannot write to {self._config.cache_dir}: {error.strerror}"
            return web.json_response({"error": reason, "hint": "free space on the node's disk"}, status=507)
        except FleetError as error:
            self._log.warning("fetch of %s failed: %s", body.model, error)
            return web.json_response({"error": error.message, "hint": error.hint}, status=504)
        return web.Response(body=msgspec.json.encode(fetched), content_type="application/json")

    async def release(self, request: web.Request) -> web.Response:
        """``POST /release {"lease"}``."""
        body = msgspec.json.decode(await request.read(), type=dict[str, int])
        return web.json_response({"released": self.agent.release(body.get("lease", 0))})

    async def get_object(self, request: web.Request) -> web.StreamResponse:
        """``GET /objects/{sha256}`` for peers: from the cache, or as it arrives; to one node at a time, since two would
        share the link, and the second can have it from the first."""
        sha256 = request.match_info["sha256"]
        chunk = chunk_bytes(self._config.link_bytes_s)
        flight = self.agent.flight(sha256)
        flow = await flight.flow(WAIT_S if request.query.get("wait") else 0.0) if flight is not None else None
        if sha256 in self._giving:
            return web.json_response({"error": "is being given to another node"}, status=409)
        self._giving.add(sha256)
        try:
            if flow is not None:
                with FileIO(flow.part) as file:  # stays readable when it is moved into place, or evicted
                    return await self._send(request, flow.size, flow.follow(file, chunk))
            if (data := self.agent.open_verified(sha256)) is not None:
                return await self._send(request, len(data), _cut(data, chunk))
        finally:
            self._giving.discard(sha256)
        on_its_way = flight is not None and flight.active
        return web.json_response({"error": "not in this cache"}, status=425 if on_its_way else 404)

    async def _send(self, request: web.Request, size: int, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = size
        await response.prepare(request)
        try:
            async for data in chunks:
                if self._config.link_bytes_s:
                    await pass_through((self._link,), len(data))
                await response.write(data)
        except ConnectionAbortedError:
            if request.transport is not None:
                request.transport.abort()  # a peer must not take a part for the whole
        return response

    async def get_model(self, request: web.Request) -> web.Response:
        """``GET /models/{model}`` for peers: 404 when this agent has not used it."""
        manifest = self.agent.manifest(request.match_info["model"])
        if manifest is None:
            return web.json_response({"error": "not known here"}, status=404)
        return web.Response(body=msgspec.json.encode(manifest), content_type="application/json")


async def _cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def build_app(config: AgentConfig, log: logging.Logger | None = None) -> web.Application:
    """The agent as an application with a registry of its own."""
    registry = CollectorRegistry()
    api = AgentApi(config, registry, log or logging.Logger("agent"))
    routes = [
        web.post("/fetch", api.fetch),
        web.post("/release", api.release),
        web.get("/objects/{sha256}", api.get_object),
        web.get("/models/{model:.+}", api.get_model),
    ]
    return application(config.token, registry, routes, events=api.events, lifetime=api.lifetime)


def run(config: AgentConfig) -> None:
    """Serves until SIGTERM."""
    log = process_log(f"agent-{config.node}", config.log_dir)
    serve(build_app(config, log), config.host, config.port, log=log)


if __name__ == "__main__":
    from fleet.serving.byhand import by_hand

    by_hand(run, AgentConfig, "Run a node's weight cache: POST /fetch brings a model's weights onto this node.")
