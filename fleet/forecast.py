"""The forecast: what must happen if a cluster goes: who fits on the survivors, who does not, and in how many seconds.

Pure arithmetic over a ``FleetSpec`` and placements; called by ``plan``, the runner and the fleet's checks. It never
runs anything, and never claims a fit that does not exist. *Who* follows the reference allocator's promise (important
models first, nobody displaced, exact packing on nodes). *How long* is bytes over bandwidth (FACTS 9), every reload from
the same instant, bandwidth shared fairly; no detection, decision or start-up is in it. For the model that arrives last
it is a bound from below; an earlier one can beat its fair share when the store happens to serve it first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleet.packing import admit
from fleet.spec import FleetSpec, ModelSpec
from history.errors import UsageError
from history.records import Forecast, ModelForecast, Placement


@dataclass(frozen=True)
class _Node:
    cluster: str
    name: str
    free: int


@dataclass(frozen=True)
class Flow:
    """``bytes`` of ``model`` on their way to one node of ``cluster`` from ``store``."""

    model: str
    cluster: str
    store: str
    bytes: int


def in_order(replicas: Sequence[tuple[ModelSpec, int]]) -> list[tuple[ModelSpec, int]]:
    """(model, index of its replica) in the order in which they are placed: higher priority first, then as given."""
    return sorted(replicas, key=lambda item: -item[0].priority_of(item[1]))


def _index(placement: Placement) -> int:
    """The replica's index by its name (MODEL-1 is 0); 0 for a name of another kind."""
    number = placement.replica.removeprefix(f"{placement.model}-")
    return max(int(number) - 1, 0) if number.isdigit() else 0


def placements_planned(spec: FleetSpec) -> tuple[Placement, ...]:
    """Where the replicas go when all clusters are up, without running anything: replicas named MODEL-1, MODEL-2, …"""
    return tuple(placement for placement, _ in _plan(spec) if placement)


def unplaced(spec: FleetSpec) -> tuple[str, ...]:
    """A line with the numbers for each replica that finds no place even with all clusters up."""
    return tuple(reason for placement, reason in _plan(spec) if placement is None)


def forecast(spec: FleetSpec, placements: Sequence[Placement], victim: str) -> Forecast:
    """What happens to each model if ``victim`` goes while replicas stand at ``placements``.

    ``UsageError`` when ``victim`` is no cluster. ``gpus_needed``: of the replicas lost; ``gpus_free``: of survivors.
    """
    spec.cluster(victim)
    lost = Counter(p.model for p in placements if p.cluster == victim)
    if unknown := sorted(lost.keys() - {m.name for m in spec.models}):
        raise UsageError(f"placements name {', '.join(unknown)}, no model of fleet {spec.name!r}")
    nodes = _nodes(spec, [p for p in placements if p.cluster != victim], without=victim)
    indexes = {
        m.name: sorted(_index(p) for p in placements if p.cluster == victim and p.model == m.name) for m in spec.models
    }
    wanted = [m for m, _ in in_order([(m, i) for m in spec.models for i in indexes[m.name]])]
    places = admit([m.gpus for m in wanted], [n.free for n in nodes])
    moved = [(m, nodes[place]) for m, place in zip(wanted, places, strict=True) if place is not None]
    flows = _flows(spec, moved, [p for p in placements if p.cluster != victim])
    seconds = fair_finish_s(spec, flows)
    placed = Counter(m.name for m, _ in moved)
    left = [n.free for n in nodes]
    for model, place in zip(wanted, places, strict=True):
        if place is not None:
            left[place] -= model.gpus
    after = tuple(_Node(n.cluster, n.name, room) for n, room in zip(nodes, left, strict=True))
    rows = tuple(_row(m, lost[m.name], placed[m.name], flows, seconds, after) for m in spec.models)
    return Forecast(
        victim=victim, gpus_needed=sum(m.gpus for m in wanted), gpus_free=sum(n.free for n in nodes), models=rows
    )


def fair_finish_s(spec: FleetSpec, flows: Sequence[Flow]) -> dict[str, float]:
    """Seconds until the last byte of each model arrived, all flows from 0, each store's egress and each link shared
    fairly (max-min); exact for that fluid model. One flow: bytes over the narrowest; N equal ones: N·S/B."""
    egress = {s.name: s.egress_bytes_s for s in spec.stores}
    own = {s.name: s.cluster for s in spec.stores}
    left = [float(flow.bytes) for flow in flows]
    done: dict[str, float] = {flow.model: 0.0 for flow in flows}
    now = 0.0
    active = [i for i, flow in enumerate(flows) if flow.bytes > 0]
    while active:
        limits: dict[tuple[str, str], tuple[float, list[int]]] = {}
        for i in active:
            flow = flows[i]
            limits.setdefault((flow.store, ""), (egress[flow.store], []))[1].append(i)
            link = spec.link_bytes_s(flow.store)
            if link and own[flow.store] != flow.cluster:
                limits.setdefault((flow.store, flow.cluster), (link, []))[1].append(i)
        rates = _max_min(active, limits)
        step = min(left[i] / rates[i] for i in active)
        now += step
        for i in active:
            left[i] -= rates[i] * step
        for i in [i for i in active if left[i] <= 1e-6 * flows[i].bytes]:
            done[flows[i].model] = now
            active.remove(i)
    return done


