"""``Sender``: sends one worker's slice of the plan, open loop, and records exactly one op a send that was due.

Made by ``locustfile.py`` (or a test), one a process. A greenlet a request: what a request meets never holds back the
next one. It never decides when the load starts or stops (``Control`` does) and never imports locust.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gevent
from gevent.event import Event

from history.clock import NS_PER_MS, NS_PER_S, Clock, now_ns
from history.errors import RecordingError
from history.op import DROPPED, Op
from history.writer import OpWriter
from loadgen.client import Client
from loadgen.control import EXIT_RECORDING, Control, ControlFiles, WorkerState, WorkerStatus

POLL_S = 0.02
LATE_S = 1.0
"""Sends that were due before the stop still go out this long after it; what is left then is ``DROPPED``."""

DRAIN_MARGIN_S = 0.25
"""A request sent at the last moment ends by its own total time-out; this much more lets it be recorded."""

HALT_NS = 150 * NS_PER_MS

_BATCH = 64


@dataclass(frozen=True)
class Slice:
    """One worker's part of the plan: for each send its seq, offset in ns and mix entry (plain ints: no numpy in the
    hot loop)."""

    index: int
    seq: Sequence[int]
    offset_ns: Sequence[int]
    entry: Sequence[int]


class Sender:
    """Sends a slice. ``run`` blocks until everything due is recorded; ``halt`` makes it end early, still drained."""

    def __init__(
        self,
        part: Slice,
        client: Client,
        writer: OpWriter,
        files: ControlFiles,
        *,
        total_timeout_s: float,
        on_op: Callable[[Op], None] = lambda op: None,
        clock: Clock = now_ns,
    ) -> None:
        self._part = part
        self._client = client
        self._writer = writer
        self._files = files
        self._total_s = total_timeout_s
        self._on_op = on_op
        self._clock = clock
        self._inflight: dict[int, gevent.Greenlet] = {}
        self._start_ns = 0
        self._halt_ns: int | None = None
        self._recorded = 0
        self._done = Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Reports ready, waits for the start, sends, drains, reports drained (or failed). Never raises."""
        try:
            self._report("ready")
            if self._wait_for_start():
                self._pace()
                self._drain()
            self._report("drained" if self.failure is None else "failed")
        except Exception as error:
            self._fail(error)
        finally:
            self._client.close()
            self._writer.close()
            self._done.set()

    def halt(self) -> None:
        """Stops a moment from now without a word from the control; what is in flight is drained as ever.

        The moment lets a stop that is being written for all workers at once come first.
        """
        if self._halt_ns is None:
            self._halt_ns = self._clock() + HALT_NS

    @property
    def exit_code(self) -> int:
        """What a process that rests on this sender should exit with."""
        if self.failure is None:
            return 0
        return EXIT_RECORDING if isinstance(self.failure, RecordingError) else 1

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until ``run`` has ended."""
        return bool(self._done.wait(timeout_s))

    def _control(self) -> Control:
        control = self._files.read()
        if self._halt_ns is None:
            return control
        stop_ns = self._halt_ns if control.stop_ns is None else min(control.stop_ns, self._halt_ns)
        return Control(control.start_ns, stop_ns)

    def _wait_for_start(self) -> bool:
        while (control := self._control()).start_ns is None:
            if control.stop_ns is not None:
                return False
            gevent.sleep(POLL_S)
        self._start_ns = control.start_ns
        return True

    def _at(self, i: int) -> tuple[int, int, int]:
        """(seq, mix entry, intended time) of the slice's send ``i``."""
        return self._part.seq[i], self._part.entry[i], self._start_ns + self._part.offset_ns[i]

    def _pace(self) -> None:
        """Sends everything in time until the stop."""
        offsets, start_ns, sends, sent = self._part.offset_ns, self._start_ns, len(self._part.seq), 0
        while self.failure is None:
            stop_ns, now = self._control().stop_ns, self._clock()
            if stop_ns is not None and now >= stop_ns + int(LATE_S * NS_PER_S):
                self._drop(sent, stop_ns)
                break
            until_ns = now if stop_ns is None else min(now, stop_ns - 1)
            last = min(sent + _BATCH, sends)
            while sent < last and start_ns + offsets[sent] <= until_ns:
                self._inflight[sent] = gevent.spawn(self._one, sent)
                sent += 1
            due_ns = start_ns + offsets[sent] if sent < sends else None
            if stop_ns is not None and now >= stop_ns and (due_ns is None or due_ns >= stop_ns):
                break
            wait_s = POLL_S if due_ns is None else (due_ns - self._clock()) / NS_PER_S
            gevent.sleep(min(max(wait_s, 0.0), POLL_S))

    def _drop(self, first: int, stop_ns: int) -> None:
        for i in range(first, len(self._part.seq)):
            if self._at(i)[2] >= stop_ns:
                return
            self._record(self._client.unknown(*self._at(i), DROPPED, "late beyond the stop"))

    def _one(self, i: int) -> None:
        try:
            op = self._client.send(*self._at(i))
            del self._inflight[i]
            self._record(op)
        except Exception as error:
            self._inflight.pop(i, None)
            self._fail(error)

    def _drain(self) -> None:
        """Waits for what is in flight, one total time-out at most; the rest is killed and recorded as unknown."""
        end_ns = self._clock() + int((self._total_s + DRAIN_MARGIN_S) * NS_PER_S)
        while self._inflight and self._clock() < end_ns and self.failure is None:
            gevent.joinall(list(self._inflight.values()), timeout=max((end_ns - self._clock()) / NS_PER_S, 0))
        gevent.killall(list(self._inflight.values()))  # each records itself as NOT_DRAINED, if it had begun
        for i in sorted(self._inflight):
            self._record(self._client.unknown(*self._at(i), DROPPED))

    def _record(self, op: Op) -> None:
        if self.failure is None:
            self._writer.append(op)
            self._recorded += 1
            self._on_op(op)

    def _fail(self, error: BaseException) -> None:
        """The first failure of the harness itself ends the load; the runner reads why."""
        if self.failure is None:
            self.failure = error
            with contextlib.suppress(RecordingError):  # the disk is full: the exit code still says so
                self._report("failed")

    def _report(self, state: WorkerState) -> None:
        reason = f"{type(self.failure).__name__}: {self.failure}" if self.failure is not None else ""
        status = WorkerStatus(self._part.index, os.getpid(), state, self._recorded, reason, self.exit_code)
        self._files.report(status)
