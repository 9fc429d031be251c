"""The forecast: what must happen if a cluster goes: who fits on the survivors, who does not, and in how many seconds.

Pure arithmetic over a ``FleetSpec`` and placements; called by ``plan``, ``forecast``, the runner and the fleet's
checks. It never runs anything, and never claims a fit that does not exist. *Who* follows the reference allocator's
promise (important models first, nobody displaced, exact packing on nodes; ``fleet.packing`` says when that is exact).
*How long* is bytes over bandwidth (``fleet.reload``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from fleet.packing import LIMIT, Admitted, Slots, admit_bounds, at_most, divide_each_other, packs_by_counts, short_gpus
from fleet.placement import Placed, Slot, in_order, left_after, reallocate, rooms_of, rooms_text, slot_of
from fleet.placement import placements_planned as placements_planned
from fleet.reload import Flow, fair_finish_s
from fleet.spec import FleetSpec, ModelSpec
from history.errors import UsageError
from history.records import Forecast, ModelForecast, Placement

SEARCHED = 20 * LIMIT
"""Looks at a node that all losses of one fleet share."""


@dataclass(frozen=True)
class PairForecast:
    """Two clusters gone at once. ``fits``: None = the bounds do not decide it. ``short_gpus``: at least so many GPUs
    of lost replicas find no place (0 when they fit, or when nothing says that they do not)."""

    clusters: tuple[str, str]
    fits: bool | None
    gpus_needed: int
    gpus_free: int
    short_gpus: int


def forecast(spec: FleetSpec, placements: Sequence[Placement], *victims: str) -> Forecast:
    """What happens to each model if the ``victims`` go while replicas stand at ``placements``.

    Of several, whether all at once or one after the other: nobody is displaced, so that what was moved after the first
    may be in the way after the second; where that makes a difference, both are bounds. ``UsageError`` when one is no
    cluster. ``gpus_needed``: of the replicas lost; ``gpus_free``: of survivors.
    """
    found = Losses(spec, placements).one(*victims, every_model=True)
    if len(victims) < 2:
        return found
    out = _out_one_by_one(spec, placements, victims)
    return replace(found, models=tuple(_either_way(row, out[row.model]) for row in found.models))


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
        standing: list[Placed] = []  # not by slot: while one moves home, two replicas fill it
        self._lost: dict[str, list[Slot]] = {cluster.name: [] for cluster in spec.clusters}
        rooms = {(room.cluster, room.node): room for room in rooms_of(spec)}
        for p in sorted(placements, key=lambda p: (order[p.model], _index(p))):
            slot = slot_of(models[p.model], _index(p))
            self._lost.setdefault(p.cluster, []).append(slot)
            standing.append((slot, rooms.get((p.cluster, p.node))))
        self._models = models
        self._rooms = left_after(standing, rooms.values())
        self._held = {(p.model, p.node) for p in placements}
        self._running = Counter(p.model for p in placements)
        self._store = {c.name: spec.stores_for(c.name)[0].name for c in spec.clusters}

    def one(self, *victims: str, every_model: bool = False, most: int | None = None) -> Forecast:
        """The loss of ``victims``, one as a rule, at once; rows of the models that it hits, or of every model.
        ``most``: see ``admit_bounds``."""
        wanted = in_order(slot for victim in victims for slot in self._lost[self._spec.cluster(victim).name])
        rooms = [room for room in self._rooms if room.cluster not in victims]
        free = [room.free for room in rooms]
        admitted = admit_bounds([slot.gpus for slot in wanted], free, most)
        found = [None if place is None else rooms[place] for place in admitted.places]
        places = list(zip(wanted, found, strict=True))
        lost = Counter(slot.model for slot in wanted)
        flows = self._flows(places, lost)
        seconds, size = fair_finish_s(self._spec, flows), Counter[str]()
        for flow in flows:
            size[flow.model] += flow.bytes
        nodes: dict[str, list[str]] = {}
        for slot, room in places:
            if room is not None:
                nodes.setdefault(slot.model, []).append(room.node)
        limits = _most(wanted, admitted, free)
        left = rooms_text(left_after(places, rooms)) if None in found else ""

        def row(model: ModelSpec) -> ModelForecast:
            gone, there, limit = lost[model.name], nodes.get(model.name, []), limits[model.name]
            return ModelForecast(
                model=model.name,
                replicas_lost=gone,
                replicas_placeable=len(there),
                fits=len(there) == gone,
                reason=_reason(model.gpus, gone, len(there), limit, left or "no node"),
                reload_bytes=size[model.name],
                reload_s=seconds.get(model.name) if there else None,
                replicas_placeable_at_most=limit if limit > len(there) else None,
                nodes=tuple(there),
            )

        return Forecast(
            victim=" and ".join(filter(None, (", ".join(victims[:-1]), victims[-1]))),
            clusters=victims if len(victims) > 1 else (),
            gpus_needed=sum(slot.gpus for slot in wanted),
            gpus_free=sum(free),
            models=tuple(row(model) for model in self._spec.models if every_model or lost[model.name]),
        )

    def all(self) -> Iterator[Forecast]:
        """Each single loss, in the order of the fleet; rows of the models that it hits. All of them share the searches
        of ``SEARCHED``, so that a large fleet of odd sizes gets bounds instead of a long wait."""
        most = min(LIMIT, SEARCHED // len(self._spec.clusters))
        return (self.one(cluster.name, most=most) for cluster in self._spec.clusters)

    def pairs(self) -> Iterator[PairForecast]:
        """Each loss of two at once, by bounds over sums (exact while sizes divide each other)."""
        sizes = {model.gpus for model in self._spec.models}
        names = [cluster.name for cluster in self._spec.clusters]
        needs = {name: Counter(slot.gpus for slot in self._lost[name]) for name in names}
        rooms: dict[str, Counter[int]] = {name: Counter() for name in names}
        for room in self._rooms:
            rooms[room.cluster][room.free] += 1
        slots = {name: Slots.of(rooms[name].elements(), sizes) for name in names}
        all_rooms = Counter(room.free for room in self._rooms)
        every = Slots.of(all_rooms.elements(), sizes)
        free = {name: sum(rooms[name].elements()) for name in names}
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

    def _flows(self, places: Sequence[Placed], lost: Mapping[str, int]) -> list[Flow]:
        """What the stores must send: a node fetches a model once (without single flight: once a replica), not at all
        when it has it; with peer fetch the fleet's survivors fetch each model once, not at all when one of them has it
        (links between nodes: no limit)."""
        anywhere = {slot.model for slot, _ in places if self._running[slot.model] > lost[slot.model]}
        here: set[tuple[str, str]] = set()
        flows = []
        for slot, room in places:
            if room is None:
                continue
            at = (slot.model, room.node)
            peers = self._spec.switches.peer_fetch and slot.model in anywhere
            waits = at in here and self._spec.switches.single_flight
            size = 0 if peers or at in self._held or waits else self._models[slot.model].replica_bytes
            here.add(at)
            anywhere.add(slot.model)
            flows.append(Flow(slot.model, room.cluster, self._store[room.cluster], size))
        return flows


def _out_one_by_one(spec: FleetSpec, placements: Sequence[Placement], victims: Sequence[str]) -> Counter[str]:
    """By model: replicas without a place once the victims went in this order, each loss replaced before the next."""
    standing, waiting = list(placements), list[Slot]()
    for number, victim in enumerate(victims, 1):
        losses = Losses(spec, standing)
        rooms = [room for room in losses._rooms if room.cluster not in victims[:number]]
        places = reallocate(in_order([*waiting, *losses._lost[victim]]), rooms)
        waiting = [slot for slot, room in places.items() if room is None]
        standing = [p for p in standing if p.cluster != victim]
        standing += [Placement(slot.model, at.cluster, at.node, slot.name) for slot, at in places.items() if at]
    return Counter(slot.model for slot in waiting)


def _either_way(row: ModelForecast, out: int) -> ModelForecast:
    """A row of all at once, with what holds when ``out`` replicas find no place one after the other."""
    one_by_one = row.replicas_lost - out
    low, high = min(row.replicas_placeable, one_by_one), max(row.at_most, one_by_one)
    if (low, high) == (row.replicas_placeable, row.at_most):
        return row
    reason = (
        f"of {_replicas(row.replicas_lost)} {low} to {high} find a node: nobody is displaced, so it depends on when "
    )
    return replace(
        row,
        replicas_placeable=low,
        replicas_placeable_at_most=high,
        fits=low == row.replicas_lost,
        reason=reason + "each cluster goes",
        nodes=row.nodes[:low],
    )


def _most(wanted: Sequence[Slot], admitted: Admitted, free: Sequence[int]) -> Counter[str]:
    """By model: no more of its lost replicas than this can find a place. What was found, where all is decided exactly;
    elsewhere only what is decided for sure holds room against a model."""
    placed = [place is not None for place in admitted.places]
    most = Counter(slot.model for slot, there in zip(wanted, placed, strict=True) if there)
    if admitted.sure == len(wanted):
        return most
    slots = Slots.of(free, {slot.gpus for slot in wanted})
    sure = list(zip(wanted[: admitted.sure], placed, strict=False))
    held = Counter(slot.gpus for slot, there in sure if there)
    decided = Counter((slot.model, there) for slot, there in sure)
    lost, gpus = Counter(slot.model for slot in wanted), {slot.model: slot.gpus for slot in wanted}
    for model in [model for model in lost if most[model] < lost[model]]:
        others = held - Counter({gpus[model]: decided[model, True]})
        limit = min(lost[model] - decided[model, False], at_most(gpus[model], lost[model], others, slots))
        most[model] = max(most[model], limit)
    return most


def _reason(gpus: int, lost: int, placed: int, limit: int, left: str) -> str:
    if not lost:
        return "no replica in the victim"
    if placed == lost:
        return f"{_replicas(lost)} of {gpus} GPU(s) fit on the survivors"
    if limit > placed:
        return (
            f"of {_replicas(lost)} of {gpus} GPU(s) at least {placed} and at most {limit} find a node: these "
            f"sizes do not divide each other, so both are bounds; left by the packing that was found: {left}"
        )
    return (
        f"{_replicas(lost - placed)} of {lost} lost {'finds' if lost - placed == 1 else 'find'} no node: each needs "
        f"{gpus} GPU(s) on one node; "
        f"left after all that fits: {left}"
    )


def _index(placement: Placement) -> int:
    """The replica's index by its name (MODEL-1 is 0); 0 for a name of another kind."""
    number = placement.replica.removeprefix(f"{placement.model}-")
    return max(int(number) - 1, 0) if number.isdigit() else 0


def _replicas(count: int) -> str:
    return f"{count} replica" + ("s" if count != 1 else "")
