"""Validity and *it really happened*: each broken run is unknown and says why; objectives are judged all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from assertions import analyze
from assertions.result import Result
from history.op import CLUSTER_PROBER, GUARD, INTERRUPTED, PROCESS_DIED, RUNNER, STEP_END, Op
from history.reader import History, Run, columns
from history.records import FaultMark, StepFacts

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script


@pytest.fixture
def sound(script: Script, objective: Objective) -> Script:
    return replace(script.fail(0.0, 4.0, ("solo",)), objectives=(objective("recovered"),),
                   header_changes={"steps": (StepFacts("Restore", "cobalt"),)})  # fmt: skip


def broken(result: Result, name: str) -> str:
    """The detail of the failed check; the run must be unknown because of it and still list its objectives."""
    (check,) = [check for check in result.validity.checks if check.name == name]
    assert check.verdict == "unknown"
    assert result.verdict == "unknown"
    assert any(check.detail in reason for reason in result.reasons)
    assert result.objectives
    return check.detail


def test_a_sound_run_passes_every_check(sound: Script) -> None:
    result = analyze(sound.run())
    assert (result.verdict, result.reasons) == ("pass", ())
    assert {check.verdict for check in result.validity.checks} == {"pass"}
    assert len(result.validity.checks) == 17
    tidied = analyze(replace(sound, failback_s=0.1, header_changes={"steps": ()}).run())
    assert "ops in failback" not in {check.name for check in tidied.validity.checks}
    measured = result.validity
    assert (measured.scheduled, measured.recorded, measured.dropped, measured.achieved_ratio) == (6_000, 6_000, 0, 1.0)


def test_no_objectives_prove_nothing(script: Script) -> None:
    result = analyze(script.run())
    assert result.verdict == "unknown"
    assert "no objectives" in result.reasons[0]


def test_dropped_sends(sound: Script) -> None:
    few = sound.change(20.0, 20.04, ("calm",), outcome="unknown", error="dropped", t_sent=-1, t_done=-1)
    assert analyze(few.run()).verdict == "pass"
    many = sound.change(20.0, 21.0, ("calm",), outcome="unknown", error="dropped", t_sent=-1, t_done=-1)
    assert "40 of 6,000" in broken(analyze(many.run()), "nothing dropped")
    assert "40 of 6,000" in broken(analyze(sound.lose(20.0, 21.0, ("calm",)).run()), "nothing dropped")


def test_send_lag(sound: Script) -> None:
    late = sound.change(15.0, 15.6, t_sent=sound.at(15.65), t_done=sound.at(15.7))
    assert "(limit 20 ms)" in broken(analyze(late.run()), "send lag")
    few = analyze(sound.change(15.0, 15.1, t_sent=sound.at(15.15), t_done=sound.at(15.2)).run())
    assert few.verdict == "pass"
    assert few.validity.lag_ms_max == pytest.approx(150.0)
    assert few.validity.lag_ms_near_edges == 0.0
    near = analyze(sound.change(4.5, 4.6, t_sent=sound.at(4.62), t_done=sound.at(4.64)).run())
    assert near.validity.lag_ms_near_edges is not None
    assert near.validity.lag_ms_near_edges > 20.0
    assert near.verdict == "pass"  # the intervals are widened instead
    worse = analyze(sound.change(4.5, 4.6, t_sent=sound.at(6.0), t_done=sound.at(6.1)).run())
    broken(worse, "send lag near edges")


def test_duplicates_and_damage(sound: Script) -> None:
    run = sound.run()
    again = Op(
        source="load", process="load-1", kind="chat", t_intended=sound.at(1.0), outcome="ok", seq=0, model="calm"
    )
    twice = columns([again]).requests
    merged = History(_joined(run, twice), run.history.events)
    broken(analyze(Run(run.header, run.schedule, merged)), "each send recorded once")
    damaged = Run(run.header, run.schedule, replace(run.history, damaged=3))
    assert analyze(damaged).verdict == "pass"  # every send has its record: no load record was lost
    assert analyze(damaged).validity.damaged_lines == 3
    gap = sound.lose(20.0, 20.02, ("calm",)).run()
    broken(analyze(Run(gap.header, gap.schedule, replace(gap.history, damaged=1))), "records readable")
    cut = Run(run.header, run.schedule, replace(run.history, damaged=1, truncated=True))
    assert "checksum" in broken(analyze(cut), "records readable")


def _joined(run: Run, more: Any) -> Any:
    from history.reader import _concat

    return _concat(run.history.requests, more)


@pytest.mark.parametrize("kind", ["load.start", "load.stop", "load.drained"])
def test_a_load_that_was_not_seen_to_run_and_end(sound: Script, kind: str) -> None:
    broken(analyze(replace(sound, without=(kind,)).run()), "load ran to its end")


def test_incidents(sound: Script) -> None:
    broken(analyze(sound.event(INTERRUPTED, 5.0, RUNNER).run()), "not interrupted")
    died = sound.event(PROCESS_DIED, 5.0, RUNNER, outcome="fail", detail={"name": "gateway", "reason": "exit 1"})
    assert "gateway died" in broken(analyze(died.run()), "harness processes alive")
    stopped = sound.event(
        PROCESS_DIED, 5.0, RUNNER, outcome="fail", error="stopped", detail={"text": "cobalt not back"}
    )
    assert broken(analyze(stopped.run()), "ran to its end") == "the runner stopped the drill: cobalt not back"
    tripped = sound.event("good_ratio", 5.0, GUARD, outcome="fail", detail={"reason": "below 0.2 for 5 s"})
    assert "below 0.2" in broken(analyze(tripped.run()), "no guard tripped")
    assert analyze(sound.event("good_ratio", 5.0, GUARD).run()).verdict == "pass"


def test_a_step_that_did_not_reach_its_end_is_noted(sound: Script) -> None:
    text = {"text": "not all failed back within 60 s (2 of 6 replicas back)"}
    result = analyze(sound.event(STEP_END, 39.0, RUNNER, outcome="fail", detail=text).run())
    (note,) = [check for check in result.validity.checks if check.name == "noted"]
    assert (note.verdict, note.detail, result.verdict) == ("pass", text["text"], "pass")


def test_a_fault_that_did_not_take_effect(sound: Script) -> None:
    noop = replace(sound, header_changes={"faults": (FaultMark("noop", "cobalt", "", "nothing", noop=True),)})
    result = analyze(noop.run())
    broken(result, "fault is no rehearsal")
    assert result.headline.startswith("Nothing happened")
    broken(analyze(replace(sound, without=("fault.verified",)).run()), "fault verified")
    unverified = replace(sound, without=("fault.verified",)).event(
        "fault.verified", 0.2, RUNNER, outcome="fail", cluster="cobalt",
        detail={"signals": [{"name": "api", "ok": False, "seen": "still answers"}]},
    )  # fmt: skip
    assert "still answers" in broken(analyze(unverified.run()), "fault verified")
    broken(analyze(replace(sound, without=("fault.healed",)).run()), "heal verified")
    broken(analyze(replace(sound, without=("probe.data", "probe.api")).run()), "cluster prober saw it")
    nothing = analyze(replace(sound, without=("fault.inject", "fault.heal")).run())
    assert "nothing happened" in broken(nothing, "fault injected")
    assert nothing.fleet is None


def test_nobody_was_hit(sound: Script) -> None:
    quiet = sound.change(-0.2, 0.0, outcome="ok", t_done=sound.at(-0.001))
    quiet = quiet.change(-0.001, 0.0001, t_sent=sound.at(0.0002), t_done=sound.at(0.02))
    broken(analyze(quiet.run()), "requests in flight")
    answered = quiet.change(-0.001, 0.025, outcome="ok", t_done=quiet.at(0.02))
    quick, slow = (
        replace(script, without=("fault.inject",)).event(
            "fault.inject", 0.0, RUNNER, cluster="cobalt", t_done=script.at(returned_s)
        )
        for script, returned_s in ((answered, 0.021), (quiet, 0.001))
    )
    broken(analyze(quick.run()), "requests in flight")  # sent during the call, and answered well before it returned
    assert "requests in flight" in {c.name for c in analyze(slow.run()).validity.checks if c.verdict == "pass"}
    elsewhere = sound.change(-100.0, 0.0, ("solo", "pair"), cluster="jade")
    broken(analyze(elsewhere.run()), "victim had served")
    unlabelled = analyze(sound.change(-100.0, 100.0, cluster="").run())
    assert "victim had served" not in {check.name for check in unlabelled.validity.checks}
    broken(analyze(replace(sound, baseline_s=0.1).run()), "ops in baseline")


def test_what_was_missed_is_missed_also_where_the_run_does_not_count(script: Script, objective: Objective) -> None:
    promised = (objective("recovered", 40.0, scope="model:solo"),)
    missed = replace(script.fail(0.0, 30.0, ("solo",)), objectives=(objective("recovered", scope="model:solo"),))
    result = analyze(replace(missed, without=("fault.verified",)).run())
    assert result.verdict == "unknown"
    assert "solo did not recover in the 30.0 s observed" in result.headline
    short = analyze(replace(script.fail(0.0, 29.5, ("solo",)), objectives=promised).run())
    assert short.verdict == "unknown"
    assert "solo could not be proven to recover in the 30.0 s observed" in short.headline


def test_the_signature_of_the_fault(sound: Script) -> None:
    healed = sound.event("probe.data", 5.0, CLUSTER_PROBER, cluster="cobalt", outcome="fail", error="timeout",
                         t_sent=sound.at(5.0), t_done=sound.at(6.0))  # fmt: skip
    (fault,) = analyze(healed.run()).faults
    assert (fault.cluster, fault.injected_s, fault.verified_s, fault.heal_s, fault.healed_s) == (
        "cobalt", 0.0, 0.2, 30.0, 31.0,
    )  # fmt: skip
    assert [(s.plane, s.error, s.count, s.median_ms) for s in fault.seen] == [
        ("api", "refused", 60, 1.0),
        ("data", "refused", 60, 1.0),
        ("data", "timeout", 1, 1_000.0),
    ]


def test_a_record_that_contradicts_itself_is_unknown(sound: Script) -> None:
    odd = sound.change(20.0, 20.02, ("calm",), t_done=-1)
    result = analyze(odd.run())
    assert result.validity.unknown == 1
    assert np.isclose(result.totals.good + result.totals.bad, 5_999)
