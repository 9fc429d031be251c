"""What people see of a run: kind-style step lines, and on a terminal one live strip beneath them.

In CI (no terminal) the same events are plain lines, one each, with the seconds since the start. The view never
decides anything, and nothing else of the runner prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text


@dataclass(frozen=True)
class Strip:
    """One glance at a running drill. Ratios and latencies are of the last settled seconds; None before any.
    ``bad``: all requests of the run that ended bad so far."""

    phase: str
    elapsed_s: float
    rate_rps: float | None = None
    good_ratio: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    bad: int = 0
    in_flight: int = 0
    waiting_for: str = ""
    time_scale: float = 1.0


class View(Protocol):
    """What the runner tells people."""

    def step(self, text: str) -> None:
        """A step begins."""
        ...

    def done(self, text: str, ok: bool = True) -> None:
        """The step that began last has ended; ``text`` says how."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line that is no step."""
        ...

    def tick(self, strip: Strip) -> None:
        """The strip as it stands now."""
        ...


class PlainView:
    """One line an event, for CI and pipes; a sign of life every ``every_s`` during long steps."""

    def __init__(self, console: Console, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._every_s, self._clock = console, every_s, clock
        self._start = self._last = clock()

    def step(self, text: str) -> None:
        self._line(f"   {text} …")

    def done(self, text: str, ok: bool = True) -> None:
        self._line(f" {'✓' if ok else '✗'} {text}")

    def note(self, text: str) -> None:
        self._line(f"   {text}")

    def tick(self, strip: Strip) -> None:
        if self._clock() - self._last >= self._every_s:
            self._line(f"   {strip_text(strip)}")

    def _line(self, text: str) -> None:
        self._last = self._clock()
        self._console.print(f"{self._last - self._start:7.1f} s {text}", markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """Step lines that stay, and a strip that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(Text(""), console=console, refresh_per_second=5, transient=True)
        self._current = ""

    @contextmanager
    def shown(self) -> Iterator[LiveView]:
        """Shows the strip while the block runs."""
        with self._live:
            yield self

    def step(self, text: str) -> None:
        self._current = text
        self._live.update(Text(f" … {text}", style="bold"))

    def done(self, text: str, ok: bool = True) -> None:
        mark, style = ("✓", "green") if ok else ("✗", "red")
        self._console.print(Text.assemble((f" {mark} ", style), text))
        self._live.update(Text(""))

    def note(self, text: str) -> None:
        self._console.print(Text(f"   {text}", style="dim"))

    def tick(self, strip: Strip) -> None:
        self._live.update(Text.assemble((f" … {self._current}\n", "bold"), (f"   {strip_text(strip)}", "cyan")))


def strip_text(strip: Strip) -> str:
    """The strip in one line."""
    parts = [strip.phase, f"{strip.elapsed_s:.0f} s"]
    if strip.time_scale != 1.0:
        minutes = round(strip.elapsed_s * strip.time_scale / 60)
        parts[-1] += f" = {minutes // 60} h {minutes % 60:02d} min"
    if strip.rate_rps is not None:
        parts.append(f"{strip.rate_rps:.0f} rps")
    if strip.good_ratio is not None:
        parts.append(f"good {100 * strip.good_ratio:.1f} %")
    if strip.latency_ms_p50 is not None and strip.latency_ms_p99 is not None:
        parts.append(f"p50 {strip.latency_ms_p50:.0f} ms, p99 {strip.latency_ms_p99:.0f} ms")
    if strip.bad:
        parts.append(f"{strip.bad:,} bad so far")
    parts.append(f"{strip.in_flight} in flight")
    if strip.waiting_for:
        parts.append(f"waiting for: {strip.waiting_for}")
    return " · ".join(parts)
