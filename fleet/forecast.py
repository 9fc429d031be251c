"""The forecast: what must happen if a cluster goes: who fits on the survivors, who does not, and in how many seconds.

Pure arithmetic over a ``FleetSpec`` and placements; called by ``plan``, ``forecast``, the runner and the fleet's
checks. It never runs anything, and never claims a fit that does not exist. *Who* follows the reference allocator's
promise (important models first, nobody displaced, exact packing on nodes; ``fleet.packing`` says when that is exact).
*How long* is bytes over bandwidth (``fleet.reload``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from fleet.packing import (
    Admitted,
    Slots,
    admit_bounds,
    at_most,
    divide_each_other,
    packs_by_counts,
    short_gpus,
)
from fleet.planned import Replica, in_order, rooms_text
from fleet.planned import placements_planned as placements_planned
from fleet.reload import Flow, fair_finish_s
from fleet.spec import FleetSpec, ModelSpec
from history.errors import UsageError
from history.records import Forecast, ModelForecast, Placement


@dataclass(frozen=True)
class _Node:
    cluster: str
    name: str
    free: int


@dataclass(frozen=True)
class PairForecast:
    """Two clusters gone at once. ``fits``: None = the bounds do not decide it. ``short_gpus``: at least so many GPUs
    of lost replicas find no place (0 when they fit, or when nothing says that they do not)."""

    clusters: tuple[str, str]
    fits: bool | None
    gpus_needed: int
    gpus_free: int
    short_gpus: int


def forecast(spec: FleetSpec, placements: Sequence[Placement], victim: str) -> Forecast:
    """What happens to each model if ``victim`` goes while replicas stand at ``placements``.

    ``UsageError`` when ``victim`` is no cluster. ``gpus_needed``: of the replicas lost; ``gpus_free``: of survivors.
    """
    return Losses(spec, placements).one(victim, every_model=True)


class Losses:
    """All questions about losing clusters of one fleet while replicas stand at ``placements``.

    What the questions share is worked out once: 100 single losses of 100,000 GPUs take seconds.
    """

    def __init__(self, spec: FleetSpec, placements: Sequence[Placement]) -> None:
        self._spec = spec
        models = {model.name: model for model in spec.models}
        if unknown := sorted({p.model for p in placements} - models.keys()):
            raise UsageError(f"placements name {', '.join(unknown)}, no model of fleet {spec.name!r}")
        order = {model.name: number for number, model in enumerate(spec.models)}
        used = Counter[str]()
        self._lost: dict[str, list[Replica]] = {cluster.name: [] for cluster in spec.clusters}
        for p in sorted(placements, key=lambda p: (order[p.model], _index(p))):
            used[p.node] += models[p.model].gpus
            self._lost.setdefault(p.cluster, []).append((models[p.model], _index(p)))
        self._nodes = [
            _Node(cluster.name, node.name, node.gpus - used[node.name])
            for cluster in spec.clusters
            for node in cluster.nodes
        ]
        self._held = {(p.model, p.node) for p in placements}
        self._running = Counter(p.model for p in placements)
        self._store = {c.name: spec.stores_for(c.name)[0].name for c in spec.clusters}

    def one(self, victim: str, *, every_model: bool = False) -> Forecast:
        """The loss of ``victim``; rows of the models that it hits, or of every model."""
        self._spec.cluster(victim)
        wanted = in_order(self._lost[victim])
        nodes = [node for node in self._nodes if node.cluster != victim]
        free = [node.free for node in nodes]
        needs = [model.gpus for model, _ in wanted]
        admitted = admit_bounds(needs, free)
        moved = []
        left = list(free)
        for (model, _), place in zip(wanted, admitted.places, strict=True):
            if place is not None:
                moved.append((model, nodes[place]))
                left[place] -= model.gpus
        lost = Counter(model.name for model, _ in wanted)
        flows = self._flows(moved, lost)
        rows = _Rows(wanted, admitted, moved, flows, fair_finish_s(self._spec, flows), free)
        if not all(place is not None for place in admitted.places):
            rows.left = rooms_text([(node.name, room) for node, room in zip(nodes, left, strict=True)])
        return Forecast(
            victim=victim,
            gpus_needed=sum(needs),
            gpus_free=sum(free),
            models=tuple(
                rows.row(model, lost[model.name]) for model in self._spec.models if every_model or lost[model.name]
            ),
        )

    def all(self) -> Iterator[Forecast]:
        """Each single loss, in the order of the fleet; rows of the models that it hits."""
        return (self.one(cluster.name) for cluster in self._spec.clusters)

    def pairs(self) -> Iterator[PairForecast]:
        """Each loss of two at once, by bounds over sums (exact while sizes divide each other)."""
        sizes = {model.gpus for model in self._spec.models}
        names = [cluster.name for cluster in self._spec.clusters]
        needs = {name: Counter(model.gpus for model, _ in self._lost[name]) for name in names}
        rooms: dict[str, Counter[int]] = {name: Counter() for name in names}
        for node in self._nodes:
            rooms[node.cluster][node.free] += 1
        slots = {name: Slots.of(rooms[name].elements(), sizes) for name in names}
        every = Slots.of((node.free for node in self._nodes), sizes)
        free = {name: sum(room * count for room, count in rooms[name].items()) for name in names}
        all_rooms = Counter(node.free for node in self._nodes)
        for one, other in combinations(names, 2):
            both = needs[one] + needs[other]
            short = short_gpus(both, every.minus(slots[one]).minus(slots[other]))
            fits: bool | None = short <= 0
            if fits and not divide_each_other(both):
                fits = packs_by_counts(both, all_rooms - rooms[one] - rooms[other]) or None
            yield PairForecast(
                clusters=(one, other),
                fits=fits,
                gpus_needed=sum(size * count for size, count in both.items()),
                gpus_free=sum(free.values()) - free[one] - free[other],
                short_gpus=short,
            )

    def _flows(self, moved: Sequence[tuple[ModelSpec, _Node]], lost: Counter[str]) -> list[Flow]:
        """What the stores must send: a node fetches a model once (without single flight: once a replica), not at all
        when it has it; with peer fetch the fleet's survivors fetch each model once, not at all when one of them has it
        (links between nodes: no limit)."""
        anywhere = {model.name for model, _ in moved if self._running[model.name] > lost[model.name]}
        here: set[tuple[str, str]] = set()
        flows = []
        for model, node in moved:
            at = (model.name, node.name)
            peers = self._spec.switches.peer_fetch and model.name in anywhere
            waits = at in here and self._spec.switches.single_flight
            size = 0 if peers or at in self._held or waits else model.replica_bytes
            here.add(at)
            anywhere.add(model.name)
            flows.append(Flow(model.name, node.cluster, self._store[node.cluster], size))
        return flows


class _Rows:
    """One loss, a row a model."""

    def __init__(
        self,
        wanted: Sequence[Replica],
        admitted: Admitted,
        moved: Sequence[tuple[ModelSpec, _Node]],
        flows: Sequence[Flow],
        seconds: dict[str, float],
        free: Sequence[int],
    ) -> None:
        self.left = ""
        self._wanted, self._admitted, self._free = wanted, admitted, free
        self._slots: Slots | None = None
        self._held: Counter[int] = Counter()
        self._decided: Counter[tuple[str, bool]] = Counter()
        self._seconds = seconds
        self._places: dict[str, tuple[str, ...]] = {}
        for model, node in moved:
            self._places[model.name] = (*self._places.get(model.name, ()), node.name)
        self._bytes = Counter[str]()
        for flow in flows:
            self._bytes[flow.model] += flow.bytes

    def row(self, model: ModelSpec, lost: int) -> ModelForecast:
        places = self._places.get(model.name, ())
        placed = len(places)
        limit = placed if placed == lost else self._at_most(model, lost, placed)
        if not lost:
            reason = "no replica in the victim"
        elif placed == lost:
            reason = f"{_replicas(lost)} of {model.gpus} GPU(s) fit on the survivors"
        elif limit > placed:
            reason = (
                f"of {_replicas(lost)} of {model.gpus} GPU(s) at least {placed} and at most {limit} find a node: these "
                f"sizes do not divide each other, so both are bounds; left by the packing that was found: {self.left}"
            )
        else:
            reason = (
                f"{_replicas(lost - placed)} of {lost} lost find no node: each needs {model.gpus} GPU(s) on one node; "
                f"left after all that fits: {self.left}"
            )
        return ModelForecast(
            model=model.name,
            replicas_lost=lost,
            replicas_placeable=placed,
            fits=placed == lost,
            reason=reason,
            reload_bytes=self._bytes[model.name],
            reload_s=self._seconds.get(model.name) if placed else None,
            replicas_placeable_at_most=limit if limit > placed else None,
            nodes=places,
        )

    def _at_most(self, model: ModelSpec, lost: int, placed: int) -> int:
        """Only what is decided for sure holds room against this model."""
        sure = self._admitted.sure
        if sure == len(self._wanted):
            return placed
        if self._slots is None:
            sizes = {other.gpus for other, _ in self._wanted}
            self._slots = Slots.of(self._free, sizes)
            for (other, _), place in zip(self._wanted[:sure], self._admitted.places, strict=False):
                self._decided[other.name, place is not None] += 1
                self._held[other.gpus] += place is not None
        held = Counter(self._held)
        held[model.gpus] -= self._decided[model.name, True]
        out = self._decided[model.name, False]
        return max(placed, min(lost - out, at_most(model.gpus, lost, held, self._slots)))


def _index(placement: Placement) -> int:
    """The replica's index by its name (MODEL-1 is 0); 0 for a name of another kind."""
    number = placement.replica.removeprefix(f"{placement.model}-")
    return max(int(number) - 1, 0) if number.isdigit() else 0


def _replicas(count: int) -> str:
    return f"{count} replica" + ("s" if count != 1 else "")
