"""The two probers of DESIGN 3.11, a process of their own: `python -m loadgen.probers RUN_DIR`.

The *canary* sends a real, tiny request to the entry point 20 times a second, one model after the other, always over
a new connection. The *cluster prober* asks each cluster's own addresses (API and every node) four times a second and
so records what a fault looks like from outside: refused, unreachable, time-out, reset, an HTTP status.

Probes go out on a fixed grid whatever the earlier ones meet. Their ops carry a source of their own and never count in
error rates. ``ProberProcess`` is what the runner starts and stops; the process ends by itself when the runner dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import msgspec

from history.clock import NS_PER_S, Clock, now_ns
from history.errors import BlackstartError, RecordingError
from history.op import (
    BAD_BODY,
    CANARY,
    CLUSTER_PROBER,
    CONNECT_TIMEOUT,
    CUT,
    DROPPED,
    NOT_DRAINED,
    PROBE_API,
    PROBE_DATA,
    PROBE_ENTRY,
    REFUSED,
    RESET,
    TIMEOUT,
    UNREACHABLE,
    Op,
)
from history.records import MixEntry, RunHeader, Target
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.control import EXIT_RECORDING, PARENT_PID
from loadgen.exchange import PATHS, Answer, answer_to, request_body
from loadgen.priority import go_first

PROCESS = "probers"
CANARY_RPS = 20.0
CLUSTER_RPS = 4.0
CLUSTER_LIMIT_S = 6.0
"""Connect and read limit each of the cluster prober: an address without a host answers EHOSTUNREACH after 3-4 s."""

MOST_IN_FLIGHT = 128
"""Of one grid. Above what time-outs allow (20 a second for 5 s); beyond it a probe is recorded as dropped."""

LATE_S = 1.0
"""A probe that is later than this (the process was stopped) is dropped: a burst of old probes shows nothing."""

_STOP_S = 1.0
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})

Probe = Callable[[int, int], Awaitable[Op]]
"""(number of the probe, intended time) -> its op, with whatever happened; raises only CancelledError."""


@dataclass(frozen=True)
class Limits:
    """Time-outs of one probe in seconds; ``total_s`` None: connect and read limits only."""

    connect_s: float
    read_s: float
    total_s: float | None = None

    def aiohttp(self) -> aiohttp.ClientTimeout:
        """aiohttp rounds time-outs above ``ceil_threshold`` up to whole seconds; never here."""
        return aiohttp.ClientTimeout(
            total=self.total_s, sock_connect=self.connect_s, sock_read=self.read_s, ceil_threshold=3600
        )


class Prober:
    """One grid: sends ``probe`` every 1/rate seconds from the start on, until cancelled."""

    def __init__(
        self,
        rate_rps: float,
        probe: Probe,
        template: Callable[[int], Op],
        record: Callable[[Op], None],
        clock: Clock = now_ns,
        most_in_flight: int = MOST_IN_FLIGHT,
    ) -> None:
        self._period_ns = int(NS_PER_S / rate_rps)
        self._probe = probe
        self._template = template
        self._record = record
        self._clock = clock
        self._most = most_in_flight
        self._inflight: dict[asyncio.Task[None], int] = {}

    async def run(self, start_ns: int) -> None:
        """Sends until cancelled; then gives what is in flight a moment and records the rest as not drained."""
        number = 0
        try:
            while True:
                due_ns = start_ns + number * self._period_ns
                await asyncio.sleep(max(due_ns - self._clock(), 0) / NS_PER_S)
                late = self._clock() > due_ns + int(LATE_S * NS_PER_S)
                if late or len(self._inflight) >= self._most:
                    why = "the prober was late" if late else f"{self._most} probes in flight"
                    self._record(self._unknown(number, due_ns, DROPPED, why))
                else:
                    task = asyncio.create_task(self._one(number, due_ns))
                    self._inflight[task] = number
                    task.add_done_callback(self._inflight.pop)
                number += 1
        finally:
            tasks = list(self._inflight)
            if tasks:
                _, left = await asyncio.wait(tasks, timeout=_STOP_S)
                for task in left:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int, due_ns: int) -> None:
        sent_ns = self._clock()
        try:
            op = await self._probe(number, due_ns)
        except asyncio.CancelledError:
            op = replace_op(self._unknown(number, due_ns, NOT_DRAINED, ""), t_sent=sent_ns)
        self._record(op)

    def _unknown(self, number: int, due_ns: int, error: str, why: str) -> Op:
        detail = {"why": why} if why else {}
        return replace_op(
            self._template(number), seq=number, t_intended=due_ns, outcome="unknown", error=error, detail=detail
        )


def replace_op(op: Op, **changes: object) -> Op:
    """A copy of an op with other values."""
    return msgspec.structs.replace(op, **changes)


async def ask(
    session: aiohttp.ClientSession, template: Op, number: int, due_ns: int, limits: Limits, ask_for: _Ask, clock: Clock
) -> Op:
    """One probe over a new connection -> its op. Never raises for what the network does."""
    sent_ns = clock()
    error, status, headers = "", 0, {}
    answer = answer_to(ask_for.entry) if ask_for.entry is not None else None
    try:
        async with session.request(
            ask_for.method, ask_for.url, data=ask_for.body, headers=ask_for.headers, timeout=limits.aiohttp()
        ) as response:
            status, headers = response.status, dict(response.headers)
            async for data in response.content.iter_any():
                if answer is not None and status == 200:
                    answer.feed(data, clock())
        error = _judge(status, answer)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as failure:
        error = f"http-{status}" if status >= 400 else category(failure, answered=bool(status))
    lowered = {name.lower(): value for name, value in headers.items()}
    cluster, node, replica = (*lowered.get("x-served-by", "").split("/"), "", "", "")[:3]
    return replace_op(
        template,
        seq=number,
        t_intended=due_ns,
        t_sent=sent_ns,
        t_first_byte=answer.t_first_byte if answer is not None else template.t_first_byte,
        t_done=clock(),
        outcome="fail" if error else "ok",
        error=error,
        status=status,
        cluster=template.cluster or cluster,
        node=template.node or node,
        replica=replica,
        weights=lowered.get("x-weights", ""),
        tokens=answer.tokens if answer is not None else 0,
    )


@dataclass(frozen=True)
class _Ask:
    """What one probe sends. ``entry``: what the answer must be; None where any 2xx will do."""

    method: str
    url: str
    body: bytes | None = None
    headers: dict[str, str] | None = None
    entry: MixEntry | None = None


def _judge(status: int, answer: Answer | None) -> str:
    if not 200 <= status < 300:
        return f"http-{status}"
    return answer.error() if answer is not None else ""


def category(error: BaseException, *, answered: bool) -> str:
    """The error category of what aiohttp raised; ``answered``: the status line had come in."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return CONNECT_TIMEOUT
    if isinstance(error, TimeoutError):
        return TIMEOUT
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        if number == errno.ECONNREFUSED:
            return REFUSED
        if number == errno.ETIMEDOUT:
            return CONNECT_TIMEOUT
        return RESET if number in (errno.ECONNRESET, errno.EPIPE) else UNREACHABLE
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return UNREACHABLE
    if isinstance(error, aiohttp.ClientPayloadError):
        return CUT
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return CUT if answered else RESET
    return BAD_BODY


