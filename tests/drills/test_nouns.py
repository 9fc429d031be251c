"""The nouns of a drill: every mistake is found, with the line that made it."""

from __future__ import annotations

import dataclasses
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest

import blackstart
from assertions.live import Progress
from blackstart import Baseline, BlastRadius, Drill, Inject, Noop, Observe, OpenLoop, PowerLoss, Restore, fleets
from blackstart import objectives as o
from drills.engine.nouns import Step, Until
from drills.engine.nouns.typed import mistyped
from drills.engine.safety.loader import find_all
from drills.engine.safety.plan import make_plan
from history.reader import Run


def make(**changes: Any) -> Drill:
    fields: dict[str, Any] = {
        "name": "a-drill",
        "fleet": fleets.micro(),
        "load": OpenLoop(rate_rps=50),
        "steps": [Baseline(seconds=1), Inject(PowerLoss("cobalt")), Observe(at_most_s=30), Restore("cobalt")],
        "objectives": [o.recovered(scope="fleet", within_s=10, ratio=0.99)],
    }
    return Drill(**{**fields, **changes})


def texts(drill: Drill) -> str:
    return "\n".join(problem.text for problem in drill.problems())


def test_a_sound_drill_has_no_problems() -> None:
    assert make().problems() == ()


def test_every_problem_knows_its_own_line() -> None:
    drill = make(
        load=OpenLoop(rate_rps=-1),
        steps=[
            Baseline(seconds=0),
            Inject(PowerLoss("cobalt")),
        ],
    )
    problems = drill.problems()
    assert [p.where.file == __file__ for p in problems] == [True, True]
    first, second = problems
    assert "rate_rps=-1" in first.text
    assert "Baseline(seconds=0)" in second.text
    assert second.where.line == first.where.line + 2


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "first step must be a Baseline"),
        ([Inject(PowerLoss("cobalt"))], "first step must be a Baseline"),
        ([Baseline(seconds=1)], "no Inject"),
        ([Baseline(seconds=1), Inject(PowerLoss("cobolt"))], "no cluster 'cobolt'"),
        ([Baseline(seconds=1), Inject(PowerLoss("jade")), Restore("cobalt")], "no fault was injected into it"),
        ([Baseline(seconds=1), Inject(PowerLoss("jade")), Inject(Noop("jade"))], "'jade' is hurt already"),
        ([Baseline(seconds=1), Inject(PowerLoss("jade")), Observe(at_most_s=0)], "at_most_s=0"),
        ([Baseline(seconds=1), Inject(PowerLoss("jade")), Observe(then_s=-1)], "then_s=-1"),
        ([Baseline(seconds=float("inf")), Inject(PowerLoss("jade"))], "seconds=inf"),
        ([Baseline(seconds=1), Inject(PowerLoss("jade")), Observe(at_most_s=float("nan"))], "at_most_s=nan"),
        ([Baseline(seconds=1e9), Inject(PowerLoss("jade"))], "OpenLoop: 50 rps for 1e+09 s are more than"),
    ],
)
def test_steps_in_an_impossible_order_are_refused(steps: list[Step], said: str) -> None:
    assert said in texts(make(steps=steps))


@pytest.mark.parametrize("radius", [BlastRadius(clusters=0), BlastRadius(survivors=-1)])
def test_a_blast_radius_is_declared_in_whole_clusters(radius: BlastRadius) -> None:
    steps = [Baseline(seconds=1), Inject(PowerLoss("jade"))]
    assert "clusters must be at least 1" in texts(make(steps=steps, blast_radius=radius))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate_rps": float("nan")}, "rate_rps=nan"),
        ({"good_within_ms": 0}, "good_within_ms=0"),
        ({"shape": "square"}, "shape='square'"),
        ({"shape": "ramp"}, "ramp_s=0"),
        ({"good_within_ms": 6000}, "longer than total_timeout_s"),
        ({"processes": 0}, "processes=0"),
    ],
)
def test_an_impossible_load_is_refused(changes: dict[str, Any], said: str) -> None:
    load = dataclasses.replace(OpenLoop(rate_rps=50), **changes)
    assert said in texts(make(load=load))


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (o.recovered(within_s=-1), "must be a number that is not negative"),
        (o.recovered(within_s=1).elsewhere(kind=-1), "must be a number that is not negative"),
        (o.recovered(within_s=1, not_before_s=-1), "limit -1 s: must be a number that is not negative"),
        (o.recovered(within_s=5, ratio=1.0), "no finite run can prove"),
        (o.recovered(scope="model:gpt", within_s=5), "no model 'gpt'"),
        (o.recovered(scope="class:gpt", within_s=5), "no class 'gpt'"),
        (o.recovered(scope="everything", within_s=5), "scope='everything'"),
        (o.latency(p95_ms=5, window="lunch"), "window='lunch'"),  # type: ignore[arg-type]
    ],
)
def test_an_impossible_objective_is_refused(objective: Any, said: str) -> None:
    assert said in texts(make(objectives=[objective]))


def test_a_limit_may_be_another_one_elsewhere() -> None:
    boot = o.provisioned("api", within_s=3).elsewhere(kind=40)
    assert (boot.there("local").spec.limit, boot.there("kind").spec.limit) == (3, 40)
    assert boot.there("kind").spec.name == boot.spec.name
    file = find_all(Path("/"))["rebuild-from-scratch"]
    limits = {one.spec.name: one.spec.limit for one in make_plan(file, "kind", 1).drill.objectives}
    assert limits["provisioned[gpus]"] == 50


