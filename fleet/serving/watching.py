"""What keeps the gateway's routing table true: one watch a cluster, one health check a replica, each on its own.

A watch lists, then follows the cluster's events, and lists again after a gap; when it breaks, the cluster's replicas
are checked at once, since they may have died with it. A slow or dead cluster delays nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import aiohttp
import msgspec

from fleet.serving.config import GatewayConfig
from fleet.serving.events import FROM_NOW, Event, open_stream
from fleet.serving.routing import Replica, Routes, Seen
from fleet.serving.serve import takes_connections
from history.op import REPLICA_FAILED, REPLICA_GONE, REPLICA_READY

RECONNECT_S: Final = 0.1
_READY: Final = "Ready"


class Watching:
    """The background tasks of a gateway. ``start`` them inside its loop; ``close`` ends them."""

    def __init__(
        self, config: GatewayConfig, routes: Routes, session: aiohttp.ClientSession, log: logging.Logger
    ) -> None:
        self._config = config
        self._routes = routes
        self._session = session
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._checking: set[Replica] = set()
        self.connected: dict[str, bool] = {name: False for name, _ in config.clusters}

    def start(self) -> None:
        """Starts a watch for each cluster, and the health checks."""
        for name, url in self._config.clusters:
            self._spawn(self._watch(name, url.rstrip("/")))
        self._spawn(self._check_all())

    async def close(self) -> None:
        """Ends all tasks."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_soon(self, replica: Replica) -> None:
        """Checks a replica that gave cause for doubt, without waiting for its turn."""
        if replica not in self._checking:
            self._spawn(self._check(replica))

    async def _watch(self, cluster: str, url: str) -> None:
        while True:
            try:
                stream = await open_stream(self._session, url, after=FROM_NOW)
                try:
                    self._routes.sync(cluster, await self._list(url))
                    self.connected[cluster] = True
                    self._log.info("watching %s", cluster)
                    async for event in stream:
                        await self._apply(cluster, url, event)
                finally:
                    stream.close()
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
                if self.connected[cluster]:
                    self._log.warning("watch of %s broke: %r", cluster, error)
            self.connected[cluster] = False
            for replica in self._routes.replicas:
                if replica.cluster == cluster and not replica.ejected:
                    self.check_soon(replica)
            await asyncio.sleep(RECONNECT_S)

    async def _apply(self, cluster: str, url: str, event: Event) -> None:
        if event.kind == REPLICA_READY:
            address = event.detail.get("url", "")
            if address and event.model:
                seen = Seen(event.replica, event.model, event.node, address.rstrip("/"))
                self._routes.ready(cluster, seen)
                return
            for item in await self._list(url):
                if item.name == event.replica:
                    self._routes.ready(cluster, item)
        elif event.kind in (REPLICA_GONE, REPLICA_FAILED):
            self._routes.remove(cluster, event.replica)

    async def _list(self, url: str) -> list[Seen]:
        timeout = aiohttp.ClientTimeout(total=2.0, sock_connect=0.5)
        async with self._session.get(f"{url}/replicas", timeout=timeout) as response:
            response.raise_for_status()
            listing: dict[str, list[dict[str, Any]]] = msgspec.json.decode(await response.read())
        return [
            Seen(item["name"], item["model"], item.get("node") or "", item["url"].rstrip("/"))
            for item in listing["replicas"]
            if item.get("phase") == _READY and item.get("url")
        ]

    async def _check_all(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for replica in self._routes.replicas:
                self.check_soon(replica)
            due = max(due + self._config.health_interval_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _check(self, replica: Replica) -> None:
        """One health check on a new connection. Refused or "not ready" ejects at once, a time-out counts."""
        self._checking.add(replica)
        was_routable = replica.routable
        if self._config.checks == "tcp":
            seen = await takes_connections(replica.url, self._config.health_timeout_s)
            (self._routes.eject if seen else self._routes.succeeded)(replica)
            self._checking.discard(replica)
            return
        timeout = aiohttp.ClientTimeout(total=self._config.health_timeout_s)
        try:
            async with self._session.get(f"{replica.url}/healthz", timeout=timeout) as response:
                if response.status == 200:
                    self._routes.succeeded(replica)
                else:
                    self._routes.eject(replica)
        except TimeoutError:
            self._routes.failed(replica)
        except aiohttp.ClientError:
            self._routes.eject(replica)
        finally:
            self._checking.discard(replica)
        if replica.routable != was_routable:
            word = "back" if replica.routable else "ejected"
            self._log.info("%s/%s %s by its health check", replica.cluster, replica.name, word)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a task of the gateway died", exc_info=error)
