"""How long lost weights take to come back: bytes over bandwidth, shared fairly. Pure; used by ``fleet.forecast``.

Every reload starts at the same instant; no detection, decision or start-up is in it. For the model that arrives last
it is a bound from below; an earlier one can beat its fair share when the store happens to serve it first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fleet.spec import FleetSpec


@dataclass(frozen=True)
class Flow:
    """``bytes`` of ``model`` on their way to one node of ``cluster`` from ``store``."""

    model: str
    cluster: str
    store: str
    bytes: int


def fair_finish_s(spec: FleetSpec, flows: Sequence[Flow]) -> dict[str, float]:
    """Seconds until the last byte of each model arrived, all flows from 0, each store's egress and each link shared
    fairly (max-min); exact for that fluid model. One flow: bytes over the narrowest; N equal ones: N·S/B."""
    done = {flow.model: 0.0 for flow in flows}
    links = {link.store: link.bytes_s for link in spec.links}
    for store in spec.stores:
        lanes: dict[str, list[Flow]] = {}
        for flow in flows:
            if flow.store == store.name and flow.bytes > 0:
                own_link = store.name in links and flow.cluster != store.cluster
                lanes.setdefault(flow.cluster if own_link else "", []).append(flow)
        for model, second in _finishes(store.egress_bytes_s, links.get(store.name, math.inf), lanes):
            done[model] = max(done[model], second)
    return done


@dataclass
class _Lane:
    """Flows that share one link; each has received ``got`` bytes by now."""

    limit: float
    waiting: list[Flow]
    got: float = 0.0

    @property
    def share(self) -> float:
        return self.limit / len(self.waiting)


def _finishes(egress: float, link: float, lanes: dict[str, list[Flow]]) -> Iterator[tuple[str, float]]:
    """(model, second) of each flow's end, from one store. Lane "": no link but the egress."""
    active = [_Lane(link if name else math.inf, sorted(flows, key=lambda f: -f.bytes)) for name, flows in lanes.items()]
    now = 0.0
    while active:
        level = _level(egress, active)
        rates = [min(level, lane.share) for lane in active]
        step = min((lane.waiting[-1].bytes - lane.got) / rate for lane, rate in zip(active, rates, strict=True))
        now += step
        for lane, rate in zip(active, rates, strict=True):
            lane.got += rate * step
            while lane.waiting and lane.waiting[-1].bytes - lane.got <= 1e-6 * lane.waiting[-1].bytes:
                yield lane.waiting.pop().model, now
        active = [lane for lane in active if lane.waiting]


def _level(egress: float, lanes: Sequence[_Lane]) -> float:
    """Max-min: the rate of every flow that its own link does not hold below it."""
    left, flows = egress, sum(len(lane.waiting) for lane in lanes)
    for lane in sorted(lanes, key=lambda lane: lane.share):
        if lane.share * flows > left:
            return left / flows
        left -= lane.limit
        flows -= len(lane.waiting)
    return math.inf
