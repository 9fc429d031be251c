"""Token buckets: how fast bytes may leave. Pure arithmetic over an injected clock, and one coroutine that waits.

The store paces its account's egress and each cross-cluster link with these. A bucket hands out time slots first come,
first served; since every stream asks for one small chunk at a time, concurrent streams share it evenly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from history.clock import NS_PER_S, Clock, now_ns

MAX_CHUNK_BYTES: Final = 256 * 1024
MIN_CHUNK_BYTES: Final = 8 * 1024
_CHUNK_S: Final = 0.01
CATCH_UP_S: Final = 0.02
"""A timer that fires late may be made good within this time; an idle bucket saves nothing up."""

Sleep = Callable[[float], Awaitable[None]]


def chunk_bytes(bytes_s: float) -> int:
    """Bytes of a chunk at this rate: about 10 ms of it, at most 256 KiB, so that a flow is smooth at any rate."""
    if bytes_s <= 0:
        return MAX_CHUNK_BYTES
    return int(min(MAX_CHUNK_BYTES, max(MIN_CHUNK_BYTES, bytes_s * _CHUNK_S)))


class TokenBucket:
    """``bytes_s`` bytes a second, 0 = no limit. Over any span of t seconds at most bytes_s * (t + CATCH_UP_S) bytes
    come due, plus the chunk under way."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self._free_ns = 0

    def reserve(self, size: int, t_ns: int) -> int:
        """Takes the next slot for ``size`` bytes at time ``t_ns``; returns the instant when they have passed."""
        if self.bytes_s <= 0:
            return t_ns
        late_ns = t_ns - self._free_ns
        start_ns = t_ns if late_ns > CATCH_UP_S * NS_PER_S else self._free_ns
        self._free_ns = start_ns + max(1, round(size / self.bytes_s * NS_PER_S))
        return self._free_ns


async def pass_through(
    buckets: tuple[TokenBucket, ...], size: int, *, clock: Clock = now_ns, sleep: Sleep = asyncio.sleep
) -> None:
    """Waits until ``size`` bytes have passed the slowest of ``buckets``; always lets other tasks run once."""
    t_ns = clock()
    due_ns = max((bucket.reserve(size, t_ns) for bucket in buckets), default=t_ns)
    await sleep(max(0, due_ns - t_ns) / NS_PER_S)
