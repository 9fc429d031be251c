"""What must never happen, whatever the history (STYLE rule 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from assertions import analyze, encode_result, live
from history.op import Op

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script

MODELS = ("solo", "pair", "calm")
stretches = st.lists(
    st.tuples(st.floats(-1.0, 20.0), st.floats(0.05, 6.0), st.sampled_from(MODELS), st.integers(1, 4)), max_size=4
)
lost = st.lists(st.tuples(st.floats(-5.0, 25.0), st.floats(0.02, 3.0), st.sampled_from(MODELS)), min_size=1, max_size=3)
Outages = list[tuple[float, float, str, int]]
Losses = list[tuple[float, float, str]]
few = settings(max_examples=25, deadline=None)


def with_outages(script: Script, outages: Outages, objective: Objective) -> Script:
    specs = (
        objective("recovered", 6.0),
        objective("recovered", 6.0, scope="each model", ratio=0.90),
        objective("service_back", 6.0, scope="affected", ratio=0.90),
        objective("lost", 100.0, unit="requests"),
        objective("good_ratio", 0.95, unit="ratio"),
        objective("latency", 250.0, unit="ms", scope="bystanders"),
        objective("warm", 10.0, scope="each model", ratio=0.90),
        objective("no_dip", 0.0, window="failback", unit="dips"),
    )
    made = replace(script, rate_rps=60.0, observed_s=20.0, objectives=specs)
    for start_s, length_s, model, every in outages:
        made = made.fail(start_s, start_s + length_s, (model,), every)
    return made


def with_losses(script: Script, losses: Losses) -> Script:
    for start_s, length_s, model in losses:
        script = script.lose(start_s, start_s + length_s, (model,))
    return script


@few
@given(stretches, st.integers(-900, 10_000))
def test_shifting_a_history_in_time_changes_nothing(
    script: Script, objective: Objective, outages: Outages, by_s: int
) -> None:
    made = with_outages(script, outages, objective)
    shifted = replace(made, zero_ns=made.zero_ns + by_s * 1_000_000_000)
    # The script's predicates are bound to the first clock: bind them to the shifted one.
    shifted = with_outages(replace(script, zero_ns=shifted.zero_ns), outages, objective)
    assert encode_result(analyze(made.run())) == encode_result(analyze(shifted.run()))


@few
@given(stretches, lost)
def test_removing_data_never_turns_a_verdict_into_pass(
    script: Script, objective: Objective, outages: Outages, losses: Losses
) -> None:
    made = with_outages(script, outages, objective)
    lossy = with_losses(made, losses)
    before, after = analyze(made.run()), analyze(lossy.run())
    for one, other in zip(before.objectives, after.objectives, strict=True):
        assert (one.name, one.scope) == (other.name, other.scope)
        assert other.verdict != "pass" or one.verdict == "pass", (one, other)
    assert after.verdict != "pass" or before.verdict == "pass"


@few
@given(stretches, lost)
def test_unknown_ops_bracket_every_truth(
    script: Script, objective: Objective, outages: Outages, losses: Losses
) -> None:
    """Whatever the lost ops really were, the interval with them unknown holds the one with them known."""
    made = with_outages(script, outages, objective)
    lossy = with_losses(made, losses)
    truth, known = analyze(made.run()), analyze(lossy.run())
    for name, found in truth.models.items():
        other = known.models[name]
        if found.recovered_s is None or other.recovered_s is None:
            assert found.recovered_s is None or not other.unaffected
            continue
        low, high = found.recovered_s
        assert other.recovered_s[0] <= low or found.relapsed
        assert other.recovered_s[1] is None or (high is not None and high <= other.recovered_s[1]) or other.relapsed


@few
@given(stretches, st.floats(-5.0, 25.0), st.floats(0.05, 10.0), st.sampled_from(MODELS))
def test_more_good_ops_never_delay_a_recovery(
    script: Script,
    objective: Objective,
    outages: Outages,
    start_s: float,
    length_s: float,
    model: str,
) -> None:
    """Bad ops that become good: each model's recovery stays or comes earlier (its start may move, never its end)."""
    made = with_outages(script, outages, objective)
    first = next((o for o in sorted(outages) if o[2] == model), None)
    start_s = max(start_s, first[0] + 2.0) if first else start_s  # the outage's own start stays
    better = made.change(
        start_s, start_s + length_s, (model,), outcome="ok", error="", weights="resident", cluster="amber"
    )
    before, after = analyze(made.run()).models[model], analyze(better.run()).models[model]
    if before.unaffected or before.recovered_s is None or before.relapsed or after.relapsed:
        return
    if after.unaffected or after.recovered_s is None:
        return
    assert after.recovered_s[0] <= before.recovered_s[0]
    if before.recovered_s[1] is not None:
        assert after.recovered_s[1] is not None
        assert after.recovered_s[1] <= before.recovered_s[1]


scalars = st.none() | st.booleans() | st.integers(-(2**61), 2**61) | st.floats(allow_nan=False) | st.text(max_size=5)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner)
)
details = st.dictionaries(
    st.sampled_from(["t_emitted", "signals", "series", "name", "reason", "text", "seconds", "process"]),
    anything
    | st.just([{"name": 1, "ok": "x"}, 3])
    | st.just([{"labels": {"a": 1}, "t_ns": [1, "x"], "values": [None, 2]}]),
)
KINDS = (
    "load.start", "load.stop", "load.drained", "fault.inject", "fault.verified", "fault.heal", "fault.healed",
    "detected", "decided", "unplaceable", "replica.ready", "replica.weights", "replica.gone", "watch.gap", "query",
    "interrupted", "process.died",
)  # fmt: skip
strange_events = st.lists(
    st.builds(
        Op,
        source=st.sampled_from(["runner", "observer", "controller", "guard", "prometheus", "odd"]),
        process=st.just("p"),
        kind=st.sampled_from(KINDS),
        t_intended=st.integers(-(2**61), 2**61) | st.integers(990 * 10**9, 1_060 * 10**9),
        t_done=st.integers(-1, 2**61) | st.integers(990 * 10**9, 1_060 * 10**9),
        outcome=st.sampled_from(["ok", "fail", "unknown"]),
        model=st.sampled_from(["", "solo", "pair", "nobody"]),
        cluster=st.sampled_from(["", "cobalt", "jade", "nowhere"]),
        replica=st.sampled_from(["", "r1"]),
        detail=details,
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(strange_events, st.sets(st.sampled_from(KINDS)))
def test_no_history_makes_analyze_raise(
    script: Script, objective: Objective, events: list[Op], without: set[str]
) -> None:
    made = with_outages(script, [(0.0, 2.0, "solo", 1)], objective)
    more = tuple(objective(i, 5.0) for i in ("detected", "decided", "reallocated", "full_capacity", "store_bytes"))
    made = replace(made, rate_rps=30.0, extra=tuple(events), without=tuple(without))
    made = replace(made, objectives=made.objectives + more, header_changes={"prometheus": True})
    run = made.run()
    result = analyze(run)
    assert encode_result(result) == encode_result(analyze(run))
    live.all_recovered(run, made.at(20.0))
    live.all_failed_back(run, made.at(25.0))
