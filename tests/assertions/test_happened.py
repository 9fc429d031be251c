"""*It really happened*: each fault for itself, a prober with a positive control, new connections beside the load."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from assertions import analyze
from assertions.happened import WAITING
from assertions.result import Check, Result
from history.op import CANARY, CLUSTER_PROBER, PROBE_API, PROBE_DATA, RESTORE_STAGE, RUNNER, Op
from history.records import FaultMark, StepFacts

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script

COBALT = FaultMark("PowerLoss", "cobalt", "refused", "cobalt lost power")
JADE = FaultMark("PowerLoss", "jade", "refused", "jade lost power")
GOOD = {"signals": [{"name": "api", "ok": True, "seen": "gone"}]}


def check(result: Result, name: str) -> Check:
    (found,) = [c for c in result.validity.checks if c.name == name]
    return found


def probes(
    script: Script, start_s: float, end_s: float, kinds: tuple[str, ...], cluster: str = "cobalt", **fields: Any
) -> Script:
    """Four probes a second of each plane."""
    made = []
    for quarter in range(round(start_s * 4), round(end_s * 4)):
        t = script.at(quarter / 4)
        for kind in kinds:
            given = {"t_sent": t, "t_done": t + 1_000_000, "outcome": "ok", **fields}
            made.append(Op(source=CLUSTER_PROBER, process="p", kind=kind, cluster=cluster, t_intended=t, **given))
    return replace(script, extra=(*script.extra, *made))


BOTH = (PROBE_API, PROBE_DATA)
DOWN = {"outcome": "fail", "error": "refused"}


@pytest.fixture
def sound(script: Script, objective: Objective) -> Script:
    return replace(script.fail(0.0, 4.0, ("solo",)), objectives=(objective("recovered"),))


@pytest.fixture
def unprobed(sound: Script) -> Script:
    return replace(sound, without=("probe.data", "probe.api"))


def test_the_prober_has_a_positive_control(unprobed: Script) -> None:
    name = "cluster prober saw it"
    always = probes(unprobed, -10.0, 30.0, BOTH, **DOWN)  # it never answered at all: its failing now says nothing
    assert check(analyze(always.run()), name).verdict == "unknown"
    blind = probes(unprobed, 0.5, 30.0, BOTH, **DOWN)
    assert check(analyze(blind.run()), name).verdict == "unknown"
    well = probes(unprobed, -10.0, 0.0, BOTH)
    once = probes(probes(well, 1.0, 1.25, BOTH, **DOWN), 1.25, 30.0, BOTH)  # one failure, and the rest answered
    found = analyze(once.run())
    assert check(found, name).verdict == "unknown"
    said = check(found, name).detail
    assert "api answered 40 of 40 before and failed 1 of 116 during, data" in said
    assert found.verdict == "unknown"
    assert check(analyze(probes(well, 0.5, 30.0, BOTH, **DOWN).run()), name).verdict == "pass"
    half = probes(probes(well, 0.5, 30.0, (PROBE_API,), **DOWN), 0.5, 30.0, (PROBE_DATA,))  # the data plane lives on
    assert check(analyze(half.run()), name).verdict == "unknown"
    cut = FaultMark("ControlPlaneCut", "cobalt", "api-gone", "cobalt lost its control plane")
    assert check(analyze(replace(half, header_changes={"faults": (cut,)}).run()), name).verdict == "pass"


def test_what_hung_until_the_heal_was_dark(unprobed: Script) -> None:
    """A frozen cluster answers its last probes once it is thawed."""
    well = probes(unprobed, -10.0, 0.0, BOTH)
    hung = probes(well, 0.5, 25.0, BOTH, **DOWN)
    hung = probes(hung, 25.0, 30.0, BOTH, t_done=hung.at(30.2))
    result = analyze(hung.run())
    assert check(result, "cluster prober saw it").verdict == "pass"
    refused, waited = ("refused", 98, 1.0), (WAITING, 20, 2625.0)  # those of 25.0 to 29.75 s, until 30 s
    assert [(s.error, s.count, s.median_ms) for s in result.faults[0].seen] == [refused, waited] * 2


def test_an_answer_of_a_plane_that_the_fault_spares_is_no_failure(unprobed: Script) -> None:
    well = probes(unprobed, -10.0, 0.0, BOTH)
    cut = probes(well, 0.5, 30.0, (PROBE_API,), **DOWN)
    cut = probes(cut, 29.75, 30.0, (PROBE_DATA,), t_done=cut.at(30.001))  # answered at once, as the heal began
    mark = FaultMark("ControlPlaneCut", "cobalt", "api-gone", "cobalt lost its control plane")
    result = analyze(replace(cut, header_changes={"faults": (mark,)}).run())
    assert {seen.plane for seen in result.faults[0].seen} == {"api"}


def test_a_victim_counts_as_dark_until_a_stage_sets_it_up(unprobed: Script) -> None:
    dark = probes(probes(unprobed, -10.0, 0.0, BOTH), 0.0, 20.0, BOTH, **DOWN)
    back = probes(dark, 20.0, 30.0, BOTH)

    def staged(cluster: str) -> Script:
        return back.event(RESTORE_STAGE, 20.0, RUNNER, cluster=cluster, detail={"does": "set up"})

    mine = analyze(staged("cobalt").run())
    assert "failed 79 of 79 during" in check(mine, "cluster prober saw it").detail, "from 0.2 s, where it was verified"
    assert [(s.plane, s.count) for s in mine.faults[0].seen] == [("api", 80), ("data", 80)]
    others = analyze(staged("amber").run())
    assert "failed 79 of 119 during" in check(others, "cluster prober saw it").detail


def two_faults(script: Script, *without: str) -> Script:
    """jade is hit as well, 1 s later, and restored 2 s after cobalt; ``without`` leaves out jade's own events."""
    made = replace(script, header_changes={"faults": (COBALT, JADE)})
    for kind, at_s, detail in (
        ("fault.inject", 1.0, {}), ("fault.verified", 1.2, GOOD),
        ("fault.heal", 32.0, {}), ("fault.healed", 33.0, GOOD),
    ):  # fmt: skip
        if kind not in without:
            made = made.event(kind, at_s, RUNNER, cluster="jade", detail=detail)
    made = probes(probes(made, -10.0, 1.0, BOTH, "jade"), 1.25, 32.0, BOTH, "jade", **DOWN)
    return made.fail(1.0, 4.0, ("calm",))


