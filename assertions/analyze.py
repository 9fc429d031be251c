"""``analyze``: a run -> its ``Result``. Pure and deterministic: the same run directory gives the same bytes.

Called by the runner at the end of a run and by ``blackstart analyze`` on an old one. Never reads a clock, a file or
the network, never raises for what a history may contain.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from assertions import canary, happened, headline, telemetry
from assertions.case import Case, spans
from assertions.holds import relapses
from assertions.measure import Unknown
from assertions.objectives import judge_objective
from assertions.phases import EVENT_PHASES, Phases, latest
from assertions.result import ForecastRow, Interval, ModelRecovery, Result, Totals, WindowSpan
from assertions.scopes import BAD, GOOD, UNKNOWN, Scope
from assertions.validity import validity
from history.op import OBSERVER
from history.reader import Run
from history.rundir import RunDirectory, pretty_json

_AT = RunDirectory(Path())
ARTEFACTS = tuple(
    str(path)
    for path in (
        *(_AT.header, _AT.schedule, _AT.history, _AT.drill, _AT.journal, _AT.logs),
        *(_AT.result, _AT.report, _AT.junit, _AT.summary),
    )
)
"""What a whole run directory holds, by name."""


def analyze(run: Run) -> Result:
    """Judges one run: every measure, every objective, every check."""
    case = Case.of(run)
    named = {"fleet": Scope("fleet", case.models)}
    named |= {f"model:{name}": Scope(name, (name,)) for name in case.models}
    named |= {f"class:{name}": Scope(name, members) for name, members in case.classes.items()}
    judged = {key: _recovery(case, key, scope) for key, scope in named.items()}
    fleet = judged["fleet"] if case.edges.injected is not None else None
    models = {name: judged[f"model:{name}"] for name in case.models}
    classes = {name: judged[f"class:{name}"] for name in case.classes}
    objectives = tuple(result for spec in run.header.objectives for result in judge_objective(case, spec))
    measured = validity(case)
    checks = measured.checks + happened.checks(case)
    verdict = headline.verdict(checks, objectives)
    return Result(
        drill=run.header.drill,
        run_id=run.header.run_id,
        seed=run.header.seed,
        environment=run.header.environment,
        verdict=verdict,
        reasons=headline.reasons(checks, objectives, models),
        headline=headline.headline(case, verdict, checks, objectives, fleet, models),
        faults=happened.faults(case),
        windows=_windows(case, named),
        fleet=fleet,
        models=models,
        classes=classes,
        objectives=objectives,
        validity=replace(measured, checks=checks),
        totals=_totals(case),
        forecast=_forecast(case),
        prometheus=_telemetry(case),
        artefacts=ARTEFACTS,
    )


def encode_result(result: Result) -> bytes:
    """``result.json``: pretty, deterministic, with a final newline."""
    return pretty_json(result)


def decode_result(data: bytes) -> Result:
    """The result in a ``result.json``; ``msgspec.MsgspecError`` when it is none."""
    return msgspec.json.decode(data, type=Result)


def result_schema() -> bytes:
    """The JSON Schema of ``result.json``, made from the dataclasses."""
    schema = msgspec.json.schema(Result)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "blackstart result"}
    return pretty_json(head | schema)


def _recovery(case: Case, key: str, scope: Scope) -> ModelRecovery:
    """One row of the phase clock: what ops say and what events say."""
    ratio = case.ratio(key)
    found = case.recovery(scope, ratio)
    members = [case.phases[model] for model in scope.models]
    found_bounds = {name: latest(m.bounds.get(name) for m in members if m.lost) for name in EVENT_PHASES}
    found_bounds |= {
        "first_success": found.first_success,
        "service_back": found.service_back,
        "recovered": found.recovered,
        "warm": _warm(case, scope, ratio),
    }
    bounds = {name: interval for name, interval in found_bounds.items() if interval is not None}
    classes = {m.name: m.model_class for m in case.run.header.fleet.models}
    lost = sum(member.lost for member in members)
    probed = canary.outage(case, canary.probes(case, scope.label)) if lost and key.startswith("model:") else None
    rows = case.rows(scope)
    failback = case.load.state[rows][case.load.in_window("failback")[rows]]
    ends: dict[str, Any] = {
        f"{name}_s": bounds.get(name, (0.0, None))[1] for name in (*EVENT_PHASES, "first_success", "warm")
    }
    return ModelRecovery(
        **ends,
        service_back_s=found.service_back,
        recovered_s=found.recovered,
        unaffected=found.unaffected,
        relapsed=found.relapsed,
        ratio=ratio,
        hold_certified_s=found.certified_s,
        bounds=bounds,
        model_class=classes[scope.models[0]] if key != "fleet" else "",
        victims=lost,
        sent=found.ops,
        bad=found.bad,
        unknown=found.unknown,
        unplaceable=_unplaceable(scope, members),
        failback_bad=int((failback == BAD).sum()),
        degraded=int((case.load.degraded[rows] & case.load.in_window("fault")[rows]).sum()),
        canary_failed=probed.failed if probed else 0,
        canary_back_s=probed.back_s if probed else None,
    )


def _warm(case: Case, scope: Scope, ratio: float) -> Interval | None:
    try:
        return case.warmth(scope, ratio).bounds
    except Unknown:
        return None


def _unplaceable(scope: Scope, members: list[Phases]) -> str:
    if len(members) == 1:
        return members[0].unplaceable
    named = zip(scope.models, members, strict=True)
    return "; ".join(f"{model}: {member.unplaceable}" for model, member in named if member.unplaceable)


def _windows(case: Case, scopes: dict[str, Scope]) -> tuple[WindowSpan, ...]:
    made = []
    for name in ("drill", "baseline", "fault", "failback"):
        bounds = case.edges.bounds_ns(name)
        if bounds is not None:
            made.append(WindowSpan(name, "fleet", case.edges.seconds(bounds[0]), case.edges.seconds(bounds[1])))
    for key, scope in scopes.items():
        ratio = case.ratio(key)
        made += [WindowSpan(name, scope.label, a, b) for name, a, b in spans(case.recovery(scope, ratio), case.edges)]
        made += _dips(case, scope, ratio)
    return tuple(dict.fromkeys(made))


def _dips(case: Case, scope: Scope, ratio: float) -> list[WindowSpan]:
    """Stretches of the failback window in which failures are beyond chance."""
    rows = case.rows(scope)
    rows = rows[case.load.in_window("failback")[rows]]
    t = case.load.ops.t_intended[rows]
    found = relapses(t, case.load.state[rows] == BAD, ratio)
    return [WindowSpan("dip", scope.label, case.edges.seconds(t[i]), case.edges.seconds(t[j])) for i, j in found]


def _totals(case: Case) -> Totals:
    state = case.load.state
    errors = case.load.ops.error.codes[state != GOOD]
    codes, counts = np.unique(errors, return_counts=True)
    words = case.load.ops.error.words
    named = {words[int(code)] or "late": int(count) for code, count in zip(codes, counts, strict=True)}
    if degraded := int(case.load.degraded.sum()):
        named |= {"degraded": degraded, "late": named.get("late", 0) - degraded}
        named = {name: count for name, count in named.items() if count}
    return Totals(
        sent=len(state),
        good=int((state == GOOD).sum()),
        bad=int((state == BAD).sum()),
        unknown=int((state == UNKNOWN).sum()),
        lost=int((state[case.load.in_window("fault")] == BAD).sum()),
        errors=dict(sorted(named.items(), key=lambda item: (-item[1], item[0]))),
        degraded=int(case.load.degraded.sum()),
    )


def _forecast(case: Case) -> tuple[ForecastRow, ...]:
    forecast = case.run.header.forecast_of(case.edges.victims)
    if forecast is None:
        return ()
    rows = []
    for one in forecast.models:
        actual = case.phases.get(one.model, Phases())
        seen = actual.lost > 0 and OBSERVER in case.heard
        reload_s = actual.reload_s
        compared = reload_s / one.reload_s if reload_s is not None and one.reload_s else None
        rows.append(
            ForecastRow(
                model=one.model,
                fits_forecast=None if one.undecided else one.fits,
                fits_actual=_found_room(case, actual) if seen else None,
                reload_s_forecast=one.reload_s,
                reload_s_actual=reload_s,
                ratio=compared,
                reason=actual.unplaceable or one.reason,
            )
        )
    return tuple(rows)


def _found_room(case: Case, actual: Phases) -> bool:
    """On the survivors: what found no place before the restore did not fit, even if it stands at the end."""
    return actual.ready_replacements >= actual.lost and not (case.edges.to_end and actual.unplaceable)


def _telemetry(case: Case) -> dict[str, Any]:
    """Weight-cache hit ratio and store bytes by window, as far as Prometheus recorded them."""
    found: dict[str, Any] = {}
    for window in ("baseline", "fault", "failback"):
        bounds = case.edges.bounds_ns(window)
        if bounds is None:
            continue
        for name, ask in (("cache_hit_ratio", telemetry.cache_hit_ratio), ("store_bytes", telemetry.store_bytes)):
            try:
                found.setdefault(window, {})[name] = ask(case.run, bounds)
            except telemetry.NoTelemetry:
                continue
    return found
