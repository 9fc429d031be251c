"""One glance at a running drill, from the history so far: for the terminal of ``run`` and of ``watch``."""

from __future__ import annotations

import numpy as np

from drills.engine.runner.view import Strip
from history.clock import NS_PER_MS, NS_PER_S
from history.reader import Run

STRIP_S = 2.0
"""The strip shows this many seconds of settled sends."""


def strip_of(run: Run, now_ns: int, load_start_ns: int, phase: str, waiting: str = "") -> Strip:
    """Rate, good ratio and latencies of the last settled seconds, and what is in flight."""
    good_within_ns = round(run.header.load.good_within_ms * NS_PER_MS)
    settled, load = now_ns - good_within_ns, run.load
    late = (load.t_done - load.t_intended) > good_within_ns
    bad = int(np.count_nonzero((load.t_intended < settled) & (load.outcome.where("fail") | late)))
    recent = load.take((load.t_intended < settled) & (load.t_intended >= settled - round(STRIP_S * NS_PER_S)))
    elapsed = max(0.0, (now_ns - load_start_ns) / NS_PER_S)
    recorded = int(np.count_nonzero(run.history.requests.source.where("load")))
    due = int(np.searchsorted(run.schedule.offset_ns, now_ns - load_start_ns))
    in_flight = max(0, due - recorded)
    if not len(recent):
        return Strip(
            phase, elapsed, bad=bad, in_flight=in_flight, waiting_for=waiting, time_scale=run.header.time_scale
        )
    latency_ms = (recent.t_done - recent.t_intended) / NS_PER_MS
    ok = recent.outcome.where("ok")
    good = ok & (latency_ms <= run.header.load.good_within_ms)
    p50, p99 = np.percentile(latency_ms[ok], [50, 99], method="inverted_cdf") if ok.any() else (None, None)
    return Strip(
        phase,
        elapsed,
        rate_rps=len(recent) / STRIP_S,
        good_ratio=float(np.mean(good)),
        latency_ms_p50=p50,
        latency_ms_p99=p99,
        bad=bad,
        in_flight=in_flight,
        waiting_for=waiting,
        time_scale=run.header.time_scale,
    )
