"""Carries out the steps of a drill on a session: waits on the clock, injects, observes, restores."""

from __future__ import annotations

import time

from assertions.live import Progress
from drills.engine.nouns import Baseline, Inject, Observe, Restore, Step, Until
from drills.engine.runner.guarding import RunStopped
from drills.engine.runner.injector import require
from drills.engine.runner.session import Session
from drills.engine.runner.staging import Staging
from drills.engine.runner.strip import lately, strip_of
from history.clock import NS_PER_S
from history.op import RUNNER_ALIVE, STEP_END, STEP_START
from history.reader import Run

TICK_S = 0.1
LOOK_S = 0.5
"""Live predicates and the strip are evaluated this often; more rarely when one look costs more than a fifth of it."""


class StepRunner:
    """Runs steps one after the other; every step is an event of the history."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._next_look = 0.0

    def run(self, steps: tuple[Step, ...]) -> None:
        """All steps; ``RunStopped`` when the run cannot go on."""
        for index, step in enumerate(steps):
            session = self._session
            session.recorder.event(STEP_START, index=index, step=type(step).__name__, text=step.describe())
            began = session.clock()
            session.view.step(step.describe())
            ok, text = self._carry_out(step)
            session.recorder.event(STEP_END, at_ns=began, done_ns=session.clock(), ok=ok, index=index, text=text)
            session.view.done(text, ok)

    def _carry_out(self, step: Step) -> tuple[bool, str]:
        session, began = self._session, self._session.clock()
        if isinstance(step, Baseline):
            start = max(began, session.load_start_ns)
            self._wait(start + round(step.seconds * NS_PER_S), "baseline")
            return True, f"{step.describe()}{self._glance()}"
        if isinstance(step, Inject):
            signals = session.inject(step.fault, self._pulse)
            seen = ", ".join(signal.seen for signal in signals)
            return True, f"{step.fault.mark(None).label}; verified in {session.took_s:.2f} s ({seen})"
        if isinstance(step, Restore):
            if step.stages:
                return Staging(session, step, self._wait).run()
            require(session.heal(step.cluster), f"{step.cluster} was not verified back")
            return True, f"Restored {step.cluster}; verified in {session.took_s:.1f} s"
        return self._observe(step, began)

    def _observe(self, step: Observe, began: int) -> tuple[bool, str]:
        deadline = began + round(step.at_most_s * NS_PER_S)
        reached, waiting = self._wait(deadline, "observing", step.until)
        text = step.describe()
        if step.until is not None:
            text = (
                f"{step.until.text}: proven {self._since(began):.1f} s into this step"
                if reached
                else (f"not {step.until.text} within {step.at_most_s:g} s ({waiting})")
            )
        if step.then_s:
            self._wait(self._session.clock() + round(step.then_s * NS_PER_S), "observing further")
        return step.until is None or reached, f"{text}{self._glance()}"

    def _wait(self, until_ns: int, phase: str, criterion: Until | None = None) -> tuple[bool, str]:
        """Waits for the clock or the criterion; (criterion reached, what it still waits for)."""
        session, waiting = self._session, ""
        while (now := session.clock()) < until_ns:
            session.watch_processes()
            if (run := self._look_if_due()) is not None:
                if criterion is not None:
                    progress = _asked(criterion, run, session.clock())
                    waiting = progress.text
                    if progress.done:
                        return True, ""
                session.view.tick(strip_of(run, session.clock(), session.load_start_ns, phase, waiting))
            time.sleep(min(TICK_S, max(0.0, (until_ns - now) / NS_PER_S)))
        return False, waiting

    def _pulse(self) -> None:
        """Guards stay awake while a fault is verified."""
        self._session.watch_processes()
        self._look_if_due()

    def _look_if_due(self) -> Run | None:
        """The run so far, with every guard asked; None between looks. ``GuardTripped`` ends the run."""
        if time.monotonic() < self._next_look and not str(self._session.stop_request):
            return None
        run = self._look()
        self._session.guard(run)
        return run

    def _look(self) -> Run:
        began = time.monotonic()
        self._session.recorder.event(RUNNER_ALIVE)
        run = self._session.tail.run()
        self._next_look = time.monotonic() + max(LOOK_S, 5 * (time.monotonic() - began))
        return run

    def _glance(self) -> str:
        return "".join(f" · {part}" for part in lately(self._look(), self._session.clock()))

    def _since(self, began_ns: int) -> float:
        return (self._session.clock() - began_ns) / NS_PER_S


def _asked(criterion: Until, run: Run, now_ns: int) -> Progress:
    """What the criterion says; ``RunStopped`` when it raises: nobody could say when the step is over."""
    try:
        said = criterion.check(run, now_ns)
        return Progress(bool(said.done), str(said.text))
    except Exception as error:
        raise RunStopped(f"the criterion {criterion.text!r} raised {type(error).__name__}: {error}") from error
