"""Guards: live predicates with a grace period; what they see, and when they trip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets
from blackstart import guards as g
from blackstart import objectives as o
from drills.engine.nouns.guards import Glance, Guard, defaults
from drills.engine.runner.guarding import GuardWatch, StopRequest
from history.op import LOAD, LOAD_START, RUNNER, Op
from history.reader import Run, columns
from history.records import ModelFacts, Placement, RunHeader
from history.rundir import Schedule
from tests import headers

S, MS = 1_000_000_000, 1_000_000
START = 1_000 * S
HOMES = (("solo", "cobalt"), ("calm", "jade"))


def header(homes: tuple[tuple[str, str], ...] = HOMES, rate_rps: float = 100.0) -> RunHeader:
    names = ("cobalt", "jade")
    return headers.header(
        fleet=headers.fleet(homes, {}, names), mix=headers.mix(m for m, _ in HOMES), load=headers.load(rate_rps, 120.0)
    )


def glance(
    seconds: float, *, homes: tuple[tuple[str, str], ...] = HOMES, now_s: float | None = None, **bad: Any
) -> Glance:
    """``seconds`` of load at 100 rps, recorded 10 ms after each send; ``bad``: model -> fields from 5 s on."""
    head, ops = header(homes), []
    for seq in range(round(seconds * 100)):
        model, home = HOMES[seq % 2]
        at = START + seq * 10 * MS
        op = Op(
            source=LOAD, process="load-0", kind="chat", t_intended=at, t_sent=at, t_first_byte=at + 5 * MS,
            t_done=at + 10 * MS, seq=seq, model=model, cluster=home, outcome="ok",
        )  # fmt: skip
        if model in bad and seq >= 500:
            if bad[model] is None:
                continue
            op = Op(**{name: getattr(op, name) for name in op.__struct_fields__} | bad[model])
        ops.append(op)
    ops.append(Op(source=RUNNER, process="runner", kind=LOAD_START, t_intended=START, t_done=START, outcome="ok"))
    schedule = Schedule(np.arange(12_000, dtype=np.int64) * 10 * MS, (np.arange(12_000) % 2).astype(np.int16))
    now = START + round((seconds if now_s is None else now_s) * S)
    return Glance(Run(head, schedule, columns(ops)), now, START, ("cobalt",))


FAILED = {"outcome": "fail", "error": "refused", "cluster": ""}


def test_the_victims_own_models_never_trip_the_survivors_guard() -> None:
    assert g.survivor_errors().check(glance(12, solo=FAILED)) == ""


@pytest.mark.parametrize("bad", [FAILED, None, {"t_done": START + 900 * S}])
def test_survivors_that_fail_hang_or_are_late_are_seen(bad: dict[str, Any] | None) -> None:
    said = g.survivor_errors(at_most=0.5, over_s=5.0).check(glance(12, calm=bad))
    assert "250 of 250 requests to the survivors were not good" in said
    assert g.survivor_errors(at_most=1.0).check(glance(12, calm=bad)) == ""


def test_where_every_model_has_a_replica_in_the_victim_the_survivors_answers_count() -> None:
    homes = (("solo", "cobalt"), ("calm", "jade"), ("calm", "cobalt"))
    late = {"t_done": START + 900 * S}
    assert "to the survivors" in g.survivor_errors().check(glance(12, homes=homes, calm=late))
    assert g.survivor_errors().check(glance(12, homes=homes, solo=late)) == ""


def test_fine_tunes_share_the_fate_of_their_pool() -> None:
    seen = glance(12, solo=FAILED)
    pool = ModelFacts("pool", "chat", "fine-tuned", 1, 1, 1, 1, 0.5, fine_tunes=("solo",))
    homes = (Placement("pool", "cobalt", "cobalt-n1", "pool-1"), Placement("calm", "jade", "jade-n1", "calm-1"))
    fleet = replace(seen.run.header.fleet, models=(pool,), placements=homes)
    run = Run(replace(seen.run.header, fleet=fleet), seen.run.schedule, seen.run.history)
    assert g.survivor_errors().check(replace(seen, run=run)) == ""


def test_a_guard_trips_when_it_has_said_no_for_its_whole_grace_period() -> None:
    said = iter(["bad", "bad", "", "bad", "bad", "bad", "bad"])
    guards = GuardWatch((Guard("flaky", "flaky", 2.0, lambda glance: next(said)),))
    seen = glance(1)
    trips = [guards.look(replace(seen, now_ns=START + second * S)) for second in (1, 2, 3, 4, 5, 6)]
    assert [trip is not None for trip in trips] == [False, False, False, False, False, True]
    assert trips[-1] is not None
    assert (trips[-1][0].name, trips[-1][1]) == ("flaky", "bad")


def test_whoever_asks_to_stop_comes_first(tmp_path: Path) -> None:
    asked = StopRequest(tmp_path)
    assert str(asked) == ""
    (tmp_path / "stop").touch()
    assert "file stop" in str(asked)
    asked.by_signal()
    trip = GuardWatch((g.run_time(at_most_s=0.1),)).look(replace(glance(1), stop=str(asked)))
    assert trip is not None
    assert trip[0].name == "stop-request"
    assert "SIGUSR1" in trip[1]


def test_a_handful_of_sends_says_nothing() -> None:
    assert g.survivor_errors().check(glance(1.2, calm=FAILED)) == ""


def test_a_guard_that_raises_trips_at_once_and_says_so() -> None:
    def check(_: Glance) -> str:
        raise ZeroDivisionError("x / 0")

    mine = Guard("mine", "mine", 60.0, check)
    assert GuardWatch((mine,)).look(glance(1)) == (mine, "guard mine raised ZeroDivisionError: x / 0")


def test_telemetry_that_stops_trips_and_time_outs_that_arrive_do_not() -> None:
    assert g.telemetry().check(glance(12, now_s=21.9)) == ""  # total time-out 5 s + 5 s
    assert "11.0 s old (limit 10 s)" in g.telemetry().check(glance(12, now_s=23.0))
    assert "limit 2 s" in g.telemetry(at_most_s=2).check(glance(12, now_s=15.0))


def test_no_record_at_all_is_telemetry_that_stopped() -> None:
    empty = glance(0, now_s=10.5)
    assert "10.5 s old" in g.telemetry().check(empty)
    slow = replace(empty, run=Run(header(rate_rps=0.1), empty.run.schedule, empty.run.history))
    assert g.telemetry().check(slow) == ""  # one request in 10 s: five gaps are allowed


def test_run_time_ends_with_the_schedule_or_earlier() -> None:
    assert g.run_time().check(glance(1, now_s=119)) == ""
    assert "limit 120 s" in g.run_time().check(glance(1, now_s=121))
    assert "limit 30 s" in g.run_time(at_most_s=30).check(glance(1, now_s=31))


def test_whoever_asks_to_stop_is_heard() -> None:
    assert g.stop_request().check(glance(1)) == ""
    assert g.stop_request().check(replace(glance(1), stop="SIGUSR1")) == "SIGUSR1"


def test_a_drill_has_sane_guards_and_says_what_is_wrong_with_its_own() -> None:
    fields: dict[str, Any] = {
        "name": "guarded",
        "fleet": fleets.micro(),
        "load": OpenLoop(rate_rps=50),
        "steps": [Baseline(seconds=1), Inject(PowerLoss("cobalt")), Observe(at_most_s=30)],
        "objectives": [o.lost(at_most=9)],
    }
    drill = Drill(**fields)
    assert {guard.name for guard in drill.guards} == {guard.name for guard in defaults()}
    assert all(guard.describe() for guard in drill.guards)
    wrong = Drill(**fields, guards=[g.telemetry(grace_s=-1)])
    assert "guard telemetry: grace_s=-1" in wrong.problems()[0].text
