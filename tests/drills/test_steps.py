"""Steps say in the history whether they reached what they waited for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.engine.nouns import Inject, Observe, PowerLoss, Restore, Until
from drills.engine.runner.guarding import RunStopped
from drills.engine.runner.recorder import Recorder
from drills.engine.runner.steps import StepRunner
from history.op import STEP_END, STEP_START, decode
from history.records import Signal


@pytest.mark.parametrize(("reached", "outcome"), [(True, "ok"), (False, "fail")])
def test_a_step_that_was_not_reached_ends_as_failed(
    monkeypatch: pytest.MonkeyPatch, reached: bool, outcome: str, tmp_path: Path
) -> None:
    view = SimpleNamespace(step=lambda text: None, done=lambda text, ok: None)
    monkeypatch.setattr(StepRunner, "_carry_out", lambda self, step: (reached, "said"))
    with Recorder(tmp_path / "runner.jsonl", lambda: 7) as recorder:
        session: Any = SimpleNamespace(recorder=recorder, view=view, clock=lambda: 7)
        StepRunner(session).run((Observe(at_most_s=1),))
    began, ended = map(decode, recorder.path.read_bytes().splitlines())
    assert (began.kind, ended.kind) == (STEP_START, STEP_END)
    assert ended.outcome == outcome


def test_a_criterion_that_raises_ends_the_run_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(run: Any, now_ns: int) -> Any:
        raise KeyError("no such model")

    monkeypatch.setattr(StepRunner, "_look_if_due", lambda self: object())
    session: Any = SimpleNamespace(clock=lambda: 7, watch_processes=lambda: None)
    step = Observe(until=Until("my own criterion", check), at_most_s=5)
    with pytest.raises(RunStopped, match="the criterion 'my own criterion' raised KeyError: 'no such model'"):
        StepRunner(session)._carry_out(step)


def test_a_fault_took_as_long_as_its_record_says_whatever_was_done_around_it() -> None:
    now = iter(range(0, 10**12, 10**9))
    signals = (Signal("containers", True, "all exited"),)
    session: Any = SimpleNamespace(
        clock=lambda: next(now), inject=lambda *_: signals, heal=lambda _: signals, took_s=0.25
    )
    steps = StepRunner(session)
    assert steps._carry_out(Inject(PowerLoss("cobalt"))) == (True, "cobalt lost power; verified in 0.25 s (all exited)")
    assert steps._carry_out(Restore("cobalt")) == (True, "Restored cobalt; verified in 0.2 s")
