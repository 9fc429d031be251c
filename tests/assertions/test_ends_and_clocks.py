"""A killed harness is never a pass, whatever it had recorded; the wall clock is an anchor and no measure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assertions import analyze, encode_result
from assertions.result import Result
from history.clock import Anchor
from history.op import (
    CLOCK_STEPPED,
    FAULT_HEAL,
    FAULT_HEALED,
    LOAD_DRAINED,
    LOAD_STOP,
    NOTED,
    PROMETHEUS,
    QUERY,
    RUN_END,
    RUNNER,
    RUNNER_ALIVE,
)
from history.reader import Run, columns
from history.records import StepFacts

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script


@pytest.fixture(scope="module")
def sound(script: Script, objective: Objective) -> Script:
    """A run that passes, of a harness that says when it ends."""
    steps = (StepFacts("Restore", "cobalt"),)
    made = script.fail(0.0, 4.0, ("solo",)).event(RUN_END, script.end_s + 3.0, RUNNER)
    return replace(made, objectives=(objective("recovered"),), header_changes={"steps": steps, "says_end": True})


def details(result: Result, name: str) -> list[tuple[str, str]]:
    return [(check.verdict, check.detail) for check in result.validity.checks if check.name == name]


def test_the_last_word_of_the_harness_is_asked_for_where_it_gives_one(sound: Script) -> None:
    result = analyze(sound.run())
    assert result.verdict == "pass"
    assert details(result, "harness ended by itself") == [("pass", "healed, drained and stopped")]
    killed = analyze(replace(sound, extra=()).run())
    assert killed.verdict == "unknown"
    ((verdict, said),) = details(killed, "harness ended by itself")
    assert verdict == "unknown"
    assert "died before it had healed" in said
    unhealed = replace(sound, extra=()).event(
        RUN_END, sound.end_s + 3.0, RUNNER, detail={"failures": ["could not heal cobalt"]}
    )
    assert details(analyze(unhealed.run()), "harness ended by itself") == [("unknown", "could not heal cobalt")]
    older = replace(sound, extra=(), header_changes={"steps": (StepFacts("Restore", "cobalt"),)})
    assert analyze(older.run()).verdict == "pass"


@settings(max_examples=40, deadline=None)
@given(st.floats(-9.5, 42.9))
def test_a_harness_that_is_killed_at_any_moment_never_passes(sound: Script, killed_s: float) -> None:
    """Whatever had happened by then is all that is recorded; the load may even have drained."""
    whole = sound.run()
    limit = sound.at(killed_s)
    ops = [op for op in sound.ops(whole.schedule.offset_ns) if max(op.t_done, op.t_intended) <= limit]
    result = analyze(Run(whole.header, whole.schedule, columns(ops)))
    assert result.verdict == "unknown"
    assert any("harness" in reason for reason in result.reasons)


def test_the_death_of_the_harness_is_not_held_against_the_fleet(script: Script, objective: Objective) -> None:
    """The fleet goes with the harness: what failed after its last sign of life is unknown."""
    made = script.fail(0.0, 4.0, ("solo",)).fail(20.2, 99.0).event(RUNNER_ALIVE, 20.0, RUNNER)
    made = replace(made, objectives=(objective("recovered"),), header_changes={"says_end": True})
    whole, ends = made.run(), (LOAD_STOP, LOAD_DRAINED, FAULT_HEAL, FAULT_HEALED)
    ops = [op for op in made.ops(whole.schedule.offset_ns) if op.kind not in ends]
    killed = Run(whole.header, whole.schedule, columns([op for op in ops if op.t_intended <= made.at(24.0)]))
    result = analyze(killed)
    assert {one.verdict for one in result.objectives} == {"unknown"}
    assert not result.models["solo"].relapsed
    assert result.verdict == "unknown"
    blamed = analyze(replace(killed, header=replace(whole.header, says_end=False)))
    assert "fail" in {one.verdict for one in blamed.objectives}


def test_even_when_every_request_was_drained_a_harness_that_died_before_it_had_stopped_all_is_unknown(
    sound: Script,
) -> None:
    whole = sound.run()
    ops = [op for op in sound.ops(whole.schedule.offset_ns) if op.kind != RUN_END]
    assert any(op.kind == LOAD_DRAINED for op in ops)
    assert analyze(Run(whole.header, whole.schedule, columns(ops))).verdict == "unknown"


@pytest.mark.parametrize("anchor", [Anchor(5, 10**18), Anchor(10**15, -(10**18)), Anchor(0, 0)])
def test_no_measure_uses_the_wall_clock(sound: Script, anchor: Anchor) -> None:
    other = replace(sound, header_changes={**sound.header_changes, "anchor": anchor})
    assert encode_result(analyze(other.run())) == encode_result(analyze(sound.run()))


def test_notes_are_told_and_harm_nothing(sound: Script) -> None:
    noted = analyze(sound.event(NOTED, 3.0, RUNNER, detail={"text": "prometheus died"}).run())
    assert noted.verdict == "pass"
    assert details(noted, "noted") == [("pass", "prometheus died")]


def test_a_stepped_wall_clock_is_noted_and_takes_prometheus_away(sound: Script, objective: Objective) -> None:
    """Its samples are stamped by the wall clock, so after a step they lie in the wrong places."""
    times = range(-9, 41)
    counter = {"labels": {"store": "a"}, "t_ns": [sound.at(t) for t in times], "values": [100.0] * len(times)}
    query = {"name": "store_bytes", "query": "q", "series": [counter]}
    made = sound.event(QUERY, 42.0, PROMETHEUS, detail=query)
    made = replace(made, objectives=(*sound.objectives, objective("store_bytes", 10.0, unit="bytes")))
    made = replace(made, header_changes={**made.header_changes, "prometheus": True})
    assert analyze(made.run()).verdict == "pass"
    text = "the wall clock was stepped by -3600.00 s during the run; no measure uses it"
    stepped = analyze(made.event(CLOCK_STEPPED, 42.5, RUNNER, detail={"text": text, "step_s": -3600.0}).run())
    assert details(stepped, "noted") == [("pass", text)]
    verdicts = {one.indicator: one.verdict for one in stepped.objectives}
    assert verdicts == {"recovered": "pass", "store_bytes": "unknown"}
    assert stepped.models == analyze(made.run()).models
