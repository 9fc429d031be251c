"""What each remediation buys, and what a replay asks of its recoveries: first holds, windows that end with the run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from assertions import analyze
from assertions.ablation import Cell, Variant, gain, hit_classes, variant
from history.op import REPLICA_READY, RESTORE_STAGE, RUNNER

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script


def until_end(script: Script, **more: Any) -> Script:
    return replace(script, header_changes={**script.header_changes, "recovery_until": "end", **more})


@pytest.mark.parametrize(
    ("before", "after", "times"),
    [
        ((100.0, 110.0), (5.0, 10.0), (10.0, 22.0)),
        ((100.0, None), (5.0, 10.0), (10.0, None)),
        ((100.0, 110.0), (0.0, 10.0), (10.0, None)),
        ((100.0, 110.0), (5.0, None), None),
        ((100.0, 110.0), None, None),
        (None, (5.0, 10.0), None),
    ],
)
def test_a_gain_is_what_both_intervals_allow(before: Any, after: Any, times: Any) -> None:
    assert gain(before, after) == times


def test_a_variant_says_when_each_class_recovered_and_whether_it_needed_the_cluster(script: Script) -> None:
    hurt = models(script)[0]
    late = until_end(script.fail(0, 35, (hurt,)))
    found = variant("none", (), "runs/x", analyze(late.run()))
    cells = [cell for cell in found.classes.values() if cell.recovered_s is not None]
    assert len(cells) == 1
    assert cells[0].recovered_s == pytest.approx((35, 35), abs=0.1)
    assert cells[0].needed_cluster, "the restore was called at 30 s"
    soon = variant("all", ("x",), "runs/y", analyze(until_end(script.fail(0, 4, (hurt,))).run()))
    assert not any(cell.needed_cluster for cell in soon.classes.values())
    assert hit_classes([found, soon]) == tuple(n for n, c in found.classes.items() if c.recovered_s is not None)


def models(script: Script) -> tuple[str, ...]:
    return tuple(model.name for model in script.run().header.fleet.models)


def test_classes_that_no_run_hurt_are_no_columns() -> None:
    one = Variant("none", (), "", "pass", True, {"a": Cell((1.0, 2.0)), "b": Cell(None)})
    assert hit_classes([one]) == ("a",)


def test_recovery_may_need_the_restore_only_where_the_drill_says_so(script: Script, objective: Objective) -> None:
    spec = objective("recovered", 40.0, ratio=0.9)
    hurt = replace(script.fail(0, 34), objectives=(spec,))
    (cut,) = analyze(hurt.run()).objectives
    assert cut.verdict == "unknown"
    assert cut.bounds is not None
    assert cut.bounds[1] is None
    (found,) = analyze(until_end(hurt).run()).objectives
    assert found.verdict == "pass"
    assert found.measured == pytest.approx(34, abs=0.2)


def test_a_replay_that_recovers_too_early_fails(script: Script, objective: Objective) -> None:
    hurt = script.fail(0, 6)
    early = objective("recovered", 20.0, ratio=0.9, not_before=10.0)
    right = objective("recovered", 20.0, ratio=0.9, not_before=5.0)
    verdicts = [o.verdict for o in analyze(replace(hurt, objectives=(early, right)).run()).objectives]
    assert verdicts == ["fail", "pass"]


def test_a_second_dip_is_not_the_first_holds_where_the_drill_says_so(script: Script, objective: Objective) -> None:
    hurt = script.fail(0, 6).fail(20, 24)
    strict, first = objective("recovered", 10.0, ratio=0.9), objective("recovered", 10.0, ratio=0.9, first_hold=True)
    found = analyze(replace(hurt, objectives=(strict, first)).run()).objectives
    assert [o.verdict for o in found] == ["fail", "pass"]
    assert "relapsed at" in found[1].text
    assert found[1].measured == pytest.approx(6, abs=0.2)


def test_capacity_may_come_back_with_the_cluster(script: Script, objective: Objective) -> None:
    placed = [p for p in script.run().header.fleet.placements if p.cluster == "cobalt"]
    back = script
    for place in placed:
        back = back.event(REPLICA_READY, 33.0, model=place.model, cluster="cobalt", replica=place.replica)
    spec = objective("full_capacity", 40.0, scope="affected")
    (cut,) = analyze(replace(back, objectives=(spec,)).run()).objectives
    assert cut.bounds is not None
    assert cut.bounds[1] is None
    (found,) = analyze(until_end(replace(back, objectives=(spec,))).run()).objectives
    assert (found.measured, found.verdict) == (33.0, "pass")


def test_a_stage_that_did_not_come_out_as_declared_makes_the_run_unknown(script: Script) -> None:
    stage = {"source": RUNNER, "cluster": "cobalt"}
    good = script.event(RESTORE_STAGE, 20.0, **stage, detail={"name": "VPN link rebuilt"})
    bad = good.event(RESTORE_STAGE, 25.0, **stage, outcome="fail", detail={"name": "ingress"})
    for run, verdict in ((good, "pass"), (bad, "unknown")):
        (check,) = [c for c in analyze(run.run()).validity.checks if c.name == "restore stages"]
        assert check.verdict == verdict
    assert not [c for c in analyze(script.run()).validity.checks if c.name == "restore stages"]
