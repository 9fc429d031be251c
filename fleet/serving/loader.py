"""A model server's weights: from its node's agent into memory ("GPU memory"), every byte verified on the way.

``Loader`` asks the agent and reads the files that it names; ``GpuMemory`` keeps what is loaded, least recently used
out. What fails its hash here is reported to the agent and asked for again; it never reaches memory for use.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fleet.serving import light
from fleet.serving.process import token_headers
from fleet.serving.weights import Fetch, Fetched, WeightObject
from history.clock import NS_PER_S, now_ns
from history.errors import FleetError
from history.op import RESIDENT

CORRUPT_TRIES: Final = 3
AGENT_RETRY_S: Final = 0.05
RELEASE_S: Final = 1.0
"""Nobody waits longer for an agent to hear that files were read."""

_decode = msgspec.json.Decoder(Fetched).decode


@dataclass(frozen=True, eq=False)
class Weights:
    """A model's weights in memory. ``digest`` is made of the bytes themselves; ``tier`` says where they came from."""

    model: str
    pieces: tuple[bytes, ...]
    digest: bytes
    tier: str
    fetch_s: float
    deserialize_s: float

    @property
    def bytes(self) -> int:
        """Bytes in memory."""
        return sum(map(len, self.pieces))


Load = Callable[[str], Awaitable[Weights]]


class Loader:
    """Loads from one agent; ``FleetError`` with the reason when weights cannot be had."""

    def __init__(self, agent_url: str, token: str, load_timeout_s: float) -> None:
        self._agent_url = agent_url.rstrip("/")
        self._headers = token_headers(token)
        self._load_timeout_s = load_timeout_s

    async def load(self, model: str) -> Weights:
        """Fetches, reads and verifies; a damaged file is fetched again, at most ``CORRUPT_TRIES`` times."""
        corrupt: tuple[str, ...] = ()
        fetch_s = 0.0
        unread: OSError | None = None
        for _ in range(CORRUPT_TRIES):
            start_ns = now_ns()
            fetched = await self._fetch(Fetch(model, corrupt))
            fetched_ns = now_ns()
            fetch_s += (fetched_ns - start_ns) / NS_PER_S
            try:
                pieces, corrupt = await asyncio.to_thread(read_verified, fetched.paths, fetched.objects)
            except OSError as error:  # gone with the agent's life, or not ours to read: no reason to call it damaged
                unread = error
                continue
            finally:
                await self._release(fetched.lease)
            unread = None
            if not corrupt:
                digest = hashlib.sha256("".join(item.sha256 for item in fetched.objects).encode()).digest()
                return Weights(model, pieces, digest, fetched.source, fetch_s, (now_ns() - fetched_ns) / NS_PER_S)
        if unread is not None:
            raise FleetError(
                f"weights of {model} cannot be read where the agent keeps them: {unread}",
                hint="may this process read the agent's files?",
            )
        raise FleetError(
            f"weights of {model}: {len(corrupt)} objects failed their hash {CORRUPT_TRIES} times",
            hint="the cache's disk or the weight store holds damaged bytes; see the events of the node's agent",
        )

    async def _fetch(self, fetch: Fetch) -> Fetched:
        deadline_ns = now_ns() + round(self._load_timeout_s * NS_PER_S)
        url = f"{self._agent_url}/fetch"
        while True:
            try:
                status, body = await light.post(url, msgspec.json.encode(fetch), self._headers, self._load_timeout_s)
            except light.NoConnection as error:  # node and server start together: the agent may be later
                if now_ns() > deadline_ns:
                    raise FleetError(f"no agent: {error}", hint="start the node's agent") from error
                await asyncio.sleep(AGENT_RETRY_S)
            except OSError as error:
                raise FleetError(
                    f"the agent at {self._agent_url} failed while it fetched {fetch.model}: {error!r}",
                    hint="see the agent's log; load_timeout_s is the server's limit",
                ) from error
            else:
                if status == 200:
                    return _decode(body)
                raise FleetError(
                    f"the agent at {url} answered {status} for {fetch.model}: {body.decode()[:300]}",
                    hint="the reason stands in the agent's answer",
                )

    async def _release(self, lease: int) -> None:
        with contextlib.suppress(OSError):  # the agent ends the lease by itself, or is dead
            body = msgspec.json.encode({"lease": lease})
            await light.post(f"{self._agent_url}/release", body, self._headers, RELEASE_S)


def read_verified(paths: Sequence[str], objects: Sequence[WeightObject]) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Reads all files; returns (pieces, names of objects whose bytes are not theirs). ``OSError``: one is not there."""
    pieces, corrupt = [], []
    for path, item in zip(paths, objects, strict=True):
        data = Path(path).read_bytes()
        pieces.append(data)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            corrupt.append(item.sha256)
    return tuple(pieces), tuple(dict.fromkeys(corrupt))


class GpuMemory:
    """Weights in memory by model, least recently used out beyond ``budget_bytes`` (0 = no limit); single flight."""

    def __init__(self, load: Load, budget_bytes: int) -> None:
        self._load = load
        self._budget_bytes = budget_bytes
        self._resident: OrderedDict[str, Weights] = OrderedDict()
        self._flights: dict[str, asyncio.Task[Weights]] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes in memory now."""
        return sum(weights.bytes for weights in self._resident.values())

    def put(self, weights: Weights) -> None:
        """Takes loaded weights, and lets go of the least recently used beyond the budget."""
        self._resident[weights.model] = weights
        while self._budget_bytes and self.used_bytes > self._budget_bytes and len(self._resident) > 1:
            self._resident.popitem(last=False)

    async def get(self, model: str) -> tuple[Weights, str]:
        """The weights, and where they came from for this request: resident, or the tier of the load it waited for."""
        weights = self._resident.get(model)
        if weights is not None:
            self._resident.move_to_end(model)
            return weights, RESIDENT
        flight = self._flights.get(model)
        if flight is None:
            flight = asyncio.create_task(self._fly(model))
            self._flights[model] = flight
            flight.add_done_callback(lambda task: self._landed(model, task))
        weights = await asyncio.shield(flight)  # a client that leaves does not stop the load
        return weights, weights.tier

    async def close(self) -> None:
        """Stops all loads."""
        flights = tuple(self._flights.values())
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, model: str) -> Weights:
        weights = await self._load(model)
        self.put(weights)
        return weights

    def _landed(self, model: str, task: asyncio.Task[Weights]) -> None:
        del self._flights[model]
        if not task.cancelled():
            task.exception()  # seen here even when every waiter has left
