"""Objectives judged from events and counters: forecast, placed twice, serves again, provisioning, stores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from assertions import analyze
from assertions.result import ObjectiveResult
from history.op import FAULT_HEALED, PROMETHEUS, PROVISIONED, QUERY, RUNNER, WATCH_GAP
from history.records import FaultMark, Forecast, ModelForecast, ObjectiveSpec

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script

MIB = 2**20
SOLO = {"model": "solo", "cluster": "jade", "replica": "solo-new"}
PAIR = {"model": "pair", "cluster": "jade", "replica": "pair-new"}


def one(script: Script, spec: ObjectiveSpec) -> ObjectiveResult:
    (found,) = analyze(replace(script, objectives=(spec,)).run()).objectives
    return found


def with_header(script: Script, **changes: Any) -> Script:
    return replace(script, header_changes=script.header_changes | changes)


def forecast(*fits: str, lost: tuple[str, ...] = ("solo", "pair")) -> Forecast:
    rows = (ModelForecast(m, m in lost, m in fits, m in fits, "", 0, 0.0) for m in ("solo", "pair", "calm"))
    return Forecast("cobalt", 2, 2, tuple(rows))


@pytest.mark.parametrize(
    ("fits", "verdict"),
    [(("pair",), "pass"), (("pair", "solo"), "fail"), ((), "fail"), (("solo",), "fail")],
)
def test_a_forecast_is_right_when_exactly_those_come_back_that_it_said(
    script: Script, objective: Objective, fits: tuple[str, ...], verdict: str
) -> None:
    made = script.fail(0.0, 30.0, ("solo",)).fail(0.0, 2.0, ("pair",)).event("replica.ready", 1.9, **PAIR)
    found = one(with_header(made, forecast=forecast(*fits)), objective("forecast_right", 0.0))
    assert found.verdict == verdict
    assert "solo: forecast" in found.evidence


def test_a_model_that_was_placed_and_did_not_recover_makes_the_forecast_wrong(
    script: Script, objective: Objective
) -> None:
    made = script.fail(0.0, 30.0, ("solo",)).event("replica.ready", 1.0, **SOLO).event("replica.ready", 1.9, **PAIR)
    found = one(with_header(made, forecast=forecast("solo", "pair")), objective("forecast_right", 0.0))
    assert (found.verdict, found.bounds) == ("fail", (1, 1))


def test_a_forecast_of_nothing_or_of_another_cluster_proves_nothing(script: Script, objective: Objective) -> None:
    spec, seen = objective("forecast_right", 0.0), script.event("replica.ready", 1.9, **PAIR)
    assert one(seen, spec).verdict == "unknown"
    assert one(with_header(seen, forecast=forecast(lost=())), spec).verdict == "unknown"
    assert one(with_header(seen, forecast=replace(forecast("pair"), victim="jade")), spec).verdict == "unknown"
    assert one(with_header(script, forecast=forecast("pair")), spec).verdict == "unknown"  # nobody watched


def test_a_forecast_of_one_says_nothing_of_two(script: Script, objective: Objective) -> None:
    made = script.fail(0.0, 30.0, ("solo",)).fail(0.0, 2.0, ("pair",)).event("replica.ready", 1.9, **PAIR)
    spec, alone = objective("forecast_right", 0.0), forecast("pair")
    both = replace(alone, victim="cobalt and jade", clusters=("cobalt", "jade"))
    assert one(with_header(made, forecast=both, forecasts=(both, alone)), spec).verdict == "pass"
    assert one(with_header(made, forecast=both, forecasts=(both,)), spec).verdict == "unknown"


def returned(script: Script, at_s: float, gone_s: float | None) -> Script:
    """Solo moved at 2 s, is home again at ``at_s``; its surrogate ends at ``gone_s``. Power loss, healed at 30 s."""
    mark = FaultMark("PowerLoss", "cobalt", "refused", "cobalt lost power")
    made = with_header(script, faults=(mark,)).event("replica.ready", 2.0, **SOLO)
    made = made.event("replica.ready", at_s, model="solo", cluster="cobalt", replica="solo-cobalt")
    return made if gone_s is None else made.event("replica.gone", gone_s, **SOLO)


@pytest.mark.parametrize(
    ("gone_s", "seconds", "verdict"),
    [(33.5, 1.5, "pass"), (35.0, 3.0, "pass"), (36.0, 4.0, "fail"), (None, 8.0, "fail")],
)
def test_placed_twice_is_the_longest_stretch_with_too_many_ready(
    script: Script, objective: Objective, gone_s: float | None, seconds: float, verdict: str
) -> None:
    found = one(returned(script, 32.0, gone_s), objective("placed_twice", 3.0, window="failback"))
    assert found.bounds is not None
    assert found.bounds[0] == found.bounds[1] == pytest.approx(seconds)
    assert found.verdict == verdict
    assert "solo had 1 ready replicas too many" in found.evidence


def test_what_nobody_saw_may_have_been_placed_twice(script: Script, objective: Objective) -> None:
    spec = objective("placed_twice", 3.0, window="failback")
    made = returned(script, 32.0, 33.0)
    blind = made.event(WATCH_GAP, 39.0, cluster="jade", t_intended=script.at(36.0), outcome="unknown")
    found = one(blind, spec)
    assert (found.verdict, found.bounds) == ("unknown", (1.0, 4.0))
    before = made.event(WATCH_GAP, 30.5, cluster="cobalt", t_intended=script.at(0.0), outcome="unknown")
    assert one(before, spec).verdict == "pass"  # the victim was away: its gap is no blindness
    again = made.event(WATCH_GAP, 39.0, cluster="cobalt", t_intended=script.at(36.0), outcome="unknown")
    assert one(again, spec).verdict == "unknown"  # it was healed by then
    other = made.event(WATCH_GAP, 32.5, cluster="amber", t_intended=script.at(10.0), outcome="unknown")
    assert one(other, spec).bounds == (1.0, 3.5)  # what lies before the window is not counted


def test_what_only_hung_is_back_at_once_and_counts_twice(script: Script, objective: Objective) -> None:
    spec = objective("placed_twice", 3.0, window="failback")
    made = script.event("replica.ready", 2.0, **SOLO).event("replica.gone", 36.0, **SOLO)
    frozen = with_header(made, faults=(FaultMark("Freeze", "cobalt", "hang", "cobalt froze"),))
    assert one(frozen, spec).measured == pytest.approx(6.0)
    dead = with_header(made, faults=(FaultMark("PowerLoss", "cobalt", "refused", "cobalt lost power"),))
    assert one(dead, spec).bounds == (0.0, 0.0)


def test_what_serves_without_its_api_counts_during_the_fault(script: Script, objective: Objective) -> None:
    spec = objective("placed_twice", 3.0, window="fault")
    made = script.event("replica.ready", 2.0, **SOLO)
    cut = with_header(made, faults=(FaultMark("ControlPlaneCut", "cobalt", "api-gone", "no API"),))
    assert one(cut, spec).measured == pytest.approx(28.0)
    lost = with_header(made, faults=(FaultMark("PowerLoss", "cobalt", "refused", "cobalt lost power"),))
    assert one(lost, spec).bounds == (0.0, 0.0)
    unseen = lost.event(WATCH_GAP, 31.0, cluster="cobalt", t_intended=script.at(0.2), outcome="unknown")
    assert one(unseen, spec).bounds == (0.0, 0.0), "whoever has lost it cannot place anything in it"


def test_nobody_watching_is_no_proof_that_nothing_was_placed_twice(script: Script, objective: Objective) -> None:
    assert one(script, objective("placed_twice", 3.0, window="failback")).verdict == "unknown"


def test_a_restored_cluster_serves_from_its_first_answer_on(script: Script, objective: Objective) -> None:
    spec = objective("serves_again", 3.0, window="failback")
    late = script.change(30.0, 33.0, ("solo", "pair"), cluster="jade")  # healed at 30 s, declared back at 31 s
    found = one(late, spec)
    assert found.verdict == "pass"
    assert found.bounds is not None
    assert 2.0 <= found.bounds[0] <= 2.05  # the first answer of cobalt is intended at 33.0 s or a gap later


def test_a_false_restore_is_noticed(script: Script, objective: Objective) -> None:
    never = script.change(30.0, 40.0, ("solo", "pair"), cluster="jade")
    found = one(never, objective("serves_again", 3.0, window="failback"))
    assert found.verdict == "fail"
    assert "a false restore" in found.evidence
    assert "declared restored at 31.00 s" in found.evidence
    assert one(never, objective("serves_again", 30.0, window="failback")).verdict == "unknown"  # not watched so long
    undeclared = replace(never, without=(FAULT_HEALED,))
    assert one(undeclared, objective("serves_again", 3.0, window="failback")).verdict == "unknown"


@pytest.mark.parametrize(
    ("stage", "outcome", "limit", "verdict"),
    [
        ("api", "ok", 1.0, "pass"),
        ("nodes", "ok", 1.0, "fail"),
        ("", "ok", 3.0, "pass"),
        ("gpus", "ok", 9.0, "unknown"),
        ("nodes", "fail", 1.0, "fail"),
        ("nodes", "fail", 9.0, "unknown"),
    ],
)
def test_provisioning_is_timed_by_stage(
    script: Script, objective: Objective, stage: str, outcome: str, limit: float, verdict: str
) -> None:
    made = script
    for name, at_s in (("api", 30.5), ("nodes", 32.5)):
        said = "ok" if name == "api" else outcome
        fields: dict[str, Any] = {"t_intended": script.at(30.0), "outcome": said, "cluster": "cobalt"}
        made = made.event(PROVISIONED, at_s, RUNNER, detail={"stage": name, "seen": "200"}, **fields)
    found = one(made, objective("provisioned", limit, window="failback", stage=stage))
    assert found.verdict == verdict


def counted(script: Script, **points: tuple[tuple[float, float], ...]) -> Script:
    """Prometheus answered: counters by query name, scraped each second, as (time, value) jumps."""
    made = script
    for name, jumps in points.items():
        times = [jumps[0][0] + i for i in range(int(40 - jumps[0][0]) + 1)]
        values = [[v for t, v in jumps if t <= at_s][-1] for at_s in times]
        found = {"labels": {"store": "weights"}, "t_ns": [script.at(t) for t in times], "values": values}
        detail = {"name": name, "query": name, "series": [found]}
        made = made.event(QUERY, script.end_s, PROMETHEUS, detail=detail)
    return with_header(made, prometheus=True)


def test_store_copies_are_bytes_sent_over_bytes_needed_once_a_cluster(script: Script, objective: Objective) -> None:
    spec, header = objective("store_copies", 1.2), script.run().header
    models = tuple(replace(m, weight_bytes=4 * MIB) for m in header.fleet.models)
    made = with_header(script, fleet=replace(header.fleet, models=models))
    for replica in ("solo-a", "solo-b", "solo-c"):
        made = made.event("replica.weights", 3.0, model="solo", cluster="jade", replica=replica, weights="store")
    made = made.event("replica.weights", 3.0, model="solo", cluster="amber", replica="solo-d", weights="store")
    once = one(counted(made, store_bytes=((-9, 0), (2, 8 * MIB))), spec)
    assert (once.bounds, once.verdict) == ((1.0, 1.0), "pass")
    each = one(counted(made, store_bytes=((-9, 0), (2, 16 * MIB))), spec)
    assert (each.bounds, each.verdict) == ((2.0, 2.0), "fail")
    assert "4 of solo" in each.evidence
    assert one(made, spec).verdict == "unknown"  # no Prometheus
    assert one(counted(script, store_bytes=((-9, 0),)), spec).verdict == "unknown"  # nobody loaded


def test_a_busy_store_is_honoured_only_where_there_was_one(script: Script, objective: Objective) -> None:
    spec = objective("busy_honoured", 0.0)
    patient = counted(script, store_busy=((-9, 0), (2, 7)), store_impatient=((-9, 0),))
    assert one(patient, spec).verdict == "pass"
    hasty = counted(script, store_busy=((-9, 0), (2, 7)), store_impatient=((-9, 0), (3, 2)))
    assert (one(hasty, spec).verdict, one(hasty, spec).bounds) == ("fail", (2.0, 2.0))
    idle = counted(script, store_busy=((-9, 3),), store_impatient=((-9, 0),))
    assert one(idle, spec).verdict == "unknown"


def test_rot_that_nobody_caught_is_a_failure(script: Script, objective: Objective) -> None:
    spec = objective("corrupt_caught", 1.0)
    assert one(counted(script, weight_corrupt=((-9, 0), (2, 5))), spec).verdict == "pass"
    assert one(counted(script, weight_corrupt=((-9, 0),)), spec).verdict == "fail"
    assert one(script, spec).verdict == "unknown"