def canary(session: aiohttp.ClientSession, header: RunHeader, record: Callable[[Op], None], clock: Clock) -> Prober:
    """The canary of a run: tiny requests over the models of the mix in turn; a pool's fine-tunes share its turn."""
    pools = {name: model.name for model in header.fleet.models for name in model.fine_tunes}
    turns: dict[str, list[MixEntry]] = {}
    for entry in header.mix.entries:
        tiny = replace(entry, prompt_tokens=2, max_tokens=1, stream=False)
        turns.setdefault(pools.get(entry.model, entry.model), []).append(tiny)
    rota = list(turns.values())
    load, auth = header.load, _auth(header.target)
    limits = Limits(load.connect_timeout_s, load.total_timeout_s, load.total_timeout_s)

    def entry_of(number: int) -> MixEntry:
        turn, mine = divmod(number, len(rota))
        return rota[mine][turn % len(rota[mine])]

    def template(number: int) -> Op:
        entry = entry_of(number)
        return _template(CANARY, PROBE_ENTRY, model=entry.model, tokens=0 if entry.kind == "embedding" else 1)

    async def probe(number: int, due_ns: int) -> Op:
        entry = entry_of(number)
        headers = {"Content-Type": "application/json", **auth}
        url = header.target.url_of(entry.model).rstrip("/") + PATHS[entry.kind]
        what = _Ask("POST", url, request_body(entry, number), headers, entry)
        return await ask(session, template(number), number, due_ns, limits, what, clock)

    return Prober(CANARY_RPS, probe, template, record, clock)