def test_each_fault_is_verified_and_healed_for_itself(sound: Script) -> None:
    both = analyze(two_faults(sound).run())
    assert both.verdict == "pass", both.reasons
    assert [(f.cluster, f.verified_s, f.heal_s, f.healed_s) for f in both.faults] == [
        ("cobalt", 0.2, 30.0, 31.0), ("jade", 1.2, 32.0, 33.0),
    ]  # fmt: skip
    unverified = analyze(two_faults(sound, "fault.verified").run())
    assert "the fault in jade" in check(unverified, "fault verified").detail
    assert check(unverified, "fault verified").verdict == unverified.verdict == "unknown"
    left = check(analyze(two_faults(sound, "fault.heal", "fault.healed").run()), "heal verified")
    assert (left.verdict, left.detail) == ("unknown", "jade was never restored")
    not_back = check(analyze(two_faults(sound, "fault.healed").run()), "heal verified")
    assert (not_back.verdict, not_back.detail) == ("unknown", "no signal confirmed that jade is back")


def test_a_noop_beside_a_real_fault_is_not_the_headline(sound: Script) -> None:
    idle = FaultMark("Noop", "jade", "none", "nothing was done", noop=True)
    made = replace(two_faults(sound), header_changes={"faults": (idle, COBALT)})
    result = analyze(made.run())
    assert result.headline.startswith("cobalt lost power 10.0 s into the load; the fleet served again")
    assert "jade answered" not in check(result, "victim had served").detail  # a no-op has no victim
    both = analyze(two_faults(sound).run()).headline
    assert both.startswith("cobalt lost power and jade lost power 10.0 s into the load")


