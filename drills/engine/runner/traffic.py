"""``Traffic``: the load process and the probers of a run, from start to drained; every edge is an event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from drills.engine.nouns import OpenLoop
from drills.engine.runner.interrupts import Interrupts
from drills.engine.runner.recorder import Recorder
from history.clock import NS_PER_S
from history.errors import RecordingError
from history.op import LOAD_DRAINED, LOAD_START, LOAD_STOP
from history.rundir import RunDirectory
from loadgen.process import LoadProcess, ProberProcess

DRAIN_SPARE_S = 10.0
"""The load process may take this much longer than one total time-out to drain before it is killed."""
START_LEAD_S = 0.5
"""The schedule's origin lies this far ahead of the go, so that the first sends are not late."""
STOP_LEAD_S = 0.5
"""The stop is announced so long ahead: the file that says so is synced, which took more than 0.2 s on a busy disk."""
READY_S = 30.0


class Traffic:
    """See the module docstring. ``start_ns`` is 0 until the load has begun."""

    def __init__(self, load: OpenLoop, directory: RunDirectory, recorder: Recorder, failures: list[str]) -> None:
        self._spec, self._recorder, self._failures = load, recorder, failures
        self._load = LoadProcess(directory, processes=load.processes)
        self._probers = ProberProcess(directory)
        self.start_ns = 0

    def start(
        self, undo: ExitStack, attempt: Callable[[str, Callable[[], None]], None], interrupts: Interrupts
    ) -> None:
        """Starts both and waits until sends begin; how each is ended goes onto ``undo`` first."""
        undo.callback(attempt, "stop the probers", self._probers.stop)
        undo.callback(attempt, "stop the load", self._end)
        with interrupts.held():
            self._load.start()
            self._probers.start()
        self._load.wait_ready(timeout_s=READY_S)
        self.start_ns = self._load.begin(self._recorder.clock() + round(START_LEAD_S * NS_PER_S))
        self._recorder.event(LOAD_START, at_ns=self.start_ns, done_ns=self.start_ns)

    def died(self) -> list[str]:
        """``name: how`` of what ended by itself; ``RecordingError`` when the load could not write its records."""
        if isinstance(failure := self._load.failure(), RecordingError):
            raise failure
        polled = (("load process", self._load.poll()), ("probers", self._probers.poll()))
        return [f"{name}: {text}" for name, text in polled if text is not None]

    def _end(self) -> None:
        """Drains the load and records that; where nothing can be written (a full disk) it is ended all the same."""
        try:
            if self.start_ns:
                self._drain()
        finally:
            self._load.kill()

    def _drain(self) -> None:
        clock = self._recorder.clock
        died = self._load.poll()
        stop = clock() if died is not None else self._load.stop(clock() + round(STOP_LEAD_S * NS_PER_S))
        self._recorder.event(LOAD_STOP, at_ns=stop)
        if died is None:
            died = self._load.wait_drained(timeout_s=self._spec.total_timeout_s + DRAIN_SPARE_S)
        if died is None:
            self._recorder.event(LOAD_DRAINED, at_ns=stop, done_ns=clock())
        else:
            self._recorder.event(LOAD_DRAINED, at_ns=stop, done_ns=clock(), error="died", text=died)
            self._failures.append(f"the load process did not end cleanly: {died}")
