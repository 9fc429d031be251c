"""Where replicas go when all clusters are up, without running anything: the reference allocator's first placement.

Pure; used by the forecast and by the fleet's checks. Important models first; replicas with homes pack exactly inside
each home; those without go, after them, to the cluster that has fewest of the model, then most free GPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from fleet.packing import Rooms, admit
from fleet.spec import ClusterSpec, FleetSpec, ModelSpec
from history.records import Placement

_SHOWN = 8
"""So many nodes with room are listed in a reason; the rest are counted."""

Replica = tuple[ModelSpec, int]
"""A model and the index of its replica, from 0."""


def in_order(replicas: Sequence[Replica]) -> list[Replica]:
    """In the order in which they are placed: higher priority first, then as given."""
    return sorted(replicas, key=lambda item: -item[0].priority_of(item[1]))


def placements_planned(spec: FleetSpec) -> tuple[Placement, ...]:
    """The planned place of each replica that finds one; replicas are named MODEL-1, MODEL-2, …"""
    return tuple(
        Placement(model.name, place[0], place[1], f"{model.name}-{index + 1}")
        for (model, index), place in _plan(spec)
        if place is not None
    )


def unplaced(spec: FleetSpec) -> tuple[str, ...]:
    """A line with the numbers for each replica that finds no place even with all clusters up."""
    plan = list(_plan(spec))
    gpus_on = Counter[str]()
    for (model, _), place in plan:
        if place is not None:
            gpus_on[place[1]] += model.gpus
    left = {c.name: [(node.name, node.gpus - gpus_on[node.name]) for node in c.nodes] for c in spec.clusters}
    whole = rooms_text([node for nodes in left.values() for node in nodes])
    lines = []
    for (model, index), place in plan:
        if place is None:
            home = _home(model, index)
            where, rooms = (f"its home {home}", rooms_text(left[home])) if home else ("any cluster", whole)
            lines.append(
                f"{model.name}-{index + 1} needs {model.gpus} GPU(s) on one node of {where}; left after all that "
                f"fits: {rooms}"
            )
    return tuple(lines)


def rooms_text(nodes: Sequence[tuple[str, int]]) -> str:
    """(node, free GPUs) in words; of many nodes those with the most room."""
    if len(nodes) <= _SHOWN:
        return ", ".join(f"{name} {free}" for name, free in nodes) or "no node"
    most = sorted(nodes, key=lambda node: -node[1])[:_SHOWN]
    said = ", ".join(f"{name} {free}" for name, free in most)
    return f"{said}, and {len(nodes) - _SHOWN} nodes with at most {most[-1][1]}"


def _home(model: ModelSpec, index: int) -> str:
    return model.homes[index % len(model.homes)] if model.homes else ""


def _plan(spec: FleetSpec) -> Iterator[tuple[Replica, tuple[str, str] | None]]:
    """Each replica with its (cluster, node), or None."""
    wanted = in_order([(m, i) for m in spec.models for i in range(m.replicas)])
    at_home: dict[str, list[Replica]] = {cluster.name: [] for cluster in spec.clusters}
    for replica in wanted:
        if (home := _home(*replica)) in at_home:
            at_home[home].append(replica)
    places: dict[tuple[str, int], tuple[str, str]] = {}
    rooms = {}
    for cluster in spec.clusters:
        rooms[cluster.name] = _settle(cluster, at_home[cluster.name], places)
    names = {cluster.name: [node.name for node in cluster.nodes] for cluster in spec.clusters}
    mine: dict[str, Counter[str]] = {}
    for model, index in wanted:
        if not model.homes:
            have = mine.setdefault(model.name, Counter())
            fitting = [name for name, room in rooms.items() if room.largest >= model.gpus]
            if fitting:
                best = min(fitting, key=lambda name: (have[name], -rooms[name].total, name))
                node = rooms[best].take(model.gpus)
                assert node is not None, "its largest node has room"
                places[model.name, index] = (best, names[best][node])
                have[best] += 1
        yield (model, index), places.get((model.name, index))


def _settle(cluster: ClusterSpec, replicas: Sequence[Replica], places: dict[tuple[str, int], tuple[str, str]]) -> Rooms:
    """Packs into ``cluster`` the replicas whose home it is; returns what is left of it."""
    free = [node.gpus for node in cluster.nodes]
    found = admit([model.gpus for model, _ in replicas], free)
    for (model, index), node in zip(replicas, found, strict=True):
        if node is not None:
            places[model.name, index] = (cluster.name, cluster.nodes[node].name)
            free[node] -= model.gpus
    return Rooms(free)
