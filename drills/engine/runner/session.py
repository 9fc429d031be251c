"""``Session``: everything that a run has started, and the one place that undoes it, in reverse, whatever happened.

Order of undoing: heal every fault, stop and drain the load, stop the probers, ask Prometheus, stop the observers,
stop the fleet, close the history. Each part is tried even when another one failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from drills.engine.nouns.faults import Fault
from drills.engine.runner.facts import make_header
from drills.engine.runner.observers import Observers
from drills.engine.runner.recorder import Recorder
from drills.engine.runner.tail import Tail
from drills.engine.runner.view import View
from drills.engine.safety.journal import Journal
from drills.engine.safety.plan import Plan
from fleet import prometheus
from fleet.protocols import Cluster, Fleet
from history.clock import NS_PER_S, Anchor, Clock, now_ns
from history.errors import BlackstartError, FaultError, RecordingError
from history.op import (
    FAULT_HEAL,
    FAULT_HEALED,
    FAULT_INJECT,
    FAULT_VERIFIED,
    FLEET_READY,
    LOAD_DRAINED,
    LOAD_START,
    LOAD_STOP,
    PROCESS_DIED,
)
from history.records import Signal
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.probers import ProberProcess
from loadgen.process import LoadProcess
from loadgen.schedule import draw

VERIFY_S = 10.0
"""A fault that has not taken effect by then has failed."""
HEAL_S = 60.0
"""A cluster that is not verified back by then is reported as not healed."""
DRAIN_SPARE_S = 10.0
"""The load process may take this much longer than one total time-out to drain before it is killed."""
START_LEAD_S = 0.5
"""The schedule's origin lies this far ahead of the go, so that the first sends are not late."""


