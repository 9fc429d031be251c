"""Objectives: one indicator over a window in a scope -> measured value, bounds, verdict, words.

Called by ``analyze`` for each objective of the header. A checker that raises is an unknown verdict with the
exception as its evidence; no data is never a pass. Bounds hold every value that the unknown ops allow, so that a
limit inside them is an unknown verdict.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from assertions import event_checks, failback
from assertions.case import Case, nearest_rank
from assertions.holds import ops_needed, relapses
from assertions.measure import Measure, Unknown
from assertions.phases import Phases, blind_s, latest
from assertions.recovery import Recovery
from assertions.result import Interval, ObjectiveResult, Verdict
from assertions.scopes import BAD, GOOD, UNKNOWN, Scope
from assertions.telemetry import CACHE_REQUESTS, STORE_BYTES, cache_hit_ratio, store_bytes, unseen_s
from history.op import CONTROLLER, INTERRUPTED, OBSERVER
from history.records import AT_LEAST, ObjectiveSpec

Checker = Callable[[Case, ObjectiveSpec, Scope], Measure]
"""Raises ``Unknown`` where there is nothing to judge by."""


def judge_objective(case: Case, spec: ObjectiveSpec) -> tuple[ObjectiveResult, ...]:
    """The results of one objective: one a scope that it expands to."""
    try:
        scopes = case.scopes(spec.scope)
    except Exception as error:
        return (_result(spec, spec.scope, Measure(None, f"{type(error).__name__}: {error}")),)
    if spec.indicator == "reallocated" and spec.scope in ("fleet", "each model", "affected") and case.affected:
        scopes = tuple(Scope(model, (model,)) for model in case.affected)
    return tuple(_judge_in(case, spec, scope) for scope in scopes)


def at_most(bounds: Interval | None, limit: float) -> Verdict:
    """Pass when the whole interval is within the limit, fail when it is beyond, else unknown."""
    if bounds is None:
        return "unknown"
    low, high = bounds
    if high is not None and high <= limit:
        return "pass"
    return "fail" if low > limit else "unknown"


def at_least(bounds: Interval | None, limit: float) -> Verdict:
    """Pass when the whole interval reaches the limit, fail when none of it does, else unknown."""
    if bounds is None or bounds[1] is None:
        return "unknown"
    if bounds[0] >= limit:
        return "pass"
    return "fail" if bounds[1] < limit else "unknown"


def _judge_in(case: Case, spec: ObjectiveSpec, scope: Scope) -> ObjectiveResult:
    try:
        found = CHECKERS[spec.indicator](case, spec, scope)
    except Unknown as missing:
        found = Measure(None, str(missing), missing.text)
    except Exception as error:
        found = Measure(None, f"{type(error).__name__}: {error}")
    return _result(spec, scope.label, found)


def _result(spec: ObjectiveSpec, label: str, found: Measure) -> ObjectiveResult:
    judged = at_least if spec.indicator in AT_LEAST else at_most
    verdict = found.verdict or judged(found.bounds, spec.limit)
    return ObjectiveResult(
        name=spec.name,
        scope=label,
        indicator=spec.indicator,
        window=spec.window,
        measured=None if found.bounds is None else found.bounds[1],
        bounds=found.bounds,
        limit=spec.limit,
        unit=spec.unit,
        verdict=verdict,
        text=found.text or in_words(found.bounds, spec.unit),
        evidence=found.evidence,
        playbook=spec.playbook,
    )


def in_words(bounds: Interval | None, unit: str) -> str:
    """An interval for people: its later end, or "> low" where the end was not seen."""
    if bounds is None:
        return "not measured"
    low, high = bounds
    if high is None:
        return f"> {_number(low, unit)}"
    return _number(high, unit)


def _number(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value:.4f}"
    if unit == "s":
        return f"{value:.1f} s" if value >= 1.0 or value == 0.0 else f"{value:.2f} s"
    shown = f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"
    return f"{shown} {unit}".strip()


def _recovered(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """``recovered`` and ``service_back``."""
    case.was_injected()
    found = case.recovery(scope, spec.ratio)
    needed = ops_needed(spec.ratio)
    if found.ops == 0:
        raise Unknown("no op of this scope in the fault window")
    if found.unaffected:
        enough = found.ops >= needed
        evidence = f"none of {found.ops:,} ops in the fault window was bad"
        if found.bad or found.unknown:
            evidence = (
                f"{found.bad:,} bad and {found.unknown:,} unknown of {found.ops:,} ops in the fault window: "
                f"held {spec.ratio} from the injection on, no more failures than chance gives"
            )
        if not enough:
            evidence += f"; {needed} are needed to prove {spec.ratio}"
        text = "no bad op" if not found.bad else "never fell"
        return Measure((0.0, 0.0), evidence, text, _between((0.0, 0.0), spec) if enough else "unknown")
    bounds = found.recovered if spec.indicator == "recovered" else found.service_back
    text = in_words(bounds, "s")
    if found.relapsed:
        start, end = found.relapse_spans[0]
        evidence = (
            f"relapse from {start:.2f} s to {end:.2f} s after the injection: bad ops beyond chance at {spec.ratio}"
        )
        verdict = _between(bounds, spec) if spec.first_hold else "fail"
        return Measure(bounds, evidence, f"{text}, relapsed at {start:.1f} s", verdict)
    evidence = _hold_in_words(found, needed)
    verdict = _between(bounds, spec)
    if found.maybe_relapsed:
        evidence += "; a relapse if unknown ops were bad"
        verdict = "fail" if at_most(bounds, spec.limit) == "fail" else "unknown"
    return Measure(bounds, evidence, text, verdict)


def _between(bounds: Interval | None, spec: ObjectiveSpec) -> Verdict:
    """Not later than the limit and not before ``not_before``."""
    late = at_most(bounds, spec.limit)
    if bounds is None or spec.not_before <= 0.0:
        return late
    early = at_least(bounds, spec.not_before)
    return "fail" if "fail" in (late, early) else "pass" if late == early == "pass" else "unknown"


def _hold_in_words(found: Recovery, needed: int) -> str:
    low = 0.0 if found.recovered is None else found.recovered[0]
    counts = f"{found.bad:,} bad of {found.ops:,} ops"
    if found.unknown:
        counts += f", {found.unknown:,} unknown"
    if found.hold_start_s is None or found.certified_s is None:
        return f"{counts}; last bad op seen at {low:.2f} s; no {needed} good ops in a row over 3 s after it"
    sustained = "" if found.recovered and found.recovered[1] is not None else "; later ops do not prove the ratio"
    return (
        f"{counts}; last bad op intended at {low:.3f} s, good from {found.hold_start_s:.3f} s, "
        f"proven {found.ratio} by {found.certified_s:.2f} s{sustained}"
    )


def _warm(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    return case.warmth(scope, spec.ratio)


def _phase(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """``detected`` and ``decided``, which a controller reports; ``reallocated`` and ``full_capacity``."""
    case.was_injected()
    reporter = CONTROLLER if spec.indicator in ("detected", "decided") else OBSERVER
    members = [case.phases[model] for model in scope.models if case.phases[model].lost]
    if not members:
        return Measure((0.0, 0.0), "no model of this scope lost a replica", "nothing lost")
    case.hear(reporter)
    since_s = case.edges.seconds(case.edges.fault_end)
    evidence = _replacements(members, scope)
    if (blind := blind_s(case, reporter)) is not None:
        since_s, evidence = min(since_s, blind), f"{evidence}; a watch of the {reporter} broke at {blind:.2f} s"
    whole = spec.indicator == "reallocated"
    bounds = latest(member.reallocated if whole else member.bounds.get(spec.indicator) for member in members)
    return Measure(bounds or (since_s, None), evidence)


def _replacements(members: list[Phases], scope: Scope) -> str:
    lost, ready = sum(m.lost for m in members), sum(m.ready_replacements for m in members)
    reasons = [m.unplaceable for m in members if m.unplaceable]
    text = f"{ready} replacement{'s' * (ready != 1)} ready for {lost} lost replica{'s' * (lost != 1)} of {scope.label}"
    fell = [m.fell_s for m in members if m.fell_s is not None]
    if fell:
        text += f" at the end; they were too few again at {max(fell):.2f} s"
    return "; ".join([text, *dict.fromkeys(reasons)])


def _states(case: Case, spec: ObjectiveSpec, scope: Scope) -> NDArray[np.int8]:
    state: NDArray[np.int8] = case.load.state[case.rows_in(scope, spec.window, spec.ratio)]
    if not len(state):
        raise Unknown(f"{scope.label} has no op in the window {spec.window!r}", "no data")
    return state


def _lost(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    state = _states(case, spec, scope)
    bad, unknown = int((state == BAD).sum()), int((state == UNKNOWN).sum())
    return Measure((float(bad), float(bad + unknown)), f"{bad:,} bad and {unknown:,} unknown of {len(state):,} ops")


def _good_ratio(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    state = _states(case, spec, scope)
    good, unknown = int((state == GOOD).sum()), int((state == UNKNOWN).sum())
    bounds = good / len(state), (good + unknown) / len(state)
    return Measure(bounds, f"{good:,} good and {unknown:,} unknown of {len(state):,} ops", f"{bounds[0]:.4f}")


def _latency(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """Every op counts: who was refused at once has waited no less than who timed out (FACTS 4)."""
    rows = case.rows_in(scope, spec.window, spec.ratio)
    state, ok, took_ms = case.load.state[rows], case.load.ok[rows], case.load.latency_ms[rows]
    slowest_ms = case.run.header.load.total_timeout_s * 1_000
    failed, unknown = ~ok & (state != UNKNOWN), int((state == UNKNOWN).sum())
    values = np.concatenate([took_ms[ok], np.fmax(took_ms[failed], slowest_ms)])
    least = int(np.ceil(100.0 / (100.0 - spec.percentile) - 1e-9)) if spec.percentile < 100.0 else 1
    if len(values) < least:
        raise Unknown(f"{len(values)} known ops; a p{spec.percentile:g} needs {least}")
    # An unknown op may have been answered at once, or not at all.
    low = nearest_rank(np.append(values, np.zeros(unknown)), spec.percentile)
    high = nearest_rank(np.append(values, np.full(unknown, slowest_ms)), spec.percentile)
    evidence = f"p{spec.percentile:g} of {len(values):,} ops, nearest rank"
    if failed.any():
        evidence += f"; {int(failed.sum()):,} failed ones count as {slowest_ms:,.0f} ms"
    return Measure((low, high), evidence + (f"; {unknown:,} unknown" if unknown else ""))


def _no_dip(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    rows = case.rows_in(scope, spec.window, spec.ratio)
    needed = ops_needed(spec.ratio)
    if len(rows) < needed:
        evidence = f"{len(rows)} ops of {scope.label} in the window {spec.window!r}; {needed} are needed"
        raise Unknown(evidence, "" if len(rows) else "no data")
    t, state = case.load.ops.t_intended[rows], case.load.state[rows]
    sure = relapses(t, state == BAD, spec.ratio)
    maybe = relapses(t, state != GOOD, spec.ratio) if (state == UNKNOWN).any() else sure
    if not sure and spec.window == "failback" and case.run.history.of_kind(INTERRUPTED):
        raise Unknown("the run was interrupted: the return was not watched to its end")
    bad = int((state == BAD).sum())
    evidence = f"{bad:,} bad of {len(rows):,} ops"
    if sure:
        first, last = (case.edges.seconds(t[i]) for i in sure[0])
        evidence += f"; a dip from {first:.2f} s to {last:.2f} s after the injection is beyond chance at {spec.ratio}"
    text = f"{len(sure)} dip{'' if len(sure) == 1 else 's'}" if sure else "no dip"
    return Measure((float(len(sure)), float(max(len(sure), len(maybe)))), evidence, text)


def _prometheus(case: Case, spec: ObjectiveSpec, scope: Scope) -> Measure:
    """``cache_hit_ratio`` and ``store_bytes``."""
    window = case.window_ns(spec.window)
    match = {"cluster": scope.served_by} if scope.served_by else {}
    if not scope.served_by and scope.label != "fleet":
        raise Unknown(f"Prometheus cannot tell {scope.label} apart")
    ask, name = {"cache_hit_ratio": (cache_hit_ratio, CACHE_REQUESTS), "store_bytes": (store_bytes, STORE_BYTES)}[
        spec.indicator
    ]
    value = ask(case.run, window, match)
    evidence = f"counter increases over the window {spec.window!r}"
    if unseen := unseen_s(case.run.history, name, window[0]):
        evidence += f"; its first {unseen:.1f} s have no sample"
    return Measure((value, value), evidence)


CHECKERS: dict[str, Checker] = {
    "recovered": _recovered,
    "service_back": _recovered,
    "failed_back": failback.failed_back,
    "detected": _phase,
    "decided": _phase,
    "reallocated": _phase,
    "full_capacity": _phase,
    "warm": _warm,
    "lost": _lost,
    "latency": _latency,
    "good_ratio": _good_ratio,
    "no_dip": _no_dip,
    "cache_hit_ratio": _prometheus,
    "store_bytes": _prometheus,
    "forecast_right": event_checks.forecast_right,
    "placed_twice": event_checks.placed_twice,
    "serves_again": event_checks.serves_again,
    "provisioned": event_checks.provisioned,
    "store_copies": event_checks.store_copies,
    "busy_honoured": event_checks.busy_honoured,
    "corrupt_caught": event_checks.corrupt_caught,
}
"""Indicator -> checker; an indicator that is not here is an unknown verdict."""
