"""The wall clock: who may read it, and that a step of it is noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from drills.engine.runner.recorder import Recorder
from drills.engine.runner.session import record_clock_step
from history.clock import Anchor, now_ns
from history.op import CLOCK_STEPPED, decode
from tests.drills.harness import ROOT

READERS = {
    "history/clock.py": "the anchor",
    "drills/engine/runner/run.py": "the name of a run directory",
    "drills/engine/safety/journal.py": "when, for people",
    "drills/engine/safety/lock.py": "since when, for people",
    "drills/engine/safety/ledger.py": "when, for people",
    "drills/engine/safety/restore.py": "how long ago a live harness wrote, by the age of its files, for people",
    "fleet/serving/light.py": "the date header of HTTP",
    "fleet/serving/server.py": "`created` of the OpenAI protocol",
    "loadgen/byhand.py": "the name of a run directory",
}
"""Whoever else reads it has to say here why nothing is measured by it."""
WALL = {"time", "time_ns", "now", "utcnow", "today"}


def reads_the_wall_clock(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in WALL
            and node.value.id in ("time", "datetime", "date")
        ):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "time" and {one.name for one in node.names} & WALL:
            return True
    return False


def test_nobody_reads_the_wall_clock_but_for_people() -> None:
    rooms = ("history", "assertions", "reports", "loadgen", "fleet", "drills")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if reads_the_wall_clock(path)}
    assert {path for path in found if "/kind/" not in path} == set(READERS)  # kind measures nothing by itself


@pytest.mark.parametrize(("step_s", "noticed"), [(0.0, False), (0.2, False), (-3600.0, True), (0.3, True)])
def test_a_step_is_noticed_at_the_end(step_s: float, noticed: bool, tmp_path: Path) -> None:
    started = Anchor(1_000, 2_000)
    later = Anchor(1_000 + 90 * 10**9, 2_000 + 90 * 10**9 + round(step_s * 1e9))
    assert started.step_s(later) == pytest.approx(step_s)
    with Recorder(tmp_path / "runner.jsonl", now_ns) as recorder:
        record_clock_step(started, later, recorder)
    ops = [decode(line) for line in (tmp_path / "runner.jsonl").read_bytes().splitlines()]
    assert [op.kind for op in ops] == [CLOCK_STEPPED] * noticed
    for op in ops:
        assert f"{step_s:+.2f} s" in op.detail["text"]