def _max_min(active: Sequence[int], limits: dict[tuple[str, str], tuple[float, list[int]]]) -> dict[int, float]:
    """Progressive filling: the narrowest limit fixes the rates of its flows, then the next narrowest, …"""
    rates: dict[int, float] = {}
    while len(rates) < len(active):
        shares = []
        for capacity, members in limits.values():
            waiting = [i for i in members if i not in rates]
            if waiting:
                used = sum(rates[i] for i in members if i in rates)
                shares.append((max(capacity - used, 0.0) / len(waiting), waiting))
        share, waiting = min(shares, key=lambda pair: pair[0])
        rates.update(dict.fromkeys(waiting, share))
    return rates


def _flows(spec: FleetSpec, moved: Sequence[tuple[ModelSpec, _Node]], survivors: Sequence[Placement]) -> list[Flow]:
    """What the stores must send: a node fetches a model once, not at all when it has it; with peer fetch the
    fleet's survivors fetch each model once, not at all when one of them has it (links between nodes: no limit)."""
    held = {(p.model, p.node) for p in survivors}
    anywhere = {p.model for p in survivors}
    flows = []
    for model, node in moved:
        peers = spec.switches.peer_fetch and model.name in anywhere
        size = 0 if peers or (model.name, node.name) in held else model.total_bytes
        held.add((model.name, node.name))
        anywhere.add(model.name)
        flows.append(Flow(model.name, node.cluster, spec.stores_for(node.cluster)[0].name, size))
    return flows


def _row(
    model: ModelSpec, lost: int, placed: int, flows: Sequence[Flow], seconds: dict[str, float], after: Sequence[_Node]
) -> ModelForecast:
    fits = placed == lost
    if not lost:
        reason = "no replica in the victim"
    elif fits:
        reason = f"{_replicas(lost)} of {model.gpus} GPU(s) fit on the survivors"
    else:
        reason = (
            f"{_replicas(lost - placed)} of {lost} lost find no node: each needs {model.gpus} GPU(s) on one node; "
            f"left after all that fits: {_free(after)}"
        )
    return ModelForecast(
        model=model.name,
        replicas_lost=lost,
        replicas_placeable=placed,
        fits=fits,
        reason=reason,
        reload_bytes=sum(flow.bytes for flow in flows if flow.model == model.name),
        reload_s=seconds.get(model.name) if placed else None,
    )


def _plan(spec: FleetSpec) -> Iterator[tuple[Placement | None, str]]:
    """Each replica's planned place, or None and why not. Replicas with homes pack exactly inside each home; those
    without go, after them, to the cluster that has fewest of the model, then most free GPUs."""
    wanted = in_order([(m, i) for m in spec.models for i in range(m.replicas)])
    nodes = _nodes(spec, [])
    places: dict[tuple[str, int], _Node] = {}
    for cluster in spec.clusters:
        here = [(m, i) for m, i in wanted if m.homes and m.homes[i % len(m.homes)] == cluster.name]
        room = [n for n in nodes if n.cluster == cluster.name]
        for (m, i), place in zip(here, admit([m.gpus for m, _ in here], [n.free for n in room]), strict=True):
            if place is not None:
                places[m.name, i] = room[place]
    for m, i in wanted:
        if not m.homes:
            _spread(spec, m, i, places)
    for m, i in wanted:
        name = f"{m.name}-{i + 1}"
        if (m.name, i) in places:
            node = places[m.name, i]
            yield Placement(m.name, node.cluster, node.name, name), ""
        else:
            where = f"its home {m.homes[i % len(m.homes)]}" if m.homes else "any cluster"
            free = _free(_left(spec, places, m.homes[i % len(m.homes)] if m.homes else ""))
            yield None, f"{name} needs {m.gpus} GPU(s) on one node of {where}; left after all that fits: {free}"


def _spread(spec: FleetSpec, model: ModelSpec, index: int, places: dict[tuple[str, int], _Node]) -> None:
    rooms = _left(spec, places, "")
    fitting = [n for n in rooms if n.free >= model.gpus]
    if not fitting:
        return
    mine = Counter(node.cluster for (name, _), node in places.items() if name == model.name)
    free = Counter[str]()
    for node in rooms:
        free[node.cluster] += node.free
    places[model.name, index] = min(fitting, key=lambda n: (mine[n.cluster], -free[n.cluster], n.cluster, n.free))


def _left(spec: FleetSpec, places: dict[tuple[str, int], _Node], cluster: str) -> tuple[_Node, ...]:
    """Nodes (of ``cluster``, or all) with what ``places`` leave free."""
    gpus = {m.name: m.gpus for m in spec.models}
    used = Counter[str]()
    for (model, _), node in places.items():
        used[node.name] += gpus[model]
    return tuple(
        _Node(n.cluster, n.name, n.free - used[n.name]) for n in _nodes(spec, []) if not cluster or n.cluster == cluster
    )


def _nodes(spec: FleetSpec, placements: Sequence[Placement], without: str = "") -> tuple[_Node, ...]:
    gpus = {m.name: m.gpus for m in spec.models}
    used = Counter[str]()
    for placement in placements:
        used[placement.node] += gpus[placement.model]
    return tuple(
        _Node(cluster.name, node.name, node.gpus - used[node.name])
        for cluster in spec.clusters
        if cluster.name != without
        for node in cluster.nodes
    )


def _free(nodes: Sequence[_Node]) -> str:
    return ", ".join(f"{n.name} {n.free}" for n in nodes) or "no node"


def _replicas(count: int) -> str:
    return f"{count} replica" + ("s" if count != 1 else "")
