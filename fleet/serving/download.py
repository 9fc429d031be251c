"""Downloads for the node agent: manifests and objects from peers and stores, nearest first, verified, with retries.

The agent calls ``object`` once per missing object (single flight is the agent's business). Nothing is renamed into
place before its sha256 is right; a wrong object is reported, deleted and asked for again, elsewhere first.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from fleet.serving.bucket import MAX_CHUNK_BYTES, Sleep, TokenBucket, pass_through
from fleet.serving.config import AgentConfig
from fleet.serving.relay import Flight
from fleet.serving.weights import Manifest, WeightObject, decode_manifest
from history.clock import NS_PER_S, Clock, now_ns
from history.errors import FleetError
from history.op import PEER, STORE

RETRY_S: Final = 0.1
IMPATIENT_S: Final = 0.02
"""How soon an agent that does not honour Retry-After asks again."""
LOOK_S: Final = 0.02
LOOKS: Final = {409: 50, 425: 3}
"""By what a peer answers: who has it gives it to somebody, who will give it on soon; or asks for it at this moment."""
PEER_REST_S: Final = 2.0
"""A peer that failed is not asked again for this long."""


class Unavailable(Exception):
    """One source cannot give the object now; ``wait_s``: how long it asks to be left alone (503)."""

    def __init__(self, reason: str, wait_s: float = 0.0, looks: int = 0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.looks = looks
        """How often to look again among peers before a store is asked: one of them has it, or will have."""


@dataclass(frozen=True)
class Source:
    """Somebody who may have an object: ``tier`` peer or store."""

    tier: str
    url: str


OnCorrupt = Callable[[WeightObject, Source], None]


class Downloader:
    """Downloads into ``cache_dir``; one per agent. ``corrupt`` is told of each object that failed its hash."""

    def __init__(
        self,
        config: AgentConfig,
        session: aiohttp.ClientSession,
        corrupt: OnCorrupt,
        *,
        clock: Clock = now_ns,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._config = config
        self._session = session
        self._corrupt = corrupt
        self._clock = clock
        self._sleep = sleep
        self._stores = tuple(Source(STORE, url.rstrip("/")) for url in config.store_urls)
        self._near, self._far = (
            tuple(Source(PEER, url.rstrip("/")) for url in urls) if config.peer_fetch else ()
            for urls in (config.peer_urls, config.far_peer_urls)
        )
        self._link = (TokenBucket(config.link_bytes_s),) if config.link_bytes_s else ()
        self._resting: dict[Source, int] = {}
        self._parts = count()

    async def manifest(self, model: str) -> Manifest:
        """The manifest from the nearest source that answers; ``KeyError`` when a store says that there is none."""
        deadline_ns = self._deadline_ns()
        reason = "no store is configured"
        while True:
            for source in (*self._stores, *self._near, *self._far):
                try:
                    return await self._manifest(source, model)
                except (Unavailable, aiohttp.ClientError, TimeoutError) as error:
                    reason = f"{source.url}: {_text(error)}"
            await self._rest(RETRY_S, deadline_ns, f"the manifest of {model}", reason)

    async def object(self, item: WeightObject, path: Path, flight: Flight) -> str:
        """Brings ``item`` to ``path``, whole and verified; returns the tier that gave it. ``flight`` sees it come.

        ``FleetError`` when no source gave it within ``fetch_timeout_s``.
        """
        deadline_ns = self._deadline_ns()
        reason = "no store is configured"
        flight.begins()
        for tries in count():
            wait_s, looks = RETRY_S, 0
            for source, ahead in self._order(item):
                if source.tier == STORE and tries < looks:
                    wait_s = LOOK_S
                    break
                try:
                    await self._object(source, item, path, flight, ahead)
                    return source.tier
                except Unavailable as error:
                    reason, looks = f"{source.url}: {error}", max(looks, error.looks)
                    wait_s = max(wait_s, error.wait_s) if self._config.honour_retry_after else IMPATIENT_S
                except (aiohttp.ClientError, TimeoutError) as error:
                    reason = f"{source.url}: {_text(error)}"
                    if source.tier == PEER:
                        self._resting[source] = self._clock() + round(PEER_REST_S * NS_PER_S)
            await self._rest(wait_s, deadline_ns, f"object {item.sha256[:12]}", reason)
        raise AssertionError("count() never ends")

    def _order(self, item: WeightObject) -> Iterable[tuple[Source, bool]]:
        """(source, is it ahead of this node): an order of the cluster's nodes that all of them share, another for each
        object. Each asks the one before it first, and so on to the first: who wants the object now stands in a chain,
        each node giving to the next. One waits only for who is ahead, so nobody waits in a circle."""
        mine = _place(item, f"http://{self._config.host}:{self._config.port}")
        now = self._clock()
        near, far = (
            sorted(
                ((_place(item, peer.url), peer) for peer in peers if self._resting.get(peer, 0) <= now),
                key=lambda placed: placed[0],
                reverse=True,
            )
            for peers in (self._near, self._far)
        )
        yield from ((peer, True) for place, peer in near if place < mine)
        yield from ((peer, False) for place, peer in near if place >= mine)
        yield from ((source, False) for source in (*(peer for _, peer in far), *self._stores))

    async def _manifest(self, source: Source, model: str) -> Manifest:
        async with self._session.get(f"{source.url}/models/{model}", timeout=self._timeout(source)) as response:
            if response.status == 404 and source.tier == STORE:
                raise KeyError(model)
            if response.status != 200:
                raise Unavailable(f"answered {response.status}")
            try:
                return decode_manifest(await response.read())
            except msgspec.MsgspecError as error:
                raise Unavailable(f"sent a damaged manifest: {error}") from error

    async def _object(self, source: Source, item: WeightObject, path: Path, flight: Flight, ahead: bool) -> None:
        url = f"{source.url}/objects/{item.sha256}"
        query = {"cluster": self._config.cluster, "node": self._config.node} | ({"wait": "1"} if ahead else {})
        part = path.with_name(f"{path.name}.{next(self._parts)}.part")
        try:
            async with self._session.get(url, params=query, timeout=self._timeout(source)) as response:
                if response.status != 200:
                    looks = LOOKS.get(response.status, 0)
                    raise Unavailable(f"answered {response.status}", _retry_after_s(response), looks)
                digest = hashlib.sha256()
                with part.open("wb", buffering=0) as file:
                    flow = flight.flows(part)
                    async for chunk in response.content.iter_chunked(MAX_CHUNK_BYTES):
                        if self._link:
                            await pass_through(self._link, len(chunk))
                        digest.update(chunk)
                        file.write(chunk)
                        flow.arrived(len(chunk))
            if digest.hexdigest() != item.sha256:
                self._corrupt(item, source)
                raise Unavailable("sent corrupt bytes")
            part.replace(path)
            flow.landed(path)
        except BaseException:
            flight.dry()
            raise
        finally:
            part.unlink(missing_ok=True)

    def _timeout(self, source: Source) -> aiohttp.ClientTimeout:
        config = self._config
        read_s = config.read_timeout_s if source.tier == STORE else min(1.0, config.read_timeout_s)
        return aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s, sock_read=read_s)

    def _deadline_ns(self) -> int:
        return self._clock() + round(self._config.fetch_timeout_s * NS_PER_S)

    async def _rest(self, wait_s: float, deadline_ns: int, what: str, reason: str) -> None:
        if self._clock() + wait_s * NS_PER_S >= deadline_ns:
            raise FleetError(
                f"{what} did not arrive within {self._config.fetch_timeout_s:g} s; last: {reason}",
                hint="see the weight store's log and its egress limit; fetch_timeout_s is the agent's limit",
            )
        await self._sleep(wait_s)


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Seconds that the other side asks for: Retry-After-Ms where given, else Retry-After (whole seconds)."""
    try:
        if exact := response.headers.get("Retry-After-Ms"):
            return max(0.0, float(exact) / 1000)
        return max(0.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0


def _place(item: WeightObject, url: str) -> bytes:
    """Where a node stands in the order of its cluster for this object."""
    return hashlib.sha256(f"{item.sha256} {url}".encode()).digest()


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
