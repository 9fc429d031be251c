"""The phase clock from events: bounds, replacements, capacity; warmth from what answers say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from assertions import analyze
from assertions.result import ObjectiveResult
from assertions.warmth import stretch_of
from history.op import CONTROLLER, DECIDED, DETECTED, OBSERVER, UNPLACEABLE, WATCH_GAP
from history.records import Forecast, ModelForecast

if TYPE_CHECKING:
    from history.records import ObjectiveSpec
    from tests.assertions.conftest import Objective, Script

NEW = {"model": "solo", "cluster": "jade", "replica": "solo-new"}
PAIR = {"model": "pair", "cluster": "jade", "replica": "pair-new"}


def replaced(script: Script) -> Script:
    """The allocator notices at 1 s; solo's replacement is ready at 3.9 s, pair's at 2.5 s."""
    made = script.event(DETECTED, 1.0, CONTROLLER, cluster="cobalt", detail={"t_emitted": script.at(0.9)})
    made = made.event(DECIDED, 1.2, CONTROLLER, model="pair").event(DECIDED, 1.3, CONTROLLER, model="solo")
    for kind, at_s in (("created", 1.4), ("scheduled", 1.5), ("started", 1.6)):
        made = made.event(f"replica.{kind}", at_s, **NEW).event(f"replica.{kind}", at_s, **PAIR)
    detail = {"t_emitted": script.at(3.7), "bytes": 100, "seconds": 2.0}
    made = made.event("replica.weights", 3.8, weights="store", detail=detail, **NEW).event("replica.ready", 3.9, **NEW)
    return made.event("replica.weights", 2.4, weights="peer", **PAIR).event("replica.ready", 2.5, **PAIR)


def one(script: Script, spec: ObjectiveSpec) -> ObjectiveResult:
    (found,) = analyze(replace(script, objectives=(spec,)).run()).objectives
    return found


def test_every_phase_has_bounds(script: Script) -> None:
    result = analyze(replaced(script.fail(0.0, 4.0, ("solo",))).run())
    solo, fleet = result.models["solo"], result.fleet
    assert solo.bounds["detected"] == (0.9, 1.0)
    assert solo.bounds["decided"] == (1.3, 1.3)
    assert solo.bounds["weights"] == (3.7, 3.8)
    assert (solo.scheduled_s, solo.weights_s, solo.ready_s, solo.full_capacity_s) == (1.5, 3.8, 3.9, 3.9)
    assert (result.models["pair"].full_capacity_s, result.models["pair"].victims) == (2.5, 1)
    calm = result.models["calm"]
    assert (calm.detected_s, calm.ready_s, calm.full_capacity_s, calm.victims) == (None, None, None, 0)
    assert fleet is not None
    assert (fleet.decided_s, fleet.ready_s, fleet.full_capacity_s) == (1.3, 3.9, 3.9)


def test_events_before_the_injection_or_of_old_replicas_do_not_count(script: Script) -> None:
    made = script.event("replica.ready", -5.0, **NEW)
    made = made.event("replica.ready", 2.0, model="pair", cluster="amber", replica="pair-amber")  # listed again
    made = made.event("replica.ready", 35.0, model="solo", cluster="cobalt", replica="solo-cobalt")
    models = analyze(made.run()).models
    assert models["solo"].ready_s is None
    assert models["pair"].ready_s is None
    assert models["pair"].full_capacity_s is None


def test_a_watch_gap_widens_what_was_received_after_it(script: Script) -> None:
    made = script.event(WATCH_GAP, 5.0, cluster="jade", t_intended=script.at(2.0), t_done=script.at(5.0))
    made = made.event("replica.ready", 5.1, **NEW)
    assert analyze(made.run()).models["solo"].bounds["ready"] == (2.0, 5.1)


def test_reallocated_is_judged_for_each_affected_model(script: Script, objective: Objective) -> None:
    spec = objective("reallocated", 3.0, scope="fleet")
    found = analyze(replace(replaced(script), objectives=(spec,)).run()).objectives
    assert [(o.scope, o.verdict, o.measured) for o in found] == [("solo", "fail", 3.9), ("pair", "pass", 2.5)]


@pytest.mark.parametrize("end", ["replica.failed", "replica.gone"])
def test_a_replacement_that_dies_replaces_nothing(script: Script, objective: Objective, end: str) -> None:
    """Ready at 2.0 s and dead at 2.2 s is no replacement, however early it was ready; its successor dates it."""
    spec = objective("reallocated", 3.0, scope="model:solo")
    forecast = Forecast("cobalt", 1, 4, (ModelForecast("solo", 1, 1, True, "", 100, 1.6),))
    made = script.event("replica.ready", 2.0, **NEW).event(end, 2.2, **NEW)
    made = replace(made, objectives=(spec,), header_changes={"forecast": forecast})
    dead = analyze(made.run())
    (found,), (row,) = dead.objectives, dead.forecast
    assert (found.verdict, found.text, row.fits_actual) == ("fail", "> 30.0 s", False)
    assert "0 replacements ready for 1 lost replica of solo at the end; they were too few again at 2.20 s" in (
        found.evidence
    )
    assert dead.models["solo"].full_capacity_s is None
    again = analyze(made.event("replica.ready", 2.8, model="solo", cluster="amber", replica="solo-third").run())
    assert (again.objectives[0].verdict, again.objectives[0].measured) == ("pass", 2.8)
    assert again.models["solo"].full_capacity_s == 2.8
    assert again.forecast[0].fits_actual is True


def test_coming_home_is_no_loss_of_a_replacement(script: Script, objective: Objective) -> None:
    """Where the fault window lasts to the end, surrogates go once the home replica is ready: never too few."""
    made = replace(script, header_changes={"recovery_until": "end"}).event("replica.ready", 2.0, **NEW)
    made = made.event("replica.ready", 32.0, model="solo", cluster="cobalt", replica="solo-back")
    made = made.event("replica.gone", 33.0, **NEW)
    assert one(made, objective("reallocated", 5.0, scope="model:solo")).bounds == (2.0, 2.0)
    assert one(made, objective("full_capacity", 5.0, scope="model:solo")).bounds == (2.0, 2.0)
    lost = made.event("replica.failed", 35.0, model="solo", cluster="cobalt", replica="solo-back")
    assert one(lost, objective("reallocated", 5.0, scope="model:solo")).verdict == "fail"


@pytest.mark.parametrize(("until", "fits"), [("end", False), ("restore", True)])
def test_what_fits_once_the_cluster_is_back_did_not_fit_on_the_survivors(
    script: Script, until: str, fits: bool
) -> None:
    forecast = Forecast("cobalt", 4, 0, (ModelForecast("solo", 1, 0, False, "", 100, 1.6),))
    made = script.event("unplaceable", 1.0, CONTROLLER, model="solo", detail={"reason": "no room"})
    made = made.event(
        "replica.ready",
        32.0 if until == "end" else 20.0,
        model="solo",
        cluster="cobalt" if until == "end" else "jade",
        replica="solo-back",
    )
    made = replace(made, header_changes={"recovery_until": until, "forecast": forecast})
    assert analyze(made.run()).forecast[0].fits_actual is fits


def broken_watch(script: Script, source: str, start_s: float, end_s: float, cluster: str = "") -> Script:
    return script.event(
        WATCH_GAP, end_s, source, cluster=cluster, t_intended=script.at(start_s), t_done=script.at(end_s)
    )


def test_what_happened_behind_a_broken_watch_is_unknown(script: Script, objective: Objective) -> None:
    spec = objective("reallocated", 5.0, scope="model:solo")
    assert one(broken_watch(script, OBSERVER, 2.0, 10.0, "jade"), spec).verdict == "fail"  # listed again, saw nothing
    open_ = one(broken_watch(script, OBSERVER, 2.0, 35.0, "jade"), spec)
    assert (open_.verdict, open_.bounds) == ("unknown", (2.0, None))
    assert "a watch of the observer broke at 2.00 s" in open_.evidence
    assert one(broken_watch(script, OBSERVER, 6.0, 35.0, "jade"), spec).verdict == "fail"  # too late by then
    victim = broken_watch(script, OBSERVER, 0.1, 35.0, "cobalt").event("replica.pending", 1.0, **NEW)
    assert one(victim, spec).verdict == "fail"  # the victim's watch breaks by design
    died_unseen = broken_watch(script.event("replica.ready", 2.0, **NEW), OBSERVER, 3.0, 35.0, "jade")
    assert one(died_unseen, spec).verdict == "unknown"
    decided = objective("decided", 5.0, scope="model:solo")
    assert one(broken_watch(script, CONTROLLER, 1.0, 35.0), decided).verdict == "unknown"
    assert one(broken_watch(script, OBSERVER, 1.0, 35.0, "jade"), decided).verdict == "fail"


def test_what_does_not_fit_never_comes(script: Script, objective: Objective) -> None:
    reason = {"reason": "needs 4 GPUs; free: amber-n1 2, jade-n1 1"}
    made = script.fail(0.0, 100.0, ("solo",)).event(UNPLACEABLE, 1.4, CONTROLLER, model="solo", detail=reason)
    made = replace(
        made, objectives=(objective("recovered", scope="each model", ratio=0.9), objective("reallocated", 5.0))
    )
    result = analyze(made.event("replica.pending", 1.5, **NEW).run())
    assert result.verdict == "fail"
    assert result.models["solo"].unplaceable == reason["reason"]
    assert "did not recover in the 30.0 s observed: needs 4 GPUs; free: amber-n1 2, jade-n1 1." in result.headline
    assert any("solo" in reason_ and "needs 4 GPUs" in reason_ for reason_ in result.reasons)
    solo = next(o for o in result.objectives if (o.indicator, o.scope) == ("reallocated", "solo"))
    assert (solo.verdict, solo.text) == ("fail", "> 30.0 s")


def test_without_a_reporter_silence_means_nothing(script: Script, objective: Objective) -> None:
    assert one(script, objective("full_capacity", 5.0)).verdict == "unknown"  # no observer at all
    assert one(replace(script, without=("watched",)), objective("detected", 5.0)).verdict == "unknown"
    assert one(script, objective("detected", 5.0)).verdict == "fail"  # a controller is there and saw nothing
    assert one(replaced(script), objective("detected", 5.0)).verdict == "pass"
    assert one(script, objective("decided", 5.0, scope="bystanders")).text == "nothing lost"


def test_forecast_against_actual(script: Script) -> None:
    rows = (
        ModelForecast("solo", 1, 1, True, "", 100, 1.6),
        ModelForecast("pair", 1, 1, True, "", 100, 2.0),
        ModelForecast("calm", 0, 0, True, "", 0, None),
    )
    made = replace(replaced(script), header_changes={"forecast": Forecast("cobalt", 2, 4, rows)})
    solo, pair, calm = analyze(made.run()).forecast
    assert (solo.fits_actual, solo.reload_s_actual, solo.ratio) == (True, 2.0, 1.25)
    assert (pair.fits_actual, pair.reload_s_actual, pair.ratio) == (True, None, None)
    assert calm.fits_actual is None


def test_warm_after_cold_answers(script: Script) -> None:
    cold = script.fail(0.0, 4.0, ("solo",)).change(4.0, 6.0, ("solo",), weights="store")
    found = analyze(cold.run()).models["solo"]
    assert found.bounds["warm"] == (5.975, 6.02)
    assert found.warm_s == 6.02
    assert analyze(script.run()).models["solo"].warm_s == 0.0


def test_never_warm_and_not_judged(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 4.0, ("solo",))
    cold = down.change(4.0, 100.0, ("solo",), weights="peer")
    spec = objective("warm", 10.0, scope="model:solo", ratio=0.9)
    found = one(cold, spec)
    assert (found.verdict, found.text) == ("fail", "> 30.0 s")
    silent = one(down.change(-100.0, 100.0, weights=""), spec)
    assert (silent.verdict, silent.measured) == ("unknown", None)
    assert "0 answers of the baseline" in silent.evidence


def test_a_baseline_that_is_not_all_resident(script: Script) -> None:
    """A pool with one cold answer in five: warm once the share is back, not once the last cold answer has passed."""
    pool = script.change(-100.0, 100.0, ("solo",))
    for tenth in range(-500, 500, 5):
        pool = pool.change(tenth / 40, tenth / 40 + 0.02, ("solo",), weights="peer")
    pool = pool.fail(0.0, 4.0, ("solo",)).change(4.0, 6.0, ("solo",), weights="store")
    warm = analyze(pool.run()).models["solo"].bounds["warm"]
    assert warm[1] is not None
    assert 5.5 <= warm[1] <= 6.2


@pytest.mark.parametrize(("share", "length"), [(1.0, 29)])
def test_the_stretch_that_proves_the_baseline_share(share: float, length: int) -> None:
    assert stretch_of(share) == (length, 0)
    assert stretch_of(0.05) is None
    found = stretch_of(0.8)
    assert found is not None
    assert 40 <= found[0] <= 200
