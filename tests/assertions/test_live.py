"""Live predicates: the run cut at an instant, as the runner would see it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from assertions import analyze, live
from history.op import NEVER
from history.reader import History, Run

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script

BACK = {"cluster": "cobalt"}


def until(script: Script, now_s: float) -> tuple[Run, int]:
    """Everything that was on disk at ``now_s``."""
    run, now = script.run(), script.at(now_s)
    requests = run.history.requests
    done = requests.take((requests.t_done != NEVER) & (requests.t_done <= now))
    events = tuple(op for op in run.history.events if max(op.t_done, op.t_intended) <= now)
    return Run(run.header, run.schedule, History(done, events)), now


def test_recovered_once_the_hold_is_certified(script: Script) -> None:
    down = script.fail(0.0, 4.0, ("solo",))
    assert not live.all_recovered(*until(down, -1.0)).done
    early = live.all_recovered(*until(down, 6.5))
    assert (early.done, "solo" in early.text) == (False, True)
    late = live.all_recovered(*until(down, 7.2))
    assert (late.done, late.text) == (True, "2 affected models and all that was promised hold")


def test_a_model_that_stays_down_is_never_done(script: Script) -> None:
    assert not live.all_recovered(*until(script.fail(0.0, 100.0, ("solo",)), 29.0)).done


def test_ops_in_flight_are_waited_for_until_they_time_out(script: Script) -> None:
    hung = script.fail(0.0, 2.0, ("solo",)).change(2.5, 2.52, ("solo",), outcome="fail", t_done=script.at(7.5))
    assert not live.all_recovered(*until(hung, 6.0)).done
    assert live.all_recovered(*until(hung, 7.6)).done
    lost = script.fail(0.0, 2.0, ("solo",)).lose(2.5, 2.52, ("solo",))
    assert not live.all_recovered(*until(lost, 6.0)).done
    assert live.all_recovered(*until(lost, 7.6)).done  # older than the time-out: settled as bad, and a hold since


def test_failed_back_needs_replicas_home_and_surrogates_gone(script: Script) -> None:
    made = script.fail(0.0, 4.0, ("solo",))
    for model in ("solo", "pair"):
        made = made.event("replica.ready", 3.9, model=model, cluster="jade", replica=f"{model}-new")
    assert live.all_failed_back(*until(made, 20.0)).text == "not healed yet"
    assert live.all_failed_back(*until(made, 30.5)).text == "waiting for the heal to be verified"
    assert live.all_failed_back(*until(made, 35.0)).text == "0 of 2 replicas back, 2 surrogates left"
    for model in ("solo", "pair"):
        made = made.event("replica.ready", 32.0, model=model, replica=f"{model}-cobalt", **BACK)
    assert live.all_failed_back(*until(made, 35.0)).text == "2 of 2 replicas back, 2 surrogates left"
    for model in ("solo", "pair"):
        made = made.event("replica.gone", 33.0, model=model, cluster="jade", replica=f"{model}-new")
    assert live.all_failed_back(*until(made, 35.0)).done
    dipped = live.all_failed_back(*until(made.fail(33.5, 34.9), 35.0))
    assert (dipped.done, "waiting for" in dipped.text) == (False, True)


@pytest.mark.parametrize(
    ("promised", "text"),
    [
        ((), "fleet"),
        ((("class:base", 0.99),), "base"),
        ((("model:calm", 0.99), ("fleet", 0.90)), "calm"),
        ((("each class", 0.95), ("each model", 0.97)), "ft"),
        ((("affected", 0.99), ("bystanders", 0.98)), "affected"),
    ],
)
def test_what_the_drill_promises_is_proven_when_the_step_ends(
    script: Script, objective: Objective, promised: tuple[tuple[str, float], ...], text: str
) -> None:
    """``until`` fires no earlier than analyze can certify every promised recovery, and then every one is decided."""
    specs = tuple(objective("recovered", 4.5, scope=scope, ratio=ratio) for scope, ratio in promised)
    specs += (objective("service_back", 4.5, scope="model:solo", ratio=0.9),)
    made = replace(script.fail(0.0, 2.0, ("solo",)), objectives=specs)
    waits = ""
    for half_s in range(1, 59):
        progress = live.all_recovered(*until(made, half_s / 2))
        if progress.done:
            break
        waits += progress.text
    assert progress.done
    assert text in waits
    ended = analyze(replace(made, observed_s=half_s / 2, failback_s=None).run())
    assert {o.verdict for o in ended.objectives} == {"pass"}, ended.objectives


def test_a_scope_that_nothing_is_sent_to_is_not_waited_for(script: Script, objective: Objective) -> None:
    fleet = script.run().header.fleet
    silent = replace(fleet, models=tuple(replace(m, share=m.share if m.name != "calm" else 0.0) for m in fleet.models))
    made = replace(script, objectives=(objective("recovered", scope="model:calm", ratio=0.9),))
    made = replace(made.lose(0.0, 30.0, ("calm",)), header_changes={"fleet": silent})
    assert "calm" not in live.all_recovered(*until(made, 20.0)).text
