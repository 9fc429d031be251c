"""A whole run: Plan -> RunOutcome. Heals and cleans up on every way out, and always writes a result if it can."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import assertions
import reports
from assertions.result import Result
from drills.engine.runner.guarding import GuardTripped, RunStopped, StopRequest
from drills.engine.runner.interrupts import Interrupts
from drills.engine.runner.session import Session
from drills.engine.runner.steps import StepRunner
from drills.engine.runner.view import Steady, View
from drills.engine.safety.custody import Custody
from drills.engine.safety.plan import Plan
from drills.engine.safety.refusals import refuse
from fleet.environments import facts_to_heal, open_fleet
from history.errors import BlackstartError, RecordingError, Refused
from history.op import INTERRUPTED, PROCESS_DIED
from history.reader import Run, merge, read_run
from history.rundir import RunDirectory, write_atomic

EXIT_CODES = {"pass": 0, "fail": 1, "unknown": 2}
INTERRUPTED_EXIT = 130


@dataclass(frozen=True)
class RunOutcome:
    """What came of a run: its directory, its result, and the exit code that says it all."""

    directory: RunDirectory
    run: Run
    result: Result
    exit_code: int
    failures: tuple[str, ...]


def run_drill(
    plan: Plan, out: Path, view: View, command_line: tuple[str, ...], gateway_port: int = 0, webhook: str = ""
) -> RunOutcome:
    """Runs a plan. Ctrl-C heals, drains and still judges (exit 130); errors of the harness raise after clean-up.

    ``Refused`` for every refusal of the plan, while another drill holds the same targets, or when the last one on
    them was not healed.
    """
    refuse(plan.refusals)
    directory = name_directory(plan, out)
    fleet = open_fleet(
        plan.environment,
        plan.drill.fleet,
        work_dir=directory.path / "fleet",
        logs=directory.logs,
        gateway_port=gateway_port,
    )
    stop = StopRequest(directory.path)
    custody = Custody(plan, directory, command_line, facts_to_heal(fleet), webhook=webhook)
    with Steady(view) as told, Interrupts(told, stop) as interrupts, custody:
        make_directory(plan, directory)
        told.note(f"Run directory: {directory.path}")
        session = Session(plan, fleet, directory, told, command_line, custody, stop, interrupts)
        interrupted = _carry_out(session)
        merge(directory)
        run, result = judge(directory.path)
        reports.write_all(run, result, directory)
        custody.outcome = "interrupted" if interrupted else result.verdict
    code = INTERRUPTED_EXIT if interrupted else EXIT_CODES[result.verdict]
    return RunOutcome(directory, run, result, code, tuple(session.failures))


def _carry_out(session: Session) -> bool:
    """Runs all steps and undoes everything; was it interrupted?"""
    interrupted, view = False, session.view
    try:
        with session:
            try:
                _open_and_step(session)
                session.interrupts.answer_only()  # in here, so that no interrupt falls between the last step and it
            except KeyboardInterrupt:
                interrupted = True
                session.recorder.event(INTERRUPTED, error="interrupted")
                view.done("Interrupted: healing, draining and judging what was seen", ok=False)
            except Exception as error:  # what is judged later must not look as if the drill had run to its end
                session.recorder.event(PROCESS_DIED, error="stopped", text=str(error) or repr(error))
                raise
            finally:
                session.interrupts.answer_only()
            view.step("Stopping what this run started")
        if session.unrecorded is not None:
            raise session.unrecorded
    except RecordingError:
        raise
    except BlackstartError:
        merge(session.directory)
        raise
    view.done("Stopped what this run started", ok=not session.failures)
    return interrupted


def _open_and_step(session: Session) -> None:
    try:
        session.open()
        StepRunner(session).run(tuple(session.plan.drill.steps))
    except RunStopped as stopped:
        if not isinstance(stopped, GuardTripped):
            session.recorder.event(PROCESS_DIED, error="stopped", text=stopped.reason)
        session.view.done(stopped.reason, ok=False)


def judge(path: Path) -> tuple[Run, Result]:
    """Reads a run directory, judges it, and writes ``result.json``."""
    run = read_run(path)
    result = assertions.analyze(run)
    write_atomic(RunDirectory(path).result, assertions.encode_result(result))
    return run, result


def name_directory(plan: Plan, out: Path) -> RunDirectory:
    """The run directory beneath ``out``, whose name is the run's id; makes nothing."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return RunDirectory((out / f"{plan.drill.name}-{stamp}-{plan.seed}").resolve())


def make_directory(plan: Plan, directory: RunDirectory) -> None:
    """Makes the run directory with the drill's text in it."""
    try:
        directory.path.mkdir(parents=True)
        directory.logs.mkdir()
        directory.drill.write_text(plan.file.text, encoding="utf-8")
    except FileExistsError as error:
        raise Refused(
            f"the run directory {directory.path} exists already",
            hint="wait a second, or choose another --out or --seed",
        ) from error
    except OSError as error:
        raise RecordingError(
            f"cannot write to {directory.path}: {error.strerror}",
            hint="free space, or choose another place with --out DIR",
        ) from error
