"""An interrupt is raised where it may be, and nowhere else."""

from __future__ import annotations

import signal
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from drills.engine.runner.guarding import StopRequest
from drills.engine.runner.interrupts import Interrupts
from drills.engine.runner.run import _carry_out
from drills.engine.runner.strip import Strip
from history.op import INTERRUPTED


class Notes:
    """A view that keeps its notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, text: str) -> None: ...

    def done(self, text: str, ok: bool = True) -> None: ...

    def note(self, text: str) -> None:
        self.said.append(text)

    def tick(self, strip: Strip) -> None: ...


@pytest.fixture
def interrupts(tmp_path: Path) -> Interrupts:
    return Interrupts(Notes(), StopRequest(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_there_is_a_run_it_waits_until_there_is_one(interrupts: Interrupts, number: signal.Signals) -> None:
    with interrupts:
        signal.raise_signal(number)  # raises nothing
        with pytest.raises(KeyboardInterrupt):
            interrupts.release()


def test_while_it_is_held_it_waits_for_the_end_of_the_block(interrupts: Interrupts) -> None:
    noted: list[str] = []

    def start() -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
            noted.append("the process has started, and its pid is kept")

    with interrupts:
        interrupts.release()
        with pytest.raises(KeyboardInterrupt):
            start()
    assert noted


def test_it_interrupts_once_and_is_answered_after_that(tmp_path: Path) -> None:
    view = Notes()
    with Interrupts(view, StopRequest(tmp_path)) as interrupts:
        interrupts.release()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        interrupts.release()
        assert view.said == ["still healing and cleaning up; this ends by itself"]


def test_nothing_is_raised_while_everything_is_undone(interrupts: Interrupts) -> None:
    with interrupts:
        signal.raise_signal(signal.SIGINT)
        interrupts.answer_only()
        interrupts.release()


def test_the_former_handlers_come_back_and_sigusr1_asks_to_stop(tmp_path: Path) -> None:
    before, stop = signal.getsignal(signal.SIGINT), StopRequest(tmp_path)
    with Interrupts(Notes(), stop):
        assert signal.getsignal(signal.SIGINT) != before
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGINT) == before
    assert "SIGUSR1" in str(stop)


def test_a_hangup_that_nohup_ignores_stays_ignored(interrupts: Interrupts) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts:
            interrupts.release()
            signal.raise_signal(signal.SIGHUP)  # raises nothing
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_after_the_last_step_still_leaves_a_run_to_judge(tmp_path: Path) -> None:
    session, calls = MagicMock(), list[str]()
    session.view, session.unrecorded, session.failures = Notes(), None, []
    session.plan.drill.steps = ()
    session.interrupts.answer_only.side_effect = [KeyboardInterrupt, None, None]
    session.recorder.event.side_effect = lambda kind, **_: calls.append(kind)
    session.__exit__.return_value = False
    assert _carry_out(session)
    assert calls == [INTERRUPTED]
