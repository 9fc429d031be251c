"""``Flight``: an object on its way to this node's disk, which peers may follow while it comes.

The agent makes one a download, the downloader feeds it, the agent's ``GET /objects`` follows it. So nodes that want
the same object at the same time form a chain: the store sends it once, and each node's link carries it once each way.
Used from one event loop; it never opens a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path


class Flow:
    """What one source gives: ``size`` bytes, as they arrive in ``part``."""

    def __init__(self, size: int, part: Path) -> None:
        self.size = size
        self.part = part
        self._received = 0
        self._end = ""
        self._moved = asyncio.Event()

    def arrived(self, size: int) -> None:
        """So many bytes more are on the disk."""
        self._received += size
        self._notify()

    def landed(self, path: Path) -> None:
        """All bytes are there, they are the right ones, and ``part`` became ``path``."""
        self.part, self._end = path, "landed"
        self._notify()

    def broke(self) -> None:
        """The source gave no whole object; whoever follows is cut off."""
        self._end = "broken"
        self._notify()

    async def follow(self, file: FileIO, chunk_bytes: int) -> AsyncIterator[bytes]:
        """The bytes as they arrive, read from ``file`` (``part``, open); the last one only when the hash was right.

        ``ConnectionAbortedError`` if it broke.
        """
        sent = 0
        while sent < self.size:
            if self._end == "broken":
                raise ConnectionAbortedError("its source broke off")
            ready = self._received if self._end else min(self._received, self.size - 1)
            if ready > sent:
                data = file.read(min(chunk_bytes, ready - sent))
                sent += len(data)
                yield data
            else:
                await self._moved.wait()

    def _notify(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


class Flight:
    """A download of ``size`` bytes, from one source or several in turn. ``task`` returns the tier that gave them."""

    task: asyncio.Task[str]

    def __init__(self, size: int) -> None:
        self._size = size
        self.active = False
        self._flow: Flow | None = None
        self._flows = asyncio.Event()

    def begins(self) -> None:
        """It is its turn: from now on it is worth waiting for."""
        self.active = True

    def flows(self, part: Path) -> Flow:
        """A source gives it."""
        self._flow = Flow(self._size, part)
        self._flows.set()
        return self._flow

    def dry(self) -> None:
        """Its source broke off, or refused."""
        if self._flow is not None:
            self._flow.broke()
        self._flow = None
        self._flows.clear()

    async def flow(self, at_most_s: float) -> Flow | None:
        """What a source gives now, or within ``at_most_s``. No wait before its turn has come: it may stand behind
        downloads that wait for who asks here."""
        if self.active and self._flow is None and at_most_s > 0:
            try:
                await asyncio.wait_for(self._flows.wait(), at_most_s)
            except TimeoutError:
                return None
        return self._flow