def test_a_fault_without_a_cluster_has_no_cluster_to_see(sound: Script) -> None:
    slow = FaultMark("WeightStoreBrownout", "", "slow", "egress of weights fell to 10%")
    made = replace(sound, without=("fault.inject", "fault.verified", "fault.heal", "fault.healed"))
    made = made.event("fault.inject", 0.0, RUNNER).event("fault.verified", 0.2, RUNNER, detail=GOOD)
    result = analyze(replace(made, header_changes={"faults": (slow,)}).run())
    assert (check(result, "cluster prober saw it").verdict, result.faults[0].kind) == ("pass", "WeightStoreBrownout")


def canary(script: Script, start_s: float, end_s: float, **fields: Any) -> Script:
    """Other answers to the canary's probes of solo in [start, end)."""

    def chosen(op: Op) -> bool:
        mine = op.source == CANARY and op.model == "solo"
        return mine and script.at(start_s) <= op.t_intended < script.at(end_s)

    return replace(script, changes=(*script.changes, (chosen, fields)))


def test_new_connections_are_held_against_the_load(sound: Script) -> None:
    name = "new connections agree"
    agreed = analyze(sound.run())
    assert check(agreed, name).verdict == "pass"
    assert "solo: new connections back after 4.11 s, load back after 4.01 s" in check(agreed, name).detail
    solo = agreed.models["solo"]
    assert (solo.canary_failed, agreed.models["calm"].canary_back_s) == (27, None)
    assert solo.canary_back_s == pytest.approx((3.95, 4.02), abs=0.15)
    silent = analyze(replace(sound, without=("probe.entry",)).run())
    assert (check(silent, name).detail, silent.verdict) == ("the canary left no record", "unknown")


def test_a_canary_whose_turn_never_came_says_nothing(sound: Script) -> None:
    """Among hundreds of models the canary may not come to one of them; that is no contradiction."""
    elsewhere = canary(sound, -10.0, 40.0, model="calm")
    found = check(analyze(elsewhere.run()), "new connections agree")
    assert (found.verdict, "solo: its turn never came" in found.detail) == ("pass", True)


def test_new_connections_that_tell_another_story(sound: Script) -> None:
    """Kept connections are served while new ones are refused to the end; and the other way round."""
    name = "new connections agree"
    refused = analyze(canary(sound, 0.0, 30.0, **DOWN).run())
    assert (check(refused, name).verdict, refused.verdict) == ("unknown", "unknown")
    assert "still failing at 29.9" in check(refused, name).detail
    assert "never served again" in check(refused, name).detail
    served = check(analyze(canary(sound, 0.0, 30.0, outcome="ok", error="").run()), name)
    assert served.verdict == "unknown"
    assert "without a failure, load back after 4.01 s: they were served while the load was not" in served.detail
    later = check(analyze(canary(sound, 4.0, 4.5, **DOWN).run()), name)  # a few probes more: sampling, and said
    assert (later.verdict, "back after 4.5" in later.detail) == ("pass", True)


def test_the_cause_stands_first_and_its_consequences_in_one_line(script: Script, objective: Objective) -> None:
    specs = tuple(objective("recovered", scope=scope, ratio=0.9) for scope in ("fleet", "each model", "each class"))
    nothing = replace(script, objectives=specs, without=("fault.inject", "fault.heal"))
    reasons = analyze(nothing.run()).reasons
    assert reasons[-1] == "so 6 results are not proven: recovered"
    assert any("no fault was injected" in reason for reason in reasons[:-1])
    assert len(reasons) <= 3, reasons


@pytest.mark.parametrize(("ended_s", "asked"), [(10.0, False), (25.0, True)])
def test_a_heal_after_the_last_step_needs_no_ops_of_its_own(sound: Script, ended_s: float, asked: bool) -> None:
    """A restore that was left out because all had recovered: the heal at 20 s only tidies up."""
    made = replace(
        sound, observed_s=20.0, failback_s=0.1, header_changes={"steps": (StepFacts("Restore", "Restore cobalt"),)}
    )
    made = made.event("step.end", ended_s, RUNNER)
    found = [c.verdict for c in analyze(made.run()).validity.checks if c.name == "ops in failback"]
    assert found == (["unknown"] if asked else [])
