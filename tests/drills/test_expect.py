"""What is forecast of a drill that takes several clusters, and what is expected of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from drills.engine.nouns import Baseline, BlastRadius, Inject, Observe, PowerLoss, Restore
from drills.engine.nouns import objectives as o
from drills.engine.runner.facts import first_header
from drills.engine.safety.expect import expect, taken_at_once
from drills.engine.safety.loader import find
from drills.engine.safety.plan import make_plan
from fleet import fleets
from fleet.forecast import Losses, forecast, placements_planned
from history.clock import Anchor
from tests.drills.test_refusals import ScriptedFleet, drill, two_victims


def test_clusters_that_are_gone_together_are_forecast_together() -> None:
    fleet = fleets.three_clusters(headroom=1)
    both = drill(PowerLoss("cobalt"), PowerLoss("jade"), fleet=fleet, radius=BlastRadius(clusters=2))
    both = replace(both, objectives=[o.recovered(scope="each model", within_s=30)])
    assert taken_at_once(both) == (("cobalt",), ("cobalt", "jade"))
    planned = placements_planned(fleet)
    alone, together = (forecast(fleet, planned, *victims) for victims in taken_at_once(both))
    truth = {pair.clusters: pair.fits for pair in Losses(fleet, planned).pairs()}
    assert (alone.fits, together.fits) == (True, truth["cobalt", "jade"]) == (True, False)
    assert {node for row in together.models for node in row.nodes} <= {"amber-n1", "amber-n2"}
    assert expect(both, (alone, together)).text.startswith(
        "fail: recovered[each model] is impossible without cobalt and"
    )
    assert taken_at_once(two_victims()) == (("jade",), ("cobalt",)), "the first is back before the second goes"


def test_what_waits_for_a_failback_needs_a_restore() -> None:
    start = [Baseline(seconds=1), Inject(PowerLoss("cobalt")), Observe(at_most_s=60)]
    wait = Observe(until=o.all_failed_back() & o.all_recovered(), at_most_s=60)
    home = [o.failed_back(within_s=10)]
    said = [problem.text for problem in replace(drill(steps=[*start, wait]), objectives=home).problems()]
    assert len(said) == 2
    assert "no Restore stands before it, so never 'all failed back and " in said[0] + said[1]
    assert "its window is the failback, and there is no Restore in steps" in said[0] + said[1]
    assert replace(drill(steps=[*start, Restore("cobalt"), wait]), objectives=home).problems() == ()
    either = Observe(until=o.all_failed_back() | o.all_recovered(), at_most_s=60)
    assert drill(steps=[*start, either]).problems() == ()


def test_the_same_arithmetic_is_said_once() -> None:
    fleet = fleets.three_clusters(headroom=0)
    asked = [o.recovered(scope="fleet", within_s=10, ratio=0.99), o.recovered(scope="model:ft-davinci", within_s=10)]
    of = replace(drill(PowerLoss("cobalt"), fleet=fleet), objectives=asked)
    first, second = expect(of, (forecast(fleet, placements_planned(fleet), "cobalt"),)).impossible
    assert "ft-davinci cannot run (1 replica of 1 lost finds no node" in first.text
    assert "ft-davinci cannot run, so 100% of the requests to ft-davinci must fail" in second.text


def test_the_header_has_the_forecast_of_each_loss(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        "from blackstart import Baseline, BlastRadius, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets\n"
        "from blackstart import objectives as o\n"
        "drill = Drill(name='two', fleet=fleets.micro(), load=OpenLoop(60), blast_radius=BlastRadius(clusters=2),\n"
        "    steps=[Baseline(5), Inject(PowerLoss('cobalt')), Inject(PowerLoss('jade')), Observe(at_most_s=9)],\n"
        "    objectives=[o.lost(at_most=500)])\n"
    )
    plan = make_plan(find(str(path), tmp_path), "local", 1)
    header = first_header(plan, ScriptedFleet(plan.drill.fleet), "two", Anchor.take(), ())
    alone, both = header.forecasts
    assert (alone.gone, alone.fits) == (("cobalt",), True)
    assert (both.gone, both.fits) == (("cobalt", "jade"), False)
    assert header.forecast == header.forecast_of(("cobalt",)) == alone
    assert header.forecast_of(("jade", "cobalt")) == both
