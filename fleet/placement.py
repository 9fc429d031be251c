"""Which replica goes to which node: the reference allocator's decisions, and what the forecast and the fleet's checks
say of them beforehand. Pure.

A *slot* is one replica that ought to exist, wherever it runs at the moment. Higher priority is placed first, then as
declared; nobody who runs is displaced; a node never gets more than it has. ``fleet.packing`` does the arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.packing import Rooms, admit
from fleet.spec import FleetSpec, ModelSpec
from history.records import Placement

_SHOWN = 8
"""So many nodes with room are listed in a reason; the rest are counted."""


@dataclass(frozen=True)
class Room:
    """A node and the GPUs that are free on it."""

    cluster: str
    node: str
    free: int


@dataclass(frozen=True)
class Slot:
    """Replica ``index`` (from 0) of a model. ``home``: the cluster it belongs to, "" = any."""

    model: str
    index: int
    gpus: int
    home: str = ""
    priority: int = 0

    @property
    def name(self) -> str:
        """The name of its replica at home."""
        return f"{self.model}-{self.index + 1}"

    def surrogate(self, generation: int) -> str:
        """The name of its replica elsewhere; a new generation each time."""
        return f"{self.name}-s{generation}"


Places = dict[Slot, Room | None]
"""Where each slot goes; None: nowhere."""

Placed = tuple[Slot, Room | None]


def slot_of(model: ModelSpec, index: int) -> Slot:
    """Replica ``index`` of ``model``."""
    home = model.homes[index % len(model.homes)] if model.homes else ""
    return Slot(model.name, index, model.gpus, home, model.priority_of(index))


def in_order(slots: Iterable[Slot]) -> list[Slot]:
    """In the order in which they are placed."""
    return sorted(slots, key=lambda slot: -slot.priority)


def slots_of(models: Sequence[ModelSpec]) -> list[Slot]:
    """All slots, in the order in which they are placed."""
    return in_order(slot_of(model, index) for model in models for index in range(model.replicas))


def rooms_of(spec: FleetSpec) -> list[Room]:
    """All nodes, empty."""
    return [Room(cluster.name, node.name, node.gpus) for cluster in spec.clusters for node in cluster.nodes]


def spread(
    slots: Sequence[Slot], rooms: Sequence[Room], running: Mapping[Slot, str] | None = None, *, at_home: bool = False
) -> Places:
    """The first placement. Slots with a home pack exactly inside it; the others, and those whose home is full (not with
    ``at_home``), go to the cluster with the fewest of their model, then the most free GPUs. ``running``: clusters of
    slots placed before.
    """
    places: Places = dict.fromkeys(slots)
    nodes: dict[str, list[Room]] = {}
    for room in rooms:
        nodes.setdefault(room.cluster, []).append(room)
    homes: dict[str, list[Slot]] = {}
    for slot in slots:
        homes.setdefault(slot.home, []).append(slot)
    left: dict[str, Rooms] = {}
    for cluster, inside in nodes.items():
        places |= reallocate(homes.get(cluster, ()), inside)
        here = {slot: places[slot] for slot in homes.get(cluster, ())}
        left[cluster] = Rooms([room.free for room in left_after(here.items(), inside)])
    have = Counter((slot.model, cluster) for slot, cluster in (running or {}).items())
    have.update((slot.model, place.cluster) for slot, place in places.items() if place)
    for slot in slots:
        if places[slot] is None and not (at_home and slot.home):
            fitting = [cluster for cluster, free in left.items() if free.largest >= slot.gpus]
            if fitting:
                best = min(fitting, key=lambda cluster: (have[slot.model, cluster], -left[cluster].total, cluster))
                node = left[best].take(slot.gpus)
                assert node is not None, "its largest node has room"
                places[slot] = nodes[best][node]
                have[slot.model, best] += 1
    return places


def reallocate(slots: Sequence[Slot], rooms: Sequence[Room]) -> Places:
    """New places for lost slots, in the order given: each is taken if all taken so far still pack with it."""
    found = admit([slot.gpus for slot in slots], [room.free for room in rooms])
    return {slot: None if i is None else rooms[i] for slot, i in zip(slots, found, strict=True)}


def left_after(taken: Iterable[Placed], rooms: Iterable[Room]) -> list[Room]:
    """The rooms as they are once those are ``taken``."""
    used = Counter[tuple[str, str]]()
    for slot, room in taken:
        if room is not None:
            used[room.cluster, room.node] += slot.gpus
    return [
        replace(room, free=room.free - gpus) if (gpus := used.get((room.cluster, room.node))) else room
        for room in rooms
    ]


def why_not(slot: Slot, left: Sequence[Room], where: str = "") -> str:
    """Why a slot found no place (``where``: of what), with the numbers; ``left``: rooms after all that did."""
    need = f"{slot.name} needs {slot.gpus} GPU(s) on one node{where}"
    return f"{need}; left after all that fits: {rooms_text(left) or 'no cluster answers'}"


def rooms_text(rooms: Sequence[Room]) -> str:
    """Nodes and their free GPUs in words; of many nodes those with the most room."""
    most = sorted(rooms, key=lambda room: -room.free)[:_SHOWN] if len(rooms) > _SHOWN else rooms
    said = ", ".join(f"{room.node} {room.free}" for room in most)
    if len(rooms) <= _SHOWN:
        return said
    return f"{said}, and {len(rooms) - _SHOWN} nodes with at most {most[-1].free}"


def unplaceable_without(cluster: str, at: Mapping[Slot, str], rooms: Sequence[Room]) -> tuple[str, ...]:
    """N-1: reasons of the slots that would find no place if ``cluster`` went now. ``at``: cluster of each slot."""
    survivors = [room for room in rooms if room.cluster != cluster]
    places = reallocate([slot for slot, where in at.items() if where == cluster], survivors)
    left = left_after(places.items(), survivors)
    return tuple(why_not(slot, left) for slot, room in places.items() if room is None)


def placements_planned(spec: FleetSpec) -> tuple[Placement, ...]:
    """The first placement with all clusters up, of each replica that finds one; replicas are MODEL-1, MODEL-2, …"""
    places = spread(slots_of(spec.models), rooms_of(spec), at_home=True)
    return tuple(Placement(slot.model, room.cluster, room.node, slot.name) for slot, room in places.items() if room)


def unplaced(spec: FleetSpec) -> tuple[str, ...]:
    """A line with the numbers for each replica that finds no place even with all clusters up."""
    places = spread(slots_of(spec.models), rooms_of(spec), at_home=True)
    left = left_after(places.items(), rooms_of(spec))
    return tuple(
        why_not(slot, [room for room in left if room.cluster == slot.home], f" of its home {slot.home}")
        if slot.home
        else why_not(slot, left, " of any cluster")
        for slot, room in places.items()
        if room is None
    )
