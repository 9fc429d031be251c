"""Steps say in the history whether they reached what they waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from drills.engine.nouns import Observe
from drills.engine.runner.steps import StepRunner
from history.op import STEP_END, STEP_START


@pytest.mark.parametrize(("reached", "outcome"), [(True, "ok"), (False, "fail")])
def test_a_step_that_was_not_reached_ends_as_failed(
    monkeypatch: pytest.MonkeyPatch, reached: bool, outcome: str
) -> None:
    recorded: list[tuple[str, dict[str, Any]]] = []
    recorder = SimpleNamespace(event=lambda kind, **fields: recorded.append((kind, fields)))
    view = SimpleNamespace(step=lambda text: None, done=lambda text, ok: None)
    session: Any = SimpleNamespace(recorder=recorder, view=view, clock=lambda: 7)
    monkeypatch.setattr(StepRunner, "_carry_out", lambda self, step: (reached, "said"))
    StepRunner(session).run((Observe(at_most_s=1),))
    assert [kind for kind, _ in recorded] == [STEP_START, STEP_END]
    assert recorded[1][1].get("outcome") == outcome
