"""``Case``: one run under judgement, with everything that several checkers need computed once.

Made by ``analyze``; read by objectives, validity, happened and headline. Caches results of pure functions, no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from assertions.measure import Measure, Unknown
from assertions.phases import Phases, phases
from assertions.recovery import Recovery, recovery
from assertions.scopes import FLEET_RATIO, MODEL_RATIO, Load, Rows, Scope, judge, known_until
from assertions.warmth import warmth
from assertions.windows import RUN_WINDOWS, Edges, edges
from history.clock import NS_PER_MS, NS_PER_S
from history.reader import Run

LAG_LIMIT_MS = 20.0
"""Send lag above this at the p99 makes a run, or the surroundings of an edge, doubtful (DESIGN 3.3)."""
NEAR_NS = 2 * NS_PER_S


@dataclass(frozen=True, eq=False)
class Case:
    """A run, its edges and its judged load. ``affected``: models with a replica in a victim when the baseline ended."""

    run: Run
    edges: Edges
    load: Load
    _recoveries: dict[tuple[Scope, float], Recovery] = field(default_factory=dict)
    _rows: dict[Scope, Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, over: bool = True) -> Case:
        """Reads the edges and judges every load op. ``over``: the run has ended, so that no RUN_END means killed."""
        found = edges(run)
        return cls(run, found, judge(run, found, known_until(run) if over else None))

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Every model of the fleet, in its declared order."""
        return tuple(model.name for model in self.run.header.fleet.models)

    @cached_property
    def affected(self) -> tuple[str, ...]:
        """Models with at least one replica in a victim when the baseline ended."""
        return tuple(name for name in self.models if self.lost(name))

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Class -> its models, in declared order."""
        found: dict[str, tuple[str, ...]] = {}
        for model in self.run.header.fleet.models:
            found[model.model_class] = (*found.get(model.model_class, ()), model.name)
        return found

    def lost(self, model: str) -> int:
        """Replicas of ``model`` that were in a victim when the baseline ended."""
        return sum(p.model == model and p.cluster in self.edges.victims for p in self.run.header.fleet.placements)

    def scopes(self, name: str) -> tuple[Scope, ...]:
        """The scopes that a ScopeName stands for: several for ``each …``; ``ValueError`` for one that nobody has."""
        groups = {
            "fleet": (Scope("fleet", self.models),),
            "each model": tuple(Scope(model, (model,)) for model in self.models),
            "each class": tuple(Scope(label, members) for label, members in self.classes.items()),
            "affected": (Scope("affected", self.affected),),
            "bystanders": (Scope("bystanders", tuple(m for m in self.models if m not in self.affected)),),
        }
        kind, _, rest = name.partition(":")
        if kind in ("model", "class"):
            found = tuple(scope for scope in groups[f"each {kind}"] if scope.label == rest)
        elif kind == "served by" and any(cluster.name == rest for cluster in self.run.header.fleet.clusters):
            found = (Scope(name, self.models, served_by=rest),)
        else:
            found = groups.get(name, ())
        if not found:
            raise ValueError(f"scope {name!r}: this fleet has no such model, class or cluster")
        return found

    @cached_property
    def heard(self) -> frozenset[str]:
        """The sources that reported any event: of all others silence means nothing."""
        return frozenset(op.source for op in self.run.history.events)

    def hear(self, source: str) -> None:
        """``Unknown`` where this source reported nothing in the run."""
        if source not in self.heard:
            raise Unknown(f"no {source} reported anything in this run")

    def was_injected(self) -> None:
        """``Unknown`` where nothing happened."""
        if self.edges.injected is None:
            raise Unknown("no fault was injected")

    def window_ns(self, name: str) -> tuple[int, int]:
        """[start, end) of a window that is not a scope's own; ``Unknown`` where the run has none of this name."""
        bounds = self.edges.bounds_ns(name)
        if bounds is None:
            raise Unknown(f"the run has no window {name!r} of its own")
        return bounds

    @cached_property
    def phases(self) -> dict[str, Phases]:
        """The phases of each model."""
        return {model: phases(self, model) for model in self.models}

    @cached_property
    def lag_ms(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Send lag of each load op; NaN where it was never sent."""
        ops = self.load.ops
        lag: np.ndarray[tuple[int], np.dtype[np.float64]] = np.where(
            ops.t_sent >= 0, (ops.t_sent - ops.t_intended) / NS_PER_MS, np.nan
        )
        return lag

    def rows(self, scope: Scope) -> Rows:
        """Indices of the scope's load ops."""
        if scope not in self._rows:
            self._rows[scope] = scope.rows(self.load)
        return self._rows[scope]

    def recovery(self, scope: Scope, ratio: float) -> Recovery:
        """The scope's recovery, its edges widened by the send lag near them where that was high."""
        key = (scope, ratio)
        if key not in self._recoveries:
            found = recovery(self.load, self.rows(scope), ratio)
            self._recoveries[key] = found.widened(self.lag_near_s(self._edge_ns(found)))
        return self._recoveries[key]

    def warmth(self, scope: Scope, ratio: float) -> Measure:
        """When the scope was warm again, after its recovery at ``ratio``; ``Unknown`` where none can tell."""
        self.was_injected()
        return warmth(self.load, self.rows(scope), self.recovery(scope, ratio))

    def rows_in(self, scope: Scope, window: str, ratio: float) -> Rows:
        """The scope's rows in a window; ``outage``, ``degraded`` and ``hold`` are the scope's own at ``ratio``."""
        rows = self.rows(scope)
        if window in RUN_WINDOWS:
            return rows[self.load.in_window(window)[rows]]
        for name, start_s, end_s in spans(self.recovery(scope, ratio), self.edges):
            if name == window:
                start, end = (self.edges.zero + round(s * NS_PER_S) for s in (start_s, end_s))
                return rows[self.load.between(start, end)[rows]]
        return rows[:0]

    def ratio(self, scope_name: str) -> float:
        """The ratio that a scope's recovery must prove: its ``recovered`` objective's, else 0.99 fleet, 0.90 others."""
        specs = [spec for spec in self.run.header.objectives if spec.indicator == "recovered"]
        promised = {spec.scope: spec.ratio for spec in reversed(specs)}  # the first of each counts
        each = f"each {scope_name.partition(':')[0]}"
        return promised.get(scope_name, promised.get(each, FLEET_RATIO if scope_name == "fleet" else MODEL_RATIO))

    def lag_near_ms(self, t_ns: int) -> tuple[float, float] | None:
        """(p99, largest) send lag within 2 s of an instant, in ms; None where nothing was sent."""
        near = self.lag_ms[self.load.between(t_ns - NEAR_NS, t_ns + NEAR_NS)]
        near = near[~np.isnan(near)]
        return (nearest_rank(near, 99.0), float(near.max())) if len(near) else None

    def lag_near_s(self, t_ns: list[int]) -> float:
        """The largest send lag within 2 s of these instants, in s; 0 where its p99 there is within the limit."""
        found = [near for t in t_ns if (near := self.lag_near_ms(t)) is not None]
        return max((largest / 1_000 for p99, largest in found if p99 > LAG_LIMIT_MS), default=0.0)

    def _edge_ns(self, found: Recovery) -> list[int]:
        if found.service_back is None or self.edges.injected is None:
            return []
        seconds = [s for s in (0.0, *found.service_back) if s is not None]
        return [self.edges.zero + round(s * NS_PER_S) for s in seconds]


def spans(found: Recovery, edges: Edges) -> list[tuple[str, float, float]]:
    """(window, start, end) of an affected scope: outage (nothing succeeds), degraded (some do), hold, relapse."""
    if found.first_bad_s is None:
        return []
    end_s = edges.seconds(edges.fault_end)
    success_s = end_s if found.first_success is None else min(found.first_success[0], end_s)
    hold_s = end_s if found.hold_start_s is None else found.hold_start_s
    success_s = min(success_s, hold_s)
    made = [("outage", found.first_bad_s, success_s)]
    if hold_s > success_s:
        made.append(("degraded", success_s, hold_s))
    if found.certified_s is not None:
        made.append(("hold", hold_s, found.certified_s))
    return made + [("relapse", start, end) for start, end in found.relapse_spans]


def nearest_rank(values: np.ndarray[tuple[int], np.dtype[np.float64]], percentile: float) -> float:
    """The exact percentile of raw values by nearest rank; ``ValueError`` when there are none."""
    if not len(values):
        raise ValueError("a percentile of no values")
    rank = max(1, int(np.ceil(percentile / 100.0 * len(values) - 1e-9)))
    return float(np.partition(values, rank - 1)[rank - 1])
