"""The one clock of a run: CLOCK_MONOTONIC of one host in nanoseconds, with one wall-clock anchor.

Every process of a run reads ``now_ns``; on one host all of them read the same counter, so ops of different
processes compare without any synchronisation. The wall clock is read once, for people, and never used to measure.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Clock = Callable[[], int]
"""Returns monotonic nanoseconds. Passed in wherever time is read, so that tests own it."""

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


def now_ns() -> int:
    """Monotonic nanoseconds of this host: the run's clock."""
    return time.monotonic_ns()


def boot_id() -> str:
    """Names this boot of this host: what it counts (this clock, process numbers) means nothing on another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil  # the serving image, which runs on Linux only, does not have it

        return f"{socket.gethostname()} booted at {psutil.boot_time():.0f}"


@dataclass(frozen=True)
class Anchor:
    """One reading of both clocks at the start of a run; places monotonic times on the wall for readers."""

    monotonic_ns: int
    wall_unix_ns: int

    @classmethod
    def take(cls) -> Anchor:
        """Reads both clocks back to back (the gap, microseconds, is not corrected for)."""
        return cls(monotonic_ns=time.monotonic_ns(), wall_unix_ns=time.time_ns())

    def wall_unix_s(self, monotonic_ns: int) -> float:
        """Unix seconds of a monotonic instant, assuming that the wall clock was not stepped during the run."""
        return (self.wall_unix_ns + (monotonic_ns - self.monotonic_ns)) / NS_PER_S

    def step_s(self, later: Anchor) -> float:
        """By how many seconds the wall clock was stepped between this reading and a later one (drift included)."""
        return ((later.wall_unix_ns - self.wall_unix_ns) - (later.monotonic_ns - self.monotonic_ns)) / NS_PER_S
