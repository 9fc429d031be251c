"""failed_back: everything home and no surrogate left, from what clusters say and from who answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from assertions import analyze, live
from assertions.result import ObjectiveResult
from history.op import FAULT_HEALED, OBSERVER, WATCH_GAP

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script


@pytest.fixture
def moved(script: Script) -> Script:
    """Both lost replicas have surrogates in jade since 4 s; the heal is called at 30 s, verified at 31 s."""
    made = script.fail(0.0, 4.0, ("solo",))
    for model in ("solo", "pair"):
        made = made.event("replica.ready", 3.9, model=model, cluster="jade", replica=f"{model}-new")
    return made


def home(script: Script, at_s: float, *models: str) -> Script:
    for model in models:
        script = script.event("replica.ready", at_s, model=model, cluster="cobalt", replica=f"{model}-back")
    return script


def gone(script: Script, at_s: float, *models: str, kind: str = "replica.gone") -> Script:
    for model in models:
        script = script.event(kind, at_s, model=model, cluster="jade", replica=f"{model}-new")
    return script


def judged(script: Script, objective: Objective, limit: float = 5.0) -> ObjectiveResult:
    (found,) = analyze(
        replace(script, objectives=(objective("failed_back", limit, window="failback"),)).run()
    ).objectives
    return found


def test_seconds_since_the_verified_restore(moved: Script, objective: Objective) -> None:
    made = gone(home(moved, 32.0, "solo", "pair"), 33.5, "solo", "pair")
    found = judged(made, objective)
    assert (found.verdict, found.bounds) == ("pass", (2.5, 2.5))
    assert judged(replace(made, without=(FAULT_HEALED,)), objective).bounds == (3.5, 3.5)  # the call, without it
    assert found.evidence == "2 of 2 lost replicas are home in cobalt, 0 surrogates stand"
    assert judged(made, objective, 2.0).verdict == "fail"


def test_who_never_comes_home_fails(moved: Script, objective: Objective) -> None:
    """An allocator that never fails back: every user is served, and the drill fails all the same."""
    assert (judged(moved, objective).verdict, judged(moved, objective).text) == ("fail", "> 9.0 s")
    half = gone(home(moved, 32.0, "solo"), 33.0, "solo")
    assert judged(half, objective).evidence == "1 of 2 lost replicas are home in cobalt, 1 surrogates stand"
    assert judged(half, objective).verdict == "fail"
    doubled = home(moved, 32.0, "solo", "pair")
    assert judged(doubled, objective).verdict == "fail"
    assert judged(gone(doubled, 33.0, "solo", "pair", kind="replica.failed"), objective).verdict == "pass"
    again = gone(doubled, 33.0, "solo", "pair").event(
        "replica.failed", 36.0, model="solo", cluster="cobalt", replica="solo-back"
    )
    assert judged(again, objective).verdict == "fail"
    assert judged(home(again, 38.0, "solo"), objective).bounds == (7.0, 7.0)


def test_what_was_only_frozen_is_home_when_it_answers(script: Script, objective: Objective) -> None:
    """A thawed replica says nothing; that it answers users again shows that it is back, unless it was removed."""
    served = {"cluster": "cobalt", "node": "cobalt-n1"}
    frozen = script.fail(0.0, 32.0, ("solo", "pair"))
    frozen = frozen.change(32.0, 40.0, ("solo",), replica="solo-cobalt", **served)
    frozen = frozen.change(33.0, 40.0, ("pair",), replica="pair-cobalt", **served)
    found = judged(frozen.event("watched", 1.0, OBSERVER), objective)
    assert found.verdict == "pass"
    assert found.bounds == pytest.approx((2.01, 2.02), abs=0.03)
    removed = frozen.event("replica.gone", 33.5, model="pair", cluster="cobalt", replica="pair-cobalt")
    assert judged(removed, objective).verdict == "fail"
    run = frozen.run()
    assert "all 2 replicas back" in live.all_failed_back(run, frozen.at(39.0)).text


def test_without_sight_or_restore_it_is_unknown(moved: Script, script: Script, objective: Objective) -> None:
    assert judged(replace(moved, failback_s=None), objective).verdict == "unknown"
    assert judged(script, objective).verdict == "unknown"  # no observer said anything
    made = gone(home(moved, 32.0, "solo", "pair"), 33.5, "solo", "pair")
    gap = {"cluster": "jade", "t_intended": made.at(34.0), "t_done": made.at(41.0), "outcome": "unknown"}
    blind = judged(made.event(WATCH_GAP, 41.0, OBSERVER, **gap), objective)
    assert (blind.verdict, blind.bounds) == ("unknown", (2.5, None))
    never = judged(moved.event(WATCH_GAP, 41.0, OBSERVER, **gap), objective)
    assert never.verdict == "unknown"
