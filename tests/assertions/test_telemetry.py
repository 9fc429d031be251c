"""Counters as Prometheus recorded them: resets, newborn and vanished series, and silence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from assertions import analyze
from assertions.result import ObjectiveResult
from assertions.telemetry import Series
from history.op import PROMETHEUS, QUERY

S = 1_000_000_000

if TYPE_CHECKING:
    from history.records import ObjectiveSpec
    from tests.assertions.conftest import Objective, Script


def series(
    script: Script, labels: dict[str, str], *points: tuple[float, float], until_s: float = 40.0
) -> dict[str, Any]:
    """A counter scraped each second from the first point until ``until_s``; it jumps at each point."""
    times = [points[0][0] + i for i in range(int(until_s - points[0][0]) + 1)]
    values = [[v for t, v in points if t <= at_s][-1] for at_s in times]
    return {"labels": labels, "t_ns": [script.at(t) for t in times], "values": values}


def asked(script: Script, name: str, *found: dict[str, Any]) -> Script:
    detail = {"name": name, "query": name, "series": list(found)}
    made = script.event(QUERY, script.end_s, PROMETHEUS, detail=detail)
    return replace(made, header_changes={"prometheus": True})


def one(script: Script, spec: ObjectiveSpec) -> ObjectiveResult:
    (found,) = analyze(replace(script, objectives=(spec,)).run()).objectives
    return found


@pytest.mark.parametrize(
    ("samples", "window", "grown"),
    [
        (((0, 5), (10, 8), (20, 9)), (5, 25), 4.0),
        (((0, 5), (10, 2), (20, 4)), (5, 25), 4.0),  # restarted: counts from zero again
        (((10, 7), (20, 9)), (5, 25), 9.0),  # born inside the run: from zero
        (((1, 7), (20, 9)), (0, 25), 2.0),  # scraped a second later than others: was there before
        (((0, 5), (10, 8)), (5, 25), 3.0),  # vanished: keeps what it had
        (((0, 5), (30, 9)), (5, 25), 0.0),
    ],
)
def test_increase(samples: tuple[tuple[int, int], ...], window: tuple[int, int], grown: float) -> None:
    made = Series({}, tuple(t * S for t, _ in samples), tuple(float(v) for _, v in samples))
    assert made.increase(window[0] * S, window[1] * S, first_sample_ns=0) == grown


def test_cache_hit_ratio(script: Script, objective: Objective) -> None:
    hit = series(script, {"tier": "local", "result": "hit", "cluster": "jade"}, (-9, 0), (1, 10), (20, 85))
    miss = series(script, {"tier": "store", "result": "miss", "cluster": "jade"}, (-9, 0), (-1, 5), (20, 30))
    made = asked(script, "cache_requests", hit, miss)
    spec = objective("cache_hit_ratio", 0.7, unit="ratio")
    found = one(made, spec)
    assert (found.bounds, found.verdict) == ((85 / 110, 85 / 110), "pass")
    assert one(made, replace(spec, limit=0.8)).verdict == "fail"
    assert one(made, replace(spec, scope="served by:jade")).measured == 85 / 110
    assert one(made, replace(spec, scope="served by:amber")).verdict == "unknown"
    assert one(made, replace(spec, scope="model:solo")).verdict == "unknown"
    assert analyze(made.run()).prometheus["fault"]["cache_hit_ratio"] == 85 / 110


def test_store_bytes(script: Script, objective: Objective) -> None:
    made = asked(script, "store_bytes", series(script, {"store": "a"}, (-9, 100), (5, 1_100), (35, 2_000)))
    found = one(made, objective("store_bytes", 1_000.0, unit="bytes"))
    assert (found.measured, found.verdict) == (1_000.0, "pass")


def test_absent_telemetry_is_unknown_and_the_rest_unharmed(script: Script, objective: Objective) -> None:
    spec = objective("store_bytes", 1e12, unit="bytes")
    found = one(script, spec)
    assert (found.verdict, found.evidence) == ("unknown", "this run had no Prometheus")
    empty = one(asked(script, "store_bytes"), spec)
    assert (empty.verdict, empty.evidence) == ("unknown", "Prometheus recorded no store_bytes")
    late = one(asked(script, "store_bytes", series(script, {}, (10, 1), (20, 2))), spec)
    assert "begin 10.0 s after" in late.evidence
    over = one(asked(script, "store_bytes", series(script, {}, (-9, 1), until_s=1)), spec)
    assert (over.verdict, over.text) == ("unknown", "no telemetry")
    assert over.evidence == "no sample of store_bytes for 29.0 s, from 1.0 s of the window on"
    near = one(asked(script, "store_bytes", series(script, {}, (-9, 1), until_s=27)), spec)
    assert near.verdict == "pass"
    hole = (series(script, {}, (-9, 1), until_s=10), series(script, {}, (14, 1)))
    assert "for 4.0 s, from 10.0 s" in one(asked(script, "store_bytes", *hole), spec).evidence
    gone = (series(script, {"store": "a"}, (-9, 1), (5, 7), until_s=6), series(script, {"store": "b"}, (-9, 1)))
    assert one(asked(script, "store_bytes", *gone), spec).measured == 6.0  # vanished, and Prometheus looked on
    soon = one(asked(script, "store_bytes", series(script, {}, (4, 1), (20, 2))), spec)
    assert (soon.verdict, soon.measured) == ("pass", 1.0)
    assert "first 4.0 s have no sample" in soon.evidence
    other = replace(spec, scope="served by:jade", limit=0.0)
    nobody = one(asked(script, "store_bytes", series(script, {"cluster": "amber"}, (-9, 1))), other)
    assert (nobody.verdict, nobody.evidence) == ("unknown", "Prometheus recorded no store_bytes of cluster jade")
    odd = replace(script, header_changes={"prometheus": True}).event(
        QUERY,
        1.0,
        PROMETHEUS,
        detail={"name": "store_bytes", "series": [7, {"labels": 1}, {"labels": {}, "t_ns": ["x"]}]},
    )
    assert one(odd, spec).verdict == "unknown"
    both = analyze(replace(script.fail(0, 4, ("solo",)), objectives=(spec, objective("recovered"))).run())
    assert [o.verdict for o in both.objectives] == ["unknown", "pass"]
