"""The history so far, and what people see of it."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drills.engine.runner.strip import Strip
from drills.engine.runner.tail import Tail
from drills.engine.runner.view import LiveView, PlainView, Steady, view_on
from history.rundir import RunDirectory
from tests import headers


def test_plain_view_prints_one_line_an_event() -> None:
    out = io.StringIO()
    view = PlainView(Console(file=out, width=40), every_s=0.0)
    view.step("Baseline for 20 s")
    view.tick(Strip("baseline", 3.0, ("120 rps",), in_flight=2))
    view.done("Baseline for 20 s · " + "long " * 20)
    view.done("did not hold", ok=False)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # nothing is wrapped: one event, one line
    assert "✓ Baseline" in lines[2]
    assert "✗ did not hold" in lines[3]


def test_plain_view_ticks_rarely() -> None:
    out = io.StringIO()
    view = PlainView(Console(file=out), every_s=3600.0)
    for _ in range(5):
        view.tick(Strip("baseline", 3.0))
    assert out.getvalue() == ""


def test_live_view_keeps_step_lines_and_no_strip() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=100))
    with view.shown():
        view.step("Observe")
        view.tick(Strip("observing", 3.0, ("120 rps",), in_flight=2, waiting_for="curie"))
        view.done("all recovered after 4.1 s")
    assert "all recovered after 4.1 s" in out.getvalue()


def test_strip_says_only_what_is_known() -> None:
    assert str(Strip("baseline", 1.0)) == "baseline · at 1 s · 0 in flight"
    full = str(Strip("observing", 31.4, ("120 rps", "good 97.6 %", "44 bad so far"), 3, "curie", time_scale=300.0))
    assert full == (
        "observing · at 31 s = 2 h 37 min · 120 rps · good 97.6 % · 44 bad so far · 3 in flight · waiting for: curie"
    )


class Broken(io.StringIO):
    """A terminal that has gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_fails_never_stops_a_drill() -> None:
    for terminal in (False, True):
        with view_on(Console(file=Broken(), force_terminal=terminal, width=100)) as shown, Steady(shown) as view:
            view.step("Healing cobalt")
            view.note("one node answers")
            view.tick(Strip("observing", 3.0))
            view.done("Healed cobalt")


def test_a_terminal_that_fails_on_the_way_is_told_no_more() -> None:
    out = io.StringIO()
    with Steady(PlainView(Console(file=out))) as view:
        out.close()
        view.note("after")
        view.done("and to the end")


def test_a_terminal_that_stalls_holds_nobody_up() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as unread, open(writer, "w") as full:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 65536)
        os.set_blocking(writer, True)
        view = Steady(PlainView(Console(file=full)))
        with view:
            for _ in range(1000):
                view.note("a line that nobody takes")
        unread.read1(1 << 20)  # so that the thread can end


def test_a_steady_view_tells_everything_in_order() -> None:
    out = io.StringIO()
    with Steady(PlainView(Console(file=out))) as view:
        for number in range(100):
            view.note(f"line {number};")
    assert [f"line {number};" in line for number, line in enumerate(out.getvalue().splitlines())] == [True] * 100


def test_parts_that_are_merged_away_while_one_looks_are_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = RunDirectory(tmp_path)
    run.ops.mkdir()
    for name in ("a", "b"):
        (run.ops / f"{name}.jsonl").touch()
    found = sorted(run.ops.glob("*.jsonl"))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(found))
    (run.ops / "b.jsonl").unlink()
    nothing: Any = None
    assert len(Tail(run, headers.header(), nothing).run().history.requests) == 0
