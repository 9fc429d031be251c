"""Placement: which replica goes to which node. Pure decisions of the allocator over the free GPUs that clusters report.

A *slot* is one replica that ought to exist, wherever it runs at the moment. Higher priority is placed first, then as
declared; nobody who runs is displaced; a node never gets more than it has. After a loss the choice is exactly the one
that the forecast predicts (``fleet.packing.admit`` over the survivors' nodes in their order).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.packing import admit
from fleet.spec import ModelSpec


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

    @property
    def name(self) -> str:
        """The name of its replica at home."""
        return f"{self.model}-{self.index + 1}"

    def surrogate(self, generation: int) -> str:
        """The name of its replica elsewhere; a new generation each time."""
        return f"{self.name}-s{generation}"


Places = dict[Slot, Room | None]
"""Where each slot goes; None: nowhere."""


def slots_of(models: Sequence[ModelSpec]) -> tuple[Slot, ...]:
    """All slots, in the order in which they are placed."""
    return tuple(
        Slot(model.name, index, model.gpus, model.homes[index % len(model.homes)] if model.homes else "")
        for model, index in sorted(
            ((model, index) for model in models for index in range(model.replicas)),
            key=lambda item: -item[0].priority_of(item[1]),
        )
    )


def spread(slots: Sequence[Slot], rooms: Sequence[Room], running: Mapping[Slot, str] | None = None) -> Places:
    """The first placement. Slots with a home pack exactly inside it; the others, and those whose home is full, go to
    the cluster with the fewest of their model, then the most free GPUs. ``running``: clusters of slots placed before.
    """
    places: Places = dict.fromkeys(slots)
    left = list(rooms)
    for cluster in dict.fromkeys(room.cluster for room in rooms):
        here = [slot for slot in slots if slot.home == cluster]
        indexes = [i for i, room in enumerate(left) if room.cluster == cluster]
        found = admit([slot.gpus for slot in here], [left[i].free for i in indexes])
        for slot, place in zip(here, found, strict=True):
            if place is not None:
                _take(places, left, slot, indexes[place])
    of_model = Counter((slot.model, cluster) for slot, cluster in (running or {}).items())
    of_model.update((slot.model, room.cluster) for slot, room in places.items() if room)
    for slot in [slot for slot in slots if places[slot] is None]:
        fitting = [i for i, room in enumerate(left) if room.free >= slot.gpus]
        if fitting:
            free = Counter[str]()
            for room in left:
                free[room.cluster] += room.free
            best = min(fitting, key=lambda i: _preference(slot, left[i], of_model, free))
            _take(places, left, slot, best)
            of_model[slot.model, left[best].cluster] += 1
    return places


def reallocate(slots: Sequence[Slot], rooms: Sequence[Room]) -> Places:
    """New places for lost slots, in the order given: each is taken if all taken so far still pack with it."""
    found = admit([slot.gpus for slot in slots], [room.free for room in rooms])
    return {slot: None if i is None else rooms[i] for slot, i in zip(slots, found, strict=True)}


def left_after(places: Places, rooms: Sequence[Room]) -> tuple[Room, ...]:
    """The rooms as they are once ``places`` are taken."""
    used = Counter[tuple[str, str]]()
    for slot, room in places.items():
        if room is not None:
            used[room.cluster, room.node] += slot.gpus
    return tuple(replace(room, free=room.free - used[room.cluster, room.node]) for room in rooms)


def why_not(slot: Slot, left: Sequence[Room]) -> str:
    """Why a slot found no place, with the numbers; ``left``: rooms after all that did."""
    free = ", ".join(f"{room.node} {room.free}" for room in left) or "no cluster answers"
    return f"{slot.name} needs {slot.gpus} GPU(s) on one node; left after all that fits: {free}"


def unplaceable_without(cluster: str, at: Mapping[Slot, str], rooms: Sequence[Room]) -> tuple[str, ...]:
    """N-1: reasons of the slots that would find no place if ``cluster`` went now. ``at``: cluster of each slot."""
    survivors = [room for room in rooms if room.cluster != cluster]
    places = reallocate([slot for slot, where in at.items() if where == cluster], survivors)
    left = left_after(places, survivors)
    return tuple(why_not(slot, left) for slot, room in places.items() if room is None)


def _preference(
    slot: Slot, room: Room, of_model: Counter[tuple[str, str]], free: Counter[str]
) -> tuple[int, int, str, int]:
    return of_model[slot.model, room.cluster], -free[room.cluster], room.cluster, room.free


def _take(places: Places, left: list[Room], slot: Slot, index: int) -> None:
    places[slot] = left[index]
    left[index] = replace(left[index], free=left[index].free - slot.gpus)
