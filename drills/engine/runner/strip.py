"""``Strip``: one glance at a running drill, from the history so far: for the terminal of ``run`` and of ``watch``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from history.clock import NS_PER_MS, NS_PER_S
from history.reader import Run

STRIP_S = 2.0
"""The strip shows this many seconds of settled sends."""


@dataclass(frozen=True)
class Strip:
    """One line. ``elapsed_s``: since the load began. ``lately``: rate, good ratio and latencies of the last settled
    seconds, and all that ended bad."""

    phase: str
    elapsed_s: float
    lately: tuple[str, ...] = ()
    in_flight: int = 0
    waiting_for: str = ""
    time_scale: float = 1.0

    def __str__(self) -> str:
        minutes = round(self.elapsed_s * self.time_scale / 60)
        replayed = f" = {minutes // 60} h {minutes % 60:02d} min" if self.time_scale != 1.0 else ""
        waiting = (f"waiting for: {self.waiting_for}",) if self.waiting_for else ()
        parts = (
            self.phase,
            f"at {self.elapsed_s:.0f} s{replayed}",
            *self.lately,
            f"{self.in_flight} in flight",
            *waiting,
        )
        return " · ".join(parts)


def strip_of(run: Run, now_ns: int, load_start_ns: int, phase: str, waiting: str = "") -> Strip:
    """The strip of a run as it stands."""
    due = int(np.searchsorted(run.schedule.offset_ns, now_ns - load_start_ns))
    recorded = int(np.count_nonzero(run.history.requests.source.where("load")))
    return Strip(
        phase,
        max(0.0, (now_ns - load_start_ns) / NS_PER_S),
        lately(run, now_ns),
        max(0, due - recorded),
        waiting,
        run.header.time_scale,
    )


def lately(run: Run, now_ns: int) -> tuple[str, ...]:
    """What is known of the sends that are settled, a figure each; nothing before there are any."""
    load, good_within_ns = run.load, round(run.header.load.good_within_ms * NS_PER_MS)
    settled = now_ns - good_within_ns
    late = (load.t_done - load.t_intended) > good_within_ns
    bad = int(np.count_nonzero((load.t_intended < settled) & (load.outcome.where("fail") | late)))
    recent = load.take((load.t_intended < settled) & (load.t_intended >= settled - round(STRIP_S * NS_PER_S)))
    parts = []
    if len(recent):
        latency_ms, ok = (recent.t_done - recent.t_intended) / NS_PER_MS, recent.outcome.where("ok")
        good = ok & (latency_ms <= run.header.load.good_within_ms)
        parts += [f"{len(recent) / STRIP_S:.0f} rps", f"good {100 * np.mean(good):.1f} %"]
        if ok.any():
            p50, p99 = np.percentile(latency_ms[ok], [50, 99], method="inverted_cdf")
            parts.append(f"p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return (*parts, *([f"{bad:,} bad so far"] if bad else []))
