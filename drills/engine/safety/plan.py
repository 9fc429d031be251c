"""``Plan``: a drill made concrete for one environment and seed, without side effects.

Everything that can be wrong is found here, all at once: mistakes in the file, objectives that no run of this length
could certify, controls that the environment lacks, a victim that holds the observer. ``run`` starts from a Plan.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from assertions.holds import ops_needed
from drills.engine.nouns import Drill, Problem
from drills.engine.safety.loader import DrillFile, load
from fleet.environments import open_fleet
from fleet.forecast import forecast, placements_planned
from fleet.protocols import Cluster, Fleet
from fleet.spec import FleetSpec, ModelSpec
from history.errors import Refused, UsageError
from history.records import FaultMark, Forecast, ObjectiveSpec

MIN_HOLD_S = 3.0
"""A hold lasts at least this long (DESIGN 3.6)."""


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
    """A drill that may be run: resolved, checked, forecast."""

    file: DrillFile
    drill: Drill
    environment: str
    seed: int
    marks: tuple[FaultMark, ...]
    forecasts: tuple[Forecast, ...]
    holds: tuple[HoldTime, ...]

    @property
    def horizon_s(self) -> float:
        """How far the schedule is drawn: the longest run, and a minute for each verification."""
        return self.drill.longest_s() + 60.0 * (1 + len(self.drill.faults))


def make_plan(file: DrillFile, environment: str, seed: int, fleet_spec: FleetSpec | None = None) -> Plan:
    """Loads and checks a drill file; ``UsageError`` with every problem, ``Refused`` where it could prove nothing.

    ``fleet_spec`` replaces the drill's own fleet (``--fleet``). Touches no process and no network.
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
    holds, impossible = hold_times(drill)
    fleet = open_fleet(environment, drill.fleet)
    impossible += unsupported(drill, fleet)
    if impossible:
        raise Refused(
            f"{file.name} cannot be carried out as it stands",
            problems=tuple(map(str, impossible)),
            hint="observe longer, raise the rate, ask for a lower ratio, or choose another fault or environment",
        )
    clusters = {cluster.name: cluster for cluster in fleet.clusters}
    placements = placements_planned(drill.fleet)
    victims = dict.fromkeys(fault.cluster for fault in drill.faults if fault.cluster)
    return Plan(
        file=file,
        drill=drill,
        environment=environment,
        seed=seed,
        marks=tuple(fault.mark(clusters.get(fault.cluster, fleet)) for fault in drill.faults),
        forecasts=tuple(forecast(drill.fleet, placements, victim) for victim in victims),
        holds=tuple(holds),
    )


def hold_times(drill: Drill) -> tuple[list[HoldTime], list[Problem]]:
    """How long each recovery objective needs to be certified, and which ones the drill leaves no time for."""
    window_s, found, impossible = drill.fault_window_s(), [], []
    for objective in drill.objectives:
        spec = objective.spec
        if spec.indicator not in ("recovered", "service_back"):
            continue
        for scope, models in _scopes(spec, drill):
            rate = drill.load.rate_rps * sum(model.share for model in models)
            ops = ops_needed(spec.ratio)
            seconds = max(MIN_HOLD_S, ops / rate) if rate > 0 else float("inf")
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


def unsupported(drill: Drill, fleet: Fleet) -> list[Problem]:
    """Faults that this environment cannot do, or that would take the observer down (DESIGN 3.9)."""
    found = []
    clusters = {cluster.name: cluster for cluster in fleet.clusters}
    entry = urlsplit(fleet.target().entry_url).hostname or ""
    for fault in drill.faults:
        cluster = clusters.get(fault.cluster)
        if reason := fault.unsupported(cluster or fleet):
            found.append(Problem(fault.where, f"fault in {fault.target}: {reason}"))
        if cluster is not None and entry in victim_hosts(cluster):
            found.append(
                Problem(fault.where, f"the entry point {entry} stands in {fault.cluster} and would die with it")
            )
    return found


def victim_hosts(cluster: Cluster) -> set[str]:
    """The addresses that die with the cluster; one shared loopback address for all does not count."""
    facts = cluster.describe()
    hosts = {urlsplit(url).hostname or "" for url in (facts.api_url, *facts.data_urls)}
    return hosts - {"", "127.0.0.1", "localhost"}


def work_dir(run: Path) -> Path:
    """Where the fleet of a run keeps what dies with it (weights, caches)."""
    return run / "fleet"


def _scopes(spec: ObjectiveSpec, drill: Drill) -> list[tuple[str, list[ModelSpec]]]:
    models = [model for model in drill.fleet.models if model.share > 0]
    kind, _, name = spec.scope.partition(":")
    if spec.scope == "each model":
        return [(model.name, [model]) for model in models]
    if spec.scope == "each class":
        classes = dict.fromkeys(model.model_class for model in models)
        return [(cls, [m for m in models if m.model_class == cls]) for cls in classes]
    if kind == "model":
        return [(name, [m for m in models if m.name == name])]
    if kind == "class":
        return [(name, [m for m in models if m.model_class == name])]
    return [("fleet", models)] if spec.scope == "fleet" else []
