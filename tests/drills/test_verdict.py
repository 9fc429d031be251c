"""What the command line says of a result on GitHub, and nowhere else."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from assertions.result import ObjectiveResult, Result, Totals, Validity
from drills.engine.commands.verdict import print_verdict

FAILED = ObjectiveResult(
    "lost[fleet]", "fleet", "lost", "fault", 500.0, (500.0, 500.0), 400.0, "requests", "fail", "500 requests", "why"
)


def said(verdict: Any, *objectives: ObjectiveResult) -> str:
    validity = Validity(1, 1, 0, 0, 0, 0, 0, None, None, None, None, 1.0)
    result = Result(
        "cluster-loss", "run", 1, "local", verdict, (), "told", (), (), None, {}, {}, objectives, validity,
        Totals(1, 1, 0, 0, 0),
    )  # fmt: skip
    out = io.StringIO()
    print_verdict(Console(file=out, width=60), result)
    return out.getvalue()


def test_github_gets_an_annotation_a_failed_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (line,) = [line for line in said("fail", FAILED).splitlines() if line.startswith("::error ")]
    assert line.endswith("::500 requests against a limit of 400 requests. why")  # one line, whatever the width
    assert "::error" not in said("pass")
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert "::error" not in said("fail", FAILED)