class RunStopped(Exception):
    """The run ends early; what was recorded is judged, and ``reason`` says why there is no more."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Session:
    """A running fleet under load, with its observers; a context manager that leaves nothing behind."""

    def __init__(
        self,
        plan: Plan,
        fleet: Fleet,
        directory: RunDirectory,
        run_id: str,
        view: View,
        command_line: tuple[str, ...],
        clock: Clock = now_ns,
    ) -> None:
        self.plan, self.fleet, self.directory, self.view, self.clock = plan, fleet, directory, view, clock
        self.clusters: dict[str, Cluster] = {cluster.name: cluster for cluster in fleet.clusters}
        self.failures: list[str] = []
        self.unrecorded: RecordingError | None = None
        self.load_start_ns = 0
        self._run_id, self._command_line = run_id, command_line
        self._anchor = Anchor.take()
        self._undo = ExitStack()
        self._hurt: dict[str, Fault] = {}
        self._journal = Journal(directory.journal)
        self.recorder: Recorder
        self.tail: Tail
        self._load: LoadProcess
        self._probers: ProberProcess

    def __enter__(self) -> Session:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Undoes everything; what could not be undone is in ``failures``. Safe to call twice."""
        self._undo.close()

    def watch_processes(self) -> None:
        """Raises ``RunStopped`` when a process that the measurement rests on has died."""
        died = list(self.fleet.died())
        for name, text in (("load process", self._load.poll()), ("probers", self._probers.poll())):
            if text is not None:
                died.append(f"{name}: {text}")
        if isinstance(failure := self._load.failure(), RecordingError):
            raise failure
        if died:
            self.recorder.event(
                PROCESS_DIED, outcome="fail", error="died", process=died[0].partition(":")[0], text=died[0]
            )
            raise RunStopped(f"died in the middle of the run: {'; '.join(died)}")

    def inject(self, fault: Fault) -> tuple[Signal, ...]:
        """Journals, injects, verifies; ``RunStopped`` when the fault did not take effect."""
        subject = self.clusters[fault.cluster] if fault.cluster else self.fleet
        mark = fault.mark(subject)
        self._journal.write("intent", fault=mark.kind, cluster=mark.cluster, signature=mark.signature)
        self._hurt[fault.target] = fault
        called = self.clock()
        fault.inject(subject)
        self.recorder.event(
            FAULT_INJECT,
            at_ns=called,
            done_ns=self.clock(),
            cluster=fault.cluster,
            kind=mark.kind,
            signature=mark.signature,
            label=mark.label,
        )
        self._journal.write("outcome", fault=mark.kind, cluster=mark.cluster, injected=True)
        signals = self._until_all(lambda: fault.verify(subject), VERIFY_S)
        self._record_signals(FAULT_VERIFIED, called, fault.cluster, signals)
        if failed := [signal for signal in signals if not signal.ok]:
            raise RunStopped(
                f"{mark.kind} in {fault.target} did not take effect within {VERIFY_S:g} s: "
                + "; ".join(f"{signal.name}: {signal.seen}" for signal in failed)
            )
        return signals

    def heal(self, name: str) -> tuple[Signal, ...]:
        """Heals the fault in cluster or store ``name`` and verifies; the signals say whether it is back. Idempotent."""
        fault = self._hurt.get(name)
        if fault is None:
            return ()
        subject, called = self.clusters[fault.cluster] if fault.cluster else self.fleet, self.clock()
        self.recorder.event(FAULT_HEAL, at_ns=called, cluster=fault.cluster, target=name)
        fault.heal(subject)
        del self._hurt[name]
        signals = self._until_all(lambda: fault.verify_healed(subject), HEAL_S)
        self._record_signals(FAULT_HEALED, called, fault.cluster, signals)
        self._journal.write("outcome", cluster=name, healed=all(signal.ok for signal in signals))
        return signals

    def _open(self) -> None:
        plan, directory = self.plan, self.directory
        self.recorder = Recorder(OpWriter(directory.ops_file("runner")), self.clock)
        self._undo.callback(self.recorder.close)
        self.view.step(f"Starting fleet {plan.drill.fleet.name} ({plan.environment})")
        self._undo.callback(self._attempt, "stop the fleet", self.fleet.stop)
        began = self.clock()
        self.fleet.start(self.view.note)
        self.recorder.event(FLEET_READY, at_ns=began, done_ns=self.clock())
        self.view.done(f"Fleet {plan.drill.fleet.name} is ready ({self._since(began):.1f} s)")
        header = make_header(plan, self.fleet, self._run_id, self._anchor, self._command_line)
        schedule = draw(header.load, header.mix)
        directory.write_header(header)
        directory.write_schedule(schedule)
        self.tail = Tail(directory, header, schedule)
        observers = Observers(self.fleet, self.recorder)
        self._undo.callback(self._attempt, "stop the observers", observers.stop)
        observers.start()
        self._undo.callback(self._attempt, "ask Prometheus", self._record_prometheus)
        self._start_load()
        self._undo.callback(self._attempt, "heal", self._heal_all)

    def _start_load(self) -> None:
        self.view.step("Starting load and probers")
        began = self.clock()
        self._probers = ProberProcess(self.directory)
        self._undo.callback(self._attempt, "stop the probers", self._probers.stop)
        self._load = LoadProcess(self.directory, processes=self.plan.drill.load.processes)
        self._undo.callback(self._attempt, "stop the load", self._end_load)
        self._load.start()
        self._probers.start()
        self._load.wait_ready(timeout_s=30.0)
        self.load_start_ns = self._load.begin(self.clock() + round(START_LEAD_S * NS_PER_S))
        self.recorder.event(LOAD_START, at_ns=self.load_start_ns, done_ns=self.load_start_ns)
        load = self.plan.drill.load
        self.view.done(
            f"Load and probers are ready ({self._since(began):.1f} s): {load.rate_rps:g} rps {load.shape}, good within "
            f"{load.good_within_ms:g} ms; time-outs: connect {load.connect_timeout_s:g} s, "
            f"total {load.total_timeout_s:g} s"
        )

    def _end_load(self) -> None:
        if not self.load_start_ns:
            self._load.kill()
            return
        died = self._load.poll()
        stop = self.clock() if died is not None else self._load.stop()
        self.recorder.event(LOAD_STOP, at_ns=stop)
        if died is None:
            died = self._load.wait_drained(timeout_s=self.plan.drill.load.total_timeout_s + DRAIN_SPARE_S)
        if died is None:
            self.recorder.event(LOAD_DRAINED, at_ns=stop, done_ns=self.clock())
        else:
            self._load.kill()
            self.recorder.event(LOAD_DRAINED, at_ns=stop, done_ns=self.clock(), outcome="fail", error="died", text=died)
            self.failures.append(f"the load process did not end cleanly: {died}")

    def _heal_all(self) -> None:
        for name in list(self._hurt):
            self.view.step(f"Healing {name}")
            signals = self.heal(name)
            self.view.done(f"Healed {name}", ok=all(signal.ok for signal in signals))

    def _record_prometheus(self) -> None:
        if self.fleet.prometheus_url is not None and self.load_start_ns:
            prometheus.record(
                self.fleet.prometheus_url, self.load_start_ns, self.clock(), self._anchor, self.recorder.emit
            )

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except BlackstartError as error:
            self.failures.append(f"could not {what}: {error.message}")
            if isinstance(error, RecordingError):
                self.unrecorded = error
        except Exception as error:  # undoing goes on with the next part whatever this one raised
            self.failures.append(f"could not {what}: {error!r}")

    def _until_all(self, look: Callable[[], tuple[Signal, ...]], at_most_s: float) -> tuple[Signal, ...]:
        deadline = self.clock() + round(at_most_s * NS_PER_S)
        while True:
            try:
                signals = look()
            except FaultError as error:
                signals = (Signal("verification", False, error.message),)
            if all(signal.ok for signal in signals) or self.clock() >= deadline:
                return signals
            time.sleep(0.05)

    def _record_signals(self, kind: str, called: int, cluster: str, signals: tuple[Signal, ...]) -> None:
        ok = bool(signals) and all(signal.ok for signal in signals)
        self.recorder.event(
            kind,
            at_ns=called,
            done_ns=self.clock(),
            outcome="ok" if ok else "fail",
            cluster=cluster,
            signals=[{"name": s.name, "ok": s.ok, "seen": s.seen} for s in signals],
        )

    def _since(self, began_ns: int) -> float:
        return (self.clock() - began_ns) / NS_PER_S