careless: Any = blackstart
"""As a drill file sees it: nobody checks its types."""
hasty: Any = o


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fleet": "docs/fleet.toml"}, "fleet='docs/fleet.toml': must be a fleet: fleets.NAME()"),
        ({"blast_radius": 2}, "blast_radius=2: must be a BlastRadius"),
        ({"blast_radius": careless.BlastRadius(clusters="all")}, "BlastRadius: clusters='all': must be a whole number"),
        ({"load": careless.OpenLoop(rate_rps="100")}, "OpenLoop: rate_rps='100': must be a number"),
        ({"steps": [Baseline(seconds=1), Noop("jade")]}, "steps[1]=Noop(target='jade'): must be a Baseline, an Inject"),
        ({"steps": [Baseline(seconds=True)]}, "Baseline: seconds=True: must be a number"),
        ({"steps": [Restore("jade", (careless.Stage("a", "1"),))]}, "Stage a: seconds='1': must be a number"),
        ({"steps": [Inject(careless.Noop(3))]}, "Noop: target=3: must be a text"),
        ({"steps": [careless.Observe(until=o.all_recovered)]}, "until=all_recovered (without its brackets): must be"),
        ({"objectives": [o.recovered]}, "objectives[0]=recovered (without its brackets): must be an objective"),
        ({"objectives": o.lost(at_most=1)}, "must be a list, each an objective"),
        ({"objectives": [hasty.latency(p95_ms="fast")]}, "Objective latency[fleet]: limit='fast': must be a number"),
        ({"objectives": [hasty.recovered(within_s=None)]}, "limit=None: must be a number"),
        ({"objectives": [hasty.lost(at_most=1, scope=None)]}, "scope=None: must be a text"),
        ({"guards": [careless.guards.telemetry(grace_s="1")]}, "Guard telemetry: grace_s='1': must be a number"),
        ({"fleet": careless.FleetSpec("odd", (), 3, ())}, "Fleet odd: models=3: must be a list, each a"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_problem_with_its_rule(changes: dict[str, Any], said: str) -> None:
    assert said in texts(make(**changes))


@pytest.mark.parametrize(
    ("make_guard", "said"),
    [
        (lambda: careless.guards.run_time(at_most_s=float("nan")), "at_most_s=nan: must be a number above 0"),
        (lambda: careless.guards.telemetry(at_most_s=-1), "at_most_s=-1: must be a number above 0"),
        (lambda: careless.guards.survivor_errors(at_most=20), "at_most=20: must be a share"),
        (lambda: careless.guards.survivor_errors(over_s=0), "over_s=0: must be a number above 0"),
    ],
)
def test_a_guard_that_could_never_trip_or_always_would_is_a_mistake(make_guard: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_guard()


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_time_runs_forward(scale: float) -> None:
    assert f"time_scale={scale}: must be a number above 0" in texts(make(time_scale=scale))


def test_a_wrong_type_hides_no_other_nouns_mistakes() -> None:
    found = texts(make(load=OpenLoop(rate_rps=0), objectives=[o.lost(at_most=-1), hasty.latency(p95_ms="x")]))
    assert [word in found for word in ("rate_rps=0", "limit -1", "limit='x'")] == [True] * 3


def test_an_objective_declared_twice_is_refused() -> None:
    assert "declared twice" in texts(make(objectives=[o.lost(at_most=1), o.lost(at_most=2)]))


def test_latency_wants_exactly_one_percentile() -> None:
    with pytest.raises(TypeError, match="exactly one"):
        o.latency()
    with pytest.raises(TypeError, match="exactly one"):
        o.latency(p95_ms=1, p99_ms=1)


def test_the_same_drill_written_on_other_lines_is_the_same_value() -> None:
    one = PowerLoss("cobalt")
    other = PowerLoss("cobalt")
    assert one == other
    assert one.where != other.where


def test_the_fault_window_reaches_from_injection_to_restore() -> None:
    steps = [
        Baseline(seconds=1), Inject(PowerLoss("jade")), Observe(at_most_s=7, then_s=2), Restore("jade"),
        Observe(at_most_s=100),
    ]  # fmt: skip
    assert make(steps=steps).fault_window_s() == 9
    assert make(steps=steps).longest_s() == 110


def criterion(done: bool, text: str) -> Until:
    return Until(text, lambda run, now_ns: Progress(done, text))


@pytest.mark.parametrize(("a", "b"), [(False, False), (False, True), (True, False), (True, True)])
def test_criteria_compose(a: bool, b: bool) -> None:
    run: Run = None  # type: ignore[assignment]  # these criteria do not look at the run
    both = criterion(a, "a") & criterion(b, "b")
    either = criterion(a, "a") | criterion(b, "b")
    assert both.check(run, 0).done is (a and b)
    assert either.check(run, 0).done is (a or b)
    assert (both.text, either.text) == ("a and b", "a or b")


def test_a_noun_of_ones_own_whose_annotations_cannot_be_read_is_taken_at_its_word() -> None:
    made = make_dataclass("Mine", [("table", "dict[str, Unheard]")], bases=(Noop,), frozen=True)("jade", table={"a": 1})
    other = make_dataclass("Other", [("table", dict[str, int])], bases=(Noop,), frozen=True)("jade", table={"a": 1})
    assert list(mistyped(made, made)) == []
    assert list(mistyped(other, other)) == []
