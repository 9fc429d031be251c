"""What the allocator asks of others: a cluster's control plane, and the gateway. Each call is bounded in time.

They translate HTTP into values and ``Unanswered``; they decide nothing and never retry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from fleet.placement import Room
from fleet.serving.serve import check
from fleet.spec import Checks

CALL_S: Final = 1.0


class Unanswered(Exception):
    """The other side did not do what it was asked; the text says why."""


@dataclass(frozen=True)
class Listed:
    """A replica as its cluster lists it."""

    name: str
    model: str
    node: str
    phase: str
    reason: str


class ClusterClient:
    """One cluster's control plane."""

    def __init__(self, name: str, url: str, session: aiohttp.ClientSession, checks: Checks = "http") -> None:
        self.name = name
        self._checks = checks
        self._url = url.rstrip("/")
        self._session = session

    async def ready(self, timeout_s: float) -> str:
        """Asks ``/readyz`` (with ``tcp`` checks: only connects): "" when the cluster is ready, else what was seen."""
        try:
            return await check(self._session, f"{self._url}/readyz", timeout_s, self._checks)
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"

    async def rooms(self) -> tuple[Room, ...]:
        """Free GPUs of each ready node."""
        body = await _call(self._session, "GET", f"{self._url}/nodes")
        return tuple(Room(self.name, node["name"], node["free"]) for node in body["nodes"] if node.get("ready", True))

    async def replicas(self) -> dict[str, Listed]:
        """All replicas by name."""
        body = await _call(self._session, "GET", f"{self._url}/replicas")
        return {
            row["name"]: Listed(row["name"], row["model"], row["node"] or "", row["phase"], row.get("reason", ""))
            for row in body["replicas"]
        }

    async def put(self, replica: str, model: str, node: str = "") -> None:
        """Wants a replica there, on ``node`` if it still fits."""
        await _call(self._session, "PUT", f"{self._url}/replicas/{replica}", {"model": model, "node": node})

    async def delete(self, replica: str) -> None:
        """Ends a replica, gracefully."""
        await _call(self._session, "DELETE", f"{self._url}/replicas/{replica}")


class GatewayClient:
    """The gateway. Without a URL it is taken to see everything at once."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session

    async def routes_to(self, cluster: str, replica: str) -> bool:
        """Does it send that replica its full part of its model's requests?"""
        if not self._url:
            return True
        body = await _call(self._session, "GET", f"{self._url}/state")
        return any(
            row["routable"] and row.get("weight", 1.0) >= 1.0
            for row in body["replicas"]
            if (row["cluster"], row["replica"]) == (cluster, replica)
        )

    async def drain(self, cluster: str, replica: str) -> None:
        """No new requests for that replica; returns when it has none in flight, or after the gateway's limit."""
        if self._url:
            asked = {"cluster": cluster, "replica": replica}
            await _call(self._session, "POST", f"{self._url}/drain", asked, timeout_s=2 * CALL_S)


async def _call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: Mapping[str, str] | None = None,
    *,
    timeout_s: float = CALL_S,
) -> dict[str, Any]:
    try:
        data = None if body is None else msgspec.json.encode(body)
        async with session.request(method, url, data=data, timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
            payload = await response.read()
            if response.status >= 400:
                raise Unanswered(f"{method} {url} answered {response.status}: {payload.decode()[:200]}")
            decoded: dict[str, Any] = msgspec.json.decode(payload)
            return decoded
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        raise Unanswered(f"{method} {url} failed: {error!r}") from error
