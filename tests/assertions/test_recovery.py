"""Service back and recovered: exact intervals for known outages. solo sends every 25 ms, first byte after 10 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from assertions import analyze
from assertions.result import ModelRecovery, Result

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script


def solo(script: Script) -> ModelRecovery:
    return analyze(script.run()).models["solo"]


def test_a_total_outage_has_exact_edges(script: Script) -> None:
    found = solo(script.fail(0.0, 4.0, ("solo",)))
    assert found.service_back_s == (3.975, 4.01)
    assert found.recovered_s == (3.975, 4.0)
    assert found.bounds["first_success"] == (4.0, 4.01)
    assert found.hold_certified_s == 7.0
    assert (found.sent, found.bad, found.unknown, found.unaffected) == (1_200, 160, 0, False)


def test_a_scope_without_a_bad_op_is_unaffected(script: Script) -> None:
    found = analyze(script.fail(0.0, 4.0, ("solo",)).run()).models["calm"]
    assert found.unaffected
    assert (found.service_back_s, found.recovered_s, found.first_success_s) == (None, None, None)


def test_without_data_nothing_is_unaffected(script: Script) -> None:
    from dataclasses import replace

    nothing = analyze(replace(script, without=("fault.inject", "fault.heal")).run())
    assert {m.unaffected for m in nothing.models.values()} == {False}
    bare = replace(script, observed_s=0.005, failback_s=None)  # only one send after the injection
    found = analyze(bare.run())
    assert [(name, m.sent, m.unaffected) for name, m in found.models.items()] == [
        ("solo", 1, True), ("pair", 0, False), ("calm", 0, False),
    ]  # fmt: skip


def test_one_background_failure_does_not_date_the_recovery_of_a_scope_that_never_fell(script: Script) -> None:
    found = analyze(script.fail(20.0, 20.02, ("calm",)).run()).models["calm"]
    assert (found.unaffected, found.bad) == (True, 1)
    early = analyze(script.fail(1.0, 1.02, ("calm",)).run()).models["calm"]  # not held yet: dated late, never early
    assert not early.unaffected
    assert early.recovered_s is not None
    assert early.recovered_s[1] == pytest.approx(1.04, abs=0.03)


def test_an_outage_that_begins_late_is_seen(script: Script) -> None:
    found = analyze(script.fail(10.0, 14.0, ("calm",)).run()).models["calm"]
    assert not found.unaffected
    assert found.recovered_s is not None
    assert found.recovered_s[0] == pytest.approx(13.99, abs=0.03)


def test_never_recovered_is_open_from_the_last_bad_op(script: Script) -> None:
    found = solo(script.fail(0.0, 100.0, ("solo",)))
    assert found.recovered_s == (29.975, None)
    assert found.service_back_s == (29.975, None)
    assert (found.first_success_s, found.hold_certified_s) == (None, None)


def test_what_happens_after_the_heal_does_not_belong_to_the_fault(script: Script) -> None:
    found = solo(script.fail(0.0, 4.0, ("solo",)).fail(32.0, 33.0, ("solo",)))
    assert found.recovered_s == (3.975, 4.0)
    assert (found.relapsed, found.failback_bad) == (False, 40)
    still_down = solo(script.fail(0.0, 31.0, ("solo",)))
    assert still_down.recovered_s == (29.975, None)


def test_late_answers_are_bad(script: Script) -> None:
    stalled = script.change(0.0, 2.0, ("solo",), t_first_byte=script.at(3.0), t_done=script.at(3.0))
    found = solo(stalled)  # answered at 3 s: sends from 2.5 s on would be in time
    assert found.recovered_s == (1.975, 2.0)
    assert found.bad == 80


def test_in_flight_casualties_belong_to_the_fault(script: Script) -> None:
    struck = script.change(-0.1, 0.0, ("solo",), outcome="fail", error="reset", t_done=script.at(0.01))
    result = analyze(struck.run())
    found = result.models["solo"]
    assert not found.unaffected
    assert (found.bad, result.totals.lost) == (4, 4)
    assert found.recovered_s == (0.0, 0.0)
    over = script.change(-0.1, -0.05, ("solo",), outcome="fail", error="reset", t_done=script.at(-0.01))
    assert analyze(over.run()).models["solo"].unaffected  # over before the injection: the baseline's own


def test_a_degraded_phase_is_no_recovery(script: Script) -> None:
    found = analyze(script.fail(0.0, 8.0, ("pair",), every=2).run()).models["pair"]
    assert found.recovered_s is not None
    assert found.recovered_s[0] == pytest.approx(7.95, abs=0.06)
    assert found.first_success_s is not None
    assert found.first_success_s < 0.1


def judged(script: Script, spec: object) -> Result:
    from dataclasses import replace

    return analyze(replace(script, objectives=(spec,)).run())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "verdict"), [(10.0, "pass"), (4.0, "pass"), (3.99, "unknown"), (3.975, "unknown"), (3.9, "fail")]
)
def test_a_limit_inside_the_interval_is_unknown(
    script: Script, objective: Objective, limit: float, verdict: str
) -> None:
    spec = objective("recovered", limit, scope="model:solo", ratio=0.90)
    (found,) = judged(script.fail(0.0, 4.0, ("solo",)), spec).objectives
    assert (found.verdict, found.bounds) == (verdict, (3.975, 4.0))


def test_never_recovered_fails_when_observed_beyond_the_limit(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 100.0, ("solo",))
    spec = objective("recovered", 10.0, scope="model:solo", ratio=0.90)
    (found,) = judged(down, spec).objectives
    assert (found.verdict, found.text, found.measured) == ("fail", "> 30.0 s", None)
    (found,) = judged(down, objective("recovered", 60.0, scope="model:solo", ratio=0.90)).objectives
    assert found.verdict == "unknown"


def test_a_relapse_fails_recovered_and_is_a_window(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 2.0, ("solo",)).fail(12.0, 14.0, ("solo",))
    result = judged(down, objective("recovered", 20.0, scope="model:solo", ratio=0.90))
    found = result.models["solo"]
    assert (found.relapsed, found.recovered_s) == (True, (1.975, 2.0))
    assert [(w.start_s, w.end_s) for w in result.windows if (w.name, w.scope) == ("relapse", "solo")] == [
        (12.0, 13.975)
    ]
    assert result.objectives[0].verdict == "fail"
    assert result.verdict == "fail"


def test_unknown_ops_widen_the_interval(script: Script, objective: Objective) -> None:
    spec = objective("recovered", 5.0, scope="model:solo", ratio=0.90)
    lost = script.fail(0.0, 4.0, ("solo",)).lose(4.0, 4.2, ("solo",))
    (found,) = judged(lost, spec).objectives
    assert found.bounds == (3.975, 4.2)
    assert found.verdict == "pass"  # both readings agree
    (found,) = judged(lost, objective("recovered", 4.1, scope="model:solo", ratio=0.90)).objectives
    assert found.verdict == "unknown"


def test_only_unknown_ops_leave_open_whether_anything_failed(script: Script) -> None:
    found = solo(script.lose(1.0, 1.5, ("solo",)))
    assert (found.unaffected, found.bad, found.unknown) == (False, 0, 20)
    assert found.recovered_s == (0.0, 1.5)


def test_lag_near_an_edge_widens_the_interval(script: Script) -> None:
    down = script.fail(0.0, 4.0, ("solo",))
    found = solo(down)
    lagging = solo(down.change(3.9, 4.3, ("calm",), t_sent=script.at(4.33), t_done=script.at(4.34)))
    assert found.recovered_s == (3.975, 4.0)
    assert lagging.recovered_s is not None
    low, high = lagging.recovered_s
    assert low < 3.6
    assert high is not None
    assert high > 4.4
