"""What the forecast says of a drill's objectives before it is run: impossible, or possible; never a promise."""

from __future__ import annotations

from typing import Any

import pytest

from drills.engine.nouns import Baseline, Drill, Inject, Noop, Observe, OpenLoop, PowerLoss
from drills.engine.nouns import objectives as o
from drills.engine.safety.expect import expect
from fleet import fleets
from fleet.forecast import forecast, placements_planned
from fleet.spec import FleetSpec, Switches


def said(objective: Any, fleet: FleetSpec | None = None, fault: Any = None) -> str:
    fleet = fleet or fleets.three_clusters(headroom=0)
    of = Drill(
        name="some-drill",
        fleet=fleet,
        load=OpenLoop(rate_rps=100),
        steps=[Baseline(seconds=1), Inject(fault or PowerLoss("cobalt")), Observe(at_most_s=60)],
        objectives=[objective],
    )
    return expect(of, (forecast(fleet, placements_planned(fleet), "cobalt"),)).text


@pytest.mark.parametrize(
    ("objective", "quoted"),
    [
        (
            o.recovered(scope="each model", within_s=10),
            "recovered[each model] is impossible without cobalt: ft-davinci",
        ),
        (o.recovered(scope="model:ft-davinci", within_s=10), "100% of the requests to ft-davinci must fail"),
        (o.service_back(scope="each class", within_s=10), "38% of the requests to fine-tuned"),
        (o.recovered(scope="fleet", within_s=10, ratio=0.99), "3% of the requests to fleet must fail"),
        (o.good_ratio(at_least=0.98), "the objective allows 2%"),
        (o.reallocated(within_s=5), "ft-davinci: 1 replica of 1 lost finds no node"),
        (o.full_capacity(within_s=5), "needs 4 GPU(s) on one node"),
        (o.recovered(scope="model:ft-curie", within_s=0.1), "5 MiB need at least 0.2 s"),
    ],
)
def test_an_objective_that_arithmetic_excludes_is_expected_to_fail(objective: Any, quoted: str) -> None:
    text = said(objective)
    assert text.startswith("fail: ")
    assert quoted in text


@pytest.mark.parametrize(
    "objective",
    [
        o.recovered(scope="fleet", within_s=10, ratio=0.95),  # 3 % of the load may fail
        o.recovered(scope="model:curie", within_s=10),
        o.good_ratio(at_least=0.97),
        o.lost(at_most=5),
        o.no_dip(),
    ],
)
def test_an_objective_that_is_not_excluded_is_not_called_impossible(objective: Any) -> None:
    assert said(objective).startswith("pass is possible")


def test_a_fallback_that_runs_answers_for_the_model() -> None:
    objective = o.recovered(scope="model:ft-davinci", within_s=10)
    fleet = fleets.three_clusters(headroom=0, switches=Switches(fallback=True))
    assert said(objective, fleet).startswith("pass is possible")


def test_a_drill_that_touches_nothing_expects_to_know_nothing() -> None:
    assert said(o.recovered(within_s=10), fault=Noop("cobalt")).startswith("unknown")
