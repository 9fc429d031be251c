"""The two probers of DESIGN 3.11, a process of their own: `python -m loadgen.probers RUN_DIR`.

The *canary* sends a real, tiny request to the entry point 20 times a second, one model after the other, always over
a new connection. The *cluster prober* asks each cluster's own addresses (API and every node) four times a second and
so records what a fault looks like from outside: refused, unreachable, time-out, reset, an HTTP status.

Probes go out on a fixed grid whatever the earlier ones meet. Their ops carry a source of their own and never count in
error rates. ``process.py`` has what the runner starts and stops; the process ends by itself when the runner dies.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gevent
import gevent.pool
from gevent.event import Event

from history.clock import NS_PER_S, Clock, now_ns
from history.errors import BlackstartError, RecordingError
from history.op import CANARY, CLUSTER_PROBER, DROPPED, PROBE_API, PROBE_DATA, PROBE_ENTRY, Op
from history.priority import go_first
from history.records import Mix, RunHeader
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.client import Ask, Client, asks_of
from loadgen.control import EXIT_RECORDING
from loadgen.pool import Pool
from loadgen.process import PARENT_PID

PROCESS = "probers"
CANARY_RPS = 20.0
CLUSTER_RPS = 4.0
CLUSTER_LIMIT_S = 6.0
"""Limit of one probe of a cluster: an address without a host answers EHOSTUNREACH after 3-4 s."""

MOST_IN_FLIGHT = 128
"""Of one grid. Above what time-outs allow (20 a second for 5 s); beyond it a probe is recorded as dropped."""

LATE_S = 1.0
"""A probe that is later than this (the process was stopped) is dropped: a burst of old probes shows nothing."""

_STOP_S = 1.0


class Prober:
    """One grid: sends probe number n of ``rota`` every 1/rate seconds from the start on, until killed."""

    def __init__(
        self,
        rate_rps: float,
        client: Client,
        ask_of: Callable[[int], int],
        record: Callable[[Op], None],
        clock: Clock = now_ns,
        most_in_flight: int = MOST_IN_FLIGHT,
    ) -> None:
        self._period_ns = int(NS_PER_S / rate_rps)
        self._client, self._ask_of, self._record, self._clock = client, ask_of, record, clock
        self._in_flight = gevent.pool.Pool(most_in_flight)

    def run(self, start_ns: int) -> None:
        """Sends until killed; then gives what is in flight a moment and records the rest as not drained."""
        due_ns = start_ns
        try:
            for number in itertools.count():
                gevent.sleep(max(due_ns - self._clock(), 0) / NS_PER_S)
                late = self._clock() > due_ns + int(LATE_S * NS_PER_S)
                if late or self._in_flight.full():
                    why = "the prober was late" if late else f"{self._in_flight.size} probes in flight"
                    self._record(self._client.unknown(number, self._ask_of(number), due_ns, DROPPED, why))
                else:
                    self._in_flight.spawn(self._one, number, due_ns)
                due_ns += self._period_ns
        finally:
            self._in_flight.join(_STOP_S)
            self._in_flight.kill()

    def _one(self, number: int, due_ns: int) -> None:
        self._record(self._client.send(number, self._ask_of(number), due_ns))


def canary(header: RunHeader, record: Callable[[Op], None], clock: Clock) -> Prober:
    """The canary of a run: tiny requests over the models of the mix in turn; a pool's fine-tunes share its turn."""
    pools = {name: model.name for model in header.fleet.models for name in model.fine_tunes}
    entries = tuple(replace(entry, prompt_tokens=2, max_tokens=1, stream=False) for entry in header.mix.entries)
    turns: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        turns.setdefault(pools.get(entry.model, entry.model), []).append(index)
    rota = list(turns.values())

    def ask_of(number: int) -> int:
        turn, mine = divmod(number, len(rota))
        return rota[mine][turn % len(rota[mine])]

    asks = asks_of(header.target, Mix(entries), _op(CANARY, PROBE_ENTRY), keep=False, clock=clock)
    client = Client(asks, header.load.connect_timeout_s, header.load.total_timeout_s, clock)
    return Prober(CANARY_RPS, client, ask_of, record, clock)


def cluster_probers(header: RunHeader, record: Callable[[Op], None], clock: Clock) -> list[Prober]:
    """One grid for every address of every cluster."""
    asks = []
    for cluster in header.fleet.clusters:
        names = [node.name for node in cluster.nodes]
        nodes = names if len(names) == len(cluster.data_urls) else [""] * len(cluster.data_urls)
        addresses = [(PROBE_API, cluster.api_url, "")] if cluster.api_url else []
        addresses += [(PROBE_DATA, url, node) for url, node in zip(cluster.data_urls, nodes, strict=True)]
        for kind, url, node in addresses:
            # asked by address, whether it answers and not who it is: an API server's certificate is its own
            pool = Pool(url, clock, keep=False, verify=False)
            asks.append(Ask(_op(CLUSTER_PROBER, kind, cluster=cluster.name, node=node), pool, pool.head("GET")))
    client = Client(asks, CLUSTER_LIMIT_S, CLUSTER_LIMIT_S, clock)
    return [Prober(CLUSTER_RPS, client, _always(i), record, clock) for i in range(len(asks))]


def _always(ask: int) -> Callable[[int], int]:
    return lambda number: ask


def _op(source: str, kind: str, *, cluster: str = "", node: str = "") -> Op:
    return Op(source=source, process=PROCESS, kind=kind, t_intended=0, outcome="unknown", cluster=cluster, node=node)


def probe_run(run: RunDirectory, parent_pid: int, clock: Clock = now_ns) -> None:
    """Probes until SIGTERM, SIGINT or the end of the parent; raises ``RecordingError`` when the disk is full."""
    header, writer, stop = run.read_header(), OpWriter(run.ops_file(PROCESS)), Event()
    failed: list[Exception] = []

    def record(op: Op) -> None:
        try:
            if not failed:
                writer.append(op)
        except RecordingError as error:
            failed.append(error)
            stop.set()

    signals = [gevent.signal_handler(number, stop.set) for number in (signal.SIGTERM, signal.SIGINT)]
    probers = [canary(header, record, clock), *cluster_probers(header, record, clock)]
    running = [gevent.spawn(prober.run, clock() + NS_PER_S // 20) for prober in probers]
    while not stop.wait(0.1) and (not parent_pid or os.getppid() == parent_pid):
        pass
    gevent.killall(running)
    for watcher in signals:
        watcher.cancel()
    writer.close()
    for error in [*failed, *(one.exception for one in running if one.exception is not None)]:
        raise error


def main(arguments: list[str]) -> int:
    """Runs the probers of a run directory until told to stop; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m loadgen.probers RUN_DIR\n")
        return 64
    go_first()
    try:
        probe_run(RunDirectory(Path(arguments[0])), int(os.environ.get(PARENT_PID, "0")))
    except BlackstartError as error:
        sys.stderr.write(f"{error.message}; {error.hint}\n")
        return EXIT_RECORDING if isinstance(error, RecordingError) else error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
