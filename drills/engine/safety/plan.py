"""``Plan``: a drill made concrete for one environment and seed, without side effects.

Everything that can be wrong is found here, all at once: mistakes in the file, objectives that no run of this length
could certify, controls that the environment lacks, and every reason not to start (``refusals``). ``run`` starts from a
Plan without refusals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assertions.holds import HOLD_NS, ops_needed
from drills.engine.nouns import Drill, Problem
from drills.engine.safety.expect import Expectation, expect, scopes, taken_at_once
from drills.engine.safety.loader import DrillFile, load
from drills.engine.safety.lock import Locks, state_dir
from drills.engine.safety.refusals import Protected, Refusal, before
from fleet.environments import lock_targets, open_fleet
from fleet.forecast import forecast, placements_planned
from fleet.spec import FleetSpec
from history.clock import NS_PER_S
from history.errors import Refused, UsageError
from history.records import FaultMark, Forecast


@dataclass(frozen=True)
class HoldTime:
    """How long a hold takes to be proven in one scope at its planned rate."""

    scope: str
    ratio: float
    rate_rps: float
    ops: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A drill made concrete: resolved, checked, forecast. It may be run while ``refusals`` is empty."""

    file: DrillFile
    drill: Drill
    environment: str
    seed: int
    marks: tuple[FaultMark, ...]
    forecasts: tuple[Forecast, ...]
    holds: tuple[HoldTime, ...]
    expectation: Expectation
    protected: Protected
    refusals: tuple[Refusal, ...]

    @property
    def horizon_s(self) -> float:
        """How far the schedule is drawn: the longest run, and a minute for each verification."""
        return self.drill.longest_s() + 60.0 * (1 + len(self.drill.faults))


def make_plan(
    file: DrillFile,
    environment: str,
    seed: int,
    fleet_spec: FleetSpec | None = None,
    *,
    confirmed: tuple[str, ...] = (),
    expect_fail: bool = False,
) -> Plan:
    """Loads and checks a drill file; ``UsageError`` with every problem, ``Refused`` where it could prove nothing.

    ``fleet_spec`` replaces the drill's own fleet (``--fleet``). ``confirmed``: targets that the user named once more;
    ``expect_fail``: the user knows that the forecast excludes an objective. Starts and changes nothing.
    """
    drill = load(file)
    if fleet_spec is not None:
        drill = dataclasses.replace(drill, fleet=fleet_spec)
    if problems := drill.problems():
        raise UsageError(
            f"{file.name} has {len(problems)} mistake{'s' * (len(problems) > 1)}",
            problems=tuple(map(str, problems)),
            hint="mend them and run `blackstart plan` again",
        )
    drill = dataclasses.replace(drill, objectives=tuple(one.there(environment) for one in drill.objectives))
    placements = placements_planned(drill.fleet)
    forecasts = tuple(forecast(drill.fleet, placements, *victims) for victims in taken_at_once(drill))
    holds, impossible = hold_times(drill, forecasts)
    hints = ["observe longer, raise the rate or ask for less"] if impossible else []
    impossible += empty_scopes(drill, forecasts)
    fleet = open_fleet(environment, drill.fleet)
    clusters = {cluster.name: cluster for cluster in fleet.clusters}
    subjects = [(fault, clusters.get(fault.cluster, fleet)) for fault in drill.faults]
    for fault, subject in subjects:
        if reason := fault.unsupported(subject):
            impossible.append(fault.problem(f"fault in {fault.target}: {reason}"))
            hints.append("choose what is possible, or another --env")
    if impossible:
        raise Refused(
            f"{file.name} cannot be carried out as it stands",
            problems=tuple(map(str, impossible)),
            hint="; ".join(dict.fromkeys(hints)) or "mend them, or choose another --fleet",
        )
    expectation = expect(drill, forecasts)
    protected = Protected.read(Path.cwd(), beside=file.path.parent)
    return Plan(
        file=file,
        drill=drill,
        environment=environment,
        seed=seed,
        marks=tuple(fault.mark(subject) for fault, subject in subjects),
        forecasts=forecasts,
        holds=tuple(holds),
        expectation=expectation,
        protected=protected,
        refusals=before(
            drill,
            fleet,
            protected=protected,
            confirmed=confirmed,
            locks=Locks(state_dir()),
            lock_targets=lock_targets(environment, drill.fleet),
            impossible=() if expect_fail else tuple(map(str, expectation.impossible)),
        ),
    )


def hold_times(drill: Drill, forecasts: tuple[Forecast, ...]) -> tuple[list[HoldTime], list[Problem]]:
    """How long each recovery objective needs to be certified, and which ones the drill leaves no time for."""
    window_s, found, impossible = drill.fault_window_s(), [], []
    rows = {row.model: row for forecast in forecasts for row in forecast.models if row.replicas_lost}
    for objective in drill.objectives:
        spec = objective.spec
        if spec.indicator not in ("recovered", "service_back"):
            continue
        for scope, models in scopes(spec, drill.fleet, rows):
            if not models:
                continue
            rate = drill.load.rate_rps * sum(model.share for model in models)
            ops = ops_needed(spec.ratio)
            seconds = max(HOLD_NS / NS_PER_S, ops / rate) if rate > 0 else float("inf")
            found.append(HoldTime(scope, spec.ratio, rate, ops, seconds))
            if spec.limit + seconds > window_s:
                impossible.append(
                    objective.problem(
                        f"objective {spec.name}: {scope} gets {rate:.1f} requests a second, so ratio {spec.ratio:g} "
                        f"is proven {seconds:.1f} s after it recovered; with a limit of {spec.limit:g} s that needs "
                        f"{spec.limit + seconds:.1f} s, and the drill observes the fault for {window_s:g} s"
                    )
                )
    return found, impossible


def empty_scopes(drill: Drill, forecasts: tuple[Forecast, ...]) -> Iterator[Problem]:
    """Objectives of which nothing can be measured on this fleet: no model under load is in their scope."""
    rows = {row.model: row for forecast in forecasts for row in forecast.models if row.replicas_lost}
    hurt = ", ".join(dict.fromkeys(name for forecast in forecasts for name in forecast.gone)) or "any victim"
    why = {
        "bystanders": f"every model under load has a replica in {hurt}; place one elsewhere, or ask of another scope",
        "affected": f"no model under load has a replica in {hurt}; hurt another cluster, or ask of another scope",
    }
    for objective in drill.objectives:
        scope = objective.spec.scope
        if not scope.startswith("served by:") and not any(one for _, one in scopes(objective.spec, drill.fleet, rows)):
            reason = why.get(scope, "it has no share of the load; give it one, or ask of another scope")
            yield objective.problem(
                f"objective {objective.spec.name}: scope {scope!r} is empty on this fleet: {reason}"
            )
