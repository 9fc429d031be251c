"""Each indicator: pass, fail, unknown, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from assertions import analyze, objectives
from assertions.measure import Measure
from assertions.objectives import at_least, at_most, in_words
from assertions.result import ObjectiveResult
from history.op import INTERRUPTED, RUNNER

if TYPE_CHECKING:
    from history.records import ObjectiveSpec
    from tests.assertions.conftest import Objective, Script


def judge(script: Script, *specs: ObjectiveSpec) -> tuple[ObjectiveResult, ...]:
    return analyze(replace(script, objectives=specs).run()).objectives


def one(script: Script, spec: ObjectiveSpec) -> ObjectiveResult:
    (found,) = judge(script, spec)
    return found


@pytest.mark.parametrize(
    ("bounds", "most", "least"),
    [
        ((1.0, 2.0), "pass", "fail"),
        ((2.0, 3.0), "pass", "unknown"),
        ((2.5, 3.5), "unknown", "unknown"),
        ((3.0, 4.0), "unknown", "pass"),
        ((3.5, 4.0), "fail", "pass"),
        ((3.5, None), "fail", "unknown"),
        ((1.0, None), "unknown", "unknown"),
        (None, "unknown", "unknown"),
    ],
)
def test_a_limit_of_three(bounds: Any, most: str, least: str) -> None:
    assert (at_most(bounds, 3.0), at_least(bounds, 3.0)) == (most, least)


@pytest.mark.parametrize(
    ("bounds", "unit", "words"),
    [
        ((6.0, 6.4), "s", "6.4 s"),
        ((60.0, None), "s", "> 60.0 s"),
        ((0.1, 0.25), "s", "0.25 s"),
        ((251.0, 251.0), "requests", "251 requests"),
        ((0.1, 12.34), "ms", "12.3 ms"),
        (None, "s", "not measured"),
    ],
)
def test_intervals_in_words(bounds: Any, unit: str, words: str) -> None:
    assert in_words(bounds, unit) == words


def test_each_model_and_each_class_expand(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 4.0, ("solo",))
    found = judge(
        down, objective("recovered", scope="each model", ratio=0.9), objective("recovered", scope="each class")
    )
    assert [(o.scope, o.verdict) for o in found] == [
        ("solo", "pass"),
        ("pair", "pass"),
        ("calm", "pass"),
        ("ft", "pass"),
        ("base", "pass"),
    ]
    assert [o.text for o in found] == ["4.0 s", "no bad op", "no bad op", "4.0 s", "no bad op"]


def test_affected_and_bystanders_are_apart(script: Script, objective: Objective) -> None:
    slow = script.change(5.0, 25.0, ("calm",), t_first_byte=script.at(25.1), t_done=script.at(25.1))
    spec = objective("latency", 250.0, unit="ms", percentile=95.0)
    hit = one(slow, replace(spec, scope="affected"))
    assert (hit.verdict, hit.bounds) == ("pass", (20.0, 20.0))
    (calm,) = judge(slow, replace(spec, scope="bystanders"))
    assert calm.verdict == "fail"
    assert calm.bounds is not None
    assert calm.bounds[0] > 10_000


def test_latency_is_nearest_rank(script: Script, objective: Objective) -> None:
    some = script.change(0.0, 3.0, ("calm",), t_done=script.at(100.0))  # 10 % of 30 s, ok and very late
    spec = objective("latency", 250.0, unit="ms", scope="model:calm")
    assert one(some, replace(spec, percentile=89.9)).verdict == "pass"
    assert one(some, replace(spec, percentile=95.0)).verdict == "fail"
    lost = script.lose(0.0, 3.0, ("calm",))  # may have been answered at once or at the time-out
    found = one(lost, replace(spec, percentile=95.0))
    assert (found.verdict, found.bounds) == ("unknown", (20.0, 5_000.0))


def test_failed_ops_make_latency_no_better(script: Script, objective: Objective) -> None:
    """Half of calm is refused at once: its p95 is a time-out, not the 20 ms of those that were answered."""
    half = script.fail(0.0, 30.0, ("calm",), every=2)
    spec = objective("latency", 250.0, unit="ms", scope="bystanders", percentile=95.0)
    found = one(half, spec)
    assert (found.verdict, found.bounds) == ("fail", (5_000.0, 5_000.0))
    assert "600 failed ones count as 5,000 ms" in found.evidence
    slow = half.change(0.0, 3.0, ("calm",), outcome="fail", error="timeout", t_done=script.at(60.0))
    assert (one(slow, spec).measured or 0.0) > 50_000  # longer than the time-out: counts as long as it took
    few = one(script.fail(0.0, 1.0, ("calm",)), spec)  # 3 % failed
    assert (few.verdict, few.measured) == ("pass", 20.0)


def test_few_ops_make_no_percentile(script: Script, objective: Objective) -> None:
    brief = replace(script, observed_s=2.0)
    found = one(brief, objective("latency", 250.0, unit="ms", scope="model:solo", percentile=99.0))
    assert (found.verdict, found.measured) == ("unknown", None)
    assert "needs 100" in found.evidence


def test_lost_counts_bad_and_brackets_unknown(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 4.0, ("solo",)).lose(4.0, 4.5, ("solo",))
    spec = objective("lost", 170.0, unit="requests")
    assert one(down, spec).bounds == (160.0, 180.0)
    assert [one(down, replace(spec, limit=limit)).verdict for limit in (180.0, 170.0, 159.0)] == [
        "pass",
        "unknown",
        "fail",
    ]


def test_windows_of_its_own_scope(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 2.0, ("solo",)).fail(2.0, 4.0, ("solo",), every=2)
    spec = objective("lost", 0.0, unit="requests", scope="model:solo", ratio=0.9)
    assert one(down, replace(spec, window="outage")).bounds == (81.0, 81.0)  # the first success is at 2.025 s
    degraded = one(down, replace(spec, window="degraded")).bounds
    assert degraded is not None
    assert 35.0 <= degraded[0] <= 41.0
    assert one(down, replace(spec, window="hold")).bounds == (0.0, 0.0)
    assert one(down, replace(spec, window="baseline")).bounds == (0.0, 0.0)


def test_good_ratio(script: Script, objective: Objective) -> None:
    down = script.fail(0.0, 3.0, ("solo",)).lose(5.0, 6.0, ("solo",))
    found = one(down, objective("good_ratio", 0.9, unit="ratio", scope="model:solo"))
    assert found.bounds == (1_040 / 1_200, 1_080 / 1_200)
    assert found.verdict == "unknown"


def test_no_data_is_never_a_pass(script: Script, objective: Objective) -> None:
    bare = replace(script, failback_s=None)
    for indicator in ("lost", "latency", "good_ratio", "no_dip"):
        found = one(bare, objective(indicator, 1e9 if indicator != "good_ratio" else 0.0, window="failback"))
        assert found.verdict == "unknown", indicator
    brief = replace(script, observed_s=0.5)  # 20 good ops of solo prove nothing
    assert one(brief, objective("recovered", scope="model:solo", ratio=0.9)).verdict == "unknown"


def test_no_dip(script: Script, objective: Objective) -> None:
    spec = objective("no_dip", 0.0, window="failback", unit="dips")
    assert one(script, spec).verdict == "pass"
    dipped = one(script.fail(33.0, 34.0), spec)
    assert (dipped.verdict, dipped.text, dipped.measured) == ("fail", "1 dip", 1.0)
    assert "33.00 s" in dipped.evidence
    maybe = one(script.lose(33.0, 34.0), spec)
    assert (maybe.verdict, maybe.bounds) == ("unknown", (0.0, 1.0))
    cut = script.event(INTERRUPTED, 35.0, RUNNER)
    assert one(cut, spec).verdict == "unknown", "a return that was cut short is no return without a dip"
    assert one(cut.fail(33.0, 34.0), spec).verdict == "fail", "a dip that was seen is one"
    windows = analyze(script.fail(33.0, 34.0).run()).windows
    assert ("dip", "fleet") in {(w.name, w.scope) for w in windows}


def test_served_by_a_cluster(script: Script, objective: Objective) -> None:
    spec = objective("latency", 250.0, unit="ms", scope="served by:jade")
    assert one(script, spec).verdict == "pass"
    assert one(script, spec).scope == "served by:jade"
    assert "of 1,200 ops" in one(script, spec).evidence


def test_an_unknown_scope_is_unknown_and_says_so(script: Script, objective: Objective) -> None:
    found = one(script, objective("lost", 10.0, scope="model:nobody"))
    assert found.verdict == "unknown"
    assert "nobody" in found.evidence


def test_a_checker_that_raises_is_unknown(
    script: Script, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Measure:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setitem(objectives.CHECKERS, "lost", broken)
    found = one(script, objective("lost", 10.0))
    assert (found.verdict, found.evidence) == ("unknown", "ZeroDivisionError: float division by zero")
    monkeypatch.delitem(objectives.CHECKERS, "lost")
    assert one(script, objective("lost", 10.0)).verdict == "unknown"
