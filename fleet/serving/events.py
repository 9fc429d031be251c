"""The event log of a process, served as a stream of JSON lines, and the client that follows such a stream.

Control planes, agents and the allocator append; the gateway, the allocator and the harness follow. The log only
grows, stays in memory, and begins again with every process life; it never calls back into its owner.

    GET /events?after=N[&life=ID]   every event with n > N, then new ones as they happen; a blank line each second
    after=-1                        only what happens from now on
    answer headers                  x-life: the id of this process life

Ids start at 1 in each life: a follower that reconnects gives ``life`` too and gets the whole backlog when the life is
another one. A ``replica.ready`` event carries ``detail["url"]``, the replica's base URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from history.clock import Clock, now_ns

KEEP_ALIVE_S: Final = 1.0
CONNECT_S: Final = 0.5
FROM_NOW: Final = -1


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event. ``kind`` is a word of history/op.py; ``t_emitted`` the emitter's monotonic nanoseconds."""

    n: int
    kind: str
    t_emitted: int
    model: str = ""
    cluster: str = ""
    node: str = ""
    replica: str = ""
    weights: str = ""
    detail: dict[str, Any] = {}


decode_event = msgspec.json.Decoder(Event).decode
"""One line -> Event; raises ``msgspec.MsgspecError`` on a damaged one."""


class EventLog:
    """An append-only list of events. Used from one event loop; ``append`` itself never blocks or awaits."""

    def __init__(self, clock: Clock = now_ns) -> None:
        self.life = os.urandom(8).hex()
        self._clock = clock
        self._events: list[Event] = []
        self._lines: list[bytes] = []
        self._news = asyncio.Event()
        self._closed = False

    @property
    def last(self) -> int:
        """The id of the newest event; 0 when there is none."""
        return len(self._events)

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything appended so far, oldest first."""
        return tuple(self._events)

    def append(self, kind: str, *, t_emitted: int | None = None, **facts: Any) -> Event:
        """Appends an event with these ``facts`` (fields of ``Event``), stamped now unless ``t_emitted`` is given, and
        wakes all followers."""
        stamp = self._clock() if t_emitted is None else t_emitted
        event = Event(n=len(self._events) + 1, kind=kind, t_emitted=stamp, **facts)
        self._events.append(event)
        self._lines.append(msgspec.json.encode(event) + b"\n")
        self._wake()
        return event

    def close(self) -> None:
        """Ends all streams; for the application's shutdown."""
        self._closed = True
        self._wake()

    async def handler(self, request: web.Request) -> web.StreamResponse:
        """``GET /events``: see the module docstring; 400 when ``after`` is no number."""
        try:
            after = int(request.query.get("after", "0"))
        except ValueError:
            return web.json_response({"error": f"after={request.query['after']!r} is not a number"}, status=400)
        other_life = request.query.get("life", self.life) != self.life
        if after == FROM_NOW and not other_life:
            after = self.last
        elif other_life or after < 0 or after > self.last:
            after = 0
        response = web.StreamResponse(headers={"x-life": self.life})
        response.content_type = "application/x-ndjson"
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"\n")  # aiohttp holds headers back until the first body byte
        while not self._closed:
            news = self._news  # taken before looking, so that nothing is missed between look and wait
            if after < self.last:
                lines, after = b"".join(self._lines[after:]), self.last
                await response.write(lines)
                continue
            try:
                await asyncio.wait_for(news.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                await response.write(b"\n")
        return response

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


@contextlib.asynccontextmanager
async def follow(
    session: aiohttp.ClientSession, base_url: str, silence_s: float = 3 * KEEP_ALIVE_S
) -> AsyncIterator[AsyncIterator[Event]]:
    """``async with follow(…) as events``: what happens at ``base_url`` from now on; ``aiohttp.ClientError`` or
    ``TimeoutError``.

    Iterating ends when the other side ends, and raises ``TimeoutError`` after ``silence_s`` without even a blank line.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
    async with session.get(f"{base_url}/events", params={"after": FROM_NOW}, timeout=timeout) as response:
        response.raise_for_status()
        yield (decode_event(line) async for line in response.content if line.strip())
