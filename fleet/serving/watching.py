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
from fleet.serving.events import Event, follow
from fleet.serving.routing import Replica, Routes
from fleet.serving.serve import Tasks, check
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
        self._tasks = Tasks(log)
        self._checking: set[Replica] = set()
        self.connected: dict[str, bool] = {name: False for name, _ in config.clusters}

    def start(self) -> None:
        """Starts a watch for each cluster, and the health checks."""
        for name, url in self._config.clusters:
            self._tasks.spawn(self._watch(name, url.rstrip("/")))
        self._tasks.spawn(self._check_all())

    async def close(self) -> None:
        """Ends all tasks."""
        await self._tasks.close()

    def check_soon(self, replica: Replica) -> None:
        """Checks a replica that gave cause for doubt, without waiting for its turn."""
        if replica not in self._checking:
            self._checking.add(replica)
            self._tasks.spawn(self._check(replica))

    async def _watch(self, cluster: str, url: str) -> None:
        while True:
            try:
                async with follow(self._session, url) as events:
                    self._routes.sync(cluster, await self._list(cluster, url))
                    self.connected[cluster] = True
                    self._log.info("watching %s", cluster)
                    async for event in events:
                        self._apply(cluster, event)
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
                if self.connected[cluster]:
                    self._log.warning("watch of %s broke: %r", cluster, error)
            self.connected[cluster] = False
            for replica in self._routes.replicas:
                if replica.cluster == cluster and not replica.ejected:
                    self.check_soon(replica)
            await asyncio.sleep(RECONNECT_S)

    def _apply(self, cluster: str, event: Event) -> None:
        if event.kind == REPLICA_READY and (url := event.detail.get("url", "")):
            self._routes.ready(Replica(cluster, event.replica, event.model, event.node, url.rstrip("/")))
        elif event.kind in (REPLICA_GONE, REPLICA_FAILED):
            self._routes.remove(cluster, event.replica)

    async def _list(self, cluster: str, url: str) -> list[Replica]:
        timeout = aiohttp.ClientTimeout(total=2.0, sock_connect=0.5)
        async with self._session.get(f"{url}/replicas", timeout=timeout) as response:
            response.raise_for_status()
            listing: dict[str, list[dict[str, Any]]] = msgspec.json.decode(await response.read())
        return [
            Replica(cluster, item["name"], item["model"], item.get("node") or "", item["url"].rstrip("/"))
            for item in listing["replicas"]
            if item.get("phase") == _READY and item.get("url")
        ]

    async def _check_all(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for replica in self._routes.replicas:
                self.check_soon(replica)
            due = max(due + self._config.switches.health_interval_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _check(self, replica: Replica) -> None:
        """One health check on a new connection. Refused or "not ready" ejects at once, a time-out counts."""
        was_routable = replica.routable
        try:
            url, config = f"{replica.url}/healthz", self._config
            seen = await check(self._session, url, config.health_timeout_s, config.switches.checks)
            (self._routes.eject if seen else self._routes.succeeded)(replica)
        except TimeoutError:
            self._routes.failed(replica)
        finally:
            self._checking.discard(replica)
        if replica.routable != was_routable:
            word = "back" if replica.routable else "ejected"
            self._log.info("%s/%s %s by its health check", replica.cluster, replica.name, word)
