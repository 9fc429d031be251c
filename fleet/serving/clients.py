"""What the allocator asks of others: a cluster's control plane, and the gateway. Each call is bounded in time.

They translate HTTP into values and ``Unanswered``; they decide nothing and never retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec

from fleet.placement import Room
from fleet.serving.serve import check
from fleet.spec import Checks

CALL_S: Final = 1.0


class Unanswered(Exception):
    """The other side did not do what it was asked; the text says why. ``perhaps``: it may have, or may do so yet."""

    def __init__(self, why: str, *, perhaps: bool = False) -> None:
        super().__init__(why)
        self.perhaps = perhaps


class _Service:
    """Calls of one service; "" as its URL: there is none."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session

    async def _call(
        self, method: str, path: str, body: Mapping[str, str] | None = None, timeout_s: float = CALL_S
    ) -> dict[str, Any]:
        url, limit = f"{self._url}{path}", aiohttp.ClientTimeout(total=timeout_s)
        try:
            data = None if body is None else msgspec.json.encode(body)
            async with self._session.request(method, url, data=data, timeout=limit) as response:
                payload = await response.read()
                if response.status >= 400:
                    said = f"{method} {url} answered {response.status}: {payload.decode()[:200]}"
                    raise Unanswered(said, perhaps=response.status == HTTPStatus.GATEWAY_TIMEOUT)
                decoded: dict[str, Any] = msgspec.json.decode(payload)
                return decoded
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            perhaps = not isinstance(error, aiohttp.ClientConnectorError)
            raise Unanswered(f"{method} {url} failed: {error!r}", perhaps=perhaps) from error


@dataclass(frozen=True)
class Listed:
    """How far a replica is, as its cluster lists it."""

    phase: str
    reason: str


class ClusterClient(_Service):
    """One cluster's control plane."""

    def __init__(self, name: str, url: str, session: aiohttp.ClientSession, checks: Checks = "http") -> None:
        super().__init__(url, session)
        self.name = name
        self._checks = checks

    async def ready(self, timeout_s: float) -> str:
        """Asks ``/readyz`` (with ``tcp`` checks: only connects): "" when the cluster is ready, else what was seen."""
        try:
            return await check(self._session, f"{self._url}/readyz", timeout_s, self._checks)
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"

    async def rooms(self) -> tuple[Room, ...]:
        """Free GPUs of each ready node."""
        nodes = (await self._call("GET", "/nodes"))["nodes"]
        return tuple(Room(self.name, node["name"], node["free"]) for node in nodes if node.get("ready", True))

    async def replicas(self) -> dict[str, Listed]:
        """All replicas by name."""
        rows = (await self._call("GET", "/replicas"))["replicas"]
        return {row["name"]: Listed(row["phase"], row.get("reason", "")) for row in rows}

    async def put(self, replica: str, model: str, node: str = "") -> None:
        """Wants a replica there, on ``node`` if it still fits."""
        await self._call("PUT", f"/replicas/{replica}", {"model": model, "node": node})

    async def delete(self, replica: str) -> None:
        """Ends a replica, gracefully."""
        await self._call("DELETE", f"/replicas/{replica}")


class Listing:
    """A cluster's replicas for many who ask over and over: an answer that is under way is everybody's who asks
    meanwhile, and none of them ends it for the others. Used from one event loop."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._asked: asyncio.Future[dict[str, Listed]] | None = None

    async def replicas(self) -> dict[str, Listed]:
        """As ``ClusterClient.replicas``, at most one call's time old."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self._client.replicas())
            self._asked.add_done_callback(  # else a complaint of asyncio when nobody waits any more
                lambda asked: asked.cancelled() or asked.exception()
            )
        return await asyncio.shield(self._asked)


class GatewayClient(_Service):
    """The gateway. Without a URL it is taken to see everything at once."""

    async def routes_to(self, cluster: str, replica: str) -> bool:
        """Does it send that replica its full part of its model's requests?"""
        if not self._url:
            return True
        return any(
            row["routable"] and row.get("weight", 1.0) >= 1.0
            for row in (await self._call("GET", "/state"))["replicas"]
            if (row["cluster"], row["replica"]) == (cluster, replica)
        )

    async def drain(self, cluster: str, replica: str) -> None:
        """No new requests for that replica; returns when it has none in flight, or after the gateway's limit."""
        if self._url:
            await self._call("POST", "/drain", {"cluster": cluster, "replica": replica}, 2 * CALL_S)
