"""What the forecast says of the objectives: which ones no run on this fleet can meet, and so what verdict to expect.

Pure; used by ``plan`` and ``refusals``. It only ever says "impossible" of what arithmetic excludes (GPUs that are not
there, bytes that cannot arrive in time); everything else stays to be shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from drills.engine.nouns import Drill, Inject, Restore
from drills.engine.nouns.located import Problem
from fleet.spec import FleetSpec, ModelSpec
from history.records import FaultMark, Forecast, ModelForecast, ObjectiveSpec

TAKES_CLUSTER = frozenset({"PowerLoss", "Freeze", "Partition", "CablePull", "Destroy"})
"""Kinds of faults after which nobody is served from the victim."""


@dataclass(frozen=True)
class Expectation:
    """The verdict that the forecast lets expect: ``fail`` with the impossible objectives, ``unknown`` for a drill that
    touches nothing, else ``pass``, which only says that nothing speaks against it."""

    verdict: str
    text: str
    impossible: tuple[Problem, ...] = ()


def expect(drill: Drill, forecasts: tuple[Forecast, ...]) -> Expectation:
    """The expectation for a drill; ``forecasts``: of its victims."""
    marks = [fault.mark(None) for fault in drill.faults]
    if all(mark.noop for mark in marks):
        return Expectation("unknown", "unknown: the drill touches nothing, so nothing can be proven")
    taken = {mark.cluster for mark in marks if takes_cluster(mark)}
    gone = [set(forecast.gone) for forecast in forecasts if taken.issuperset(forecast.gone)]
    worst = [one for one in forecasts if set(one.gone) in gone and not any(set(one.gone) < more for more in gone)]
    found = [problem for forecast in worst for problem in impossible(drill, forecast)]
    if found:
        more = f"; and {len(found) - 1} more objective(s)" if len(found) > 1 else ""
        return Expectation("fail", f"fail: {found[0].text}{more}", tuple(found))
    if not all(forecast.fits for forecast in worst):
        return Expectation("pass", "pass is possible, although not every model fits: no objective asks for more")
    return Expectation("pass", "pass is possible: nothing in the forecast speaks against it")


def takes_cluster(mark: FaultMark) -> bool:
    """Nobody is served from the victim any more; not so where a lock is declared to refuse the fault."""
    return mark.kind in TAKES_CLUSTER and mark.signature != "none"


def taken_at_once(drill: Drill) -> tuple[tuple[str, ...], ...]:
    """What to forecast, each once: after each injection all clusters that are gone by then, and victims that are hurt
    in another way each alone. What was moved meanwhile to a cluster that goes later is lost again, so that all of them
    are looked at as if they went at once."""
    gone: dict[str, None] = {}
    found: dict[tuple[str, ...], None] = {}
    for step in drill.steps:
        if isinstance(step, Inject) and step.fault.cluster:
            takes = takes_cluster(step.fault.mark(None))
            gone |= {step.fault.cluster: None} if takes else {}
            found[tuple(gone) if takes else (step.fault.cluster,)] = None
        elif isinstance(step, Restore):
            gone.pop(step.cluster, None)
    return tuple(found)


def impossible(drill: Drill, forecast: Forecast) -> Iterator[Problem]:
    """The objectives that cannot be met once ``forecast.victim`` is gone, each with the arithmetic."""
    rows = {row.model: row for row in forecast.models}
    if drill.recovery_until == "end":  # the victim comes back before the window ends: the forecast knows nothing of it
        return
    told: set[str] = set()
    for objective in drill.objectives:
        spec = objective.spec
        if spec.window != "fault":
            continue
        for scope, models in scopes(spec, drill.fleet, rows):
            if reason := _why_not(spec, scope, models, rows, drill.fleet):
                arithmetic = {row.reason for row in forecast.models if f" ({row.reason})" in reason}
                for known in arithmetic & told:  # said once is enough
                    reason = reason.replace(f" ({known})", "")
                told |= arithmetic
                yield objective.problem(f"{spec.name} is impossible without {forecast.victim}: {reason}")


def scopes(
    spec: ObjectiveSpec, fleet: FleetSpec, rows: Mapping[str, ModelForecast]
) -> Iterator[tuple[str, list[ModelSpec]]]:
    """What the scope expands to, as far as models: (name, its models under load)."""
    models = [model for model in fleet.models if model.share > 0]
    kind, _, name = spec.scope.partition(":")
    if spec.scope == "each model" or kind == "model":
        yield from ((model.name, [model]) for model in models if not name or model.name == name)
    elif spec.scope == "each class" or kind == "class":
        for cls in dict.fromkeys(model.model_class for model in models):
            if not name or cls == name:
                yield cls, [model for model in models if model.model_class == cls]
    elif spec.scope == "fleet":
        yield "fleet", models
    elif spec.scope in ("affected", "bystanders"):
        hit = {name for name, row in rows.items() if row.replicas_lost}
        yield spec.scope, [model for model in models if (model.name in hit) == (spec.scope == "affected")]


def _why_not(
    spec: ObjectiveSpec, scope: str, models: list[ModelSpec], rows: Mapping[str, ModelForecast], fleet: FleetSpec
) -> str:
    if spec.indicator in ("reallocated", "full_capacity"):
        short = [model.name for model in models if rows[model.name].at_most < rows[model.name].replicas_lost]
        return f"{', '.join(short)}: {rows[short[0]].reason}" if short else ""
    if spec.indicator not in ("recovered", "service_back", "good_ratio"):
        return ""
    dead = [model for model in models if _dead(model, rows, fleet, fallback=fleet.switches.fallback)]
    whole = sum(model.share for model in models)
    lost = sum(model.share for model in dead) / whole if whole else 0.0
    allowed = 1 - (spec.limit if spec.indicator == "good_ratio" else spec.ratio)
    if dead and lost > allowed + 1e-9:
        names = ", ".join(model.name for model in dead)
        return (
            f"{names} cannot run ({rows[dead[0].name].reason}), so {lost:.0%} of the requests to {scope} must fail; "
            f"the objective allows {allowed:.0%}"
        )
    if spec.indicator != "good_ratio" and len(models) == 1:
        return _too_slow(spec, models[0], rows[models[0].name], fleet)
    return ""


def _dead(model: ModelSpec, rows: Mapping[str, ModelForecast], fleet: FleetSpec, *, fallback: bool) -> bool:
    """Has it surely no replica after the loss, and nobody who answers for it? One fallback's own answers for nobody."""
    row = rows[model.name]
    if model.replicas - row.replicas_lost + row.at_most > 0:
        return False
    return not (fallback and model.fallback in rows) or _dead(fleet.model(model.fallback), rows, fleet, fallback=False)


def _too_slow(spec: ObjectiveSpec, model: ModelSpec, row: ModelForecast, fleet: FleetSpec) -> str:
    """Can the weights of its first replica not arrive within the limit, even with all bandwidth to themselves?"""
    if row.replicas_lost < model.replicas or not row.reload_bytes or fleet.switches.peer_fetch:
        return ""
    least_s = model.weight_bytes / sum(store.egress_bytes_s for store in fleet.stores)
    if least_s <= spec.limit:
        return ""
    return (
        f"every replica of {model.name} is lost, and its {model.weight_bytes / 2**20:.0f} MiB need at least "
        f"{least_s:.1f} s from the stores; the limit is {spec.limit:g} s"
    )
