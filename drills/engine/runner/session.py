"""``Session``: everything that a run has started, and the one place that undoes it, in reverse, whatever happened.

Order of undoing: heal every fault, stop and drain the load, stop the probers, ask Prometheus, stop the observers,
stop the fleet, close the history. Each part is tried even when another one failed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from drills.engine.nouns.faults import Fault
from drills.engine.nouns.guards import Glance
from drills.engine.runner.facts import first_header, header_of_running
from drills.engine.runner.guarding import GuardTripped, GuardWatch, RunStopped, StopRequest
from drills.engine.runner.injector import Injector
from drills.engine.runner.interrupts import Interrupts
from drills.engine.runner.observers import Observers
from drills.engine.runner.recorder import Recorder
from drills.engine.runner.tail import Tail
from drills.engine.runner.traffic import Traffic
from drills.engine.runner.view import View
from drills.engine.safety.custody import Custody
from drills.engine.safety.plan import Plan
from drills.engine.safety.refusals import at_the_gate, refuse, too_few_survivors
from fleet import prometheus
from fleet.environments import facts_to_heal, restore_leftovers
from fleet.protocols import Fleet
from history.clock import NS_PER_S, Anchor, Clock, now_ns
from history.errors import BlackstartError, RecordingError
from history.op import CLOCK_STEPPED, FLEET_READY, GUARD, NOTED, PROCESS_DIED, RUN_END
from history.reader import Run
from history.records import RunHeader, Signal
from history.rundir import RunDirectory, Schedule
from loadgen.schedule import draw

CLOCK_STEP_S = 0.25
"""The wall clock may drift from the monotonic one by this much in a run (slewing: 0.5 ms a second at most)."""
CONTEXT = ("prometheus",)
"""Processes outside the clusters that explain and never measure: the run goes on without them."""


class Session:
    """A running fleet under load, with its observers; a context manager that leaves nothing behind."""

    def __init__(
        self,
        plan: Plan,
        fleet: Fleet,
        directory: RunDirectory,
        view: View,
        command_line: tuple[str, ...],
        custody: Custody,
        stop_request: StopRequest,
        interrupts: Interrupts,
        clock: Clock = now_ns,
    ) -> None:
        self.plan, self.fleet, self.directory, self.view, self.clock = plan, fleet, directory, view, clock
        self.failures: list[str] = []
        self.unrecorded: RecordingError | None = None
        self.stop_request, self.interrupts = stop_request, interrupts
        self._command_line, self._custody = command_line, custody
        self._anchor = Anchor.take()
        self._undo = ExitStack()
        self._guards = GuardWatch(tuple(plan.drill.guards))
        self._missed: set[str] = set()
        self._fleet_stopped = True
        self._may_inject = False
        self.recorder: Recorder
        self.tail: Tail
        self._header: RunHeader
        self._schedule: Schedule
        self._traffic: Traffic
        self._injector: Injector

    def __enter__(self) -> Session:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Undoes everything; what could not be undone is in ``failures``. Safe to call twice."""
        self.interrupts.answer_only()
        self._undo.close()

    def open(self) -> None:
        """Starts the fleet, its observers and the load; returns when sends have begun."""
        self.interrupts.release()
        self._start_fleet()
        self.tail = Tail(self.directory, self._header, self._schedule)
        observers = Observers(self.fleet, self.recorder)
        self._undo.callback(self._attempt, "stop the observers", observers.stop)
        observers.start()
        self._undo.callback(self._attempt, "ask Prometheus", self._record_prometheus)
        self._start_traffic()
        self._undo.callback(self._attempt, "heal", self._heal_all)

    @property
    def load_start_ns(self) -> int:
        """The instant of the schedule's offset 0; 0 before the load has begun."""
        return self._traffic.start_ns

    def watch_processes(self) -> None:
        """Raises ``RunStopped`` when a process that the measurement rests on has died."""
        died = [*self._traffic.died(), *self._custody.died()]
        for name in self.fleet.died():
            if name.partition(":")[0] not in CONTEXT:
                died.append(name)
            elif name not in self._missed:
                self._missed.add(name)
                self._note(f"{name} died in the middle of the run: what rests on it is unknown, the rest is not harmed")
        if died:
            self.recorder.event(PROCESS_DIED, error="died", process=died[0].partition(":")[0], text=died[0])
            raise RunStopped(f"died in the middle of the run: {'; '.join(died)}")

    def guard(self, run: Run) -> None:
        """Asks every guard; one that trips is recorded and ends the run: ``GuardTripped``."""
        victims = tuple(fault.cluster for fault in self.plan.drill.faults if fault.cluster)
        glance = Glance(run, self.clock(), self.load_start_ns, victims, str(self.stop_request))
        if (trip := self._guards.look(glance)) is not None:
            guard, reason = trip
            self.recorder.event(guard.name, source=GUARD, ok=False, reason=reason)
            raise GuardTripped(f"guard {guard.name} tripped: {reason}")

    def inject(self, fault: Fault, pulse: Callable[[], None]) -> tuple[Signal, ...]:
        """See ``Injector.inject``; before the first one, ``Refused`` where the running fleet gives a reason not to.

        Before each later one ``RunStopped`` where fewer clusters than declared would survive it.
        """
        if not self._may_inject:
            refuse(at_the_gate(self.plan.drill, self.fleet))
            self._may_inject = True
        elif fault.cluster:
            down = {fault.cluster, *self._injector.hurt} & {cluster.name for cluster in self.fleet.clusters}
            if reason := too_few_survivors(self.plan.drill, self.fleet, down):
                raise RunStopped(f"{fault.mark(None).label} was not injected: {reason}")
        return self._injector.inject(fault, pulse)

    def stage(self, does: str, cluster: str) -> AbstractContextManager[None]:
        """See ``Custody.stage``."""
        return self._custody.stage(does, cluster)

    def heal(self, name: str) -> tuple[Signal, ...]:
        """See ``Injector.heal``."""
        return self._injector.heal(name)

    @property
    def took_s(self) -> float:
        """See ``Injector.took_s``."""
        return self._injector.took_s

    def _begin(self) -> None:
        """What even the shortest run leaves: a journal, a header and a schedule that can be judged."""
        self._undo.callback(self._attempt, "make sure that nothing is left", self._secure)
        self._custody.begin()
        self.recorder = Recorder(self.directory.ops_file("runner"), self.clock)
        self._injector = Injector(self.fleet, self.recorder, self._custody)
        self._traffic = Traffic(self.plan.drill.load, self.directory, self.recorder, self.failures)
        self._undo.callback(self.recorder.close)
        self._undo.callback(self._attempt, "record the end", self._record_end)
        self._header = first_header(self.plan, self.fleet, self.directory.path.name, self._anchor, self._command_line)
        self._schedule = draw(self._header.load, self._header.mix)
        self.directory.write_header(self._header)
        self.directory.write_schedule(self._schedule)

    def _start_fleet(self) -> None:
        name = self.plan.drill.fleet.name
        self.view.step(f"Starting fleet {name} ({self.plan.environment})")
        self._undo.callback(self._attempt, "stop the fleet", self._stop_fleet)
        self._fleet_stopped = False
        began = self.clock()
        self.fleet.start(self.view.note)
        self.recorder.event(FLEET_READY, at_ns=began, done_ns=self.clock())
        self._custody.fleet_up(facts_to_heal(self.fleet))
        for note in self._custody.notes:
            self._note(note)
        self.view.done(f"Fleet {name} is ready ({self._since(began):.1f} s)")
        self._header = header_of_running(self._header, self.fleet)
        self.directory.write_header(self._header)

    def _start_traffic(self) -> None:
        self.view.step("Starting load and probers")
        began, load = self.clock(), self.plan.drill.load
        self._traffic.start(self._undo, self._attempt, self.interrupts)
        self.view.done(
            f"Load and probers are ready ({self._since(began):.1f} s): {load.rate_rps:g} rps {load.shape}, good within "
            f"{load.good_within_ms:g} ms; time-outs: connect {load.connect_timeout_s:g} s, "
            f"total {load.total_timeout_s:g} s"
        )

    def _heal_all(self) -> None:
        for name in self._injector.hurt:  # each on its own: what fails with one must not keep another hurt
            self._attempt(f"heal {name}", partial(self._heal_at_end, name))

    def _heal_at_end(self, name: str) -> None:
        self.view.step(f"Healing {name}")
        signals = self.heal(name)
        self.view.done(f"Healed {name}", ok=all(signal.ok for signal in signals))

    def _record_prometheus(self) -> None:
        record_clock_step(self._anchor, Anchor.take(), self.recorder)
        if self.fleet.prometheus_url is not None and self.load_start_ns:
            prometheus.record(
                self.fleet.prometheus_url, self.load_start_ns, self.clock(), self._anchor, self.recorder.append
            )

    def _stop_fleet(self) -> None:
        self.fleet.stop()
        self._fleet_stopped = True

    def _record_end(self) -> None:
        self.recorder.event(RUN_END, failures=list(self.failures))

    def _secure(self) -> None:
        """Tells custody that nothing is left, after the environment has looked once more where something failed."""
        if not self._fleet_stopped or self._injector.hurt:
            try:
                for line in restore_leftovers(self.plan.environment, facts_to_heal(self.fleet)):
                    self.view.note(line)
            except Exception:
                self.view.note(f"NOT healed: the lock stays. Next: blackstart restore {self.directory.path}")
                raise
        self._custody.secure()

    def _note(self, text: str) -> None:
        self.recorder.event(NOTED, text=text)
        self.view.note(text)

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except BlackstartError as error:
            self.failures.append(f"could not {what}: {error.message}")
            if isinstance(error, RecordingError):
                self.unrecorded = error
        except Exception as error:  # undoing goes on with the next part whatever this one raised
            self.failures.append(f"could not {what}: {error!r}")

    def _since(self, began_ns: int) -> float:
        return (self.clock() - began_ns) / NS_PER_S


def record_clock_step(started: Anchor, now: Anchor, recorder: Recorder) -> None:
    """Nothing is measured by the wall clock; only what Prometheus stamped is misplaced when somebody steps it."""
    step_s = started.step_s(now)
    if abs(step_s) > CLOCK_STEP_S:
        text = f"the wall clock was stepped by {step_s:+.2f} s during the run; no measure uses it"
        recorder.event(CLOCK_STEPPED, text=text, step_s=step_s)