def cluster_probers(
    session: aiohttp.ClientSession, header: RunHeader, record: Callable[[Op], None], clock: Clock
) -> list[Prober]:
    """One grid for every address of every cluster."""
    limits, probers = Limits(CLUSTER_LIMIT_S, CLUSTER_LIMIT_S), []
    for cluster in header.fleet.clusters:
        names = [node.name for node in cluster.nodes]
        nodes = names if len(names) == len(cluster.data_urls) else [""] * len(cluster.data_urls)
        addresses = [(PROBE_API, cluster.api_url, "")] if cluster.api_url else []
        addresses += [(PROBE_DATA, url, node) for url, node in zip(cluster.data_urls, nodes, strict=True)]
        for kind, url, node in addresses:
            op = _template(CLUSTER_PROBER, kind, cluster=cluster.name, node=node)
            probers.append(_cluster_prober(session, op, url, limits, record, clock))
    return probers


def _cluster_prober(
    session: aiohttp.ClientSession, op: Op, url: str, limits: Limits, record: Callable[[Op], None], clock: Clock
) -> Prober:
    async def probe(number: int, due_ns: int) -> Op:
        return await ask(session, op, number, due_ns, limits, _Ask("GET", url), clock)

    return Prober(CLUSTER_RPS, probe, lambda number: op, record, clock)


def _template(source: str, kind: str, *, model: str = "", cluster: str = "", node: str = "", tokens: int = 0) -> Op:
    return Op(
        source=source,
        process=PROCESS,
        kind=kind,
        t_intended=0,
        outcome="unknown",
        model=model,
        cluster=cluster,
        node=node,
        tokens_expected=tokens,
    )


def _auth(target: Target) -> dict[str, str]:
    token = os.environ.get(target.auth_env, "") if target.auth_env else ""
    return {"Authorization": f"Bearer {token}"} if token else {}


async def probe_run(run: RunDirectory, parent_pid: int, clock: Clock = now_ns) -> None:
    """Probes until SIGTERM, SIGINT or the end of the parent; raises ``RecordingError`` when the disk is full."""
    header, writer, stop = run.read_header(), OpWriter(run.ops_file(PROCESS)), asyncio.Event()
    failed: list[RecordingError] = []

    def record(op: Op) -> None:
        try:
            if not failed:
                writer.append(op)
        except RecordingError as error:
            failed.append(error)
            stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # force_close: a new connection for every probe; limit 0: no probe waits for another's connection
    # clusters are asked by address, whether they answer and not who they are: an API server's certificate is its own
    entry = aiohttp.TCPConnector(force_close=True, limit=0)
    addresses = aiohttp.TCPConnector(force_close=True, limit=0, ssl=False)
    async with (
        aiohttp.ClientSession(connector=entry, auto_decompress=False) as session,
        aiohttp.ClientSession(connector=addresses, auto_decompress=False) as bare,
    ):
        probers = [canary(session, header, record, clock), *cluster_probers(bare, header, record, clock)]
        start_ns = clock() + NS_PER_S // 20
        tasks = [asyncio.create_task(prober.run(start_ns)) for prober in probers]
        while not stop.is_set() and (not parent_pid or os.getppid() == parent_pid):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    writer.close()
    for error in [*failed, *(end for end in ended if isinstance(end, Exception))]:
        raise error


class ProberProcess:
    """The probers' process as the runner sees it."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None before ``start``."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Starts probing; returns at once. The run's header must have been written."""
        self._run.logs.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "loadgen.probers", str(self._run.path.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[1],
                env={**os.environ, PARENT_PID: str(os.getpid())},
                start_new_session=True,  # Ctrl-C is the runner's
            )

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the probers and waits for their last records; kills them after ``timeout_s``. Safe to call twice."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.terminate()
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def poll(self) -> str | None:
        """None while the probers run; then how they ended, with the end of their log."""
        code = self._child.poll() if self._child is not None else None
        if code is None:
            return None
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return f"the probers ended with exit code {code}: " + ("\n".join(lines[-10:]) or "nothing in their log")

    @property
    def _log(self) -> Path:
        log: Path = self._run.logs / "probers.log"
        return log


def main(arguments: list[str]) -> int:
    """Runs the probers of a run directory until told to stop; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m loadgen.probers RUN_DIR\n")
        return 64
    go_first()
    try:
        asyncio.run(probe_run(RunDirectory(Path(arguments[0])), int(os.environ.get(PARENT_PID, "0"))))
    except BlackstartError as error:
        sys.stderr.write(f"{error.message}; {error.hint}\n")
        return EXIT_RECORDING if isinstance(error, RecordingError) else error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
