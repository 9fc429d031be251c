"""Steps say in the history whether they reached what they waited for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.engine.nouns import Observe
from drills.engine.runner.recorder import Recorder
from drills.engine.runner.steps import StepRunner
from history.op import STEP_END, STEP_START, decode


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
