"""Facts that several reports state in the same words: recovered X of Y, lost N of M, budget spent, worst first.

Pure functions of a ``Result``; called by the templates and summary.py. Never computes a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping

from assertions.result import ModelRecovery, ObjectiveResult, Result, ends_open
from history.records import RunHeader
from reports.words import count, interval, limit_seconds, listed, one_line, percent


def objective_of(result: Result, indicator: str, scope: str = "fleet") -> ObjectiveResult | None:
    """The first objective of this indicator and scope; it stands in the ten-second line."""
    for objective in result.objectives:
        if objective.indicator == indicator and objective.scope == scope:
            return objective
    return None


def heal_of(result: Result) -> float | None:
    """When the restore of the first fault began; None if nothing was restored."""
    return next((fault.heal_s for fault in result.faults if fault.heal_s is not None), None)


def victims_of(result: Result) -> str:
    """The clusters that were hit, for a sentence; "" if none."""
    return listed(dict.fromkeys(fault.cluster for fault in result.faults if fault.cluster))


def recovered_of(result: Result) -> str:
    """ "recovered in 6.41 s of 10 s", "not recovered after 60.0 s", "recovery not proven, last failure at 3.93 s"."""
    objective = objective_of(result, "recovered")
    if objective is None and (worst := _worst_recovered(result)) is not None:
        return worst
    limit = f" of {limit_seconds(objective.limit)}" if objective else ", no limit set"
    fleet = result.fleet
    if fleet is None or fleet.recovered_s is None:
        if fleet is not None and fleet.unaffected:
            return unaffected_in_words(fleet)
        return "recovery not measured"
    low, high = fleet.recovered_s
    if high is None:
        told = _without_end(ends_open("fleet", fleet, result.objectives, result.verdict), low)
        return told + (f", limit {limit_seconds(objective.limit)}" if objective else "")
    return f"recovered in {interval((high, high))}{limit}"


def _without_end(is_open: bool, low_s: float) -> str:
    if is_open:
        return f"recovery not proven, last failure at {interval((low_s, low_s))}"
    return f"not recovered after {interval((low_s, low_s))}"


def _worst_recovered(result: Result) -> str | None:
    """The same of the scope that missed its limit most, else of the last one, where the fleet has no limit."""
    found = [o for o in result.objectives if o.indicator == "recovered" and o.bounds is not None]
    if not found:
        return None

    def excess(o: ObjectiveResult) -> float:
        high = o.bounds[1] if o.bounds else None
        return float("inf") if high is None else high - o.limit

    worst = max(found, key=lambda o: (max(0.0, excess(o)), excess(o) + o.limit, o.scope))
    low, high = worst.bounds or (0.0, None)
    scope, limit = one_line(worst.scope, 40), limit_seconds(worst.limit)
    if high is None:
        return f"{scope} {_without_end(worst.verdict != 'fail', low)}, limit {limit}"
    return f"{scope} recovered last, in {interval((high, high))} of {limit}"


def lost_of(result: Result) -> str:
    """ "251 of 13,200 (1.9 %)": bad answers while the fault lasted, of what was sent meanwhile."""
    lost, sent = result.totals.lost, result.fleet.sent if result.fleet is not None else result.totals.sent
    return f"{lost:,} of {sent:,} ({percent(lost, sent)})"


def budget_of(result: Result) -> str:
    """ "budget spent 63 %": lost against the limit of the fleet's *lost* objective."""
    objective = objective_of(result, "lost")
    if objective is None:
        return "no loss budget set"
    if objective.measured is None:
        return "budget spent: not measured"
    if objective.limit <= 0:
        return "budget 0 kept" if objective.measured <= 0 else f"budget 0, spent {objective.measured:,.0f}"
    return f"budget spent {100 * objective.measured / objective.limit:.0f} %"


def unaffected_in_words(model: ModelRecovery) -> str:
    """Why a scope counts as unaffected; a few bad answers may be no more than chance (docs/decisions/0001)."""
    unknown = f", {model.unknown:,} unknown" if model.unknown else ""
    if not model.bad:
        return f"unaffected: no bad answer among {model.sent:,} sends{unknown}"
    return f"unaffected: {model.bad:,} bad of {model.sent:,}{unknown}, no more than chance at {100 * model.ratio:g} %"


def worst_first(models: Mapping[str, ModelRecovery]) -> list[tuple[str, ModelRecovery]]:
    """Never recovered, then relapsed, then the latest, then unaffected; equal ones by name."""

    def key(item: tuple[str, ModelRecovery]) -> tuple[int, int, float, int, str]:
        name, model = item
        end = model.recovered_s[1] if model.recovered_s else None
        never = 0 if end is None and not model.unaffected else 1
        return (
            1 if model.unaffected or not model.sent else 0,
            never,
            -(end or 0.0) - (1e9 if model.relapsed else 0),
            -model.bad,
            name,
        )

    return sorted(models.items(), key=key)


def failed_first(result: Result) -> list[ObjectiveResult]:
    """Objectives in their order, but what failed first and what passed last."""
    return sorted(result.objectives, key=lambda o: ("fail", "unknown", "pass").index(o.verdict))


def environment_of(header: RunHeader, result: Result) -> list[tuple[str, str]]:
    """What a stranger needs to know of where the run ran; at most 80 lines."""
    fleet = header.fleet
    nodes = sum(len(cluster.nodes) for cluster in fleet.clusters)
    gpus = sum(node.gpus for cluster in fleet.clusters for node in cluster.nodes)
    sizes = f"{len(fleet.clusters)} clusters, {count(nodes, 'node')}, {gpus} GPUs, {count(len(fleet.models), 'model')}"
    rows = [
        ("run", result.run_id),
        ("environment", result.environment),
        ("entry point", header.target.entry_url),
        ("fleet", f"{fleet.name}: {sizes}"),
        ("Prometheus", "recorded" if header.prometheus else "absent"),
        *((f"switch {name}", value) for name, value in fleet.switches),
        *((f"version of {name}", value) for name, value in header.versions),
        *((f"host: {name}", value) for name, value in header.host),
        *(("note", note) for note in header.notes),
    ]
    return rows[:80]
